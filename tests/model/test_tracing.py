"""A walk repeats the model's own forward pass, from any layer, for families that differ in every way it relies on."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from prune.data.domains import Batch, Document, batches
from prune.errors import PruneError
from prune.model.anatomy import find_anatomy
from prune.model.tracing import RecordedWalk, model_inputs

BASE = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 6, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 2}  # fmt: skip
GPT = {"n_layer": 6, "n_embd": 32, "n_head": 4, "n_positions": 64}
FAMILIES = {
    "llama": {},
    "qwen3": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "final_logit_softcapping": 2.0, "sliding_window": 5},
    "olmo2": {},
    "gpt_neox": {},
    "falcon": {},
    "cohere": {},
    "granite": {"residual_multiplier": 0.3, "logits_scaling": 4.0, "embedding_multiplier": 3.0},
    "gpt2": GPT,
    "gpt_neo": {"num_layers": 6, "attention_types": [[["global", "local"], 3]], "num_heads": 4},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "bloom": {"n_layer": 6, "n_head": 4},
    "mixtral": {"num_local_experts": 4},
}


def tiny(family: str) -> torch.nn.Module:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**BASE, **FAMILIES[family]})
    return AutoModelForCausalLM.from_config(config).eval()


def documents(*lengths: int) -> list[Document]:
    generator = torch.Generator().manual_seed(1)
    return [Document(tuple(torch.randint(3, 97, (n,), generator=generator).tolist())) for n in lengths]


def left_padded(batch: Batch) -> Batch:
    """The same documents with the padding in front."""
    sizes = batch.attention_mask.sum(1).tolist()
    width = batch.input_ids.shape[1]
    rolled = [torch.stack([row.roll(width - n) for row, n in zip(field, sizes, strict=True)])
              for field in (batch.input_ids, batch.attention_mask, batch.loss_mask)]  # fmt: skip
    return Batch(*rolled, batch.index)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", FAMILIES)
def test_running_all_layers_from_the_first_stream_gives_the_models_logits(family: str, side: str) -> None:
    model = tiny(family)
    batch = next(batches(documents(9, 14, 5), 3))
    batch = left_padded(batch) if side == "left" else batch
    walk = RecordedWalk(model, find_anatomy(model), batch)
    with torch.no_grad():
        expected = model(**model_inputs(model, batch)).logits
    real = batch.attention_mask.bool()
    hidden = walk.run(walk.resid_pre[0], range(6))
    torch.testing.assert_close(walk.logits(hidden)[real], expected[real], atol=1e-5, rtol=0)
    torch.testing.assert_close(hidden[real], walk.resid_pre[-1][real], atol=1e-5, rtol=0)
    log_p = expected.double().log_softmax(-1)[:, :-1].gather(-1, batch.input_ids[:, 1:, None])[..., 0]
    torch.testing.assert_close(walk.nll(hidden), -(log_p * batch.loss_mask[:, 1:]).sum(1), atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "bloom", "falcon"])
def test_copies_of_the_batch_run_as_the_batch_does(family: str) -> None:
    model = tiny(family)
    batch = next(batches(documents(9, 14, 5), 3))
    walk = RecordedWalk(model, find_anatomy(model), batch)
    streams = torch.cat([walk.resid_pre[0], walk.resid_pre[1]])  # [2B, T, d]
    both = walk.run(streams, [2, 4, 3])
    real = batch.attention_mask.bool()
    for copy in range(2):
        alone = walk.run(walk.resid_pre[copy], [2, 4, 3])
        torch.testing.assert_close(both[3 * copy : 3 * copy + 3][real], alone[real], atol=1e-5, rtol=1e-5)


def test_skipping_a_layer_equals_the_model_without_it() -> None:
    model = tiny("llama")
    batch = next(batches(documents(8, 8), 2))
    walk = RecordedWalk(model, find_anatomy(model), batch)
    logits = walk.logits(walk.run(walk.resid_pre[2], [3, 4, 5]))
    del model.model.layers[2]
    with torch.no_grad():
        torch.testing.assert_close(logits, model(input_ids=batch.input_ids, use_cache=False).logits)


def test_layer_calls_count_the_clean_run_and_every_copy() -> None:
    model = tiny("llama")
    walk = RecordedWalk(model, find_anatomy(model), next(batches(documents(8, 8), 2)))
    assert walk.layer_calls == 6
    walk.run(walk.resid_pre[4].repeat(3, 1, 1), [4, 5])
    assert walk.layer_calls == 12


def test_nothing_tracks_gradients_and_the_model_is_left_as_it_was() -> None:
    model = tiny("llama")
    layers = model.model.layers
    walk = RecordedWalk(model, find_anatomy(model), next(batches(documents(8, 8), 2)))
    hidden = walk.run(walk.resid_pre[0], [0, 1])
    assert not hidden.requires_grad
    assert not walk.logits(hidden).requires_grad
    assert model.model.layers is layers
    assert not any(layer._forward_pre_hooks or layer._forward_hooks for layer in layers)


def test_non_finite_values_are_an_error() -> None:
    model = tiny("llama")
    model.model.layers[3].mlp.down_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(PruneError, match="non-finite"):
        RecordedWalk(model, find_anatomy(model), next(batches(documents(8, 8), 2)))


def test_a_model_without_layers_is_an_error() -> None:
    model = tiny("llama")
    model.model.layers = torch.nn.ModuleList()
    with pytest.raises(PruneError, match="no stack of decoder layers"):
        find_anatomy(model)

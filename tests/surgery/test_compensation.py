"""Compensation against naive least squares in float64, and what is written against what was judged."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

import prune
from prune.data.domains import Document, Domain
from prune.errors import PruneError, UsageError
from prune.layer_runs import removed_runs
from prune.model.loading import load_model
from prune.planning.plan import Plan
from prune.surgery.compensation import PARTS, _Work, compensate
from prune.surgery.folding import applied
from prune.surgery.least_squares import Moments, solve, squared_error
from prune.surgery.loaded import drop_layers
from prune.surgery.replacements import compensated_plan
from tests.planning.small import build

SMALL = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 4}


def documents(model=None, count=24):
    """Documents that the model itself wrote, so that coming closer to it lowers their NLL; of several lengths."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, 96, (count, 1), generator=generator)
    with torch.no_grad():
        while model is not None and ids.shape[1] < 18:
            chances = model(ids).logits[:, -1].softmax(-1)
            ids = torch.cat([ids, torch.multinomial(chances, 1, generator=generator)], 1)
    rows = [ids[row, : 10 + row % 9].tolist() for row in range(count)]
    return {"text": Domain("text", tuple(Document(tuple(row)) for row in rows), "made", "t")}


def shortened(model, keep, tensors):
    """A really shortened model with the new weights."""
    cut = copy.deepcopy(model)
    for name, value in tensors.items():
        parameter = cut.get_parameter(name)
        parameter.data = value.to(parameter.dtype)
    depth = len(cut.get_submodule("model.layers" if hasattr(cut, "model") else "transformer.h"))
    return drop_layers(cut, [layer for layer in range(depth) if layer not in keep])


@torch.no_grad()
def naive_nll(model, docs):
    total, count = 0.0, 0
    for document in docs:
        logp = model(torch.tensor([document.input_ids])).logits[0].double().log_softmax(-1)
        for position in range(document.answer_start, len(document.input_ids)):
            total -= logp[position - 1, document.input_ids[position]].item()
            count += 1
    return total / count


@pytest.fixture
def unjudged(monkeypatch):
    """Every map that can be folded is kept: whether it helps a random model is another matter."""
    monkeypatch.setattr(_Work, "_objection", lambda *_: "")


@pytest.mark.parametrize("bias", [False, True])
def test_the_closed_form_equals_weighted_least_squares_on_the_tokens(bias):
    generator = torch.Generator().manual_seed(0)
    a, noise = (torch.randn(200, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    r = a @ torch.randn(6, 6, generator=generator, dtype=torch.float64) + 0.3 * noise + 2
    weight = torch.rand(200, generator=generator, dtype=torch.float64)
    fitted = solve(Moments.of(a, r, weight), 0.0, "linear", bias)
    design = torch.cat([a, torch.ones(200, 1)], 1).double() if bias else a
    root = weight.sqrt()[:, None]
    expected = torch.linalg.lstsq(design * root, r * root).solution  # [6 or 7, 6]
    assert torch.allclose(fitted.full, expected[:6].T, atol=1e-9)
    if bias:
        assert torch.allclose(fitted.shift, expected[6], atol=1e-9)
    mapped = a @ fitted.full.T + (fitted.shift if bias else 0)
    error = float((weight[:, None] * (r - mapped) ** 2).sum())
    assert squared_error(Moments.of(a, r, weight), fitted) == pytest.approx(error, rel=1e-9)


def test_the_ridge_pulls_towards_leaving_the_layer_as_it_is():
    generator = torch.Generator().manual_seed(1)
    a, r = (torch.randn(50, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    moments = Moments.of(a, r, torch.ones(50))
    strength = 0.3 * float((a.T @ a).trace()) / 4
    rows = torch.cat([a, strength**0.5 * torch.eye(4, dtype=torch.float64)])
    targets = torch.cat([r, strength**0.5 * torch.eye(4, dtype=torch.float64)])
    expected = torch.linalg.lstsq(rows, targets).solution.T
    assert torch.allclose(solve(moments, 0.3, "linear", False).full, expected, atol=1e-9)
    assert torch.allclose(solve(moments, 1e9, "linear", False).full, torch.eye(4).double(), atol=1e-6)
    scale = solve(moments, 0.0, "scale", False).matrix
    assert torch.allclose(scale, ((a * r).sum() / (a * a).sum()).expand(4))
    assert torch.allclose(solve(moments, 0.0, "diagonal", False).matrix, (a * r).sum(0) / (a * a).sum(0))


@torch.no_grad()
def test_the_folded_weight_is_that_of_a_naive_fit_on_a_really_shortened_model(unjudged):
    model, keep = build(), (0, 1, 2, 6, 7)
    data = documents(model)
    found = compensate(model, keep, data)
    (gap,) = found.gaps
    assert (gap.first, gap.last, gap.layer, gap.form) == (3, 5, 2, "linear")
    assert gap.kept, gap
    cut = shortened(model, keep, {})
    seen = {}
    cut.model.layers[2].mlp.register_forward_hook(lambda m, i, o: seen.update(mlp=o[0].double()))
    cut.model.layers[2].register_forward_hook(lambda m, i, o: seen.update(post=(o if torch.is_tensor(o) else o[0])))
    mlp, rest = [], []
    for index, document in enumerate(data["text"].documents):
        if index % PARTS == PARTS - 1:
            continue  # the judge's
        ids = torch.tensor([document.input_ids])
        target = model.model(ids, output_hidden_states=True).hidden_states[6][0].double()  # before layer 6
        cut(ids)
        size = target.norm(dim=-1, keepdim=True)
        mlp.append(seen["mlp"] / size)
        rest.append((target - (seen["post"].reshape(target.shape).double() - seen["mlp"])) / size)
    a, r = torch.cat(mlp), torch.cat(rest)
    # Each part's tokens share one unit of weight, so the ridge is relative to that.
    lengths = [[len(d.input_ids) for d in data["text"].documents[part::PARTS]] for part in range(PARTS - 1)]
    weight = torch.cat(
        [
            torch.full((len(document.input_ids), 1), 1 / sum(lengths[index % PARTS]), dtype=torch.float64)
            for index, document in enumerate(data["text"].documents)
            if index % PARTS != PARTS - 1
        ]
    )
    a, r = a * weight.sqrt(), r * weight.sqrt()
    strength = (gap.ridge * float((a.T @ a).trace()) / 32) ** 0.5
    eye = strength * torch.eye(32, dtype=torch.float64)
    expected = torch.linalg.lstsq(torch.cat([a, eye]), torch.cat([r, eye])).solution.T
    down = model.model.layers[2].mlp.down_proj.weight
    new = found.tensors["model.layers.2.mlp.down_proj.weight"]
    assert torch.allclose(new.double(), expected @ down.double(), atol=1e-5)
    assert gap.stream_error["before"] == pytest.approx(float((r - a).square().sum()) / 3, rel=1e-4)
    assert gap.stream_error["after"] == pytest.approx(float((r - a @ expected.T).square().sum()) / 3, rel=1e-4)


def test_the_nll_is_that_of_the_shortened_model_and_padding_counts_nowhere():
    model, keep = build(), (0, 1, 4, 7)
    data = documents(model)
    found = compensate(model, keep, data)
    held_out = data["text"].documents[PARTS - 1 :: PARTS]
    assert found.nll["before"]["total"] == pytest.approx(naive_nll(shortened(model, keep, {}), held_out), abs=1e-5)
    after = naive_nll(shortened(model, keep, found.tensors), held_out)
    assert found.nll["after"]["total"] == pytest.approx(after, abs=1e-5)
    assert found.nll["after"]["total"] < found.nll["before"]["total"]
    padded = compensate(model, keep, data, pad_token_id=7)
    for name, value in found.tensors.items():
        assert torch.equal(padded.tensors[name], value)


def test_the_model_is_left_as_it_was_and_every_gap_is_accounted_for():
    model = build()
    before = {name: p.clone() for name, p in model.named_parameters()}
    found = compensate(model, (1, 2, 5, 6), documents(model))
    assert [(gap.first, gap.last) for gap in found.gaps] == [(0, 0), (3, 4), (7, 7)] == removed_runs((1, 2, 5, 6), 8)
    assert found.gaps[0].reason == "no layer stands before it"
    assert [gap.layer for gap in found.gaps[1:]] == [2, 6]
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    for gap in found.gaps:
        assert gap.kept == (not gap.reason)
        assert not gap.kept or gap.nll["after"] < gap.nll["before"]


def test_a_map_is_kept_only_beyond_the_standard_error_and_at_no_domains_expense():
    model = build()
    data = documents(model)
    both = {"text": data["text"], "more": data["text"]}
    work = _Work(model, (0, 1, 7), both, "linear", {"text": 1.0, "more": 1.0}, None, 0)
    tokens = work._counted("text")
    zero = {name: torch.zeros_like(tokens) for name in both}
    steady = dict.fromkeys(both, -0.1 * tokens)
    noise = tokens * torch.tensor([1.0, -1.2] * 3)
    assert work._objection(zero, steady) == ""
    assert "beyond its standard error" in work._objection(zero, {"text": noise, "more": noise})
    assert "of more by 0.0100" in work._objection(zero, {**steady, "more": 0.01 * tokens})


def other_models():
    torch.manual_seed(5)
    yield "gpt2", GPT2LMHeadModel(GPT2Config(vocab_size=96, n_embd=32, n_layer=6, n_head=4, initializer_range=0.2))
    yield (
        "neox",
        GPTNeoXForCausalLM(
            GPTNeoXConfig(**SMALL, intermediate_size=48, initializer_range=0.2, use_parallel_residual=True)
        ),
    )
    yield "opt", OPTForCausalLM(OPTConfig(**SMALL, ffn_dim=48, word_embed_proj_dim=32, init_std=0.2))
    yield (
        "gemma2",
        Gemma2ForCausalLM(
            Gemma2Config(
                **SMALL,
                intermediate_size=48,
                head_dim=8,
                num_key_value_heads=2,
                initializer_range=0.2,
                sliding_window=8,
            )
        ),
    )
    yield (
        "mixtral",
        MixtralForCausalLM(
            MixtralConfig(
                **SMALL, intermediate_size=24, num_key_value_heads=2, num_local_experts=4, initializer_range=0.2
            )
        ),
    )


@pytest.mark.parametrize(("kind", "model"), [pytest.param(*pair, id=pair[0]) for pair in other_models()])
def test_other_families_fold_or_are_refused_with_the_reason(kind, model, unjudged):
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    model = model.eval()
    data, keep = documents(model), (0, 1, 4, 5)
    found = compensate(model, keep, data)
    (gap,) = found.gaps
    if kind == "mixtral":
        assert "mixture of experts" in gap.reason
        assert not found.tensors
        return
    assert gap.kept, gap.reason
    names = {name.split(".", 3)[-1].removeprefix("1.") for name in found.tensors}
    expected = {
        "gpt2": {"mlp.c_proj.weight", "mlp.c_proj.bias"},
        "neox": {"mlp.dense_4h_to_h.weight", "mlp.dense_4h_to_h.bias"},
        "opt": {"fc2.weight", "fc2.bias"},
        "gemma2": {"post_feedforward_layernorm.weight"},
    }[kind]
    assert gap.kept, gap
    assert names == expected
    # The new weights act as judged: the walk's NLL is that of the model with the weights put in and no gap's layers.
    skipped = set(range(6)) - set(keep)
    layers = model.get_submodule(found_layers(model))
    saved = [layer.forward for layer in layers]
    with applied(model, "", found.tensors):
        for index in skipped:
            layers[index].forward = lambda hidden_states, *_, **__: hidden_states
        after = naive_nll(model, data["text"].documents[PARTS - 1 :: PARTS])
    for layer, forward in zip(layers, saved, strict=True):
        layer.forward = forward
    assert found.nll["after"]["total"] == pytest.approx(after, abs=1e-4)


def found_layers(model):
    from prune.model.anatomy import find_anatomy

    return find_anatomy(model).layers_path


def test_too_few_documents_and_unknown_methods_are_named():
    with pytest.raises(UsageError, match="data text: 3 documents; compensation needs 4 or more"):
        compensate(build(), (0, 1), documents(count=3))
    with pytest.raises(UsageError, match="did you mean 'linear'"):
        compensate(build(), (0, 1), documents(), method="linar")
    foreign = {"text": replace(documents()["text"], documents=(Document((1, 2, 10_000)),) * 4)}
    with pytest.raises(UsageError, match="document 0 holds token id 10000"):
        compensate(build(), (0, 1), foreign)


def test_a_plan_that_would_overwrite_its_own_weights_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"give output a file that ends in \.json"):
        prune.compensate("embedded", tmp_path / "new.safetensors", plan=tmp_path / "plan.json", data={"a": "a.jsonl"})


def test_a_layer_whose_mlp_adds_nothing_is_refused_with_the_reason():
    model = build()
    model.model.layers[1].mlp.down_proj.weight.data.zero_()  # as in models that were grown by layers that do nothing
    (gap,) = compensate(model, (0, 1, 4, 5, 6, 7), documents(model)).gaps
    assert (gap.kept, gap.reason) == (False, "layer 1 cannot take a map: its MLP adds nothing that a map could change")


@pytest.fixture(scope="module")
def compensated(tmp_path_factory):
    """A bfloat16 checkpoint, and a compensated plan for it."""
    directory = tmp_path_factory.mktemp("compensated")
    build().to(torch.bfloat16).save_pretrained(directory / "source")
    keep = [0, 1, 4, 7]
    plan = Plan(
        source="made", num_layers=8, keep=keep, drop=[2, 3, 5, 6], order=[2, 3, 5, 6], criterion="explicit",
        strategy="explicit",
    )  # fmt: skip
    model = load_model(str(directory / "source"))
    done = compensated_plan(plan, directory / "source", model, documents(model), directory / "new.json")
    prune.cut(str(directory / "source"), directory / "cut", plan=directory / "new.json", verify=False, link=True)
    return directory, done


def test_what_is_on_disk_is_what_was_judged(compensated):
    directory, done = compensated
    record = done.compensation
    assert record["kept"]
    assert Plan.load(directory / "new.json").compensation == record
    loaded = load_model(str(directory / "cut"))
    held_out = documents(load_model(str(directory / "source")))["text"].documents[PARTS - 1 :: PARTS]
    assert naive_nll(loaded, held_out) == pytest.approx(record["nll"]["after"]["total"], abs=1e-5)
    rounding = record["nll"]["unrounded"] - record["nll"]["after"]["total"]
    assert 0 < abs(rounding) < 0.2 * (record["nll"]["before"]["total"] - record["nll"]["after"]["total"])


def test_only_the_replaced_tensors_differ_from_a_plain_cut(compensated, tmp_path):
    from safetensors.torch import load_file

    directory, done = compensated
    prune.cut(str(directory / "source"), tmp_path / "plain", drop_layers=done.drop, verify=False)
    plain, new = (load_file(path / "model.safetensors") for path in (tmp_path / "plain", directory / "cut"))
    differing = {name for name in plain if not torch.equal(plain[name], new[name])}
    assert differing == {f"model.layers.{done.keep.index(g['layer'])}.mlp.down_proj.weight"
                         for g in done.compensation["gaps"] if g["kept"]}  # fmt: skip
    source = load_file(directory / "source/model.safetensors")  # link=True must not have written into it
    assert torch.equal(source["model.layers.1.mlp.down_proj.weight"], plain["model.layers.1.mlp.down_proj.weight"])


def test_a_loaded_model_is_compensated_as_the_checkpoint_is(compensated):
    directory, done = compensated
    model = load_model(str(directory / "source"))  # bfloat16 weights in float32
    with pytest.raises(UsageError, match="give the path of the plan file"):
        prune.cut(model, plan=done)
    with pytest.raises(UsageError, match="judged without drop_attn"):
        prune.cut(model, plan=directory / "new.json", drop_attn=[0])
    wrapped = copy.deepcopy(model)
    for layer in wrapped.model.layers:
        layer.mlp.down_proj = torch.nn.Sequential(layer.mlp.down_proj)
    with pytest.raises(PruneError, match="does not fit the loaded model"):
        prune.cut(wrapped, plan=directory / "new.json")
    assert (len(wrapped.model.layers), len(model.model.layers)) == (8, 8)
    wanted = load_model(str(directory / "cut")).state_dict()
    found = prune.cut(model, plan=str(directory / "new.json")).state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_altered_missing_or_foreign_weights_are_refused(compensated, tmp_path):
    directory, _ = compensated
    source = str(directory / "source")
    plan = json.loads((directory / "new.json").read_text())
    (tmp_path / "new.json").write_text(json.dumps(plan))
    with pytest.raises(PruneError, match=r"its compensation new\.safetensors is missing"):
        prune.cut(source, tmp_path / "out", plan=tmp_path / "new.json")
    raw = bytearray((directory / "new.safetensors").read_bytes())
    raw[-3] ^= 1
    (tmp_path / "new.safetensors").write_bytes(raw)
    with pytest.raises(PruneError, match=r"altered since new\.json was written"):
        prune.cut(source, tmp_path / "out", plan=tmp_path / "new.json")
    plan["compensation"]["file"] = "../new.safetensors"
    (tmp_path / "new.json").write_text(json.dumps(plan))
    with pytest.raises(PruneError, match="beside or below the plan"):
        prune.cut(source, tmp_path / "out", plan=tmp_path / "new.json")
    with pytest.raises(UsageError, match="give the path of the plan file"):
        prune.cut(source, tmp_path / "out", plan=Plan.load(directory / "new.json"))
    assert not (tmp_path / "out").exists()

"""--attn_implementation: the kind of attention that was asked for computes, and results know it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AttentionInterface, AutoModelForCausalLM
from transformers.models.llama import modeling_llama

import prune
from evals.fingerprint import fingerprint
from prune.checkpoint.source import resolve
from prune.errors import PruneError, UsageError
from prune.model.loading import load_model, load_tokenizer, not_loaded
from prune.planning.score_cache import model_fingerprint
from tests.tiny_llama import save_llama

Calls = list[str]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = load_tokenizer("embedded")
    path = save_llama(
        tmp_path_factory.mktemp("model"), num_hidden_layers=4, intermediate_size=256, vocab_size=len(tokenizer)
    )
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Which kinds have computed so far, by a layer's call."""
    seen: Calls = []

    def spied(name: str, function: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            seen.append(name)
            return function(*args, **kwargs)

        return run

    monkeypatch.setattr(
        modeling_llama, "eager_attention_forward", spied("eager", modeling_llama.eager_attention_forward)
    )
    monkeypatch.setitem(
        AttentionInterface._global_mapping, "sdpa", spied("sdpa", AttentionInterface._global_mapping["sdpa"])
    )
    return seen


def rows() -> dict[str, list[dict[str, Any]]]:
    draw = torch.Generator().manual_seed(1)
    return {"text": [{"input_ids": torch.randint(3, 64, (5 + i,), generator=draw).tolist()} for i in range(4)]}


@pytest.mark.parametrize("more", [{}, {"stream": True}], ids=["in memory", "--stream"])
def test_it_computes_and_results_are_those_of_the_default(more: dict[str, Any], checkpoint: Path, calls: Calls) -> None:
    options = {"num_layers": 3, "strategy": "greedy", "criterion": "dnll", **more}
    plain = prune.plan(checkpoint, data=rows(), **options)
    assert set(calls) == {"sdpa"}
    calls.clear()
    eager = prune.plan(checkpoint, data=rows(), attn_implementation="eager", **options)
    assert set(calls) == {"eager"}
    assert eager.drop == plain.drop
    (name, expected), *_ = plain.scores.items()
    assert eager.scores[name] == pytest.approx(expected, abs=1e-5)


def test_a_model_without_some_sub_layers_takes_it_too(checkpoint: Path, tmp_path: Path, calls: Calls) -> None:
    prune.cut(checkpoint, tmp_path / "cut", drop_attn=[1], drop_mlp=[2], runtime="mlx", verify=False)
    model = load_model(resolve(tmp_path / "cut", attn_implementation="eager"))
    calls.clear()
    model(input_ids=torch.tensor([[3, 4, 5]]))
    assert calls == ["eager"] * 3  # one of four is gone


def test_results_know_it(checkpoint: Path, tmp_path: Path) -> None:
    from prune.runs.inputs import RunInputs
    from prune.runs.recipe import load_recipe
    from tests.runs.small import small_recipe

    plain, eager = (load_model(resolve(checkpoint, attn_implementation=kind)) for kind in (None, "eager"))
    assert model_fingerprint(plain) != model_fingerprint(eager)
    tokenizer = load_tokenizer(checkpoint)
    assert fingerprint(plain, tokenizer) != fingerprint(eager, tokenizer)
    recipe = load_recipe(small_recipe(tmp_path))
    found = [
        RunInputs(recipe.model_copy(update={"attn_implementation": kind}), tmp_path).arithmetic
        for kind in (None, "eager")
    ]
    assert found == [{"dtype": "float32"}, {"dtype": "float32", "attn_implementation": "eager"}]


@pytest.mark.parametrize("more", [{}, {"stream": True}], ids=["in memory", "--stream"])
def test_what_this_machine_lacks_is_one_line_with_the_flag(more: dict[str, Any], checkpoint: Path) -> None:
    with pytest.raises(PruneError, match=r"attn_implementation flash_attention_2: .*; give another one") as refused:
        prune.analyze(checkpoint, rows(), attn_implementation="flash_attention_2", **more)
    assert "\n" not in str(refused.value)


def test_what_has_nothing_to_do_with_it_is_not_blamed_on_it() -> None:
    error = ValueError("num_attention_heads 3 does not divide hidden_size 64")
    assert "attn_implementation" not in str(not_loaded("model", error, "eager"))


@pytest.mark.skipif(torch.accelerator.is_available(), reason="of machines without an accelerator")
def test_what_cannot_be_is_refused(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evals.worker.installed", lambda _: True)
    loaded = AutoModelForCausalLM.from_pretrained(checkpoint)
    with pytest.raises(UsageError, match="attn_implementation eager: the model is loaded already"):
        prune.analyze(loaded, rows(), attn_implementation="eager")
    for more in ({}, {"stream": True}):
        with pytest.raises(UsageError, match="attn_implementation flex_attention: cannot train on a CPU"):
            prune.analyze(checkpoint, rows(), attn_implementation="flex_attention", **more)
    with pytest.raises(UsageError, match="attn_implementation"):
        prune.analyze(checkpoint, rows(), attn_implementation="kernels-community/flash-attn")  # another's code
    asked = {"attn_implementation": "eager", "backend": "vllm"}
    for call in (
        lambda: prune.eval(checkpoint, baseline=checkpoint, suite="math", **asked),
        lambda: prune.generate(checkpoint, data={"a": [{"prompt": "1+1="}]}, **asked),
        lambda: prune.teach(checkpoint, data=rows(), output=checkpoint.parent / "taught", **asked),
    ):
        with pytest.raises(UsageError, match="attn_implementation: is of "):
            call()

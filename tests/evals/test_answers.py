"""Answers are kept for one model and one task run: a killed task goes on, and no other model is ever served."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import evals.answers
from evals.harness import run_tasks
from evals.records import TaskResult
from evals.suite import TaskSpec

CHOICE = TaskSpec(task="tiny_choice", metric="acc_norm", chance=0.25)
GENERATED = TaskSpec(task="tiny_generate", metric="exact_match", filter="raw")


class Killed(BaseException):
    """Like KeyboardInterrupt: nothing in the harness may catch it."""


def stop_after(calls: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the model run so many batches, then die; returns a counter of batches."""
    from lm_eval.models.huggingface import HFLM

    done: list[int] = []
    for name in ("_model_call", "_model_generate"):
        real = getattr(HFLM, name)

        def counted(self: Any, *args: Any, real: Any = real, **options: Any) -> Any:
            if len(done) == calls:
                raise Killed
            done.append(1)
            return real(self, *args, **options)

        monkeypatch.setattr(HFLM, name, counted)
    return done


def comparable(result: TaskResult) -> Any:
    return result.records, {k: v for k, v in result.stats.items() if k != "seconds"}


def half_a_line(path: Path) -> int:
    """What a killed process may leave; no whole batch is lost."""
    with path.open("a") as handle:
        handle.write('{"key": "half a li')
    return 2


def flipped_bit(path: Path) -> int:
    """In the second batch, which is answered again."""
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second[:50] + bytes([second[50] ^ 1]) + second[51:])
    return 1


def not_text(path: Path) -> int:
    """From the first batch on."""
    path.write_bytes(b"\xff\xfe" + path.read_bytes())
    return 0


@pytest.mark.parametrize("damage", [half_a_line, flipped_bit, not_text])
@pytest.mark.parametrize("spec", [CHOICE, GENERATED], ids=["likelihood", "generation"])
def test_a_killed_task_goes_on_at_the_next_batch_with_the_same_bits(
    spec: TaskSpec,
    damage: Callable[[Path], int],
    model: Any,
    tokenizer: Any,
    task_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings: dict[str, Any] = {"include_path": [task_dir], "batch_size": 5}
    with monkeypatch.context() as patch:
        whole = stop_after(-1, patch)
        expected = run_tasks(model, tokenizer, [spec], **settings)[spec.key]
    with monkeypatch.context() as patch:
        stop_after(2, patch)
        with pytest.raises(Killed):
            run_tasks(model, tokenizer, [spec], cache_dir=tmp_path, **settings)
    (kept,) = tmp_path.glob("*/*.answers.jsonl")
    batches = damage(kept)
    rest = stop_after(-1, monkeypatch)
    resumed = run_tasks(model, tokenizer, [spec], cache_dir=tmp_path, **settings)[spec.key]
    assert comparable(resumed) == comparable(expected)
    assert len(rest) == len(whole) - batches
    assert not list(tmp_path.glob("*/*.answers.jsonl"))


def test_lm_evals_cache_serves_another_models_answers_and_ours_never(
    model: Any, other_model: Any, tokenizer: Any, task_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """lm-eval issues 4063 and 2715: its response cache is not keyed by the model."""
    from lm_eval import evaluate
    from lm_eval.api.model import CachingLM
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    def stock(asked: Any) -> float:
        tasks = TaskManager(include_path=str(task_dir), include_defaults=False).load("tiny_loglikelihood")
        lm = CachingLM(HFLM(pretrained=asked, tokenizer=tokenizer, batch_size=8), str(tmp_path / "stock.db"))
        found = evaluate(lm, tasks, bootstrap_iters=0)
        assert found is not None
        return float(found["results"]["tiny_loglikelihood"]["perplexity,none"])

    spec = TaskSpec(task="tiny_loglikelihood", metric="perplexity")
    settings: dict[str, Any] = {"include_path": [task_dir], "batch_size": 8}
    true = [run_tasks(m, tokenizer, [spec], **settings)[spec.key].value for m in (model, other_model)]
    assert true[0] != true[1]
    assert [stock(m) for m in (model, other_model)] == [true[0], true[0]]  # the fault that ours must not have

    # Ours: offered the first model's finished task and an unfinished one, the second model answers for itself.
    run_tasks(model, tokenizer, [spec], cache_dir=tmp_path, **settings)
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        with pytest.raises(Killed):
            run_tasks(model, tokenizer, [CHOICE], cache_dir=tmp_path, **settings)
    ours = run_tasks(other_model, tokenizer, [spec, CHOICE], cache_dir=tmp_path, **settings)
    fresh = run_tasks(other_model, tokenizer, [spec, CHOICE], **settings)
    assert ours[spec.key].value == true[1]
    assert ours[CHOICE.key].records == fresh[CHOICE.key].records


def test_an_answer_that_reaches_the_limit_counts_as_cut_off_and_one_that_stops_does_not(
    model: Any, tokenizer: Any, task_dir: Path
) -> None:
    """Against greedy decoding by transformers, one prompt at a time."""
    rows = [json.loads(line) for line in (task_dir / "items.jsonl").read_text().splitlines()]
    rows = rows[:8]
    for length in (3, 20):
        settings: dict[str, Any] = {"include_path": [task_dir], "batch_size": 1, "limit": 8}
        found = run_tasks(model, tokenizer, [GENERATED], gen_kwargs={"max_gen_toks": length}, **settings)[GENERATED.key]
        cut = []
        for row in rows:
            ids = tokenizer(f"Q: {row['question']}\nA:", return_tensors="pt").input_ids
            new = model.generate(ids, max_new_tokens=length, do_sample=False, pad_token_id=1)[0, ids.shape[1] :]
            ended = 1 in new.tolist() or "\n" in tokenizer.decode(new)
            cut.append(not ended)
        assert found.stats["truncation_rate"] == sum(cut) / len(cut)
        assert 0 < sum(cut) <= len(cut)


def test_sampled_answers_are_never_kept(
    model: Any, tokenizer: Any, task_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(2, monkeypatch)
    sampled = {"do_sample": True, "temperature": 1.0}
    with pytest.raises(Killed):
        run_tasks(
            model, tokenizer, [GENERATED], include_path=[task_dir], batch_size=2, gen_kwargs=sampled, cache_dir=tmp_path
        )
    assert all(not path.read_text() for path in tmp_path.glob("*/*.answers.jsonl"))


def test_equal_requests_are_answered_one_by_one() -> None:
    """Two items with the same text: the second is not answered before it was asked twice."""

    class Model:
        eot_token_id = 1

        def set_cache_hook(self, hook: Any) -> None:
            self.hook = hook

        def _model_call(self) -> None: ...

        def _model_generate(self) -> None: ...

        def loglikelihood(self, requests: list[Any]) -> list[Any]:
            for number, request in enumerate(requests):
                self.hook.add_partial("loglikelihood", request.args, (float(number), True))
            return [(float(number), True) for number in range(len(requests))]

    class Request:
        args = ("same", "text")

    model = evals.answers.RecordedModel(Model())
    model._known[evals.answers._key("loglikelihood", Request.args)] = [(7.0, False)]
    assert model.loglikelihood([Request(), Request()]) == [(7.0, False), (0.0, True)]

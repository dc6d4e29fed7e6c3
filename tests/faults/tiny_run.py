"""A whole `prune run` small enough to be killed again and again, in children of a server that has imported everything.

A killed process leaves what it had written so far and nothing else, so the writes are the points at which kills differ.
The proof of a cut runs in the child itself instead of in one of its own, which would import all of it again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lm_eval.evaluator
import peft
import torch
import yaml
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

import evals.harness
import prune.healing.heal
import prune.surgery.proof as proof
from prune.embedded import HERE, MODEL
from prune.errors import GateFailed
from prune.files import sha256_file
from prune.runs.directory import RunDirectory
from prune.runs.pipeline import Pipeline
from prune.runs.recipe import load_recipe
from tests.faults.checkpoints import at_write

IMPORTED = (lm_eval.evaluator, peft, evals.harness, prune.healing.heal)
"""What a run imports late: imported here, once, for all children."""
TIMED = re.compile(
    r"seconds|per_s|speedup|cost|runtime|generated_at|break_even|durations|original_share|draft_share"  # a clock's
    r"|recommendation|verdicts|task_classes|reason|README"  # follow from one: a draft is recommended for its speed
    r"|peak_memory"  # the kernel's count, in batches of pages
    r"|in_this_process|redone|evaluations|train_loss"  # of this process: what was scored, and trained, before is not
)
"""Keys of JSON files whose values a second run gives otherwise, killed or not."""
PROSE = ("report.md", "report.html", "README.md", "log.txt", "scores.sqlite", ".lock")
"""Files whose bytes hold times, or the order of a cache's rows."""


def make_recipe(directory: Path) -> Path:
    """A four-layer model of random weights, and a recipe that takes it through every stage."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=2048, hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=160, tie_word_embeddings=True,
        initializer_range=0.2, eos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(directory / "model")
    AutoTokenizer.from_pretrained(MODEL).save_pretrained(directory / "model")
    for name in ("calibration", "heal"):
        rows = (HERE / f"data/{name}/arithmetic.jsonl").read_text(encoding="utf8").splitlines(keepends=True)
        (directory / f"{name}.jsonl").write_text("".join(rows[:24]), encoding="utf8")
    suites = [
        {"name": "language", "floor": 0.01, "tasks": [{"task": "demo_stories", "metric": "bits_per_byte"}]},
        {"name": "math", "floor": 0.9, "tasks": [{"task": "demo_arithmetic_2da", "metric": "acc"}]},
    ]  # of a random model the first passes, which ships it, and the second does not, which tries the draft
    recipe = {
        "model": str(directory / "model"),
        "data": {"domains": {"arithmetic": "calibration.jsonl"}, "seq_length": 24, "calib_num_samples": 4},
        "analyze": {"measure": ["contributions", "angular", "effects"], "bootstrap": 10},
        "plan": {"depths": [3]},
        "heal": {
            "domains": {"arithmetic": "heal.jsonl"}, "max_steps": 2, "save_steps": 1,
            "per_device_train_batch_size": 2, "max_length": 24,
            "self_generated": {"prompts": {"own": "calibration.jsonl"}, "max_new_tokens": 4},
        },
        "screen": {"suites": suites, "looks": [2], "floor": 0.01},
        "eval": {"include_path": [str(HERE / "tasks")], "suites": suites, "limit": 6},
        "draft": {"prompts": 1, "max_new_tokens": 2},
        "cost": {"batch_size": 1, "prompt_tokens": 4, "new_tokens": 2, "repeats": 1},
        "export": {"fallback": True, "override": "a test run"},
    }  # fmt: skip
    path = directory / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf8")
    return path


@contextlib.contextmanager
def _stages_seen(seen: Callable[[str], None]) -> Any:
    """Call `seen` with a stage's name before it is looked at, and with `report` at the end of all."""
    stage, report = RunDirectory.stage, Pipeline._report

    def entered(self: RunDirectory, name: str, *args: Any) -> str:
        seen(name)
        return stage(self, name, *args)

    def reported(self: Pipeline, *args: Any) -> None:
        seen("report")
        report(self, *args)

    RunDirectory.stage, Pipeline._report = entered, reported  # type: ignore[method-assign]
    try:
        yield
    finally:
        RunDirectory.stage, Pipeline._report = stage, report  # type: ignore[method-assign]


def run_logged(recipe: Path, root: Path) -> None:
    """`run` with a log in `log.txt`."""
    run(recipe, root, quiet=False)


def run(recipe: Path, root: Path, quiet: bool = True) -> None:
    """`prune run --resume`, whatever the gate says."""
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL if quiet else logging.NOTSET)
    proof.prove_in_child = lambda source, result, keep: proof.prove(source, result, keep)  # type: ignore[assignment]
    with contextlib.suppress(GateFailed):
        Pipeline(load_recipe(recipe), root, resume=True).run()


def reference(recipe: Path, root: Path, snapshots: Path) -> None:
    """An undisturbed run; `snapshots/STAGE` is the directory as the stage begins, `writes.json` each one's writes."""
    writes: dict[str, int] = {}
    with at_write(-1, lambda: None) as count:

        def seen(name: str) -> None:
            before = count[0]
            shutil.copytree(root, snapshots / name)
            count[0] = before  # the copy is no write of the run
            writes[name] = before

        with _stages_seen(seen):
            run(recipe, root)
        ends = [*list(writes.values())[1:], count[0]]
        found = {name: end - begin for (name, begin), end in zip(writes.items(), ends, strict=True)}
    (snapshots / "writes.json").write_text(json.dumps(found))


def outcome(root: Path) -> dict[str, Any]:
    """What a run left: every file's bytes, but for the times in it."""
    found: dict[str, Any] = {}
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        name = path.relative_to(root).as_posix()
        if path.name == "state.json":
            found[name] = sorted(json.loads(path.read_text(encoding="utf8"))["stages"])
        elif path.suffix == ".json":
            found[name] = _untimed(json.loads(path.read_text(encoding="utf8")))
        else:
            found[name] = path.name if path.name in PROSE else sha256_file(path)
    return found


def _untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _untimed(item) for key, item in value.items() if not TIMED.search(key)}
    return [_untimed(item) for item in value] if isinstance(value, list) else value


def killed(recipe: Path, root: Path, stage: str, write: int) -> None:
    """Go on with a run, and die at the given write of a stage, counted from one."""
    with contextlib.ExitStack() as stack:

        def seen(name: str) -> None:
            if name == stage:
                stack.enter_context(at_write(write, lambda: os.kill(os.getpid(), signal.SIGKILL)))

        with _stages_seen(seen):
            run(recipe, root)

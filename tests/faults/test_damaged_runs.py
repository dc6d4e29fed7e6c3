"""F50: whatever happens to the files of a run directory, going on ends in our own error or in the same result.

`scripts/fuzz_runs.py` is the long version.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from prune.errors import PruneError
from tests.faults.prepared import in_server, prepare


@dataclass
class Prepared:
    """Runs ready to be damaged: see `prepare`."""

    place: Path
    recipe: Path

    def copy(self, state: str, root: Path) -> Path:
        """A run directory of its own."""
        return Path(shutil.copytree(self.place / "states" / state, root))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    place = tmp_path_factory.mktemp("damaged")
    return Prepared(place, prepare(place))


def _fuzz(prepared: Prepared, cases: int, tmp_path: Path) -> dict[str, Any]:
    from tests.faults import tamper

    counts = tmp_path / "counts.json"
    place = prepared.place
    given = (prepared.recipe, place / "states", place / "expected.json", tmp_path, cases, counts)
    assert in_server(tamper.check, *given, runs=cases) == 0
    found: dict[str, Any] = json.loads(counts.read_text(encoding="utf8"))
    return found


def test_f50_damaged_run_directories_end_in_our_own_errors_or_the_same_result(
    prepared: Prepared, tmp_path: Path
) -> None:
    counts = _fuzz(prepared, 12, tmp_path)
    assert counts["run done"] > 0


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_f50_hundreds_of_damaged_run_directories(prepared: Prepared, tmp_path: Path) -> None:
    counts = _fuzz(prepared, 400, tmp_path)
    assert counts["run done"] > 100
    assert counts["run PruneError"] > 10


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut short": lambda raw: raw[: len(raw) // 2],
    "flipped bit": lambda raw: raw[: len(raw) // 2] + bytes([raw[len(raw) // 2] ^ 1]) + raw[len(raw) // 2 + 1 :],
    "empty": lambda raw: b"",
    "not UTF-8": lambda raw: b"\xff\xfe" + raw,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    "name",
    [
        "optimizer.pt",
        "adapter_model.safetensors",
        "best.safetensors",
        "trainer_state.json",
        "heal.json",
        "rng_state.pth",
    ],
)
def test_f50_the_newest_whole_training_checkpoint_is_used(prepared: Prepared, damage: str, name: str) -> None:
    from prune.files import read_sealed
    from prune.healing.trainer import MARKER, checkpoint_of

    (newest,) = (prepared.place / "states" / "heal-3-0.9").glob("work/heal-3/*/checkpoints/checkpoint-2")
    fingerprint = read_sealed(newest / MARKER)["fingerprint"]
    assert checkpoint_of(newest.parent, fingerprint) == newest
    path = newest / name
    whole = path.read_bytes()
    try:
        path.write_bytes(DAMAGES[damage](whole))
        assert checkpoint_of(newest.parent, fingerprint) == newest.with_name("checkpoint-1")
        path.unlink()
        assert checkpoint_of(newest.parent, fingerprint) == newest.with_name("checkpoint-1")
    finally:
        path.write_bytes(whole)
    with pytest.raises(PruneError, match="max_steps was"):
        checkpoint_of(newest.parent, {**fingerprint, "max_steps": 9})


def test_f50_a_checkpoint_that_was_passed_over_is_written_anew_not_over(prepared: Prepared, tmp_path: Path) -> None:
    from tests.faults import tiny_run

    root = prepared.copy("heal-3-0.9", tmp_path / "run")
    (newest,) = root.glob("work/heal-3/*/checkpoints/checkpoint-2")
    (newest / "README.md").write_bytes(b"!\xd7\x16")  # peft reads the card that it finds
    assert in_server(tiny_run.run, prepared.recipe, root) == 0
    expected = json.loads((prepared.place / "expected.json").read_text(encoding="utf8"))
    found, weights = tiny_run.outcome(root), "healed/3/model.safetensors"
    assert found[weights] == expected[weights]


@pytest.mark.parametrize("raw", [b"[]", b'{"stages": null}', b"{", b"\xff", b"", b'{"stages": {}, "sha256": "0"}'])
def test_f50_a_damaged_state_is_named_with_the_cure_and_the_cure_works(raw: bytes, tmp_path: Path) -> None:
    from prune.runs.directory import RunDirectory

    root = tmp_path / "run"
    with RunDirectory(root, resume=False) as run:
        run.write_recipe("model: x\n")
    (root / "state.json").write_bytes(raw)
    with pytest.raises(PruneError, match=r"state.json: damaged .* remove it") as caught:
        RunDirectory(root, resume=True)
    assert "\n" not in str(caught.value)
    (root / "state.json").unlink()
    RunDirectory(root, resume=True).close()


def test_f50_nothing_is_logged_through_a_link(tmp_path: Path) -> None:
    from prune.runs.pipeline import _log_file

    elsewhere = tmp_path / "elsewhere.txt"
    (tmp_path / "log.txt").symlink_to(elsewhere)
    with pytest.raises(PruneError, match=r"log.txt is a symbolic link: remove it"), _log_file(tmp_path / "log.txt"):
        pass
    assert not elsewhere.exists()


def test_f50_nothing_is_made_through_a_link_to_nothing(tmp_path: Path) -> None:
    from prune.planning.score_cache import ScoreCache
    from prune.runs.directory import RunDirectory

    elsewhere, root = tmp_path / "elsewhere", tmp_path / "run"
    with RunDirectory(root, resume=False) as run:
        run.write_recipe("model: x\n")
    (root / ".lock").unlink()
    for name in (".lock", "scores.sqlite"):
        (root / name).symlink_to(elsewhere)
    with pytest.raises(PruneError, match=r"\.lock is a symbolic link: remove it"):
        RunDirectory(root, resume=True)
    with pytest.raises(PruneError, match=r"scores\.sqlite is a symbolic link: remove it"):
        ScoreCache(root / "scores.sqlite", "model")
    assert not elsewhere.exists()
    (root / ".lock").unlink()
    RunDirectory(root, resume=True).close()


class OwnTasks:
    """The finished run with its tasks in two folders of one name, and their rows outside of both, as in the demo."""

    def __init__(self, prepared: Prepared, place: Path) -> None:
        import yaml

        from prune.embedded import HERE

        for name in ("one", "two"):
            tasks = Path(shutil.copytree(HERE / "tasks", place / name / "tasks"))
            code = (HERE / "tasks" / "rows.py").read_text(encoding="utf8")
            (tasks / "rows.py").write_text(code.replace("parents[1]", "parents[2]"), encoding="utf8")
        shutil.copytree(HERE / "data" / "eval", place / "data" / "eval")
        self.rows = place / "data" / "eval" / "arithmetic_2da.jsonl"
        self.task = place / "one" / "tasks" / "stories.yaml"
        (place / "two" / "tasks" / "stories.yaml").unlink()
        for path in (place / "one" / "tasks").glob("arithmetic*.yaml"):
            path.unlink()
        recipe = yaml.safe_load(prepared.recipe.read_text(encoding="utf8"))
        recipe["eval"]["include_path"] = [str(place / name / "tasks") for name in ("one", "two")]
        for domains in (
            recipe["data"]["domains"],
            recipe["heal"]["domains"],
            recipe["heal"]["self_generated"]["prompts"],
        ):
            domains |= {name: str(prepared.place / path) for name, path in domains.items()}
        self.recipe, self.root = place / "recipe.yaml", prepared.copy("finished", place / "run")
        self.recipe.write_text(yaml.safe_dump(recipe), encoding="utf8")

    def resume(self, code: int = 0) -> set[str]:
        """Go on; the stages that were started."""
        from tests.faults import tiny_run

        (self.root / "log.txt").unlink(missing_ok=True)
        assert in_server(tiny_run.run_logged, self.recipe, self.root) == code
        text = (self.root / "log.txt").read_text(encoding="utf8")
        return {line.split("INFO ")[1].split(":")[0] for line in text.splitlines() if ": started" in line}

    @property
    def stages(self) -> dict[str, Any]:
        """Those that are recorded as done."""
        found: dict[str, Any] = json.loads((self.root / "state.json").read_text(encoding="utf8"))["stages"]
        return found

    def tested_again(self) -> None:
        """Going on tests everything again, and judges again unless every result, its seconds included, is the same."""
        before = {name: self.stages[name]["output"] for name in TESTS & self.stages.keys()}
        redone = self.resume()
        assert redone >= TESTS
        evals = [name for name in before if name.startswith("eval-")]
        assert ("gate" in redone) == any(self.stages[name]["output"] != before[name] for name in evals)


TESTS = {"screen", "eval-original", "eval-pruned-3", "eval-healed-3"}


def test_f51_f52_rows_elsewhere_are_part_of_the_evidence_and_a_failed_task_is_not_done(
    prepared: Prepared, tmp_path: Path
) -> None:
    own = OwnTasks(prepared, tmp_path)
    own.tested_again()  # other folders than before
    assert own.resume() == set()
    whole = own.rows.read_text(encoding="utf8")

    own.rows.write_text("no rows", encoding="utf8")
    assert own.resume(code=1) == {"screen"}
    assert "screen" not in own.stages
    assert "testing original is not done; the other 1 finished" in (own.root / "log.txt").read_text(encoding="utf8")

    own.rows.write_text(whole.replace("Question", "A question"), encoding="utf8")
    own.tested_again()
    assert own.resume() == set()

    own.task.write_text(own.task.read_text(encoding="utf8") + "# changed\n", encoding="utf8")
    assert own.resume() >= {"eval-original", "eval-pruned-3", "eval-healed-3"}

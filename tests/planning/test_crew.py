"""Two gloo processes plan, to the bit, what one plans, with as many layer evaluations; only the first writes."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import pytest

import prune
from prune.analysis.processes import Processes, join
from prune.errors import PruneError
from prune.planning.crew import Crew, Order
from prune.planning.evaluator import Evaluator
from prune.planning.planner import make_plan
from tests.analysis.test_processes import launched
from tests.planning.small import build, domains


def data() -> dict[str, list[dict]]:
    return {name: [{"input_ids": list(d.input_ids)} for d in domain.documents] for name, domain in domains().items()}


def planned(strategy: str, unit: str, rank: int, directory: Path) -> None:
    plan = prune.plan(
        build(), data(), drop_fraction=0.25, strategy=strategy, unit=unit, output=directory / "plan.json",
        score_cache=directory / "scores.sqlite",
    )  # fmt: skip
    (directory / f"plan.{rank}").write_text(plan.model_dump_json())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "unit"),
    [("greedy", "layer"), ("greedy_full", "layer"), ("greedy", "sublayer"), ("beam", "attention")],
)
def test_two_processes_plan_what_one_plans(tmp_path: Path, strategy: str, unit: str) -> None:
    assert launched(partial(planned, strategy, unit), tmp_path) == [0, 0], (tmp_path / "err.1").read_text()
    alone = json.loads(prune.plan(build(), data(), drop_fraction=0.25, strategy=strategy, unit=unit).model_dump_json())
    for said in ("plan.0", "plan.1", "plan.json"):
        both = json.loads((tmp_path / said).read_text())
        assert {**both, "created": None} == {**alone, "created": None}, said


def failing(rank: int, directory: Path) -> None:
    """Process 1 cannot score."""
    crew = Crew(join())
    evaluator = Evaluator(build(), domains(), batch_size=2)
    if rank == 1:
        evaluator.measure = None  # type: ignore[method-assign, assignment]
    try:
        if rank == 0:
            evaluator.crew = crew
            try:
                make_plan(source="made", evaluator=evaluator, num_layers=6)
            except PruneError as error:
                crew.end(failure=str(error))
                raise
        else:
            crew.assist(lambda: evaluator)
    except PruneError as error:
        (directory / f"said.{rank}").write_text(str(error))
        sys.exit(1)


@pytest.mark.slow
def test_an_error_in_one_process_ends_the_search_in_both(tmp_path: Path) -> None:
    assert launched(failing, tmp_path) == [1, 1]
    assert (tmp_path / "said.0").read_text() == (tmp_path / "said.1").read_text()
    assert "process 1 of 2 failed: TypeError" in (tmp_path / "said.0").read_text()


def test_every_batch_has_one_process_and_the_jobs_cover_what_is_asked():
    evaluator = Evaluator(build(), domains(), batch_size=2)
    given: list[list[int]] = []

    class Alone(Crew):
        def measure(self, evaluator, jobs):
            parts = [
                self.__class__(Processes(rank, 3))._own(evaluator, Order(jobs, evaluator.batch_size, False))
                for rank in range(3)
            ]
            given.append(sorted(at for part in parts for at, _ in part.done))
            assert given[-1] == list(range(len(jobs)))
            found = dict(pair for part in parts for pair in part.done)
            return [found[at] for at in range(len(jobs))]

    evaluator.crew = Alone(Processes(0, 3))
    shared = make_plan(source="made", evaluator=evaluator, num_layers=6)
    assert shared == make_plan(source="made", evaluator=Evaluator(build(), domains(), batch_size=2), num_layers=6)
    assert given

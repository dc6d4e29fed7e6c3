"""The study's units by name: each a function of the bench that returns what goes into its JSON file.

A unit may read what earlier ones left (`Bench.result`, plans, checkpoints) and nothing else. `UNITS` is in order of
importance, so that a study stopped early has what matters most.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from study.accuracy import plan_tasks, tasks
from study.bench import Bench
from study.depth import depth, difficulty, questions, singles
from study.documents import prepare
from study.healing import HEALINGS, healing, held_out_nll, phased, trained_original
from study.plans import held_out, plans, searches
from study.settings import GEMMA, SMALL

Unit = Callable[[Bench], dict[str, Any]]


def data(bench: Bench) -> dict[str, Any]:
    """The documents."""
    return {"documents": prepare(bench.source, bench.folder / "data")}


def original(bench: Bench, name: str) -> dict[str, Any]:
    """The original's likelihood of every held-out document, by a plain forward pass."""
    model = bench.model(name)
    return {"documents": held_out_nll(bench, name, model)}


def _healing(wanted: int, recipe: str, *, steps: int | None = None, seed: int | None = None, name: str = SMALL) -> Unit:
    own_steps, own_seed, changes = HEALINGS[recipe]
    return functools.partial(
        healing, name=name, wanted=wanted, steps=steps or own_steps, seed=own_seed if seed is None else seed,
        changes=changes,
    )  # fmt: skip


UNITS: dict[str, Unit] = {
    "data": data,
    f"depth_{SMALL}": functools.partial(depth, name=SMALL, count=None),
    f"singles_{SMALL}": functools.partial(singles, name=SMALL, count=16),
    f"plans_{SMALL}": functools.partial(plans, name=SMALL),
    f"held_out_{SMALL}": functools.partial(held_out, name=SMALL),
    f"original_{SMALL}": functools.partial(original, name=SMALL),
    f"original_{GEMMA}": functools.partial(original, name=GEMMA),
    "heal_24_rate": _healing(24, "rate 1e-3"),
    "heal_24_default": _healing(24, "rate 2e-4"),
    "heal_27_rate": _healing(27, "rate 1e-3"),
    f"depth_{GEMMA}": functools.partial(depth, name=GEMMA, count=12),
    "heal_24_full": _healing(24, "full at the gaps, 2e-4"),
    "heal_24_rate3": _healing(24, "rate 3e-3"),
    "heal_24_all": _healing(24, "all layers, 1e-3"),
    "heal_24_entropy": _healing(24, "weighted by entropy, 1e-3"),
    "heal_24_next": _healing(24, "next token only, 1e-3"),
    f"singles_{GEMMA}": functools.partial(singles, name=GEMMA, count=12),
    f"plans_{GEMMA}": functools.partial(plans, name=GEMMA),
    f"held_out_{GEMMA}": functools.partial(held_out, name=GEMMA),
    "heal_24_rank": _healing(24, "rank 64, 1e-3"),
    "heal_24_temperature": _healing(24, "temperature 2, 1e-3"),
    "heal_24_rate6": _healing(24, "rate 6e-3"),
    "heal_24_next3": _healing(24, "next token only, 3e-3"),
    "heal_24_all3": _healing(24, "all layers, 3e-3"),
    "heal_24_full6": _healing(24, "full at the gaps, 6e-4"),
    "heal_24_rate3_64": _healing(24, "rate 3e-3", steps=64),
    "heal_24_rate_64": _healing(24, "rate 1e-3", steps=64),
    "heal_24_next3_64": _healing(24, "next token only, 3e-3", steps=64),
    "heal_24_rate3_seed1": _healing(24, "rate 3e-3", seed=1),
    "heal_24_rate3_seed2": _healing(24, "rate 3e-3", seed=2),
    "heal_24_next3_seed1": _healing(24, "next token only, 3e-3", seed=1),
    "heal_24_next3_seed2": _healing(24, "next token only, 3e-3", seed=2),
    "heal_27_rate3": _healing(27, "rate 3e-3"),
    "heal_21_rate3": _healing(21, "rate 3e-3"),
    "heal_15_rate": _healing(15, "rate 1e-3", name=GEMMA),
    "heal_15_rate3": _healing(15, "rate 3e-3", name=GEMMA),
    **{
        f"tasks_{depth}_{state}": functools.partial(
            tasks, name=name, label="greedy dnll", wanted=depth, checkpoint=f"heal_{depth}_rate3" * (state == "healed")
        )
        for name, depth in ((SMALL, 24), (SMALL, 27), (SMALL, 21), (GEMMA, 15))
        for state in ("cut", "healed")
    },
    f"plan_tasks_27_{SMALL}": functools.partial(plan_tasks, name=SMALL, wanted=27),
    f"plan_tasks_24_{SMALL}": functools.partial(plan_tasks, name=SMALL, wanted=24),
    f"plan_tasks_15_{GEMMA}": functools.partial(plan_tasks, name=GEMMA, wanted=15),
    "heal_24_rate6_seed1": _healing(24, "rate 6e-3", seed=1),
    "heal_24_rate6_seed2": _healing(24, "rate 6e-3", seed=2),
    "heal_24_all3_seed1": _healing(24, "all layers, 3e-3", seed=1),
    "heal_24_all3_seed2": _healing(24, "all layers, 3e-3", seed=2),
    "heal_24_rank_seed1": _healing(24, "rank 64, 1e-3", seed=1),
    "heal_24_rank_seed2": _healing(24, "rank 64, 1e-3", seed=2),
    "heal_27_rate3_64": _healing(27, "rate 3e-3", steps=64),
    "heal_21_rate3_64": _healing(21, "rate 3e-3", steps=64),
    "heal_24_rate3_256": _healing(24, "rate 3e-3", steps=256),
    "heal_24_next3_256": _healing(24, "next token only, 3e-3", steps=256),
    "heal_15_rate3_64": _healing(15, "rate 3e-3", steps=64, name=GEMMA),
    "heal_15_next3": _healing(15, "next token only, 3e-3", name=GEMMA),
    "heal_15_all3": _healing(15, "all layers, 3e-3", name=GEMMA),
    "heal_30_next3": functools.partial(trained_original, name=SMALL, steps=12),
    "heal_30_next3_64": functools.partial(trained_original, name=SMALL, steps=64),
    "heal_24_blocks": functools.partial(phased, name=SMALL, wanted=24, label="block-wise 4 steps, then 3e-3"),
    "heal_24_answers": functools.partial(phased, name=SMALL, wanted=24, label="the original's answers, 3e-3"),
    "heal_24_own": functools.partial(phased, name=SMALL, wanted=24, label="6 steps, then 6 on its own answers, 3e-3"),
    f"effects_{SMALL}": functools.partial(depth, name=SMALL, count=2, effects=True),
    f"difficulty_{SMALL}": functools.partial(difficulty, name=SMALL, each=6),
    f"difficulty_{GEMMA}": functools.partial(difficulty, name=GEMMA, each=3),
    f"effects_{GEMMA}": functools.partial(depth, name=GEMMA, count=2, effects=True),
    f"searches_24_{SMALL}": functools.partial(searches, name=SMALL, wanted=24),
    f"questions_{SMALL}": functools.partial(questions, name=SMALL, count=4),
    f"questions_{GEMMA}": functools.partial(questions, name=GEMMA, count=4),
}
"""Name -> unit, most important first."""

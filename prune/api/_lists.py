"""`prune.suites` and `prune.criteria`: what there is to choose from, one line each."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any


def suites() -> dict[str, dict[str, Any]]:
    """The suites that go by name, and where their files come from.

        found = prune.suites()

    Returns:
        Name -> `title`, `floor` (share of the original's ability that passes), `tasks` (those that count), `also`
        (those that are only reported), and `data`: for every data set its `tasks`, hub name, `files` that `local_data`
        recognises, `publisher` and `licence`; nothing for the demo's suites, whose files are in the package.
    """
    from evals.data_sets import data_set_of
    from evals.suite import built_in_suites, load_suite
    from prune.embedded import SUITES

    found: dict[str, dict[str, Any]] = {}
    for name in [*built_in_suites(), *sorted(SUITES)]:
        suite = load_suite(SUITES.get(name, name))
        sets = {source.data_set: source for spec in suite.tasks if (source := data_set_of(spec.task))}
        own = {spec.task for spec in suite.tasks}
        found[name] = {
            "title": suite.title,
            "floor": suite.floor,
            "tasks": [spec.key for spec in suite.gated],
            "also": [spec.key for spec in suite.tasks if spec.report_only],
            "data": [{**asdict(row), "tasks": [task for task in row.tasks if task in own]} for row in sets.values()],
        }
    return found


def criteria() -> dict[str, dict[str, str]]:
    """What a plan can be made with.

        found = prune.criteria()

    Returns:
        `criteria` and `strategies`: name -> one line, those of installed packages included.

    Raises:
        PruneError: an installed one cannot be loaded.
    """
    from prune.planning.registry import criterion_names, get_criterion, get_strategy, strategy_names

    return {
        "criteria": {name: get_criterion(name).summary for name in criterion_names()},
        "strategies": {name: get_strategy(name).summary for name in strategy_names()},
    }

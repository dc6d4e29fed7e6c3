"""`prune plan`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prune.api._plan import PlanArguments
from prune.cli.flags import PANELS, Json, Quiet, with_settings
from prune.cli.show import data_used, emit, listed, number, table

if TYPE_CHECKING:
    from prune.planning.plan import Plan


def plan(
    analysis_or_model: Annotated[
        str, typer.Argument(metavar="DIR", help="What `prune analyze` wrote; or a model, with --data.")
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", help="New plan.json to write; with --sweep a new directory.")
    ],
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            help="Score candidates on these documents, as for analyze; on those of the analysis if absent.",
            rich_help_panel=PANELS["data"],
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry_run", help="Search and show the plan; keep only the scores.", rich_help_panel=PANELS["output"]
        ),
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    **settings: Any,
) -> None:
    """Decide which layers go."""
    from prune import api
    from prune.planning.frontier import Frontier

    result: Any = api.plan(analysis_or_model, data or None, output=output, dry_run=dry_run, **settings)
    state = "would write" if dry_run else "written"
    if isinstance(result, Frontier):
        _show_frontier(result.describe(), as_json=as_json, quiet=quiet)
        if not as_json:
            emit({}, [f"{state}: {output} (open frontier.html)"], as_json=False, quiet=quiet)
        return
    lines = [
        f"{state}: {output}",
        _what_goes(result),
    ]
    if result.evaluations:
        used = result.evaluations
        lines.append(
            f"{used['layer_evaluations']:,} layer evaluations, {used['ratio']:.2f} of a greedy search that runs every "
            f"candidate in full; {used['subsets_from_cache']} of {used['subsets']} subsets scored before"
        )
    if result.data and not as_json:
        data_used(result.data, _few_documents(analysis_or_model), quiet=quiet)
    if not as_json and (costs := result.scores.get("dnll")):
        rows = [[name, _interval(score)] for name, score in {**costs["by_domain"], "all": costs["total"]}.items()]
        table("cost", ["data", "nats per token added (95 % interval)"], rows, quiet=quiet)
    emit(result.model_dump(), lines, as_json=as_json, quiet=quiet)


def _what_goes(plan: Plan) -> str:
    """The drop order in words."""
    if plan.unit == "layer":
        return f"drop {listed(plan.order)} (in this order), keep {len(plan.keep)} of {plan.num_layers}"
    lists = {"attention": plan.drop_attention, "MLP": plan.drop_mlp}
    gone = " and ".join(f"the {name} of layers {listed(layers)}" for name, layers in lists.items() if layers)
    return f"drop {gone}; in this order: {', '.join(map(str, plan.order))}"


def _few_documents(analysis: str) -> list[str]:
    """What the analysis says of too few documents to choose layers by."""
    from prune.analysis.result import Analysis
    from prune.wording import Message
    from prune.wording.text import english

    directory = Path(analysis)
    if not (directory / "analysis.json").is_file():
        return []
    messages = [Message(**row) for row in Analysis.load(directory).info.get("messages", [])]
    return [english(found) for found in messages if found.code == "warn_few_documents"]


def _show_frontier(found: dict[str, Any], *, as_json: bool, quiet: bool) -> None:
    if as_json:
        emit(found, [], as_json=True, quiet=quiet)
        return
    names = list(found["points"][-1]["by_domain"])
    columns = ["layers", "dropped", found["score"], *names]
    rows = [
        [
            str(point["num_layers"]),
            listed(point["drop"]) or "-",
            _interval(point["score"]),
            *(_interval(point["by_domain"].get(name)) for name in names),
        ]
        for point in found["points"]
    ]
    table(f"{found['criterion']}, {found['strategy']}", columns, rows, quiet=quiet)


def _interval(score: dict[str, float | None] | None) -> str:
    if score is None or score["lo"] is None:
        return number(score["value"] if score else None)
    return f"{number(score['value'])} ({number(score['lo'])} to {number(score['hi'])})"


command = with_settings(PlanArguments)(plan)

"""`prune.plan`: decide which layers go."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from pydantic import Field

from prune.analysis.result import Analysis as Measurements
from prune.analysis.settings import StreamSettings
from prune.api._given import Model, at_rest, given
from prune.api._inputs import Data
from prune.api._subject import Subject, planned_for
from prune.data.settings import DocumentSettings
from prune.errors import UsageError
from prune.files import refuse_non_empty
from prune.model.settings import PlacedSettings
from prune.planning.settings import BudgetSettings, DecodeSettings, PlanSettings, UnitSettings
from prune.serving.settings import RuntimeSettings
from prune.settings import ADVANCED, Seeded, fields_of, takes, validated
from prune.wording.settings import PageSettings

if TYPE_CHECKING:
    from prune.analysis.processes import Processes
    from prune.planning.frontier import Frontier
    from prune.planning.plan import Plan

SCORES = "scores.sqlite"


class PlanArguments(
    Seeded,
    PageSettings,
    PlacedSettings,
    DocumentSettings,
    RuntimeSettings,
    BudgetSettings,
    DecodeSettings,
    UnitSettings,
    PlanSettings,
    StreamSettings,
):
    """Everything that `prune plan` can be told beside the analysis or model, its data and the output."""

    sweep: bool = Field(False, description="The frontier down to half of the layers (or the budget), into a directory.")
    score_cache: Path | None = Field(
        None,
        description="SQLite file that keeps every score made; scores.sqlite beside the analysis if not given.",
        json_schema_extra=ADVANCED,
    )


@overload
def plan(
    analysis_or_model: Model | Measurements,
    data: Data | None = None,
    *,
    tokenizer: Any = None,
    output: str | Path | None = None,
    sweep: Literal[False] = False,
    dry_run: bool = False,
    **settings: Any,
) -> Plan: ...


@overload
def plan(
    analysis_or_model: Model | Measurements,
    data: Data | None = None,
    *,
    tokenizer: Any = None,
    output: str | Path | None = None,
    sweep: Literal[True],
    dry_run: bool = False,
    **settings: Any,
) -> Frontier: ...


@takes(PlanArguments)
def plan(
    analysis_or_model: Model | Measurements,
    data: Data | None = None,
    *,
    tokenizer: Any = None,
    output: str | Path | None = None,
    dry_run: bool = False,
    **settings: Any,
) -> Plan | Frontier:
    """Decide which layers go; with `sweep`, for every depth down to the budget.

    Started by `torchrun` or `accelerate launch`, the processes share the scoring and only the first writes.

        plan = prune.plan(analysis, num_layers=24)

    Exactly one budget says how far: `num_layers`, `drop_fraction`, `target_params`, `target_bytes`, `target_speedup`,
    `target_kv_bytes`, or the layers themselves. With `unit` attention, mlp or sublayer no whole layer goes, and
    num_layers, drop_fraction and lists of layers mean those. With `sweep` num_layers or drop_fraction says where the
    frontier ends; half of the layers if neither is given. Model and documents are those of the analysis: still in
    memory, or read again from where it found them, only when the criterion or the strategy needs them.

    Args:
        analysis_or_model: an `Analysis`, the directory of one, or a model (loaded, directory or hub id) with `data`.
        data: documents to score candidates on, as for `prune.analyze`; those of the analysis if None.
        tokenizer: of a loaded model, where the data are not token ids.
        output: new plan file; with `sweep` a new directory for frontier.json, frontier.html and plans/. If None,
            nothing is written but a `score_cache` that is named.
        dry_run: check the request and search, write nothing but scores.

    Returns:
        The plan: `keep` and `drop` are sorted layer numbers of the source, losses in nats; or the `Frontier`.

    Raises:
        UsageError: unknown names, no budget or several, a budget that cannot be met, or a model or documents that are
            needed and nowhere to be found; a depth that a named runtime cannot read, with those that it can.
        PruneError: a named runtime reads the layers asked for wrongly, or is not known to read this family.
    """
    from prune.analysis.processes import join
    from prune.planning.plan import Plan

    asked = validated(PlanArguments, settings)
    if asked.sweep and asked.unit != "layer":
        raise UsageError(f"--sweep is of whole layers; with --unit {asked.unit} make a plan for each budget")
    target = None if output is None else Path(output)
    if target is not None and asked.sweep:
        refuse_non_empty(target)
    elif target is not None and target.exists():
        raise UsageError(f"{target} exists: give -o a new file, or remove it first")
    documents = DocumentSettings(**fields_of(DocumentSettings, asked))
    subject = planned_for(analysis_or_model, data, tokenizer, documents, asked.seed, fields_of(PlacedSettings, asked))
    cache = asked.score_cache or (subject.directory.resolve().parent / SCORES if target and subject.directory else None)
    processes = join()
    subject.device = processes.device
    if asked.stream:
        _stream(subject, asked, target, cache, processes)
    with at_rest(subject.model):
        found = _shared(subject, asked, cache, processes)
    processes.leave()
    if target is not None and not dry_run and processes.first:
        if isinstance(found, Plan):
            found.save(target)
        else:
            from prune.reporting.frontier import save_frontier

            save_frontier(found, target, asked.lang)
    return found


def _stream(
    subject: Subject, asked: PlanArguments, target: Path | None, cache: Path | None, processes: Processes
) -> None:
    """Score layer by layer from now on.

    Raises:
        UsageError: this model, criterion or search cannot be streamed.
    """
    from prune.api._streaming import check_streamable, streaming_of
    from prune.planning.streamed import StreamedEvaluator, check_sweepable

    check_sweepable(asked.criterion, asked.strategy)
    source = check_streamable(given(subject.model) if subject.model is not None else subject.named)
    subject.evaluator = StreamedEvaluator(
        streaming_of(source, target, asked.stream_memory, processes),
        subject.load_domains(),
        asked.domain_weights or None,
        cache=cache,
        pad_token_id=subject.named.pad_token_id,
        seed=asked.seed,
        unit=asked.unit,
        prediction_share=asked.prediction_share,
    )


def _shared(subject: Subject, asked: PlanArguments, cache: Path | None, processes: Processes) -> Plan | Frontier:
    """The search in the first process, with the scoring shared out where there are others; the same in all."""
    from prune.planning import planner
    from prune.planning.crew import Crew, together

    request = _request(subject, asked, cache if processes.first else None)

    def assist(crew: Crew) -> object:
        used = {name: value for name, value in request.items() if name not in ("strategy", "tuning")}
        return planner.assist(**used, unit=asked.unit, crew=crew)

    return together(processes, lambda crew: _searched(subject, asked, {**request, "crew": crew}), assist)


def _request(subject: Subject, asked: PlanArguments, cache: Path | None) -> dict[str, Any]:
    """What the planner is asked, but for the budget."""
    request: dict[str, Any] = {
        "source": subject.label,
        "criterion": asked.criterion,
        "strategy": asked.strategy,
        "protect": asked.protect,
        "domain_weights": asked.domain_weights or None,
        "tuning": asked.tuning(asked.seed),
        "seed": asked.seed,
        "prediction_share": asked.prediction_share,
        **subject.inputs(),
        "score_cache": cache,
    }
    if asked.runtime and asked.unit != "layer":
        from prune.surgery.deci import check_unit

        request["protect"] = [*asked.protect, *check_unit(subject.config(), asked.unit, asked.runtime)]
    elif asked.runtime:
        from prune.serving.check import slots_for

        request["slots"] = slots_for(subject.config(), asked.runtime)
    return request


def _searched(subject: Subject, asked: PlanArguments, request: dict[str, Any]) -> Plan | Frontier:
    """The plan, or the frontier."""
    from prune.planning import frontier, planner
    from prune.planning.budget import check_protected
    from prune.surgery.deci import check_readers

    budgets = fields_of(BudgetSettings, asked)
    if not asked.sweep:
        result = planner.make_plan(**request, **budgets, unit=asked.unit, decode_context=asked.decode_context)
        if asked.runtime and asked.unit != "layer":
            check_readers(result, asked.runtime)
        elif asked.runtime and (asked.drop_layers is not None or asked.keep_layers is not None):
            _check_readable(subject.config(), result.keep, asked.runtime)
        return result
    depth = subject.depth()
    depths = frontier.depths(depth, len(check_protected(asked.protect, depth)), budgets)
    return frontier.Frontier.of(planner.sweep(depths=depths, **request))


def _check_readable(config: dict[str, Any], keep: list[int], runtimes: list[str]) -> None:
    """Refuse explicit layers that a named runtime would read wrongly."""
    from prune.checkpoint.dialects import in_both_dialects
    from prune.serving.check import require_readable
    from prune.surgery.config_fields import edit_config

    require_readable(in_both_dialects(edit_config(config, keep))[0], runtimes)

"""`prune.plan`: decide which layers go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from pydantic import Field

from prune.analysis.result import Analysis as Measurements
from prune.analysis.settings import StreamSettings
from prune.api._analysis import Analysis, Origin
from prune.api._given import Given, Model, at_rest, given
from prune.api._inputs import Data, check_files, load_domains
from prune.data.settings import DocumentSettings
from prune.errors import UsageError
from prune.files import refuse_non_empty, sha256_json
from prune.model.settings import PlacedSettings
from prune.planning.settings import BudgetSettings, DecodeSettings, PlanSettings, UnitSettings
from prune.serving.settings import RuntimeSettings
from prune.settings import ADVANCED, Seeded, fields_of, takes, validated
from prune.wording.settings import PageSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prune.analysis.processes import Processes
    from prune.data.domains import Domain
    from prune.planning.evaluator import Evaluator
    from prune.planning.frontier import Frontier
    from prune.planning.plan import Plan
    from prune.planning.planner import Inputs

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
    subject = _subject(analysis_or_model, data, tokenizer, documents, asked.seed, fields_of(PlacedSettings, asked))
    cache = asked.score_cache or (subject.directory.resolve().parent / SCORES if target and subject.directory else None)
    processes = join()
    subject.device = processes.device
    if asked.stream:
        subject.stream(asked, target, cache, processes)
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


@dataclass
class Subject:
    """What is planned for: an analysis, a model, or both; each part fetched only when asked for.

    Attributes:
        analysis: measurements, if any.
        directory: where the analysis was read from, if it was.
        given: the model, where the caller named or gave one.
        origin: what an analysis in memory was made from.
        data: documents that the caller gave for scoring.
        tokenizer: that the caller gave.
        documents, seed: how those are cut and drawn.
        loading: permissions, for a model that is read again.
        device: where it is read to; None: wherever the loading says.
        evaluator: scores subsets of a model whose layers stay on disk.
    """

    analysis: Measurements | None
    directory: Path | None
    given: Given | None
    origin: Origin | None
    data: Data | None
    tokenizer: Any
    documents: DocumentSettings
    seed: int
    loading: dict[str, Any]
    device: str | None = None
    evaluator: Evaluator | None = None

    @property
    def label(self) -> str:
        """The model's name in the plan."""
        if self.given is not None:
            return self.given.label
        assert self.analysis is not None
        return str(self.analysis.info["model"])

    @property
    def model(self) -> PreTrainedModel | None:
        """The caller's own model, if it is in memory."""
        return self.given.in_memory if self.given else self.origin.model if self.origin else None

    def inputs(self) -> Inputs:
        """For the planner."""
        if self.evaluator is not None:
            return {"analysis": self.analysis, "locate": self._locate, "evaluator": self.evaluator}
        found: Inputs = {
            "analysis": self.analysis,
            "load_model": lambda: self._loaded,
            "load_domains": self._load_domains,
        }
        if self.model is not None:
            found |= {"model": self.model, "in_memory": True}
            return found
        found["locate"] = self._locate
        if self.analysis is None:
            found["model"] = self._loaded
        return found

    def stream(self, asked: PlanArguments, target: Path | None, cache: Path | None, processes: Processes) -> None:
        """Score layer by layer from now on.

        Raises:
            UsageError: this model, criterion or search cannot be streamed.
        """
        from prune.api._streaming import check_streamable, streaming_of
        from prune.planning.streamed import StreamedEvaluator, check_sweepable

        check_sweepable(asked.criterion, asked.strategy)
        source = check_streamable(given(self.model) if self.model is not None else self._named)
        self.evaluator = StreamedEvaluator(
            streaming_of(source, target, asked.stream_memory, processes),
            self._load_domains(),
            asked.domain_weights or None,
            cache=cache,
            pad_token_id=self._named.pad_token_id,
            seed=asked.seed,
            unit=asked.unit,
            prediction_share=asked.prediction_share,
        )

    def depth(self) -> int:
        """Layers of the model."""
        if self.evaluator is not None:
            return self.evaluator.num_layers
        if self.analysis is not None:
            return self.analysis.num_layers
        from prune.model.layer_list import find_layer_list

        return len(find_layer_list(self.model if self.model is not None else self._loaded)[1])

    def config(self) -> dict[str, Any]:
        """config.json of the model."""
        if self.model is not None:
            return dict(self.model.config.to_dict())
        from prune.checkpoint.directory import read_config

        return read_config(self._locate(), self.loading.get("allow_links", False))

    @cached_property
    def _named(self) -> Given:
        """The model behind the analysis, resolved again."""
        if self.given is not None:
            return self.given
        assert self.analysis is not None
        options = self.analysis.info.get("calibration") or {}
        if options.get("in_memory"):
            raise UsageError("the analysis is of a model that was in memory: give the model and its data to plan with")
        loading = {**self.loading, "dtype": options.get("dtype", "float32")}
        return given(self.label, self.tokenizer, **{**loading, "revision": self.analysis.info.get("revision")})

    def _locate(self) -> Path:
        source = self._named.source
        assert source is not None
        return source.directory

    @cached_property
    def _loaded(self) -> PreTrainedModel:
        return self._named.model(self.device)

    def _load_domains(self) -> Mapping[str, Domain]:
        if self.data is not None:
            subject = given(self.model, self.tokenizer) if self.model is not None else self._named
            asked = self.documents
            return load_domains(self.data, subject.tokenizer, asked.seq_length, asked.calib_num_samples, self.seed)
        if self.origin is not None:
            return self.origin.domains
        if self.analysis is None:
            raise UsageError("--data is missing: the criterion runs the model on documents; give --data")
        return self._read_again(self.analysis)

    def _read_again(self, found: Measurements) -> Mapping[str, Domain]:
        """The documents of an analysis on disk.

        Raises:
            UsageError: they were in memory, or have changed since.
        """
        options, where = found.info.get("calibration") or {}, self.directory or "the analysis"
        if "files" not in options:
            raise UsageError(f"{where}: does not say which documents it used; run `prune analyze` again")
        if absent := [name for name, path in options["files"].items() if path is None]:
            raise UsageError(f"--data {absent[0]}: was in memory and is not in {where}; give --data again")
        if gone := [f"{name}={path}" for name, path in options["files"].items() if _is_gone(path)]:
            raise UsageError(
                f"{where}: was made from documents that are not here ({', '.join(gone)}): give them with --data, or "
                "plan from the measurements alone with --criterion block_influence --strategy one_shot"
            )
        tokenizer = self._named.tokenizer
        loaded = load_domains(
            options["files"], tokenizer, options["seq_length"], options["calib_num_samples"], options["seed"]
        )
        for name, domain in loaded.items():
            if domain.sha256 != found.info["data"][name]["sha256"]:
                raise UsageError(f"{domain.source}: changed since the analysis; run `prune analyze` again")
        return loaded


def _is_gone(path: str) -> bool:
    """Whether a file's full path leads nowhere here, as in a copy of another machine's analysis; a hub id has none."""
    return Path(path).is_absolute() and not Path(path).exists()


def _check_readable(config: dict[str, Any], keep: list[int], runtimes: list[str]) -> None:
    """Refuse explicit layers that a named runtime would read wrongly."""
    from prune.checkpoint.dialects import in_both_dialects
    from prune.serving.check import require_readable
    from prune.surgery.config_fields import edit_config

    require_readable(in_both_dialects(edit_config(config, keep))[0], runtimes)


def _subject(
    analysis_or_model: Model | Measurements,
    data: Data | None,
    tokenizer: Any,
    documents: DocumentSettings,
    seed: int,
    loading: dict[str, Any],
) -> Subject:
    """Which of the three the caller gave.

    Raises:
        UsageError: none of them, or an analysis whose model has been changed since.
    """
    if data is not None:
        data = check_files(data)
    rest = (data, tokenizer, documents, seed, loading)
    if isinstance(analysis_or_model, Measurements):
        origin = analysis_or_model.origin if isinstance(analysis_or_model, Analysis) else None
        if origin is not None and origin.model is not None:
            now = sha256_json(origin.model.config.to_dict())
            if now != analysis_or_model.info["hashes"]["config"]:
                raise UsageError("the model was changed since this analysis was made: analyze it again")
        return Subject(analysis_or_model, None, None, origin, *rest)
    if isinstance(analysis_or_model, str | Path):
        directory = Path(analysis_or_model)
        if directory.is_dir() and not (directory / "config.json").exists():
            return Subject(Measurements.load(directory), directory, None, None, *rest)
    return Subject(None, None, given(analysis_or_model, tokenizer, **loading), None, *rest)

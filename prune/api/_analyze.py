"""`prune.analyze`: measure how a model uses its depth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from prune.analysis.result import Analysis as Measurements
from prune.analysis.settings import AnalyzeSettings, StreamSettings
from prune.api._analysis import Analysis, Origin
from prune.api._given import Given, Model, at_rest, given
from prune.api._inputs import Data, DryRun, check_files, load_domains
from prune.api._streaming import check_streamable, streaming_of
from prune.data.settings import DocumentSettings
from prune.files import refuse_non_empty
from prune.model.settings import PlacedSettings
from prune.settings import Seeded, fields_of, takes, validated
from prune.wording.settings import PageSettings

if TYPE_CHECKING:
    pass


class AnalyzeArguments(PageSettings, StreamSettings, PlacedSettings, Seeded, DocumentSettings, AnalyzeSettings):
    """Everything that `prune analyze` can be told beside the model, the data and the output."""


@overload
def analyze(
    model: Model,
    data: Data,
    *,
    tokenizer: Any = None,
    output: str | Path | None = None,
    dry_run: Literal[False] = False,
    **settings: Any,
) -> Analysis: ...


@overload
def analyze(
    model: Model,
    data: Data,
    *,
    tokenizer: Any = None,
    output: str | Path | None = None,
    dry_run: Literal[True],
    **settings: Any,
) -> DryRun: ...


@takes(AnalyzeArguments)
def analyze(
    model: Model,
    data: Data,
    *,
    tokenizer: Any = None,
    output: str | Path | None = None,
    dry_run: bool = False,
    **settings: Any,
) -> Analysis | DryRun:
    """Measure how a model uses its depth.

    Started by `torchrun` or `accelerate launch`, the processes share the batches and only the first writes.

        prune.analyze("embedded", {"chat": ["A dog ran.", "A cat sat."]}, measure=["contributions", "dnll"])

    Args:
        model: directory, hub id, `embedded`, or a loaded model, which stays as it is; `dtype` is of the others.
        data: domains: a mapping of a name to strings, to rows (`text`, `prompt` + `completion`, `messages` or
            `input_ids`, with an optional `difficulty`), or to a path; see `prune.data.rows.read_rows`.
        tokenizer: of a loaded model, where the data are not token ids; the checkpoint's own if None.
        output: new directory for analysis.json, measurements.safetensors and analysis.html; nothing is written if None.
        dry_run: check the input and return what would be done.

    Returns:
        The analysis, a mapping of keys to float32 arrays with the shapes of prune/analysis/README.md (L layers, losses
        in nats); a `DryRun` when asked for.

    Raises:
        UsageError, PruneError: bad input; nothing is written.
    """
    target = None if output is None else Path(output)
    if target is not None:
        refuse_non_empty(target)
    asked = validated(AnalyzeArguments, settings)
    subject = given(model, tokenizer, **fields_of(PlacedSettings, asked))
    files = check_files(data)
    from prune.analysis import analyze as measure_model
    from prune.analysis.calibration import record_calibration
    from prune.analysis.processes import join

    if asked.stream:
        _check_streaming(asked.measure, subject)
    domains = load_domains(
        files, subject.tokenizer, asked.seq_length, asked.calib_num_samples, asked.seed, sample=dry_run
    )
    if dry_run:
        described = {name: domain.describe() for name, domain in domains.items()}
        return DryRun(model=subject.label, output=None if target is None else str(target), data=described)
    processes = join()
    streaming = None
    if asked.stream and subject.source is not None:
        streaming = streaming_of(subject.source, target, asked.stream_memory, processes)
        loaded = streaming.model.model
    else:
        loaded = processes.together(lambda: subject.model(processes.device))
    with at_rest(subject.in_memory):
        measured = measure_model(
            loaded,
            domains,
            **fields_of(AnalyzeSettings, asked),
            seed=asked.seed,
            pad_token_id=subject.pad_token_id,
            source=subject.label,
            processes=processes,
            streaming=streaming,
        )
    processes.leave()
    subject.require_unchanged()
    kept = {"seq_length", "calib_num_samples", "seed", "dtype"}
    revision = subject.source.revision if subject.source else None
    record_calibration(
        measured, files, **asked.model_dump(include=kept), revision=revision, in_memory=subject.source is None
    )
    if processes.first and target is not None:
        _save(measured, target, asked.lang)
    return Analysis(measured.info, measured.measurements, Origin(subject.in_memory, domains))


def _check_streaming(measures: Sequence[str] | None, subject: Given) -> None:
    from prune.analysis.registry import DEFAULT_MEASURES, select
    from prune.analysis.streamed import check_offered

    check_streamable(subject)
    check_offered(select(DEFAULT_MEASURES if measures is None else measures))


def _save(analysis: Measurements, target: Path, lang: str) -> None:
    from prune.reporting.page import render_analysis_html
    from prune.reporting.png import write_analysis_pngs

    analysis.save(target)
    render_analysis_html(analysis, target / "analysis.html", lang)
    write_analysis_pngs(analysis, target / "figures")

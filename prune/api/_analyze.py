"""`prune.analyze`: measure how a model uses its depth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from prune.analysis.settings import AnalyzeSettings, StreamSettings
from prune.api._inputs import Data, DryRun, check_files, load_domains
from prune.data.domains import pad_token
from prune.data.settings import DocumentSettings
from prune.errors import UsageError
from prune.files import refuse_non_empty
from prune.model.settings import ModelSettings
from prune.settings import Seeded, fields_of, takes, validated
from prune.wording.settings import PageSettings

if TYPE_CHECKING:
    from prune.analysis.processes import Processes
    from prune.analysis.result import Analysis
    from prune.analysis.streamed import Streaming
    from prune.checkpoint.source import Source


class AnalyzeArguments(PageSettings, StreamSettings, ModelSettings, Seeded, DocumentSettings, AnalyzeSettings):
    """Everything that `prune analyze` can be told beside the model, the data and the output."""


@overload
def analyze(
    model: str, output: str | Path, *, data: Data, dry_run: Literal[False] = False, **settings: Any
) -> Analysis: ...


@overload
def analyze(model: str, output: str | Path, *, data: Data, dry_run: Literal[True], **settings: Any) -> DryRun: ...


@takes(AnalyzeArguments)
def analyze(model: str, output: str | Path, *, data: Data, dry_run: bool = False, **settings: Any) -> Analysis | DryRun:
    """Measure how a model uses its depth, and write the result into a new directory.

    Started by `torchrun` or `accelerate launch`, the processes share the batches and only the first writes.

    Args:
        model: directory, hub id, or `embedded`.
        output: new directory for analysis.json, measurements.safetensors and analysis.html.
        data: domains; see `prune.data.domains.load_domain` for the file kinds.
        dry_run: check the input and return what would be done.

    Returns:
        The analysis: arrays by key, float32, with the shapes of prune/analysis/README.md; a `DryRun` when asked for.

    Raises:
        UsageError, PruneError: bad input; nothing is written.
    """
    from prune.checkpoint.source import resolve
    from prune.model.loading import load_model, load_tokenizer

    target = Path(output)
    refuse_non_empty(target)
    asked = validated(AnalyzeArguments, settings)
    source = resolve(model, **fields_of(ModelSettings, asked))
    files = check_files(data)
    from prune.analysis import analyze as measure_model
    from prune.analysis.calibration import record_calibration
    from prune.analysis.processes import join

    if asked.stream:
        _check_streaming(asked.measure)
    tokenizer = load_tokenizer(source)
    domains = load_domains(data, tokenizer, asked.seq_length, asked.calib_num_samples, asked.seed)
    if dry_run:
        return DryRun(model=model, output=str(target), data={n: d.describe() for n, d in domains.items()})
    processes = join()
    streaming = None
    if asked.stream:
        streaming = _streaming(source, target, asked.stream_memory, processes)
        loaded = streaming.model.model
    else:
        loaded = processes.together(lambda: load_model(source, device=processes.device))
    analysis = measure_model(
        loaded,
        domains,
        **fields_of(AnalyzeSettings, asked),
        seed=asked.seed,
        pad_token_id=pad_token(tokenizer),
        source=source.id,
        processes=processes,
        streaming=streaming,
    )
    processes.leave()
    source.require_unchanged()
    kept = {"seq_length", "calib_num_samples", "seed", "dtype"}
    record_calibration(analysis, files, **asked.model_dump(include=kept), revision=source.revision)
    if processes.first:
        _save(analysis, target, asked.lang)
    return analysis


def _check_streaming(measures: Sequence[str] | None) -> None:
    from prune.analysis.registry import DEFAULT_MEASURES, select
    from prune.analysis.streamed import check_offered

    check_offered(select(DEFAULT_MEASURES if measures is None else measures))


def _streaming(source: Source, target: Path, memory: float, processes: Processes) -> Streaming:
    """The model with its layers on disk."""
    from prune.analysis.streamed import GIB, Streaming
    from prune.model.streaming import StreamedModel

    if processes.count > 1:
        raise UsageError("--stream runs in one process: start it without torchrun or accelerate launch")
    spill = next(parent for parent in target.absolute().parents if parent.is_dir())
    return Streaming(StreamedModel(source), int(memory * GIB), spill)


def _save(analysis: Analysis, target: Path, lang: str) -> None:
    from prune.reporting.page import render_analysis_html
    from prune.reporting.png import write_analysis_pngs

    analysis.save(target)
    render_analysis_html(analysis, target / "analysis.html", lang)
    write_analysis_pngs(analysis, target / "figures")

"""`prune.analyze`: measure how a model uses its depth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.api._inputs import Data, check_files, load_domains, pad_token
from prune.errors import UsageError
from prune.files import refuse_non_empty
from prune.wording import Text

if TYPE_CHECKING:
    from prune.analysis.processes import Processes
    from prune.analysis.result import Analysis
    from prune.analysis.streamed import Streaming


def analyze(
    model: str,
    output: str | Path,
    *,
    data: Data,
    measure: Sequence[str] | None = None,
    seq_length: int = 512,
    calib_num_samples: int | None = None,
    seed: int = 0,
    dtype: str = "float32",
    batch_size: int = 8,
    bootstrap: int = 1000,
    first_token: str = "drop",
    swap_distances: Sequence[int] = (1,),
    cuts: int = 3,
    revision: str | None = None,
    trust_remote_code: bool = False,
    stream: bool = False,
    stream_memory: float = 4.0,
    lang: str = "en",
    dry_run: bool = False,
) -> Analysis | dict[str, Any]:
    """Measure how a model uses its depth, and write the result into a new directory.

    Started by `torchrun` or `accelerate launch`, the processes share the batches and only the first writes.

    Args:
        model: directory, hub id, or `embedded`.
        output: new directory for analysis.json, measurements.safetensors and analysis.html.
        data: domains; see `prune.data.domains.load_domain` for the file kinds.
        measure: names of measurements; the default set if None.
        seq_length: longer documents are cut, in tokens.
        calib_num_samples: documents per domain; all if None.
        seed: of the draw of documents and of every other random choice.
        dtype: of the computation: `auto`, `float32`, `bfloat16` or `float16`.
        batch_size: documents per forward pass.
        bootstrap: resamples of the documents behind each interval.
        first_token: `drop` removes a layer at every position, `keep` never at position 0 (the paper's rule).
        swap_distances: for each k, `swap` exchanges layers l and l + k.
        cuts: positions per document at which `future` is measured.
        stream: walk the model layer by layer, every weight read once for all documents: for models larger than memory.
            Measures: `prune.analysis.registry.STREAMED`.
        stream_memory: GiB of activations held in memory when streaming; the others lie in a hidden directory beside
            `output` until the end.
        revision, trust_remote_code: of a hub id; run the modelling code that comes with it.
        lang: language of analysis.html, `en` or `ja`.
        dry_run: check the input and return what would be done.

    Returns:
        The analysis: arrays by key, float32, with the shapes of prune/analysis/README.md.

    Raises:
        UsageError, PruneError: bad input; nothing is written.
    """
    from prune.model.loading import load_model, load_tokenizer, model_directory

    target = Path(output)
    refuse_non_empty(target)
    Text(lang)  # an unknown language should not wait for the measurements to be found out
    source = model_directory(model)
    files = check_files(data)
    from prune.analysis import DEFAULT_MEASURES
    from prune.analysis import analyze as measure_model
    from prune.analysis.processes import join
    from prune.analysis.run import Options, check_options

    names = tuple(DEFAULT_MEASURES if measure is None else measure)
    check_options(Options(names, batch_size, seed, first_token, tuple(swap_distances), cuts, bootstrap))
    if stream:
        _check_streaming(names)
    tokenizer = load_tokenizer(source, revision=revision, trust_remote_code=trust_remote_code)
    domains = load_domains(data, tokenizer, seq_length, calib_num_samples, seed)
    if dry_run:
        return {"model": model, "output": str(target), "data": {n: d.describe() for n, d in domains.items()}}
    processes = join()
    options: dict[str, Any] = {"dtype": dtype, "revision": revision, "trust_remote_code": trust_remote_code}
    streaming = None
    if stream:
        streaming = _streaming(source, target, stream_memory, processes, options)
        loaded = streaming.model.model
    else:
        loaded = processes.together(lambda: load_model(source, device=processes.device, **options))
    analysis = measure_model(
        loaded,
        domains,
        measures=names,
        batch_size=batch_size,
        bootstrap=bootstrap,
        first_token=first_token,
        swap_distances=swap_distances,
        cuts=cuts,
        seed=seed,
        pad_token_id=pad_token(tokenizer),
        source=model,
        processes=processes,
        streaming=streaming,
    )
    processes.leave()
    analysis.info["calibration"] = {
        "files": files,
        "seq_length": seq_length,
        "calib_num_samples": calib_num_samples,
        "seed": seed,
        "dtype": dtype,
        "revision": revision,
    }
    if processes.first:
        _save(analysis, target, lang)
    return analysis


def _check_streaming(measures: Sequence[str]) -> None:
    from prune.analysis.registry import select
    from prune.analysis.streamed import check_offered

    check_offered(select(measures))


def _streaming(source: str, target: Path, memory: float, processes: Processes, options: dict[str, Any]) -> Streaming:
    """The model with its layers on disk."""
    from prune.analysis.streamed import GIB, Streaming
    from prune.model.streaming import StreamedModel

    if processes.count > 1:
        raise UsageError("--stream runs in one process: start it without torchrun or accelerate launch")
    spill = next(parent for parent in target.absolute().parents if parent.is_dir())
    return Streaming(StreamedModel(source, **options), int(memory * GIB), spill)


def _save(analysis: Analysis, target: Path, lang: str) -> None:
    from prune.reporting.page import render_analysis_html
    from prune.reporting.png import write_analysis_pngs

    analysis.save(target)
    render_analysis_html(analysis, target / "analysis.html", lang)
    write_analysis_pngs(analysis, target / "figures")

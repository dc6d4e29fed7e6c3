"""From a model and domains to an `Analysis`: the loop over batches, and the account of what was measured on what.

Each batch is run once; every measurement adds its per-document sums to its domain's `Records`; figures, intervals,
stability and phase changes follow from the records alone. Assumption: the model is ready to run (evaluation mode).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from evals.progress import stage
from prune.analysis.batch_size import BatchSize
from prune.analysis.clean_pass import CleanPass, Rules
from prune.analysis.difficulty import difficulty_report
from prune.analysis.documents import check_documents
from prune.analysis.future import cut_positions
from prune.analysis.phases import phase_changes
from prune.analysis.processes import ALONE, Processes
from prune.analysis.prompts import SEGMENTS, takes_part
from prune.analysis.registry import DEFAULT_MEASURES, ON_PROMPTS, TABLES, Measure, modules, select
from prune.analysis.result import Analysis
from prune.analysis.settings import AnalyzeSettings
from prune.analysis.stability import stability, too_few_documents
from prune.analysis.statistics import Records, resampling, summarise
from prune.analysis.streamed import Streaming, collect_streamed
from prune.data.domains import Batch, Domain, batches, drowned_answers
from prune.errors import UsageError
from prune.files import sha256_json
from prune.model.anatomy import find_anatomy
from prune.model.sublayers import SublayerTracer
from prune.versions import library_versions
from prune.wording import Message, message
from prune.wording.text import english

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Options(AnalyzeSettings):
    """What `prune.analysis.analyze` was asked for: the settings, and what a caller in Python may say beyond them."""

    bootstrap: int = Field(1000, ge=0)
    seed: int = 0
    pad_token_id: int = 0

    @property
    def measures(self) -> Sequence[str]:
        """Names of measures and groups, the default group where none is named."""
        return DEFAULT_MEASURES if self.measure is None else self.measure


def run_analysis(
    model: PreTrainedModel,
    domains: Mapping[str, Domain],
    options: Options,
    *,
    source: str = "",
    processes: Processes = ALONE,
    streaming: Streaming | None = None,
) -> Analysis:
    """Measure, summarise and describe; see `prune.analysis.analyze`."""
    chosen = select(options.measures)
    _check_domains(domains)
    tracer = SublayerTracer(find_anatomy(model))
    check_documents(model, tracer.anatomy.embedding, domains)
    if "swap" in chosen and (far := [k for k in options.swap_distances if k >= tracer.anatomy.num_layers]):
        raise UsageError(f"swap_distances {far[0]}: the model has {tracer.anatomy.num_layers} layers; give less")
    fitting = BatchSize(options.batch_size)
    records: dict[str, Records] = {}

    def run(size: int) -> None:
        smaller = options.model_copy(update={"batch_size": size})
        records.update(collect(model, tracer, domains, chosen, smaller, processes, streaming))

    if processes.count > 1:  # one process alone cannot start again with a smaller batch
        run(options.batch_size)
    else:
        fitting.until_it_fits(run, "calibration")
    parts = list(records.values())
    measurements = figures(parts, chosen, options)
    for name, part in records.items():
        own = figures([part], chosen, options) if len(parts) > 1 else measurements
        measurements.update({f"by_domain/{name}/{key}": value for key, value in own.items()})
    depth = tracer.anatomy.num_layers
    scalars = _scalars(measurements, domains)
    depth_use, scores, unmeasured = difficulty_report(records, domains, depth, options.bootstrap, options.seed)
    measurements.update({key: value.astype(np.float32) for key, value in scores.items()})
    info = _provenance(model, domains, options, source) | {
        "num_layers": depth,
        "scalars": scalars,
        "stability": stability(parts, depth, options.bootstrap, options.seed),
        "phase_changes": phase_changes(parts, options.bootstrap, options.seed),
    }
    info["options"] |= {"batch_size_used": fitting.value, "measures": list(chosen)}
    if depth_use:
        info["difficulty"] = depth_use
    found = [*_warnings(tracer, domains, info), *unmeasured]
    info["messages"] = [warning.model_dump(mode="json") for warning in found]
    info["warnings"] = [english(warning) for warning in found]
    return Analysis(info, measurements)


def _provenance(model: PreTrainedModel, domains: Mapping[str, Domain], options: Options, source: str) -> dict[str, Any]:
    """What was measured on what, with which options and libraries."""
    return {
        "model": source or str(model.config.name_or_path or type(model).__name__),
        "revision": getattr(model.config, "_commit_hash", None),
        "hashes": {
            "config": sha256_json(model.config.to_dict()),
            "data": sha256_json([domain.sha256 for domain in domains.values()]),
        },
        "data": {name: domain.describe() for name, domain in domains.items()},
        "seed": options.seed,
        "options": {
            **options.model_dump(exclude={"measure"}),
            "dtype": str(model.dtype),
        },
        "versions": library_versions(),
    }


def collect(
    model: PreTrainedModel,
    tracer: SublayerTracer,
    domains: Mapping[str, Domain],
    chosen: Mapping[str, Measure],
    options: Options,
    processes: Processes = ALONE,
    streaming: Streaming | None = None,
) -> dict[str, Records]:
    """Run every batch of every domain and keep per-document sums: domain -> records.

    Several processes deal the batches out among themselves; each returns the records of all. With `streaming` all
    batches go through one layer after the other.
    """
    functions = [module.measure for module in modules(chosen)]
    needed = tracer if any(measure.sublayers for measure in chosen.values()) else None
    keep_parts = any(measure.parts for measure in chosen.values())
    rules = Rules(frozenset(chosen), options.first_token, tuple(options.swap_distances), options.cuts)
    total = sum(len(domain.documents) for domain in domains.values())
    records = {name: Records(len(domain.documents), domains=len(domains)) for name, domain in domains.items()}

    def run(own: tuple[str, Batch] | None) -> None:
        if own is None:  # fewer batches than processes in the last round
            return
        name, batch = own
        clean = CleanPass(model, tracer.anatomy, batch, needed, rules, keep_parts)
        for function in functions:
            measuring.item = f"{name}: {function.__module__.rpartition('.')[2]}"
            function(clean, records[name])

    queue = [
        (name, batch)
        for name, domain in domains.items()
        for batch in batches(domain.documents, options.batch_size, options.pad_token_id)
    ]
    if streaming is not None:
        collect_streamed(streaming, tracer, queue, chosen, rules, records)
        return records
    if processes.count > 1 and needed is not None:  # all decide each layer's layout on the batch that one would use
        processes.together(lambda: CleanPass(model, tracer.anatomy, queue[0][1], needed, rules))
    with stage("measuring", total, "documents") as measuring:
        for own, shared in processes.deal(queue):
            measuring.item = shared[0][0]
            processes.together(partial(run, own))
            measuring.advance(sum(len(batch.index) for _, batch in shared))
    return processes.merge(records)


def figures(parts: Sequence[Records], chosen: Mapping[str, Measure], options: Options) -> dict[str, np.ndarray]:
    """Every figure of these domains together, with intervals: ratios of sums, maxima, and what samples give."""
    found = summarise(parts, options.bootstrap, options.seed)
    draws = resampling(parts, options.bootstrap, options.seed)
    for module in modules(chosen):
        if hasattr(module, "derive"):
            found.update(module.derive(parts, draws))
    return found


def _check_domains(domains: Mapping[str, Domain]) -> None:
    if not domains:
        raise UsageError("no calibration data: data is empty; give a name and its documents")
    for name, domain in domains.items():
        if not domain.documents:
            raise UsageError(f"data {name}: the domain holds no documents")


def _scalars(measurements: dict[str, np.ndarray], domains: Mapping[str, Domain]) -> dict[str, Any]:
    """Counts, and every figure that is one number and so no array (the clean negative log-likelihood)."""
    scalars: dict[str, Any] = {
        "documents": sum(len(d.documents) for d in domains.values()),
        "tokens": sum(len(doc.input_ids) for d in domains.values() for doc in d.documents),
    }
    for key in [key for key, value in measurements.items() if value.ndim == 0]:
        scalars[key] = float(measurements.pop(key))
    return scalars


def _without_prompts(domains: Mapping[str, Domain], first_token: str) -> list[Message]:
    found = []
    for name, domain in domains.items():
        absent = sum(not takes_part(document, first_token) for document in domain.documents)
        if absent:
            found.append(
                message(
                    "warn_no_prompt", domain=name, absent=absent, documents=len(domain.documents), tokens=SEGMENTS,
                    measures=list(ON_PROMPTS),
                )
            )  # fmt: skip
    return found


def _without_cut(domains: Mapping[str, Domain], first_token: str) -> list[Message]:
    found = []
    for name, domain in domains.items():
        absent = sum(not cut_positions(len(document.input_ids), 1, first_token) for document in domain.documents)
        if absent:
            found.append(message("warn_no_cut", domain=name, absent=absent, documents=len(domain.documents)))
    return found


def _warnings(tracer: SublayerTracer, domains: Mapping[str, Domain], info: Mapping[str, Any]) -> list[Message]:
    found = []
    asked, used = info["options"]["batch_size"], info["options"]["batch_size_used"]
    if used < asked:
        found.append(message("warn_batch_size", asked=asked, used=used))
    for name, domain in domains.items():
        if domain.excluded:
            found.append(message("warn_short", domain=name, documents=domain.excluded))
        if len(domain.documents) == 1:
            found.append(message("warn_one_document", domain=name))
        if domain.unanswered:
            found.append(message("warn_unanswered", domain=name, documents=domain.unanswered))
        if drowned := drowned_answers(domain):
            found.append(drowned)
    measures, first_token = info["options"]["measures"], info["options"]["first_token"]
    if set(ON_PROMPTS) & set(measures):
        found += _without_prompts(domains, first_token)
    if "future" in measures:
        found += _without_cut(domains, first_token)
    reasons: dict[str, tuple[Message, list[int]]] = {}
    for layer, layout in sorted(tracer.layouts.items()):
        if layout.reason is not None:
            reasons.setdefault(layout.reason.model_dump_json(), (layout.reason, []))[1].append(layer)
    found += [message("warn_not_apart", layers=layers, reason=reason) for reason, layers in reasons.values()]
    if tracer.attention_removable is False:
        found.append(message("warn_attention_stays"))
    coarse = [name for name in TABLES if name in info["options"]["measures"]]
    if coarse and info["options"]["dtype"] == "torch.bfloat16":
        found.append(message("warn_coarse_maxima", measures=coarse))
    return [*found, *too_few_documents(info["stability"], sum(len(d.documents) for d in domains.values()))]

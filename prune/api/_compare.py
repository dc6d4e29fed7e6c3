"""`prune.compare`: several checkpoints side by side."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.api._inputs import Data, check_files, load_domains, load_suites, pad_token
from prune.errors import UsageError
from prune.files import refuse_non_empty, staged_directory, write_json
from prune.wording import Message, Text

if TYPE_CHECKING:
    from evals.evidence import Evidence
    from evals.suite import Suite
    from prune.analysis.depth_map import DepthMap
    from prune.checkpoint.source import Source
    from prune.comparison import Comparison
    from prune.data.domains import Domain


def compare(
    models: Sequence[str],
    output: str | Path,
    *,
    suite: Sequence[str] = (),
    size: str = "quick",
    limit: int | None = None,
    include_path: Sequence[str] = (),
    local_data: str | None = None,
    data: Data = (),
    depth_map: bool = False,
    seq_length: int = 512,
    calib_num_samples: int | None = None,
    batch_size: int = 8,
    cost_batch_size: int = 1,
    prompt_tokens: int = 128,
    new_tokens: int = 32,
    repeats: int = 3,
    bootstrap: int = 200,
    alpha: float = 0.05,
    confirm_run_unsafe_code: bool = False,
    seed: int = 0,
    dtype: str = "float32",
    lang: str = "en",
    revision: str | None = None,
    trust_remote_code: bool = False,
    allow_links: bool = False,
    progress: bool = False,
    dry_run: bool = False,
) -> Comparison | dict[str, Any]:
    """Quality, cost, depth use and residual width of two or more checkpoints, and which lie on the Pareto front.

    Args:
        models: directories or hub ids; the first is the reference.
        output: new directory for compare.json, compare.html and, with `depth_map`, depth_map.html and its JSON.
        suite: built-in suite names or YAML files; no quality without.
        limit: items per task; wins over `size`.
        include_path, local_data: lm-eval task files of your own; data files that replace the hub.
        confirm_run_unsafe_code: allow tasks that run generated code.
        data: documents by domain; no depth use and no depth map without.
        depth_map: best linear map from each depth of the first model to each of the second.
        seq_length: longer documents are cut, in tokens.
        calib_num_samples: documents per domain; all if None.
        batch_size: documents or prompts at a time.
        cost_batch_size, prompt_tokens, new_tokens, repeats: of the speed measurement, all models in turn.
        bootstrap: resamples behind the intervals of the depth use.
        alpha: error rate of the gate over all suites.
        seed: of every random choice.
        dtype: of the computation: `auto`, `float32`, `bfloat16` or `float16`.
        lang: language of the pages, `en` or `ja`.
        revision: of every hub id that does not name its own (`org/name@revision`).
        trust_remote_code, allow_links: see `prune.checkpoint.source.Source`.
        progress: show progress bars.
        dry_run: check the input and return what would be done.

    Raises:
        UsageError, PruneError, evals.errors.EvalError: bad input, or a tokenizer that makes the tests different.
    """
    from evals.suite_choice import check_tasks
    from prune.checkpoint.source import resolve_all
    from prune.comparison import Compared, Comparison, mark_pareto
    from prune.model.loading import load_model, load_tokenizer

    target = Path(output)
    refuse_non_empty(target)
    Text(lang)  # an unknown language should not wait for the measurements to be found out
    names = _names(models)
    if depth_map and (not data or len(models) != 2):
        raise UsageError("--depth_map takes exactly two models and documents (--data NAME=PATH)")
    sources = resolve_all(
        dict(zip(names, models, strict=True)), revision=revision, dtype=dtype, trust_remote_code=trust_remote_code,
        allow_links=allow_links,
    )  # fmt: skip
    if data:
        check_files(data)
    suites = load_suites(suite, size)
    folders, replacements = [Path(p) for p in include_path], Path(local_data) if local_data else None
    if suites:
        check_tasks(suites, folders, replacements, confirm_run_unsafe_code)
    if dry_run:
        return {"models": names, "suites": [s.name for s in suites], "depth_map": depth_map}
    tokenizers = {name: load_tokenizer(source) for name, source in sources.items()}
    domains = {
        name: load_domains(data, tokenizers[name], seq_length, calib_num_samples, seed) if data else {}
        for name in names
    }
    if depth_map:
        _check_map(*domains.values())
    loaded = {name: load_model(source) for name, source in sources.items()}
    evidence = _quality(
        loaded, tokenizers, suites, alpha, include_path=folders, local_data=replacements, limit=limit, seed=seed,
        batch_size=batch_size, progress=progress, confirm_run_unsafe_code=confirm_run_unsafe_code,
    )  # fmt: skip
    shape = {"batch_size": cost_batch_size, "prompt_tokens": prompt_tokens, "new_tokens": new_tokens}
    rows, setting = _cost(loaded, sources, shape, repeats)
    for name, row in rows.items():
        row["suites"] = _figures(name, names[0], evidence)
        if domains[name]:
            row |= _depth(loaded[name], domains[name], pad_token(tokenizers[name]), batch_size, bootstrap, seed)
    fitted = _depth_map(loaded, domains, pad_token(tokenizers[names[0]]), batch_size, seed) if depth_map else None
    result = Comparison(
        models=[Compared(name=name, **row) for name, row in rows.items()],
        setting=setting,
        depth_map=fitted.as_dict() if fitted else None,
    )
    mark_pareto(result.models)
    _save(result, evidence, fitted, target, lang)
    return result


def _names(models: Sequence[str]) -> list[str]:
    """Short names, made distinct."""
    if len(models) < 2:
        raise UsageError("compare: give two or more models")
    if len(set(models)) < len(models):
        raise UsageError("compare: a model is named twice")
    short = [Path(model).name if Path(model).is_dir() else model for model in models]
    if len(set(short)) == len(short):
        return short
    longer = ["/".join(Path(model).parts[-2:]) for model in models]
    return longer if len(set(longer)) == len(longer) else list(models)


def _quality(
    loaded: dict[str, Any], tokenizers: dict[str, Any], suites: list[Suite], alpha: float, **options: Any
) -> dict[str, Evidence]:
    """Evidence of every model but the first, against the first; empty without suites. Options: of `run_tasks`."""
    if not suites:
        return {}
    from evals.gate import judge
    from evals.harness import run_tasks
    from evals.suite_choice import with_measured_chance

    tasks = [task for s in suites for task in s.tasks]
    results = {name: run_tasks(model, tokenizers[name], tasks, **options) for name, model in loaded.items()}
    reference, *others = loaded
    measured = with_measured_chance(suites, results[reference])
    found = {}
    for name in others:
        evidence = judge(results[reference], results[name], measured, alpha=alpha, seed=options["seed"])
        evidence.original_model, evidence.candidate_model = reference, name
        found[name] = evidence
    return found


def _figures(name: str, reference: str, evidence: dict[str, Evidence]) -> dict[str, Any]:
    from prune.comparison import suite_figures

    own = None if name == reference else evidence.get(name)
    return dict(suite_figures(own, next(iter(evidence.values()), None)))


def _cost(
    loaded: dict[str, Any], sources: dict[str, Source], shape: dict[str, int], repeats: int
) -> tuple[dict[str, dict[str, Any]], Message]:
    from evals.cost import footprint
    from evals.throughput import measure_side_by_side
    from prune.runs.costing import measured_setting

    speeds = measure_side_by_side(loaded, **shape, repeats=repeats)
    rows: dict[str, dict[str, Any]] = {}
    for name, model in loaded.items():
        size = footprint(model)
        rows[name] = {
            "num_layers": size.layers,
            "parameters": size.parameters,
            "bytes": sources[name].bytes,
            "kv_bytes_per_token": size.kv_bytes_per_token,
            "prefill_tokens_per_s": speeds[name].prefill_tokens_per_s,
            "decode_tokens_per_s": speeds[name].decode_tokens_per_s,
        }
    return rows, measured_setting(next(iter(speeds.values())).to_dict())


def _depth(
    model: Any, domains: dict[str, Domain], pad: int, batch_size: int, bootstrap: int, seed: int
) -> dict[str, Any]:
    from prune.analysis import analyze
    from prune.comparison import depth_use

    analysis = analyze(
        model, domains, measure=("contributions", "width"), batch_size=batch_size, bootstrap=bootstrap, seed=seed,
        pad_token_id=pad,
    )  # fmt: skip
    return depth_use(analysis, int(model.get_input_embeddings().weight.shape[1]))


def _depth_map(
    loaded: dict[str, Any], domains: dict[str, dict[str, Domain]], pad: int, batch_size: int, seed: int
) -> DepthMap:
    from prune.analysis.depth_map import depth_map

    first, second = loaded
    return depth_map(
        loaded[first], loaded[second], domains[first], batch_size=batch_size, pad_token_id=pad, seed=seed
    )  # fmt: skip


def _check_map(first: dict[str, Domain], second: dict[str, Domain]) -> None:
    """What makes a depth map impossible should not be found out after hours of tests."""
    from prune.analysis.depth_map import check_count

    check_count(sum(len(domain.documents) for domain in first.values()))
    for (name, a), b in zip(first.items(), second.values(), strict=True):
        pairs = itertools.zip_longest(a.documents, b.documents)
        if any(x is None or y is None or x.input_ids != y.input_ids for x, y in pairs):
            raise UsageError(
                f"--depth_map: the two models' tokenizers split {name} differently, so their positions do not match"
            )


def _save(result: Comparison, evidence: dict[str, Evidence], fitted: DepthMap | None, target: Path, lang: str) -> None:
    from prune.reporting.compared import render_comparison_html
    from prune.reporting.page import render_depth_map_html

    first, second = (model.name for model in result.models[:2])
    with staged_directory(target) as staging:
        result.save(staging / "compare.json", lang)
        render_comparison_html(result, staging / "compare.html", lang)
        for name, found in evidence.items():
            found.save(staging / "evidence" / name)
        if fitted is not None:
            write_json(staging / "depth_map.json", fitted.as_dict())
            render_depth_map_html(fitted, (first, second), staging / "depth_map.html", lang)

"""`prune.compare`: several checkpoints side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.api._inputs import Data, check_files, load_domains, load_suites
from prune.errors import UsageError
from prune.files import refuse_non_empty
from prune.wording import Text

if TYPE_CHECKING:
    from prune.comparison import Comparison


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
    from prune.comparison import check_depth_map, compare_models
    from prune.model.loading import load_model, load_tokenizer
    from prune.reporting.compared import save_comparison

    target = Path(output)
    refuse_non_empty(target)
    Text(lang)  # an unknown language should not wait for the measurements to be found out
    names = _names(models)
    if depth_map and (not data or len(models) != 2):
        raise UsageError("depth_map takes exactly two models and documents (data NAME=PATH)")
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
        check_depth_map(*domains.values())
    result, evidence, fitted = compare_models(
        {name: load_model(source) for name, source in sources.items()},
        tokenizers,
        domains,
        {name: source.directory for name, source in sources.items()},
        suites=suites,
        tests={
            "include_path": folders,
            "local_data": replacements,
            "limit": limit,
            "batch_size": batch_size,
            "progress": progress,
            "confirm_run_unsafe_code": confirm_run_unsafe_code,
        },
        speed={
            "batch_size": cost_batch_size,
            "prompt_tokens": prompt_tokens,
            "new_tokens": new_tokens,
            "repeats": repeats,
        },
        mapped=depth_map,
        batch_size=batch_size,
        bootstrap=bootstrap,
        alpha=alpha,
        seed=seed,
    )
    save_comparison(result, evidence, fitted, target, lang)
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

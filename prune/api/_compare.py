"""`prune.compare`: several checkpoints side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from pydantic import Field

from evals.settings import Names, SpeedSettings, TestSettings
from prune.api._inputs import Data, DryRun, check_files, load_domains, load_suites
from prune.data.settings import DocumentSettings
from prune.errors import UsageError
from prune.files import refuse_non_empty
from prune.model.settings import ModelSettings
from prune.settings import METHOD, Seeded, fields_of, takes, validated
from prune.wording.settings import PageSettings

if TYPE_CHECKING:
    from prune.comparison import Comparison


class CompareArguments(PageSettings, SpeedSettings, ModelSettings, Seeded, DocumentSettings, TestSettings):
    """Everything that `prune compare` can be told beside the models, the data and the output."""

    suite: Names = Field([], description="Names of built-in suites, or YAML files, with commas; no quality without.")
    size: Literal["quick", "full"] = Field(  # every model is tested, and no export hangs on it
        "quick", description="`quick` or `full`, as each suite defines them; limit wins."
    )
    depth_map: bool = Field(
        False, description="Best linear map from each depth of the first model to each of the second (two models)."
    )
    batch_size: int = Field(8, ge=1, description="Documents or prompts at a time.")
    cost_batch_size: int = Field(
        1, ge=1, description="Sequences at a time where speed is measured.", json_schema_extra=METHOD
    )
    bootstrap: int = Field(  # the page shows two figures of depth use, not every layer's
        200, ge=10, description="Resamples behind the intervals of the depth use.", json_schema_extra=METHOD
    )


@overload
def compare(
    models: Sequence[str],
    output: str | Path,
    *,
    data: Data = (),
    progress: bool = False,
    dry_run: Literal[False] = False,
    **settings: Any,
) -> Comparison: ...


@overload
def compare(
    models: Sequence[str],
    output: str | Path,
    *,
    dry_run: Literal[True],
    data: Data = (),
    progress: bool = False,
    **settings: Any,
) -> DryRun: ...


@takes(CompareArguments)
def compare(
    models: Sequence[str],
    output: str | Path,
    *,
    data: Data = (),
    progress: bool = False,
    dry_run: bool = False,
    **settings: Any,
) -> Comparison | DryRun:
    """Quality, cost, depth use and residual width of two or more checkpoints, and which lie on the Pareto front.

    Args:
        models: directories or hub ids; the first is the reference.
        output: new directory for compare.json, compare.html and, with `depth_map`, depth_map.html and its JSON.
        data: documents by domain; no depth use and no depth map without.
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
    asked = validated(CompareArguments, settings)
    names = _names(models)
    if asked.depth_map and (not data or len(models) != 2):
        raise UsageError("depth_map takes exactly two models and documents (data NAME=PATH)")
    sources = resolve_all(dict(zip(names, models, strict=True)), **fields_of(ModelSettings, asked))
    if data:
        check_files(data)
    suites = load_suites(asked.suite, asked.size)
    if suites:
        check_tasks(suites, asked.folders, asked.replacements, asked.confirm_run_unsafe_code)
    if dry_run:
        return DryRun(models=names, suites=[s.name for s in suites], depth_map=asked.depth_map)
    tokenizers = {name: load_tokenizer(source) for name, source in sources.items()}
    domains = {
        name: load_domains(data, tokenizers[name], asked.seq_length, asked.calib_num_samples, asked.seed)
        if data
        else {}
        for name in names
    }
    if asked.depth_map:
        check_depth_map(*domains.values())
    result, evidence, fitted = compare_models(
        {name: load_model(source) for name, source in sources.items()},
        tokenizers,
        domains,
        {name: source.directory for name, source in sources.items()},
        suites=suites,
        tests={**asked.options(), "batch_size": asked.batch_size, "progress": progress},
        speed={**fields_of(SpeedSettings, asked), "batch_size": asked.cost_batch_size},
        mapped=asked.depth_map,
        batch_size=asked.batch_size,
        bootstrap=asked.bootstrap,
        alpha=asked.alpha,
        seed=asked.seed,
    )
    save_comparison(result, evidence, fitted, target, asked.lang)
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

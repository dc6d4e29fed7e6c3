"""`prune.compare`: several checkpoints side by side."""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from pydantic import Field

from evals.settings import Names, SpeedSettings, TestSettings
from prune.api._given import Given, Model, all_given, at_rest, given
from prune.api._inputs import Data, DryRun, check_files, load_domains, load_suites
from prune.data.settings import DocumentSettings
from prune.errors import PruneError, UsageError
from prune.files import refuse_non_empty
from prune.model.settings import PlacedSettings
from prune.settings import METHOD, Seeded, fields_of, takes, validated
from prune.wording.settings import PageSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prune.comparison import Comparison


class CompareArguments(PageSettings, SpeedSettings, PlacedSettings, Seeded, DocumentSettings, TestSettings):
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
    models: Sequence[Model] | Mapping[str, Model],
    output: str | Path | None = None,
    *,
    data: Data = (),
    tokenizer: Any = None,
    dry_run: Literal[False] = False,
    **settings: Any,
) -> Comparison: ...


@overload
def compare(
    models: Sequence[Model] | Mapping[str, Model],
    output: str | Path | None = None,
    *,
    dry_run: Literal[True],
    data: Data = (),
    tokenizer: Any = None,
    **settings: Any,
) -> DryRun: ...


@takes(CompareArguments)
def compare(
    models: Sequence[Model] | Mapping[str, Model],
    output: str | Path | None = None,
    *,
    data: Data = (),
    tokenizer: Any = None,
    dry_run: bool = False,
    **settings: Any,
) -> Comparison | DryRun:
    """Quality, cost, depth use and residual width of two or more checkpoints, and which lie on the Pareto front.

        found = prune.compare({"original": model, "cut": small}, tokenizer=tokenizer, suite="demo_math")

    Args:
        models: directories, hub ids or loaded models, which stay as they are; the first is the reference. A mapping
            names them.
        output: new directory for compare.json, compare.html and, with `depth_map`, depth_map.html and its JSON; nothing
            is written if None.
        data: documents by domain; no depth use and no depth map without.
        tokenizer: of all; a checkpoint's own if None.
        dry_run: check the input and return what would be done.

    Returns:
        The rows, the reference first: `quality` is mean retention, costs are in bytes and tokens per second.

    Raises:
        UsageError, PruneError, evals.errors.EvalError: bad input, or a tokenizer that makes the tests different.
    """
    from evals.suite_choice import check_tasks
    from prune.comparison import check_depth_map, compare_models
    from prune.reporting.compared import save_comparison

    target = None if output is None else Path(output)
    if target is not None:
        refuse_non_empty(target)
    asked = validated(CompareArguments, settings)
    named = _names(models)
    if asked.depth_map and (not data or len(named) != 2):
        raise UsageError("--depth_map takes exactly two models and documents (--data NAME=PATH)")
    subjects = all_given(named, dict.fromkeys(named, tokenizer), **fields_of(PlacedSettings, asked))
    if data:
        data = check_files(data)
    suites = load_suites(asked.suite, asked.size)
    if suites:
        check_tasks(suites, asked.folders, asked.replacements, asked.confirm_run_unsafe_code, selectable=False)
        for subject in subjects.values():
            subject.require_tokenizer()
    if dry_run:
        return DryRun(models=list(named), suites=[s.name for s in suites], depth_map=asked.depth_map)
    tokenizers = {name: subject.tokenizer for name, subject in subjects.items()}
    domains = {
        name: load_domains(data, tokenizers[name], asked.seq_length, asked.calib_num_samples, asked.seed)
        if data
        else {}
        for name in named
    }
    if asked.depth_map:
        check_depth_map(*domains.values())
    with at_rest(*(subject.in_memory for subject in subjects.values())):
        result, evidence, fitted = compare_models(
            {name: subject.model() for name, subject in subjects.items()},
            tokenizers,
            domains,
            {name: subject.source.directory for name, subject in subjects.items() if subject.source},
            suites=suites,
            tests={**asked.options(), "batch_size": asked.batch_size},
            speed={**fields_of(SpeedSettings, asked), "batch_size": asked.cost_batch_size},
            mapped=asked.depth_map,
            batch_size=asked.batch_size,
            bootstrap=asked.bootstrap,
            alpha=asked.alpha,
            seed=asked.seed,
            speedups=_drafts(subjects),
        )
    if target is not None:
        save_comparison(result, evidence, fitted, target, asked.lang)
    return result


def _drafts(subjects: Mapping[str, Given]) -> dict[str, float]:
    """Checkpoints that `prune draft` made of the first: name -> speed-up of the pair, where every answer was the same.

    The geometric mean over the domains that were measured.
    """
    from prune.drafting import RECORD

    reference, *others = subjects.values()
    found = {}
    for name, subject in zip(list(subjects)[1:], others, strict=True):
        path = subject.source.directory / RECORD if subject.source else None
        if path is None or not path.is_file() or reference.source is None:
            continue
        try:
            facts = json.loads(path.read_text(encoding="utf8"))
            rows = list(facts["domains"].values())
            if facts["source_sha256"] == reference.source.sha256 and all(row["lossless"] for row in rows):
                found[name] = statistics.geometric_mean(float(row["speedup"]) for row in rows)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise PruneError(f"{path}: damaged; make the pair again with prune draft") from None
    return found


def _names(models: Sequence[Model] | Mapping[str, Model]) -> dict[str, Model]:
    """Models by short names, made distinct: the caller's own, or made of where they come from.

    Raises:
        UsageError: fewer than two, one that is there twice, or loaded ones that cannot be told apart.
    """
    if isinstance(models, str | Path) or len(models) < 2:
        raise UsageError("compare: give two or more models")
    if isinstance(models, Mapping):
        return dict(models)
    if any(a is b or (isinstance(a, str | Path) and a == b) for a, b in itertools.combinations(models, 2)):
        raise UsageError("compare: a model is named twice")
    labels = [str(model) if isinstance(model, str | Path) else _label(model) for model in models]
    short = [Path(label).name if Path(label).is_dir() else label for label in labels]
    longer = ["/".join(Path(label).parts[-2:]) for label in labels]
    deep = [
        name if isinstance(model, str | Path) else f"{name} ({model.config.get_text_config().num_hidden_layers} layers)"
        for name, model in zip(short, models, strict=True)
    ]
    for names in (short, longer, deep, labels):
        if len(set(names)) == len(names):
            return dict(zip(names, models, strict=True))
    raise UsageError("models: two of them come from one place and have one depth; give a mapping of names to models")


def _label(model: PreTrainedModel) -> str:
    return given(model).label

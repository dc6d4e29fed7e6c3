"""`prune.heal`: train a cut checkpoint back towards its original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, overload

from pydantic import Field

from prune.api._inputs import Data, DryRun, check_files, load_domains
from prune.data.domains import pad_token
from prune.data.settings import WeightSettings
from prune.errors import UsageError
from prune.files import refuse_non_empty
from prune.healing.settings import HealSettings
from prune.model.settings import ModelSettings
from prune.planning.settings import LayerList
from prune.settings import ADVANCED, DATA, TRAINING, Names, fields_of, takes, validated

if TYPE_CHECKING:
    from prune.healing.heal import HealResult
    from prune.healing.trainer import Track


class HealArguments(ModelSettings, WeightSettings, HealSettings):
    """Everything that `prune heal` can be told beside the models, the data and the output."""

    seq_length: int | None = Field(
        None,
        ge=2,
        description="Longer documents are cut on the right, in tokens; max_length if not given.",
        json_schema_extra=DATA,
    )
    kept_layers: LayerList | None = Field(
        None,
        description="Source index of each layer; found by comparing weights if not given.",
        json_schema_extra=ADVANCED,
    )
    track_suites: Names = Field(
        [], description="Suites scored at every held-out evaluation, with commas.", json_schema_extra=TRAINING
    )
    track_limit: int = Field(50, ge=1, description="Items of each task of track_suites.", json_schema_extra=TRAINING)
    include_path: Annotated[list[Path], Field(json_schema_extra={**DATA, "repeat": True})] = Field(
        [], description="Folder with lm-eval task files of your own, for these."
    )
    local_data: Path | None = Field(
        None, description="Folder of data files that stand in for the hub, for these.", json_schema_extra=DATA
    )


@overload
def heal(
    model: str,
    output: str | Path,
    *,
    teacher: str | None,
    data: Data,
    resume: bool = False,
    progress: bool = False,
    dry_run: Literal[False] = False,
    **settings: Any,
) -> HealResult: ...


@overload
def heal(
    model: str,
    output: str | Path,
    *,
    teacher: str | None,
    data: Data,
    dry_run: Literal[True],
    resume: bool = False,
    progress: bool = False,
    **settings: Any,
) -> DryRun: ...


@takes(HealArguments)
def heal(
    model: str,
    output: str | Path,
    *,
    teacher: str | None,
    data: Data,
    resume: bool = False,
    progress: bool = False,
    dry_run: bool = False,
    **settings: Any,
) -> HealResult | DryRun:
    """Train a cut checkpoint back towards its original, merge, and write a new checkpoint.

    Args:
        model: directory that `prune cut` wrote.
        output: new directory.
        teacher: the original; needed for distillation.
        data: training documents by domain.
        resume: go on from the newest checkpoint of a killed run with the same arguments.
        progress: show Trainer's progress bar.
        dry_run: check only.

    Raises:
        UsageError, PruneError: bad input or non-finite loss; nothing stands under `output`.
    """
    from prune.checkpoint.source import resolve_all

    target = Path(output)
    refuse_non_empty(target)
    asked = validated(HealArguments, settings)
    chosen = HealSettings(**fields_of(HealSettings, asked))
    if chosen.needs_teacher and teacher is None:
        raise UsageError("--teacher is missing: distillation needs the original; or set --distill_weight 0")
    named = {"model": model} | ({"teacher": teacher} if teacher and chosen.needs_teacher else {})
    sources = resolve_all(named, **fields_of(ModelSettings, asked))
    student, original = sources["model"], sources.get("teacher")
    check_files(data)
    from accelerate import PartialState

    from prune.files import staged_directory
    from prune.healing.checks import check_tokenizers, rehearse
    from prune.healing.heal import heal as train
    from prune.healing.trainer import remove_checkpoints
    from prune.model.loading import has_tokenizer, load_model, load_tokenizer
    from prune.packaging.saving import save_healed

    tokenizer = load_tokenizer(student)
    if original is not None and has_tokenizer(original):
        check_tokenizers(tokenizer, load_tokenizer(original), str(teacher))
    where = {"include_path": asked.include_path, "local_data": asked.local_data}
    track = _tracker(asked.track_suites, tokenizer, asked.track_limit, chosen.seed, where)
    domains = load_domains(data, tokenizer, asked.seq_length or chosen.max_length, None, chosen.seed)
    shared: dict[str, Any] = {"kept_layers": asked.kept_layers, "domain_weights": asked.domain_weights or None}
    if dry_run:
        rehearse(student, original, domains, chosen, **shared)
        return DryRun(settings=chosen.model_dump(), data={n: d.describe() for n, d in domains.items()})
    training = target.with_name(f".{target.name}.training")
    result = train(
        load_model(student),
        load_model(original) if original is not None else None,
        domains,
        chosen,
        **shared,
        pad_token_id=pad_token(tokenizer),
        output_dir=training,
        resume=resume,
        progress=progress,
        track=track,
    )
    if PartialState().is_main_process:  # under `accelerate launch` every process has the same result
        with staged_directory(target) as staging:
            save_healed(result.model, result.trained, result.as_dict(), original, student, staging)
        remove_checkpoints(training / "checkpoints")
    PartialState().wait_for_everyone()
    return result


def _tracker(suites: Sequence[str], tokenizer: Any, limit: int, seed: int, where: Mapping[str, Any]) -> Track | None:
    """Scores of the first items of every task of the suites, by task; a suite that is not there is refused now."""
    from evals.suite import load_suite

    if not suites:
        return None
    tasks = [task for name in suites for task in load_suite(name).tasks]

    def track(model: Any) -> dict[str, float]:
        from evals.harness import run_tasks

        return run_tasks(model, tokenizer, tasks, limit=limit, seed=seed, **where).scores

    return track

"""`prune.heal`: train a cut checkpoint back towards its original."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, overload

from pydantic import Field

from prune.api._given import Given, Model, NoTokenizer, all_given, at_rest
from prune.api._inputs import Data, DryRun, check_files, load_domains
from prune.data.settings import WeightSettings
from prune.errors import UsageError
from prune.files import refuse_non_empty
from prune.healing.settings import HealSettings
from prune.model.settings import ModelSettings
from prune.planning.settings import LayerList
from prune.settings import ADVANCED, DATA, TRAINING, Names, fields_of, takes, validated

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prune.data.domains import Domain
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
    targets: Path | None = Field(
        None,
        description="Directory that `prune teach` wrote on the same data: distil from it, without the original.",
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
    model: str | Path,
    output: str | Path,
    *,
    teacher: Model | None = None,
    data: Data,
    tokenizer: Any = None,
    resume: bool = False,
    dry_run: Literal[False] = False,
    **settings: Any,
) -> HealResult: ...


@overload
def heal(
    model: Model,
    output: None = None,
    *,
    teacher: Model | None = None,
    data: Data,
    tokenizer: Any = None,
    resume: bool = False,
    dry_run: Literal[False] = False,
    **settings: Any,
) -> PreTrainedModel: ...


@overload
def heal(
    model: Model,
    output: str | Path | None = None,
    *,
    teacher: Model | None = None,
    data: Data,
    tokenizer: Any = None,
    resume: bool = False,
    dry_run: Literal[True],
    **settings: Any,
) -> DryRun: ...


@takes(HealArguments)
def heal(
    model: Model,
    output: str | Path | None = None,
    *,
    teacher: Model | None = None,
    data: Data,
    tokenizer: Any = None,
    resume: bool = False,
    dry_run: bool = False,
    **settings: Any,
) -> HealResult | PreTrainedModel | DryRun:
    """Train a cut model back towards its original, and merge.

        healed = prune.heal(small, teacher=model, data=data, tokenizer=tokenizer, max_steps=20)

    Args:
        model: the cut model: a directory, a hub id, or a loaded model. A loaded one stays as it is, and so does a
            loaded teacher: a copy is trained, which needs memory for its weights once more.
        output: new directory for a checkpoint with its record. If None, nothing is written, and the healed model is
            returned.
        teacher: the original; needed for distillation, unless `targets` has what it says. Directory, hub id, or a
            loaded model.
        data: training documents by domain, as for `prune.analyze`.
        tokenizer: of a loaded model, where the data are not token ids.
        resume: go on from the newest checkpoint of a killed run with the same arguments; with `output` only.
        dry_run: check only; with `output` only.

    Returns:
        With `output`, the record of what was written (`prune.healing.heal.HealResult`: history, held-out losses in nats
        per token, the model). Without, the healed model itself: float32, merged, in evaluation mode, on the student's
        device.

    Raises:
        UsageError, PruneError: bad input or non-finite loss; nothing stands under `output`.
    """
    target = None if output is None else Path(output)
    if target is not None:
        refuse_non_empty(target)
    asked = validated(HealArguments, settings)
    chosen = HealSettings(**fields_of(HealSettings, asked))
    _check_teaching(chosen, teacher, asked.targets)
    from prune.healing.sharding import check_sharding

    check_sharding(chosen)
    named = {"model": model} | ({"teacher": teacher} if teacher is not None and chosen.needs_teacher else {})
    subjects = all_given(named, {"model": tokenizer}, **fields_of(ModelSettings, asked))
    student, original = subjects["model"], subjects.get("teacher")
    if target is not None and student.source is None:
        raise UsageError("output: a loaded model is healed in memory; write the result with save_pretrained")
    if target is None and (resume or dry_run):
        raise UsageError(f"{'resume' if resume else 'dry_run'}: goes with output; in memory nothing is written")
    data = check_files(data)
    from prune.healing.checks import check_tokenizers, rehearse
    from prune.healing.targets import Targets

    if original is not None and original.has_own_tokenizer and not isinstance(student.tokenizer, NoTokenizer):
        check_tokenizers(student.tokenizer, original.tokenizer, original.label)
    where = {"include_path": asked.include_path, "local_data": asked.local_data}
    if asked.track_suites:
        student.require_tokenizer()
    track = _tracker(asked.track_suites, student.tokenizer, asked.track_limit, chosen.seed, where)
    # Targets are of these documents token by token: to know that they are, all are tokenised.
    sample = dry_run and asked.targets is None
    length = asked.seq_length or chosen.max_length
    domains = load_domains(data, student.tokenizer, length, None, chosen.seed, sample=sample)
    shared: dict[str, Any] = {"kept_layers": asked.kept_layers, "domain_weights": asked.domain_weights or None}
    if asked.targets is not None:
        shared["targets"] = Targets(asked.targets)
        shared["targets"].require(domains, chosen.max_length, student.tokenizer)
    if dry_run and student.source is not None:
        if original is not None and original.source is None:
            raise UsageError("dry_run: reads configurations on disk; give the teacher's directory or hub id")
        rehearse(student.source, original.source if original else None, domains, chosen, **shared)
        return DryRun(settings=chosen.model_dump(), data={n: d.describe() for n, d in domains.items()})
    options = {**shared, "resume": resume, "track": track}
    if target is None:
        with tempfile.TemporaryDirectory(prefix="prune-heal-") as hidden:
            return _train(student, original, domains, chosen, Path(hidden), options).model
    training = target.with_name(f".{target.name}.training")
    result = _train(student, original, domains, chosen, training, options)
    _save(result, student, original, target, training)
    return result


def _check_teaching(settings: HealSettings, teacher: Model | None, targets: Path | None) -> None:
    """Exactly one of both where the objectives compare with the original."""
    if targets is not None and teacher is not None:
        raise UsageError("--teacher and --targets: give one; targets are what the original said, in its place")
    if targets is not None:
        from prune.healing.checks import check_targets

        if not settings.needs_teacher:
            raise UsageError(
                "--targets: nothing is distilled; give --distill_weight or --entropy_weight a value above 0"
            )
        check_targets(settings)
    elif settings.needs_teacher and teacher is None:
        raise UsageError(
            "--teacher is missing: distillation needs the original, or --targets, what it said; or set "
            "--distill_weight 0"
        )


def _train(
    student: Given,
    original: Given | None,
    domains: Mapping[str, Domain],
    settings: HealSettings,
    directory: Path,
    options: Mapping[str, Any],
) -> HealResult:
    from copy import deepcopy

    from prune.healing.heal import heal as train

    # Training consumes its student, and may write into the storage that it shares with its teacher.
    trained = _loaded(student) if student.in_memory is None else deepcopy(student.in_memory)
    teacher = _loaded(original) if original else None
    device = None if teacher is None else teacher.device
    with at_rest(original.in_memory if original else None):
        result = train(
            trained, teacher, domains, settings, pad_token_id=student.pad_token_id, output_dir=directory, **options
        )
    if teacher is not None and original is not None and original.in_memory is not None and device is not None:
        teacher.to(device)  # type: ignore[arg-type]
    return result


def _loaded(subject: Given) -> PreTrainedModel:
    """The model; where processes share one training by FSDP, the first alone reads its files."""
    from prune.healing.sharding import uses_fsdp

    if subject.source is None or not uses_fsdp():
        return subject.model()
    from prune.analysis.processes import join
    from prune.healing.receiving import load_once

    return load_once(subject.source, join())


def _save(result: HealResult, student: Given, original: Given | None, target: Path, training: Path) -> None:
    from accelerate import PartialState

    from prune.files import staged_directory
    from prune.healing.trainer import remove_checkpoints
    from prune.packaging.saving import save_healed

    assert student.source is not None
    if PartialState().is_main_process:  # under `accelerate launch` every process has the same result
        with staged_directory(target) as staging:
            teacher = None if original is None else original.source or Path(original.label).name
            if result.targets is not None:
                teacher = result.targets["model"]
            save_healed(result.model, result.trained, result.as_dict(), teacher, student.source, staging)
        remove_checkpoints(training / "checkpoints")
    PartialState().wait_for_everyone()


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

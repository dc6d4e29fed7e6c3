"""`prune.heal`: train a cut checkpoint back towards its original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.api._inputs import Data, check_files, load_domains
from prune.data.domains import pad_token
from prune.errors import UsageError
from prune.files import refuse_non_empty
from prune.settings import validated

if TYPE_CHECKING:
    from prune.healing.heal import HealResult
    from prune.healing.trainer import Track


def heal(
    model: str,
    output: str | Path,
    *,
    teacher: str | None,
    data: Data,
    domain_weights: Mapping[str, float] | None = None,
    kept_layers: Sequence[int] | None = None,
    seq_length: int | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    allow_links: bool = False,
    resume: bool = False,
    progress: bool = False,
    dry_run: bool = False,
    track_suites: Sequence[str] = (),
    track_limit: int = 50,
    local_data: str | None = None,
    include_path: Sequence[str] = (),
    **settings: Any,
) -> HealResult | dict[str, Any]:
    """Train a cut checkpoint back towards its original, merge, and write a new checkpoint.

    Args:
        model: directory that `prune cut` wrote.
        output: new directory.
        teacher: the original; needed for distillation.
        data: training documents by domain.
        domain_weights: share of predicted tokens per domain; equal if none.
        kept_layers: source index of each layer; found by comparing weights if not given.
        seq_length: longer documents are cut on the right, in tokens; `max_length` of the settings if None.
        revision: of every hub id that does not name its own (`org/name@revision`).
        trust_remote_code, allow_links: see `prune.checkpoint.source.Source`.
        resume: go on from the newest checkpoint of a killed run with the same arguments.
        progress: show Trainer's progress bar.
        dry_run: check only.
        track_suites: names of built-in suites, or YAML files, scored at every held-out evaluation.
        track_limit: items of each of their tasks.
        local_data: folder of data files that replace the hub for them (see evals/local_data/README.md).
        include_path: folders with lm-eval task files of your own.
        settings: fields of `prune.healing.settings.HealSettings`.

    Raises:
        UsageError, PruneError: bad input or non-finite loss; nothing stands under `output`.
    """
    from prune.checkpoint.source import resolve_all
    from prune.healing.settings import HealSettings

    target = Path(output)
    refuse_non_empty(target)
    chosen = validated(HealSettings, settings)
    if chosen.needs_teacher and teacher is None:
        raise UsageError("--teacher is missing: distillation needs the original; or set --distill_weight 0")
    named = {"model": model} | ({"teacher": teacher} if teacher and chosen.needs_teacher else {})
    permissions = {"trust_remote_code": trust_remote_code, "allow_links": allow_links}
    sources = resolve_all(named, revision=revision, **permissions)
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
    where = {"include_path": [Path(p) for p in include_path], "local_data": Path(local_data) if local_data else None}
    track = _tracker(track_suites, tokenizer, track_limit, chosen.seed, where) if track_suites else None
    domains = load_domains(data, tokenizer, seq_length or chosen.max_length, None, chosen.seed)
    if dry_run:
        rehearse(student, original, domains, chosen, kept_layers=kept_layers, domain_weights=domain_weights)
        return {"settings": chosen.model_dump(), "data": {n: d.describe() for n, d in domains.items()}}
    training = target.with_name(f".{target.name}.training")
    result = train(
        load_model(student),
        load_model(original) if original is not None else None,
        domains,
        chosen,
        kept_layers=kept_layers,
        domain_weights=domain_weights,
        pad_token_id=pad_token(tokenizer),
        output_dir=training,
        resume=resume,
        progress=progress,
        track=track,
    )
    if PartialState().is_main_process:  # under `accelerate launch` every process has the same result
        with staged_directory(target) as staging:
            save_healed(result.model, result.as_dict(), original, student.directory, staging)
        remove_checkpoints(training / "checkpoints")
    PartialState().wait_for_everyone()
    return result


def _tracker(suites: Sequence[str], tokenizer: Any, limit: int, seed: int, where: Mapping[str, Any]) -> Track:
    """Scores of the first items of every task of the suites, by task; a suite that is not there is refused now."""
    from evals.suite import load_suite

    if limit < 1:
        raise UsageError(f"--track_limit {limit}: give 1 or more")
    tasks = [task for name in suites for task in load_suite(name).tasks]

    def track(model: Any) -> dict[str, float]:
        from evals.harness import run_tasks

        return run_tasks(model, tokenizer, tasks, limit=limit, seed=seed, **where).scores

    return track

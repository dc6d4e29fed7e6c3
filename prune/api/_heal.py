"""`prune.heal`: train a cut checkpoint back towards its original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.api._inputs import Data, check_files, load_domains, pad_token, validated
from prune.errors import UsageError
from prune.files import refuse_non_empty

if TYPE_CHECKING:
    from prune.healing.heal import HealResult


def heal(
    model: str,
    output: str | Path,
    *,
    teacher: str | None,
    data: Data,
    domain_weights: Mapping[str, float] | None = None,
    kept_layers: Sequence[int] | None = None,
    seq_length: int = 512,
    resume: bool = False,
    progress: bool = False,
    dry_run: bool = False,
    **settings: Any,
) -> HealResult | dict[str, Any]:
    """Train a cut checkpoint back towards its original, merge, and write a new checkpoint.

    Args:
        model: directory that `prune cut` wrote.
        output: new directory.
        teacher: the original; needed for distillation.
        data: training documents by domain.
        settings: fields of `prune.healing.settings.HealSettings`.

    Raises:
        UsageError, PruneError: bad input or non-finite loss; nothing stands under `output`.
    """
    from prune.healing.settings import HealSettings
    from prune.model.loading import check_local

    target = Path(output)
    refuse_non_empty(target)
    check_local(model)
    chosen = validated(HealSettings, settings)
    if chosen.needs_teacher and teacher is None:
        raise UsageError("--teacher is missing: distillation needs the original; or set --distill_weight 0")
    check_files(data)
    from prune.files import staged_directory, write_json
    from prune.healing.heal import heal as train
    from prune.model.loading import load_model, load_tokenizer
    from prune.packaging.saving import HEALING, save_like
    from prune.pipeline import model_directory

    tokenizer = load_tokenizer(model)
    domains = load_domains(data, tokenizer, seq_length, None, chosen.seed)
    if dry_run:
        return {"settings": chosen.model_dump(), "data": {n: d.describe() for n, d in domains.items()}}
    result = train(
        load_model(model),
        load_model(model_directory(teacher)) if teacher and chosen.needs_teacher else None,
        domains,
        chosen,
        kept_layers=kept_layers,
        domain_weights=domain_weights,
        pad_token_id=pad_token(tokenizer),
        output_dir=target.with_name(f".{target.name}.training"),
        resume=resume,
        progress=progress,
    )
    with staged_directory(target) as staging:
        save_like(result.model, Path(model), staging)
        write_json(staging / HEALING, result.as_dict())
    return result

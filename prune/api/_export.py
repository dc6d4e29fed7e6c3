"""`prune.export`: package a checkpoint with its evidence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prune.errors import UsageError
from prune.files import refuse_non_empty


def export(
    model: str,
    output: str | Path,
    *,
    evidence: str | Path | None = None,
    plan: str | Path | None = None,
    override: str | None = None,
    source: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    allow_links: bool = False,
    max_shard_size: str = "5GB",
    quantize: str | None = None,
    push_to_hub: bool = False,
    hub_model_id: str | None = None,
    private: bool = False,
    token: str | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Package a cut or healed checkpoint with its evidence, and adapters that were cut along; returns the manifest.

    Args:
        model: directory that `prune cut` or `prune heal` wrote.
        output: new directory.
        evidence: directory that `prune eval` wrote.
        plan: the plan behind the cut, for card and manifest.
        override: reason for exporting without a PASS; recorded.
        quantize: `nf4` or `int8`: also write a bitsandbytes variant to `OUTPUT-nf4` or `OUTPUT-int8`.
        push_to_hub: upload the finished directory to `hub_model_id` (`org/name`), `private` if so asked.
        token: of the hub; the one that huggingface_hub finds if None. Written nowhere.
        source: the original's directory or id, for card and manifest; the plan's by default.
        revision: of the source, recorded; the plan's, or what the cut recorded, by default.
        trust_remote_code, allow_links: see `prune.checkpoint.source.Source`.
        max_shard_size: largest weight file, such as `5GB`.
        dry_run: check the input and return what the manifest would say.

    Raises:
        UsageError: the evidence is about other weights.
        GateFailed: no passing evidence and no override.
    """
    import json

    from evals.evidence import Evidence
    from prune.checkpoint.source import check_local, resolve
    from prune.packaging.export import check_gate, export_checkpoint
    from prune.packaging.hub import check_repo_id, push
    from prune.packaging.manifest import weights_sha256
    from prune.packaging.quantized import check_unquantized, variant_directory, write_variant
    from prune.packaging.saving import HEALING
    from prune.planning.plan import Plan
    from prune.surgery.record import read_record

    repository = check_repo_id(hub_model_id) if push_to_hub else None
    target = Path(output)
    refuse_non_empty(target)
    if quantize is not None:
        variant_directory(target, quantize)
    check_local(model)
    if not Path(model).is_dir():
        raise UsageError(f"{model}: no such directory; give what `prune cut` or `prune heal` wrote")
    checkpoint = resolve(model, trust_remote_code=trust_remote_code, allow_links=allow_links)
    if quantize is not None:
        check_unquantized(Path(model), quantize)
    found = Evidence.load(Path(evidence)) if evidence else None
    if found and found.candidate_sha256 not in {"", weights_sha256(Path(model))}:
        raise UsageError(
            f"--evidence {evidence}: is about {found.candidate_model}, whose weights are not those of {model}; "
            "run `prune eval` on it"
        )
    chosen = Plan.load(Path(plan)) if plan else None
    origin = (read_record(Path(model)) or {}).get("source") or {}
    healing = Path(model) / HEALING
    facts = {
        "source": source or (chosen.source if chosen else origin.get("model")),
        "revision": revision or (chosen.revision if chosen else origin.get("revision")),
        "plan": chosen.model_dump() if chosen else None,
        "data": chosen.data if chosen else {},
        "healing": json.loads(healing.read_text(encoding="utf8")) if healing.is_file() else None,
        "label": f"Gate: {found.overall}" if found else "Exported without evidence",
    }
    if dry_run:
        return {**facts, "overrides": check_gate(found, override)}
    manifest = export_checkpoint(
        checkpoint,
        target,
        evidence=found,
        facts=facts,
        override=override,
        max_shard_size=max_shard_size,
        name=repository,
    )
    if quantize is not None:
        write_variant(target, quantize, max_shard_size)
    if repository:
        push(target, repository, private=private, token=token)
    return manifest

"""`prune.export`: package a checkpoint with its evidence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from prune.api._inputs import DryRun
from prune.errors import UsageError
from prune.files import read_json_file, refuse_non_empty
from prune.model.settings import TrustSettings
from prune.packaging.settings import ExportSettings, HubSettings
from prune.serving.settings import RuntimeSettings
from prune.settings import ADVANCED, fields_of, takes, validated


class ExportArguments(HubSettings, RuntimeSettings, TrustSettings, ExportSettings):
    """Everything that `prune export` can be told beside the model and the output."""

    evidence: Path | None = Field(None, description="What `prune eval` wrote.")
    plan: Path | None = Field(None, description="The plan behind the cut, for card and manifest.")
    source: str | None = Field(None, description="The original's id, for the card; the plan's if absent.")
    revision: str | None = Field(
        None,
        description="Of the source, recorded; the plan's, or what the cut recorded, if absent.",
        json_schema_extra=ADVANCED,
    )
    quantize: str | None = Field(
        None, description="nf4 or int8: also write a bitsandbytes variant, OUTPUT-nf4 or OUTPUT-int8."
    )


@takes(ExportArguments)
def export(model: str, output: str | Path, *, dry_run: bool = False, **settings: Any) -> dict[str, Any]:
    """Package a cut or healed checkpoint with its evidence, and adapters that were cut along; returns the manifest.

        prune.export("healed", "checkpoint", evidence="evidence", plan="plan.json")

    Args:
        model: directory that `prune cut` or `prune heal` wrote.
        output: new directory.
        dry_run: check the input and return what the manifest would say.
        settings: `evidence` and `plan` may also be what `prune.eval` and `prune.plan` returned.

    Raises:
        UsageError: the evidence is about other weights, or about a model that was in memory.
        GateFailed: no passing evidence and no override.
    """
    from evals.evidence import Evidence
    from prune.checkpoint.source import check_local, resolve
    from prune.packaging.export import check_gate, export_checkpoint
    from prune.packaging.hub import check_repo_id, push
    from prune.packaging.manifest import weights_sha256
    from prune.packaging.quantized import check_unquantized, variant_directory, write_variant
    from prune.packaging.saving import HEALING
    from prune.planning.plan import Plan
    from prune.surgery.record import read_record

    held = {name: _taken(settings, name) for name in ("evidence", "plan")}
    asked = validated(ExportArguments, settings)
    evidence, quantize, override = asked.evidence, asked.quantize, asked.override
    repository = check_repo_id(asked.hub_model_id) if asked.push_to_hub else None
    target = Path(output)
    refuse_non_empty(target)
    if quantize is not None:
        variant_directory(target, quantize)
    check_local(model)
    if not Path(model).is_dir():
        raise UsageError(f"{model}: no such directory; give what `prune cut` or `prune heal` wrote")
    checkpoint = resolve(model, **fields_of(TrustSettings, asked))
    if quantize is not None:
        check_unquantized(Path(model), quantize)
    found: Evidence | None = held["evidence"] or (Evidence.load(evidence) if evidence else None)
    if found and not found.candidate_sha256:
        raise UsageError(
            f"evidence: is about {found.candidate_model} in memory, and nothing says that {model} holds its weights: "
            "run `prune eval` on the checkpoint"
        )
    if found and found.candidate_sha256 != weights_sha256(Path(model)):
        raise UsageError(
            f"evidence: is about {found.candidate_model}, whose weights are not those of {model}; "
            "run `prune eval` on it"
        )
    chosen: Plan | None = held["plan"] or (Plan.load(asked.plan) if asked.plan else None)
    origin = (read_record(Path(model)) or {}).get("source") or {}
    healing = Path(model) / HEALING
    facts = {
        "source": asked.source or (chosen.source if chosen else origin.get("model")),
        "revision": asked.revision or (chosen.revision if chosen else origin.get("revision")),
        "plan": chosen.model_dump() if chosen else None,
        "data": chosen.data if chosen else {},
        "healing": read_json_file(healing) if healing.is_file() else None,
        "label": f"Gate: {found.overall}" if found else "Exported without evidence",
    }
    if dry_run:
        return DryRun(**facts, overrides=check_gate(found, override))
    manifest = export_checkpoint(
        checkpoint,
        target,
        evidence=found,
        facts=facts,
        override=override,
        max_shard_size=asked.max_shard_size,
        name=repository,
        runtimes=asked.runtime,
    )
    if quantize is not None:
        write_variant(target, quantize, asked.max_shard_size)
    if repository:
        push(target, repository, private=asked.private, token=asked.token)
    return manifest


def _taken(settings: dict[str, Any], name: str) -> Any:
    """A value that is an object, taken out of the settings; None where it is a path or absent."""
    return None if isinstance(settings.get(name), str | Path | None) else settings.pop(name)

"""`prune export`: package a cut or healed checkpoint, with its evidence, so that it is ready to serve.

The gate stands here: a checkpoint whose evidence does not pass leaves only with a recorded reason. Weights, and the
adapters that were cut along with them, are copied as they are; the exported files are loaded once more and must answer
as the source files do before the directory gets its final name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.checkpoint.directory import read_config
from prune.checkpoint.source import Source, resolve
from prune.errors import GateFailed, PruneError
from prune.files import staged_directory, write_json
from prune.packaging import replay
from prune.packaging.card import write_card
from prune.packaging.compatible import make_compatible
from prune.packaging.manifest import MANIFEST, build_manifest, without_paths
from prune.packaging.mergekit import write_mergekit
from prune.packaging.saving import HEALING
from prune.packaging.serve import serve_section
from prune.serving.check import require_readable
from prune.serving.installed import warn_of_other_versions
from prune.serving.names import NAMES
from prune.serving.readers import readings
from prune.surgery.cut import copy_checkpoint
from prune.surgery.record import read_record

if TYPE_CHECKING:
    from evals.evidence import Evidence, SuiteEvidence


def check_gate(evidence: Evidence | None, override: str | None) -> list[str]:
    """The overrides to record.

    Raises:
        GateFailed: no passing evidence and no reason to go on without it.
    """
    if override is not None and not override.strip():
        raise GateFailed("--override needs a reason; it is recorded in the manifest, the card and the report")
    if evidence is not None and evidence.overall == "PASS":
        return []
    if override:
        return [override.strip()]
    if evidence is None:
        raise GateFailed("no evidence: give --evidence DIR (written by `prune eval`) or --override with a reason")
    failed = ", ".join(f"{s.name} {s.verdict}" for s in evidence.suites if s.verdict != "PASS")
    raise GateFailed(f"the gate did not pass ({failed}): {_advice(evidence.suites)}, or give --override a reason")


def _advice(suites: Sequence[SuiteEvidence]) -> str:
    """What would help each suite that did not pass: more items where too little is known, else a better model."""
    said = []
    if any(s.verdict == "FAIL" for s in suites):
        said.append("heal further or keep more layers")
    for suite in suites:
        if suite.verdict == "INCONCLUSIVE" and suite.items_needed:
            said.append(f"test {suite.name} on about {suite.items_needed:,} items instead of {suite.n:,}")
        elif suite.verdict == "INCONCLUSIVE":
            said.append(
                f"no number of items in reach would decide {suite.name}: {suite.note or 'it is too near its floor'}"
            )
    return "; ".join(said)


def export_checkpoint(
    model: str | Path | Source,
    output: Path,
    *,
    evidence: Evidence | None,
    facts: dict[str, Any],
    override: str | None = None,
    max_shard_size: str = "5GB",
    name: str | None = None,
    runtimes: Sequence[str] = (),
) -> dict[str, Any]:
    """Write the checkpoint directory.

    Args:
        model: a local checkpoint, cut or healed.
        output: new directory.
        evidence: of this checkpoint against its original.
        facts: for manifest and card; see `manifest.build_manifest`.
        override: reason for exporting without a PASS.
        max_shard_size: largest weight file, as transformers writes sizes.
        runtimes: programs that must read the result rightly, see `prune.serving`.
        name: under which the result will be known, for adapters that come along; the output's own if None.

    Returns:
        The manifest.

    Raises:
        GateFailed: see `check_gate`.
        PruneError: the exported files do not answer as the source files do, or a named runtime reads them wrongly.
    """
    from prune.model.loading import load_model

    overrides = check_gate(evidence, override)
    source = resolve(model)
    original = load_model(source, device="cpu")
    recorded = replay.record(original)
    del original
    facts = {**facts, "overrides": [*facts.get("overrides", []), *overrides]}
    if record := read_record(
        source.directory
    ):  # describes the files of `model`; those of the export stand in the manifest
        facts["cut"] = {key: value for key, value in record.items() if key != "files"}
    if evidence is not None:
        facts["verdict"] = evidence.overall
        facts["evidence"] = evidence.model_dump(mode="json", exclude={"samples"})
    with staged_directory(output) as staging:
        copy_checkpoint(source, staging, max_shard_size, name=name or output.name)
        (staging / HEALING).unlink(missing_ok=True)  # its content stands in the manifest
        facts["compatibility"] = make_compatible(staging)
        config = read_config(staging)
        warn_of_other_versions(runtimes or NAMES)
        require_readable(config, runtimes)
        found = readings(config)
        facts["runtimes"] = [reading.as_dict() for reading in found]
        if replay.record(load_model(source.at(staging), device="cpu")) != recorded:
            raise PruneError(f"{source.id}: the exported copy answers differently; nothing was written")
        facts = without_paths(facts)
        write_card(staging, facts, evidence, serve_section(found))
        plan = facts.get("plan")
        if plan and plan.get("unit", "layer") == "layer":  # mergekit takes whole layers
            dtype = str(recorded["dtype"])
            write_mergekit(staging, str(facts.get("source") or plan.get("source")), plan["keep"], dtype)
        manifest = build_manifest(staging, facts, recorded)
        write_json(staging / MANIFEST, manifest)
    return manifest

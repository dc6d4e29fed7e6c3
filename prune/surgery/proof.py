"""The proof that a checkpoint is whole, and that a cut kept its layers: by loading, not by trusting our own tables.

Three independent checks. Signature (`prune.surgery.signature`): what the two configs build must agree layer by layer.
Reload: the stock loader must find nothing missing, unexpected or mismatched, and all weights finite. Replay
(`prune.surgery.replay`), for families that were never tried: the logits are those of the original with the removed
layers passed through. A checkpoint's own code is never run, unless the user trusts it.
`python -m prune.surgery.proof SOURCE RESULT 0,1,2 [PERMISSION ...]` runs them and reports one JSON object on standard
output.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.checkpoint.depth_fields import depth_of, model_kind, text_part
from prune.checkpoint.directory import CONFIG, read_checkpoint, read_json
from prune.checkpoint.source import Source, resolve
from prune.errors import PruneError
from prune.model.deci import KIND
from prune.model.loading import load_model, require_finite, unaccounted
from prune.surgery.config_fields import check_causal
from prune.surgery.families import PROVEN
from prune.surgery.names import find_prefix
from prune.surgery.packed import check_packed
from prune.surgery.replay import check_replay
from prune.surgery.signature import check_directories, model_class

if TYPE_CHECKING:
    from transformers import PreTrainedModel


PERMISSIONS = ("allow_links", "trust_remote_code")
"""What the user may allow a source, handed on to the child."""


def prove_in_child(source: Source, result: Path, keep: Sequence[int]) -> None:
    """Prove a cut in a fresh process.

    Raises:
        PruneError: the proof fails, or the process dies.
    """
    arguments = [
        sys.executable,
        "-m",
        "prune.surgery.proof",
        str(source.directory),
        str(result),
        ",".join(map(str, keep)),
    ]
    arguments += [name for name in PERMISSIONS if getattr(source, name)]
    done = subprocess.run(arguments, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    lines = done.stdout.strip().splitlines()
    try:
        report = json.loads(lines[-1])
    except (IndexError, ValueError):
        tail = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise PruneError(f"{source.id}: the proof did not finish: {tail}") from None
    if not report["ok"]:
        raise PruneError(f"{source.id}: proof failed, nothing was written: {report['error']}")


def verify_checkpoint(checkpoint: str | Path | Source, *, deep: bool = True) -> dict[str, Any]:
    """Check a checkpoint.

    Args:
        checkpoint: its source or directory.
        deep: also load it with the stock loader and require finite weights.

    Returns:
        `num_layers`, `tensors`, `bytes`, and with `deep` the `architecture` and `parameters`.

    Raises:
        PruneError: whatever is wrong, by file, field or tensor.
    """
    source = resolve(checkpoint)
    tensors, config = source.checkpoint.tensors, source.checkpoint.config
    check_causal(config)
    depth = depth_of(config)
    parted = model_kind(config) == KIND  # a layer may have no tensor there
    if not parted:
        find_prefix(tensors, depth)
    size = sum(tensor.entry.bytes for tensor in tensors.values())
    report: dict[str, Any] = {"num_layers": depth, "tensors": len(tensors), "bytes": size}
    if deep:
        model = load_model(source) if parted else reload(source.directory, source.trust_remote_code)
        require_finite(source.label, model.state_dict())
        report |= {"architecture": type(model).__name__, "parameters": sum(p.numel() for p in model.parameters())}
    return report


def reload(directory: Path, trust_remote_code: bool = False) -> PreTrainedModel:
    """Load with the stock loader, every tensor accounted for.

    Raises:
        PruneError: it does not load, or tensors are missing, unexpected or mismatched.
    """
    kind = model_class(read_json(directory / CONFIG))
    try:
        model, info = kind.from_pretrained(
            directory, output_loading_info=True, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except Exception as error:  # any failure to load is the finding
        reason = " ".join(str(error).split())[:300]
        raise PruneError(f"{directory.name}: does not load: {type(error).__name__}: {reason}") from error
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        found = info.get(problem) or ()
        names = unaccounted(found) if problem == "unexpected_keys" else sorted(map(str, found))
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise PruneError(f"{problem.replace('_', ' ')}: {', '.join(names[:3])}{more}")
    return model


def prove(source: str | Path | Source, result: Path, keep: Sequence[int]) -> dict[str, Any]:
    """All checks, in this process; what `verify_checkpoint` reports.

    Raises:
        PruneError: the first thing that is wrong.
    """
    original = resolve(source)
    config, trusted = original.checkpoint.config, original.trust_remote_code
    check_directories(original.directory, result, keep, trust_remote_code=trusted)
    check_packed(original.checkpoint, read_checkpoint(result), keep, depth_of(config))
    report = verify_checkpoint(original.at(result))
    if str(text_part(config).get("model_type")) not in PROVEN:
        check_replay(original.directory, result, keep, trust_remote_code=trusted)
        report["replayed"] = True
    return report


def main(arguments: list[str]) -> int:
    """Prove SOURCE -> RESULT for KEEP; one JSON object on standard output."""
    result, keep = Path(arguments[1]), [int(i) for i in arguments[2].split(",")]
    report: dict[str, Any] = {"ok": True}
    try:
        source = resolve(arguments[0], **{name: name in arguments[3:] for name in PERMISSIONS})  # type: ignore[arg-type]
        report |= prove(source, result, keep)
    except PruneError as error:
        report = {"ok": False, "error": str(error)}
    print("\n" + json.dumps(report))
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""`prune_cut.json`: what a cut did, and whether it was proved, written into its output; and asking it again.

Small files are always hashed. Weight files are hashed only where the proof ran, which reads them anyway: with
`--no_verify` a hash would cost more than the copy, and their sizes stand alone. No time and no path of this machine
enters, so that equal cuts are equal bytes. The record describes these files only: cuts, healing and export of this
checkpoint do not copy it, export takes its facts into the manifest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from prune.checkpoint.directory import CONFIG, CUT_RECORD, inside, is_weight_file, read_json
from prune.checkpoint.source import Source
from prune.errors import PruneError
from prune.files import sha256_file, write_json
from prune.versions import library_versions

FORMAT = 1


@dataclass
class CutResult:
    """What a cut did, or would do.

    Attributes:
        source: the model as given.
        output: target directory.
        num_layers_before: depth of the source.
        keep: source indices that stay, sorted.
        drop: source indices that go, sorted.
        bytes_written: tensor payload of the output in bytes.
        files: names in the output directory.
        verified: whether the proof ran and held.
        replaced: tensors, by their new names, that compensation rewrote; all others are the source's bytes.
        runtimes: how other programs read the result, one entry a version; see `prune.serving.readers`.
    """

    source: str
    output: str
    num_layers_before: int
    keep: list[int]
    drop: list[int]
    bytes_written: int
    files: list[str]
    verified: bool
    replaced: list[str] = field(default_factory=list)
    runtimes: list[dict[str, str]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def write_record(result: CutResult, source: Source, staging: Path) -> None:
    """Describe a finished staging directory; `result.files` lists what is in it."""
    config = source.directory / CONFIG
    record = {
        "format": FORMAT,
        "source": {"model": source.label, "revision": source.revision, "config_sha256": sha256_file(config)},
        "num_layers_before": result.num_layers_before,
        "keep": result.keep,
        "drop": result.drop,
        "replaced": result.replaced,
        "verified": result.verified,
        "versions": library_versions(),
        "files": {name: _describe(staging / name, hashed=result.verified) for name in result.files},
    }
    write_json(staging / CUT_RECORD, record)


def read_record(directory: Path) -> dict[str, Any] | None:
    """The record of a cut; None where there is none.

    Raises:
        PruneError: damaged, or of another format.
    """
    if not (directory / CUT_RECORD).is_file():
        return None
    record = read_json(inside(directory, CUT_RECORD))
    files = record.get("files") if isinstance(record, dict) else None
    if not isinstance(files, dict) or record.get("format") != FORMAT or not all(map(_described, files.values())):
        raise PruneError(f"{directory / CUT_RECORD}: not a record of format {FORMAT}")
    return record


def verify_cut(source: Source, record: dict[str, Any]) -> dict[str, Any]:
    """Compare the files with the record, then load with the stock loader; returns what was checked.

    Raises:
        PruneError: files missing, added or changed, or what `verify_checkpoint` finds.
    """
    _compare(source.directory, record["files"])
    from prune.surgery.proof import verify_checkpoint

    hashed = [name for name, described in record["files"].items() if described["sha256"]]
    return {
        "directory": str(source.directory),
        "files": len(record["files"]),
        "hashed": len(hashed),
        "proved_when_cut": bool(record.get("verified")),
        "keep": record.get("keep"),
        **verify_checkpoint(source),
    }


def _compare(directory: Path, recorded: dict[str, dict[str, Any]]) -> None:
    paths = (path for path in directory.rglob("*") if path.is_file())
    found: Sequence[str] = sorted(p.relative_to(directory).as_posix() for p in paths)
    found = [name for name in found if name != CUT_RECORD]
    problems = [f"{name} is missing" for name in sorted(recorded.keys() - set(found))]
    problems += [f"{name} was added" for name in found if name not in recorded]
    for name in (name for name in found if name in recorded):
        hashed = recorded[name]["sha256"] is not None
        if _describe(directory / name, hashed=hashed, always=hashed) != recorded[name]:
            problems.append(f"{name} was changed")
    if problems:
        raise PruneError(f"{directory}: " + "; ".join(problems))


def _describe(path: Path, *, hashed: bool, always: bool = True) -> dict[str, Any]:
    """Size, and SHA-256 where asked; of small files `always`."""
    wanted = hashed or (always and not is_weight_file(path.name))
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path) if wanted else None}


def _described(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {"bytes", "sha256"}

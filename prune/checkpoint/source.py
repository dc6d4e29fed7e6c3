"""The one door for models: a name as users write it, resolved once to a local directory that is then the model.

Whoever reads a model takes its directory, its commit and what the user allows from the `Source`, never from the name
again, so that what was measured, cut and recorded is one thing. Resolving reads configuration, index and headers as
untrusted input (`directory`); tensor bytes are read later. Neither torch nor transformers is imported.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from prune.checkpoint.config_types import check_decoder
from prune.checkpoint.directory import CONFIG, INDEX, Checkpoint, read_checkpoint
from prune.errors import PruneError, UsageError
from prune.files import require_utf8, sha256_file, sha256_json

EMBEDDED = "embedded"
"""The name that stands for the demo model."""
WANTED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja", "LICENSE*", "NOTICE*")
"""What is fetched of a hub repository; with remote code its Python files, too."""
OTHER_FORMATS = ("original/*", "consolidated*")
"""The same weights once more."""

Stamp = tuple[str, int, int, int]


@dataclass(frozen=True)
class Placement:
    """Where layers lie that do not fit on one device, as accelerate places them.

    Attributes:
        device_map: `auto`, `balanced` or `sequential`.
        max_memory: what may be taken of each device, a number of bytes or a size in words, by a GPU's number or `cpu`.
        offload_folder: existing folder for what must be written to be on disk; the system's temporary one if None.
    """

    device_map: str
    max_memory: Mapping[str, str | int]
    offload_folder: str | None = None


@dataclass(frozen=True)
class Source:
    """A model that can be read.

    Attributes:
        id: directory or hub id as the user gave it, without its revision; or `embedded`.
        directory: where its files are; of a hub id the snapshot in the local cache.
        revision: commit hash of a hub id; None for a directory.
        dtype: of the computation: `auto`, `float32`, `bfloat16` or `float16`.
        trust_remote_code: the user lets the repository's own modelling code run.
        allow_links: the user lets files of the checkpoint be links to somewhere else.
        placement: over several devices; None for one.
        attn_implementation: how attention is computed, by transformers' names; its own choice if None.
    """

    id: str
    directory: Path
    revision: str | None = None
    dtype: str = "auto"
    trust_remote_code: bool = False
    allow_links: bool = False
    placement: Placement | None = None
    attn_implementation: str | None = None

    @property
    def label(self) -> str:
        """What a record that travels calls it: of a directory the last part alone."""
        return self.id if self.revision or self.id == EMBEDDED else self.directory.resolve().name

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """Configuration, index and headers, cross-checked.

        Raises:
            UsageError, PruneError: see `read_checkpoint`.
        """
        return read_checkpoint(self.directory, allow_links=self.allow_links)

    @property
    def bytes(self) -> int:
        """Size of the weight files."""
        return sum((self.directory / name).stat().st_size for name in self.checkpoint.headers)

    @cached_property
    def sha256(self) -> str:
        """By which results know the model: a hub id with its commit, or the contents of the directory's files."""
        digest = sha256_json([self.id, self.revision]) if self.revision else self._contents()
        if self._touched():
            raise PruneError(f"{self.id}: its files changed while they were being read: start again when they rest")
        return digest

    def at(self, directory: Path) -> Source:
        """A checkpoint made from this one, read under the same permissions; checked like any other.

        Raises:
            UsageError, PruneError: see `read_checkpoint`.
        """
        made = replace(self, id=str(directory), directory=directory, revision=None)
        return _opened(made)

    def require_unchanged(self) -> None:
        """Refuse to go on when files were replaced since the source was resolved.

        Cheap while nothing was touched: only then, and where their contents are known, files are read.

        Raises:
            PruneError: names the files.
        """
        changed = self._touched()
        if changed and (self.revision or self.__dict__.get("sha256") != self._contents()):
            raise PruneError(
                f"{self.id}: {', '.join(changed[:3])} changed while it was being used, so results would mix two models;"
                " let the files rest and start again (a run goes on with --resume)"
            )

    @cached_property
    def _stamped(self) -> dict[str, Stamp]:
        own = [CONFIG, INDEX, *self.checkpoint.headers, *self.checkpoint.companions]
        return _stamps(self.directory, dict.fromkeys(own))

    def _touched(self) -> list[str]:
        """Files that are not as they were, by place, size, time or number."""
        now, then = _stamps(self.directory, self._stamped), self._stamped
        return sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name))

    def _contents(self) -> str:
        present = [name for name in self._stamped if (self.directory / name).is_file()]
        return sha256_json({name: sha256_file(self.directory / name) for name in present})


def resolve(
    model: str | Path | Source,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    allow_links: bool = False,
    device_map: str | None = None,
    max_memory: Mapping[str, str | int] | None = None,
    offload_folder: str | None = None,
) -> Source:
    """The source behind a name: its local directory, fetched if need be, with its files checked.

    Args:
        model: directory, hub id, hub id with a revision (`org/name@revision`), or `embedded`; a source stays as it is.
        revision: commit, branch or tag of a hub id.
        dtype, attn_implementation, trust_remote_code, allow_links: see `Source`.
        device_map, max_memory, offload_folder: see `Placement`.

    Raises:
        UsageError: no such directory, no checkpoint in it, a revision of something that has none, or a placement for
            each of several processes, which would take the same devices.
        PruneError: the hub does not give it, or its files are unsafe or contradict each other.
    """
    if isinstance(model, Source):
        return model
    found = locate(model, revision=revision, trust_remote_code=trust_remote_code, allow_links=allow_links)
    placement = None if device_map is None else Placement(device_map, max_memory or {}, offload_folder)
    if placement is not None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            f"--device_map {device_map}: spreads one process over all devices; start it without torchrun or accelerate "
            "launch, or leave device_map out, and each process takes a device"
        )
    return _opened(replace(found, dtype=dtype, attn_implementation=attn_implementation, placement=placement))


def locate(
    model: str | Path | Source,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    allow_links: bool = False,
    whole: bool = False,
) -> Source:
    """`resolve`, with the files left to be checked when they are first read.

    Args:
        whole: fetch every file of a hub repository, not only what loading needs.
    """
    if isinstance(model, Source):
        return model
    name = str(model)
    require_utf8(Path(name))
    if name == EMBEDDED:
        from prune.embedded import MODEL

        directory: Path | None = MODEL
    else:
        if not Path(name).exists() and name.count("@") == 1:
            name, asked = name.split("@")
            if revision is not None and revision != asked:
                raise UsageError(f"--revision {revision}: {model} names another revision; give one of them")
            revision = asked
        check_local(name)
        directory = Path(name) if Path(name).is_dir() else None
    if directory is not None:
        if revision is not None:
            raise UsageError(f"--revision {revision}: {name} is a directory; only a hub id has revisions")
        return Source(name, directory, None, trust_remote_code=trust_remote_code, allow_links=allow_links)
    patterns = None if whole else [*WANTED, *(["*.py"] if trust_remote_code else [])]
    snapshot = _fetch(name, revision, patterns)
    return Source(name, snapshot, snapshot.name, trust_remote_code=trust_remote_code, allow_links=allow_links)


def resolve_all(
    models: Mapping[str, str | Path | Source], *, revision: str | None, **options: Any
) -> dict[str, Source]:
    """Several sources under names of the caller's; `revision` is of every hub id that does not name its own.

    Raises:
        UsageError: a revision, but no hub id; and as for `resolve`.
    """
    found: dict[str, Source] = {}
    takers = [name for name, model in models.items() if _takes_revision(model)]
    if revision is not None and not takers:
        raise UsageError(f"--revision {revision}: there is no hub id for it; directories have no revisions")
    for name, model in models.items():
        found[name] = resolve(model, revision=revision if name in takers else None, **options)
    return found


def check_local(model: str) -> None:
    """Refuse a local path that is no checkpoint, before anything slow is imported.

    A name of the form `org/name` whose first part is no directory here is taken as a hub id.

    Raises:
        UsageError: a missing directory, a directory without config.json, or a file; a GGUF file names `prune import`.
    """
    path = Path(model)
    if path.is_dir():
        if not (path / CONFIG).is_file():
            raise UsageError(f"{model}: no config.json there; give the directory of a transformers checkpoint")
    elif path.suffix.lower() == ".gguf":
        if not path.exists():
            raise UsageError(f"{model}: no such file")
        raise UsageError(f"{model}: is a GGUF file; `prune import {model} -o DIR` makes a checkpoint of it")
    elif path.exists():
        raise UsageError(f"{model}: is a file; give the directory of a transformers checkpoint")
    elif path.is_absolute() or model.startswith(".") or model.count("/") != 1 or path.parent.is_dir():
        raise UsageError(f"{model}: no such model directory")


def _takes_revision(model: str | Path | Source) -> bool:
    return not isinstance(model, Source) and model != EMBEDDED and not Path(model).exists() and "@" not in str(model)


def _opened(source: Source) -> Source:
    """The source, checked now and stamped with the state of its files."""
    check_decoder(source.checkpoint.config)
    source._stamped  # noqa: B018 (noted now, compared later)
    return source


def _stamps(directory: Path, names: Mapping[str, object]) -> dict[str, Stamp]:
    """Real path, size, time and number of each file; and of weight files that came later, which loaders may prefer."""
    found: dict[str, Stamp] = {}
    for name in [*names, *(path.name for path in directory.glob("*.safetensors"))]:
        path = directory / name
        try:
            state = path.stat()
        except OSError:
            continue
        found[name] = (os.path.realpath(path), state.st_size, state.st_mtime_ns, state.st_ino)
    return found


def _fetch(model: str, revision: str | None, patterns: list[str] | None) -> Path:
    """The snapshot directory of a hub id, downloaded where the cache lacks it; its name is the commit hash.

    Raises:
        UsageError: no hub id, or no such revision.
        PruneError: the hub does not have it, does not give it, or cannot be reached.
    """
    from huggingface_hub import errors, snapshot_download

    asked = f"{model}@{revision}" if revision else model
    try:
        others = list(OTHER_FORMATS) if patterns else None
        return Path(snapshot_download(model, revision=revision, allow_patterns=patterns, ignore_patterns=others))
    except errors.HFValidationError:
        raise UsageError(f"{model}: is neither a directory here nor a hub id (org/name)") from None
    except errors.GatedRepoError:
        reason = "its owners ask for consent: accept their terms on its page, then log in with `hf auth login`"
    except errors.RepositoryNotFoundError:
        reason = "the hub has no such model, or it is private: check the name, or log in with `hf auth login`"
    except errors.RevisionNotFoundError:
        raise UsageError(f"--revision {revision}: {model} has no such commit, branch or tag") from None
    except errors.LocalEntryNotFoundError:
        offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
        why = "HF_HUB_OFFLINE is set" if offline else "the hub cannot be reached"
        rev = f" --revision {revision}" if revision else ""
        reason = f"it is not in the local cache and {why}; fetch it once with `hf download {model}{rev}`"
    except Exception as error:  # of many kinds: disk, proxy, server
        reason = " ".join(str(error).split())[:300] or type(error).__name__
    raise PruneError(f"{asked}: cannot be downloaded: {reason}")

"""Scores of layer subsets that outlive the process, keyed by what they depend on and by nothing else.

One SQLite file holds any number of models: a score belongs to a model (hash of weights, configuration and compute
type), a document (hash of its token ids and of where counting starts), a quantity and a subset of the layers.
Criterion, strategy, budget, domain weights and batch size are no part of it, so a larger budget, a second strategy,
more documents or a resumed run find every score made before. Scores are committed batch by batch: a killed search
loses the batch that was running. Every row has a checksum over all that it says, names included; a row that was altered
is no score, and is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evals.weights import weights
from prune.errors import PruneError
from prune.files import has_record_locks, refuse_link, sha256_json, warn_of_no_locks

if TYPE_CHECKING:
    from torch import nn

    from prune.data.domains import Document

log = logging.getLogger("prune")
FORMAT = 3
PLACE = (
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PERM,
)  # fmt: skip
"""SQLite's errors after which the file is as good as it was."""
Keep = tuple[int, ...]

TABLES = """
CREATE TABLE names (id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL);
CREATE TABLE scores (
    model INTEGER NOT NULL, quantity INTEGER NOT NULL, subset INTEGER NOT NULL, document INTEGER NOT NULL,
    value REAL NOT NULL, checksum INTEGER NOT NULL, PRIMARY KEY (model, quantity, subset, document)
) WITHOUT ROWID;
"""


def model_fingerprint(model: nn.Module) -> str:
    """Hex SHA-256 over configuration, kind of attention, and name, type, shape and bytes of every tensor of a model."""
    import torch

    digest = hashlib.sha256()
    config = getattr(model, "config", None)
    if config is not None:
        settings = {k: v for k, v in config.to_dict().items() if not k.startswith("_") and k != "transformers_version"}
        settings["attention"] = getattr(config, "_attn_implementation", None)
        digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in weights(model):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        data = tensor.cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(memoryview(data.numpy()))
    return digest.hexdigest()


def document_key(document: Document, read: Sequence[int] | None = None) -> str:
    """Hash of what a document's likelihood depends on.

    Args:
        read: the tokens whose predictions are read; all that count if None.
    """
    known = [document.input_ids, document.answer_start]
    whole = read is None or len(read) == len(document.input_ids) - document.answer_start
    return sha256_json(known if whole else [*known, list(read or ())])


class ScoreCache:
    """Sums over a document's counted tokens, in nats, of one model.

    Args:
        path: the SQLite file, made when missing; None keeps scores in memory only.
        model: hash of the model.

    Raises:
        PruneError: the file is not one of ours, or cannot be written.
    """

    def __init__(self, path: Path | None, model: str) -> None:
        self.path = path
        self._known: dict[tuple[str, Keep], dict[str, float]] = {}
        self._ids: dict[str, int] = {}
        self._name = model
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                if not path.exists():  # a link to a shared file is welcome, one to nothing would make what it names
                    refuse_link(path)
            self._base = _open(path)
            (version,) = self._base.execute("PRAGMA user_version").fetchone()
            (tables,) = self._base.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
            if not tables:
                self._base.executescript(f"BEGIN; {TABLES} PRAGMA user_version = {FORMAT}; COMMIT;")
            elif version != FORMAT:
                raise PruneError(f"{path}: not a score cache of this version; delete it and run again")
            self._model = self._id(model)
            self._base.commit()
        except (sqlite3.Error, OSError) as error:
            raise PruneError(self._unusable(error)) from None

    def get(self, quantity: str, keep: Keep) -> Mapping[str, float]:
        """What is known of a subset: document key -> value; infinity where the value was not finite."""
        found = self._known.get((quantity, keep))
        if found is None:
            with self._naming_the_cure():
                rows = self._base.execute(
                    "SELECT d.name, s.value, s.checksum FROM scores s JOIN names d ON d.id = s.document "
                    "WHERE s.model = ? AND s.quantity = ? AND s.subset = ?",
                    (self._model, self._find(quantity), self._find(_name(keep))),
                ).fetchall()
            found = self._known[quantity, keep] = {
                document: value
                for document, value, checksum in rows
                if checksum == self._checksum(quantity, keep, document, value)
            }
            if len(found) < len(rows):
                log.warning("%s: %d scores were altered and are made again", self.path, len(rows) - len(found))
        return found

    def _checksum(self, quantity: str, keep: Keep, document: str, value: float) -> int:
        return zlib.crc32(repr((self._name, quantity, _name(keep), document, value)).encode())

    def put(self, quantity: str, keep: Keep, documents: Sequence[str], values: Iterable[float]) -> None:
        """Add scores; they are kept for good after `commit`.

        Raises:
            PruneError: the file cannot be written.
        """
        finite = [float(value) if math.isfinite(value) else math.inf for value in values]
        known = {**self.get(quantity, keep), **dict(zip(documents, finite, strict=True))}
        self._known[quantity, keep] = known
        with self._naming_the_cure():
            subset, kind = self._id(_name(keep)), self._id(quantity)
            rows = [
                (self._model, kind, subset, self._id(d), v, self._checksum(quantity, keep, d, v))
                for d, v in zip(documents, finite, strict=True)
            ]
            self._base.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?, ?, ?)", rows)

    def commit(self) -> None:
        """Make everything that was put durable.

        Raises:
            PruneError: the file cannot be written.
        """
        with self._naming_the_cure():
            self._base.commit()

    @contextlib.contextmanager
    def _naming_the_cure(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise PruneError(self._unusable(error)) from None

    def _unusable(self, error: Exception) -> str:
        of_the_place = getattr(error, "sqlite_errorcode", 0) & 0xFF in PLACE or isinstance(error, OSError)
        cure = "" if of_the_place else "delete it if it is one, its scores are made again, or "
        return f"{self.path}: cannot be used as a score cache ({error}); {cure}give --score_cache another"

    def close(self) -> None:
        """Release the file; what was not committed is dropped."""
        self._base.close()

    def _find(self, name: str) -> int | None:
        """The number of a name, or None. Reading takes no write lock, so that searches can share a file."""
        if name not in self._ids:
            row = self._base.execute("SELECT id FROM names WHERE name = ?", (name,)).fetchone()
            if row is None:
                return None
            (self._ids[name],) = row
        return self._ids[name]

    def _id(self, name: str) -> int:
        """The number of a name, given now if it has none."""
        if self._find(name) is None:
            self._ids[name] = self._base.execute("INSERT INTO names (name) VALUES (?)", (name,)).lastrowid or 0
        return self._ids[name]


def _open(path: Path | None) -> sqlite3.Connection:
    """A connection; without locks where the file system has none, which SQLite would take for a busy file."""
    if path is None or has_record_locks(path.parent):
        return sqlite3.connect(str(path) if path is not None else ":memory:", timeout=60)
    warn_of_no_locks()
    return sqlite3.connect(f"{path.absolute().as_uri()}?nolock=1", uri=True, timeout=60)


def _name(keep: Keep) -> str:
    return ",".join(map(str, keep))

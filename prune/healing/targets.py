"""The original's answers to every counted token of some documents, on disk: distillation without the original.

A directory with `targets.json` (a sealed record: what taught, on which data, with which tokenizer, in how many tokens
a row) and shards of safetensors. A row is one counted position; the rows of a document follow each other, documents in
the order of their domain, domains in the order of the record. A document is found again by its tokens, so that the
order of training, packing and held-out splits are free. Assumption: the data at hand are the ones that were taught,
which `require` has made sure of by hash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.progress import stage
from evals.sealed import file_hash
from prune.errors import PruneError, UsageError, nearest
from prune.files import read_sealed, sha256_json
from prune.healing.buckets import Buckets, normalised
from prune.healing.data import documents_within

if TYPE_CHECKING:
    import torch
    from torch import nn

    from prune.data.domains import Document, Domain
    from prune.healing.settings import HealSettings

RECORD = "targets.json"
FORM = 1
"""Version of the directory's form."""
RECOGNISED = 4096
"""First numbers of a tensor by which a layer of the original is known again."""


def counted_tokens(document: Document) -> int:
    """Positions of a document whose next token counts."""
    return len(document.input_ids) - max(1, document.answer_start)


def data_hash(documents: Sequence[Document]) -> str:
    """By which taught data are known: tokens, and where counting begins."""
    return sha256_json([[d.input_ids, d.answer_start] for d in documents])


def vocabulary_hash(tokenizer: Any) -> str | None:
    """By which a tokenizer is known: its tokens and their numbers; None of one that is not there."""
    vocabulary = getattr(tokenizer, "get_vocab", None)
    return None if vocabulary is None else sha256_json(sorted(vocabulary().items()))


def layer_marks(layer: nn.Module) -> dict[str, str]:
    """By which a layer is known again: a hash of the first numbers of each tensor, in float32.

    Tensors of one value (a norm's ones) are alike in every layer, and are left out.
    """
    import hashlib

    marks = {}
    for name, parameter in layer.named_parameters():
        first = parameter.detach().flatten()[:RECOGNISED].float().cpu()
        if bool((first != first[0]).any()):
            marks[name] = hashlib.blake2b(first.numpy().tobytes(), digest_size=8).hexdigest()
    return marks


@dataclass(frozen=True)
class Shard:
    """One file: which rows it holds, of all domains one after the other, and its hash."""

    file: str
    begin: int
    end: int
    sha256: str


class Targets:
    """A directory that `prune teach` wrote.

    Attributes:
        directory: where it lies.
        record: what `targets.json` says.
        shards: in the order of their rows.
    """

    def __init__(self, directory: Path) -> None:
        """Read the record.

        Raises:
            UsageError: there is no such directory, or no record in it.
            PruneError: the record is damaged, or of another version.
        """
        self.directory = directory
        path = directory / RECORD
        if not path.is_file():
            raise UsageError(f"--targets {directory}: no {RECORD} there; give a directory that `prune teach` wrote")
        try:
            self.record = read_sealed(path)
        except (ValueError, OSError) as error:
            raise PruneError(f"{path}: damaged ({error}); teach again") from None
        if self.record.get("form") != FORM:
            raise PruneError(
                f"{path}: written by another version (form {self.record.get('form')}, here {FORM}): teach again"
            )
        self.shards = [Shard(**entry) for entry in self.record["shards"]]
        self._rows: dict[tuple[tuple[int, ...], int], int] = {}
        self._open: dict[str, Any] = {}

    @property
    def sha256(self) -> str:
        """By which results know the targets."""
        return sha256_json([self.record["model_sha256"], self.record["top_k"], [s.sha256 for s in self.shards]])

    def describe(self) -> dict[str, Any]:
        """What the record of a healing says of them."""
        kept = ("model", "revision", "model_sha256", "top_k", "mass", "bytes_per_token", "tokens")
        return {**{name: self.record[name] for name in kept}, "sha256": self.sha256}

    def require(self, domains: Mapping[str, Domain], max_length: int, tokenizer: Any) -> None:
        """Refuse targets of other data, another length or tokenizer; learn where each document's rows are.

        Args:
            domains: the documents to train on; some of those that were taught.
            max_length: of the training.
            tokenizer: the student's; not compared where either side had token ids only.

        Raises:
            UsageError: names the field that differs.
        """
        where, record = f"--targets {self.directory}", self.record
        if max_length != record["max_length"]:
            raise UsageError(
                f"{where}: max_length was {record['max_length']} and is {max_length}: give --max_length "
                f"{record['max_length']}, or teach again"
            )
        ours = vocabulary_hash(tokenizer)
        if ours is not None and record["tokenizer_sha256"] not in (None, ours):
            raise UsageError(
                f"{where}: tokenizer: {record['model']} numbers its tokens otherwise than the pruned model: teach with "
                "the model that was pruned"
            )
        ends = list(accumulate(described["tokens"] for described in record["data"].values()))
        begins = dict(zip(record["data"], [0, *ends[:-1]], strict=True))
        for name, domain in domains.items():
            if name not in begins:
                raise UsageError(f"{where}: data: was not taught on {nearest(name, list(begins))}: teach on it, too")
            documents = documents_within(domain, max_length)
            if data_hash(documents) != record["data"][name]["sha256"]:
                raise UsageError(
                    f"{where}: data {name}: {record['data'][name]['documents']} documents were taught, and these "
                    f"{len(documents)} are not the same: give --data {name} what `prune teach` read, or teach again"
                )
            row = begins[name]
            for document in documents:
                self._rows.setdefault((document.input_ids, document.answer_start), row)
                row += counted_tokens(document)

    def require_vocabulary(self, size: int) -> None:
        """Refuse a student that predicts another number of tokens.

        Raises:
            UsageError: it does.
        """
        if size != self.record["vocabulary"]:
            raise UsageError(
                f"--targets {self.directory}: vocabulary: {self.record['model']} predicts {self.record['vocabulary']} "
                f"tokens and the pruned model {size}: teach with the model that was pruned"
            )

    def require_entropy(self, settings: HealSettings) -> None:
        """Refuse an objective that needs the whole distribution's entropy of targets that came without it.

        Raises:
            UsageError: it does, and they did.
        """
        if settings.entropy_weight and (speaker := self.record.get("answered_by")):
            raise UsageError(
                f"--entropy_weight {settings.entropy_weight:g}: {speaker} taught in --targets {self.directory}, and "
                "tells likely tokens only; teach with --backend hf, or give --entropy_weight 0"
            )

    def require_whole(self) -> None:
        """Refuse shards that are not as they were written.

        Raises:
            PruneError: names the file.
        """
        with stage("checking targets", len(self.shards), "files") as checking:
            for shard in self.shards:
                path = self.directory / shard.file
                if not path.is_file():
                    raise PruneError(f"{path}: missing; copy it again, or teach again")
                if file_hash(path) != shard.sha256:
                    raise PruneError(f"{path}: not as it was written; copy it again, or teach again")
                checking.advance()

    def kept_layers(self, student: nn.Module) -> list[int]:
        """Which of the original's layers the student's are, by what the record knows of each.

        A layer is recognised by its largest number of equal tensors, in increasing order.

        Raises:
            UsageError: some layer is none of the original's.
        """
        from prune.model.layer_list import find_layer_list

        theirs: list[dict[str, str]] = self.record["layers"]
        kept: list[int] = []
        for number, layer in enumerate(find_layer_list(student)[1]):
            ours = layer_marks(layer).items()
            later = range(kept[-1] + 1 if kept else 0, len(theirs))
            best = max(((len(ours & theirs[j].items()), -j) for j in later), default=(0, 0))
            if best[0] == 0:
                raise UsageError(
                    f"--targets {self.directory}: model: layer {number} of the pruned model is none of "
                    f"{self.record['model']}, which taught; teach with the model that was pruned, or, where its layers "
                    "were all rewritten since, give --kept_layers"
                )
            kept.append(-best[1])
        return kept

    def beside(self, documents: Sequence[Document]) -> dict[str, torch.Tensor]:
        """`of`, as `data.Collator` puts it into a batch."""
        return self.of(documents).beside()

    def of(self, documents: Sequence[Document]) -> Buckets:
        """The distributions at every counted position of the documents, one after the other.

        Raises:
            PruneError: a document was not among those that `require` saw.
        """
        import torch

        parts: dict[str, list[torch.Tensor]] = {"tokens": [], "log_probs": [], "log_rest": [], "entropy": []}
        for document in documents:
            begin = self._rows.get((document.input_ids, document.answer_start))
            if begin is None:
                raise PruneError(f"--targets {self.directory}: data: a document was not taught: teach again")
            self._read(begin, begin + counted_tokens(document), parts)
        joined = {name: torch.cat(found) for name, found in parts.items() if found}
        log_probs, log_rest = normalised(joined["log_probs"].float(), joined["log_rest"])
        tokens = joined["tokens"].long() if "tokens" in joined else None
        return Buckets(tokens, log_probs, log_rest, joined["entropy"])

    def _read(self, begin: int, end: int, parts: dict[str, list[torch.Tensor]]) -> None:
        for shard in self.shards:
            first, last = max(begin, shard.begin) - shard.begin, min(end, shard.end) - shard.begin
            if first < last:
                opened = self._opened(shard)
                for name in opened.keys():  # noqa: SIM118 (not a mapping)
                    parts[name].append(opened.get_slice(name)[first:last])

    def _opened(self, shard: Shard) -> Any:
        from safetensors import safe_open

        if shard.file not in self._open:
            self._open[shard.file] = safe_open(self.directory / shard.file, framework="pt")
        return self._open[shard.file]


def shard_bounds(lengths: Sequence[int], rows: int) -> list[tuple[int, int]]:
    """Documents of each shard, (first, after the last): whole documents, as many as make up `rows` rows.

    Args:
        lengths: counted positions of every document.
        rows: of a shard, reached by its last document.
    """
    bounds, begin, held = [0], 0, 0
    for i, length in enumerate(lengths):
        held += length
        if held >= rows:
            begin, held = i + 1, 0
            bounds.append(begin)
    if bounds[-1] < len(lengths):
        bounds.append(len(lengths))
    return list(pairwise(bounds))

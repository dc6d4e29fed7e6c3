"""Documents -> domains -> token batches, with content hashes.

Turns the rows of the user's files into tokenised documents; knows nothing of layers. Two rules: token ids given as
`input_ids` are used untouched, and text gets exactly the special tokens that its tokenizer adds, none a second time.
Documents of fewer than two tokens cannot be predicted: they are excluded and counted.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.chat import NotRendered, left_out, render
from evals.text_ids import text_ids
from prune.data.rows import BESIDE_MESSAGES, FORMS, IN_MEMORY, Documents, origin, place, read_rows
from prune.errors import PruneError, UsageError, nearest
from prune.files import sha256_json
from prune.wording import Message, message

if TYPE_CHECKING:
    import torch


SAMPLE = 256
"""Documents of a domain that a dry run tokenises; the others are read and counted."""
CHARACTERS = 32
"""A dry run tokenises so many characters a token of seq_length: enough to tell whether a text fills it."""


@dataclass(frozen=True)
class Document:
    """One tokenised document.

    Attributes:
        input_ids: token ids, at least two.
        answer_start: index of the first token whose prediction is counted in a likelihood: 1 for plain text, the
            start of the completion for a prompt with a completion.
        difficulty: the user's number (MATH level, number of steps), if given.
    """

    input_ids: tuple[int, ...]
    answer_start: int = 1
    difficulty: float | None = None


@dataclass(frozen=True)
class Domain:
    """A named set of documents and where it came from.

    Attributes:
        excluded: documents left out because they have fewer than two tokens.
        unanswered: documents left out because their prompt fills seq_length.
        listed: documents that the source has, where only a sample of them was tokenised.
    """

    name: str
    documents: tuple[Document, ...]
    source: str
    sha256: str
    excluded: int = 0
    unanswered: int = 0
    listed: int | None = None

    def describe(self) -> dict[str, Any]:
        """Provenance for result files: counts, source, hash of what is used of the documents.

        Of a sample the counts are estimates, `estimated_from` says of how many documents, and there is no hash.
        """
        if self.listed is not None:
            return self._estimated(self.listed)
        return {
            "source": origin(self.source),
            "sha256": self.sha256,
            "documents": len(self.documents),
            "tokens": sum(len(d.input_ids) for d in self.documents),
            "excluded_too_short": self.excluded,
            "excluded_no_answer": self.unanswered,
        }

    @property
    def as_listed(self) -> tuple[Document, ...]:
        """As many documents as the source has: a sample over and over, for estimates of what work they make."""
        if self.listed is None:
            return self.documents
        count = round(len(self.documents) * self.listed / (len(self.documents) + self.excluded + self.unanswered))
        return tuple(islice(cycle(self.documents), count))

    def _estimated(self, listed: int) -> dict[str, Any]:
        seen = len(self.documents) + self.excluded + self.unanswered
        counts = {
            "documents": len(self.documents),
            "tokens": sum(len(d.input_ids) for d in self.documents),
            "excluded_too_short": self.excluded,
            "excluded_no_answer": self.unanswered,
        }
        whole = {name: round(count * listed / seen) for name, count in counts.items()}
        return {"source": origin(self.source), **whole, "estimated_from": seen}


def drowned_answers(domain: Domain) -> Message | None:
    """A warning where plain text hides a domain's completions from every score per token; None where it does not.

    A figure per token weighs a document by its counted tokens: a one-word answer beside a story of 150 tokens counts
    for nothing. Said when completions are half of what they would be by documents, or less.
    """
    answers = [len(d.input_ids) - d.answer_start for d in domain.documents if d.answer_start > 1]
    text = [len(d.input_ids) - d.answer_start for d in domain.documents if d.answer_start <= 1]
    if not answers or not text or 2 * sum(answers) * len(domain.documents) > len(answers) * sum(answers + text):
        return None
    return message(
        "warn_drowned_answers", domain=domain.name, completions=len(answers), plain=len(text), counted=sum(answers),
        tokens=sum(answers + text),
    )  # fmt: skip


@dataclass(frozen=True)
class Batch:
    """Right-padded documents of one domain.

    Attributes:
        input_ids: [B, T] int64.
        attention_mask: [B, T] int64, 1 on real tokens.
        loss_mask: [B, T] bool, True at the tokens whose prediction (from the position before) is counted.
        index: position of each row in the domain's documents.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    loss_mask: torch.Tensor
    index: list[int] = field(default_factory=list)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        return Batch(self.input_ids.to(device), self.attention_mask.to(device), self.loss_mask.to(device), self.index)


def parse_data_flag(value: str) -> tuple[str, str]:
    """Split `NAME=PATH`.

    Raises:
        UsageError: no `=`, or an empty side.
    """
    name, _, path = value.partition("=")
    if not name or not path:
        raise UsageError(
            f"data {value!r}: write NAME=PATH, for example general=stories.txt; or give a mapping of names to documents"
        )
    return name, path


def check_weights(weights: Mapping[str, float] | None, names: Sequence[str]) -> dict[str, float]:
    """One weight for every domain: those given, 0 for the others; equal if None.

    Raises:
        UsageError: an unknown domain, a negative weight, or nothing above zero.
    """
    if weights is None:
        return dict.fromkeys(names, 1.0)
    for name, weight in weights.items():
        if name not in names:
            raise UsageError(f"domain_weights: unknown domain {nearest(name, list(names))}")
        if not (math.isfinite(weight) and weight >= 0):
            raise UsageError(f"domain_weights {name}={weight}: a weight is a number of zero or more")
    if not any(weights.values()):
        raise UsageError("domain_weights: at least one weight must be above zero")
    return {name: float(weights.get(name, 0.0)) for name in names}


def load_domain(
    name: str,
    source: Documents,
    tokenizer: Any,
    *,
    seq_length: int = 512,
    calib_num_samples: int | None = None,
    seed: int = 0,
    sample: bool = False,
) -> Domain:
    """Read one domain.

    Args:
        name: the domain's name in every result.
        source: documents, a file or a hub data set; see `prune.data.rows.read_rows`.
        tokenizer: a transformers tokenizer; used for text only.
        seq_length: longer documents are cut on the right, in tokens.
        calib_num_samples: at most so many documents, drawn with `seed`; all if None.
        seed: of the draw.
        sample: for a dry run: every row is read and checked, and `SAMPLE` documents at most are tokenised.

    Raises:
        UsageError: the file is missing or of an unknown kind, or a number that leaves nothing.
        PruneError: the file is empty, a row lacks the columns, or no document has two tokens,
            one of them after its prompt.
    """
    if seq_length < 2:
        raise UsageError(f"seq_length {seq_length}: give 2 or more; the first token of a document is not predicted")
    if calib_num_samples is not None and calib_num_samples < 1:
        raise UsageError(f"calib_num_samples {calib_num_samples}: give 1 or more")
    where = place(name, source)
    rows = list(enumerate(read_rows(name, source), start=1))
    if not rows:
        raise PruneError(f"{where}: holds no documents")
    if calib_num_samples is not None and calib_num_samples < len(rows):
        rows = _drawn(rows, calib_num_samples, seed)
    listed = len(rows) if sample and len(rows) > SAMPLE else None
    if sample:
        most = CHARACTERS * seq_length
        rows = [(number, _shortened(row, most)) for number, row in _drawn(rows, min(SAMPLE, len(rows)), seed)]
    documents = [_document(row, tokenizer, seq_length, f"{where}: row {number}") for number, row in rows]
    long_enough = [d for d in documents if len(d.input_ids) >= 2]
    usable = tuple(d for d in long_enough if d.answer_start < len(d.input_ids))
    if not usable:
        raise PruneError(
            f"{where}: no document has two tokens or more within seq_length {seq_length}, one of them after its prompt"
        )
    digest = sha256_json([[d.input_ids, d.answer_start, d.difficulty] for d in usable])
    short, unanswered = len(documents) - len(long_enough), len(long_enough) - len(usable)
    known = str(source) if isinstance(source, str | Path) else IN_MEMORY
    return Domain(name, usable, known, digest, excluded=short, unanswered=unanswered, listed=listed)


def _drawn(rows: list[tuple[int, dict[str, Any]]], count: int, seed: int) -> list[tuple[int, dict[str, Any]]]:
    """So many rows, in their order."""
    return [rows[i] for i in sorted(random.Random(seed).sample(range(len(rows)), count))]


def _shortened(row: dict[str, Any], characters: int) -> dict[str, Any]:
    """A row of plain text less what lies far beyond seq_length; other rows as they are."""
    return {**row, "text": row["text"][:characters]} if "text" in row and "messages" not in row else row


def load_domains(
    sources: Mapping[str, Documents],
    tokenizer: Any,
    *,
    seq_length: int,
    calib_num_samples: int | None,
    seed: int,
    sample: bool = False,
) -> dict[str, Domain]:
    """Every domain by name; see `load_domain`."""
    options: dict[str, Any] = {
        "seq_length": seq_length, "calib_num_samples": calib_num_samples, "seed": seed, "sample": sample,
    }  # fmt: skip
    return {name: load_domain(name, source, tokenizer, **options) for name, source in sources.items()}


def _document(row: dict[str, Any], tokenizer: Any, seq_length: int, where: str) -> Document:
    difficulty = row.get("difficulty")
    if "input_ids" in row:
        # No model predicts the first token, so an answer from there on counts from the second.
        return Document(tuple(row["input_ids"][:seq_length]), max(1, row.get("answer_start", 1)), difficulty)
    if "messages" in row:
        prompt, whole = chat_ids(row, tokenizer, where)
        prompt = prompt if len(prompt) < len(whole) else []  # no answer at its end: all of it is text
    elif "prompt" in row and "completion" in row:
        prompt = text_ids(tokenizer, row["prompt"])
        whole = text_ids(tokenizer, row["prompt"] + row["completion"])
    elif "text" in row:
        prompt, whole = [], text_ids(tokenizer, row["text"])
    else:
        raise PruneError(f"{where} has the columns {sorted(row)}; give {FORMS}")
    # A token that holds the end of the prompt and the start of the completion counts as the completion's.
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(prompt, whole, strict=False)))
    return Document(tuple(whole[:seq_length]), max(1, shared), difficulty)


def chat_ids(row: Mapping[str, Any], tokenizer: Any, where: str) -> tuple[list[int], list[int]]:
    """The conversation of a row in the tokenizer's chat template.

    Args:
        row: `messages`, and what the template is given beside them (`prune.data.rows.BESIDE_MESSAGES`).
        where: file and row, for messages.

    Returns:
        Token ids up to where the last answer begins, and of everything (the same where no answer ends it).

    Raises:
        UsageError: the tokenizer has no chat template.
        PruneError: the template refuses the conversation, or leaves a part of it out.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise UsageError(f"{where}: this tokenizer has no chat template; give prompt + completion")
    messages = row["messages"]
    given = {name: row[name] for name in BESIDE_MESSAGES if name in row}
    given |= given.pop("chat_template_kwargs", {})
    asked = messages[:-1] if messages[-1]["role"] == "assistant" else messages
    try:
        prompt = render(tokenizer, asked, add_generation_prompt=True, **given) if asked else ""
        whole = prompt if len(asked) == len(messages) else render(tokenizer, messages, **given)
        missing = left_out(tokenizer, messages, **given)
    except NotRendered as error:
        raise PruneError(f"{where}: {error}; change the row, or give the tokenizer another template") from None
    if missing:
        raise PruneError(
            f"{where}: the tokenizer's chat template leaves out {', '.join(missing)}: remove that from the data, or "
            "give the tokenizer a template that uses it"
        )
    # A template writes the special tokens itself.
    ids = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in (prompt, whole)]
    return ids[0], ids[1]


def batches(documents: Sequence[Document], batch_size: int, pad_token_id: int = 0) -> Iterator[Batch]:
    """Right-padded batches of documents of similar length, longest first (so that memory fails early or never)."""
    import torch

    order = sorted(range(len(documents)), key=lambda i: (-len(documents[i].input_ids), i))
    for begin in range(0, len(order), batch_size):
        index = order[begin : begin + batch_size]
        length = len(documents[index[0]].input_ids)
        input_ids = torch.full((len(index), length), pad_token_id)  # [B, T]
        attention_mask = torch.zeros(len(index), length, dtype=torch.long)  # [B, T]
        loss_mask = torch.zeros(len(index), length, dtype=torch.bool)  # [B, T]
        for row, i in enumerate(index):
            document = documents[i]
            size = len(document.input_ids)
            input_ids[row, :size] = torch.tensor(document.input_ids)
            attention_mask[row, :size] = 1
            loss_mask[row, document.answer_start : size] = True
        yield Batch(input_ids, attention_mask, loss_mask, index)


def pad_token(tokenizer: Any) -> int:
    """The token that pads: the tokenizer's own, else its end of text, else 0."""
    token = tokenizer.pad_token_id
    return int(token if token is not None else tokenizer.eos_token_id or 0)

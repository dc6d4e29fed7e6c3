"""What each step holds at once, in bytes on the device that computes: one formula a moment, the largest is the peak.

With B documents of T tokens, N predicted tokens, L layers, width d, vocabulary V and w bytes a number. What libraries
take, what an allocator keeps, and the checkpoint's pages that a CPU's kernel keeps for a reader, come on top.
"""

from __future__ import annotations

from dataclasses import dataclass

from prune.estimates.shape import Shape

Moments = dict[str, int]
"""What is held, by what is being done."""

CALL_BYTES = 1 << 28
"""Of streams or attention scores in one call with several removals: `prune.analysis.interventions.WORK_BYTES`."""
LOGITS = 1 << 24
"""Float32 logits made at a time: `prune.model.tracing.LOGITS_PER_CHUNK`."""
LENS_TOKENS = 32  # of a document: `prune.analysis.lens.TOKENS_PER_DOCUMENT`
SAMPLED = (1024, 1 << 29)  # tokens kept for the spectra, and bytes: `prune.analysis.width`
LOSS = (7, 1 << 22)  # float32 copies of a chunk of logits, and numbers in one: `prune.healing.losses`


@dataclass(frozen=True)
class Batch:
    """Documents that run together.

    Attributes:
        rows: B.
        length: T, padding included.
    """

    rows: int
    length: int

    @property
    def tokens(self) -> int:
        """B x T."""
        return self.rows * self.length


def stream(shape: Shape, batch: Batch) -> int:
    """The residual stream at one depth."""
    return batch.tokens * shape.width * shape.item


def call(shape: Shape, batch: Batch) -> int:
    """One layer at work without gradients: stream, normed stream and sum, and the wider of MLP and attention.

    A gated MLP holds three inner streams at its product; attention queries, keys and values for all heads, the rotated
    copies of the first two, and what it returns.
    """
    inner = max(3 * shape.wide, 6 * shape.attention)
    return batch.tokens * (3 * shape.width + inner) * shape.item


def analysis(
    shape: Shape, batch: Batch, *, removals: bool = True, sublayers: bool = True, lens: bool = True
) -> Moments:
    """The default measurements of one batch; see `prune/analysis`.

    Args:
        removals: `dnll`, every layer left out.
        sublayers: `contributions` or `width`.
        lens: `lens`.
    """
    depths, one = shape.layers + 1, stream(shape, batch)
    held = shape.weights + depths * one
    if sublayers:
        most, room = SAMPLED
        each = 4 * shape.width * (2 * depths - 1)
        held += shape.layers * batch.tokens * shape.width * 4 + min(most * each, room)
    found = {"measuring the clean pass": held + call(shape, batch)}
    chunk = min(LOGITS, batch.tokens * shape.vocabulary) * 4
    if lens:
        sampled = min(LOGITS, batch.rows * LENS_TOKENS * shape.vocabulary) * 4
        found["the logit lens"] = held + 5 * sampled
    if removals:
        each = 4 * batch.tokens * max(8 * shape.width, batch.length * shape.heads)
        together = min(shape.layers, max(1, CALL_BYTES // each))
        altered = Batch(together * batch.rows, batch.length)
        finals = shape.layers * one
        found["leaving out layers"] = held + finals + 2 * stream(shape, altered) + call(shape, altered)
        found["comparing predictions"] = held + finals + 6 * chunk
    return found


def planning(shape: Shape, batch: Batch, tokens: int, *, stream_bytes: int = 1 << 30) -> Moments:
    """Scoring subsets of the layers; see `prune.planning.prefix`.

    Args:
        batch: the largest that is scored at a time.
        tokens: of all documents, whose streams are kept as far as `stream_bytes` allows.
    """
    tree = (shape.layers + 1) * stream(shape, batch)
    kept = max(tree, min(stream_bytes, (shape.layers + 1) * stream(shape, Batch(1, tokens))))
    chunk = min(LOGITS, batch.tokens * shape.vocabulary) * 4
    return {"scoring subsets": shape.weights + kept + max(call(shape, batch), 2 * chunk)}


@dataclass(frozen=True)
class Training:
    """What is trained, of a student with `student` layers.

    Attributes:
        student: layers that remain.
        adapted: the last so many of them carry gradients.
        trained: numbers that training changes.
        method: `lora`, `qlora`, `dora` or `full`.
        teacher: the original runs beside it.
        shared: student and original share their weights.
        checkpointing: activations are computed again.
        bf16: activations are two bytes.
    """

    student: int
    adapted: int
    trained: float
    method: str = "lora"
    teacher: bool = True
    shared: bool = True
    checkpointing: bool = False
    bf16: bool = False


def adapters(shape: Shape, layers: int, rank: int) -> float:
    """Numbers in adapters of one rank on every linear weight of so many layers."""
    return shape.linear * layers * rank


def activations(shape: Shape, batch: Batch, item: int) -> int:
    """What one layer keeps for the backward pass, with frozen weights and adapters on every linear one.

    Around each of two norms its input, the normed stream and the linear weights' input; queries, keys, values, what
    attention returns and the rotated queries' copy; of the gated MLP the gate, its activation, the other half and
    their product.
    """
    return batch.tokens * (6 * shape.width + 5 * shape.attention + 4 * shape.wide) * item


def healing(shape: Shape, batch: Batch, training: Training) -> Moments:
    """Training the cut model; see `prune.healing`.

    Args:
        shape: of the original.
        batch: packed rows, all of whose tokens are predicted.
    """
    student = shape.cut(training.student)
    weights = (shape.weights if training.teacher else 0) + (
        0 if training.teacher and training.shared else student.weights
    )
    if training.method == "qlora":
        weights += round(0.52 * training.student * shape.layer)
    held = weights + round((20 if training.method != "full" else 20 - shape.item) * training.trained)
    item = 2 if training.bf16 else shape.item
    each = activations(shape, batch, item)
    inputs = training.adapted * batch.tokens * shape.width * item
    kept = inputs + each if training.checkpointing else training.adapted * each
    logits = batch.tokens * shape.vocabulary * item
    copies, most = LOSS
    loss = (3 if training.teacher else 2) * logits + copies * 4 * min(most, batch.tokens * shape.vocabulary)
    apart = shape.weights if training.teacher else 0
    return {
        "loading both models" if training.teacher else "loading": apart + student.weights,
        "a step of training": held + kept + loss,
        "merging": apart + student.parameters * 4 + round(4 * training.trained),
    }


def forward(shape: Shape, batch: Batch, *, all_logits: bool = True) -> int:
    """A plain pass with a cache, as an evaluation makes it, beside the weights.

    The cache is there while the last layer and then the head work, and gone when the logits are normalised.
    """
    cache = round(batch.tokens * shape.layers * shape.cached) * shape.item
    logits = batch.rows * (batch.length if all_logits else 1) * shape.vocabulary * shape.item
    return max(cache + call(shape, batch), cache + logits, 2 * logits) + 4 * batch.rows * batch.length**2


def streamed(shape: Shape, batch: Batch, *, memory: int) -> Moments:
    """`--stream`: embedding, head and one layer; of activations so many bytes."""
    resident = round(shape.outside + 2 * shape.layer) * shape.item
    return {"one layer after the other": resident + memory + call(shape, batch)}

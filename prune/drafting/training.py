"""Training a draft's last layers to say what the original says: KL on cached streams, resumable.

The trunk never runs: a step enters the draft behind it. The head is run on answer positions only, a chunk at a time, so
that no [B, T, V] exists. KL(original ‖ draft), p and q at temperature 1: its minimum makes the acceptance of greedy and
of sampled proposals 1 alike (DistillSpec, arXiv 2310.08461, compares divergences).
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from evals.progress import stage
from prune.drafting.network import Draft, Network
from prune.drafting.states import Batch, States
from prune.errors import PruneError
from prune.files import read_sealed, sha256_json, write_sealed

log = logging.getLogger("prune")
LOGITS_PER_CHUNK = 1 << 24
"""Of one softmax: 64 MiB in float32."""
WARM_UP = 0.05
"""Share of the steps over which the rate rises."""


@dataclass(frozen=True)
class Agreement:
    """What the original would keep of a draft's proposals on one row.

    Attributes:
        asked: answer positions.
        greedy: of those, where both find the same token likeliest: kept in greedy decoding.
        overlap: Σ over them of Σ_v min(p, q): kept in expectation when sampling at temperature 1 (Leviathan et al.
            2023, corollary 3.6).
    """

    domain: str
    asked: int
    greedy: float
    overlap: float


def chunks(original: Network, draft: Network, batch: Batch, last: int, hidden: torch.Tensor) -> Iterator[
    tuple[torch.Tensor, torch.Tensor, torch.Tensor]
]:  # fmt: skip
    """(row [n], log p [n, V] of the original, log q [n, V] of the draft) at the answer positions, a chunk at a time.

    Args:
        hidden: [B, T, d], the draft's stream after its last layer.
    """
    row, position = batch.asked.nonzero(as_tuple=True)  # [N], [N]
    size = max(1, LOGITS_PER_CHUNK // int(original.anatomy.head.weight.shape[0]))  # type: ignore[union-attr,index]
    for begin in range(0, len(row), size):
        r, p = row[begin : begin + size], position[begin : begin + size]
        with torch.no_grad():
            target = original.logits(batch.streams[last][r, p]).log_softmax(-1)  # [n, V]
        yield r, target, draft.logits(hidden[r, p]).log_softmax(-1)


@torch.no_grad()
def agreement(original: Network, draft: Draft, states: States, tokens: int) -> list[Agreement]:
    """Row by row, with every prefix the row's own; in row order."""
    found: dict[int, list[float]] = {}
    network = Network(draft.model)
    for members in states.batches(tokens):
        batch = states.batch(members, draft.trunk)
        sums = torch.zeros(3, len(members), dtype=torch.float64)
        with draft.as_served():
            hidden = network.continued(batch.ids, batch.streams[draft.trunk], draft.trunk)
            for row, log_p, log_q in chunks(original, network, batch, states.last, hidden):
                same = log_p.argmax(-1).eq(log_q.argmax(-1)).double()  # [n]
                overlap = torch.minimum(log_p, log_q).exp().sum(-1).double()  # [n]
                for total, values in zip(sums, (torch.ones_like(same), same, overlap), strict=True):
                    total.index_add_(0, row.cpu(), values.cpu())
        found |= {member: sums[:, i].tolist() for i, member in enumerate(members)}
    return [Agreement(states.rows[i].domain, int(found[i][0]), *found[i][1:]) for i in range(len(states.rows))]


@dataclass(frozen=True)
class Schedule:
    """How long, how fast, in what order.

    Attributes:
        steps: in all; the rate follows a half cosine over them after warming up.
        batch_tokens: of a step.
    """

    steps: int
    learning_rate: float
    batch_tokens: int
    seed: int
    save_steps: int

    def rate(self, step: int) -> float:
        """Of step `step`, from 0."""
        warm = max(1, round(WARM_UP * self.steps))
        rising = min(1.0, (step + 1) / warm)
        return self.learning_rate * rising * (0.05 + 0.95 * (1 + math.cos(math.pi * step / self.steps)) / 2)


def train(
    original: Network, draft: Draft, states: States, schedule: Schedule, directory: Path, identity: str
) -> list[float]:
    """Train in place; the loss of every step, nats per token.

    Args:
        directory: holds the state to resume from; of this training alone.
        identity: hash of what the result depends on besides.

    Raises:
        PruneError: the loss is not finite.
    """
    own = draft.parameters
    optimizer = torch.optim.AdamW(own.values(), lr=schedule.learning_rate, weight_decay=0.0)
    key = sha256_json([identity, vars(schedule) if hasattr(schedule, "__dict__") else str(schedule), draft.keep])
    losses = _resumed(directory, key, own, optimizer)
    groups = states.batches(schedule.batch_tokens)
    network = Network(draft.model)
    with stage("training", schedule.steps, "steps", done=len(losses)) as going:
        for step in range(len(losses), schedule.steps):
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(step)
            members = _nth(groups, step, schedule.seed)
            with draft.as_served():
                loss = _step(original, network, draft, states.batch(members, draft.trunk), states.last)
            if not math.isfinite(loss):
                raise PruneError(f"the draft's loss is {loss} at step {step + 1}: give a smaller --learning_rate")
            torch.nn.utils.clip_grad_norm_(own.values(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss)
            going.advance(item=f"KL {loss:.3f}")
            if (step + 1) % schedule.save_steps == 0 or step + 1 == schedule.steps:
                _save(directory, key, own, optimizer, losses)
    return losses


def _nth(groups: list[list[int]], step: int, seed: int) -> list[int]:
    epoch, place = divmod(step, len(groups))
    order = list(range(len(groups)))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return groups[order[place]]


def _step(original: Network, network: Network, draft: Draft, batch: Batch, last: int) -> float:
    """Gradients of the mean KL over the batch's answer positions; the mean itself."""
    count = int(batch.asked.sum())
    hidden = network.continued(batch.ids, batch.streams[draft.trunk], draft.trunk)  # [B, T, d]
    reached = hidden.detach().requires_grad_()
    total = 0.0
    for _, log_p, log_q in chunks(original, network, batch, last, reached):
        loss = torch.nn.functional.kl_div(log_q, log_p, reduction="sum", log_target=True) / count
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    assert reached.grad is not None
    hidden.backward(reached.grad)  # type: ignore[no-untyped-call]
    return total


def _save(
    directory: Path,
    key: str,
    own: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    losses: list[float],
) -> None:
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    tensors = {f"weight/{name}": p.detach() for name, p in own.items()}
    for name, parameter in own.items():
        tensors |= {f"{part}/{name}": optimizer.state[parameter][part] for part in ("exp_avg", "exp_avg_sq")}
    named = directory / f"{len(losses)}.safetensors"
    save_file({name: t.contiguous() for name, t in tensors.items()}, named)
    write_sealed(directory / "state.json", {"key": key, "losses": losses, "file": named.name})
    for old in directory.glob("*.safetensors"):
        if old != named:
            old.unlink()


def _resumed(
    directory: Path, key: str, own: Mapping[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> list[float]:
    """The losses of the steps that an earlier run made, with weights and optimizer as it left them."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = read_sealed(directory / "state.json")
        if state["key"] != key:
            return []
        tensors = load_file(directory / state["file"])
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        log.warning("%s: damaged (%s); trained again from the beginning", directory, error)
        return []
    losses = [float(loss) for loss in state["losses"]]
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(tensors[f"weight/{name}"])
            optimizer.state[parameter] = {
                "step": torch.tensor(float(len(losses))),
                "exp_avg": tensors[f"exp_avg/{name}"].to(parameter.device),
                "exp_avg_sq": tensors[f"exp_avg_sq/{name}"].to(parameter.device),
            }
    return losses

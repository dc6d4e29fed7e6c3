"""From prompts to a trained draft: candidates by cost, the original's answers, a short training each, the best goes on.

Nothing is written outside the working directory, which a killed run goes on from.
"""

from __future__ import annotations

import contextlib
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.progress import stage
from evals.speculation import Costs, share_interval
from evals.speculative import draft_cost, round_costs
from prune.drafting.candidates import Candidate, best, choose_layers
from prune.drafting.network import Draft, Network, build, require_shared
from prune.drafting.rounding import DraftType
from prune.drafting.settings import DraftSettings
from prune.drafting.states import Row, States, record_states
from prune.drafting.training import Agreement, Schedule, agreement, train
from prune.errors import PruneError
from prune.files import read_sealed, sha256_json, write_sealed
from prune.healing.generate import generate_answers
from prune.healing.prompts import Prompt
from prune.healing.settings import GenerateSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prune.drafting.served import Served

COST_PROMPTS = 6
ON_POLICY_RATE = 0.1
"""Of the learning rate: what was learned is undone by the whole of it (README.md)."""
RATE_TIMES_WIDTH = 0.4
"""The best rate of Adam falls with the width (Yang et al. 2022, arXiv 2203.03466); this suits the demo's 128."""
SAMPLED_PROMPTS = 50
"""Held-out prompts per domain whose answers are sampled, for the acceptance at temperature 1."""


@dataclass
class Acceptance:
    """Of one domain's held-out answers, every prefix the original's own.

    Attributes:
        greedy: share of tokens kept in greedy decoding, with a 95 % interval over prompts.
        untrained: the same before training.
        sampled: expected share kept at temperature 1, on answers sampled from the original, with interval.
        sampled_prompts: those answers.
    """

    greedy: float
    greedy_interval: tuple[float, float]
    untrained: float
    sampled: float
    sampled_interval: tuple[float, float]
    sampled_prompts: int


@dataclass
class Found:
    """The trained draft and how it came about.

    Attributes:
        draft: in memory.
        chosen: the candidate that it is.
        candidates: all.
        acceptance: by domain.
        losses: nats per token of every step.
        tokens: answer tokens that were trained on, once each.
        answers: domain -> median length of the original's answers.
    """

    draft: Draft
    chosen: Candidate
    candidates: list[Candidate]
    acceptance: dict[str, Acceptance] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    tokens: int = 0
    answers: dict[str, float] = field(default_factory=dict)


@dataclass
class Search:
    """What everything below shares.

    Attributes:
        original: in evaluation mode.
        measured, training: prompts by domain; no prompt is in both.
        directory: for what a killed run goes on from.
        identity: hash of the original.
        key: hash of what training depends on; what the original said is used again under another.
        served: the runtime in which costs are measured; in this process if None.
    """

    original: PreTrainedModel
    tokenizer: Any
    pad_token_id: int
    measured: Mapping[str, Sequence[Prompt]]
    training: Mapping[str, Sequence[Prompt]]
    settings: DraftSettings
    directory: Path
    identity: str
    key: str
    served: Served | None = None

    def run(self) -> Found:
        """Search and train.

        Raises:
            PruneError: every candidate's ceiling lies below the wanted speed-up; or see the steps.
        """
        settings, network = self.settings, Network(self.original)
        layers = choose_layers(network.anatomy.num_layers, settings)
        require_shared(self.original, self._build(layers[-1], None))
        drafts = [self._build(keep, self._rounding) for keep in layers]
        candidates = self._costs(drafts)
        left = [i for i, candidate in enumerate(candidates) if not candidate.skipped]
        if not left:
            raise PruneError(_none_left(candidates))
        trunks = sorted({drafts[i].trunk for i in left})
        held_out = self._states(network, "held-out", self._answers(self.measured, "held-out"), trunks)
        taught = None
        if settings.num_train_epochs:
            taught = self._states(network, "answers", self._answers(self.training, "answers"), trunks)
        before = {i: self._agreement(network, drafts[i], held_out) for i in left}
        for i in left:
            if taught is not None and len(left) > 1:
                schedule = self._schedule(min(settings.probe_steps, self._steps(taught)))
                train(network, drafts[i], taught, schedule, self.directory / f"probe-{len(layers[i])}", self.key)
            same = taught is None or len(left) == 1
            probed = before[i] if same else self._agreement(network, drafts[i], held_out)
            candidates[i].measured(_shares(probed), settings.num_assistant_tokens)
        place = best(candidates)
        draft, chosen = drafts[place], candidates[place]
        found = Found(draft, chosen, candidates, answers=_medians(held_out))
        if taught is not None:
            found.tokens, found.losses = _answer_tokens(taught), self._train(network, draft, taught)
        after = self._agreement(network, draft, held_out) if found.losses else before[place]
        self._accept(found, network, after, _shares(before[place]))
        chosen.measured({n: a.greedy for n, a in found.acceptance.items()}, settings.num_assistant_tokens)
        return found

    @property
    def _rounding(self) -> DraftType | None:
        return self.served.draft_type if self.served else None

    def _build(self, keep: Sequence[int], rounding: DraftType | None) -> Draft:
        s = self.settings
        return build(self.original, keep, train_layers=s.train_layers, train_norm=s.train_norm, rounding=rounding)

    def _costs(self, drafts: Sequence[Draft]) -> list[Candidate]:
        """Measured once: a resumed run goes on with the figures by which the killed one chose."""
        kept, key = (
            self.directory / "costs.json",
            sha256_json(
                [
                    self.identity,
                    [d.keep for d in drafts],
                    COST_PROMPTS,
                    self.served and [self.served.runtime, self._rounding],
                ]
            ),
        )
        with contextlib.suppress(OSError, ValueError, KeyError):
            known = read_sealed(kept)
            if known["key"] == key:
                return self._candidates(drafts, known["costs"], Costs(**known["rounds"]))
        prompts = [p.input_ids for prompts in self.measured.values() for p in prompts][:COST_PROMPTS]
        prompts = (prompts * COST_PROMPTS)[:COST_PROMPTS]
        costs: list[tuple[float, float, float]] = []
        with stage("costs", len(drafts), "candidates") as going:
            for draft in drafts:
                costs += (
                    self.served.costs([draft.keep], prompts)
                    if self.served
                    else [draft_cost(self.original, draft.model, prompts)]
                )
                going.advance()
            place = min(range(len(drafts)), key=lambda i: costs[i][0])
            keep, cost = drafts[place].keep, costs[place][0]
            rounds = (
                self.served.rounds(keep, prompts, cost)
                if self.served
                else round_costs(self.original, drafts[place].model, prompts, cost)
            )
        write_sealed(kept, {"key": key, "costs": costs, "rounds": asdict(rounds)})
        return self._candidates(drafts, costs, rounds)

    def _candidates(self, drafts: Sequence[Draft], costs: Sequence[Sequence[float]], rounds: Costs) -> list[Candidate]:
        return [
            Candidate(list(draft.keep), cost, low, high, self.settings.speedup, rounds=rounds)
            for draft, (cost, low, high) in zip(drafts, costs, strict=True)
        ]

    def _answers(
        self, prompts: Mapping[str, Sequence[Prompt]], name: str, model: PreTrainedModel | None = None, **options: Any
    ) -> list[Row]:
        """A model's answers, the original's unless another is given."""
        settings = GenerateSettings(
            max_new_tokens=self.settings.max_new_tokens,
            ignore_eos=self.settings.ignore_eos,
            batch_size=self.settings.batch_size,
            seed=self.settings.seed,
            **options,
        )
        flat = [prompt for of_domain in prompts.values() for prompt in of_domain]
        answers = generate_answers(
            model or self.original,
            self.tokenizer,
            flat,
            settings,
            pad_token_id=self.pad_token_id,
            partial=self.directory / f"{name}.batches",
            identity={"model": self.identity if model is None else self.key, "name": name},
            resume=True,
        )
        return [Row(r["domain"], tuple(r["input_ids"]), r["answer_start"]) for r in answers.rows]

    def _states(self, network: Network, name: str, rows: Sequence[Row], trunks: Sequence[int]) -> States:
        directory = self.directory / f"states-{name}"
        tokens, below = self.settings.batch_tokens, None
        if self._rounding:  # the trunk as it will be served, with any last layer
            keep = [*range(max(trunks)), network.anatomy.num_layers - 1]
            below = Network(self._build(keep, self._rounding).model)
        identity = sha256_json([self.identity, self._rounding])
        return record_states(network, rows, trunks, directory, identity=identity, tokens=tokens, below=below)

    def _agreement(self, network: Network, draft: Draft, states: States) -> list[Agreement]:
        return agreement(network, draft, states, self.settings.batch_tokens)

    def _steps(self, states: States, epochs: float | None = None) -> int:
        batches = len(states.batches(self.settings.batch_tokens))
        return max(1, round((self.settings.num_train_epochs if epochs is None else epochs) * batches))

    def _schedule(self, steps: int, share: float = 1.0) -> Schedule:
        s = self.settings
        width = int(self.original.get_input_embeddings().weight.shape[1])  # type: ignore[operator,union-attr]
        rate = s.learning_rate or RATE_TIMES_WIDTH / width
        return Schedule(steps, share * rate, s.batch_tokens, s.seed, s.save_steps)

    def _train(self, network: Network, draft: Draft, taught: States) -> list[float]:
        """On the original's answers, then on the draft's own; the losses of all steps."""
        steps, identity = self._steps(taught), self.key
        losses = train(network, draft, taught, self._schedule(steps), self.directory / "training", identity)
        share = self.settings.on_policy_share
        if not share:
            return losses
        chosen = {
            name: random.Random(f"{self.settings.seed}/{name}").sample(list(p), max(1, round(share * len(p))))
            for name, p in self.training.items()
        }
        own = self._answers(chosen, f"own-{len(draft.keep)}", draft.model)
        rows = [*own, *random.Random(self.settings.seed).sample(taught.rows, min(len(own), len(taught.rows)))]
        states = self._states(network, "own", rows, [draft.trunk])
        schedule = self._schedule(self._steps(states, 1.0), ON_POLICY_RATE)
        return losses + train(network, draft, states, schedule, self.directory / "on-policy", identity)

    def _accept(
        self, found: Found, network: Network, greedy: Sequence[Agreement], untrained: Mapping[str, float]
    ) -> None:
        """Take in both acceptances; `greedy` is that on held-out answers."""
        few = {name: prompts[:SAMPLED_PROMPTS] for name, prompts in self.measured.items()}
        rows = self._answers(few, "sampled", do_sample=True)
        sampled = self._agreement(network, found.draft, self._states(network, "sampled", rows, [found.draft.trunk]))
        for name in self.measured:
            ours = [row for row in greedy if row.domain == name]
            drawn = [row for row in sampled if row.domain == name]
            asked, drawn_asked = [r.asked for r in ours], [r.asked for r in drawn]
            kept, overlap = [r.greedy for r in ours], [r.overlap for r in drawn]
            found.acceptance[name] = Acceptance(
                greedy=sum(kept) / sum(asked),
                greedy_interval=share_interval(kept, asked) or (0.0, 1.0),
                untrained=untrained[name],
                sampled=sum(overlap) / sum(drawn_asked),
                sampled_interval=share_interval(overlap, drawn_asked) or (0.0, 1.0),
                sampled_prompts=len(drawn),
            )


def _shares(rows: Sequence[Agreement]) -> dict[str, float]:
    names = dict.fromkeys(row.domain for row in rows)
    return {
        name: sum(r.greedy for r in rows if r.domain == name) / sum(r.asked for r in rows if r.domain == name)
        for name in names
    }


def _answer_tokens(states: States) -> int:
    return sum(len(row.input_ids) - row.answer_start for row in states.rows)


def _medians(states: States) -> dict[str, float]:
    names = dict.fromkeys(row.domain for row in states.rows)
    return {
        name: statistics.median(len(r.input_ids) - r.answer_start for r in states.rows if r.domain == name)
        for name in names
    }


def _none_left(candidates: Sequence[Candidate]) -> str:
    from prune.wording.text import english

    return " ".join(english(c.outcome) for c in candidates) + " Ask for less with --speedup, or for fewer --num_layers."

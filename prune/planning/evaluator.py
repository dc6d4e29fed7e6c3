"""What removing layers costs: ΔNLL or KL per predicted token, or answers lost, per domain and weighted.

The honest pruning scores (SLEB, Shortened LLaMA), paid for once: every subset is run from the first layer where it
differs from an evaluated one (`prefix`), every score is cached by content (`score_cache`), and batches stand outside
candidates, so that one batch's streams live at a time beyond a stated budget. The model is read, never changed.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from evals.progress import Stage, stage
from prune.data.domains import Batch, Domain, batches, check_weights
from prune.errors import PruneError, UsageError
from prune.model.anatomy import find_anatomy
from prune.model.silence import ATTENTION_ONLY, MLP_ONLY, PartsWalk, Silencer
from prune.model.tracing import RecordedWalk
from prune.planning.crew import Crew, Job, Measured, is_out_of_memory
from prune.planning.paired import Look, nested_shares
from prune.planning.positions import positions, thinned, usual_share
from prune.planning.prefix import Keep, PrefixTree, Read
from prune.planning.score import Quantity, Score, Work
from prune.planning.score_cache import ScoreCache, document_key, model_fingerprint
from prune.planning.units import Unit, Units

SUBSETS_A_COMMIT = 256  # scored on one batch at most before they are made durable


class Evaluator:
    """Scores subsets of a model's layers, or of its sub-layers, on named domains.

    Attributes:
        num_layers: depth L of the model.
        units: what subsets are made of.
        work: layer evaluations so far.
        batch_size: documents a batch; halved, for good, when a device runs out of memory.
        shares: domain -> documents in its nested shares, smallest first, the last all of them.
        crew: processes that score together; None where this one is alone.
        answers: whether its documents are those of another that have a prompt.
        sweeps: whether every call of `score_many` reads all weights, so that few large calls are wanted.
    """

    crew: Crew | None = None
    answers = False
    sweeps = False

    def __init__(
        self,
        model: nn.Module,
        domains: Mapping[str, Domain],
        weights: Mapping[str, float] | None = None,
        *,
        batch_size: int = 8,
        pad_token_id: int = 0,
        cache: Path | ScoreCache | None = None,
        stream_bytes: int = 1 << 30,
        seed: int = 0,
        unit: Unit = "layer",
        prediction_share: float | None = 1.0,
    ) -> None:
        """Nothing runs until a score is asked for, but a probe of eight tokens where sub-layers are units.

        Args:
            model: a causal language model in eval mode.
            domains: calibration documents by name.
            weights: of the domains in the total; equal if None, 0 for a domain that is left out.
            batch_size: documents a batch.
            pad_token_id: fills short rows; masked everywhere.
            cache: SQLite file for scores that outlive the process (the weights are read once for its key), or the
                opened cache of this model.
            stream_bytes: streams of so many bytes are kept between calls; beyond it they are recomputed.
            seed: of which documents stand in which share.
            unit: whole layers, or attention and MLP apart.
            prediction_share: of each document's predictions that are read, see `positions`; None: by the model's head.

        Raises:
            UsageError: no documents, or weights that are negative, all zero, or of an unknown domain.
            PruneError: no layer list, a cache file that is none, or sub-layers of a model whose layers share keys.
        """
        self.domains = {name: tuple(domain.documents) for name, domain in domains.items()}
        if not self.domains or not all(self.domains.values()):
            raise UsageError("--data: scoring layers needs at least one document in every domain")
        self.weights = check_weights(weights, list(domains))
        self.model = model
        self.batch_size = batch_size
        self.work = Work()
        self._sources = domains
        self._anatomy = find_anatomy(model)
        self.units = Units(self._anatomy.num_layers, unit)
        self._silencer = Silencer(model, self._anatomy) if self.units.apart else None
        self._pad = pad_token_id
        self._stream_bytes = stream_bytes
        self._trees: dict[tuple[str, int, int], PrefixTree] = {}
        self._seed = seed
        self.shares = {name: nested_shares(len(documents)) for name, documents in self.domains.items()}
        random = np.random.default_rng(seed)
        self._order = {name: random.permutation(len(documents)) for name, documents in self.domains.items()}
        self.prediction_share = usual_share(self._anatomy) if prediction_share is None else prediction_share
        read = {n: [positions(d, self.prediction_share, seed) for d in own] for n, own in self.domains.items()}
        self._keys = {
            name: [document_key(d, at) for d, at in zip(documents, read[name], strict=True)]
            for name, documents in self.domains.items()
        }
        self._tokens = {
            name: np.array([len(d.input_ids) - d.answer_start for d in documents], dtype=np.float64)
            for name, documents in self.domains.items()
        }
        self._scale = {name: self._tokens[name] / [len(at) for at in read[name]] for name in self.domains}
        if not isinstance(cache, ScoreCache):
            cache = ScoreCache(cache, model_fingerprint(model) if cache else "")
        self._cache = cache

    @property
    def num_layers(self) -> int:
        return self._anatomy.num_layers

    @functools.cached_property
    def full(self) -> Keep:
        """Every unit."""
        return tuple(range(self.units.size))

    @functools.cached_property
    def unit_shares(self) -> list[float]:
        """What running each unit counts, in layers."""
        if self._silencer is None:
            return [1.0] * self.num_layers
        return [self._silencer.share(layer, part) for layer in range(self.num_layers) for part in ("attn", "mlp")]

    def check_apart(self, units: Iterable[int]) -> None:
        """Find out how each of these sub-layers is left out, before any document is read; nothing for whole layers.

        Raises:
            PruneError: a layer's attention and MLP cannot be told apart.
        """
        if self._silencer is not None:
            for layer in sorted({unit // 2 for unit in units}):
                self._silencer.check(layer)

    @property
    def num_documents(self) -> int:
        """Documents of all domains."""
        return sum(map(len, self.domains.values()))

    def tokens_in_order(self) -> list[np.ndarray]:
        """For each domain the counted tokens of each document, in the order in which shares take them."""
        return [self._tokens[name][self._order[name]] for name in self.domains]

    def answers_only(self) -> Evaluator:
        """An evaluator on the documents that have a prompt, with the same cache and the same account of work.

        Raises:
            UsageError: no document has one.
        """
        chosen = {
            name: dataclasses.replace(domain, documents=tuple(d for d in self.domains[name] if d.answer_start > 1))
            for name, domain in self._sources.items()
        }
        chosen = {name: domain for name, domain in chosen.items() if domain.documents}
        if not chosen:
            raise UsageError(
                "--criterion: no document has prompt + completion, so none has an answer; use --criterion dnll"
            )
        weights = {name: weight for name, weight in self.weights.items() if name in chosen}
        if not any(weights.values()):
            raise UsageError(f"--domain_weights: no weight on a domain with prompts: {', '.join(chosen)}")
        other = self._again(
            chosen, weights, batch_size=self.batch_size, pad_token_id=self._pad, cache=self._cache,
            stream_bytes=self._stream_bytes, seed=self._seed, unit=self.units.unit,
        )  # fmt: skip
        other.work, other.crew, other.answers = self.work, self.crew, True
        return other

    def clean_sums(self) -> dict[str, np.ndarray]:
        """NLL of the full model over each document's counted tokens, in nats, by domain [documents]."""
        self.score(self.full)
        return {name: self._values(name, self._whole, "dnll") for name in self.domains}

    def _again(self, domains: Mapping[str, Domain], weights: Mapping[str, float], **options: Any) -> Evaluator:
        """Another of the same kind and model."""
        return Evaluator(self.model, domains, weights, **options)

    def clean_nll(self) -> dict[str, float]:
        """NLL per counted token of the full model, in nats, of each domain."""
        return {name: float(sums.sum() / self._tokens[name].sum()) for name, sums in self.clean_sums().items()}

    def tokens(self, name: str) -> np.ndarray:
        """Counted tokens of each document of a domain [documents]."""
        return self._tokens[name]

    def describe_data(self) -> dict[str, Any]:
        """Provenance of the documents, for a plan; `prediction_share` where not every prediction was read."""
        sampled = {} if self.prediction_share >= 1 else {"prediction_share": round(self.prediction_share, 4)}
        return {
            name: {**domain.describe(), "documents_used": len(self.domains[name]), **sampled}
            for name, domain in self._sources.items()
        }

    def score(self, keep: Sequence[int], quantity: Quantity = "dnll") -> Score:
        """The cost of keeping only `keep`; see `score_many`."""
        return self.score_many([keep], quantity)[0]

    def score_many(
        self, keeps: Sequence[Sequence[int]], quantity: Quantity = "dnll", look: Look | None = None
    ) -> list[Score]:
        """The costs of several subsets, sharing every common prefix, in the order given.

        Args:
            keeps: the units that stay, each.
            quantity: `dnll`, the rise of the negative log-likelihood of the documents' own tokens; or `kl`, the
                divergence KL(p ‖ p') of the next-token distribution p' from the full model's p; or `missed`, whether
                a counted token is not the subset's likeliest, by document.
            look: for each domain an index into `shares`: only those documents are read, in the order in which shares
                take them; None: all of them, in their own order.

        Raises:
            UsageError: a subset is empty or names a layer that the model lacks.
            PruneError: the full model gives non-finite values.
        """
        wanted = [self._steps(self._checked(keep)) for keep in keeps]
        needed = {*wanted, self._whole} if quantity == "dnll" else set(wanted)
        self.work.asked.update((quantity, keep) for keep in needed)
        levels = look or tuple(len(shares) - 1 for shares in self.shares.values())
        self._complete(needed, quantity, levels)
        return [self._score(self._checked(keep), quantity, look) for keep in keeps]

    def _checked(self, keep: Sequence[int]) -> Keep:
        chosen = tuple(sorted(set(keep)))
        if not chosen:
            raise UsageError("a model must keep at least one layer")
        if chosen[0] < 0 or chosen[-1] >= self.units.size:
            wrong, what = chosen[0] if chosen[0] < 0 else chosen[-1], "sub-layer" if self.units.apart else "layer"
            raise UsageError(f"{what} {wrong}: the model has {what}s 0..{self.units.size - 1}")
        return chosen

    @functools.cached_property
    def _whole(self) -> Keep:
        """The full model's steps."""
        return tuple(range(self.num_layers))

    def _steps(self, keep: Keep) -> Keep:
        """What a walk runs of a subset of the units, and what the cache knows it by: see `PartsWalk`."""
        if not self.units.apart:
            return keep
        left = set(keep)
        kinds = ((layer, 2 * layer in left, 2 * layer + 1 in left) for layer in self._whole)
        return tuple(
            layer if attn and mlp else layer + (ATTENTION_ONLY if attn else MLP_ONLY)
            for layer, attn, mlp in kinds
            if attn or mlp
        )

    def _score(self, keep: Keep, quantity: Quantity, look: Look | None = None) -> Score:
        sums, tokens = {}, {}
        for at, name in enumerate(self.domains):
            seen = slice(None) if look is None else self._order[name][: self.shares[name][look[at]]]
            values = self._values(name, self._steps(keep), quantity, seen)
            if quantity == "dnll":
                clean = self._values(name, self._whole, quantity, seen)
                if not np.isfinite(clean).all():
                    raise PruneError(f"the full model gives a non-finite likelihood on --data {name}: check --dtype")
                values = values - clean
            sums[name] = values
            tokens[name] = self._tokens[name][seen]
            if quantity == "missed":
                tokens[name] = np.ones_like(tokens[name])
        return Score(keep, sums, tokens, self.weights)

    def _values(self, name: str, keep: Keep, quantity: Quantity, seen: slice | np.ndarray = slice(None)) -> np.ndarray:
        """[documents] cached sums, scaled up to all predictions where some were read."""
        known = self._cache.get(quantity, keep)
        sums = np.array([known[self._keys[name][index]] for index in np.arange(len(self._keys[name]))[seen]])
        return sums if quantity == "missed" else sums * self._scale[name][seen]

    def _block(self, name: str, number: int) -> list[int]:
        """Documents that one share of a domain adds to the one before it, in their own order."""
        before = self.shares[name][number - 1] if number else 0
        return sorted(self._order[name][before : self.shares[name][number]].tolist())

    def _complete(self, needed: set[Keep], quantity: Quantity, levels: Look) -> None:
        """Score what the cache lacks; in smaller batches when memory runs out."""
        while jobs := self._missing(needed, quantity, levels):
            try:
                self._work_off(jobs)
                return
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or self.batch_size == 1:
                    raise
            self.resize(self.batch_size // 2)

    def resize(self, batch_size: int) -> None:
        """Take other batches from now on."""
        if batch_size != self.batch_size:
            self._trees.clear()
            self.batch_size = batch_size

    def place(self, name: str) -> int:
        """Which of the domains a name is."""
        return list(self.domains).index(name)

    def _missing(self, needed: set[Keep], quantity: Quantity, levels: Look) -> list[Job]:
        """Batches that lack a score, with those subsets: blocks outside, batches inside."""
        jobs = []
        for name, level in zip(self.domains, levels, strict=True):
            for number in range(level + 1):
                keys = {self._keys[name][index] for index in self._block(name, number)}
                lacking = [keep for keep in sorted(needed) if keys - self._cache.get(quantity, keep).keys()]
                for order, batch in enumerate(self._batches(name, number) if lacking else ()):
                    own = set(self._keys_of(name, number, batch))
                    some = [keep for keep in lacking if not self._cache.get(quantity, keep).keys() >= own]
                    jobs += [
                        Job(name, number, order, quantity, tuple(some[begin : begin + SUBSETS_A_COMMIT]))
                        for begin in range(0, len(some), SUBSETS_A_COMMIT)
                    ]
        return jobs

    def _batches(self, name: str, number: int) -> list[Batch]:
        documents = [self.domains[name][index] for index in self._block(name, number)]
        whole = batches(documents, self.batch_size, self._pad)
        return [thinned(batch, documents, self.prediction_share, self._seed) for batch in whole]

    def _keys_of(self, name: str, number: int, batch: Batch) -> list[str]:
        block = self._block(name, number)
        return [self._keys[name][block[index]] for index in batch.index]

    def _work_off(self, jobs: Sequence[Job]) -> None:
        """Score jobs and put the scores into the cache, batch by batch; those of several processes at once."""
        if self.crew is not None:
            for job, measured in zip(jobs, self.crew.measure(self, jobs), strict=True):
                self._store(job, measured)
            self._cache.commit()
            return
        for name, group in itertools.groupby(jobs, key=lambda job: job.name):
            own = list(group)
            with stage(f"scoring on {name}", sum(len(job.keeps) for job in own), "candidates x batches") as scoring:
                for job in own:
                    self._store(job, self.measure(job, scoring))
                    self._cache.commit()

    def _store(self, job: Job, measured: Measured) -> None:
        for keep, values in measured.values.items():
            self._cache.put(job.quantity, keep, measured.documents, values)
        self.work.layers += measured.layers
        self.work.evaluated.update((job.quantity, keep) for keep in job.keeps)

    def measure(self, job: Job, scoring: Stage | None = None) -> Measured:
        """Score a job's subsets on the model; the cache is left alone."""
        batch = self._batches(job.name, job.number)[job.order]
        tree, layers = self._tree((job.name, job.number, job.order), batch)
        before = tree.walk.layer_calls
        read = {"dnll": tree.walk.nll, "kl": tree.walk.kl, "missed": tree.walk.missed}[job.quantity]
        read = read if scoring is None else _counted(read, scoring)
        found = tree.measure(job.keeps, read, self._stream_bytes - self._stored_bytes())
        layers += (tree.walk.layer_calls - before) * len(batch.index)
        values = {keep: figures.tolist() for keep, figures in found.items()}
        return Measured(self._keys_of(job.name, job.number, batch), values, layers)

    def _tree(self, place: tuple[str, int, int], batch: Batch) -> tuple[PrefixTree, float]:
        """A batch's clean pass, kept for the next call while the budget for streams allows, and what it took now."""
        tree, layers = self._trees.get(place), 0.0
        if tree is None:
            tree = PrefixTree(
                RecordedWalk(self.model, self._anatomy, batch)
                if self._silencer is None
                else PartsWalk(self.model, self._anatomy, batch, self._silencer)
            )
            layers = tree.walk.layer_calls * len(batch.index)
            if self._stored_bytes() + tree.nbytes <= self._stream_bytes:
                self._trees[place] = tree
        return tree, layers

    def _stored_bytes(self) -> int:
        return sum(tree.nbytes for tree in self._trees.values())


def _counted(read: Read, scoring: Stage) -> Read:
    """The same reading, with every subset that it is asked about counted as done."""

    def wrapped(state: torch.Tensor) -> torch.Tensor:
        values = read(state)
        scoring.advance()
        return values

    return wrapped

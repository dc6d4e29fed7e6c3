"""What every stage of a run reads: the recipe, the original, its tokenizer, documents and suites, loaded when needed.

Nothing here is written, and nothing changes while the run is at work: what a stage leaves behind is read back with
`outputs`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prune.analysis.processes import ALONE, Processes
from prune.checkpoint.source import resolve
from prune.data.domains import Domain, load_domains, pad_token
from prune.model.loading import arithmetic, computed_dtype, load_model, load_tokenizer
from prune.model.settings import PlacedSettings
from prune.planning.registry import get_criterion, get_strategy
from prune.runs.recipe import Recipe, SuiteRecipe
from prune.runs.verdict import CandidateKey
from prune.settings import fields_of
from prune.versions import library_versions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from evals.suite import Suite


class RunInputs:
    """One recipe, and what it names.

    Attributes:
        recipe: every option.
        root: the run directory.
        resume: go on from what an interrupted stage left.
        sample: tokenise no more of the documents than tells whether the recipe holds (a dry run).
        source: the original, resolved.
        processes: those that a launcher started, of which this is one.
    """

    def __init__(self, recipe: Recipe, root: Path, *, resume: bool = False, processes: Processes = ALONE) -> None:
        """Raises UsageError, PruneError: no such criterion or strategy, or what `resolve` says of the model."""
        self.recipe = recipe
        self.root = root
        self.resume = resume
        self.processes = processes
        self.sample = False
        # A name that does not exist should not wait for the analysis to be found out.
        get_criterion(recipe.plan.criterion), get_strategy(recipe.plan.strategy)
        self.source = resolve(recipe.model, **fields_of(PlacedSettings, recipe))

    @cached_property
    def versions(self) -> dict[str, str]:
        """Of the libraries: a stage is done again with others."""
        return library_versions()

    @cached_property
    def tokenizer(self) -> Any:
        """The original's; every candidate has the same."""
        return load_tokenizer(self.source)

    @cached_property
    def original(self) -> PreTrainedModel:
        """The unpruned model."""
        return load_model(self.source, device=self.processes.device)

    def candidate(self, directory: str | Path) -> PreTrainedModel:
        """A checkpoint of the run, loaded as the original is."""
        return load_model(self.source.at(Path(directory)), device=self.processes.device)

    def whole(self, directory: str | Path | None = None) -> PreTrainedModel:
        """A checkpoint of the run, or the original, on one device: training moves models itself."""
        if self.source.placement is None:
            return self.original if directory is None else self.candidate(directory)
        source = self.source if directory is None else self.source.at(Path(directory))
        return load_model(replace(source, placement=None))

    @property
    def source_hash(self) -> str:
        """SHA-256 of the original's files, or of a hub id and its commit."""
        return self.source.sha256

    @cached_property
    def dtype(self) -> str:
        """The type that models are computed in: `auto` is another one on another machine."""
        return computed_dtype(self.source)

    @cached_property
    def arithmetic(self) -> dict[str, str]:
        """What decides the last bits of results, for the inputs of stages."""
        return arithmetic(self.source)

    @cached_property
    def domains(self) -> dict[str, Domain]:
        """Calibration documents."""
        options = self.recipe.data
        return self._load(options.domains, options.seq_length, options.calib_num_samples)

    @cached_property
    def heal_domains(self) -> dict[str, Domain]:
        """Training documents, less the original's own answers; all of them where targets must be of these very ones."""
        heal, data = self.recipe.heal, self.recipe.data
        taught = heal.targets is not None
        if heal.domains:
            return self._load(heal.domains, heal.max_length, None, whole=taught)
        if heal.self_generated:
            return {}
        return self._load(data.domains, data.seq_length, data.calib_num_samples, whole=True) if taught else self.domains

    def _load(
        self, files: Mapping[str, str], seq_length: int, count: int | None, *, whole: bool = False
    ) -> dict[str, Domain]:
        options: dict[str, Any] = {"seq_length": seq_length, "calib_num_samples": count, "seed": self.recipe.seed}
        return load_domains(files, self.tokenizer, sample=self.sample and not whole, **options)

    @property
    def pad(self) -> int:
        """The token that pads."""
        return pad_token(self.tokenizer)

    @cached_property
    def suites(self) -> list[Suite]:
        """The gate's."""
        return self._with_shots(resolve_suites(self.recipe.eval.suites, self.recipe.eval.size))

    @cached_property
    def screen_suites(self) -> list[Suite]:
        """The suites of the screen, under the screen's floor."""
        options = self.recipe.screen
        if options is None:
            return []
        suites = self._with_shots(resolve_suites(options.suites, "full"))
        return [s.model_copy(update={"floor": options.floor}) for s in suites]

    def _with_shots(self, suites: list[Suite]) -> list[Suite]:
        from evals.suite_choice import choose_suites

        return choose_suites(suites, [], num_fewshot=self.recipe.eval.num_fewshot)

    def candidates(self, depths: Iterable[int]) -> list[CandidateKey]:
        """What is judged at these depths: deepest first, each as it was cut and, where the recipe heals, healed."""
        stages: tuple[Literal["pruned", "healed"], ...] = ("pruned", "healed")
        return [
            CandidateKey(d, s) for d in sorted(depths, reverse=True) for s in stages[: 1 + self.recipe.heal.enabled]
        ]


def resolve_suites(entries: Sequence[str | SuiteRecipe], size: Literal["quick", "full"]) -> list[Suite]:
    """A recipe's suites: built-in ones by name, the user's own as they stand."""
    from evals.suite import load_suite, make_suite

    found = []
    for entry in entries:
        if isinstance(entry, SuiteRecipe):
            found.append(make_suite(entry.model_dump(), base=Path(), source=f"suites: {entry.name}"))
        else:
            found.append(load_suite(entry).sized(size))
    return found

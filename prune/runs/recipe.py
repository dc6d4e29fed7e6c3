"""The recipe: every option of a run, with its default, its unit and what it does; YAML in and out.

One model per stage. Unknown keys are refused with the nearest valid name. Paths are relative to the recipe's folder.
`embedded` as the model stands for the demo model that the package carries.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from evals.secrets import redacted
from evals.settings import EvalSettings, SpeedSettings
from evals.text import NotText, read_text, require_text
from evals.visible import visible
from prune.analysis.settings import AnalyzeSettings
from prune.checkpoint.source import EMBEDDED
from prune.data.settings import DocumentSettings, WeightSettings
from prune.drafting.settings import DraftSettings
from prune.errors import UsageError, nearest
from prune.files import require_utf8
from prune.healing.settings import GenerateSettings, HealSettings
from prune.model.settings import PlacedSettings
from prune.packaging.settings import ExportSettings
from prune.planning.settings import PlanSettings, UnitSettings
from prune.serving.settings import RuntimeSettings
from prune.settings import Seeded, Settings
from prune.wording.settings import PageSettings
from prune.wording.text import Text


class DataRecipe(DocumentSettings):
    """Which documents, cut how."""

    domains: dict[str, str] = Field(description="name -> text, JSON, CSV or parquet file, or hub data set")


class AnalyzeRecipe(AnalyzeSettings):
    """What is measured; the keys are those of `prune analyze`."""


class PlanRecipe(RuntimeSettings, UnitSettings, PlanSettings):
    """Which layers go; the keys are those of `prune plan`."""

    depths: list[Annotated[int, Field(ge=1)]] = Field(
        min_length=1, description="layers that remain; one candidate each"
    )
    compensate: Literal["none", "linear", "scale"] = Field(
        "none", description="repair of the gaps without training, kept where it lowers held-out NLL; first round only"
    )


class SelfGeneratedRecipe(GenerateSettings):
    """Training on the original model's own answers; the other keys are those of `prune generate`."""

    prompts: dict[str, str] = Field(min_length=1, description="name of a training domain -> file of prompts")


class HealRecipe(WeightSettings, HealSettings):
    """How the pruned models are healed; the keys are those of `prune heal`."""

    enabled: bool = Field(True, description="false: pruned models are judged as they are")
    domains: dict[str, str] = Field(
        {}, description="training documents; if absent, self_generated alone, or else the calibration domains"
    )
    self_generated: SelfGeneratedRecipe | None = Field(
        None, description="more domains: what the original answers to prompts, generated once"
    )
    targets: str | None = Field(
        None, description="directory that `prune teach` wrote on these domains: distil from it, not from the original"
    )
    rounds: int = Field(
        1, ge=1, description="cut and heal in so many turns, choosing layers anew each time; max_steps is shared out"
    )
    track: int | None = Field(
        None, ge=1, description="items per task of the gate's suites scored at each held-out evaluation; none if absent"
    )

    @model_validator(mode="after")
    def _names_differ(self) -> HealRecipe:
        for name in self.self_generated.prompts if self.self_generated else ():
            if name in self.domains:
                raise ValueError(f"self_generated.prompts and domains both name {name}; rename one")
        return self

    @model_validator(mode="after")
    def _taught(self) -> HealRecipe:
        if self.targets is not None and self.self_generated is not None:
            raise ValueError(
                "targets and self_generated: what will be generated was not taught; generate first, then teach on that"
            )
        return self

    def names(self, calibration: Mapping[str, str]) -> list[str]:
        """Every training domain, given those of the calibration."""
        generated = self.self_generated.prompts if self.self_generated else {}
        return [*(self.domains or ({} if generated else calibration)), *generated]


class SuiteRecipe(Settings):
    """A user's own suite: lm-eval tasks under one floor."""

    name: str
    title: str = ""
    titles: dict[str, str] = Field({}, description="language code -> title for a report in that language")
    floor: float = Field(0.95, gt=0, le=1, description="share of the original's score above chance that must be kept")
    tasks: list[dict[str, Any]] = Field(
        min_length=1, description="task, metric, filter, chance, num_fewshot ...; or jsonl and kind (evals/README.md)"
    )


class EvalRecipe(EvalSettings):
    """What the candidates are tested on; the keys are those of `prune eval`."""

    suites: list[str | SuiteRecipe] = Field(min_length=1, description="built-in suite names, or suites of your own")


class DraftTraining(DraftSettings):
    """A draft made for speed; the other keys are those of `prune draft`."""

    prompts: dict[str, str] = Field(min_length=1, description="name of a domain -> file of prompts, as for `generate`")


class DraftRecipe(Settings):
    """The lossless way out, where no candidate passes a suite: a draft made for speed, or the shallowest candidate."""

    enabled: bool = Field(True, description="false: never tried")
    suites: list[str] = Field([], description="tried on these too, whatever the gate says")
    prompts: int = Field(200, ge=1, description="prompts per suite")
    max_new_tokens: int = Field(32, ge=2, description="tokens decoded for every prompt")
    num_assistant_tokens: int = Field(4, ge=1, description="tokens proposed at a time; a trained draft brings its own")
    train: DraftTraining | None = Field(
        None, description="make a draft and try that; the shallowest candidate if absent"
    )


class ScreenRecipe(Settings):
    """A cheap first round over every depth, as cut; only the survivors are healed and judged."""

    suites: list[str | SuiteRecipe] = Field(min_length=1, description="likelihood suites: cheap, no generation")
    looks: list[Annotated[int, Field(ge=1)]] = Field(
        [50, 100, 200], min_length=1, description="items per task at each look; stops when the interval decides"
    )
    floor: float = Field(0.7, gt=0, le=1, description="least retention worth healing; replaces the suites' own floors")
    confirm: int = Field(3, ge=1, description="depths that go on at most: the shallowest that pass, then the undecided")

    @model_validator(mode="after")
    def _increasing(self) -> ScreenRecipe:
        if any(b <= a for a, b in pairwise(self.looks)):
            raise ValueError(f"looks {self.looks} must increase")
        return self


class CostRecipe(SpeedSettings, Settings):
    """How speed is measured, and what it is worth."""

    batch_size: int = Field(1, ge=1, description="sequences at a time")
    price_per_hour: float | None = Field(
        None, gt=0, description="of the machine that serves, for cost per million tokens"
    )
    currency: str = Field("USD", description="of every price")
    price_note: str = Field("", description="where the price comes from; stands beside every amount")
    price_notes: dict[str, str] = Field({}, description="language code -> the note for a report in that language")
    healing_price_per_hour: float | None = Field(
        None, gt=0, description="of the machine that trains; price_per_hour if absent"
    )
    healing_tokens: int | None = Field(
        None,
        ge=1,
        description="planned training tokens, priced at the measured training speed; the run's own if absent",
    )
    vllm_bench: dict[str, str] = Field(
        {},
        description="`original` or a number of layers -> JSON of `vllm bench serve --save-result`; these speeds are "
        "then the ones that are priced",
    )

    @property
    def own_price_note(self) -> dict[str, str]:
        """The note by language."""
        return {"en": self.price_note, **self.price_notes} if self.price_note else dict(self.price_notes)


class ExportRecipe(ExportSettings):
    """What is written, and when."""

    require: list[str] = Field([], description="suites that must pass; all if absent")
    fallback: bool = Field(True, description="export the candidate that passes most suites, under that label")


class ReportRecipe(PageSettings):
    """How report.html and report.md are written."""

    titles: dict[str, dict[str, str]] = Field(
        {}, description="language code -> name of a domain or task -> what a report in that language calls it"
    )

    @field_validator("titles")
    @classmethod
    def _spoken_too(cls, value: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
        for lang in value:
            Text(lang)
        return value


class Recipe(Seeded, PlacedSettings):
    """A whole run."""

    model: str = Field(description="directory, hub id, or `embedded`")
    data: DataRecipe
    analyze: AnalyzeRecipe = AnalyzeRecipe()
    plan: PlanRecipe
    screen: ScreenRecipe | None = Field(None, description="every depth is healed and judged if absent")
    heal: HealRecipe = HealRecipe()
    eval: EvalRecipe
    draft: DraftRecipe = DraftRecipe()
    cost: CostRecipe = CostRecipe()
    export: ExportRecipe = ExportRecipe()
    report: ReportRecipe = ReportRecipe()

    @model_validator(mode="after")
    def _placed(self) -> Recipe:
        if self.device_map is None:
            return self
        if self.plan.compensate != "none":
            raise ValueError("device_map: compensation rewrites weights in memory; leave out plan.compensate")
        if self.heal.enabled and self.heal.method == "qlora":
            raise ValueError(
                "device_map: QLoRA makes its 4-bit copy on one device; use heal.method lora, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _parts(self) -> Recipe:
        plan = self.plan
        if plan.unit == "layer":
            return self
        if plan.runtime != ["mlx"]:
            raise ValueError(
                f"plan.unit {plan.unit}: a run exports a directory, which mlx alone reads with sub-layers left out: set"
                " plan.runtime to mlx; for a GGUF file use `prune plan` and `prune cut`"
            )
        if plan.compensate != "none" or self.heal.rounds > 1:
            key = "heal.rounds" if plan.compensate == "none" else "plan.compensate"
            raise ValueError(f"{key} is of whole layers: leave it out, or set plan.unit to layer")
        return self

    @model_validator(mode="after")
    def _names_agree(self) -> Recipe:
        checks: tuple[tuple[str, Mapping[str, float], Iterable[str]], ...] = (
            ("plan.domain_weights", self.plan.domain_weights, self.data.domains),
            ("heal.domain_weights", self.heal.domain_weights, self.heal.names(self.data.domains)),
        )
        for field, weights, names in checks:
            for name in weights:
                if name not in names:
                    raise ValueError(f"{field} names the domain {nearest(name, list(names))}")
            if weights and not any(weights.values()):
                raise ValueError(f"{field}: at least one weight must be above zero")
        return self


def load_recipe(path: Path) -> Recipe:
    """Read a recipe; file names in it become absolute, relative to the recipe's folder.

    Raises:
        UsageError: missing file, no YAML, an unknown key (with the nearest valid one), or a wrong value.
    """
    import yaml

    require_utf8(path)
    if not path.is_file():
        raise UsageError(f"{path}: no such recipe; `prune demo --show_recipe` prints one to start from")
    try:
        values = yaml.safe_load(read_text(path))
    except NotText as error:
        raise UsageError(f"{path}: {error}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UsageError(f"{path}: a recipe is a mapping of keys to values; `prune demo --show_recipe` prints one")
    require_text(values, str(path))
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"{path}: {_explain(error)}") from None
    return _absolute(recipe, path.resolve().parent)


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML: without secrets, and with unseen characters as YAML escapes them."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        style = None if visible(value) == value else '"'  # the only style with escapes
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    values = redacted(recipe.model_dump(mode="json"))
    return visible(yaml.dump(values, Dumper=Dumper, sort_keys=False, allow_unicode=True))


def _explain(error: ValidationError) -> str:
    # A typo in a required key gives two errors, 'missing' and 'unknown'; the unknown name is the one to show.
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    where = ".".join(str(part) for part in first["loc"]) or "recipe"
    if first["type"] == "extra_forbidden":
        owner: Any = Recipe
        for part in first["loc"][:-1]:
            field = (
                owner.model_fields.get(str(part)) if isinstance(owner, type) and issubclass(owner, BaseModel) else None
            )
            owner = field.annotation if field is not None else None
        valid = list(owner.model_fields) if isinstance(owner, type) and issubclass(owner, BaseModel) else []
        word = str(first["loc"][-1])
        below = _below(word, valid) if owner is Recipe else []
        return f"unknown key {where}: " + (f"did you mean {' or '.join(below)}?" if below else nearest(word, valid))
    return f"{where}: {first['msg'].removeprefix('Value error, ')}"


def _below(word: str, valid: list[str]) -> list[str]:
    """What a key at the top may have meant in a section, where a name there is nearer than any at the top."""
    inner: dict[str, list[str]] = {}
    for section, field in Recipe.model_fields.items():
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                for name in kind.model_fields:
                    inner.setdefault(name, []).append(f"{section}.{name}")
    close = difflib.get_close_matches(word, [*valid, *inner], n=1, cutoff=0.75)
    return inner[close[0]] if close and close[0] not in valid else []


def _absolute(recipe: Recipe, folder: Path) -> Recipe:
    def resolve(path: str) -> str:
        return str((folder / path).resolve()) if (folder / path).exists() else path

    def files(domains: dict[str, str]) -> dict[str, str]:
        return {name: resolve(path) for name, path in domains.items()}

    data = recipe.data.model_copy(update={"domains": files(recipe.data.domains)})
    generated = recipe.heal.self_generated
    if generated is not None:
        generated = generated.model_copy(update={"prompts": files(generated.prompts)})
    heal = recipe.heal.model_copy(
        update={
            "domains": files(recipe.heal.domains),
            "self_generated": generated,
            "targets": resolve(recipe.heal.targets) if recipe.heal.targets else None,
        }
    )

    def own(task: dict[str, Any]) -> dict[str, Any]:
        return task | {"jsonl": resolve(str(task["jsonl"]))} if "jsonl" in task else task

    def placed(suite: str | SuiteRecipe) -> str | SuiteRecipe:
        return (
            resolve(suite)
            if isinstance(suite, str)
            else suite.model_copy(update={"tasks": list(map(own, suite.tasks))})
        )

    screen = recipe.screen
    if screen is not None:
        screen = screen.model_copy(update={"suites": [placed(s) for s in screen.suites]})
    tests = recipe.eval.model_copy(
        update={
            "suites": [placed(s) for s in recipe.eval.suites],
            "include_path": [resolve(p) for p in recipe.eval.include_path],
            "local_data": resolve(recipe.eval.local_data) if recipe.eval.local_data else None,
        }
    )
    draft = recipe.draft
    if draft.train is not None:
        train = draft.train.model_copy(update={"prompts": files(draft.train.prompts)})
        draft = draft.model_copy(update={"train": train})
    cost = recipe.cost.model_copy(update={"vllm_bench": files(recipe.cost.vllm_bench)})
    model = recipe.model if recipe.model == EMBEDDED else resolve(recipe.model)
    found = {"model": model, "data": data, "screen": screen, "heal": heal, "eval": tests, "cost": cost, "draft": draft}
    return recipe.model_copy(update=found)

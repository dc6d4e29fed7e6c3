"""Every option of testing: its default, its unit, its meaning.

A recipe, a command line and a Python function may all be made from these fields. Text is understood where a command
line gives it: names with commas, settings as `NAME=VALUE,NAME=VALUE`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.config import JsonDict

DATA: JsonDict = {"group": "data"}
METHOD: JsonDict = {"group": "method"}
OUTPUT: JsonDict = {"group": "output"}
ADVANCED: JsonDict = {"group": "advanced"}


def _names(value: Any) -> Any:
    if isinstance(value, Path):
        return [str(value)]
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _paths(value: Any) -> Any:
    one = isinstance(value, str | Path)
    return [str(value)] if one else [str(path) for path in value] if isinstance(value, list | tuple) else value


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _pairs(value: Any) -> Any:
    """`max_gen_toks=256,temperature=0` with values read as YAML reads them."""
    import yaml

    if value is None:
        return {}
    if not isinstance(value, str):
        return value
    pairs = {}
    for part in value.split(",") if value else []:
        name, equals, text = part.partition("=")
        if not equals or not name.strip():
            raise ValueError("write NAME=VALUE,NAME=VALUE")
        pairs[name.strip()] = yaml.safe_load(text)
    return pairs


def _batch_size(value: Any) -> Any:
    if isinstance(value, str) and value.isdigit():
        value = int(value)
    automatic = isinstance(value, str) and value.split(":")[0] == "auto"
    if not automatic and not (isinstance(value, int) and value > 0):
        raise ValueError("a number of at least 1, or auto")
    return value


Names = Annotated[list[str], BeforeValidator(_names)]
Pairs = Annotated[dict[str, Any], BeforeValidator(_pairs)]


class TestSettings(BaseModel):
    """What models are tested on, and how strictly."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    __test__ = False  # no test case of pytest

    size: Literal["quick", "full"] = Field(
        "full", description="`quick` or `full`, as each suite defines them; limit wins."
    )
    limit: int | None = Field(None, ge=1, description="Items per task; all if absent.")
    include_path: Annotated[list[str], BeforeValidator(_paths)] = Field(
        [],
        description="Folder of lm-eval task files of your own; they may run Python.",
        json_schema_extra={**DATA, "repeat": True},
    )
    local_data: Annotated[str | None, BeforeValidator(_text)] = Field(
        None, description="Folder of data files that stand in for the hub (evals/local_data).", json_schema_extra=DATA
    )
    alpha: float = Field(
        0.05, gt=0, lt=0.5, description="Error rate of the gate over all suites.", json_schema_extra=METHOD
    )
    confirm_run_unsafe_code: bool = Field(
        False, description="Allow tasks that run generated code.", json_schema_extra=ADVANCED
    )

    @property
    def folders(self) -> list[Path]:
        """Folders of task files."""
        return [Path(path) for path in self.include_path]

    @property
    def replacements(self) -> Path | None:
        """The folder that stands in for the hub."""
        return Path(self.local_data) if self.local_data else None

    def options(self) -> dict[str, Any]:
        """The arguments of `evals.harness.run_tasks` that these are."""
        apart = {"size", "alpha", "include_path", "local_data"}
        own = {name: getattr(self, name) for name in TestSettings.model_fields if name not in apart}
        return {**own, "include_path": self.folders, "local_data": self.replacements}


class EvalSettings(TestSettings):
    """How prompts are worded and answered."""

    num_fewshot: int | None = Field(
        None,
        ge=0,
        description="Examples in every prompt; the suite's or the task's own if absent.",
        json_schema_extra=METHOD,
    )
    batch_size: Annotated[int | str, BeforeValidator(_batch_size)] = Field(
        "auto", description="Sequences at a time, or `auto`: as many as fit into memory, at most 32 on a CPU."
    )
    gen_kwargs: Pairs = Field(
        {},
        description="Generation settings that win over the tasks' own, NAME=VALUE with commas.",
        json_schema_extra=METHOD,
    )
    apply_chat_template: bool = Field(False, description="Wrap prompts in the chat template.", json_schema_extra=METHOD)
    fewshot_as_multiturn: bool | None = Field(
        None,
        description="Examples as turns of a conversation; the default with a chat template.",
        json_schema_extra=METHOD,
    )
    system_instruction: str | None = Field(None, description="Text before every prompt.", json_schema_extra=METHOD)
    log_samples: bool = Field(
        False, description="Keep documents and prompts with the samples.", json_schema_extra=OUTPUT
    )

    def options(self) -> dict[str, Any]:
        """The arguments of `evals.harness.run_tasks` that these are."""
        own = {name: getattr(self, name) for name in EvalSettings.model_fields if name not in TestSettings.model_fields}
        own.pop("num_fewshot")  # part of the suites, see `choose_suites`
        return {**super().options(), **own}


class BackendSettings(BaseModel):
    """What runs the model."""

    backend: str = Field(
        "hf",
        description="`hf` in this process; `vllm`, or `llama.cpp` for a GGUF file, where scripts/runtime installed it; "
        "`openai` for a server with that interface, at base_url.",
        json_schema_extra=ADVANCED,
    )
    base_url: str | None = Field(
        None,
        description="Address of the server, with /v1; two with a comma where the baseline is elsewhere. A key is "
        "read from OPENAI_API_KEY; models are those of these names there, or model_args model=NAME.",
        json_schema_extra=ADVANCED,
    )
    model_args: Pairs = Field(
        {},
        description="Options of the backend, NAME=VALUE with commas: max_model_len=4096.",
        json_schema_extra=ADVANCED,
    )


class SpeedSettings(BaseModel):
    """How speed is measured: all models in turn."""

    prompt_tokens: int = Field(
        128, ge=1, description="Length of the prompts where speed is measured, in tokens.", json_schema_extra=METHOD
    )
    new_tokens: int = Field(32, ge=2, description="Tokens generated after each prompt.", json_schema_extra=METHOD)
    repeats: int = Field(3, ge=1, description="Timings behind each median.", json_schema_extra=METHOD)

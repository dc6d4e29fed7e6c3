"""Every option of healing and of generating answers: its default, its unit, its meaning.

Under the names that TRL and Trainer users know. Imports nothing heavy: the recipe and the command line read these
fields for their own help. Unknown fields are errors.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from evals.settings import Pairs
from prune.healing.objectives import OBJECTIVES, WEIGHTS, ObjectiveSettings
from prune.settings import ADVANCED, DATA, METHOD, TRAINING, Settings

Method = Literal["lora", "dora", "qlora", "full"]
RATE_TIMES_WIDTH, HIGHEST_RATE = 1.7, 3e-3
"""The rate falls with the width of the stream, as Adam's best one does (Yang et al. 2022, arXiv 2203.03466). The factor
is from SmolLM2 (width 576), where 3e-3 brought back far more than 1e-3, and Gemma 3 270M (scripts/README.md).
"""
WHOLE_WEIGHTS = 0.2
"""Of the rate of adapters: at theirs, whole weights would lose what they hold. SmolLM2's, at 6e-4, came back as far."""


class HealSettings(ObjectiveSettings):
    """How a pruned model is trained back towards the original; what it is trained for stands in `objectives`."""

    method: Method = Field(
        "lora",
        description="lora; dora (LoRA with separate magnitudes); qlora (LoRA over a frozen NF4 copy, merged into the "
        "unquantised weights); full (the layers of train_layers and the output head).",
    )

    lora_r: int = Field(16, ge=1, description="Rank of the adapters.", json_schema_extra=METHOD)
    lora_alpha: float = Field(
        32.0,
        gt=0,
        description="Adapter scale: the update is multiplied by lora_alpha / lora_r.",
        json_schema_extra=METHOD,
    )
    lora_dropout: float = Field(
        0.0, ge=0, lt=1, description="Dropout before the adapters, as a probability.", json_schema_extra=METHOD
    )
    lora_target_modules: str | list[str] = Field(
        "all-linear",
        description="Module names that get adapters; all-linear is every linear layer except the head.",
        json_schema_extra=METHOD,
    )
    lora_layers: Literal["all", "from_gap"] | list[int] = Field(
        "from_gap",
        description="Layers of the pruned model (from 0) that get adapters: all; from_gap: the one before the first "
        "removed layer and all after it, at least the last three, so that the layers below run once for student and "
        "teacher and keep no activations; or a list.",
        json_schema_extra=METHOD,
    )
    train_layers: list[int] | None = Field(
        None,
        min_length=1,
        description="method full: layers of the pruned model (from 0) that are trained; none given: the last three.",
        json_schema_extra=METHOD,
    )

    learning_rate: float | None = Field(
        None,
        gt=0,
        description="Peak learning rate of AdamW; none given: 1.7 over the width of the residual stream, at most "
        "0.003; with method full a fifth of that.",
    )
    max_steps: int = Field(300, ge=1, description="Optimiser steps.")
    per_device_train_batch_size: int = Field(
        8,
        ge=1,
        description="Rows per device and step: packed rows of max_length tokens, or documents where not packed.",
        json_schema_extra=TRAINING,
    )
    gradient_accumulation_steps: int = Field(
        1, ge=1, description="Batches summed into one optimiser step.", json_schema_extra=TRAINING
    )
    max_length: int = Field(
        512, ge=2, description="Tokens per row; longer documents are cut on the right.", json_schema_extra=DATA
    )
    packing: bool = Field(
        True,
        description="Put several documents into one row, each attending to itself only; used only on models where a "
        "check at the start shows that it is exact, otherwise rows are padded.",
        json_schema_extra=DATA,
    )
    warmup_ratio: float = Field(
        0.05, ge=0, lt=1, description="Share of max_steps with a rising learning rate.", json_schema_extra=TRAINING
    )
    lr_scheduler_type: str = Field(
        "cosine", description="Any schedule of transformers' Trainer.", json_schema_extra=TRAINING
    )
    weight_decay: float = Field(0.0, ge=0, description="AdamW weight decay.", json_schema_extra=TRAINING)
    max_grad_norm: float = Field(
        1.0, gt=0, description="Gradients are clipped to this norm.", json_schema_extra=TRAINING
    )

    eval_fraction: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="Share of each domain's documents held out; at least one document.",
        json_schema_extra=DATA,
    )
    eval_max_documents: int = Field(
        64, ge=1, description="At most so many held-out documents per domain are scored.", json_schema_extra=DATA
    )
    eval_steps: int | None = Field(
        None,
        ge=1,
        description="Steps between held-out evaluations; none given: five in the run, and one before it.",
        json_schema_extra=TRAINING,
    )
    early_stopping_patience: int | None = Field(
        3,
        ge=1,
        description="Stop after so many evaluations without a better held-out loss; null: never.",
        json_schema_extra=TRAINING,
    )
    save_steps: int | None = Field(
        None,
        ge=1,
        description="Steps between resumable checkpoints; none given: about every ten minutes.",
        json_schema_extra=TRAINING,
    )

    report_to: list[str] = Field(
        default_factory=list,
        description="Trackers of transformers' Trainer (wandb, mlflow, trackio, ...).",
        json_schema_extra=ADVANCED,
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations: less memory, a third more time.", json_schema_extra=ADVANCED
    )
    bf16: bool | None = Field(
        None,
        description="Compute in bfloat16 under autocast; none given: on a GPU that has it. What is trained and the "
        "optimiser are float32 either way.",
        json_schema_extra=ADVANCED,
    )
    deepspeed: str | None = Field(
        None,
        description="DeepSpeed configuration, a JSON file, for training in several processes; ZeRO stage 1, 2 or 3.",
        json_schema_extra=ADVANCED,
    )
    seed: int = Field(
        0,
        ge=0,
        description="Of the held-out split, the order of the data and the adapters.",
        json_schema_extra=ADVANCED,
    )

    @field_validator("lora_target_modules")
    @classmethod
    def _one_name_is_a_list(cls, value: str | list[str]) -> str | list[str]:
        """`q_proj` means the modules of that name; peft would read a lone string as a pattern for whole paths."""
        return [value] if isinstance(value, str) and value.isidentifier() else value

    @model_validator(mode="after")
    def _some_objective(self) -> HealSettings:
        if not any(objective.active(self) for objective in OBJECTIVES):
            raise ValueError(f"nothing to train for: give {', '.join(WEIGHTS[:-1])} or {WEIGHTS[-1]} a value above 0")
        if self.train_layers is not None and self.method != "full":
            raise ValueError(f"train_layers is for method full, not {self.method}: remove it, or set method: full")
        return self

    def for_width(self, width: int) -> Self:
        """The same with a learning rate for a residual stream of this width, where none is given."""
        usual = min(HIGHEST_RATE, RATE_TIMES_WIDTH / width) * (WHOLE_WEIGHTS if self.method == "full" else 1)
        rate = self.learning_rate or usual
        return self.model_copy(update={"learning_rate": rate})

    @property
    def needs_teacher(self) -> bool:
        """Whether some objective compares with the original model."""
        return any(objective.needs_teacher(self) for objective in OBJECTIVES)

    @property
    def needs_states(self) -> bool:
        """Whether some objective compares residual streams."""
        return any(objective.needs_states and objective.active(self) for objective in OBJECTIVES)


class TeachSettings(Settings):
    """What is kept of the original's predictions."""

    top_k: int = Field(
        64,
        ge=0,
        description="Tokens kept of each distribution, the most likely ones; the rest is one bucket of known mass. "
        "0: the whole vocabulary.",
    )
    max_length: int = Field(
        512,
        ge=2,
        description="Tokens per row of the healing to come; longer documents are cut on the right.",
        json_schema_extra=DATA,
    )
    targets_dtype: Literal["float16", "float32"] = Field(
        "float16", description="Of the log-probabilities on disk.", json_schema_extra=ADVANCED
    )
    batch_size: int = Field(8, ge=1, description="Documents per forward pass.", json_schema_extra=ADVANCED)


class SpeakerSettings(Settings):
    """In which program the original runs, where it speaks and is not trained."""

    backend: Literal["hf", "vllm"] = Field(
        "hf",
        description="Where the original runs: hf, in this process; vllm, in its own environment (scripts/runtime "
        "vllm). It answers greedily there, and teaches without the entropy of its distributions.",
        json_schema_extra=ADVANCED,
    )
    model_args: Pairs = Field(
        {},
        description="Options of the backend, NAME=VALUE with commas: max_model_len=4096.",
        json_schema_extra=ADVANCED,
    )


class GenerateSettings(Settings):
    """How the original model answers prompts."""

    max_new_tokens: int = Field(256, ge=1, description="Longest answer, in tokens, its end of text included.")
    num_return_sequences: int = Field(
        1, ge=1, description="Answers per prompt; more than one needs do_sample.", json_schema_extra=METHOD
    )
    do_sample: bool = Field(
        False, description="Sample the answers; otherwise each token is the most likely one.", json_schema_extra=METHOD
    )
    temperature: float = Field(1.0, gt=0, description="Of the sampling.", json_schema_extra=METHOD)
    top_p: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Sample from the smallest set of tokens with this probability.",
        json_schema_extra=METHOD,
    )
    top_k: int = Field(
        0, ge=0, description="Sample from so many most likely tokens; 0: from all.", json_schema_extra=METHOD
    )
    batch_size: int = Field(32, ge=1, description="Answers generated at a time.", json_schema_extra=ADVANCED)
    num_prompts: int | None = Field(
        None, ge=1, description="Prompts drawn per domain; none given: all.", json_schema_extra=DATA
    )
    prompt_tokens: int = Field(
        16,
        ge=1,
        description="Rows with text instead of a prompt: so many first tokens are the prompt.",
        json_schema_extra=DATA,
    )
    finished_only: bool = Field(
        False, description="Leave out answers that max_new_tokens cut short.", json_schema_extra=METHOD
    )
    ignore_eos: bool = Field(False, description="Go on past ends of text, to max_new_tokens.", json_schema_extra=METHOD)
    apply_chat_template: bool = Field(
        False, description="Wrap each prompt in the tokenizer's chat template.", json_schema_extra=DATA
    )
    seed: int = Field(0, ge=0, description="Of the sampling and of the draw of prompts.", json_schema_extra=ADVANCED)

    @model_validator(mode="after")
    def _sampling_agrees(self) -> GenerateSettings:
        if not self.do_sample:
            if self.num_return_sequences > 1:
                raise ValueError("num_return_sequences above 1 gives equal answers without do_sample: add do_sample")
            if (self.temperature, self.top_p, self.top_k) != (1.0, 1.0, 0):
                raise ValueError("temperature, top_p and top_k do nothing without do_sample: add do_sample")
        if self.ignore_eos and self.finished_only:
            raise ValueError("finished_only leaves nothing of answers that ignore_eos lets go on: give one of them")
        return self

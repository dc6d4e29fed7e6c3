"""Every option of drafting: its default, its unit, its meaning."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from prune.drafting.rounding import DraftType
from prune.planning.settings import LayerList
from prune.settings import ADVANCED, DATA, METHOD, TRAINING, Numbers, Settings

Runtime = Literal["transformers", "vllm", "llama.cpp"]


class DraftSettings(Settings):
    """Which drafts are tried, how the best is trained, and how the pair is measured."""

    speedup: float = Field(
        1.3, gt=1, description="Wanted; a candidate of cost c is skipped where its ceiling 1/c lies below."
    )
    runtime: Runtime = Field(
        "transformers", description="That serves the pair and measures it: transformers, vllm or llama.cpp."
    )
    draft_type: DraftType = Field(
        "q4_0", description="Blocks of the draft's GGUF file for llama.cpp, through whose rounding it is trained."
    )
    num_layers: Numbers = Field(
        [], description="Layers of the candidates, with commas; a tenth to four tenths of the model's if absent."
    )
    keep_layers: LayerList = Field([], description="The one candidate, by its layers, e.g. 0-2,14,15.")
    num_assistant_tokens: int | None = Field(
        None, ge=1, description="Tokens proposed at a time; the best for acceptance and cost if absent."
    )
    max_new_tokens: int = Field(128, ge=2, description="Longest answer, in tokens, its end of text included.")
    ignore_eos: bool = Field(
        False, description="Go on past ends of text, so that every answer has max_new_tokens.", json_schema_extra=METHOD
    )
    num_prompts: int = Field(
        200, ge=1, description="Prompts per domain that are measured and never trained on.", json_schema_extra=DATA
    )
    train_prompts: int | None = Field(
        None, ge=1, description="Prompts per domain whose answers are trained on; all others if absent.",
        json_schema_extra=DATA,
    )  # fmt: skip
    prompt_tokens: int = Field(
        16,
        ge=1,
        description="Rows with text instead of a prompt: so many first tokens are the prompt.",
        json_schema_extra=DATA,
    )
    apply_chat_template: bool = Field(
        False, description="Wrap each prompt in the tokenizer's chat template.", json_schema_extra=DATA
    )
    train_layers: int = Field(
        2, ge=1, description="Last layers of the draft that are trained.", json_schema_extra=METHOD
    )
    train_norm: bool = Field(True, description="Train the final norm too.", json_schema_extra=METHOD)
    num_train_epochs: float = Field(
        5.0,
        ge=0,
        description="Passes over the original's answers; 0: the layers stay as they are.",
        json_schema_extra=TRAINING,
    )
    probe_steps: int = Field(
        60,
        ge=1,
        description="Steps that each candidate is trained before the best goes on.",
        json_schema_extra=TRAINING,
    )
    on_policy_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the training prompts that the draft then answers itself, to be corrected on; 0: none.",
        json_schema_extra=TRAINING,
    )
    learning_rate: float | None = Field(
        None, gt=0, description="At its peak; 0.4 over the width of the stream if absent.", json_schema_extra=TRAINING
    )
    batch_tokens: int = Field(
        2048, ge=2, description="Tokens of a training step, padding included.", json_schema_extra=TRAINING
    )
    save_steps: int = Field(
        100, ge=1, description="Steps between two states to resume from.", json_schema_extra=ADVANCED
    )
    batch_size: int = Field(32, ge=1, description="Answers generated at a time.", json_schema_extra=ADVANCED)
    seed: int = Field(0, ge=0, description="Of every random choice.", json_schema_extra=ADVANCED)

"""How each runtime is told to use a draft, and which pairs a runtime cannot take.

Facts from reading and running the programs: vLLM 0.33 (`speculative_config`), llama.cpp (`--spec-type draft-simple`),
SGLang (not run).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from evals.visible import on_one_line
from prune.errors import PruneError
from prune.serving.drafts import vllm_flags

DRAFT_HERE = "THIS_CHECKPOINT"
ORIGINAL_HERE = "THE_ORIGINAL"
SWITCHING = ("eagle3", "eagle-", "dflash", "dspark")
"""Parts of a draft's name by which vLLM takes another method than `draft_model`."""
REWRITTEN = ("qwen3_next", "qwen3_5", "deepseek_v3", "glm4_moe", "ernie4_5_moe", "exaone_moe", "longcat_flash")
"""Families whose drafts vLLM rewrites to multi-token-prediction classes, which this checkpoint is not."""

LINES = """transformers:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

original = AutoModelForCausalLM.from_pretrained({literal})
draft = AutoModelForCausalLM.from_pretrained("{draft}")
draft.generation_config.num_assistant_tokens = {tokens}
draft.generation_config.num_assistant_tokens_schedule = "constant"
draft.generation_config.assistant_confidence_threshold = 0.0
tokenizer = AutoTokenizer.from_pretrained({literal})
inputs = tokenizer("Your prompt", return_tensors="pt")
answer = original.generate(**inputs, assistant_model=draft, do_sample=False, max_new_tokens=128)
print(tokenizer.decode(answer[0]))
```

{vllm}

{llama_cpp}

SGLang (written down, not run):

```
python -m sglang.launch_server --model-path {quoted} --speculative-algorithm STANDALONE \
--speculative-draft-model-path {draft} --speculative-num-draft-tokens {tokens}
```"""


def run_lines(source: str, tokens: int, config: Mapping[str, Any], gguf: str | None = None) -> str:
    """Markdown: a line for each runtime.

    Args:
        source: the original's name; '' or `embedded` where it has none that others know.
        tokens: γ.
        config: the draft's config.json.
        gguf: name of the draft's GGUF file beside it, if there is one.
    """
    name = ORIGINAL_HERE if source in ("", "embedded") else on_one_line(source)
    return LINES.format(
        literal=json.dumps(name, ensure_ascii=False),
        quoted=shlex.quote(name),
        draft=DRAFT_HERE,
        tokens=tokens,
        vllm=_vllm(name, tokens, config),
        llama_cpp=_llama_cpp(shlex.quote(name), tokens, gguf),
    )


def _llama_cpp(quoted: str, tokens: int, gguf: str | None) -> str:
    lines = ["", "```", f"python convert_hf_to_gguf.py {quoted} --outfile original.gguf"]
    if gguf is None:
        told = "llama.cpp, from GGUF files that its converter makes; the draft in eight bits, which changes no answer:"
        lines.append(f"python convert_hf_to_gguf.py {DRAFT_HERE} --outtype q8_0 --outfile draft.gguf")
    else:
        told = f"llama.cpp, with the draft's file `{gguf}`, through whose rounding it was trained:"
    draft = "draft.gguf" if gguf is None else f"{DRAFT_HERE}/{gguf}"
    lines.append(f"llama-server -m original.gguf -md {draft} --spec-type draft-simple --spec-draft-n-max {tokens}")
    return "\n".join([told, *lines, "```"])


def _vllm(name: str, tokens: int, config: Mapping[str, Any]) -> str:
    if reason := refused_by_vllm(config, ""):
        return f"vLLM: not possible: {reason}."
    return (
        "vLLM (0.33 runs such drafts without CUDA graphs; `VLLM_USE_V2_MODEL_RUNNER=0` gives piecewise ones):\n\n```\n"
        f"vllm serve {shlex.quote(name)} --speculative-config '{speculative_config(tokens)}'{vllm_flags(config)}\n```"
    )


def speculative_config(tokens: int, draft: str = DRAFT_HERE) -> str:
    """vLLM's, as JSON."""
    return json.dumps({"method": "draft_model", "model": draft, "num_speculative_tokens": tokens})


def refused_by_vllm(config: Mapping[str, Any], name: str) -> str | None:
    """Why vLLM cannot use a draft, in a few words; None where it can.

    Args:
        config: the draft's config.json.
        name: of its directory.
    """
    kind = str(config.get("model_type"))
    if kind in REWRITTEN:
        return f"it takes drafts of the family {kind} for multi-token-prediction heads"
    if part := next((part for part in SWITCHING if part in name.lower()), None):
        return f"a name with {part!r} makes it take the draft for another kind"
    return None


def require_usable(runtime: str, config: Mapping[str, Any], name: str) -> None:
    """Refuse what the runtime that was asked for cannot serve.

    Raises:
        PruneError: with the reason and what to do.
    """
    if runtime != "vllm" or (reason := refused_by_vllm(config, name)) is None:
        return
    cure = "give -o another name" if str(config.get("model_type")) not in REWRITTEN else "use another --runtime"
    raise PruneError(f"{name}: vLLM cannot use this draft: {reason}; {cure}")

"""The card's section on lossless use: the checkpoint as the draft of its original, with commands that run as they are.

Said only where it was measured, with the figures, faster or not.
"""

from __future__ import annotations

import json
import shlex
from typing import Any

from evals.visible import on_one_line
from prune.serving.drafts import vllm_flags
from prune.wording.markdown import code, escape

SECTION = """
## As a draft of the original

In speculative decoding {proposer} proposes tokens and {shown} decides, so the answers are the
original's own. Measured with {layers} layers ({stage}) as the draft:

| suite | identical outputs | accepted | speed against the original alone | expected |
| --- | --- | --- | --- | --- |
{rows}

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

original = AutoModelForCausalLM.from_pretrained({literal})
draft = AutoModelForCausalLM.from_pretrained("{draft}")
tokenizer = AutoTokenizer.from_pretrained({literal})
inputs = tokenizer("Your prompt", return_tensors="pt")
answer = original.generate(**inputs, assistant_model=draft, do_sample=False, max_new_tokens=64)
print(tokenizer.decode(answer[0]))
```

```
vllm serve {quoted} --speculative-config '{speculative}'{flags}
```

The figures are of the first; the second was run with vLLM 0.32.0 on other models, on a CPU, and gave the original's
answers.
"""


def pair_section(facts: dict[str, Any], config: dict[str, Any]) -> str:
    """Markdown from `facts["drafts"]` (`num_layers`, `stage`, `suites`: name -> figures), or nothing without it.

    Args:
        facts: see `manifest.build_manifest`.
        config: config.json of the checkpoint, which is the draft.
    """
    drafts = facts.get("drafts") or {}
    if not drafts.get("suites"):
        return ""
    rows = [
        f"| {escape(name)} | {row['identical']} of {row['prompts']} | {_share(row['acceptance_rate'])} "
        f"| {_times(row['speedup'])} | {_times(row['expected_speedup'])} |"
        for name, row in drafts["suites"].items()
    ]
    given = facts.get("source")
    nameless = given in (None, "", "embedded")  # the last is a name of ours only
    source = "THE_ORIGINAL" if nameless else on_one_line(str(given))
    gamma = next(iter(drafts["suites"].values()))["num_assistant_tokens"]
    trained = drafts["stage"] == "trained"  # the run's own draft, which is not what is exported
    draft = "THE_DRAFT" if trained else "THIS_CHECKPOINT"
    return SECTION.format(
        shown=code(source),
        proposer="a checkpoint trained for it" if trained else "this kind of checkpoint",
        draft=draft,
        literal=json.dumps(source, ensure_ascii=False),
        quoted=shlex.quote(source),
        layers=drafts["num_layers"],
        stage=drafts["stage"],
        rows="\n".join(rows),
        speculative=json.dumps({"method": "draft_model", "model": draft, "num_speculative_tokens": gamma}),
        flags=vllm_flags(config),
    )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} x"

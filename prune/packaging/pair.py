"""The card's section on lossless use: the checkpoint as the draft of its original, with commands that run as they are.

Said only where it was measured, with the figures, faster or not.
"""

from __future__ import annotations

import json
from typing import Any

SECTION = """
## As a draft of the original

In speculative decoding this kind of checkpoint proposes tokens and `{source}` decides, so the answers are the
original's own. Measured with {layers} layers ({stage}) as the draft:

| suite | identical outputs | accepted | speed against the original alone | expected |
| --- | --- | --- | --- | --- |
{rows}

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

original = AutoModelForCausalLM.from_pretrained("{source}")
draft = AutoModelForCausalLM.from_pretrained("THIS_CHECKPOINT")
tokenizer = AutoTokenizer.from_pretrained("{source}")
inputs = tokenizer("Your prompt", return_tensors="pt")
answer = original.generate(**inputs, assistant_model=draft, do_sample=False, max_new_tokens=64)
print(tokenizer.decode(answer[0]))
```

```
vllm serve {source} --speculative-config '{speculative}'
```

The second command needs a vLLM that takes draft models; it was not run here.
"""


def pair_section(facts: dict[str, Any]) -> str:
    """Markdown from `facts["drafts"]` (`num_layers`, `stage`, `suites`: name -> figures), or nothing without it."""
    drafts = facts.get("drafts") or {}
    if not drafts.get("suites"):
        return ""
    rows = [
        f"| {name} | {row['identical']} of {row['prompts']} | {_share(row['acceptance_rate'])} "
        f"| {_times(row['speedup'])} | {_times(row['expected_speedup'])} |"
        for name, row in drafts["suites"].items()
    ]
    source = facts.get("source")
    gamma = next(iter(drafts["suites"].values()))["num_assistant_tokens"]
    return SECTION.format(
        source="THE_ORIGINAL" if source in (None, "", "embedded") else source,  # the last is a name of ours only
        layers=drafts["num_layers"],
        stage=drafts["stage"],
        rows="\n".join(rows),
        speculative=json.dumps({"method": "draft_model", "model": "THIS_CHECKPOINT", "num_speculative_tokens": gamma}),
    )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} x"

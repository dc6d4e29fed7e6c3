"""The model card of an exported checkpoint: what it is, what was kept and lost, and under which label it may ship."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.files import read_json_file, write_text
from prune.packaging.pair import pair_section
from prune.wording import message
from prune.wording.markdown import code, escape
from prune.wording.message import ends
from prune.wording.text import english

if TYPE_CHECKING:
    from evals.evidence import Evidence, SuiteEvidence

TEXT = """
# {title}

**{headline}**

A shallower version of {source}: {kept} of {total} layers stay (source indices {keep}); layers {drop} were removed
by the criterion {criterion} with the strategy {strategy}. {healing}

The checkpoint has the architecture of its source and loads with `AutoModelForCausalLM.from_pretrained`; no custom
code is needed. `prune verify` re-checks the hashes in `prune_manifest.json`, reloads the model and replays recorded
logits.

## What was kept and what was lost

{table}

Retention is (this model - chance) / (original - chance) on the same items, with a paired bootstrap interval.
{overrides}
## Use it

{usage}
{serve}{pair}
"""

USAGE = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("THIS_CHECKPOINT")
model = AutoModelForCausalLM.from_pretrained("THIS_CHECKPOINT", dtype="auto")
{prompt}
answer = model.generate(**inputs, max_new_tokens=64)
print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```"""
PLAIN = 'inputs = tokenizer("Once upon a time", return_tensors="pt")'
CHAT = """chat = [{"role": "user", "content": "What is 17 + 25?"}]
inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)"""


def write_card(directory: Path, facts: dict[str, Any], evidence: Evidence | None, serve: str = "") -> None:
    """Write README.md with metadata that the hub reads (`base_model`, `model-index`).

    Args:
        serve: the section on programs that serve the checkpoint, see `serve.serve_section`.
    """
    from huggingface_hub import EvalResult, ModelCardData

    plan = facts.get("plan") or {}
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=task.task,
            dataset_name=task.name,
            metric_type=task.metric,
            metric_value=round(task.candidate, 4),
        )
        for suite in (evidence.suites if evidence else [])
        for task in suite.tasks
        if task.candidate is not None
    ]
    source = str(facts.get("source") or "unknown")
    title = f"{source}, {len(plan['keep'])} layers" if plan else source
    data = ModelCardData(
        base_model=_hub_id(facts),
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["depth-pruned"],
        model_name=title,
        eval_results=results or None,
    )
    text = TEXT.format(
        title=escape(title),
        headline=escape(facts.get("label") or "No evidence was given"),
        source=code(source),
        kept=len(plan.get("keep", [])) or "?",
        total=plan.get("num_layers", "?"),
        keep=_list(plan.get("keep", [])),
        drop=_list(plan.get("drop", [])) or "none",
        criterion=code(plan.get("criterion", "unknown")),
        strategy=code(plan.get("strategy", "unknown")),
        healing=_healing(facts.get("healing")),
        table=_table(evidence),
        overrides="".join(f"\nOverride: {escape(reason)}\n" for reason in facts.get("overrides") or []),
        usage=USAGE.format(prompt=CHAT if _has_chat_template(directory) else PLAIN),
        serve=serve,
        pair=pair_section(facts, _config(directory)),
    )
    write_text(directory / "README.md", f"---\n{data.to_yaml()}\n---\n{text}")


def _config(directory: Path) -> dict[str, Any]:
    config = directory / "config.json"
    return dict(read_json_file(config)) if config.is_file() else {}


def _has_chat_template(directory: Path) -> bool:
    config = directory / "tokenizer_config.json"
    own = config.is_file() and read_json_file(config).get("chat_template")
    return bool(own) or (directory / "chat_template.jinja").is_file()


def _hub_id(facts: dict[str, Any]) -> str | None:
    """The source where the hub knows it by that name; a folder's bare name would lead to nothing or another model."""
    source = str(facts.get("source") or "")
    return source if re.fullmatch(r"[\w.-]+/[\w.-]+", source) or (source and facts.get("revision")) else None


def _list(indices: list[int]) -> str:
    return ", ".join(map(str, indices))


def _healing(healing: dict[str, Any] | None) -> str:
    if not healing:
        return "It was not trained after the cut."
    settings, teacher = healing.get("settings", {}), healing.get("teacher")
    teacher = code(teacher) if teacher else "the source"
    trained = f"{settings.get('method', 'training')} for {healing.get('steps', '?')} steps"
    if healing.get("best_step") == 0:
        return f"Training ({trained}) never beat the cut model on held-out text, so these are the weights of the cut."
    return (
        f"It was then healed with {trained} "
        f"({healing.get('tokens_seen', '?')} tokens)"
        f"{f', distilling from {teacher}' if settings.get('distill_weight') else ''}"
        f"{'' if settings.get('method') == 'full' else ', and the adapters were merged'}."
    )


def _table(evidence: Evidence | None) -> str:
    if evidence is None:
        return "Not measured."
    lines = ["| suite | original | this model | retention | floor | verdict |", "| --- | --- | --- | --- | --- | --- |"]
    for suite in evidence.suites:
        lines.append(
            f"| {escape(suite.title)} | {_number(suite.original)} | {_number(suite.candidate)} | {_retention(suite)} "
            f"| {suite.floor:.0%} | {suite.verdict} |"
        )
    return "\n".join(lines)


def _retention(suite: SuiteEvidence) -> str:
    """Share kept, with its interval; in words where there is none, or where it has one end only."""
    if suite.retention is None:
        return english(message("retention_undefined"))
    interval = ends(suite.retention_lo, suite.retention_hi)
    return english(message("retention_share", share=suite.retention, interval=interval))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"

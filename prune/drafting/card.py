"""The card of a pair: what was measured, what it would take, and how each runtime is started with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evals.speculation import needed_acceptance
from prune.drafting.runtimes import run_lines
from prune.files import write_text
from prune.wording.markdown import code, escape
from prune.wording.text import Text

SPEEDUPS = (1.0, 1.3, 1.6, 2.0)
COSTS = (0.1, 0.2, 0.3, 0.4, 0.5)
TEXT = """
# A draft of {source}, {num_layers} layers

Proposes tokens in speculative decoding; {source} checks them in one pass and keeps those that it would have said, so
the answers are its own. {made} A stock checkpoint: it loads with
`AutoModelForCausalLM.from_pretrained`.{alone}

A step of the draft costs c = {cost:.2f} ({cost_lo:.2f} to {cost_hi:.2f}) of a step of the original, head and embeddings
included, so the most that any acceptance could give is 1/c = {ceiling:.1f} x.

| domain | prompts | identical outputs | accepted α (greedy) | at temperature 1 | γ | formula | predicted | measured |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
{rows}

Measured with {measured_with}, batch 1, {numbers}; every prompt with and without the draft in turn; median of
the ratios with a 95 % bootstrap interval over prompts. Ties: outputs that differ where two tokens' logits differ by no
more than rounding. Formula: (1 - α^(γ+1)) / ((1 - α)(γc + 1)), which takes a checking pass for one step of the original
and the prompt for nothing. Predicted: with what they cost here, in steps of the original: a checking pass
{check:.2f} + {check_per_token:.2f} γ, the prompt {prefill:.1f} alone and {assisted_prefill:.1f} with the draft. So the
pair's time goes to:

| domain | the prompt | the draft's steps | checking passes |
| --- | --- | --- | --- |
{predicted}
{profile}{warnings}
## What a speed-up needs

Acceptance α at the best γ for a draft of cost c:

{needed}

## Run it

{lines}
"""

PARTS = ("prompt", "draft", "checks")
PROFILE = """
Where the seconds went:

| domain | original's passes | draft's passes | the loop around them | a checking pass against a plain step |
| --- | --- | --- | --- | --- |
{rows}
"""


def write_card(directory: Path, facts: Mapping[str, Any]) -> None:
    """README.md from what `prune.drafting.pair` measured."""
    from huggingface_hub import ModelCardData

    source = str(facts["source"])
    data = ModelCardData(
        base_model=source, library_name="transformers", pipeline_tag="text-generation", tags=["draft-model"]
    )
    domains = facts["domains"]
    first = next(iter(domains.values()))
    text = TEXT.format(
        source=code(source),
        num_layers=facts["num_layers"],
        made=_made(facts),
        alone="" if _whole(facts) else " Used alone it answers much worse than the original.",
        cost=facts["draft_cost"],
        cost_lo=facts["draft_cost_interval"][0],
        cost_hi=facts["draft_cost_interval"][1],
        ceiling=facts["ceiling"],
        rows="\n".join(_row(name, row) for name, row in domains.items()),
        predicted="\n".join(_predicted(name, row) for name, row in domains.items()),
        profile=_profiles(domains),
        **{name: value for name, value in facts["costs"].items() if name != "draft"},
        measured_with=facts["measured_with"],
        numbers=f"{first['device']}, {first['dtype']}".replace(f"{facts['measured_with']}, ", ""),
        warnings="".join(f"\n{escape(text)}\n" for text in facts["warnings"]),
        needed=needed_table(),
        lines=run_lines(source, int(facts["num_assistant_tokens"]), facts["config"], facts["gguf"]),
    )
    write_text(directory / "README.md", f"---\n{data.to_yaml()}\n---\n{text}")


def _whole(facts: Mapping[str, Any]) -> bool:
    """Whether it is the original itself, in fewer bits: only then a file of it makes a draft."""
    return not facts["trained_layers"] and facts["keep"] == list(range(facts["source_layers"]))


def _made(facts: Mapping[str, Any]) -> str:
    kept, trained = (Text().ranges(facts[name]) for name in ("keep", "trained_layers"))
    if _whole(facts):
        return (
            f"All layers of the original, untrained; as a draft it gains by the fewer bits of `{facts['gguf']}` alone."
        )
    if not trained:
        return f"Layers {kept} of the original, as they are there: nothing was trained."
    return (
        f"Layers {kept} of the original; layers {trained} were trained on the original's own answers (KL), everything "
        "else is the original's."
    )


def _row(name: str, row: Mapping[str, Any]) -> str:
    tied = f" ({row['ties']} ties)" if row["ties"] else ""
    greedy = _share(row["acceptance_rate"], row["acceptance_lo"], row["acceptance_hi"])
    sampled = _share(row["sampled_acceptance"], *row["sampled_acceptance_interval"])
    expected = _times(row["expected_speedup"])
    measured = f"{row['speedup']:.2f} x ({row['speedup_lo']:.2f} to {row['speedup_hi']:.2f})"
    return (
        f"| {escape(name)} | {row['prompts']} | {row['identical']}{tied} | {greedy} | {sampled} "
        f"| {row['num_assistant_tokens']} | {expected} | {_times(row['predicted_speedup'])} | {measured} |"
    )


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} x"


def _predicted(name: str, row: Mapping[str, Any]) -> str:
    found = row["predicted_shares"]
    return f"| {escape(name)} | " + " | ".join("-" if not found else f"{found[part]:.0%}" for part in PARTS) + " |"


def _profiles(domains: Mapping[str, Mapping[str, Any]]) -> str:
    """Seconds as they were measured, where the runtime tells them."""
    told = {name: row for name, row in domains.items() if row["original_share"] is not None}
    return PROFILE.format(rows="\n".join(_profile(name, row) for name, row in told.items())) if told else ""


def _profile(name: str, row: Mapping[str, Any]) -> str:
    rest = 1 - row["original_share"] - row["draft_share"]
    cost = "-" if row["pass_cost"] is None else f"{row['pass_cost']:.2f} x"
    return f"| {escape(name)} | {row['original_share']:.0%} | {row['draft_share']:.0%} | {rest:.0%} | {cost} |"


def _share(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if low is None or high is None else f"{value:.2f} ({low:.2f} to {high:.2f})"


def needed_table() -> str:
    """Markdown: for each speed-up and cost the α that it takes; '-' where no α is enough."""
    lines = [
        "| speed-up | " + " | ".join(f"c = {cost:.2f}" for cost in COSTS) + " |",
        "| --- |" + " --- |" * len(COSTS),
    ]
    for speedup in SPEEDUPS:
        cells = [needed_acceptance(cost, speedup) for cost in COSTS]
        lines.append(f"| {speedup:.1f} x | " + " | ".join("-" if c is None else f"{c:.2f}" for c in cells) + " |")
    return "\n".join(lines)

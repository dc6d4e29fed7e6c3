"""What a run's candidates cost: measured speeds and training times turned into money, for the report.

Measures nothing: speeds come from `evidence/cost.json`, or from vLLM's benchmark files where the recipe names them;
formulas are those of `evals.cost`. Assumptions: healing changes no speed, so a healed candidate decodes as its cut one
does; training seconds include the held-out evaluations. Where training and serving run on the same machine the
break-even traffic depends on no price, and is given without one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evals.cost import break_even_sensitivity, break_even_tokens, cost_per_million_tokens, healing_cost
from evals.vllm_bench import VllmBench, check_same_load, read_vllm_bench
from prune.errors import PruneError, UsageError
from prune.reporting.data import Candidate, Cost, Draft
from prune.runs.outputs import read_costs
from prune.runs.recipe import Recipe
from prune.wording import Message, message
from prune.wording.message import measured_setting

FACTOR = 2.0
"""The sensitivity plot divides and multiplies each assumption by this."""


@dataclass(frozen=True)
class Speeds:
    """Rows of `cost.json` by name (`original`, or a number of layers), and vLLM's figures where they were given."""

    rows: dict[str, dict[str, Any]]
    vllm: dict[str, VllmBench] = field(default_factory=dict)

    @property
    def setting(self) -> Message:
        """Batch, context, device and dtype."""
        if self.vllm:
            load = [f"{key} {value}" for key, value in self.vllm["original"].load.items()]
            return message("setting_vllm", load=load)
        speed = self.rows["original"]["throughput"]
        return measured_setting(speed)

    @property
    def not_measured(self) -> list[Message]:
        """What a reader might expect of the costs and will not find."""
        lines = []
        if self.rows["original"]["throughput"]["peak_memory_bytes"] is None:
            lines.append(message("missing_peak_memory"))
        if missing := [name for name in self.rows if self.vllm and name not in self.vllm]:
            lines.append(message("missing_vllm", depths=missing))
        return lines

    def decode(self, name: str) -> float | None:
        """New tokens per second; None where vLLM's files leave this candidate out."""
        if self.vllm:
            return self.vllm[name].output_tokens_per_s if name in self.vllm else None
        return float(self.rows[name]["throughput"]["decode_tokens_per_s"])

    def speedup_ends(self, name: str) -> tuple[float, float] | None:
        """Smallest and largest speed-up over the paired repeats; None where there were none."""
        if self.vllm:
            return None
        pairs = zip(*(self.rows[n]["throughput"]["decode_seconds"] for n in ("original", name)), strict=True)
        ratios = [original / candidate for original, candidate in pairs]
        return (min(ratios), max(ratios)) if len(ratios) > 1 else None


def read_speeds(root: Path, recipe: Recipe) -> Speeds:
    """The speeds of a run.

    Raises:
        UsageError, EvalUsageError: vLLM files without the original's, for an unknown candidate, unreadable, or unlike.
    """
    rows = read_costs(root)
    names = recipe.cost.vllm_bench
    if unknown := sorted(names.keys() - rows.keys()):
        raise UsageError(f"vllm_bench names {', '.join(unknown)}; this run has {', '.join(rows)}")
    if names and "original" not in names:
        raise UsageError("vllm_bench has no file for `original`: without it nothing can be compared")
    found = {name: read_vllm_bench(Path(path)) for name, path in names.items()}
    check_same_load(found)
    return Speeds(rows, found)


def heal_figures(path: Path) -> dict[str, Any]:
    """Seconds and tokens of a healing, from its record; nothing where there was none."""
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf8"))
        tokens = record.get("tokens_seen")
        return {"heal_seconds": float(record["seconds"]), "heal_tokens": None if tokens is None else int(tokens)}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise PruneError(f"{path}: damaged; `prune run` with --resume makes it again") from None


def put_price(candidate: Candidate, speeds: Speeds, recipe: Recipe) -> None:
    """Fill in sizes, speeds and money of one candidate."""
    name = _row_name(candidate)
    row = speeds.rows[name]
    for key in ("parameters", "bytes", "kv_bytes_per_token"):
        setattr(candidate, key, row[key])
    if not speeds.vllm:
        candidate.prefill_tokens_per_s = row["throughput"]["prefill_tokens_per_s"]
    candidate.peak_memory_bytes = row["throughput"]["peak_memory_bytes"]
    candidate.decode_tokens_per_s = speed = speeds.decode(name)
    original = speeds.decode("original")
    if speed is None or original is None:
        return
    candidate.decode_speedup = speed / original
    if candidate.stage != "original":
        candidate.decode_speedup_ends = speeds.speedup_ends(name)
    price = recipe.cost.price_per_hour
    if price:
        candidate.cost_per_million_tokens = cost_per_million_tokens(price, speed)
    paid = _healing(candidate, recipe)
    if paid is None:
        return
    candidate.healing_cost = paid if price else None
    unit = price or 1.0  # without a price both sides are counted in hours of the same machine
    candidate.break_even_tokens = break_even_tokens(
        paid, cost_per_million_tokens(unit, original), cost_per_million_tokens(unit, speed)
    )


def put_pair_price(draft: Draft, speeds: Speeds, recipe: Recipe, made: Mapping[str, Any] | None) -> Draft:
    """Fill in what original and draft together take and cost, at the speeds measured on the suite's prompts.

    Args:
        made: the record of the run's own draft.
    """
    rows, price = speeds.rows, recipe.cost.price_per_hour
    if draft.stage == "trained":
        own = made["memory"]["draft"]["bytes"] if made else None
    else:
        own = rows[str(draft.num_layers)]["bytes"] if str(draft.num_layers) in rows else None
    draft.bytes = None if own is None else int(rows["original"]["bytes"]) + int(own)
    found = draft.result
    if price and found.assisted_tokens_per_s and found.plain_tokens_per_s:
        draft.cost_per_million_tokens = cost_per_million_tokens(price, found.assisted_tokens_per_s)
        draft.plain_cost_per_million_tokens = cost_per_million_tokens(price, found.plain_tokens_per_s)
    return draft


def _row_name(candidate: Candidate) -> str:
    return "original" if candidate.stage == "original" else str(candidate.num_layers)


def _healing(candidate: Candidate, recipe: Recipe) -> float | None:
    """Money for healing, in hours of the serving machine where there is no price; None where nothing was healed."""
    options = recipe.cost
    seconds = candidate.heal_seconds
    price = (options.healing_price_per_hour or options.price_per_hour) if options.price_per_hour else 1.0
    if not seconds or price is None:
        return None
    if options.healing_tokens and candidate.heal_tokens:
        return healing_cost(options.healing_tokens, candidate.heal_tokens / seconds, price)
    return seconds / 3600 * price


def cost_summary(shown: Candidate | None, speeds: Speeds, recipe: Recipe) -> Cost:
    """The figures of the first screen: of the candidate that is shown, against the original."""
    options = recipe.cost
    result = Cost(
        currency=options.currency,
        price_per_gpu_hour=options.price_per_hour,
        price_note=options.own_price_note,
        planned_tokens=options.healing_tokens,
        setting=speeds.setting,
    )
    if shown is None or shown.heal_seconds is None:
        return result
    result.healing_seconds = shown.heal_seconds
    result.healing_cost, result.break_even_tokens = shown.healing_cost, shown.break_even_tokens
    original, paid = speeds.decode("original"), _healing(shown, recipe)
    if original is None or paid is None or shown.decode_speedup is None:
        return result
    result.sensitivity = break_even_sensitivity(
        paid,
        cost_per_million_tokens(options.price_per_hour or 1.0, original),
        shown.decode_speedup,
        speeds.speedup_ends(_row_name(shown)),
        FACTOR,
    )
    return result

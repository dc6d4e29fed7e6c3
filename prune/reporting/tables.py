"""The numbers as tables: the same rows for the page and for Markdown, so that both say the same.

Cells are finished text in the report's language. Assumption: a column that no row can fill is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from prune.reporting.data import AnalysisView, Candidate, ReportData
from prune.reporting.text import UNKNOWN, Text, duration, interval, money, percent, quantity, scaled, times

LAYER_KEYS = (
    "relative_contribution/attn", "relative_contribution/mlp", "relative_contribution/layer",
    "contribution_cosine/attn", "contribution_cosine/mlp", "contribution_cosine/layer",
    "block_influence", "output_effect/dnll",
)  # fmt: skip


@dataclass
class Table:
    """Column heads, rows of text, and the indices of rows to stress."""

    head: list[str]
    rows: list[list[str]] = field(default_factory=list)
    chosen: list[int] = field(default_factory=list)

    def without_empty_columns(self) -> Table:
        """The table less the columns in which every cell is unknown."""
        live = [i for i in range(len(self.head)) if i == 0 or any(row[i] not in ("", UNKNOWN) for row in self.rows)]
        return Table([self.head[i] for i in live], [[row[i] for i in live] for row in self.rows], self.chosen)


def name_of(candidate: Candidate, text: Text) -> str:
    """'12 layers, healed' in the report's language."""
    return text("layers_stage", layers=candidate.num_layers, stage=text(f"stage_{candidate.stage}"))


def with_interval(value: float | None, lo: float | None, hi: float | None) -> str:
    """'94.3 % (92.0–96.6 %)', or the value alone."""
    ends = interval(lo, hi)
    return f"{percent(value)} ({ends})" if ends else percent(value)


def _by_domain(values: dict[str, float | None], digits: int = 3) -> str:
    return ", ".join(f"{name} {quantity(value, digits)}" for name, value in values.items()) or UNKNOWN


def facts(candidate: Candidate, data: ReportData, text: Text) -> list[tuple[str, str]]:
    """Cost and language-model figures of one candidate as (name, value); unknown ones are left out."""
    currency = data.cost.currency if data.cost else "USD"

    def rate(value: float | None) -> str:
        return UNKNOWN if value is None else text("tokens_per_s", value=quantity(value))

    rows = [
        (text("parameters"), scaled(candidate.parameters)),
        (text("bytes"), scaled(candidate.bytes, "B")),
        (text("kv"), scaled(candidate.kv_bytes_per_token, "B")),
        (text("peak_memory"), scaled(candidate.peak_memory_bytes, "B")),
        (text("decode"), rate(candidate.decode_tokens_per_s)),
        (text("speedup"), times(candidate.decode_speedup)),
        (text("prefill"), rate(candidate.prefill_tokens_per_s)),
        (text("cost_per_million"), money(candidate.cost_per_million_tokens, currency)),
        (text("perplexity"), _by_domain(candidate.perplexity)),
        (text("bits_per_byte"), _by_domain(candidate.bits_per_byte)),
        (text("healing"), duration(candidate.heal_seconds)),
        (text("heal_tokens"), _tokens(candidate.heal_tokens, "heal_tokens_value", text)),
        (text("healing_cost"), money(candidate.healing_cost, currency)),
        (text("break_even"), _break_even(candidate, text)),
    ]
    return [(name, value) for name, value in rows if value != UNKNOWN]


def _tokens(count: float | None, key: str, text: Text) -> str:
    return UNKNOWN if count is None else text(key, tokens=scaled(count))


def _break_even(candidate: Candidate, text: Text) -> str:
    if candidate.heal_seconds and candidate.decode_speedup is not None and candidate.decode_speedup <= 1:
        return text("break_even_never")
    return _tokens(candidate.break_even_tokens, "break_even_value", text)


def candidate_table(data: ReportData, text: Text) -> Table:
    """One row a candidate: every suite's accuracy and retention, then its facts."""
    heads = [text("candidate"), *(data.suite_title(suite) for suite in data.suites)]
    known = [dict(facts(candidate, data, text)) for candidate in data.candidates]
    names = list(dict.fromkeys(name for row in known for name in row))
    table = Table(heads + names)
    for index, candidate in enumerate(data.candidates):
        cells = [name_of(candidate, text)]
        for suite in data.suites:
            score = candidate.suites.get(suite)
            cells.append(with_interval(score.accuracy, score.lo, score.hi) if score else UNKNOWN)
        table.rows.append(cells + [known[index].get(name, UNKNOWN) for name in names])
        if data.exported and candidate.key == f"{data.exported.num_layers}-{data.exported.stage}":
            table.chosen.append(index)
    return table.without_empty_columns()


def task_table(data: ReportData, text: Text) -> Table:
    """One row a task, one column a candidate."""
    tasks = list(dict.fromkeys(task for candidate in data.candidates for task in candidate.tasks))
    table = Table([text("task"), text("items"), *(name_of(c, text) for c in data.candidates)])
    for task in tasks:
        scores = [candidate.tasks.get(task) for candidate in data.candidates]
        metric = next((score.metric for score in scores if score and score.metric), "")
        items = max((score.n for score in scores if score), default=0)
        cells = [with_interval(s.accuracy, s.lo, s.hi) if s else UNKNOWN for s in scores]
        table.rows.append([f"{task} ({metric})" if metric else task, f"{items:,}", *cells])
    return table


def verdict_table(data: ReportData, text: Text) -> Table:
    """One row a suite: verdict, recommendation, retention with interval, floor, items."""
    head = ("suite", "verdict", "recommendation", "kept", "floor", "items", "judged_on")
    table = Table([text(key) for key in head])
    for row in data.verdicts:
        items = f"{row.n:,}" + (f" ({text('items_needed', n=row.items_needed)})" if row.items_needed else "")
        judged = UNKNOWN
        if row.num_layers is not None and row.stage is not None:
            judged = text("layers_stage", layers=row.num_layers, stage=text(f"stage_{row.stage}"))
        table.rows.append([
            row.title or row.suite, text(f"verdict_{row.verdict}"), text.known("recommendation", row.recommendation),
            with_interval(row.retention, row.lo, row.hi), percent(row.floor, 0), items, judged,
        ])  # fmt: skip
    return table


def draft_table(data: ReportData, text: Text) -> Table:
    """One row a suite tried with the shallow checkpoint as the draft."""
    table = Table([text(key) for key in ("suite", "draft_prompts", "acceptance", "draft_speedup", "draft_expected")])
    for draft in data.drafts:
        table.rows.append([
            data.suite_title(draft.suite), f"{draft.identical:,} / {draft.prompts:,}", percent(draft.acceptance_rate),
            times(draft.speedup), times(draft.expected_speedup),
        ])  # fmt: skip
    return table


def plan_table(data: ReportData, text: Text) -> Table:
    """One row a plan."""
    table = Table([text("depth"), text("criterion"), text("strategy"), text("plan_order")])
    for plan in data.plans:
        order = text("list_comma").join(map(str, plan.order or plan.drop)) or text("none")
        table.rows.append([str(plan.num_layers - len(plan.drop)), plan.criterion, plan.strategy, order])
    return table


def layer_table(view: AnalysisView | None, text: Text) -> Table:
    """One row a layer: the per-layer measurements that the figures show, and the loss by domain."""
    if view is None:
        return Table([])
    columns: list[tuple[str, Sequence[Any]]] = [(key, row) for key in LAYER_KEYS if (row := view.get(key)) is not None]
    for domain in view.domains:
        if (row := view.get("output_effect/dnll", domain)) is not None:
            columns.append((f"output_effect/dnll, {domain}", row))
    table = Table([text("axis_layer"), *(name for name, _ in columns)])
    for layer in range(view.num_layers):
        table.rows.append([str(layer), *(quantity(row[layer]) for _, row in columns)])
    return table


def pairs(value: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A nested dict as flat (dotted name, text) rows."""
    rows: list[tuple[str, str]] = []
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, dict):
            rows += pairs(item, f"{name}.")
        elif item is not None:
            rows.append((name, ", ".join(map(str, item)) if isinstance(item, list) else str(item)))
    return rows


def duration_pairs(data: ReportData, text: Text) -> list[tuple[str, str]]:
    """Stages with their time, and the total."""
    known = {stage: seconds for stage, seconds in data.durations.items() if seconds is not None}
    rows = [(stage, duration(seconds)) for stage, seconds in known.items()]
    return [*rows, (text("total"), duration(sum(known.values())))] if rows else []


def phase_lines(view: AnalysisView | None, text: Text) -> list[str]:
    """One line for each indicator of a phase change; 'none found' where it found none."""
    lines = []
    for key, value in (view.phase_changes if view else {}).items():
        name = str(key).replace("_", " ")
        if isinstance(value, dict) and value.get("layer") is not None:
            lo, hi = value.get("lo"), value.get("hi")
            if lo is None or hi is None:
                lines.append(text("phase_found_plain", name=name, value=value["layer"]))
            else:
                lines.append(text("phase_found", name=name, layer=value["layer"], lo=lo, hi=hi))
        elif value is None or value == [] or isinstance(value, dict):
            lines.append(text("phase_none", name=name))
        else:
            lines.append(text("phase_found_plain", name=name, value=value))
    return lines


def stability_lines(view: AnalysisView | None, text: Text) -> list[str]:
    """The stability figures as lines."""
    rows = pairs(view.stability) if view else []
    return [text("stability_value", key=key.replace("_", " "), value=value) for key, value in rows]

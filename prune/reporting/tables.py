"""The numbers as tables: the same rows for the page and for Markdown, so that both say the same.

Cells are finished text in the report's language. Assumption: a column that no row can fill is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from evals.score import Score
from prune.analysis.phases import INDICATORS, agreement
from prune.analysis.stability import CRITERIA
from prune.planning.plan import Plan
from prune.reporting.data import AnalysisView, Candidate, ReportData
from prune.wording.numbers import UNKNOWN, money, quantity, size
from prune.wording.text import Text

LAYER_KEYS = (
    "relative_contribution/attn", "relative_contribution/mlp", "relative_contribution/layer",
    "contribution_cosine/attn", "contribution_cosine/mlp", "contribution_cosine/layer",
    "block_influence", "output_effect/dnll",
)  # fmt: skip


@dataclass
class Table:
    """Column heads, rows of text, and the indices of rows and columns to stress."""

    head: list[str]
    rows: list[list[str]] = field(default_factory=list)
    chosen: list[int] = field(default_factory=list)
    chosen_columns: list[int] = field(default_factory=list)

    def without_empty_columns(self) -> Table:
        """The table less the columns in which every cell is unknown."""
        live = [i for i in range(len(self.head)) if i == 0 or any(row[i] not in ("", UNKNOWN) for row in self.rows)]
        return Table([self.head[i] for i in live], [[row[i] for i in live] for row in self.rows], self.chosen)


def name_of(candidate: Candidate, text: Text) -> str:
    """'12 layers, healed' in the report's language."""
    return text("layers_stage", layers=candidate.num_layers, stage=text(f"stage_{candidate.stage}"))


def _by_domain(values: dict[str, float | None], text: Text) -> str:
    return text.listed(f"{text.name(name)} {quantity(value)}" for name, value in values.items()) or UNKNOWN


def measure(score: Score, text: Text) -> str:
    """What a score counts: accuracy, or the metric's own unit."""
    return text("axis_accuracy") if score.is_share else text.known("unit", score.metric)


def scored(score: Score | None, text: Text) -> str:
    """A share in per cent, any other metric as a plain number, with its interval."""
    if score is None:
        return UNKNOWN
    if score.is_share:
        return text.with_interval(score.value, score.lo, score.hi)
    if score.lo is None or score.hi is None:
        return quantity(score.value)
    return text("number_with_interval", value=quantity(score.value), interval=f"{score.lo:.3g}–{score.hi:.3g}")


def facts(candidate: Candidate, data: ReportData, text: Text) -> list[tuple[str, str]]:
    """Cost and language-model figures of one candidate as (name, value); unknown ones are left out."""
    currency = data.cost.currency if data.cost else "USD"

    def rate(value: float | None) -> str:
        return UNKNOWN if value is None else text("tokens_per_s", value=value)

    rows = [
        (text("parameters"), text.count(candidate.parameters)),
        (text("bytes"), size(candidate.bytes)),
        (text("kv"), size(candidate.kv_bytes_per_token)),
        (text("peak_memory"), size(candidate.peak_memory_bytes)),
        (text("decode"), rate(candidate.decode_tokens_per_s)),
        (text("speedup"), _speedup(candidate, text)),
        (text("prefill"), rate(candidate.prefill_tokens_per_s)),
        (text("cost_per_million"), money(candidate.cost_per_million_tokens, currency)),
        *_answers(candidate, currency, text),
        (text("perplexity"), _by_domain(candidate.perplexity, text)),
        (text("bits_per_byte"), _by_domain(candidate.bits_per_byte, text)),
        (text("healing"), text.duration(candidate.heal_seconds)),
        (text("heal_tokens"), _tokens(candidate.heal_tokens, "heal_tokens_value", text)),
        (text("healing_cost"), money(candidate.healing_cost, currency)),
        (text("break_even"), _break_even(candidate, text)),
    ]
    return [(name, value) for name, value in rows if value != UNKNOWN]


def _answers(candidate: Candidate, currency: str, text: Text) -> list[tuple[str, str]]:
    """Tokens per answer against the original's, and money for a correct one, of every generating task."""
    rows = []
    changed = candidate.stage != "original"
    for task in (task for suite in candidate.evidence for task in suite.tasks):
        if (found := task.answers) is None:
            continue
        length = quantity(found.candidate_tokens if changed else found.original_tokens)
        if changed and found.ratio is not None and found.ratio_lo is not None and found.ratio_hi is not None:
            ends = f"{found.ratio_lo:.2f}–{found.ratio_hi:.2f}"
            length = text("tokens_against", tokens=length, ratio=text.times(found.ratio), interval=ends)
        rows.append((text("tokens_per_answer", task=task.name), length))
        if candidate.cost_per_million_tokens is not None:
            paid = found.price(candidate.cost_per_million_tokens, candidate=changed)
            rows.append((text("cost_per_correct", task=task.name), money(paid, currency)))
    return rows


def _speedup(candidate: Candidate, text: Text) -> str:
    """With its range over the repeats, where there were any."""
    said = text.times(candidate.decode_speedup)
    if candidate.decode_speedup_ends is None:
        return said
    low, high = candidate.decode_speedup_ends
    return text("number_with_interval", value=said, interval=f"{low:.2f}–{high:.2f}")


def _tokens(count: float | None, key: str, text: Text) -> str:
    return UNKNOWN if count is None else text(key, tokens=count)


def _break_even(candidate: Candidate, text: Text) -> str:
    """Of a candidate that passes what it was tested on; what may not ship pays nothing back."""
    if any(score.verdict in ("FAIL", "INCONCLUSIVE") for score in candidate.suites.values()):
        return UNKNOWN
    if candidate.heal_seconds and candidate.decode_speedup is not None and candidate.decode_speedup <= 1:
        return text("break_even_never")
    return _tokens(candidate.break_even_tokens, "break_even_value", text)


def candidate_table(data: ReportData, text: Text) -> Table:
    """One column a candidate: every suite's score with its interval, then the facts; the exported one stressed."""
    table = Table([text("candidate"), *(name_of(candidate, text) for candidate in data.candidates)])
    for suite in data.suites:
        scores = [candidate.suites.get(suite) for candidate in data.candidates]
        if any(scores):
            unit = next(measure(score, text) for score in scores if score)
            name = text("measured_as", name=data.suite_title(suite, text), measure=unit)
            table.rows.append([name, *(scored(score, text) for score in scores)])
    known = [dict(facts(candidate, data, text)) for candidate in data.candidates]
    for name in dict.fromkeys(name for row in known for name in row):
        table.rows.append([name, *(row.get(name, UNKNOWN) for row in known)])
    exported = f"{data.exported.num_layers}-{data.exported.stage}" if data.exported else ""
    table.chosen_columns = [i for i, candidate in enumerate(data.candidates, start=1) if candidate.key == exported]
    return table


def task_table(data: ReportData, text: Text) -> Table:
    """One row a task, one column a candidate."""
    tasks = {t.name: t for candidate in data.candidates for suite in candidate.evidence for t in suite.tasks}
    table = Table([text("task"), text("items"), *(name_of(c, text) for c in data.candidates)])
    for name, task in tasks.items():
        cells = [scored(candidate.tasks.get(name), text) for candidate in data.candidates]
        table.rows.append([f"{text.name(name)} ({task.metric})", f"{task.n:,}", *cells])
    return table


def verdict_table(data: ReportData, text: Text) -> Table:
    """One row a suite: verdict, recommendation, retention with interval, floor, items."""
    head = ("suite", "verdict", "recommendation", "kept", "floor", "items", "judged_on")
    table = Table([text(key) for key in head])
    for row in data.verdicts:
        found = row.evidence
        more = f" ({text('items_needed', n=found.items_needed)})" if found.items_needed else ""
        table.rows.append([
            text.words(row.title), text(f"verdict_{found.verdict}"), text.known("recommendation", row.recommendation),
            text.with_interval(found.retention, found.retention_lo, found.retention_hi), text.percent(found.floor, 0),
            f"{found.n:,}{more}", text("layers_stage", layers=row.num_layers, stage=text(f"stage_{row.stage}")),
        ])  # fmt: skip
    return table


def draft_table(data: ReportData, text: Text) -> Table:
    """One row a suite tried with the shallow checkpoint as the draft."""
    heads = (
        "suite",
        "draft_which",
        "draft_prompts",
        "acceptance",
        "draft_speedup",
        "draft_expected",
        "draft_memory",
        "cost_per_million",
        "draft_conclusion",
    )
    table = Table([text(key) for key in heads])
    for draft in data.drafts:
        found = draft.result
        named = draft.num_layers is not None and draft.stage is not None
        which = text("layers_stage", layers=draft.num_layers, stage=text(f"stage_{draft.stage}")) if named else UNKNOWN
        outcome = "differs" if not found.lossless else "faster" if found.faster else "slower"
        speedup = text.times(found.speedup)
        if found.speedup_lo is not None and found.speedup_hi is not None:
            speedup += f" ({text.times(found.speedup_lo)}–{text.times(found.speedup_hi)})"
        table.rows.append([
            data.suite_title(draft.suite, text), which, f"{found.identical:,} / {found.prompts:,}",
            text.percent(found.acceptance_rate), speedup, text.times(found.expected_speedup),
            UNKNOWN if draft.bytes is None else size(draft.bytes),
            money(draft.cost_per_million_tokens, data.cost.currency if data.cost else ""),
            text(f"draft_{outcome}"),
        ])  # fmt: skip
    return table.without_empty_columns()


def plan_table(data: ReportData, text: Text) -> Table:
    """One row a plan."""
    table = Table([text("depth"), text("criterion"), text("strategy"), text("plan_order")])
    for plan in data.plans:
        order = text("list_comma").join(map(str, plan.order or plan.drop)) or text("none")
        table.rows.append([_left(plan, text), plan.criterion, plan.strategy, order])
    return table


def _left(plan: Plan, text: Text) -> str:
    """What a plan leaves: layers, or attentions and MLPs."""
    if plan.unit == "layer":
        return str(len(plan.keep))
    attention, mlp = (plan.num_layers - len(gone) for gone in (plan.drop_attention, plan.drop_mlp))
    return text("parts_left", attention=attention, mlp=mlp)


def layer_table(view: AnalysisView | None, text: Text) -> Table:
    """One row a layer: the per-layer measurements that the figures show, and the loss by domain."""
    if view is None:
        return Table([])
    columns: list[tuple[str, Sequence[Any]]] = [(key, row) for key in LAYER_KEYS if (row := view.get(key)) is not None]
    for domain in view.domains:
        if (row := view.get("output_effect/dnll", domain)) is not None:
            columns.append((f"output_effect/dnll, {text.name(domain)}", row))
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
    rows = [(_stage_name(stage, text), text.duration(seconds)) for stage, seconds in known.items()]
    return [*rows, (text("total"), text.duration(sum(known.values())))] if rows else []


def _stage_name(stage: str, text: Text) -> str:
    """'heal-12' or 'eval-healed-12' in words; a stage without any keeps its own name."""
    name, *of = stage.split("-")
    if not text.has(f"step_{name}"):
        return stage
    depth = of[-1] if of and of[-1].isdigit() else ""
    parts = [text(f"stage_{part}") for part in of if text.has(f"stage_{part}")]
    if depth:
        parts.insert(0, text("layers_number", layers=int(depth)))
    return text("step_of", step=text(f"step_{name}"), of=parts) if parts else text(f"step_{name}")


def phase_lines(view: AnalysisView | None, text: Text) -> list[str]:
    """One line for each indicator of a phase change, then whether they agree; one line where none finds any."""
    changes = view.phase_changes if view else {}
    looked = [indicator for indicator in INDICATORS if indicator in changes]
    if looked and not any(changes[indicator] for indicator in looked):
        return [text("phase_none", names=[text(f"phase_{indicator}") for indicator in looked])]
    lines = []
    for indicator in INDICATORS:
        if indicator not in changes:
            continue
        row, name = changes[indicator], text(f"phase_{indicator}")
        if row is None:
            lines.append(text("phase_not_found", name=name))
        elif row.get("lo") is None:
            lines.append(text("phase_found_plain", name=name, layer=row["layer"]))
        else:
            found = {"layer": row["layer"], "lo": row["lo"], "hi": row["hi"], "share": row.get("found_share")}
            lines.append(text("phase_found", name=name, **found))
    return [*lines, text.say(agreement(changes))] if len(lines) > 1 else lines


def stability_lines(view: AnalysisView | None, text: Text) -> list[str]:
    """For each criterion the layers it would drop first, and how often resampled documents choose the same ones."""
    lines = []
    for key, name in CRITERIA.items():
        row = view.stability.get(key) if view else None
        if row is not None:
            known = "stability_criterion" if row["documents_needed"] is not None else "stability_criterion_open"
            lines.append(text(
                known, criterion=text(name), layers=row["layers"], share=row["same_set"],
                documents=row["documents_needed"],
            ))  # fmt: skip
    return lines

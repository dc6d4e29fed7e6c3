"""The report as Markdown: the same sentences and tables as the page, for a model card, a pull request or a terminal.

Assumption: any value from data may hold any character, so cells and list items escape what either format would read.
"""

from __future__ import annotations

from evals.visible import visible
from prune.reporting import captions, tables
from prune.reporting.answers import Answer, answers, headline
from prune.reporting.data import ReportData
from prune.reporting.tables import Table
from prune.wording import Message
from prune.wording.markdown import escape, fenced
from prune.wording.text import Text


def _table(table: Table) -> str:
    lines = [table.head, *table.rows]
    rows = ["| " + " | ".join(escape(cell) for cell in line) + " |" for line in lines]
    rule = "| --- |" + " ---: |" * (len(table.head) - 1)
    return "\n".join([rows[0], rule, *rows[1:]])


def _list(items: list[str]) -> str:
    return "\n".join(f"- {escape(item)}" for item in items)


def _said(messages: list[Message], text: Text) -> list[str]:
    return [text.say(message) for message in messages]


def _answer(answer: Answer, text: Text) -> str:
    """One answer of the first screen on one line."""
    losses = [f"{loss.suite}{text('colon')}{loss.lost} ({loss.limit})" for loss in answer.losses]
    words = answer.value or text.listed(losses)
    return text("answer_line", words=words, sentence=answer.sentence)


def render_markdown(data: ReportData, lang: str = "en") -> str:
    """The report as GitHub-flavoured Markdown, verdict in the first line.

    Raises:
        UsageError: `lang` is neither `en` nor `ja`.
    """
    text, data = data.text(lang), data.without_secrets()
    byline = [data.title, *([text("generated", when=data.generated_at)] if data.generated_at else [])]
    blocks = [f"# {text('ship_' + data.ship)}: {escape(headline(data, text))}", escape(" · ".join(byline))]

    def section(title: str, *parts: str) -> None:
        if any(parts):
            blocks.extend([f"## {escape(title)}", *(part for part in parts if part)])

    if data.exported and data.exported.overrides:
        section(text("overrides"), _list(_said(data.exported.overrides, text)))
    if found := answers(data, text):
        blocks.append("\n".join(f"- **{escape(answer.question)}** {escape(_answer(answer, text))}" for answer in found))
    if data.verdicts:
        reasons = [
            f"{text.words(row.title)}{text('colon')}{text.say(row.reason)}" for row in data.verdicts if row.reason
        ]
        section(text("verdicts"), _table(tables.verdict_table(data, text)), _list(reasons))
    noted = {suite: captions.accuracy(data, suite, text) for suite in data.suites}
    notes = [f"{data.suite_title(suite, text)}{text('colon')}{note}" for suite, note in noted.items() if note]
    if data.candidates:
        section(text("all_candidates"), _table(tables.candidate_table(data, text)), _list(notes))
    if data.drafts:
        section(text("drafts"), escape(text("drafts_caption")), _table(tables.draft_table(data, text)))
    if view := data.analysis:
        size = len(data.shown.drop) if data.shown and data.shown.drop else max(1, view.num_layers // 4)
        said = [captions.contribution(view, text), captions.cosine(view, text)]
        said += [captions.triangle(view, text, size), captions.loss(view, text)]
        phases, stability = tables.phase_lines(view, text), tables.stability_lines(view, text)
        section(text("analysis"), _list([line for line in said if line] + phases + stability))
        section(text("figure_table"), _table(tables.layer_table(view, text)))
    if (task_table := tables.task_table(data, text)).rows:
        section(text("all_tasks"), _table(task_table))
    section(text("not_measured"), _list(_said(data.not_measured, text)))
    warnings = data.warnings + (data.analysis.warnings if data.analysis else [])
    section(text("warnings"), _list(_said(warnings, text)))
    if data.plans:
        section(text("plans"), _table(tables.plan_table(data, text)))
    section(text("recipe"), fenced(data.recipe, "yaml") if data.recipe else "")
    section(text("provenance"), _list([f"{name}: {value}" for name, value in tables.pairs(data.provenance)]))
    section(text("durations"), _list([f"{name}: {value}" for name, value in tables.duration_pairs(data, text)]))
    return visible("\n\n".join(blocks) + "\n")

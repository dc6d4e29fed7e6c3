"""A user's own JSONL as an lm-eval task, without writing Python or lm-eval's YAML.

An entry of a suite names the file, the kind of question and, where they differ, the columns:

    - {jsonl: quiz.jsonl, kind: multiple_choice, prompt: "Q: {question}\\nA:", choices: options, answer: label}
    - {jsonl: sums.jsonl, kind: exact}                 # the completion must be the model's most likely one
    - {jsonl: tickets.jsonl, kind: regex, regex: "ID-(\\\\d+)", max_gen_toks: 64}
    - {jsonl: word_problems.jsonl, kind: numeric, max_gen_toks: 256}
    - {jsonl: mails.jsonl, kind: text, prompt: "{body}"}   # bits per byte of the user's own text

Rows are checked before anything runs, every mistake with its file and line.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from evals.errors import EvalUsageError
from evals.homes import cache_directory
from evals.local_data.files import Row, read_rows
from evals.records import file_name, write_exact
from evals.text import NotText, kind, text

Kind = Literal["multiple_choice", "exact", "regex", "numeric", "text"]
LAST_NUMBER = r"(-?\$?\d[\d,]*(?:\.\d+)?|-?\$?\.\d+)"
NOT_IN_NUMBERS = [",", r"\$", r"(?<=\d)\.0+$"]
"""Taken out of answer and target before they are compared: 1,000 is 1000, $5 is 5, 18.00 is 18."""


class OwnItems(BaseModel):
    """What an entry with `jsonl` may say; see the module's text."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    jsonl: str = Field(description="file, relative to the suite's own; one JSON object a line")
    kind: Kind
    name: str = Field("", description="key of the result; the file's name unless given")
    prompt: str = Field("{prompt}", description="text of the question; {column} is replaced by that column")
    answer: str = Field("answer", description="column of the answer: text, or the number or text of the right choice")
    choices: str = Field("choices", description="column with the list of choices (multiple_choice)")
    cluster: str = Field("", description="column that items which depend on each other share, such as a passage")
    regex: str = Field("", description="pattern whose first group is the answer; the last match counts (regex)")
    until: list[str] = Field(["\n\n"], description="strings that end a generated answer")
    max_gen_toks: int = Field(256, gt=0, description="tokens generated at most (regex, numeric)")
    metric: str = Field("", description="acc or acc_norm for multiple_choice; otherwise fixed by the kind")
    report_only: bool = Field(False, description="shown with its figures, but no part of the suite's retention")
    quick: int | None = Field(None, gt=0, description="items of the quick size; the suite's own number if absent")

    def task_fields(self, base: Path) -> dict[str, Any]:
        """Check the file, write the lm-eval task, and return the fields of a `TaskSpec`.

        Raises:
            EvalUsageError: file, line, column or pattern that is wrong.
        """
        path = (base / self.jsonl).resolve()
        if not path.is_file():
            raise EvalUsageError(f"{path}: no such file (jsonl of a suite entry)")
        self._check_regex(path)
        metric, answer_filter = self._reads()
        rows = [self._row(path, number, row) for number, row in enumerate(read_rows(path), start=1)]
        name = self.name or path.stem
        chance = math.fsum(1 / len(row["choices"]) for row in rows) / len(rows) if "choices" in rows[0] else 0.0
        fields: dict[str, Any] = {
            "task": f"own_{file_name(name)}",
            "name": name,
            "metric": metric,
            "filter": answer_filter,
            "chance": round(chance, 12),
            "definition": str(self._write(f"own_{file_name(name)}", rows)),
            "report_only": self.report_only,
            "quick": self.quick,
        }
        if self.cluster:
            distinct = {row["cluster"] for row in rows}
            fields |= {"cluster": "cluster", "items_per_cluster": len(rows) / len(distinct)}
        return fields

    def _check_regex(self, path: Path) -> None:
        if (self.kind == "regex") != bool(self.regex):
            raise EvalUsageError(f"{path}: `regex` goes with kind: regex, and only with it")
        try:
            groups = re.compile(self.regex).groups
        except re.error as error:
            raise EvalUsageError(f"{path}: regex {self.regex!r}: {error}") from error
        if self.regex and groups != 1:
            raise EvalUsageError(f"{path}: regex {self.regex!r} has {groups} groups; put the answer in one group (...)")

    def _reads(self) -> tuple[str, str]:
        if self.kind == "multiple_choice":
            if self.metric not in {"", "acc", "acc_norm"}:
                raise EvalUsageError(f"{self.jsonl}: metric {self.metric!r}: multiple_choice has acc and acc_norm")
            return self.metric or "acc", "none"
        fixed = {"exact": "acc", "text": "bits_per_byte"}.get(self.kind, "exact_match")
        if self.metric not in {"", fixed}:
            raise EvalUsageError(f"{self.jsonl}: metric {self.metric!r}: kind {self.kind} has {fixed}")
        return fixed, "answer" if self.kind in {"regex", "numeric"} else "none"

    def _row(self, path: Path, number: int, row: Row) -> Row:
        where = f"{path}, line {number}"

        def column(name: str) -> Any:
            if name not in row:
                raise EvalUsageError(f"{where}: no column {name!r}; it has {', '.join(row)}")
            return row[name]

        def words(name: str) -> str:
            return _text(column(name), f"{where}: {name}")

        made: Row = {"prompt": re.sub(r"\{(\w+)\}", lambda found: words(found[1]), self.prompt)}
        if self.cluster:
            made["cluster"] = _label(column(self.cluster), f"{where}: {self.cluster}")
        if self.kind == "text":
            return made
        if self.kind != "multiple_choice":
            return {**made, "answer": words(self.answer)}
        answer, choices = column(self.answer), column(self.choices)
        if not isinstance(choices, list) or len(choices) < 2:
            raise EvalUsageError(f"{where}: {self.choices!r} must be a list of at least two choices")
        texts = [_text(choice, f"{where}: {self.choices}: choice {n}") for n, choice in enumerate(choices)]
        if isinstance(answer, bool) or not isinstance(answer, int):
            if texts.count(words(self.answer)) != 1:
                raise EvalUsageError(f"{where}: answer {answer!r} is not exactly one of the choices")
            answer = texts.index(str(answer))
        if not 0 <= answer < len(texts):
            raise EvalUsageError(f"{where}: answer {answer} is no number of a choice; they count from 0")
        return {**made, "choices": texts, "label": answer}

    def _write(self, task: str, rows: list[Row]) -> Path:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        content = self._definition() | {"task": task}
        seed = text + json.dumps(content, sort_keys=True)
        folder = cache_directory("own_items") / hashlib.blake2b(seed.encode(), digest_size=12).hexdigest()
        write_exact(folder / "rows.jsonl", text)
        content |= {"dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}}}
        write_exact(folder / "task.yaml", yaml.safe_dump(content, allow_unicode=True, sort_keys=False))
        return folder / "task.yaml"

    def _definition(self) -> dict[str, Any]:
        mean = {"aggregation": "mean", "higher_is_better": True}
        common: dict[str, Any] = {"dataset_path": "json", "test_split": "test", "metadata": {"version": 1.0}}
        if self.kind == "text":
            return common | {
                "output_type": "loglikelihood_rolling",
                "doc_to_text": "",
                "doc_to_target": "{{prompt}}",
                "metric_list": [{"metric": "bits_per_byte"}, {"metric": "word_perplexity"}],
            }
        common |= {"doc_to_text": "{{prompt}}", "num_fewshot": 0}
        if self.kind == "multiple_choice":
            return common | {
                "output_type": "multiple_choice",
                "doc_to_choice": "{{choices}}",
                "doc_to_target": "label",
                "metric_list": [{"metric": "acc", **mean}, {"metric": "acc_norm", **mean}],
            }
        common["doc_to_target"] = "{{answer}}"
        if self.kind == "exact":
            return common | {"output_type": "loglikelihood", "metric_list": [{"metric": "acc", **mean}]}
        pattern = self.regex or LAST_NUMBER
        ignore = NOT_IN_NUMBERS if self.kind == "numeric" else []
        found = {"function": "regex", "regex_pattern": pattern, "group_select": -1}
        return common | {
            "output_type": "generate_until",
            "generation_kwargs": {"until": self.until, "do_sample": False, "max_gen_toks": self.max_gen_toks},
            "filter_list": [{"name": "answer", "filter": [found, {"function": "take_first"}]}],
            "metric_list": [{"metric": "exact_match", "regexes_to_ignore": ignore, **mean}],
        }


def _text(value: Any, where: str) -> str:
    try:
        return text(value)
    except NotText as error:
        raise EvalUsageError(f"{where} {error}") from None


def _label(value: Any, where: str) -> str:
    """What tells clusters apart: text, or a whole number."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise EvalUsageError(f"{where} is {kind(value)}; what tells clusters apart is text or a whole number")
    return _text(value, where)

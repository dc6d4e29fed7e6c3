"""How answers ended: cut off at the length limit, empty, or going round in circles; and prompts that did not fit.

lm-eval cuts what is too long without a word, from the left for prompts: damage that looks like a worse model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask

REPETITION_WINDOW = 8
"""An answer that holds some run of this many words three times over counts as repetitive."""


def answer_statistics(rows: list[dict[str, Any]], task: ConfigurableTask, lm: Any) -> dict[str, Any]:
    """Shot count, over-long prompts and, for generation, how answers ended."""
    stats: dict[str, Any] = {"num_fewshot": task.config.num_fewshot or 0, "output_type": task.OUTPUT_TYPE}
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        return stats
    room = lm.max_length + 1  # the last token of a continuation is only predicted
    if task.OUTPUT_TYPE == "generate_until":
        length = int((task.config.generation_kwargs or {}).get("max_gen_toks", lm.max_gen_toks))
        answers = [row["resps"][0][0] for row in rows]
        stats |= {
            "max_gen_toks": length,
            "truncation_rate": _share([lm.was_cut_off(row["arguments"][0]) for row in rows]),
            "empty_rate": _share([not text.strip() for text in answers]),
            "repetition_rate": _share([_repeats(text) for text in answers]),
        }
        room = lm.max_length - length
    if task.OUTPUT_TYPE == "multiple_choice":
        stats["chance"] = sum(1 / len(row["arguments"]) for row in rows) / len(rows)
    prompts = [[args[0] + (args[1] if isinstance(args[1], str) else "") for args in row["arguments"]] for row in rows]
    stats["overlong_prompts"] = sum(len(lm.tok_encode(max(texts, key=len))) > room for texts in prompts)
    return stats


def _share(flags: list[bool]) -> float:
    return sum(flags) / len(flags)


def _repeats(text: str) -> bool:
    words = text.split()
    runs = [tuple(words[i : i + REPETITION_WINDOW]) for i in range(len(words) - REPETITION_WINDOW + 1)]
    return any(runs.count(run) >= 3 for run in set(runs)) if len(runs) > 2 * REPETITION_WINDOW else False

"""What the study measures, on what, and how much of it."""

from __future__ import annotations

SMALL, GEMMA = "SmolLM2-135M-Instruct", "gemma-3-270m"
LAYERS = {SMALL: 30, GEMMA: 18}
DEPTHS = {SMALL: (27, 24, 21), GEMMA: (16, 15, 13)}
MEASURED = {SMALL: ("text", "math", "code", "ja"), GEMMA: ("text", "math", "ja")}
"""Domains of the analysis."""
PLANNING = ("text", "math")
"""Domains that layers are chosen on, of equal weight."""
SEARCHED = {SMALL: 8, GEMMA: 6}
"""Documents a domain behind a greedy search."""
CANDIDATES = {SMALL: 14, GEMMA: 12}
"""The search chooses among so many layers: those whose removal alone costs least."""
JUDGED = 12
"""Held-out documents of each domain that plans are judged on."""
SEEDS = (0, 1, 2)
"""Of the random plans."""
PLANS: tuple[tuple[str, str, str], ...] = (
    ("greedy dnll", "dnll", "greedy_full"),
    ("one-shot dnll", "dnll", "one_shot"),
    ("block influence", "block_influence", "one_shot"),
    ("angular block", "angular", "contiguous"),
    ("relative contribution", "relative_contribution", "one_shot"),
    ("taylor", "taylor", "one_shot"),
    ("magnitude", "magnitude", "one_shot"),
    ("last n", "last_n", "one_shot"),
)
"""Label, criterion, strategy."""
SEARCHES: tuple[tuple[str, str, str], ...] = (
    ("greedy, the default", "dnll", "greedy"),
    ("greedy in full", "dnll", "greedy_full"),
    ("beam", "dnll", "beam"),
    ("greedy, then exchanges", "dnll", "greedy_swap"),
    ("evolution", "dnll", "evolutionary"),
    ("blocks of two", "dnll", "blocks"),
    ("greedy by KL", "kl", "greedy"),
    ("greedy by the answers' NLL", "answer_nll", "greedy"),
    ("every k-th", "every_kth", "one_shot"),
)
"""Label, criterion, strategy of the searches that are set side by side."""
SUBSETS = 200
"""That evolution and exchanges may score."""
DATA_FREE = ("magnitude", "last_n", "random")
TASKS = {
    "lambada_openai": ("acc", 0.0),
    "hellaswag": ("acc_norm", 0.25),
    "arc_easy": ("acc_norm", 0.25),
    "piqa": ("acc_norm", 0.5),
}
"""Task -> metric, chance."""
ITEMS = 100
"""Of each task."""

"""The study of real models: documents that share nothing, tables that say what was measured, figures on known cases."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from study import accuracy, depth, depth_tables, documents, healing, plans, settings, tables, units
from study.bench import Bench

from evals.suite import TaskSpec
from prune.embedded import MODEL


@pytest.fixture
def public(tmp_path):
    """The public data's folder with made-up rows."""
    long = "word " * 120
    for split in ("valid", "test"):
        (tmp_path / "wikitext2").mkdir(exist_ok=True)
        lines = [f" {split} {number} {long}\n \n = Title = \n short \n" for number in range(400)]
        (tmp_path / f"wikitext2/{split}.txt").write_text("".join(lines))
    (tmp_path / "gsm8k").mkdir()
    for split in ("train", "test"):
        rows = ({"question": f"{split} {n}: {long[:60]}?", "answer": f"{n}\n#### {n}"} for n in range(700))
        (tmp_path / f"gsm8k/{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for folder in ("tinystories", "mgsm"):
        (tmp_path / folder).mkdir()
    (tmp_path / "tinystories/eval.txt").write_text("<|endoftext|>".join(f"{n} {long}" for n in range(30)))
    (tmp_path / "lambada").mkdir()
    rows = ({"text": f"Ann had {number} cats and one dog. She fed the dog"} for number in range(9))
    (tmp_path / "lambada/lambada_test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mgsm/mgsm_ja.tsv").write_text("".join(f"問い{n}\t{n}\n" for n in range(20)))
    return tmp_path


def test_calibration_healing_and_held_out_documents_share_nothing(public, tmp_path):
    counts = documents.prepare(public, tmp_path / "out")
    assert counts == documents.COUNTS
    for domain in ("text", "math"):
        kinds = [set((tmp_path / f"out/{kind}/{domain}.jsonl").read_text().splitlines()) for kind in documents.COUNTS]
        assert sum(map(len, kinds)) == len(set.union(*kinds))
    assert not any("Title" in line for line in (tmp_path / "out/calibration/text.jsonl").read_text().splitlines())


def test_sets_of_documents_agree_fully_when_all_documents_say_the_same_and_little_when_they_say_nothing():
    tokens = np.full(16, 10.0)
    same = np.arange(30.0)[:, None] * np.ones(16)
    assert depth_tables._halves(same, tokens, 8) == (1.0, float(depth_tables.SMALLEST_SET))
    noise = np.random.default_rng(0).normal(size=(30, 16))
    ranks, shared = depth_tables._halves(noise, tokens, 8)
    assert abs(ranks) < 0.4
    assert shared < 4


def test_levels_are_as_many_problems_of_each_with_their_solutions(tmp_path):
    (tmp_path / "math500").mkdir()
    rows = [{"problem": f"{n}?", "solution": f"so {n}", "level": 1 + n % 5} for n in range(40)]
    (tmp_path / "math500/test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    documents.write_levels(tmp_path, tmp_path / "new/levels.jsonl", 3)
    found = [json.loads(line) for line in (tmp_path / "new/levels.jsonl").read_text().splitlines()]
    assert [row["difficulty"] for row in found] == [level for level in range(1, 6) for _ in range(3)]
    for row in found:
        number = int(row["prompt"].removesuffix("?\n"))
        assert row["completion"] == f"so {number}"
        assert number % 5 + 1 == row["difficulty"]


def test_what_later_layers_make_of_a_layer_is_the_mean_over_those_after_it(tmp_path):
    """An [L, L] table whose row s holds s + 1 after the diagonal and nonsense before."""
    depth = settings.LAYERS[settings.SMALL]
    each = np.triu(np.arange(1.0, depth + 1)[:, None] * np.ones(depth), 1) + np.tril(np.full((depth, depth), 1e6))
    (tmp_path / "made").mkdir()
    names = (f"by_domain/text/{kind}/layer/mean" for kind in depth_tables.EFFECTS)
    save_file({name: np.ascontiguousarray(each) for name in names}, tmp_path / "made/measurements.safetensors")
    results = {f"effects_{settings.SMALL}": {"analysis": "made", "data": {"text": {"documents": 2}}}}
    row = list(depth_tables.effects(results, tmp_path))[-1]
    thirds = [np.mean(part) + 1 for part in np.array_split(np.arange(depth - 1), 3)]
    cell = " / ".join(f"{mean:.2f}" for mean in thirds)
    assert row == f"| {settings.SMALL} | text | 2 | {cell} | {cell} | {cell} | {cell} |"


def test_depth_by_difficulty_says_when_so_few_problems_cannot_tell(tmp_path):
    told = {"documents": 26, "levels": {"1": 9.0, "5": 9.5}, "shift": 0.5, "shift_lo": -0.1, "shift_hi": 1.1,
            "spearman": 0.2, "verdict": "cannot tell"}  # fmt: skip
    few = {"documents": 5, "levels": {"1": 9.0}, "verdict": "cannot tell"}
    found = {"output_effect/kl": told, "output_effect/l2_mean": few}
    rows = list(depth_tables.difficulty({f"difficulty_{settings.GEMMA}": {"difficulty": found}}, tmp_path))
    assert rows[-2].endswith("| 26 | 9.0 / 9.5 | +0.50 [-0.10, +1.10] | +0.20 | cannot tell |")
    assert rows[-1].endswith("| 5 | 9.0 | - | - | cannot tell |")


def test_a_question_is_needed_up_to_the_last_layer_whose_erasure_tells(tmp_path):
    """Effects that fall by a tenth of the first a layer, not quite steadily: what is gone must stay gone."""
    effect = np.linspace(1.0, 0.1, 10)
    assert depth_tables._gone(effect, 0.45) == 5
    effect[7] = 0.9
    assert depth_tables._gone(effect, 0.45) == 8
    assert depth_tables._gone(np.ones(10), 0.5) == 10  # never
    depth = settings.LAYERS[settings.SMALL]
    erased = np.zeros((depth, 8))
    erased[:20, 0], erased[:10, -1] = 0.8, 1.6
    erased[0] = 99  # of the embedding: does not count
    shares = np.full((depth, 8), 0.125)
    found = {"data": {"math": {"documents": 4}}, "erasure/kl": erased, "integrated_gradients/share": shares}
    row = list(depth_tables.questions({f"questions_{settings.SMALL}": found}, tmp_path))[-1]
    means = "0.30 / 0.10 / 0.00 | 0.80 / 0.80 / 0.00 | 1.60 / 0.00 / 0.00"
    assert row == f"| {settings.SMALL} | 4 | {means} | 10 / 20 | 0.12 / 0.12 / 0.12 |"


def test_searches_are_in_the_order_of_what_their_plans_cost_held_out(tmp_path):
    def plan(rise: float, work: int) -> dict:
        return {"drop": [3, 4], "work": {"layer_evaluations": work}, "calibration": {"text": 0.1, "math": 0.2},
                "held_out": dict.fromkeys(tables.HELD_OUT, rise)}  # fmt: skip

    found = {"original": dict.fromkeys(tables.HELD_OUT, 2.0),
             "plans": {"greedy in full": plan(0.5, 1000), "beam": plan(0.25, 1500)}}  # fmt: skip
    rows = list(tables.searches({f"searches_24_{settings.SMALL}": found}, tmp_path))
    assert rows[-3] == "| beam | 3, 4 | 1.50 | 0.200 | 0.100 | 2.250 | 2.250 | 2.250 | 2.250 |"
    assert rows[-2] == "| greedy in full | 3, 4 | 1.00 | 0.200 | 0.100 | 2.500 | 2.500 | 2.500 | 2.500 |"


def test_tasks_stand_under_their_own_model():
    assert tables._of_tasks("tasks_24_cut") == settings.SMALL
    assert tables._of_tasks("tasks_15_healed") == settings.GEMMA
    assert tables._of_tasks("heal_24_rate3") is None


def test_what_came_back_is_the_share_of_what_the_cut_lost():
    whole, cut = {"text": {"nll": [10.0, 20.0]}}, {"text": {"nll": [20.0, 40.0]}}
    for share, text in ((1.0, "100 % [100, 100]"), (0.5, "50 % [50, 50]"), (0.0, "0 % [0, 0]")):
        healed = {"text": {"nll": [20 - 10 * share, 40 - 20 * share]}}
        assert tables._back({"cut": cut, "healed": healed}, whole, "text") == text


def test_tables_stand_between_their_markers_and_nothing_is_shown_that_was_not_measured(tmp_path):
    (tmp_path / "results").mkdir()
    record = {"cpu_seconds": 3.2, "system_seconds": 1.1, "peak_mb": 100.0}
    (tmp_path / "results/data.json").write_text(json.dumps(record))
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- study: begin -->\nold\n<!-- study: end -->\nafter\n")
    assert tables.write(tmp_path, readme) == 0
    text = readme.read_text()
    assert text.startswith("before\n<!-- study: begin -->")
    assert text.endswith("<!-- study: end -->\nafter\n")
    assert "old" not in text
    assert "| `data` | 3 | 1 | 100 MB |" in text
    assert text.count("\n| --- ") == 1
    readme.write_text("no markers")
    with pytest.raises(SystemExit, match="put the lines"):
        tables.write(tmp_path, readme)


def test_a_criterion_that_ranks_plans_as_a_task_does_is_said_to_predict_it(tmp_path):
    costs = {f"plan {n}/27": float(n) for n in range(4)}
    backwards = {key: -cost for key, cost in costs.items()}

    def judged(lost: float) -> dict:
        seen = {"n": 50, "original": 0.5, "candidate": 0.5 - lost / 10, "p": 0.5 if lost < 3 else 0.01}
        return {"lambada": seen, "piqa": {**seen, "candidate": 0.2 + lost / 20}}

    results = {
        f"plans_{settings.SMALL}": {
            "plans": {key: {"dnll": {"total": {"value": cost}}} for key, cost in costs.items()},
            "predicted": {"magnitude": backwards},
        },
        f"plan_tasks_27_{settings.SMALL}": {"tasks": {key: judged(cost) for key, cost in costs.items()}},
    }
    text = "\n".join(tables.plan_tasks(results, tmp_path))
    assert "50 items a task" in text
    assert "| 27 | plan 0 | 0.50 | 0.20 | 0.350 |" in text
    assert "| 27 | plan 3 | 0.20* | 0.35* | 0.275 |" in text
    assert "| ΔNLL of the plan, calibration | +1.00 | -1.00 |" in text
    assert "| magnitude | -1.00 | +1.00 |" in text


@pytest.mark.slow
def test_every_kind_of_unit_runs_and_is_shown_on_a_small_model(public, tmp_path, monkeypatch):
    name = settings.SMALL
    monkeypatch.setitem(settings.LAYERS, name, 16)
    monkeypatch.setitem(settings.DEPTHS, name, (14,))
    monkeypatch.setitem(settings.CANDIDATES, name, 5)
    monkeypatch.setitem(settings.SEARCHED, name, 2)
    monkeypatch.setattr(plans, "JUDGED", 2)
    monkeypatch.setattr(healing, "JUDGED", 2)
    monkeypatch.setattr(accuracy, "SPECS", [TaskSpec(task="lambada_openai", metric="acc", chance=0.0, limit=4)])
    bench = Bench(tmp_path / "study", public, {name: MODEL})
    (bench.folder / "results").mkdir(parents=True)
    made = {
        "data": units.data,
        f"depth_{name}": lambda b: depth.depth(b, name, 2),
        f"singles_{name}": lambda b: depth.singles(b, name, 4),
        f"plans_{name}": lambda b: plans.plans(b, name),
        f"held_out_{name}": lambda b: plans.held_out(b, name),
        f"original_{name}": lambda b: units.original(b, name),
        "heal_14_rate": lambda b: healing.healing(b, name, 14, 1, 0, {"learning_rate": 1e-3}),
        "heal_14_full": lambda b: healing.healing(b, name, 14, 1, 0, {"method": "full", "train_layers": "gap"}),
        f"effects_{name}": lambda b: depth.depth(b, name, 1, effects=True),
        "tasks_14_cut": lambda b: accuracy.tasks(b, name, "greedy dnll", 14),
        "tasks_14_healed": lambda b: accuracy.tasks(b, name, "greedy dnll", 14, "heal_14_rate"),
        f"plan_tasks_14_{name}": lambda b: accuracy.plan_tasks(b, name, 14),
        f"searches_14_{name}": lambda b: plans.searches(b, name, 14),
        f"questions_{name}": lambda b: depth.questions(b, name, 2),
    }
    cost = {"cpu_seconds": 1.0, "system_seconds": 0.1, "peak_mb": 10.0}
    for unit, run in made.items():
        (bench.folder / f"results/{unit}.json").write_text(json.dumps(cost | run(bench)))
    held_out, original = (bench.result(f"{kind}_{name}") for kind in ("held_out", "original"))
    for domain, nll in held_out["original"].items():
        plain = original["documents"][domain]
        assert nll == pytest.approx(sum(plain["nll"]) / sum(plain["tokens"]), rel=1e-4)
    readme = tmp_path / "README.md"
    readme.write_text("<!-- study: begin --><!-- study: end -->")
    tables.write(bench.folder, readme)
    shown = readme.read_text()
    for words in (
        "greedy dnll",
        "rank correlation",
        "of the text lost, back",
        "ΔNLL of one layer",
        "random (mean of 3)",
        "| lambada_openai | 14 | healed | 4 |",
        "accuracy of every plan, 4 items a task",
        "what each sees of it alone",
        "greedy by the answers' NLL",
        "gradients: last eighth",
    ):
        assert words in shown

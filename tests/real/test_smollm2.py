"""From analysis to evaluation on a real language model, by the commands, against transformers alone."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoTokenizer

import prune
from evals.runtimes import installed
from evals.worker import Worker
from prune.embedded import HERE

from .plain import STORY_ROWS, command, load, nll, token_ids, without

pytestmark = pytest.mark.real
LENGTH = 48
LAYERS = 30
QUESTIONS = [
    ("The opposite of hot is", ["cold", "table", "seven"], 0),
    ("A baby cat is called a", ["bridge", "kitten", "window"], 1),
    ("The capital of France is", ["spoon", "green", "Paris"], 2),
    ("Fish live in the", ["water", "sky", "oven"], 0),
    ("We see with our", ["knees", "eyes", "shoes"], 1),
    ("After Monday comes", ["winter", "soup", "Tuesday"], 2),
]


@pytest.fixture(scope="module")
def stories():
    rows = (json.loads(line) for line in (HERE / STORY_ROWS).read_text(encoding="utf8").splitlines())
    return [row["text"] for row in rows][:24]


@pytest.fixture(scope="module")
def original(smollm2):
    return load(smollm2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, stories):
    """Calibration documents, and what the commands write."""
    folder = tmp_path_factory.mktemp("smollm2")
    for name, texts in {"seen": stories[:2], "training": stories[2:]}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return folder


@pytest.fixture(scope="module")
def analysis(smollm2, folder):
    with pytest.MonkeyPatch.context() as patch:
        data = f"stories={folder / 'seen.jsonl'}"
        code = command(patch, "analyze", smollm2, "-o", folder / "analysis", "--data", data, "--measure",
                        "contributions,dnll", "--seq_length", LENGTH, "--quiet")  # fmt: skip
    assert code == 0
    return load_file(folder / "analysis" / "measurements.safetensors")


@pytest.fixture(scope="module")
def cut(smollm2, folder, analysis):
    """The directory with 27 layers that `prune plan` and `prune cut` make, and the removed layers."""
    with pytest.MonkeyPatch.context() as patch:
        plan = ["plan", folder / "analysis", "-o", folder / "plan.json", "--num_layers", LAYERS - 3, "--quiet",
                "--protect", "0-9,20-29"]  # fmt: skip
        assert command(patch, *plan) == 0
        assert command(patch, "cut", smollm2, "-o", folder / "cut", "--plan", folder / "plan.json", "--quiet") == 0
    return folder / "cut", json.loads((folder / "plan.json").read_text(encoding="utf8"))


def test_block_influence_is_that_of_transformers_hidden_states(smollm2, original, stories, analysis):
    found = torch.zeros(LAYERS - 1, dtype=torch.float64)  # the last state that transformers gives is normed
    documents = token_ids(smollm2, stories[:2], LENGTH)
    for ids in documents:
        with torch.no_grad():
            states = original(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
        for layer in range(LAYERS - 1):
            before, after = states[layer][0].double(), states[layer + 1][0].double()  # [T, d]
            found[layer] += (1 - torch.cosine_similarity(before, after, dim=-1)).sum()
    expected = found / sum(ids.shape[1] for ids in documents)
    assert torch.allclose(torch.tensor(analysis["block_influence"][:-1]).double(), expected, atol=1e-5)


@pytest.mark.parametrize("layer", [0, 14, 29])
def test_dnll_is_that_of_the_model_without_the_layer(smollm2, original, stories, analysis, layer):
    documents = token_ids(smollm2, stories[:2], LENGTH)
    expected = nll(without(original, [layer]), documents) - nll(original, documents)
    assert analysis["output_effect/dnll"][layer] == pytest.approx(expected, abs=2e-4)


def test_the_plan_takes_the_cheapest_layer_first_and_no_protected_one(analysis, cut):
    _, plan = cut
    free = range(10, 20)
    assert plan["order"][0] == min(free, key=lambda layer: analysis["output_effect/dnll"][layer])
    assert set(plan["drop"]) <= set(free)
    assert len(plan["drop"]) == 3


def test_the_cut_checkpoint_is_the_model_without_the_layers(smollm2, original, stories, cut):
    directory, plan = cut
    (ids,) = token_ids(smollm2, stories[:1], LENGTH)
    with torch.no_grad():
        ours, expected, whole = (
            m(input_ids=ids, use_cache=False).logits
            for m in (load(directory), without(original, plan["drop"]), original)
        )
    assert torch.equal(ours, expected)
    assert not torch.allclose(ours, whole, atol=0.1)


def test_verify_accepts_the_cut_and_refuses_a_changed_byte(cut, tmp_path, monkeypatch, capsys):
    directory, _ = cut
    assert command(monkeypatch, "verify", directory, "--quiet") == 0
    for file in directory.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1000] ^= 1
    weights.write_bytes(data)
    assert command(monkeypatch, "verify", tmp_path, "--quiet") == 1
    assert "model.safetensors" in capsys.readouterr().err


def test_a_few_steps_of_healing_lower_the_loss_and_leave_the_layers_below_the_gap(
    smollm2, folder, stories, cut, monkeypatch
):
    directory, plan = cut
    code = command(monkeypatch, "heal", directory, "-o", folder / "healed", "--teacher", smollm2, "--quiet",
                   "--data", f"stories={folder / 'training.jsonl'}", "--max_steps", 4, "--learning_rate", 1e-3,
                   "--per_device_train_batch_size", 4, "--max_length", LENGTH, "--eval_max_documents", 4)  # fmt: skip
    assert code == 0
    healed, before = load(folder / "healed"), load(directory)
    documents = token_ids(smollm2, stories[2:12], LENGTH)
    assert nll(healed, documents) < nll(before, documents) - 0.02
    same = [
        torch.equal(a, b)
        for a, b in zip(healed.model.layers[0].parameters(), before.model.layers[0].parameters(), strict=True)
    ]
    assert all(same)
    gap = min(plan["drop"])
    assert not torch.equal(healed.model.layers[gap].mlp.up_proj.weight, before.model.layers[gap].mlp.up_proj.weight)


def test_an_evaluation_scores_what_transformers_scores(smollm2, original, folder, stories, cut, monkeypatch):
    directory, plan = cut
    rows = [{"prompt": prompt, "choices": choices, "answer": answer} for prompt, choices, answer in QUESTIONS]
    (folder / "quiz.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    quiz, text = (
        "{jsonl: quiz.jsonl, kind: multiple_choice, metric: acc}",
        "{jsonl: seen.jsonl, kind: text, prompt: '{text}'}",
    )
    for name, task in {"quiz": quiz, "stories": text}.items():
        (folder / f"{name}.yaml").write_text(f"name: {name}\ntasks:\n  - {task}\n")
    code = command(monkeypatch, "eval", directory, "--baseline", smollm2, "-o", folder / "evidence", "--quiet",
                   "--suite", f"{folder / 'quiz.yaml'},{folder / 'stories.yaml'}", "--batch_size", 6)  # fmt: skip
    assert code in (0, 3)
    evidence = json.loads((folder / "evidence" / "evidence.json").read_text(encoding="utf8"))
    suites = {suite["name"]: suite for suite in evidence["suites"]}
    assert suites["quiz"]["n"] == len(QUESTIONS)
    for side, model in {"original": original, "candidate": without(original, plan["drop"])}.items():
        assert suites["quiz"][side] == pytest.approx(_accuracy(model, smollm2))
        assert suites["stories"][side] == pytest.approx(_bits_per_byte(model, smollm2, stories[:2]), rel=1e-4)
    assert suites["stories"]["candidate"] > suites["stories"]["original"] + 0.01


@torch.no_grad()
def _accuracy(model, directory):
    right = 0
    for prompt, choices, answer in QUESTIONS:
        (start,) = token_ids(directory, [prompt], LENGTH)
        scores = []
        for ids in token_ids(directory, [f"{prompt} {choice}" for choice in choices], LENGTH):
            log_p = model(input_ids=ids, use_cache=False).logits[0, :-1].double().log_softmax(-1)  # [T-1, V]
            each = log_p.gather(1, ids[0, 1:, None])[:, 0]  # [T-1]
            scores.append(each[start.shape[1] - 1 :].sum().item())
        right += max(range(len(choices)), key=scores.__getitem__) == answer
    return right / len(QUESTIONS)


def _bits_per_byte(model, directory, texts):
    """As lm-eval counts: the first token, too, is predicted, from the tokenizer's beginning of text."""
    begin = torch.tensor([[AutoTokenizer.from_pretrained(directory).bos_token_id]])
    bits, size = 0.0, 0
    for text, ids in zip(texts, token_ids(directory, texts, 1000), strict=True):
        bits += nll(model, [torch.cat([begin, ids], 1)]) * ids.shape[1] / math.log(2)
        size += len(text.encode())
    return bits / size


@pytest.mark.runtime
def test_llama_cpp_runs_the_file_that_a_directory_becomes_without_some_attentions(smollm2, tmp_path):
    """In bfloat16, as the checkpoint is: the tokens of the model in memory wherever it is not near a tie."""
    if not installed("llama.cpp"):
        pytest.skip("llama.cpp: not installed; scripts/runtime llama.cpp")
    gone = [12, 14, 16, 25]
    prune.cut(str(smollm2), tmp_path / "cut.gguf", drop_attn=gone)
    model = load(smollm2)
    prune.cut(model, drop_attn=gone)
    prompts = token_ids(smollm2, [question for question, _, _ in QUESTIONS[:5]], LENGTH)
    asked = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": -1, "pad_token_id": 0}
    own = []
    for ids in prompts:
        own.append(model.generate(ids, attention_mask=torch.ones_like(ids), **asked)[0, ids.shape[1] :].tolist())
    with Worker("llama.cpp", tmp_path / "cut.gguf", {"vocabulary": model.config.vocab_size}) as worker:
        assert worker.generate([ids[0].tolist() for ids in prompts], 24) == own

"""`prune.generate` on the demo model: answers equal those of each prompt alone, stop at the end, survive a kill."""

from __future__ import annotations

import json

import pytest
import torch

import prune
from prune.data.domains import load_domain
from prune.embedded import HERE, MODEL
from prune.errors import PruneError, UsageError
from prune.model.loading import load_model, load_tokenizer

ARITHMETIC = HERE / "data/heal/arithmetic.jsonl"
STORIES = HERE / "data/heal/stories.jsonl"
SAMPLED = {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "num_return_sequences": 2, "seed": 3, "batch_size": 4}


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    """Ten prompts of different lengths."""
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    rows = [json.loads(line) for line in ARITHMETIC.read_text().splitlines()[:3000:300]]
    path.write_text("".join(json.dumps({"prompt": r["prompt"], "difficulty": r["difficulty"]}) + "\n" for r in rows))
    return path


@pytest.fixture(scope="module")
def greedy(prompts):
    """(answers file, provenance) of a greedy run in batches of four."""
    output = prompts.parent / "answers.jsonl"
    return output, prune.generate("embedded", output, data={"math": str(prompts)}, max_new_tokens=12, batch_size=4)


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@torch.no_grad()
def test_each_answer_is_the_greedy_answer_of_its_prompt_alone(greedy, prompts):
    model, tokenizer = load_model(str(MODEL)), load_tokenizer(str(MODEL))
    rows = read(greedy[0])
    assert [r["prompt"] for r in rows] == [r["prompt"] for r in read(prompts)]
    assert len({r["answer_start"] for r in rows}) > 1
    for row in rows:
        ids = list(tokenizer(row["prompt"])["input_ids"])
        assert row["input_ids"][: row["answer_start"]] == ids
        for _ in range(12):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == tokenizer.eos_token_id:
                break
        assert row["input_ids"] == ids
        assert row["finished"] == (ids[-1] == tokenizer.eos_token_id)
        assert row["prompt"] + row["completion"] == tokenizer.decode(ids, skip_special_tokens=True)


def test_the_answers_are_data_for_heal_token_by_token(greedy):
    rows = read(greedy[0])
    domain = load_domain("self", str(greedy[0]), load_tokenizer(str(MODEL)))
    assert [list(d.input_ids) for d in domain.documents] == [r["input_ids"] for r in rows]
    assert [d.answer_start for d in domain.documents] == [r["answer_start"] for r in rows]
    assert [d.difficulty for d in domain.documents] == [r["difficulty"] for r in rows]


def test_provenance_stands_beside_the_answers(greedy):
    facts = json.loads((greedy[0].parent / "answers.jsonl.provenance.json").read_text())
    assert facts == greedy[1]
    assert facts["answers"] == facts["data"]["math"]["prompts"] == 10
    assert facts["settings"]["max_new_tokens"] == 12
    assert len(facts["model_sha256"]) == len(facts["data"]["math"]["sha256"]) == 64
    assert facts["new_tokens"] == sum(len(r["input_ids"]) - r["answer_start"] for r in read(greedy[0]))
    assert str(greedy[0].parent) not in json.dumps(facts)
    assert [p.name for p in greedy[0].parent.glob(".*")] == []


def test_a_killed_run_goes_on_and_gives_the_same_sampled_answers(prompts, tmp_path):
    data = {"math": str(prompts)}
    prune.generate("embedded", tmp_path / "whole.jsonl", data=data, max_new_tokens=12, **SAMPLED)

    def kill(done, _):
        if done >= 8:
            raise KeyboardInterrupt

    killed = tmp_path / "killed.jsonl"
    with pytest.raises(KeyboardInterrupt):
        prune.generate("embedded", killed, data=data, max_new_tokens=12, progress=kill, **SAMPLED)
    assert not killed.exists()
    with (tmp_path / ".killed.jsonl.batches").open("a") as handle:
        handle.write('[[3, {"torn')
    with pytest.raises(UsageError, match="resume"):
        prune.generate("embedded", killed, data=data, max_new_tokens=12, **SAMPLED)
    with pytest.raises(PruneError, match="other prompts, settings or another model"):
        prune.generate("embedded", killed, data=data, max_new_tokens=13, resume=True, **SAMPLED)
    facts = prune.generate("embedded", killed, data=data, max_new_tokens=12, resume=True, **SAMPLED)
    assert facts["resumed"] == 8
    assert killed.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert len(read(killed)) == 20


def test_texts_give_their_first_tokens_as_prompts_and_unfinished_answers_can_be_left_out(tmp_path):
    texts = [line for line in STORIES.read_text().splitlines() if '"text"' in line][:5]
    (tmp_path / "texts.jsonl").write_text("\n".join(texts))
    output, data = tmp_path / "stories.jsonl", {"stories": str(tmp_path / "texts.jsonl")}
    options = {"data": data, "num_prompts": 3, "prompt_tokens": 5, "max_new_tokens": 4}
    facts = prune.generate("embedded", output, **options)
    assert facts["cut_short"] == 3
    assert [(r["answer_start"], len(r["input_ids"]), r["finished"]) for r in read(output)] == [(5, 9, False)] * 3
    with pytest.raises(PruneError, match="no answer ended within max_new_tokens 4"):
        prune.generate("embedded", tmp_path / "none.jsonl", finished_only=True, **options)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "stories.jsonl",
        "stories.jsonl.provenance.json",
        "texts.jsonl",
    ]


@pytest.mark.parametrize(
    ("content", "options", "error", "message"),
    [
        ("", {}, PruneError, "holds no prompts"),
        ('{"answer": "4"}', {}, PruneError, r"row 1 has the columns \['answer'\]"),
        ('{"prompt": ""}', {}, PruneError, "no prompt can be used"),
        ('{"messages": []}', {}, PruneError, "row 1: messages is empty"),
        ('{"input_ids": [1, -2, 3], "answer_start": 2}', {}, PruneError, "input_ids is not a list of whole numbers"),
        ('{"input_ids": [1, 2, 3], "answer_start": -1}', {}, PruneError, "row 1: answer_start -1 is not"),
        ('{"prompt": "a"}', {"max_new_tokens": 512}, PruneError, "leaves no room for max_new_tokens 512"),
        ('{"prompt": "a"}', {"apply_chat_template": True}, UsageError, "no chat template"),
        ('{"prompt": "a"}', {"num_return_sequences": 2}, UsageError, "add do_sample"),
        ('{"prompt": "a"}', {"temperature": 0.5}, UsageError, "do nothing without do_sample"),
        ('{"prompt": "a"}', {"max_tokens": 5}, UsageError, "max_tokens"),
    ],
)
def test_a_mistake_is_named(tmp_path, content, options, error, message):
    (tmp_path / "p.jsonl").write_text(content)
    with pytest.raises(error, match=message):
        prune.generate(
            "embedded", tmp_path / "out.jsonl", data={"a": str(tmp_path / "p.jsonl")}, dry_run=True, **options
        )
    assert [p.name for p in tmp_path.iterdir()] == ["p.jsonl"]


def test_an_existing_file_is_not_overwritten(prompts, tmp_path):
    output = tmp_path / "precious.jsonl"
    output.write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        prune.generate("embedded", output, data={"math": str(prompts)})
    assert output.read_text() == "mine"


def test_a_prompt_of_another_tokenizers_ids_is_refused_and_leaves_nothing(tmp_path):
    (tmp_path / "p.jsonl").write_text(
        '{"input_ids": [1, 2, 3], "answer_start": 2}\n{"input_ids": [2048, 1], "answer_start": 1}'
    )
    with pytest.raises(UsageError, match="data a: row 2 holds token id 2048, the model knows 0 to 2047"):
        prune.generate("embedded", tmp_path / "out.jsonl", data={"a": str(tmp_path / "p.jsonl")})
    assert [p.name for p in tmp_path.iterdir()] == ["p.jsonl"]


def test_past_the_end_of_text_an_answer_goes_on_with_what_it_said_before(greedy, prompts):
    longer = prune.generate("embedded", data={"math": str(prompts)}, max_new_tokens=12, batch_size=4, ignore_eos=True)
    short = read(greedy[0])
    assert any(row["finished"] for row in short)
    for row, whole in zip(short, longer.rows, strict=True):
        assert len(whole["input_ids"]) == whole["answer_start"] + 12
        assert whole["input_ids"][: len(row["input_ids"])] == row["input_ids"]


def test_answers_that_go_on_cannot_be_asked_to_end(prompts):
    with pytest.raises(UsageError, match="finished_only leaves nothing"):
        prune.generate("embedded", data={"math": str(prompts)}, ignore_eos=True, finished_only=True)

"""The training set: shares, order, packing that never attends across documents, and the tokenizer's own BOS."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from prune.data.domains import Document, Domain, load_domain
from prune.healing.data import IGNORED, Collator, TrainingSet, split_domains, weighted_stream
from prune.healing.objective import packs_exactly

from . import tiny

OPTIONS = {"max_length": 32, "eval_fraction": 0.2, "eval_max_documents": 64, "seed": 0}


def split(weights=None, **domains):
    return split_domains(domains or {"general": tiny.domain()}, weights, **OPTIONS)


def test_held_out_documents_are_never_trained_on():
    parts = split(a=tiny.domain("a"), b=tiny.domain("b"))
    for name in ("a", "b"):
        assert len(parts.held_out[name]) == 5
        assert len(parts.training[name]) == 19


@pytest.mark.parametrize("seed", range(4))
def test_answers_to_one_prompt_are_not_on_both_sides(seed):
    answers = [Document((prompt, 9, answer), 2) for prompt in range(3) for answer in range(10 + prompt)]
    texts = [Document((7, 8, last)) for last in (1, 1, 2)]  # the same first token, two of them the same text
    parts = split_domains({"d": Domain("d", tuple(answers + texts), "", "")}, **OPTIONS | {"seed": seed})
    held_out, training = parts.held_out["d"], parts.training["d"]
    assert len(held_out) + len(training) == len(answers + texts)
    assert len(held_out) >= 7  # a fifth
    assert training
    for document in held_out:
        assert document not in training
        assert document.answer_start == 1 or document.input_ids[:2] not in {d.input_ids[:2] for d in training}


def test_answers_to_a_single_prompt_are_parted_all_the_same():
    domain = Domain("d", tuple(Document((1, 2, answer), 2) for answer in range(10)), "", "")
    parts = split_domains({"d": domain}, **OPTIONS)
    assert [len(parts.held_out["d"]), len(parts.training["d"])] == [2, 8]


def test_domain_weights_are_shares_of_predicted_tokens():
    long = tiny.domain("long", length=20)
    prompted = Domain(
        "short", tuple(Document(d.input_ids, 4) for d in tiny.domain("short", length=6).documents), "", ""
    )
    parts = split({"long": 0.25, "short": 0.75}, long=long, short=prompted)
    tokens = dict.fromkeys(parts.training, 0)
    for name, position in itertools.islice(weighted_stream(parts, 0), 2000):
        document = parts.training[name][position]
        tokens[name] += len(document.input_ids) - document.answer_start
    assert tokens["short"] / sum(tokens.values()) == pytest.approx(0.75, abs=0.01)


def test_every_document_is_seen_before_one_is_seen_twice():
    parts = split()
    first = [position for _, position in itertools.islice(weighted_stream(parts, 3), 19)]
    assert sorted(first) == list(range(19))


def packed_rows(rows: int = 4):
    parts = split()
    data = TrainingSet(parts, rows=rows, step=rows, max_length=32, packing=True, seed=0)
    return [data[i] for i in range(rows)], data


def test_packing_fills_rows_and_loses_no_token():
    rows, data = packed_rows(8)
    assert max(len(row) for row in rows) >= 2
    assert all(sum(len(d.input_ids) for d in row) <= 32 for row in rows)
    assert data.tokens(8) == sum(len(d.input_ids) for row in rows for d in row)
    batch = Collator(0, packing=True)(rows)
    predicted = sum(len(d.input_ids) - 1 for row in rows for d in row)
    assert int((batch["labels"] != IGNORED).sum()) == predicted
    # Trainer divides by the labels after the first column; no label may stand there.
    assert (batch["labels"][:, 0] == IGNORED).all()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_logits_of_packed_documents_equal_those_of_each_alone(attention):
    model = tiny.teacher()
    model.set_attn_implementation(attention)
    rows, _ = packed_rows()
    batch = Collator(0, packing=True)(rows)
    batch.pop("labels")
    packed = model(**batch, use_cache=False).logits
    assert max(len(row) for row in rows) >= 2
    for i, row in enumerate(rows):
        begin = 0
        for document in row:
            end = begin + len(document.input_ids)
            alone = model(input_ids=torch.tensor([document.input_ids])).logits[0]
            torch.testing.assert_close(packed[i, begin:end], alone, rtol=1e-4, atol=1e-4)
            begin = end


def test_a_model_that_looks_across_documents_is_not_packed():
    class Mixer(torch.nn.Module):
        """Adds the running mean of all tokens before, whatever document they are of."""

        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(16, 16)

        def forward(self, input_ids, position_ids=None, use_cache=False):
            x = self.table(input_ids)
            mean = x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[None, :, None]
            return type("Output", (), {"logits": x + mean})

    assert packs_exactly(tiny.teacher(), tiny.VOCABULARY)
    assert not packs_exactly(Mixer(), 16)


def test_every_packed_text_begins_with_the_tokenizers_own_bos(tmp_path):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing

    inner = Tokenizer(WordLevel({"<s>": 0, "<unk>": 1, "a": 2, "b": 3, "c": 4}, unk_token="<unk>"))
    inner.pre_tokenizer = Whitespace()
    inner.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", unk_token="<unk>")
    rows = [{"text": "a b c"}, {"prompt": "a b", "completion": " c"}] * 4
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    domain = load_domain("d", str(tmp_path / "d.jsonl"), tokenizer)
    parts = split_domains({"d": domain}, **OPTIONS)
    data = TrainingSet(parts, rows=1, step=1, max_length=16, packing=True, seed=0)
    batch = Collator(1, packing=True)([data[0]])
    starts = batch["position_ids"][0] == 0
    assert batch["input_ids"][0, :16].tolist() == [0, 2, 3, 4] * 4
    assert starts[:16].nonzero().flatten().tolist() == [0, 4, 8, 12]
    labels = batch["labels"][0].view(4, 4).tolist()
    assert all(row in ([IGNORED, 2, 3, 4], [IGNORED, IGNORED, IGNORED, 4]) for row in labels)

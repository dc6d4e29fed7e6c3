"""Answers that survive a layer, against transformers on the really shortened model, one document at a time."""

import copy

import numpy as np
import pytest
import torch

import prune.analysis.run
from prune.analysis import analyze
from prune.data.domains import Document, Domain, batches

from .naive import without
from .tiny import left_padded, tiny

KEY = "output_effect/answer_accuracy"
LAYERS = 6


def shortened(model: torch.nn.Module, layer: int) -> torch.nn.Module:
    cut = copy.deepcopy(model)
    del cut.model.layers[layer]
    cut.config.num_hidden_layers -= 1
    return cut


@torch.no_grad()
def greedy(model: torch.nn.Module, prompt: list[int], tokens: int) -> list[int]:
    ids = list(prompt)
    for _ in range(tokens):
        ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids


def answered(model: torch.nn.Module) -> dict[str, Domain]:
    """Answers of the model, of the model without each layer, and one of neither; plain documents beside them."""
    generator = torch.Generator().manual_seed(3)

    def random(tokens: int) -> list[int]:
        return torch.randint(3, 97, (tokens,), generator=generator).tolist()

    sums = []
    for number in range(12):
        prompt = random(2 + number % 5)
        sums.append(Document(tuple(greedy(model, prompt, 1 + number % 3)), answer_start=len(prompt)))
    for layer in range(LAYERS):
        prompt = random(3 + layer)
        sums.append(Document(tuple(greedy(shortened(model, layer), prompt, 2)), answer_start=len(prompt)))
    sums.append(Document(tuple(random(9)), answer_start=6))
    plain = [Document(tuple(random(length))) for length in (7, 3, 12)]
    return {
        "text": Domain("text", tuple(plain), "made here", "t"),
        "sums": Domain("sums", (*sums[:9], plain[0], *sums[9:]), "made here", "s"),
    }


@torch.no_grad()
def survives(logits: torch.Tensor, document: Document) -> bool:
    """Every answer token is the argmax at the position before it; logits [T, V]."""
    choice = logits.argmax(-1).tolist()
    return all(choice[at - 1] == document.input_ids[at] for at in range(document.answer_start, len(choice)))


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return tiny("llama")


@pytest.fixture(scope="module")
def data(model: torch.nn.Module) -> dict[str, Domain]:
    return answered(model)


def expected(model: torch.nn.Module, data: dict[str, Domain]) -> np.ndarray:
    documents = [d for d in data["sums"].documents if d.answer_start > 1]
    shares = []
    for layer in range(LAYERS):
        cut = shortened(model, layer)
        with torch.no_grad():
            logits = [cut(torch.tensor([d.input_ids]), use_cache=False).logits[0] for d in documents]
        shares.append(np.mean([survives(*pair) for pair in zip(logits, documents, strict=True)]))
    return np.array(shares)


def test_it_is_the_share_of_answers_that_the_shortened_model_gives(
    model: torch.nn.Module, data: dict[str, Domain], monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = expected(model, data)
    assert 0 < shares.min() < shares.max() < 1  # the documents tell layers apart
    for side, size in ((batches, 1), (batches, 4), (left_padded, 30)):
        monkeypatch.setattr(prune.analysis.run, "batches", side)
        found = analyze(model, data, measure=["dnll"], batch_size=size, bootstrap=200)
        np.testing.assert_allclose(found.of_domain(KEY, "sums"), shares, rtol=1e-6)
        np.testing.assert_allclose(found[KEY], shares, rtol=1e-6)  # plain documents have no answer
        assert (found[f"{KEY}.lo"] <= found[KEY]).all()
        assert (found[KEY] <= found[f"{KEY}.hi"]).all()
        assert (found[f"{KEY}.lo"] < found[f"{KEY}.hi"]).any()


def test_the_clean_models_share_stands_beside_it(model: torch.nn.Module, data: dict[str, Domain]) -> None:
    documents = [d for d in data["sums"].documents if d.answer_start > 1]
    with torch.no_grad():
        right = [survives(model(torch.tensor([d.input_ids])).logits[0], d) for d in documents]
    scalars = analyze(model, data, measure=["dnll"], bootstrap=50).info["scalars"]
    assert scalars["answer_accuracy_clean"] == pytest.approx(np.mean(right))
    assert scalars["answer_accuracy_clean.lo"] <= np.mean(right) <= scalars["answer_accuracy_clean.hi"]
    assert scalars["by_domain/sums/answer_accuracy_clean"] == pytest.approx(np.mean(right))
    assert "by_domain/text/answer_accuracy_clean" not in scalars


def test_where_no_document_has_an_answer_it_is_absent(model: torch.nn.Module, data: dict[str, Domain]) -> None:
    found = analyze(model, data, measure=["dnll"], bootstrap=20)
    assert not any(key.startswith("by_domain/text/") and "answer_accuracy" in key for key in found)
    plain = analyze(model, {"text": data["text"]}, measure=["dnll"], bootstrap=20)
    assert not any("answer_accuracy" in key for key in [*plain, *plain.info["scalars"]])


@pytest.mark.parametrize("family", ["gemma2", "gpt_neox"])
def test_other_families_agree_with_a_bypassed_layer(family: str) -> None:
    model, generator = tiny(family), torch.Generator().manual_seed(5)
    prompts = [torch.randint(3, 97, (2 + n % 4,), generator=generator).tolist() for n in range(10)]
    documents = tuple(Document(tuple(greedy(model, p, 1)), answer_start=len(p)) for p in prompts)
    found = analyze(model, {"one": Domain("one", documents, "made here", "h")}, measure=["dnll"], batch_size=3)
    for layer in range(LAYERS):
        right = [survives(without(model, layer, torch.tensor(d.input_ids)), d) for d in documents]
        assert found[KEY][layer] == pytest.approx(np.mean(right)), layer
    assert found.info["scalars"]["answer_accuracy_clean"] == 1


def test_of_equally_likely_tokens_the_lowest_id_is_the_answer() -> None:
    model = tiny("llama")
    prompts = [(5, 9, 11), (4, 7), (8, 30, 2, 6)]
    documents = [Document(tuple(greedy(model, list(prompt), 1)), answer_start=len(prompt)) for prompt in prompts]
    head = model.lm_head.weight.data
    first = [document.input_ids[-1] for document in documents]
    twin = next(token for token in range(max(first) + 1, 97) if token not in first)
    head[twin] = head[first[0]]  # as likely as the first answer, always
    second = Document((*documents[0].input_ids[:-1], twin), answer_start=3)

    def accuracy(*chosen: Document) -> float:
        domain = Domain("one", chosen, "made here", "h")
        return analyze(model, {"one": domain}, measure=["dnll"], bootstrap=0).info["scalars"]["answer_accuracy_clean"]

    assert accuracy(documents[0]) == 1
    assert accuracy(second) == 0
    assert accuracy(documents[0], second) == 0.5

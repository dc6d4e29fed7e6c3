"""Erasure and integrated gradients equal naive readings with one hook in the whole model, one document at a time."""

import numpy as np
import pytest
import torch

import prune.analysis.gradients
import prune.analysis.run
from prune.analysis import analyze
from prune.analysis.clean_pass import CleanPass, Rules
from prune.analysis.gradients import attributions
from prune.analysis.prompts import prompts_of
from prune.data.domains import Document, Domain, batches
from prune.model.anatomy import find_anatomy

from .tiny import left_padded, tiny


def questions() -> dict[str, Domain]:
    """Prompts of 8 to 12 tokens with completions; one prompt too short, and one plain text."""
    generator = torch.Generator().manual_seed(3)
    shapes = [(12, 9), (17, 12), (13, 10), (8, 3), (9, 1), (11, 8)]  # tokens, of which prompt
    documents = [Document(tuple(torch.randint(3, 97, (n,), generator=generator).tolist()), p) for n, p in shapes]
    return {"math": Domain("math", tuple(documents), "made here", "hash")}


def prompt_parts(document: Document, first_token: str) -> list[torch.Tensor]:
    """The positions of each eighth of the prompt; none if it is too short."""
    place = torch.arange(1 if first_token == "keep" else 0, document.answer_start)
    part = torch.arange(len(place)) * 8 // max(1, len(place))
    return [place[part == number] for number in range(8)] if len(place) >= 8 else []


def from_layer(model: torch.nn.Module, document: Document, layer: int, change) -> torch.Tensor:
    """Log-probabilities [counted, V] when `change` acts on the stream [T, d] before a layer."""
    handle = model.model.layers[layer].register_forward_pre_hook(lambda _, args: (change(args[0][0])[None], *args[1:]))
    logits = model(input_ids=torch.tensor([document.input_ids]), use_cache=False).logits[0]
    handle.remove()
    return logits[document.answer_start - 1 : -1].double().log_softmax(-1)


def target(document: Document) -> torch.Tensor:
    return torch.tensor(document.input_ids[document.answer_start :])[:, None]


@torch.no_grad()
def naive_erasure(model: torch.nn.Module, documents: tuple[Document, ...], first_token: str) -> dict[str, np.ndarray]:
    sums, count = {"kl": torch.zeros(6, 8).double(), "dnll": torch.zeros(6, 8).double()}, 0
    for document in documents:
        parts = prompt_parts(document, first_token)
        if not parts:
            continue
        prompt, wanted = torch.cat(parts), target(document)
        p = from_layer(model, document, 0, lambda stream: stream)
        count += len(wanted)
        for layer in range(6):
            for number, positions in enumerate(parts):

                def erase(stream, positions=positions, prompt=prompt):
                    stream = stream.clone()
                    stream[positions] = stream[prompt].mean(0)
                    return stream

                q = from_layer(model, document, layer, erase)
                sums["kl"][layer, number] += (p.exp() * (p - q)).sum()
                sums["dnll"][layer, number] += (p - q).gather(1, wanted).sum()
    return {f"erasure/{kind}": (value / count).numpy() for kind, value in sums.items()}


@pytest.mark.parametrize(("family", "side", "batch_size", "first_token"), [
    ("llama", "right", 1, "drop"), ("llama", "left", 7, "drop"), ("qwen3", "right", 7, "keep"),
])  # fmt: skip
def test_erasure_equals_the_naive_reading(
    family: str, side: str, batch_size: int, first_token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune.analysis.run, "batches", batches if side == "right" else left_padded)
    model, data = tiny(family), questions()
    analysis = analyze(model, data, measure=["erasure"], batch_size=batch_size, first_token=first_token, bootstrap=50)
    for key, value in naive_erasure(model, data["math"].documents, first_token).items():
        np.testing.assert_allclose(analysis[key], value, atol=2e-5, rtol=1e-4, err_msg=key)
        assert analysis[f"{key}.lo"].shape == (6, 8)
    absent = 2 if first_token == "drop" else 3
    assert any(f"{absent} of 6 documents have no prompt" in line for line in analysis.info["warnings"])


def naive_gradients(model: torch.nn.Module, document: Document, layer: int, steps: int) -> tuple[torch.Tensor, float]:
    """Integrated gradients [T], and the difference of log-likelihood between the ends of the path."""
    seen: list[torch.Tensor] = []
    prompt, wanted = torch.arange(document.answer_start), target(document)

    def likelihood(change) -> torch.Tensor:
        return from_layer(model, document, layer, change).gather(1, wanted).sum()

    with torch.no_grad():
        end = likelihood(lambda stream: seen.append(stream) or stream)
    start = seen[0].clone()
    start[prompt] = start[prompt].mean(0)
    total = torch.zeros_like(start)
    for step in range(steps):
        point = (start + (step + 0.5) / steps * (seen[0] - start)).requires_grad_()
        total += torch.autograd.grad(likelihood(lambda _, point=point: point), point)[0]
    with torch.no_grad():
        difference = float(end - likelihood(lambda _: start))
    return ((seen[0] - start) * total / steps).sum(-1), difference


@pytest.mark.parametrize("at_once", [1, 6, 10**6])
def test_integrated_gradients_equal_the_naive_reading_and_sum_to_the_difference(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune.analysis.gradients, "points_at_once", lambda clean, layer: at_once)
    model, data = tiny("llama"), questions()
    documents = [d for d in data["math"].documents if prompt_parts(d, "drop")]
    batch = left_padded(tuple(documents), 8)[0]
    clean = CleanPass(model, find_anatomy(model), batch, None, Rules())
    shares = analyze(model, data, measure=["integrated_gradients"], bootstrap=0)["integrated_gradients/share"]
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-5)
    expected = np.zeros((6, 8))
    for layer in range(6):
        found = attributions(clean, prompts_of(clean), layer)
        for row, place in enumerate(batch.index):
            naive, _ = naive_gradients(model, documents[place], layer, steps=16)
            real = found[row][batch.attention_mask[row].bool()]
            np.testing.assert_allclose(real, naive, atol=2e-5, rtol=1e-3)
            parts = torch.stack([naive[positions].abs().sum() for positions in prompt_parts(documents[place], "drop")])
            expected[layer] += (parts / parts.sum()).numpy() / len(documents)
    np.testing.assert_allclose(shares, expected, atol=2e-5, rtol=1e-3)
    fine = attributions(clean, prompts_of(clean), 2, steps=200).sum(1)
    for row, place in enumerate(batch.index):
        assert fine[row] == pytest.approx(naive_gradients(model, documents[place], 2, 1)[1], abs=2e-3)


def test_plain_text_has_no_prompt_so_the_keys_are_absent_and_the_reason_is_given() -> None:
    text = Domain("text", (Document(tuple(range(3, 20))), Document(tuple(range(5, 30)))), "made here", "hash")
    analysis = analyze(tiny("llama"), {"text": text}, measure=["prompts"], bootstrap=0)
    assert not [key for key in analysis.measurements if "erasure" in key or "gradients" in key]
    assert any("text: 2 of 2 documents have no prompt" in line for line in analysis.info["warnings"])

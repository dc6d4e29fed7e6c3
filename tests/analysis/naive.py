"""The formulas of the default measurements, read literally: one document at a time, plain hooks, no shared passes."""

from __future__ import annotations

import math

import numpy as np
import torch

from prune.data.domains import Document

Figures = dict[str, np.ndarray]


def forward(model: torch.nn.Module, ids: torch.Tensor) -> tuple[torch.Tensor, list[dict[str, torch.Tensor]]]:
    """Logits [T, V], and what each layer, attention and MLP saw and returned, [T, d]."""
    seen: list[dict[str, torch.Tensor]] = []
    handles = []
    stack = model.gpt_neox.layers if hasattr(model, "gpt_neox") else model.model.layers
    for layer in stack:
        values: dict[str, torch.Tensor] = {}
        seen.append(values)

        def on_layer(_, args, output, values=values):
            values["pre"], values["post"] = args[0][0], (output[0] if isinstance(output, tuple) else output)[0]

        def on_part(name, values):
            def hook(_, args, output):
                values[name] = (output[0] if isinstance(output, tuple) else output)[0]

            return hook

        handles.append(layer.register_forward_hook(on_layer))
        attention = getattr(layer, "self_attn", None) or layer.attention
        mlp = layer.mlp
        if hasattr(layer, "post_feedforward_layernorm"):  # Gemma 2: what is added is what the norms return
            attention, mlp = layer.post_attention_layernorm, layer.post_feedforward_layernorm
        handles += [attention.register_forward_hook(on_part("attn", values)),
                    mlp.register_forward_hook(on_part("mlp", values))]  # fmt: skip
    try:
        with torch.no_grad():
            logits = model(input_ids=ids[None], use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    return logits, seen


def without(model: torch.nn.Module, skipped: int, ids: torch.Tensor) -> torch.Tensor:
    """Logits when one layer hands its input through."""
    stack = model.gpt_neox.layers if hasattr(model, "gpt_neox") else model.model.layers
    bypass = stack[skipped].register_forward_hook(
        lambda _, args, output: (args[0], *output[1:]) if isinstance(output, tuple) else args[0]
    )
    try:
        with torch.no_grad():
            return model(input_ids=ids[None], use_cache=False).logits[0]
    finally:
        bypass.remove()


def cos(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cosine_similarity(a, b, dim=-1)


def naive(model: torch.nn.Module, documents: tuple[Document, ...]) -> Figures:
    """The formulas of prune/analysis/README.md: mean over the tokens of all documents."""
    tokens: dict[str, list[torch.Tensor]] = {}  # key -> per document [n, ...]
    streams, added = [], []
    scale = getattr(model.config, "residual_multiplier", 1.0)
    for document in documents:
        logits, seen = forward(model, torch.tensor(document.input_ids))
        found = contributions(model, seen, scale) | lens(model, seen, logits) | angular(seen)
        found |= output_effects(model, document, logits, len(seen))
        for key, value in found.items():
            tokens.setdefault(key, []).append(value)
        streams.append(torch.stack(resid(seen), 1).double())
        added.append(torch.stack([scale * layer["attn"] + scale * layer["mlp"] for layer in seen], 1).double())
    joined = {key: torch.cat(values).double() for key, values in tokens.items()}
    figures = {k: (v.amax(0) if k.endswith("l2_max") else v.mean(0)).numpy() for k, v in joined.items()}
    return figures | width(torch.cat(streams), torch.cat(added))


def resid(seen: list[dict[str, torch.Tensor]]) -> list[torch.Tensor]:
    """The stream at every depth, L+1 times [T, d]."""
    return [layer["pre"] for layer in seen] + [seen[-1]["post"]]


def contributions(model: torch.nn.Module, seen: list[dict[str, torch.Tensor]], scale: float) -> dict[str, torch.Tensor]:
    """Size and direction of what each layer adds, [T, L], and its share of the final stream, [T, L+1]."""
    rows: dict[str, list[torch.Tensor]] = {}
    final = seen[-1]["post"]
    shares = [(seen[0]["pre"] * final).sum(-1) / final.norm(dim=-1) ** 2]
    for layer in seen:
        pre, post, attn, mlp = layer["pre"], layer["post"], scale * layer["attn"], scale * layer["mlp"]
        mid = pre if hasattr(model, "gpt_neox") else pre + attn  # GPT-NeoX is parallel
        torch.testing.assert_close(pre + attn + mlp, post, atol=1e-4, rtol=1e-4)
        for name, part, base in (("attn", attn, pre), ("mlp", mlp, mid), ("layer", post - pre, pre)):
            rows.setdefault(f"relative_contribution/{name}", []).append(part.norm(dim=-1) / base.norm(dim=-1))
            rows.setdefault(f"contribution_cosine/{name}", []).append(cos(part, base))
        rows.setdefault("block_influence", []).append(1 - cos(pre, post))
        rows.setdefault("final_cosine/layer", []).append(cos(post - pre, final))
        shares.append(((post - pre) * final).sum(-1) / final.norm(dim=-1) ** 2)
    found = {key: torch.stack(values, 1) for key, values in rows.items()}
    later = {k: v[1:] for k, v in found.items() if k.startswith(("relative", "contribution"))}
    return (
        found
        | {f"{key}/without_first": value for key, value in later.items()}
        | {"final_share": torch.stack(shares, 1)}
    )


def lens(model: torch.nn.Module, seen: list[dict[str, torch.Tensor]], logits: torch.Tensor) -> dict[str, torch.Tensor]:
    """[T, L+1]: how far the head on each stream is from the final prediction."""
    end = logits.double().log_softmax(-1)
    kl, top5 = [], []
    for stream in resid(seen):
        early = head(model, stream).double().log_softmax(-1)
        pairs = zip(early.topk(5).indices.tolist(), end.topk(5).indices.tolist(), strict=True)
        top5.append(torch.tensor([len(set(a) & set(b)) / 5 for a, b in pairs]))
        kl.append((early.exp() * (early - end)).sum(-1))
    return {"lens/kl": torch.stack(kl, 1), "lens/top5": torch.stack(top5, 1)}


def angular(seen: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """[T, L+1, L+1] and [1, L+1, L+1]: the angle between any two streams over pi, at all tokens and at the last."""
    streams = [stream.double() for stream in resid(seen)]
    triangle = torch.zeros(len(streams[0]), len(streams), len(streams))
    for i, a in enumerate(streams):
        for j in range(i + 1, len(streams)):
            triangle[:, i, j] = torch.arccos(cos(a, streams[j]).clamp(-1, 1)) / math.pi
    return {"angular_distance/all": triangle, "angular_distance/last": triangle[-1:]}


def output_effects(
    model: torch.nn.Module, document: Document, logits: torch.Tensor, layers: int
) -> dict[str, torch.Tensor]:
    """[n, L] over the counted tokens: each layer left out in a pass of its own; and their loss, [n]."""
    ids = torch.tensor(document.input_ids)
    where = torch.arange(document.answer_start - 1, len(ids) - 1)
    target = ids[where + 1][:, None]
    log_p = logits[where].double().log_softmax(-1)
    effects: dict[str, list[torch.Tensor]] = {}
    answers = []
    for skipped in range(layers):
        altered = without(model, skipped, ids)[where]
        answers.append((altered.argmax(-1) == target[:, 0]).all())
        log_q = altered.double().log_softmax(-1)
        distance = (log_p.exp() - log_q.exp()).norm(dim=-1)
        for key, value in {
            "dnll": (log_p - log_q).gather(1, target)[:, 0], "kl": (log_p.exp() * (log_p - log_q)).sum(-1),
            "l2_mean": distance, "l2_max": distance,
            "top1": (log_p.argmax(-1) == log_q.argmax(-1)).double(),
        }.items():  # fmt: skip
            effects.setdefault(f"output_effect/{key}", []).append(value)
    found = {key: torch.stack(values, 1) for key, values in effects.items()}
    found["nll"] = -log_p.gather(1, target)[:, 0]
    if document.answer_start > 1:  # one figure a document
        found["output_effect/answer_accuracy"] = torch.stack(answers)[None]
        found["answer_accuracy_clean"] = (logits[where].argmax(-1) == target[:, 0]).all()[None]
    return found


def head(model: torch.nn.Module, stream: torch.Tensor) -> torch.Tensor:
    """Logits [T, V] of a stream [T, d] after the last layer, as each family's own forward pass makes them."""
    with torch.no_grad():
        if hasattr(model, "gpt_neox"):
            return model.get_output_embeddings()(model.gpt_neox.final_layer_norm(stream))
        logits = model.lm_head(model.model.norm(stream)) / getattr(model.config, "logits_scaling", 1.0)
        cap = getattr(model.config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap


def width(streams: torch.Tensor, added: torch.Tensor) -> Figures:
    """Spectra of the covariance matrices themselves: streams [n, L+1, d], added [n, L, d], float64."""
    rows: dict[str, list] = {}
    for depth in range(streams.shape[1]):
        values, vectors = torch.linalg.eigh(torch.cov(streams[:, depth].T, correction=0))
        values, vectors = values.flip(0), vectors.flip(1)
        rows.setdefault("participation_ratio", []).append(values.sum() ** 2 / (values**2).sum())
        rows.setdefault("stable_rank", []).append(values.sum() / values[0])
        rows.setdefault("top_share", []).append([values[:k].sum() / values.sum() for k in (1, 4, 16)])
        if depth < added.shape[1]:
            held = int((values.cumsum(0) / values.sum() < 0.99).sum()) + 1
            outside = added[:, depth] - added[:, depth] @ vectors[:, :held] @ vectors[:, :held].T
            rows.setdefault("new_share", []).append((outside**2).sum() / (added[:, depth] ** 2).sum())
    return {f"width/{key}": np.array(values, dtype=np.float64) for key, values in rows.items()}

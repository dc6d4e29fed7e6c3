"""Which tensors on disk are decoder layers: prefixes, stacks beside the decoder, layers beyond the depth."""

from __future__ import annotations

import pytest

from prune.errors import PruneError
from prune.surgery.names import find_prefix, move_shared, rename_tensors

N, NEW = 4, {0: 0, 2: 1, 3: 2}


def stack(prefix: str, n: int = N) -> list[str]:
    return [f"{prefix}{i}.w" for i in range(n)]


@pytest.mark.parametrize(
    ("names", "prefix"),
    [
        (stack("model.layers."), "model.layers."),
        (stack("h."), "h."),  # a base model saved without its head
        (stack("cpmant.encoder.layers."), "cpmant.encoder.layers."),
        (
            stack("language_model.model.layers.") + stack("vision_tower.encoder.layers.", 9),
            "language_model.model.layers.",
        ),
        (stack("model.layers.") + stack("model.encoder.layers."), "model.layers."),
        (stack("backbone.layers.") + stack("mtp.layers."), "backbone.layers."),
    ],
)
def test_the_decoders_prefix_is_found(names: list[str], prefix: str) -> None:
    assert find_prefix(names, N) == prefix


def test_too_few_layers_and_two_stacks_are_refused() -> None:
    with pytest.raises(PruneError, match="disagree"):
        find_prefix(stack("model.layers.", 3), N)
    with pytest.raises(PruneError, match="several stacks"):
        find_prefix(stack("a.layers.") + stack("b.layers."), N)


def test_only_the_first_number_under_the_prefix_is_rewritten() -> None:
    names = ["model.layers.2.experts.2.w", "model.layers.1.w", "model.embed.w", "vision.layers.2.w"]
    renamed = rename_tensors(names, "model.layers.", N, NEW, 0)
    assert renamed == {
        "model.layers.2.experts.2.w": "model.layers.1.experts.2.w", "model.embed.w": "model.embed.w",
        "vision.layers.2.w": "vision.layers.2.w",
    }  # fmt: skip


def test_layers_that_predict_further_tokens_go_and_unannounced_ones_are_refused() -> None:
    names = [*stack("model.layers.", 5), "mtp.fc.w"]
    assert set(rename_tensors(names, "model.layers.", N, NEW, 1)) == {
        "model.layers.0.w",
        "model.layers.2.w",
        "model.layers.3.w",
    }
    with pytest.raises(PruneError, match="disagree"):
        rename_tensors(names, "model.layers.", N, NEW, 0)


def test_a_shared_block_moves_to_the_first_layer_that_stays_and_uses_it() -> None:
    names = [f"model.layers.{i}.mamba.weight" for i in range(5)]
    names += [f"model.layers.{i}.linear.weight" for i in (1, 3, 4)] + ["model.layers.1.shared_transf.mlp.weight"]
    new_index = {0: 0, 2: 1, 3: 2, 4: 3}
    renamed = rename_tensors(names, "model.layers.", 5, new_index, 0)
    move_shared(renamed, names, "model.layers.", new_index, "llama")
    assert "model.layers.1.shared_transf.mlp.weight" not in renamed
    move_shared(renamed, names, "model.layers.", new_index, "zamba")
    assert renamed["model.layers.1.shared_transf.mlp.weight"] == "model.layers.2.shared_transf.mlp.weight"
    assert len(set(renamed.values())) == len(renamed) == 4 + 2 + 1
    copies = [*names, "model.layers.3.shared_transf.mlp.weight"]  # a checkpoint that stores every layer's copy
    renamed = rename_tensors(copies, "model.layers.", 5, new_index, 0)
    move_shared(renamed, copies, "model.layers.", new_index, "zamba")
    assert "model.layers.1.shared_transf.mlp.weight" not in renamed

"""Captions say what their arrays say."""

import pytest

from prune.reporting import captions, figures
from prune.reporting.data import AnalysisView
from prune.wording.text import Text

from .sample import sample_report

TEXT = Text()


def view(**arrays: list) -> AnalysisView:
    named = {key.replace("__", "/"): value for key, value in arrays.items()}
    return AnalysisView(num_layers=4, arrays=named)


def test_quiet_layers_are_those_far_below_the_median() -> None:
    said = captions.contribution(
        view(relative_contribution__layer=[1.0, 0.2, 0.3, 1.0], output_effect__dnll=[2.0, 0.01, 0.05, 1.0]), TEXT
    )
    assert said.startswith("Layers 1–2 write little")
    assert "at most 0.05 nats" in said


def test_even_layers_are_called_even() -> None:
    assert captions.contribution(view(relative_contribution__layer=[1.0, 0.9, 1.0, 1.1]), TEXT).startswith("No layer")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ([0.2] * 4 + [-0.1] * 4, "from layer 4 on they write against it"),
        ([-0.2] * 4 + [0.1] * 4, "from layer 4 on they write along it"),
        ([0.2, 0.1, 0.1, 0.2], "none erases"),
        ([-0.2, -0.1, -0.1, -0.2], "Every layer writes against"),
        ([0.1, -0.2] * 4, "4 of 8 layers"),
        ([0.1] * 9 + [-0.2], "1 of 10 layers write against the stream, with no lasting change"),
    ],
)
def test_the_cosine_caption_follows_the_sign(row: list[float], words: str) -> None:
    assert words in captions.cosine(view(contribution_cosine__layer=row), TEXT)


def test_the_lens_caption_names_the_depth_from_which_the_distance_stays_small() -> None:
    assert "From depth 3 on" in captions.lens(view(lens__kl=[4.0, 1.0, 3.0, 1.5, 0.0]), TEXT)
    assert "From depth 1 on" in captions.lens(view(lens__kl=[4.0, 2.0, 1.0, 1.5, 0.0]), TEXT)


def test_the_caption_of_shares_names_a_layer_as_the_other_captions_do() -> None:
    said = captions.final(view(final_share=[0.5, 0.05, 0.2, 0.1, 0.15]), TEXT)
    assert "the embedding (depth 0) has 50" in said
    assert "layer 1 has the most, 20" in said


def test_the_triangle_caption_names_the_cheapest_block() -> None:
    square = [[0.0, 0.3, 0.5, 0.6, 0.7], [0, 0.0, 0.2, 0.1, 0.4], [0, 0, 0, 0.2, 0.3], [0, 0, 0, 0, 0.2], [0] * 5]
    said = captions.triangle(AnalysisView(num_layers=4, arrays={"angular_distance/last": square}), TEXT, 2)
    assert "block of 2 is layers 1–2, at 0.1" in said


def test_losses_that_a_logarithmic_axis_cannot_show_are_said_to_lie_at_its_floor() -> None:
    hidden = view(output_effect__dnll=[8.0, -0.02, 0.1, 0.2])
    assert "gains among them, are drawn at 0.001" in captions.loss(hidden, TEXT)
    assert figures.loss_without_layer(hidden, TEXT).layout.yaxis.type == "log"
    large = view(output_effect__dnll=[8.0, -3.0, 0.1, 0.2])  # a gain of three nats must be seen
    assert "are drawn at" not in captions.loss(large, TEXT)
    assert figures.loss_without_layer(large, TEXT).layout.yaxis.type != "log"
    assert "are drawn at" not in captions.loss(view(output_effect__dnll=[8.0, 0.01, 0.1, 0.2]), TEXT)


def test_difficulty_is_shown_by_whichever_effect_was_measured() -> None:
    row = {"levels": {"1": 5.0, "2": 5.2}, "verdict": "cannot tell", "shift": 0.2, "shift_lo": 0.05, "shift_hi": 0.34}
    key = "relative_contribution/layer"
    measured = AnalysisView(
        num_layers=16,
        difficulty={"math": {key: {**row, "relevant_shift": 0.32}}, "big": {"reason": "too many documents"}},
        arrays={"by_domain/math/difficulty": [1.0, 2.0], f"by_domain/math/depth_score/{key}": [5.0, 5.2]},
    )
    said = captions.difficulty(measured, TEXT)
    assert said.startswith("math: cannot tell.")
    assert said.endswith("(+0.05 to +0.34). From 0.32 layers on a shift counts.")
    assert list(figures.depth_by_difficulty(measured, TEXT).data[0].y) == [5.0, 5.2]


def test_nothing_measured_gives_no_sentence() -> None:
    empty = view()
    assert not any((captions.contribution(empty, TEXT), captions.cosine(empty, TEXT), captions.loss(empty, TEXT)))
    assert captions.effect(empty, "skip_effect/layer/mean", "caption_skip", TEXT) == ""


def test_accuracy_captions_name_the_shallowest_passing_depth() -> None:
    data = sample_report()
    assert "passes the gate: 12. Without healing: 14." in captions.accuracy(data, "stories", TEXT)
    assert "No depth below 16" in captions.accuracy(data, "arithmetic", TEXT)


def answers(domain: str, clean: float, kept: list[float]) -> AnalysisView:
    key = "output_effect/answer_accuracy"
    arrays = {key: kept, f"by_domain/{domain}/{key}": kept}
    return AnalysisView(
        num_layers=len(kept), domains=[domain], arrays=arrays,
        scalars={f"by_domain/{domain}/answer_accuracy_clean": clean},
    )  # fmt: skip


def test_a_domain_needs_the_layers_without_which_half_of_its_answers_are_gone() -> None:
    said = captions.domain_needs(answers("math", 0.8, [0.1, 0.39, 0.4, 0.75, 0.76, 0.9]), TEXT)
    assert said.startswith("math needs 0–1: without any one of these, less than 50")
    assert "It does not need 4–5: at least 95" in said
    assert captions.domain_needs(answers("math", 0.8, [0.5, 0.6, 0.7]), TEXT).startswith(
        "No single layer is sure to take half of the answers of math; 0 takes most"
    )
    assert "no answer" in captions.domain_needs(answers("math", 0.0, [0.0, 0.0]), TEXT)


def test_plain_text_is_judged_by_its_next_tokens_beside_a_domain_of_answers_and_not_alone() -> None:
    view = answers("math", 1.0, [0.2, 1.0])
    view.domains.append("text")
    view.arrays["by_domain/text/output_effect/top1"] = [0.4, 0.96]
    said = captions.domain_needs(view, TEXT)
    assert "text needs 0: " in said
    assert "of its next tokens stay. It does not need 1:" in said
    figure = figures.domain_map(view, TEXT)
    assert figure.layout.yaxis.ticktext == ("math (answers)", "text (next tokens)")
    assert [list(row) for row in figure.data[0].z] == [[1.0, 0.2, 1.0], [1.0, 0.4, 0.96]]
    alone = AnalysisView(num_layers=2, domains=["text"], arrays={"by_domain/text/output_effect/top1": [0.4, 0.96]})
    assert captions.domain_needs(alone, TEXT) == ""
    assert figures.domain_map(alone, TEXT) is None


def test_the_map_says_the_interval_where_the_pointer_rests() -> None:
    view = answers("math", 0.5, [0.25, 0.5])
    for end, row in (("lo", [0.2, 0.4]), ("hi", [0.3, 0.6])):
        view.arrays[f"by_domain/math/output_effect/answer_accuracy.{end}"] = row
    ((whole, first, _),) = figures.domain_map(view, TEXT).data[0].customdata
    assert tuple(whole[:2]) == ("math (answers)", "none")
    assert whole[2].startswith("50.0")
    assert tuple(first[:2]) == ("math (answers)", "0")
    assert "20.0" in first[2]
    assert "30.0" in first[2]


def test_a_layer_is_needed_only_where_the_interval_says_so() -> None:
    view = answers("math", 0.8, [0.1, 0.3, 0.8])
    for end, row in (("lo", [0.0, 0.1, 0.7]), ("hi", [0.2, 0.5, 0.9])):
        view.arrays[f"by_domain/math/output_effect/answer_accuracy.{end}"] = row
    assert captions.domain_needs(view, TEXT).startswith("math needs 0: ")

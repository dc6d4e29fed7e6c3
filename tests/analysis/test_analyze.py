"""Every figure of the default analysis equals a naive reading of its formula: one document at a time, plain hooks."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

import prune.analysis.run
from prune.analysis import analyze
from prune.analysis.registry import GROUPS, MEASURES, select
from prune.analysis.result import Analysis
from prune.data.domains import Document, Domain, batches, drowned_answers, load_domain
from prune.errors import PruneError, UsageError
from prune.wording.text import english

from .naive import Figures, naive
from .tiny import FAMILIES, domains, left_padded, stories, tiny

SCALARS = {"nll", "answer_accuracy_clean"}


def assert_close(analysis: Analysis, expected: Figures, prefix: str = "") -> None:
    keys = {key.removeprefix(prefix) for key in analysis.measurements if key.startswith(prefix)}
    plain = {key for key in keys if not key.endswith((".lo", ".hi")) and (prefix or not key.startswith("by_domain/"))}
    assert plain == set(expected) - SCALARS
    for key, value in expected.items():
        found = analysis.info["scalars"][prefix + key] if key in SCALARS else analysis[prefix + key]
        np.testing.assert_allclose(found, value, atol=2e-5, rtol=1e-4, err_msg=prefix + key)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_figure_equals_the_naive_reading(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = tiny(family), domains()
    pooled = naive(model, data["general"].documents + data["math"].documents)
    math_only = naive(model, data["math"].documents)
    for side in ("right", "left"):
        monkeypatch.setattr(prune.analysis.run, "batches", batches if side == "right" else left_padded)
        for batch_size in (1, 7):
            analysis = analyze(model, data, batch_size=batch_size, bootstrap=10)
            assert_close(analysis, pooled)
            assert_close(analysis, math_only, "by_domain/math/")


def test_a_block_that_starts_at_layer_0_is_in_the_triangle() -> None:
    analysis = analyze(tiny("llama"), domains(), measure=["angular"], bootstrap=0)
    for key in ("angular_distance/last", "angular_distance/all"):
        triangle = analysis[key]
        assert (triangle[0, 1:] > 0).all()
        assert (np.tril(triangle) == 0).all()


def test_the_last_stream_is_taken_before_the_final_norm() -> None:
    model, data = tiny("llama"), domains()
    before = analyze(model, data, measure=["contributions"], bootstrap=0)
    model.model.norm.weight.data = torch.rand(32)  # would turn the normed stream
    after = analyze(model, data, measure=["contributions"], bootstrap=0)
    np.testing.assert_array_equal(before["block_influence"], after["block_influence"])


def test_shares_of_the_final_stream_sum_to_one() -> None:
    for family in FAMILIES:
        share = analyze(tiny(family), domains(), measure=["contributions"], bootstrap=0)["final_share"]
        assert share.shape == (7,)
        assert share.sum() == pytest.approx(1, abs=1e-5)


def test_the_pad_token_changes_nothing_and_the_same_seed_gives_the_same_bits() -> None:
    model, data = tiny("qwen3"), domains()
    first = analyze(model, data, batch_size=3, pad_token_id=0)
    for pad in (0, 5):
        again = analyze(model, data, batch_size=3, pad_token_id=pad)
        assert first.measurements.keys() == again.measurements.keys()
        for key, value in first.measurements.items():
            np.testing.assert_array_equal(value, again[key], err_msg=key)
        for key in ("scalars", "stability", "phase_changes"):
            assert first.info[key] == again.info[key]


def test_intervals_hold_the_figure_and_one_document_has_none() -> None:
    model, data = tiny("llama"), domains()
    analysis = analyze(model, data, bootstrap=200)
    for key in ("block_influence", "relative_contribution/mlp", "by_domain/general/angular_distance/all"):
        assert (analysis[f"{key}.lo"] <= analysis[key]).all()
        assert (analysis[key] <= analysis[f"{key}.hi"]).all()
    alone = {"one": Domain("one", data["math"].documents[:1], "made here", "hash")}
    assert not any(key.endswith((".lo", ".hi")) for key in analyze(model, alone).measurements)


def test_keeping_the_first_token_never_skips_position_0() -> None:
    model = tiny("llama")
    pair = Domain("pair", (Document((5, 6)), Document((7, 8))), "made here", "hash")  # only position 0 predicts
    kept = analyze(model, {"pair": pair}, measure=["dnll"], first_token="keep", bootstrap=0)
    np.testing.assert_allclose(kept["output_effect/kl"], 0, atol=1e-6)
    dropped = analyze(model, {"pair": pair}, measure=["dnll"], bootstrap=0)
    assert (dropped["output_effect/kl"] > 1e-4).all()


def test_what_was_asked_for_and_nothing_else_is_measured() -> None:
    analysis = analyze(tiny("llama"), domains(), measure=["angular"], bootstrap=0)
    assert {key for key in analysis.measurements if not key.startswith("by_domain/")} == {
        "angular_distance/last", "angular_distance/all",
    }  # fmt: skip
    assert "nll" not in analysis.info["scalars"]


def test_a_result_survives_the_disk(tmp_path: Path) -> None:
    analysis = analyze(tiny("llama"), domains(), bootstrap=20, source="tiny")
    analysis.save(tmp_path / "out")
    loaded = Analysis.load(tmp_path / "out")
    assert loaded.info == analysis.info
    assert loaded.info["model"] == "tiny"
    np.testing.assert_array_equal(loaded["final_share"], analysis["final_share"])


def test_bad_input_is_an_error_that_names_the_cure() -> None:
    model, data = tiny("llama"), domains()
    with pytest.raises(UsageError, match="did you mean 'angular'"):
        analyze(model, data, measure=["angulr"])
    with pytest.raises(UsageError, match="first_token"):
        analyze(model, data, first_token="maybe")
    with pytest.raises(UsageError, match="cuts 0"):
        analyze(model, data, cuts=0)
    for distances, said in ((), "''"), ((1, 0), "'1,0'"), ((1, 6), "6: the model has 6 layers"):
        with pytest.raises(UsageError, match=f"swap_distances {said}"):
            analyze(model, data, measure=["swap"], swap_distances=distances)
    with pytest.raises(UsageError, match="no calibration data"):
        analyze(model, {})
    with pytest.raises(UsageError, match="holds no documents"):
        analyze(model, {"empty": Domain("empty", (), "made here", "hash")})
    model.model.layers[2].mlp.up_proj.weight.data[:] = float("inf")
    with pytest.raises(PruneError, match="non-finite"):
        analyze(model, data)
    del model.model.layers
    model.model.layers = torch.nn.ModuleList()
    with pytest.raises(PruneError, match="no stack of decoder layers"):
        analyze(model, data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"measure": ["skp"]}, "unknown measure 'skp'"),
        ({"measure": []}, "measure is empty"),
        ({"first_token": "maybe"}, "first_token"),
        ({"swap_distances": (0,)}, "swap_distances '0'"),
        ({"measure": ["skip"], "stream": True}, "not with stream"),
    ],
)
def test_wrong_options_are_found_before_the_model_is_loaded(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    (tmp_path / "d.txt").write_text("Once upon a time there was a dog.")
    with pytest.raises(UsageError, match=message):
        prune.analyze("embedded", {"d": str(tmp_path / "d.txt")}, output=tmp_path / "out", dry_run=True, **options)


@pytest.mark.parametrize(
    ("family", "document", "message"),
    [
        ("llama", Document((5,)), "document 1 has fewer than two tokens"),
        ("llama", Document((5, 6, 7), answer_start=3), "answer_start is 3: use 1 to 2"),
        ("llama", Document((5, 97)), "token id 97, the model knows 0 to 96"),
        ("llama", Document((5, -1)), "token id -1"),
        ("gpt_neo", Document((5,) * 65), "65 tokens, the model 64 positions: use seq_length"),
    ],
)
def test_documents_that_the_model_cannot_read_are_refused_before_the_first_pass(
    family: str, document: Document, message: str
) -> None:
    data = {"odd": Domain("odd", (Document((3, 4, 5)), document), "made here", "hash")}
    with pytest.raises(UsageError, match=re.escape("data odd: document 1")) as error:
        analyze(tiny(family), data)
    assert message in str(error.value)


def test_every_valid_name_and_group_is_known_and_unknown_ones_name_the_nearest() -> None:
    assert list(select(["default"])) == ["contributions", "angular", "lens", "width", "dnll"]
    assert set(select(["effects", "angular"])) == {*GROUPS["effects"], "angular"}
    assert set(select(["all"])).isdisjoint(select(["prompts"]))
    assert set(select(["all", "prompts"])) == set(MEASURES)
    with pytest.raises(UsageError, match="did you mean 'future'"):
        select(["futures"])


def test_the_lens_says_how_many_tokens_it_saw_and_what_it_cost() -> None:
    model = tiny("llama")
    data = {"long": Domain("long", (Document((5, 6) * 25), Document((7, 8) * 5)), "made here", "hash")}
    scalars = analyze(model, data, measure=["lens"], bootstrap=0).info["scalars"]
    assert scalars["lens/sampled_share"] == pytest.approx((32 + 10) / 60)
    layers = sum(parameter.numel() for parameter in model.model.layers.parameters())
    assert scalars["lens/relative_cost"] == pytest.approx(42 / 60 * 7 * model.lm_head.weight.numel() / layers)


def test_text_gets_bos_exactly_as_its_tokenizer_adds_it_and_ids_stay_as_they_are(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<s>": 1, "one": 4, "two": 5, "[UNK]": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>")
    rows = [{"text": "one two"}, {"prompt": "one ", "completion": "two"}, {"input_ids": [4, 5, 4]}]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    loaded = load_domain("mixed", str(tmp_path / "data.jsonl"), tokenizer).documents
    assert [document.input_ids for document in loaded] == [(1, 4, 5), (1, 4, 5), (4, 5, 4)]
    assert loaded[1].answer_start == 2
    seen: list[torch.Tensor] = []
    model = tiny("llama")
    model.model.embed_tokens.register_forward_hook(lambda _, args, output: seen.append(args[0]))
    analyze(model, {"mixed": Domain("mixed", loaded, "made here", "hash")}, measure=["angular"], bootstrap=0)
    assert seen[0].tolist() == [[1, 4, 5], [1, 4, 5], [4, 5, 4]]


def test_completions_that_plain_text_hides_are_named_in_the_warnings() -> None:
    text = tuple(Document(document.input_ids) for document in domains()["general"].documents)
    answers = [Document(tuple(range(3, 15)), answer_start=11)] * 3
    mixed = Domain("mixed", (*text, *answers), "made here", "hash")
    apart = {"text": Domain("text", text, "made here", "t"), "answers": Domain("answers", tuple(answers), "made", "a")}
    tokens = sum(len(d.input_ids) - 1 for d in text)
    found = analyze(tiny("llama"), {"mixed": mixed}, measure=("angular",), bootstrap=0).info["warnings"]
    assert any(f"mixed: the 3 completions are 3 of the {tokens + 3} tokens" in line for line in found)
    assert english(drowned_answers(mixed)) in found
    assert not any(drowned_answers(domain) for domain in apart.values())
    long = Domain("long", (*text, *[Document((5,) * 100, answer_start=2)] * 3), "made here", "hash")
    assert drowned_answers(long) is None


def test_excluded_documents_are_counted_in_the_warnings() -> None:
    data = {"general": Domain("general", domains()["general"].documents, "made here", "hash", 3, 2)}
    analysis = analyze(tiny("llama"), data, measure=["angular"], bootstrap=0)
    assert any("3 documents were shorter than two tokens" in line for line in analysis.info["warnings"])
    assert any("the prompts of 2 documents fill seq_length" in line for line in analysis.info["warnings"])


def test_a_prompt_that_fills_the_length_is_not_called_short(tmp_path: Path, demo_model: Path) -> None:
    rows = [{"prompt": "one two three four five six", "completion": " 7"}, {"prompt": "a", "completion": " b"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = AutoTokenizer.from_pretrained(demo_model)
    length = len(tokenizer(rows[0]["prompt"])["input_ids"])
    domain = load_domain("math", str(tmp_path / "rows.jsonl"), tokenizer, seq_length=length)
    assert (len(domain.documents), domain.excluded, domain.unanswered) == (1, 0, 1)


def test_inserted_layers_come_first_in_every_ranking() -> None:
    model, data = stories("stories260K-grown15")
    analysis = analyze(model, data, bootstrap=0)
    rankings = {key: np.argsort(analysis[key], kind="stable")[:10] for key in ("block_influence", "output_effect/dnll",
                "output_effect/kl", "relative_contribution/layer")}  # fmt: skip
    rankings["angular"] = np.argsort(np.diagonal(analysis["angular_distance/all"], 1), kind="stable")[:10]
    inserted = {1, 2, 4, 5, 7, 8, 10, 11, 13, 14}
    for key, layers in rankings.items():
        assert set(layers.tolist()) == inserted, key


def test_only_the_first_of_the_split_layers_matters() -> None:
    model, data = stories("stories260K-split16")
    dnll = analyze(model, data, measure=["dnll"], bootstrap=0)["output_effect/dnll"]
    assert dnll[0] >= 2
    assert (dnll[1:] < 0.1).all()

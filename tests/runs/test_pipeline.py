"""The whole path on the embedded model with a small recipe: one run, then everything that is promised about it."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import warnings

import numpy as np
import pytest
import torch
import yaml

import prune
from prune.analysis.result import Analysis
from prune.embedded import HERE, MODEL
from prune.errors import GateFailed, PruneError, UsageError
from prune.packaging.saving import HEALING

from .small import small_recipe


def test_every_promised_file_is_there(finished):
    _, root, result = finished
    expected = ["recipe.yaml", "state.json", "plan.json", "log.txt", "report.html", "report.md", "report.json",
                "analysis/analysis.json", "analysis/measurements.safetensors", "pruned/14/model.safetensors",
                "healed/14/model.safetensors", "evidence/evidence.json", "export/prune_manifest.json",
                "scores.sqlite"]  # fmt: skip
    assert [name for name in expected if not (root / name).is_file()] == []
    assert result.choice.key is not None


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"criterion": "dnl"}, "did you mean 'dnll'"),
        ({"strategy": "gredy"}, "did you mean 'greedy'"),
        ({"protect": list(range(15))}, "plan.protect keeps 15 layers, plan.depths asks for 14"),
        ({"protect": [16]}, "plan.protect: layer 16"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_before_anything_is_measured(tmp_path, plan, message):
    with pytest.raises(UsageError, match=message):
        prune.run(small_recipe(tmp_path, plan=plan), tmp_path / "run", dry_run=True)
    assert not (tmp_path / "run").exists()


def test_planning_again_scores_nothing(finished, tmp_path):
    from prune.runs.directory import RunDirectory
    from prune.runs.inputs import RunInputs
    from prune.runs.recipe import load_recipe
    from prune.runs.stages.candidates import make_plans

    recipe, root, _ = finished
    copy = shutil.copytree(root, tmp_path / "run")
    before = json.loads((copy / "plans/14.json").read_text())
    shutil.rmtree(copy / "plans")  # as after a kill while planning: the scores are there, the plans are not
    with RunDirectory(copy, resume=True) as run:
        make_plans(RunInputs(load_recipe(recipe), copy, resume=True), run, Analysis.load(copy / "analysis"), "any")
    after = json.loads((copy / "plans/14.json").read_text())
    assert before["evaluations"]["layer_evaluations"] > 0
    assert after["evaluations"]["layer_evaluations"] == 0
    assert {**after, "evaluations": None} == {**before, "evaluations": None}


def test_the_cut_equals_the_model_with_those_layers_deleted(finished):
    from prune.model.loading import load_model
    from prune.surgery.loaded import drop_layers

    _, root, _ = finished
    plan = json.loads((root / "plan.json").read_text())
    ids = torch.randint(2, 2000, (3, 24), generator=torch.Generator().manual_seed(0))
    on_disk = load_model(str(root / "pruned/14"))
    in_memory = drop_layers(load_model(str(MODEL)), plan["drop"])
    assert (on_disk(ids).logits - in_memory(ids).logits).abs().max().item() == 0


def test_the_export_loads_without_a_warning_and_generates_with_the_cache_as_without(finished):
    from transformers import AutoModelForCausalLM

    _, root, _ = finished
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, info = AutoModelForCausalLM.from_pretrained(
            root / "export", dtype=torch.float32, output_loading_info=True
        )
    assert [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]] == []
    ids = torch.randint(2, 2000, (2, 9), generator=torch.Generator().manual_seed(1))
    options = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    assert torch.equal(model.generate(ids, **options), model.generate(ids, use_cache=False, **options))


def test_the_exports_config_keeps_the_originals_keys(finished):
    _, root, _ = finished
    before = json.loads((MODEL / "config.json").read_text())
    after = json.loads((root / "export/config.json").read_text())
    assert {k for k in before.keys() | after.keys() if before.get(k) != after.get(k)} <= {
        "num_hidden_layers",
        "layer_types",
        "max_window_layers",
        *("rope_theta", "torch_dtype"),  # what transformers 4 looks for, beside what stands there
    }
    assert list(after) == [*before, *(k for k in after if k not in before)]


def test_the_export_answers_as_the_checkpoint_that_was_evaluated(finished):
    from prune.model.loading import load_model

    _, root, result = finished
    ids = torch.randint(2, 2000, (2, 16), generator=torch.Generator().manual_seed(2))
    judged = load_model(str(root / result.choice.key.stage / "14"))
    exported = load_model(str(root / "export"))
    assert torch.equal(judged(ids).logits, exported(ids).logits)


def test_verify_passes_and_f36_finds_one_flipped_byte(finished, tmp_path):
    _, root, _ = finished
    # Recorded logits are rounded to six decimals.
    assert prune.verify(root / "export")["largest_relative_logit_difference"] < 1e-6
    copy = tmp_path / "copy"
    shutil.copytree(root / "export", copy)
    raw = bytearray((copy / "model.safetensors").read_bytes())
    raw[-5] ^= 1
    (copy / "model.safetensors").write_bytes(raw)
    with pytest.raises(PruneError, match=r"model\.safetensors was changed"):
        prune.verify(copy)


def test_the_manifest_says_what_was_done(finished):
    _, root, result = finished
    manifest = json.loads((root / "export/prune_manifest.json").read_text())
    assert manifest["plan"]["drop"] == json.loads((root / "plan.json").read_text())["drop"]
    assert {"source", "source_sha256", "data", "seed", "versions", "files", "evidence", "overrides"} <= set(manifest)
    assert manifest["label"] == result.choice.label
    assert not (root / "export" / HEALING).exists()
    assert str(root) not in json.dumps(manifest)
    assert str(HERE) not in json.dumps(manifest)
    assert str(HERE) not in (root / "plan.json").read_text()


def test_where_no_candidate_passes_the_shallowest_is_tried_as_a_draft(finished):
    _, root, _ = finished
    drafts = json.loads((root / "evidence/drafts.json").read_text())
    assert (drafts["num_layers"], drafts["stage"]) == (14, "healed")
    assert {"math"} <= set(drafts["suites"]) <= {"math", "general"}  # a dozen story questions may not decide
    assert drafts["suites"]["math"]["identical"] == drafts["suites"]["math"]["prompts"] == 3
    manifest = json.loads((root / "export/prune_manifest.json").read_text())
    classes = {row["suite"]: row for row in manifest["task_classes"]}
    passing = {name for name in classes if classes[name]["recommendation"] in ("use shallow", "heal first")}
    assert passing == set(classes) - set(drafts["suites"])
    assert classes["math"]["recommendation"] in ("keep deep", "shallow as draft")
    assert "3 of 3 outputs identical" in classes["math"]["reason"]
    report = json.loads((root / "report.json").read_text())
    assert [row["suite"] for row in report["drafts"]] == list(drafts["suites"])


def test_the_cards_snippet_for_a_draft_runs_and_gives_the_originals_answer(finished, capsys):
    _, root, _ = finished
    card = (root / "export/README.md").read_text(encoding="utf8")
    (code,) = [
        block for block in re.findall(r"```python\n(.*?)```", card, re.DOTALL) if "assistant_model=draft" in block
    ]
    code = code.replace("THE_ORIGINAL", str(MODEL)).replace("THIS_CHECKPOINT", str(root / "healed/14"))
    exec(code.replace("Your prompt", r"Question: What is 12 plus 13?\nAnswer:"))  # the user's own way: paste and run
    assert capsys.readouterr().out.strip().endswith("25<|endoftext|>")


def test_a_second_run_gives_the_same_plan_and_measurements(finished, tmp_path):
    recipe, root, _ = finished
    pruneable = yaml.safe_load(recipe.read_text())
    pruneable["heal"]["enabled"] = False
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(pruneable))
    prune.run(again, tmp_path / "run")
    assert (tmp_path / "run/plan.json").read_bytes() == (root / "plan.json").read_bytes()
    first, second = Analysis.load(root / "analysis"), Analysis.load(tmp_path / "run/analysis")
    assert first.measurements.keys() == second.measurements.keys()
    for key, value in first.measurements.items():
        np.testing.assert_array_equal(value, second.measurements[key], err_msg=key)


def test_without_evidence_only_what_depends_on_it_is_redone(finished):
    recipe, root, _ = finished
    shutil.rmtree(root / "evidence")
    result = prune.run(recipe, root, resume=True)
    redone = {"eval-original", "eval-pruned-14", "eval-healed-14", "gate", "draft", "cost"}
    assert redone <= set(result.redone) <= redone | {"export"}
    assert set(result.kept) >= {"analyze", "plan", "cut-14", "heal-14"}


def test_a_plan_on_a_runs_analysis_reads_what_the_run_read(finished, tmp_path):
    recipe, root, _ = finished
    weights = yaml.safe_load(recipe.read_text())["plan"]["domain_weights"]
    found = prune.plan(root / "analysis", output=tmp_path / "plan.json", num_layers=14, domain_weights=weights)
    assert found.keep == json.loads((root / "plan.json").read_text())["keep"]
    # The same model and documents: the run's own scores answer, but for exchanges that a search of its depths left out.
    empty = {"score_cache": tmp_path / "empty.sqlite", "domain_weights": weights}
    anew = prune.plan(root / "analysis", output=tmp_path / "anew.json", num_layers=14, **empty)
    assert anew.keep == found.keep
    assert found.evaluations["layer_evaluations"] < anew.evaluations["layer_evaluations"] / 2


def test_analysis_keys_and_shapes_follow_the_contract(finished):
    _, root, _ = finished
    analysis = Analysis.load(root / "analysis")
    layers = 16
    shapes = {
        **{f"relative_contribution/{p}": (layers,) for p in ("attn", "mlp", "layer")},
        **{f"contribution_cosine/{p}": (layers,) for p in ("attn", "mlp", "layer")},
        "final_cosine/layer": (layers,),
        "final_share": (layers + 1,),
        "block_influence": (layers,),
        "angular_distance/last": (layers + 1, layers + 1),
        "angular_distance/all": (layers + 1, layers + 1),
        "output_effect/dnll": (layers,),
    }
    for key, shape in shapes.items():
        assert analysis[key].shape == shape, key
        assert analysis.of_domain(key, "stories").shape == shape, key
        assert (analysis[f"{key}.lo"] <= analysis[f"{key}.hi"]).all(), key


def test_a_depth_that_is_no_cut_is_refused(tmp_path):
    recipe = small_recipe(tmp_path, plan={"depths": [16]})
    with pytest.raises(UsageError, match="16 is not below the 16 layers"):
        prune.run(recipe, tmp_path / "run", dry_run=True)
    assert not (tmp_path / "run").exists()


def test_a_dry_run_says_what_it_will_take_and_what_would_fit_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("evals.fitted.free_memory", lambda device: 150_000_000)
    recipe = small_recipe(tmp_path, heal={"per_device_train_batch_size": 64})
    found = prune.run(recipe, tmp_path / "run", dry_run=True)
    assert found["num_layers"] == 16
    assert any("gate" in line for line in found["gate_power"])
    assert not (tmp_path / "run").exists()
    stages = {stage["stage"]: stage for stage in found["estimate"]["stages"]}
    assert list(stages) == ["analyze", "plan", "cut to 14", "heal 14", "eval", "cost", "export"]
    assert stages["analyze"]["forward_passes"] == 1 + 15 / 2  # L - 1 removals, half of the layers each
    assert stages["heal 14"]["tokens"] == 3 * 64 * 160
    assert 0 < stages["cut to 14"]["disk_bytes"] < (MODEL / "model.safetensors").stat().st_size
    warned = found["estimate"]["warnings"]
    assert any("heal 14 needs about" in said and "heal.gradient_checkpointing: true" in said for said in warned)
    assert any(re.search(r"analyze needs about .* analyze.batch_size: \d+ would take", said) for said in warned)


@pytest.mark.slow
def test_a_recipe_that_compensates_judges_the_compensated_weights(tmp_path):
    from safetensors.torch import load_file

    # A quarter of the documents judges: enough of them that a map which helps is seen to help.
    data = {"domains": {"arithmetic": str(HERE / "data/calibration/arithmetic.jsonl")}, "calib_num_samples": 48}
    plan = {"compensate": "linear", "depths": [12], "domain_weights": {}}
    recipe = small_recipe(tmp_path, data=data, plan=plan, heal={"enabled": False})
    with contextlib.suppress(GateFailed):
        prune.run(recipe, tmp_path / "run")
    record = json.loads((tmp_path / "run/plan.json").read_text())["compensation"]
    assert record["kept"], record
    new = load_file(tmp_path / "run" / record["file"])
    prune.cut(str(MODEL), tmp_path / "again", plan=tmp_path / "run/plan.json", verify=False)
    judged, again = (load_file(path / "model.safetensors") for path in (tmp_path / "run/pruned/12", tmp_path / "again"))
    assert all(torch.equal(judged[name], again[name]) for name in judged)
    assert all(any(torch.equal(value, other) for other in judged.values()) for value in new.values())

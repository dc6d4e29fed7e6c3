"""Healing from end to end on a tiny model: every method heals, is merged, and is measured again after the merge."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file

from prune.data.domains import Document
from prune.errors import PruneError, UsageError
from prune.healing.data import Collator, split_domains
from prune.healing.heal import heal
from prune.healing.held_out import held_out_loss
from prune.healing.methods import attach, trained_parameters
from prune.healing.objective import batch_losses

from . import tiny

FOREIGN = replace(tiny.domain(), documents=(Document((1, 2, 3)), Document((1, 64, 3))))
METHODS = ["lora", "dora", "qlora", "full"]
TERMS = {
    "next_token": {"next_token_weight": 1, "distill_weight": 0},
    "distill": {"next_token_weight": 0, "distill_weight": 1, "temperature": 2.0},
    "entropy": {"next_token_weight": 0, "distill_weight": 0, "entropy_weight": 1},
    "residual": {"next_token_weight": 0, "distill_weight": 0, "residual_weight": 1},
}


def run(tmp_path, settings, *, domains=None, original=None, **options):
    original = original or tiny.teacher()
    domains = {"general": tiny.domain()} if domains is None else domains
    return heal(tiny.student(original), original, domains, settings, output_dir=tmp_path, **options)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_lowers_the_held_out_loss_of_the_merged_model(tmp_path, method):
    settings = tiny.settings(method=method, max_steps=12, next_token_weight=1, distill_weight=0)
    result = run(tmp_path, settings)
    assert result.held_out_after < result.held_out_before - 0.1
    assert not any("lora" in name for name, _ in result.model.named_parameters())
    domains = {"general": tiny.domain()}
    split = split_domains(domains, max_length=32, eval_fraction=0.2, eval_max_documents=64, seed=0)
    again = held_out_loss(result.model, result.model.get_output_embeddings(), split, settings, 0)
    assert again.loss == result.held_out_after
    if method != "qlora":
        assert result.held_out_after == pytest.approx(result.held_out_adapted, abs=1e-5)
    json.dumps(result.as_dict(), allow_nan=False)


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("method", METHODS)
def test_every_term_reaches_the_trained_weights_and_one_step_lowers_it(method, term):
    original = tiny.teacher()
    settings = tiny.settings(method=method, **TERMS[term])
    matches = [(1, 1), (2, 2), (3, 4), (4, 6)]
    inputs = Collator(0, packing=False)([[d] for d in tiny.domain().documents[:4]])
    model = attach(tiny.student(original), settings).eval()

    def loss():
        head = model.get_output_embeddings()
        return batch_losses(model, inputs, settings, head=head, teacher=original, matches=matches).total

    before = loss()
    before.backward()
    gradients = {n: p.grad for n, p in trained_parameters(model).items()}
    # LoRA's A is multiplied by B, which starts at zero; the head does not touch the residual stream.
    expected = [n for n in gradients if "lora_A" not in n and not (term == "residual" and "lm_head" in n)]
    assert expected
    assert [n for n in expected if gradients[n] is None or gradients[n].abs().max().item() == 0] == []
    with torch.no_grad():
        norm = torch.stack([g.norm() for g in gradients.values() if g is not None]).norm()
        for name, parameter in trained_parameters(model).items():
            if gradients[name] is not None:
                parameter -= 0.02 / norm * gradients[name]
    assert loss().item() < before.item()


def test_distillation_by_entropy_alone_is_judged_without_the_teacher_like_any_other(tmp_path):
    result = run(tmp_path, tiny.settings(distill_weight=0, next_token_weight=0, entropy_weight=1))
    losses = [row["eval_loss"] for row in result.history if "eval_loss" in row]
    assert min(losses[1:]) < losses[0]


def test_qlora_is_merged_into_the_unquantised_weights(tmp_path):
    original = tiny.teacher()
    pruned = tiny.student(original)
    name = "layers.2.mlp.down_proj"
    before = pruned.model.get_submodule(name).weight.detach().clone()
    settings = tiny.settings(method="qlora", save_steps=8, max_steps=8, next_token_weight=1, distill_weight=0)
    result = heal(pruned, None, {"general": tiny.domain()}, settings, output_dir=tmp_path)
    assert result.best_step == 8
    best = load_file(tmp_path / "checkpoints/checkpoint-8/best.safetensors")
    a, b = (next(w for n, w in best.items() if f"{name}.lora_{x}" in n) for x in "AB")
    merged = result.model.model.get_submodule(name).weight
    torch.testing.assert_close(merged, before + settings.lora_alpha / settings.lora_r * b @ a, rtol=0, atol=1e-6)


def test_student_and_teacher_share_the_kept_layers_and_the_result_is_the_same_to_the_bit(tmp_path, monkeypatch):
    settings = tiny.settings(next_token_weight=0.5, residual_weight=0.1)
    original = tiny.teacher()
    untouched = copy.deepcopy(original)
    shared = run(tmp_path / "shared", settings, original=original)
    size = sum(p.numel() * 4 for p in tiny.student(untouched).parameters())
    assert shared.shared_bytes == size
    for (name, ours), theirs in zip(original.named_parameters(), untouched.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    pointers = {p.data_ptr() for p in original.parameters()}
    assert not any(p.data_ptr() in pointers for p in shared.model.parameters())

    monkeypatch.setattr("prune.healing.sharing._equal", lambda *_: False)
    apart = run(tmp_path / "apart", settings, original=untouched, kept_layers=tiny.KEPT)
    assert apart.shared_bytes == 0
    for (name, ours), theirs in zip(shared.model.named_parameters(), apart.model.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_full_tuning_does_not_write_into_the_teacher_and_leaves_other_layers_alone(tmp_path):
    original = tiny.teacher()
    untouched = copy.deepcopy(original)
    result = run(tmp_path, tiny.settings(method="full", train_layers=[2]), original=original)
    assert all(torch.equal(a, b) for a, b in zip(original.parameters(), untouched.parameters(), strict=True))
    pairs = zip(result.model.named_parameters(), tiny.student(untouched).parameters(), strict=True)
    changed = {name for (name, ours), theirs in pairs if not torch.equal(ours, theirs)}
    assert changed
    assert all(n.startswith(("model.layers.2.", "lm_head")) for n in changed)


def test_kept_layers_are_found_even_where_one_tensor_was_rewritten():
    from prune.healing.sharing import find_kept_layers

    original = tiny.teacher()
    pruned = tiny.student(original)
    with torch.no_grad():
        pruned.model.layers[1].mlp.down_proj.weight += 0.1
    assert find_kept_layers(pruned, original) == tiny.KEPT
    assert find_kept_layers(tiny.student(tiny.teacher(seed=1)), original) is None


def test_a_killed_run_resumes_to_the_same_weights_and_history(tmp_path):
    settings = tiny.settings(save_steps=3, max_steps=9, eval_steps=3, gradient_accumulation_steps=2)
    whole = run(tmp_path / "whole", settings)
    calls = []

    def killed(_):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", settings, track=killed)
    resumed = run(tmp_path / "parts", settings, resume=True)
    for (name, ours), theirs in zip(resumed.model.named_parameters(), whole.model.named_parameters(), strict=True):
        assert torch.equal(ours, theirs[1]), name
    assert [e["eval_loss"] for e in resumed.history if "eval_loss" in e] == [
        e["eval_loss"] for e in whole.history if "eval_loss" in e
    ]
    with pytest.raises(PruneError, match=r"cannot resume .*: learning_rate was 0\.01 and is 0\.02"):
        run(tmp_path / "parts", settings.model_copy(update={"learning_rate": 0.02}), resume=True)


def test_checkpoints_of_an_earlier_run_do_not_hide_those_of_the_killed_one(tmp_path):
    run(tmp_path, tiny.settings(save_steps=8, max_steps=8))

    def killed(_):
        if (tmp_path / "checkpoints/checkpoint-4").is_dir():
            raise KeyboardInterrupt
        return {}

    settings = tiny.settings(save_steps=4, max_steps=8, eval_steps=5, learning_rate=0.02)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, settings, track=killed)
    resumed = run(tmp_path, settings, resume=True)
    assert resumed.steps == 8
    assert [e["step"] for e in resumed.history if "eval_loss" in e] == [0, 5, 8]


def test_a_full_disk_is_said_and_the_checkpoint_before_is_resumed(tmp_path, monkeypatch):
    settings = tiny.settings(save_steps=4, max_steps=8)
    real = PeftModel.save_pretrained

    def full(model, directory, **options):
        if "checkpoint-8" in str(directory):
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        real(model, directory, **options)

    with monkeypatch.context() as patch:
        patch.setattr(PeftModel, "save_pretrained", full)
        with pytest.raises(PruneError, match=r"checkpoint-8: the checkpoint cannot be written .*No space left"):
            run(tmp_path, settings)
    assert run(tmp_path, settings, resume=True).steps == 8


def test_a_tracked_score_that_is_not_finite_does_not_lose_the_run(tmp_path):
    result = run(tmp_path, tiny.settings(), track=lambda _: {"perplexity": math.inf, "accuracy": 0.5})
    logged = [entry for entry in result.history if "eval_loss" in entry]
    assert all(entry["eval_accuracy"] == 0.5 and "eval_perplexity" not in entry for entry in logged)
    json.dumps(result.as_dict(), allow_nan=False)


def test_bf16_holds_for_student_and_teacher_and_the_merged_model_is_float32(tmp_path):
    original = tiny.teacher()
    seen = set()
    original.lm_head.register_forward_hook(lambda _, __, output: seen.add(output.dtype))
    result = run(tmp_path, tiny.settings(bf16=True), original=original)
    assert seen == {torch.float32, torch.bfloat16}  # before training, where layers to share are tried out, and in it
    assert result.held_out_after < result.held_out_before
    assert {p.dtype for p in result.model.parameters()} == {torch.float32}


def test_tracked_scores_are_logged_at_every_evaluation(tmp_path):
    seen = []

    def track(model):
        seen.append(model.training)
        return {"task_acc": float(len(seen))}

    result = run(tmp_path, tiny.settings(), track=track)
    assert [e["eval_task_acc"] for e in result.history if "eval_loss" in e] == [1.0, 2.0, 3.0]


def test_training_that_does_not_help_stops_early_and_returns_the_pruned_model(tmp_path):
    settings = tiny.settings(max_steps=40, eval_steps=2, learning_rate=300.0, early_stopping_patience=2)
    original = tiny.teacher(spread=0.02)
    result = run(tmp_path, settings, original=original)
    assert (result.best_step, result.trained) == (0, frozenset())
    assert result.steps == 4
    ids = torch.arange(2, 14)[None]
    with torch.no_grad():
        torch.testing.assert_close(result.model(ids).logits, tiny.student(original)(ids).logits)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_non_finite_loss_stops_names_its_batch_and_keeps_the_last_weights(tmp_path, accumulation):
    domain = tiny.domain(count=40)
    split = split_domains({"general": domain}, max_length=32, eval_fraction=0.2, eval_max_documents=64, seed=0)
    bad = split.training["general"][7]
    assert domain.documents.count(bad) == 1
    documents = tuple(replace(d, input_ids=(63, *d.input_ids)) if d == bad else d for d in domain.documents)
    original = tiny.teacher()
    pruned = tiny.student(original)
    with torch.no_grad():
        pruned.model.embed_tokens.weight[63] = float("nan")
    settings = tiny.settings(
        next_token_weight=1, distill_weight=0, packing=False, max_steps=20, gradient_accumulation_steps=accumulation
    )
    with pytest.raises(PruneError, match=r"the loss is nan on batch \d+ \(general documents .*\b7\b.*\)") as caught:
        heal(pruned, None, {"general": replace(domain, documents=documents)}, settings, output_dir=tmp_path)
    step = int(str(caught.value).split("stopped at step ")[1].split()[0])
    weights = load_file(tmp_path / f"checkpoints/checkpoint-{step - 1}/adapter_model.safetensors")
    assert all(w.isfinite().all() for w in weights.values())
    marker = json.loads((tmp_path / f"checkpoints/checkpoint-{step - 1}/heal.json").read_text())
    assert marker["fingerprint"]["method"] == "lora"


def test_a_pruned_model_that_is_broken_is_said_before_training(tmp_path):
    pruned = tiny.student(tiny.teacher())
    with torch.no_grad():
        pruned.model.norm.weight[0] = float("inf")
    settings = tiny.settings(next_token_weight=1, distill_weight=0)
    with pytest.raises(PruneError, match="held-out loss of general is not finite before any training"):
        heal(pruned, None, {"general": tiny.domain()}, settings, output_dir=tmp_path)


def test_residual_matching_with_a_shallower_teacher_is_refused(tmp_path):
    original = tiny.teacher()
    with pytest.raises(PruneError, match="the teacher has 4 layers and the pruned model 6"):
        heal(
            original, tiny.student(original), {"general": tiny.domain()}, tiny.settings(residual_weight=1),
            output_dir=tmp_path,
        )  # fmt: skip


def test_a_teacher_of_another_vocabulary_is_refused(tmp_path):
    domains = {"general": tiny.domain()}
    with pytest.raises(PruneError, match="the teacher predicts 80 tokens and the pruned model 64"):
        heal(tiny.student(tiny.teacher()), tiny.teacher(vocabulary=80), domains, tiny.settings(), output_dir=tmp_path)


@pytest.mark.parametrize(
    ("changes", "options", "error", "message"),
    [
        ({}, {"domains": {}}, PruneError, "no training data"),
        ({}, {"domains": {"a": tiny.domain(count=1)}}, PruneError, "healing needs two"),
        ({}, {"domain_weights": {"genral": 1}}, UsageError, "did you mean 'general'"),
        ({}, {"domain_weights": {"general": -1}}, UsageError, "general=-1: a weight is a number of zero or more"),
        ({}, {"domain_weights": {"general": math.nan}}, UsageError, "general=nan: a weight is a number"),
        ({}, {"domain_weights": {"general": math.inf}}, UsageError, "general=inf: a weight is a number"),
        ({}, {"domain_weights": {"general": 0}}, UsageError, "at least one weight must be above zero"),
        (
            {},
            {"domains": {"a": FOREIGN}},
            UsageError,
            "data a: document 1 holds token id 64, the model knows 0 to 63",
        ),
        ({}, {"kept_layers": [0, 1]}, PruneError, "give 4 sorted layer numbers"),
        ({"method": "full", "train_layers": [9]}, {}, UsageError, "no layer 9"),
        ({"lora_target_modules": "nothing"}, {}, UsageError, "does not fit this model"),
        ({"lora_layers": [4]}, {}, UsageError, "lora_layers: the model has no layer 4; its layers are 0 to 3"),
        ({"lr_scheduler_type": "sometimes"}, {}, UsageError, "lr_scheduler_type"),
        ({"report_to": ["papyrus"]}, {}, UsageError, "report_to"),
    ],
)
def test_a_mistake_is_named_before_training(tmp_path, changes, options, error, message):
    with pytest.raises(error, match=message):
        run(tmp_path, tiny.settings(**changes), **options)
    assert not list(tmp_path.rglob("checkpoint-*"))


@pytest.mark.parametrize(
    "changes",
    [
        {"distill_weight": 0, "next_token_weight": 0},
        {"train_layers": [1]},
        {"method": "full", "train_layers": []},
        {"learning_rate": math.inf},
        {"distill_weight": math.inf},
    ],
)
def test_contradictory_settings_are_refused(changes):
    with pytest.raises(ValueError, match=r"nothing to train for|train_layers|finite number"):
        tiny.settings(**changes)


END = 1


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_end_of_text_is_learnt_also_where_it_pads(tmp_path, method):
    made = tiny.domain(count=24)
    ended = tuple(replace(d, input_ids=(*d.input_ids, END)) for d in made.documents)
    options = {"packing": False, "max_steps": 12, "next_token_weight": 1, "distill_weight": 0, "method": method}
    results = {}
    for pad in (END, 0):
        domains = {"general": replace(made, documents=ended)}
        place = tmp_path / str(pad)
        results[pad] = run(place, tiny.settings(**options), domains=domains, pad_token_id=pad)
    before = tiny.student(tiny.teacher())

    def chance(model):  # that the text ends, at the end of each document
        with torch.no_grad():
            rows = [model(torch.tensor([d.input_ids[:-1]])).logits[0, -1].softmax(-1)[END] for d in ended]
        return torch.stack(rows).mean().item()

    assert chance(results[END].model) > 2 * chance(before)
    for own, other in zip(results[END].model.parameters(), results[0].model.parameters(), strict=True):
        torch.testing.assert_close(own, other)  # what pads makes no difference


def test_the_log_has_a_line_a_step_with_units_and_the_originals_loss_beside_the_models(tmp_path, caplog):
    caplog.set_level("INFO", logger="prune")
    original = tiny.teacher()
    result = run(tmp_path, tiny.settings(max_steps=4, eval_steps=2), original=original)
    split = split_domains({"general": tiny.domain()}, max_length=32, eval_fraction=0.2, eval_max_documents=64, seed=0)
    losses, count = 0.0, 0
    for document in split.held_out["general"]:  # plainly: one document at a time, in float64
        ids = torch.tensor([document.input_ids])
        with torch.no_grad():
            logits = copy.deepcopy(original).double()(ids).logits[0, :-1]
        losses += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
        count += ids.shape[1] - 1
    assert result.held_out_original == pytest.approx(losses / count, rel=1e-5)
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("healing: step")]
    steps = [line for line in said if "learning rate" in line]
    assert [line.split(",")[0] for line in steps] == [f"healing: step {n} of 4" for n in (1, 2, 3, 4)]
    assert all(" nats/token" in line and line.endswith(" s") for line in said)
    measured = [line for line in said if "held-out loss" in line]
    assert len(measured) == 3
    assert len(said) == len(steps) + len(measured)
    assert all(f"; the original {result.held_out_original:.4f}" in line for line in measured)


def test_without_the_original_nothing_is_said_of_its_loss(tmp_path, caplog):
    caplog.set_level("INFO", logger="prune")
    settings = tiny.settings(max_steps=1, distill_weight=0, next_token_weight=1)
    result = heal(
        tiny.student(tiny.teacher()), None, {"general": tiny.domain()}, settings, output_dir=tmp_path
    )  # fmt: skip
    assert result.held_out_original is None
    assert "the original" not in caplog.text

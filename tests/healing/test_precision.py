"""Which numbers healing computes in, for devices that are not here."""

from __future__ import annotations

import pytest
import torch

from prune.healing.heal import heal, training_arguments
from prune.healing.methods import attach, trained_parameters
from prune.healing.precision import autocasts, needs_float32
from prune.model.loading import resolve_dtype

from . import tiny

HALF = torch.bfloat16


@pytest.mark.parametrize(
    ("asked", "device", "has", "found"),
    [
        (None, "cuda", True, True),
        (None, "cuda", False, False),
        (None, "cpu", True, False),
        (True, "cpu", False, True),
        (False, "cuda", True, False),
    ],
)
def test_autocast_is_the_cards_unless_told(asked, device, has, found):
    assert autocasts(asked, device, has) is found


@pytest.mark.parametrize(
    ("dtype", "method", "autocast", "fsdp", "found"),
    [
        (HALF, "lora", True, False, False),
        (HALF, "lora", False, False, False),
        (HALF, "lora", True, True, True),
        (HALF, "full", True, False, False),
        (HALF, "full", False, False, True),
        (torch.float16, "full", False, False, True),
        (torch.float32, "full", False, True, False),
    ],
)
def test_a_student_is_widened_only_where_it_must_be(dtype, method, autocast, fsdp, found):
    assert needs_float32(dtype, method, autocast=autocast, fsdp=fsdp) is found


def test_auto_is_the_checkpoints_own_on_an_accelerator_and_float32_on_cpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert resolve_dtype("auto") is torch.float32
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert resolve_dtype("auto") == "auto"


def test_the_arguments_follow_the_device(monkeypatch, tmp_path):
    assert training_arguments(tiny.settings(), tmp_path).bf16 is False
    monkeypatch.setattr("prune.healing.heal.accelerator", lambda: ("cuda", True))
    assert training_arguments(tiny.settings(), tmp_path).bf16 is True
    assert training_arguments(tiny.settings(bf16=False), tmp_path).bf16 is False


@pytest.mark.parametrize("method", ["lora", "full"])
def test_over_half_precision_what_is_trained_is_float32_and_the_rest_stays(method):
    model = attach(tiny.student(tiny.teacher()).to(HALF), tiny.settings(method=method))
    trained = trained_parameters(model)
    assert {p.dtype for p in trained.values()} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {HALF}


@pytest.mark.parametrize(("method", "bf16"), [("lora", True), ("full", True), ("full", None)])
def test_a_half_precision_student_learns(tmp_path, method, bf16):
    original = tiny.teacher().to(HALF)
    result = heal(
        tiny.student(original), original, {"general": tiny.domain()}, tiny.settings(method=method, bf16=bf16),
        output_dir=tmp_path,
    )  # fmt: skip
    assert result.held_out_after < result.held_out_before - 0.05
    assert {p.dtype for p in result.model.parameters()} == {torch.float32}

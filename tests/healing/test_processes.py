"""Two CPU processes under accelerate's environment train what one process trains with twice the batch."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file

import prune
from prune.embedded import HERE
from prune.errors import PruneError, UsageError
from prune.healing import sharding
from prune.healing.settings import HealSettings
from prune.healing.sharding import check_processes, check_sharding, deepspeed_config
from prune.model import loading

DATA = [f"stories={HERE / 'data/heal/stories.jsonl'}", f"arithmetic={HERE / 'data/heal/arithmetic.jsonl'}"]
FLAGS = {"max_steps": 3, "max_length": 96, "eval_max_documents": 4, "learning_rate": 1e-3}
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
}
"""What `accelerate launch --use_fsdp --fsdp_version 2` sets."""
ON_CPU = {"DS_ACCELERATOR": "cpu"}
"""DeepSpeed, where it is installed, would otherwise warn on standard output that it sees no GPU."""
FULL = {"method": "full", "train_layers": [10, 11]}
START = [str(Path(__file__).with_name("processes_on_cpu.py"))]
needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed: pip install deepspeed"
)


@pytest.fixture(scope="module")
def cut(tmp_path_factory) -> Path:
    """The demo model without four layers."""
    target = tmp_path_factory.mktemp("processes") / "cut"
    prune.cut("embedded", target, drop_layers="11-14", verify=False)
    return target


def launched(start: list[str], cut: Path, output: Path, port: int, changes: dict, **environment: str):
    """`prune heal` in two processes of four rows."""
    flags = {k: ",".join(map(str, v)) if isinstance(v, list) else v for k, v in (FLAGS | changes).items()}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}", *start]
    command += ["heal", cut, "-o", output, "--teacher", "embedded", "--json", "--no-packing"]
    command += [part for d in DATA for part in ("--data", d)] + ["--per_device_train_batch_size", "4"]
    command += [part for k, v in flags.items() for part in (f"--{k}", str(v))]
    command += ["--resume_from_checkpoint"] * ("DIE_AFTER" not in environment)
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=os.environ | ON_CPU | environment
    )


def heal_in_two(*arguments: Any, **environment: str) -> tuple[dict, str]:
    """What a run that ends well printed as JSON, and its standard error."""
    done = launched(*arguments, **environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout), done.stderr  # one process speaks


def zero(folder: Path, stage: int) -> dict[str, str]:
    """The setting for ZeRO of a stage, and its configuration in a file."""
    path = folder / "zero.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": stage}}))
    return {"deepspeed": str(path)}


def check_against_one(printed: dict, two: Path, cut: Path, one: Path, changes: dict) -> None:
    """Tokens, losses and weights are those of one process with eight rows."""
    result = prune.heal(
        str(cut), one, teacher="embedded", data=DATA, per_device_train_batch_size=8, packing=False, **FLAGS | changes
    )
    assert printed["tokens_seen"] == result.tokens_seen
    assert printed["trained_parameters"] == result.trained_parameters
    assert printed["held_out_after"] == pytest.approx(result.held_out_after, abs=1e-4)
    assert result.held_out_after < result.held_out_before
    ours, theirs = (load_file(directory / "model.safetensors") for directory in (two, one))
    assert ours.keys() == theirs.keys()
    for name in theirs:  # saved in bfloat16: equal up to its last bit
        a, b = ours[name].float(), theirs[name].float()
        assert ((a - b).abs() <= 2**-7 * b.abs() + 1e-6).all(), name
    losses = [[e["loss"] for e in history if "loss" in e] for history in (printed["history"], result.history)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert len(losses[0]) == result.steps


@pytest.mark.slow
def test_two_processes_equal_one_with_twice_the_batch(cut, tmp_path):
    printed, _ = heal_in_two(["-m", "prune"], cut, tmp_path / "two", 29731, {})
    check_against_one(printed, tmp_path / "two", cut, tmp_path / "one", {})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "port"), [({}, 29732), (FULL, 29733), ({"method": "qlora"}, 29734)], ids=["lora", "full", "qlora"]
)
def test_two_sharded_processes_equal_one_with_twice_the_batch(cut, tmp_path, changes, port):
    printed, said = heal_in_two(START, cut, tmp_path / "two", port, changes, **FSDP)
    assert int(re.search(r"gathered (\d+) sharded tensors", said)[1]) >= 20
    four_bit = int(re.search(r"(\d+) sharded 4-bit weights", said)[1])
    assert four_bit == (12 * 7 if changes.get("method") == "qlora" else 0)  # every linear layer but the head
    assert printed["shared_layers"] == printed["shared_bytes"] == 0
    assert re.findall(r"process (\d) reads weights", said) == ["0", "0"]  # student and teacher
    check_against_one(printed, tmp_path / "two", cut, tmp_path / "one", changes)


@pytest.mark.slow
@needs_deepspeed
@pytest.mark.parametrize(
    ("stage", "changes", "port"),
    [(1, {"gradient_accumulation_steps": 2}, 29735), (2, FULL, 29736), (3, {}, 29742), (3, FULL, 29743)],
    ids=["1-lora", "2-full", "3-lora", "3-full"],
)
def test_two_processes_under_deepspeed_equal_one_with_twice_the_batch(cut, tmp_path, stage, changes, port):
    printed, _ = heal_in_two(START, cut, tmp_path / "two", port, changes | zero(tmp_path, stage))
    check_against_one(printed, tmp_path / "two", cut, tmp_path / "one", changes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sharding", "port"),
    [("fsdp", 29737), *(pytest.param(f"zero{n}", 29736 + n, marks=needs_deepspeed) for n in (2, 3))],
)
def test_a_killed_run_of_two_processes_goes_on_as_if_it_had_not_been(cut, tmp_path, sharding, port):
    changes = {"max_steps": 4, "save_steps": 2}
    extra, environment = ({}, FSDP) if sharding == "fsdp" else (zero(tmp_path, int(sharding[-1])), {})
    arguments = (START, cut, tmp_path / "two", port, changes | extra)
    assert launched(*arguments, DIE_AFTER="3", **environment).returncode != 0
    assert not (tmp_path / "two").exists()
    assert (tmp_path / ".two.training/checkpoints/checkpoint-2/heal.json").exists()
    printed, _ = heal_in_two(*arguments, **environment)
    check_against_one(printed, tmp_path / "two", cut, tmp_path / "one", changes)
    assert [e["step"] for e in printed["history"] if "loss" in e] == [1, 2, 3, 4]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sharding", "port"), [("fsdp", 29740), pytest.param("deepspeed", 29741, marks=needs_deepspeed)]
)
def test_a_gradient_that_is_not_finite_stops_both_before_it_moves_the_weights(cut, tmp_path, sharding, port):
    changes = {"max_steps": 4, "eval_steps": 4, "learning_rate": 1e30, "max_grad_norm": 1e30}
    extra, environment = (zero(tmp_path, 2), {}) if sharding == "deepspeed" else ({}, FSDP)
    done = launched(START, cut, tmp_path / "two", port, changes | extra, **environment)  # the first step's rate is 0
    assert done.returncode != 0
    assert re.search(r"healing stopped at step 3 of 4: the (loss|gradient norm) is (nan|inf) on batch", done.stderr)
    assert not (tmp_path / "two").exists()
    checkpoint = tmp_path / ".two.training/checkpoints/checkpoint-2"
    assert (checkpoint / "heal.json").exists()
    if sharding == "deepspeed":  # FSDP's lie in parts
        kept = load_file(checkpoint / "adapter_model.safetensors")
        assert all(tensor.isfinite().all() for tensor in kept.values())
        assert max(tensor.abs().max() for tensor in kept.values()) > 1e20


@pytest.mark.parametrize(("method", "cure"), [("qlora", "train under DDP, with (--)?method lora"), ("lora", "DDP$")])
def test_fsdp_on_cpus_is_refused_before_anything_is_loaded(cut, tmp_path, monkeypatch, method, cure):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    monkeypatch.setattr(sharding, "has_accelerator", lambda: False)
    monkeypatch.setattr(loading, "load_model", None)  # would fail otherwise
    with pytest.raises(UsageError, match=f"FSDP needs GPUs: .*{cure}"):
        prune.heal(str(cut), tmp_path / "out", teacher="embedded", data=DATA, method=method)
    assert not (tmp_path / "out").exists()


def test_the_first_version_of_fsdp_is_refused(cut, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UsageError, match="fsdp_version 2"):
        prune.heal(str(cut), tmp_path / "out", teacher="embedded", data=DATA, dry_run=True)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("not JSON", "cannot be read as JSON"),
        ("[]", "must be an object"),
        ('{"zero_optimization": {"stage": 4}}', "stage is 4, but healing works with 1, 2 and 3"),
        ("{}", "stage is 0"),
        ('{"zero_optimization": {"stage": 2}, "fp16": {"enabled": true}}', "fp16 is not supported: .* use bf16 with"),
        ('{"zero_optimization": {"stage": 2}}', "needs a launcher: `torchrun --nproc"),
    ],
)
def test_what_deepspeed_cannot_do_is_refused_before_training(cut, tmp_path, config, message):
    path = tmp_path / "zero.json"
    path.write_text(config)
    with pytest.raises(UsageError, match=message):
        prune.heal(str(cut), tmp_path / "out", teacher="embedded", data=DATA, deepspeed=str(path), dry_run=True)


def test_deepspeed_told_to_accelerate_alone_is_refused(cut, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(UsageError, match="deepspeed CONFIG"):
        prune.heal(str(cut), tmp_path / "out", teacher="embedded", data=DATA, dry_run=True)


def test_deepspeed_that_is_not_there_or_has_no_gpu_is_refused(tmp_path, monkeypatch):
    settings = HealSettings(**zero(tmp_path, 2))
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("deepspeed", "deepspeed.utils"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(PruneError, match="pip install deepspeed"):
        check_sharding(settings)
    with pytest.raises(UsageError, match="needs GPUs: on CPUs leave it out"):  # what accelerate makes of it on CPUs
        check_processes(SimpleNamespace(deepspeed=deepspeed_config(settings.deepspeed), world_size=1))


def test_the_configuration_gets_what_it_leaves_out(tmp_path):
    path = tmp_path / "zero.json"
    path.write_text('{"zero_optimization": {"stage": 2, "overlap_comm": true}, "bf16": {"enabled": true}}')
    config = deepspeed_config(str(path))
    assert config["zero_optimization"] == {"stage": 2, "overlap_comm": True}
    assert config["bf16"] == {"enabled": True, "check_grad_overflow": True}
    assert config["gradient_clipping"] == config["train_micro_batch_size_per_gpu"] == "auto"

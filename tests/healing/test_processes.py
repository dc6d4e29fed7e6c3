"""Two CPU processes under accelerate's environment train what one process trains with twice the batch."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

import prune
from prune.embedded import HERE
from prune.errors import UsageError

DATA = [f"stories={HERE / 'data/heal/stories.jsonl'}", f"arithmetic={HERE / 'data/heal/arithmetic.jsonl'}"]
FLAGS = {"max_steps": 3, "max_length": 96, "eval_max_documents": 4, "learning_rate": 1e-3}
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
}
"""What `accelerate launch --use_fsdp --fsdp_version 2` sets."""
FULL = {"method": "full", "train_layers": [10, 11]}


@pytest.fixture(scope="module")
def cut(tmp_path_factory) -> Path:
    """The demo model without four layers."""
    target = tmp_path_factory.mktemp("processes") / "cut"
    prune.cut("embedded", target, drop_layers="11-14", verify=False)
    return target


def heal_in_two(start: list[str], cut: Path, output: Path, port: int, changes: dict, **environment: str):
    """`prune heal` in two processes of four rows: what it printed as JSON, and its standard error."""
    flags = {k: ",".join(map(str, v)) if isinstance(v, list) else v for k, v in (FLAGS | changes).items()}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}", *start]
    command += ["heal", cut, "-o", output, "--teacher", "embedded", "--json", "--no-packing"]
    command += [part for d in DATA for part in ("--data", d)] + ["--per_device_train_batch_size", "4"]
    command += [part for k, v in flags.items() for part in (f"--{k}", str(v))]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=os.environ | environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout), done.stderr  # one process speaks


def check_against_one(printed: dict, two: Path, cut: Path, one: Path, changes: dict) -> None:
    """Tokens, losses and weights are those of one process with eight rows."""
    result = prune.heal(
        str(cut), one, teacher="embedded", data=DATA, per_device_train_batch_size=8, packing=False, **FLAGS, **changes
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
    assert len(losses[0]) == 3


@pytest.mark.slow
def test_two_processes_equal_one_with_twice_the_batch(cut, tmp_path):
    printed, _ = heal_in_two(["-m", "prune"], cut, tmp_path / "two", 29731, {})
    check_against_one(printed, tmp_path / "two", cut, tmp_path / "one", {})


@pytest.mark.slow
@pytest.mark.parametrize(("changes", "port"), [({}, 29732), (FULL, 29733)], ids=["lora", "full"])
def test_two_sharded_processes_equal_one_with_twice_the_batch(cut, tmp_path, changes, port):
    start = [str(Path(__file__).with_name("fsdp_on_cpu.py"))]
    printed, said = heal_in_two(start, cut, tmp_path / "two", port, changes, **FSDP)
    assert int(re.search(r"gathered (\d+) sharded tensors", said)[1]) >= 20
    assert printed["shared_layers"] == printed["shared_bytes"] == 0
    check_against_one(printed, tmp_path / "two", cut, tmp_path / "one", changes)


def test_the_first_version_of_fsdp_is_refused(cut, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UsageError, match="--fsdp_version 2"):
        prune.heal(str(cut), tmp_path / "out", teacher="embedded", data=DATA, dry_run=True)

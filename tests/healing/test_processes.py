"""Two CPU processes under accelerate's environment train what one process trains with twice the batch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from safetensors.torch import load_file

import prune
from prune.embedded import HERE

DATA = [f"stories={HERE / 'data/heal/stories.jsonl'}", f"arithmetic={HERE / 'data/heal/arithmetic.jsonl'}"]
FLAGS = {"max_steps": 3, "max_length": 96, "packing": False, "eval_max_documents": 4, "learning_rate": 1e-3}


@pytest.mark.slow
def test_two_processes_equal_one_with_twice_the_batch(tmp_path):
    prune.cut("embedded", tmp_path / "cut", drop_layers="11-14", verify=False)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node=2",
        "--master_port=29731",
        "-m",
        "prune",
    ]
    command += ["heal", tmp_path / "cut", "-o", tmp_path / "two", "--teacher", "embedded", "--json", "--no-packing"]
    command += [part for d in DATA for part in ("--data", d)]
    command += [part for k, v in FLAGS.items() if k != "packing" for part in (f"--{k}", str(v))]
    command += ["--per_device_train_batch_size", "4"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    printed = json.loads(done.stdout)  # one process speaks
    one = prune.heal(str(tmp_path / "cut"), tmp_path / "one", teacher="embedded", data=DATA,
                     per_device_train_batch_size=8, **FLAGS)  # fmt: skip
    assert printed["tokens_seen"] == one.tokens_seen
    assert printed["held_out_after"] == pytest.approx(one.held_out_after, abs=1e-4)
    assert one.held_out_after < one.held_out_before
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("two", "one"))
    for name in theirs:  # saved in bfloat16: equal up to its last bit
        a, b = ours[name].float(), theirs[name].float()
        assert ((a - b).abs() <= 2**-7 * b.abs() + 1e-6).all(), name
    losses = [[e["loss"] for e in history if "loss" in e] for history in (printed["history"], one.history)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert len(losses[0]) == 3

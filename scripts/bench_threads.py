"""How long the demo's search takes with one thread and with several, on an idle machine and on a busy one.

The matrices of a small model are tiny, so threads spend their time at barriers: where other processes want the cores,
a thread that spins there keeps the one it waits for from running. `prune` therefore asks OpenMP to let waiting threads
sleep (`OMP_WAIT_POLICY=PASSIVE`); `spin` is what the library does by itself. Every row is a new process with an empty
score cache; busy processes count in a loop until the row is done.

    python scripts/bench_threads.py --threads 1 2 --busy 0 2
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

POLICIES = {
    "spin": {"GOMP_SPINCOUNT": "300000", "KMP_BLOCKTIME": "200"},  # libgomp's and Intel's own defaults
    "sleep": {},  # what `prune` sets
}
CODE = "from prune.cli import main; main()"


def prune(*arguments: str, **environment: str) -> None:
    """One command in a process of its own.

    Raises:
        CalledProcessError: it failed.
    """
    known = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "KMP_", "MKL_"))}
    subprocess.run([sys.executable, "-c", CODE, *arguments, "--quiet"], check=True, env={**known, **environment})


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """So many other processes that want a core."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 2], help="other processes at work")
    parser.add_argument("--documents", type=int, default=32, help="of each of the demo's domains")
    parser.add_argument("--num_layers", default="14", help="layers that the plan keeps, of 16")
    options = parser.parse_args()
    from prune.embedded import RECIPE
    from prune.runs.recipe import load_recipe

    data = [f"--data={name}={path}" for name, path in load_recipe(RECIPE).data.domains.items()]
    print("busy processes | threads | waiting threads | seconds | processor seconds | load before", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        analysis = str(Path(folder) / "analysis")
        few = ["--calib_num_samples", str(options.documents), "--seq_length", "160", "--measure", "contributions"]
        prune("analyze", "embedded", "-o", analysis, *data, *few, "--bootstrap", "10", OMP_NUM_THREADS="1")
        rows = itertools.product(options.busy, options.threads, POLICIES)
        for number, (others, threads, policy) in enumerate(rows):
            if threads == 1 and policy == "spin":
                continue  # nobody waits
            fresh = [
                "-o",
                str(Path(folder) / f"{number}.json"),
                "--score_cache",
                str(Path(folder) / f"{number}.sqlite"),
            ]
            load, before = os.getloadavg()[0], resource.getrusage(resource.RUSAGE_CHILDREN)
            with busy(others):
                began = time.monotonic()
                environment = {"OMP_NUM_THREADS": str(threads), **POLICIES[policy]}
                prune("plan", analysis, *fresh, "--num_layers", options.num_layers, **environment)
                seconds = time.monotonic() - began
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
            used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            print(f"{others} | {threads} | {policy} | {seconds:.1f} | {used:.1f} | {load:.1f}", flush=True)


if __name__ == "__main__":
    main()

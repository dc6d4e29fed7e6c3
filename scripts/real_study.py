"""The study of two real models: how they use their depth, what cuts cost them, what healing brings back.

Work is in units (`study/units.py`), most important first; each is a process of its own whose result is one JSON file
with its CPU seconds and peak memory, so a study that was stopped goes on where it was. `table` writes the results into
scripts/README.md between the markers. Some eight hours of one core for everything.

    python scripts/real_study.py run -o FOLDER --data PUBLIC_DATA --models FOLDER [--only NAME ...] [--list]
    python scripts/real_study.py table -o FOLDER [--readme scripts/README.md]

PUBLIC_DATA holds what `study/documents.py` names and, for the tasks, LAMBADA, HellaSwag, ARC-Easy and PIQA as
`--local_data` takes them (evals/local_data/README.md). FOLDER of the models is the cache that `real_models.py` fills.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import resource
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

MODELS = ("SmolLM2-135M-Instruct", "gemma-3-270m")
KEEPS_PAGES = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
"""For glibc: freed memory is used again, not given back and faulted in anew, which takes a quarter of the time."""
LIBRARIES = ("torch", "transformers", "peft", "lm_eval")


def run(options: argparse.Namespace) -> int:
    """Every unit that has no result yet, one process after the other; a unit that fails is passed over."""
    from study.units import UNITS

    results = options.output / "results"
    results.mkdir(parents=True, exist_ok=True)
    lock = (options.output / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # two at once would share the cores and spoil the figures
    except BlockingIOError:
        print(f"{options.output}: a study is at work there; let it end, or give -o another folder", file=sys.stderr)
        return 2
    failed = []
    for name in options.only or UNITS:
        if (results / f"{name}.json").is_file():
            continue
        print(time.strftime("%H:%M:%S"), name, flush=True)
        if options.list:
            continue
        command = [sys.executable, __file__, "unit", name, "-o", options.output, "--data", options.data]
        if subprocess.run(
            [*map(str, command), "--models", str(options.models)], env={**os.environ, **KEEPS_PAGES}
        ).returncode:
            failed.append(name)
    print("failed:", ", ".join(failed) if failed else "none", flush=True)
    return int(bool(failed))


def unit(options: argparse.Namespace) -> int:
    """One unit, here and now."""
    import torch
    from study.bench import Bench
    from study.units import UNITS

    torch.set_num_threads(1)
    bench = Bench(options.output, options.data, {name: options.models / name for name in MODELS})
    began = time.monotonic()
    found = UNITS[options.name](bench)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    record: dict[str, Any] = {
        "unit": options.name,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "system_seconds": usage.ru_stime,
        "wall_seconds": time.monotonic() - began,
        "peak_mb": usage.ru_maxrss / 1024,
        "versions": {library: version(library) for library in LIBRARIES},
        **found,
    }
    target = options.output / "results" / f"{options.name}.json"
    partial = target.with_suffix(".partial")
    partial.write_text(json.dumps(record), encoding="utf8")
    partial.replace(target)
    return 0


def table(options: argparse.Namespace) -> int:
    """The tables as Markdown, into the README or on the screen."""
    from study.tables import write

    return write(options.output, options.readme)


def main() -> int:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, function in (("run", run), ("unit", unit), ("table", table)):
        command = commands.add_parser(name, help=(function.__doc__ or "").splitlines()[0])
        command.set_defaults(run=function)
        command.add_argument(
            "-o", "--output", type=Path, required=True, help="the study's folder, outside the checkout"
        )
        if name == "table":
            command.add_argument("--readme", type=Path, help="file whose marked part is replaced; printed if absent")
            continue
        command.add_argument("--data", type=Path, required=True, help="public data; see study/documents.py")
        command.add_argument("--models", type=Path, required=True, help=f"folder with {' and '.join(MODELS)}")
        if name == "unit":
            command.add_argument("name")
        else:
            command.add_argument("--only", nargs="+", help="names of units")
            command.add_argument("--list", action="store_true", help="say what is left, run nothing")
    options = parser.parse_args()
    return options.run(options)


if __name__ == "__main__":
    raise SystemExit(main())

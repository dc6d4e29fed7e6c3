"""Damage to run directories, thousands of times: finished ones and ones killed in every stage, gone on with.

    python scripts/fuzz_runs.py --cases 20000 [--seed 1]

Each case damages a file or two of a copy (a flipped bit, a cut, garbage, another JSON value, a directory in its place),
writes the report again and resumes the run. Only this project's own one-line errors may come of it, or the result of an
undisturbed run, byte for byte but for the clock; each case in under five seconds. Prints what came how often; the first
case that breaks this ends the script with its traceback. The damages and the checks are `tests/faults/tamper.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.faults import tamper
from tests.faults.prepared import prepare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0, help="another one draws other damages")
    parser.add_argument("--counts", type=Path, help="keep the counts in this JSON file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        recipe = prepare(place)
        counts = options.counts or place / "counts.json"
        tamper.check(recipe, place / "states", place / "expected.json", place, options.cases, counts, options.seed)
        print(json.dumps(json.loads(counts.read_text(encoding="utf8")), indent=2))


if __name__ == "__main__":
    main()

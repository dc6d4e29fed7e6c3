"""Depth pruning for language models: measure, plan, cut, heal, prove, export.

The functions of the command line under the same names and arguments, loaded when first used. A model is a directory, a
hub id or a loaded object everywhere, data may be files or documents in memory, and nothing is written without `output`:

    import prune
    analysis = prune.analyze("embedded", {"chat": ["A dog ran.", "A cat sat."]})
    prune.run("recipe.yaml", output="run")
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from evals.homes import settle

settle()  # before any library looks for a home

NO_DOCSTRINGS = (
    "Python runs without docstrings (PYTHONOPTIMIZE=2, or python -OO), which transformers needs: unset PYTHONOPTIMIZE, "
    "or set it to 1"
)

if TYPE_CHECKING:
    from prune.api import (
        Analysis,
        analyze,
        compare,
        compensate,
        criteria,
        cut,
        demo,
        draft,
        eval,
        export,
        generate,
        heal,
        import_gguf,
        plan,
        report,
        run,
        suites,
        teach,
        verify,
    )

__all__ = [
    "Analysis",
    "analyze",
    "compare",
    "compensate",
    "criteria",
    "cut",
    "demo",
    "draft",
    "eval",
    "export",
    "generate",
    "heal",
    "import_gguf",
    "plan",
    "report",
    "run",
    "suites",
    "teach",
    "verify",
]


def __getattr__(name: str) -> Any:
    # Importing torch takes seconds; `prune --help` and `import prune` must not.
    if name in __all__:
        if sys.flags.optimize > 1:
            raise ImportError(NO_DOCSTRINGS)
        from prune import api

        return getattr(api, name)
    raise AttributeError(f"module 'prune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

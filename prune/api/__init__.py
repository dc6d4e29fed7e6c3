"""The commands as Python functions: the same names, the same arguments, values instead of printed lines.

Each function checks its input before anything slow is imported, calls one room of the house, and returns what that
room returns. No mathematics here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prune.api._analysis import Analysis
    from prune.api._analyze import analyze
    from prune.api._compare import compare
    from prune.api._compensate import compensate
    from prune.api._cut import cut
    from prune.api._draft import draft
    from prune.api._eval import eval
    from prune.api._export import export
    from prune.api._generate import generate
    from prune.api._heal import heal
    from prune.api._import_gguf import import_gguf
    from prune.api._inputs import DryRun
    from prune.api._lists import criteria, suites
    from prune.api._plan import plan
    from prune.api._report import report
    from prune.api._run import demo, run
    from prune.api._teach import teach
    from prune.api._verify import verify

__all__ = [
    "Analysis",
    "DryRun",
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

SHARED = {"Analysis": "_analysis", "criteria": "_lists", "demo": "_run", "DryRun": "_inputs", "suites": "_lists"}
"""What lives in another's module; every other one is in `_NAME.py`."""


def __getattr__(name: str) -> Any:
    # A cut needs neither pydantic nor the other commands' rooms: each module is imported when first used.
    if name in __all__:
        return getattr(importlib.import_module(f"prune.api.{SHARED.get(name, '_' + name)}"), name)
    raise AttributeError(f"module 'prune.api' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

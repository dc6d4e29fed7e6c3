"""The commands as Python functions: the same names, the same arguments, values instead of printed lines.

Each function checks its input before anything slow is imported, calls one room of the house, and returns what that
room returns. No mathematics here.
"""

from prune.api._analyze import analyze
from prune.api._compensate import compensate
from prune.api._cut import cut
from prune.api._eval import eval
from prune.api._export import export
from prune.api._generate import generate
from prune.api._heal import heal
from prune.api._plan import plan
from prune.api._report import report
from prune.api._run import demo, run
from prune.api._verify import verify

__all__ = [
    "analyze",
    "compensate",
    "cut",
    "demo",
    "eval",
    "export",
    "generate",
    "heal",
    "plan",
    "report",
    "run",
    "verify",
]

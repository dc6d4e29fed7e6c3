"""Standard lm-eval tasks from files on this machine, through lm-eval's own task definitions. See README.md."""

from evals.local_data.serve import Served, serve

__all__ = ["Served", "serve"]

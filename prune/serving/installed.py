"""Whether the runtimes installed here are of the versions that `runtimes.py` speaks of.

Only environments that `scripts/runtime` made are looked at, and only their packages' metadata: a server elsewhere has a
version that nobody here can know, and importing a runtime takes seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from evals.runtimes import TRIED, installed_version, untried

ENVIRONMENTS = {"transformers4": ("transformers-4.57", "transformers-4.51")}
"""Name of `--runtime` -> its environments, where they are called otherwise."""
log = logging.getLogger(__name__)


def warn_of_other_versions(runtimes: Iterable[str]) -> None:
    """A warning with both numbers for each runtime that is installed here in another version.

    Args:
        runtimes: names of `--runtime`, of which a result is about to speak.
    """
    for name in dict.fromkeys(runtimes):
        for environment in ENVIRONMENTS.get(name, (name,)):
            if environment in TRIED and (said := untried(environment, installed_version(environment))):
                log.warning(said)

"""`prune criteria`."""

from __future__ import annotations

from prune.cli.flags import Json, Quiet
from prune.cli.show import emit, table


def command(as_json: Json = False, quiet: Quiet = False) -> None:
    """What there is to plan with: criteria that score layers, strategies that choose among subsets."""
    from prune import api

    found = api.criteria()
    if as_json:
        emit(dict(found), [], as_json=True, quiet=quiet)
        return
    table("criteria", ["criterion", "what removing layers costs"], list(found["criteria"].items()), quiet=quiet)
    table("strategies", ["strategy", "how the layers are chosen"], list(found["strategies"].items()), quiet=quiet)

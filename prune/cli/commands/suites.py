"""`prune suites`."""

from __future__ import annotations

from typing import Annotated

import typer

from prune.cli.flags import Json, Quiet
from prune.cli.show import emit, table


def command(
    data: Annotated[
        bool, typer.Option("--data", help="Where the files of each task come from, for machines without a hub.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """What there is to test on: suites of tasks, and where the files of each task come from."""
    from prune import api

    found = api.suites()
    if as_json:
        emit(found, [], as_json=True, quiet=quiet)
    elif data:
        columns = ["suite", "task", "data set", "files for --local_data", "publisher", "licence"]
        rows = [
            [name, task, row["data_set"], row["files"], row["publisher"], row["licence"]]
            for name, suite in found.items()
            for row in suite["data"]
            for task in row["tasks"]
        ]
        table("data", columns, rows, quiet=quiet)
        notes = [
            "--local_data DIR: put each data set's files into a folder named after it below DIR; or a copy of the hub "
            "data set as DIR/ORG/NAME (hf download --repo-type dataset ORG/NAME --local-dir DIR/ORG/NAME)",
            "licences as the publishers state them: check before use; the demo's suites need no files",
        ]
        emit({}, notes, as_json=False, quiet=quiet)
    else:
        rows = [[name, s["title"], f"{s['floor']:.2f}", ", ".join(s["tasks"])] for name, s in found.items()]
        table("suites", ["suite", "question", "floor", "tasks"], rows, quiet=quiet)
        note = "where their files come from: prune suites --data; your own: a YAML file for a name (evals/README.md)"
        emit({}, [note], as_json=False, quiet=quiet)


def listing() -> str:
    """The suites for the help of a command that takes them, a paragraph each."""
    from prune import api

    found = (f"{name}: {', '.join(suite['tasks'])}." for name, suite in api.suites().items())
    return "\n\n".join(
        ["Suites, and the tasks that count (`prune suites --data`: where their files come from):", *found]
    )

"""What several functions take: domains of documents, suites of tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.data import domains
from prune.data.domains import Domain, parse_data_flag
from prune.data.rows import ENDINGS, Documents
from prune.errors import UsageError
from prune.files import require_utf8

if TYPE_CHECKING:
    from evals.suite import Suite

Data = Mapping[str, Documents] | Sequence[str]
"""Domains: a mapping of a name to strings, rows or a path, or the flag's own form `["general=stories.txt"]`."""


class DryRun(dict[str, Any]):
    """What `dry_run=True` gives instead of a result: what would be done, by name. The input was checked; nothing was
    written."""


def check_files(data: Data) -> dict[str, Documents]:
    """Domains as a mapping of names to paths, or to lists of what is in memory.

    Raises:
        UsageError: no domain, one named twice, a flag without `=`, documents without a name, or a missing local file.
    """
    if isinstance(data, str):
        data = [data]
    flags = list(data.items()) if isinstance(data, Mapping) else [parse_data_flag(flag) for flag in data]
    pairs = {name: _source(name, source) for name, source in flags}
    if not pairs:
        raise UsageError("--data is missing: give at least one NAME=PATH, or a mapping of names to documents")
    if len(pairs) < len(flags):
        twice = next(name for name in pairs if sum(name == other for other, _ in flags) > 1)
        raise UsageError(f"--data {twice}: the domain is named twice; give each file a name of its own")
    return pairs


def _source(name: str, source: Documents) -> Documents:
    """A path as text, everything else as a list: an iterator can be read once only."""
    if not isinstance(source, str | Path):
        if isinstance(source, Mapping) or not isinstance(source, Iterable):
            raise UsageError(f"--data {name}: is {type(source).__name__}; give a path, or a list of strings or rows")
        return list(source)
    path = str(source)
    require_utf8(Path(path))
    local = isinstance(source, Path) or path.lower().endswith(ENDINGS) or path.startswith(("/", "."))
    if local and not Path(path).is_file():
        raise UsageError(f"--data {name}={path}: no such file")
    return path


def load_domains(
    data: Data, tokenizer: Any, seq_length: int, count: int | None, seed: int, *, sample: bool = False
) -> dict[str, Domain]:
    """Every domain of `data`, checked, read and tokenised (or a sample); see `prune.data.domains.load_domain`."""
    options: dict[str, Any] = {"seq_length": seq_length, "calib_num_samples": count, "seed": seed, "sample": sample}
    return domains.load_domains(check_files(data), tokenizer, **options)


def named(names: str | Sequence[str]) -> list[str]:
    """Names as a list; one string is one name, or several with commas as on the command line."""
    return [part.strip() for part in names.split(",") if part.strip()] if isinstance(names, str) else list(names)


def load_suites(names: str | Sequence[str], size: str) -> list[Suite]:
    """Built-in suites and YAML files, at `quick` or `full` size.

    Raises:
        UsageError: another size.
        evals.errors.EvalUsageError: no such suite, or a field of its file is wrong.
    """
    if size not in {"quick", "full"}:
        raise UsageError(f"--size {size!r}: use quick or full")
    return [_suite(name).sized(size) for name in named(names)]  # type: ignore[arg-type]


def _suite(name: str) -> Suite:
    """A built-in suite, one of the demo's, or a YAML file."""
    from evals.suite import load_suite
    from prune.embedded import SUITES, TASKS

    if name not in SUITES:
        return load_suite(name)
    suite = load_suite(SUITES[name])
    places = {spec.task: str(TASKS / f"{spec.task.removeprefix('demo_')}.yaml") for spec in suite.tasks}
    return suite.model_copy(
        update={"tasks": [spec.model_copy(update={"definition": places[spec.task]}) for spec in suite.tasks]}
    )

"""Which files a score depends on: those that lm-eval opens while it loads tasks, and those their code comes from.

Task files, what they include, the Python beside them and the rows they read may lie anywhere, so what is opened is
watched (Python's audit events) instead of guessed. Two things are opened once and remembered by libraries: modules,
which are found again from the loaded tasks, and data sets, whose builders say what files they are of, cached or not.
What belongs to an installed library or a cache is left out: versions and the documents' own hashes stand for those.
Not seen: a file that a task's code opens only while it scores an answer; put it beside the task file.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import inspect
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from evals.homes import cache_directory
from evals.sealed import file_hash

_WATCHING: list[set[str]] = []
_SEEN: dict[tuple[tuple[str, ...], str], set[str]] = {}


def seen(include_path: Sequence[Path], local_data: Path | None) -> set[str]:
    """The growing set of files that tasks of these folders have read in this process; libraries read a file once."""
    return _SEEN.setdefault((tuple(map(str, include_path)), str(local_data)), set())


def files_read(include_path: Sequence[Path] = (), local_data: Path | None = None) -> dict[str, str]:
    """Path -> SHA-256 of the files that tasks of these folders have read so far, outside of the folders themselves."""
    folders = [Path(folder).resolve() for folder in (*include_path, *([local_data] if local_data else []))]
    paths = sorted(path for path in seen(include_path, local_data) if Path(path).is_file())
    return {path: file_hash(Path(path)) for path in paths if not any(Path(path).is_relative_to(f) for f in folders)}


@contextlib.contextmanager
def watched(files: set[str]) -> Iterator[None]:
    """Add every file that is opened to be read, and every file of a data set that is loaded."""
    opened: set[str] = set()
    _hook()
    _WATCHING.append(opened)
    try:
        with _data_sets_watched(files):
            yield
    finally:
        _WATCHING.remove(opened)
        files.update(path for path in map(_source, opened) if _counts(path))


def code_files(task: Any) -> list[Path]:
    """The Python files that a loaded task's functions come from, and the ones these import; libraries' left out."""
    waiting = {_module_of(value) for value in (type(task), *_callables(vars(task.config)))}
    found: dict[str, Path] = {}
    while waiting:
        module = waiting.pop()
        path = _source(os.path.realpath(getattr(module, "__file__", None) or ""))
        if module is None or path in found or not path.endswith(".py") or not _counts(path):
            continue
        found[path] = Path(path)
        waiting |= {v if isinstance(v, ModuleType) else _module_of(v) for v in vars(module).values()}
    return sorted(found.values())


def _callables(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _callables(item)
    elif callable(value):
        yield value


def _module_of(value: Any) -> ModuleType | None:
    while isinstance(value, functools.partial):
        value = value.func
    if not (inspect.isclass(value) or inspect.isroutine(value)):
        value = type(value)
    return sys.modules.get(getattr(value, "__module__", None) or "")


@functools.cache
def _hook() -> None:
    """Installed once: an audit hook stays for the life of the process, and looks at nothing while nobody watches."""

    def hear(event: str, arguments: Any) -> None:
        if not _WATCHING or event != "open":
            return
        path, _, flags = arguments
        if isinstance(path, str | bytes) and not (flags or 0) & (os.O_WRONLY | os.O_RDWR):
            _WATCHING[-1].add(os.path.realpath(os.fsdecode(path)))

    sys.addaudithook(hear)


@contextlib.contextmanager
def _data_sets_watched(files: set[str]) -> Iterator[None]:
    """The data library opens no file of a data set that it has in its cache; its builders know them by name."""
    from datasets import DatasetBuilder

    begin = DatasetBuilder.__init__

    @functools.wraps(begin)
    def noted(self: Any, *arguments: Any, **options: Any) -> None:
        begin(self, *arguments, **options)
        for paths in (self.config.data_files or {}).values():
            files.update(os.path.realpath(path) for path in map(str, paths) if "://" not in path)

    DatasetBuilder.__init__ = noted  # type: ignore[method-assign]
    try:
        yield
    finally:
        DatasetBuilder.__init__ = begin  # type: ignore[method-assign]


def _source(path: str) -> str:
    """The Python file that a compiled one was made of; Python opens the compiled one where that is newer."""
    if path.endswith(".pyc"):
        with contextlib.suppress(ValueError):
            return importlib.util.source_from_cache(path)
    return path


def _counts(path: str) -> bool:
    return not any(path.startswith(place) for place in _left_out()) and os.path.isfile(path)


@functools.cache
def _left_out() -> tuple[str, ...]:
    """Beginnings of paths: libraries, this package, caches, and what is no file of the user's."""
    from huggingface_hub import constants

    installed = (sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    caches: Iterable[str | Path] = (constants.HF_HOME, os.environ.get("HF_DATASETS_CACHE", ""), cache_directory(""))
    places = [*installed, str(Path(__file__).parent), *map(str, caches), "/proc", "/sys", "/dev", "/etc"]
    return tuple(f"{os.path.realpath(place)}{os.sep}" for place in places if place)

"""Finished tasks as JSON, below the fingerprint of the model that answered: never a pickle, never another model's."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.errors import EvalError
from evals.reads import code_files
from evals.records import TaskResult, file_name, load_results, save_results, write_text
from evals.sealed import sealed, tree_hashes, unsealed
from evals.suite import TaskSpec

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask

log = logging.getLogger("evals")
WHOLE = "whole.json"


class FinishedTasks:
    """Finished tasks as JSON below directory/FINGERPRINT/; never a pickle, never another model's."""

    def __init__(self, directory: Path, fingerprint: str) -> None:
        self.directory = Path(directory) / fingerprint

    def entry(self, specs: list[TaskSpec], leaves: dict[str, ConfigurableTask], settings: dict[str, Any]) -> Path:
        """Where a run's results lie: named after the task's wording, its documents and examples, and the settings."""
        digest = hashlib.blake2b(digest_size=12)
        asked = [spec.model_dump(exclude={"chance", "report_only", "quick", "limit", "definition"}) for spec in specs]
        digest.update(json.dumps([settings, asked], sort_keys=True).encode())
        for leaf, task in leaves.items():
            # The documents count, not the place they were read from.
            places = {"dataset_path", "dataset_name", "dataset_kwargs", "metadata"}
            config = {key: value for key, value in task.dump_config().items() if key not in places}
            digest.update(leaf.encode() + json.dumps(config, sort_keys=True, default=str).encode())
            for path in code_files(task):  # a function's own text stands in the config, what it calls does not
                digest.update(path.read_bytes())
            documents = itertools.islice(task.eval_docs, settings["limit"])
            examples = task.fewshot_docs() if task.config.num_fewshot else ()
            for doc in itertools.chain(documents, examples or ()):
                digest.update(json.dumps(doc, sort_keys=True, default=str).encode())
        return self.directory / f"{file_name(specs[0].task)}-{digest.hexdigest()}"


def finished(entry: Path | None, specs: list[TaskSpec]) -> dict[str, TaskResult] | None:
    """What an earlier run of the same task left whole; a damaged entry is named, removed and done again."""
    if entry is None or not (entry / WHOLE).is_file():
        return None
    try:
        files = {name: digest for name, digest in tree_hashes(entry).items() if name != WHOLE}
        if unsealed((entry / WHOLE).read_bytes())["files"] != files:
            raise ValueError("not as it was written")
        found = load_results(entry)
    except (ValueError, KeyError, OSError, EvalError) as error:
        log.warning("%s: damaged (%s); the task is done again", entry, error)
        return None
    return found if set(found) == {spec.key for spec in specs} else None


def keep(entry: Path, results: Mapping[str, TaskResult]) -> None:
    """Keep a task's results for `finished`: the hashes of the files come last, so that half a result is none."""
    shutil.rmtree(entry, ignore_errors=True)
    save_results(results, entry)
    write_text(entry / WHOLE, sealed({"files": tree_hashes(entry)}) + "\n")

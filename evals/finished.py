"""Finished tasks as JSON, below the fingerprint of the model that answered: never a pickle, never another model's."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.records import TaskResult, file_name, load_results
from evals.suite import TaskSpec

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask


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
            documents = itertools.islice(task.eval_docs, settings["limit"])
            examples = task.fewshot_docs() if task.config.num_fewshot else ()
            for doc in itertools.chain(documents, examples or ()):
                digest.update(json.dumps(doc, sort_keys=True, default=str).encode())
        return self.directory / f"{file_name(specs[0].task)}-{digest.hexdigest()}"


def finished(entry: Path | None, specs: list[TaskSpec]) -> dict[str, TaskResult] | None:
    if entry is None or not (entry / "results.json").is_file():
        return None
    found = load_results(entry)
    # Killed between two specs of one run: the rest is not there, so the run is done again.
    return found if set(found) == {spec.key for spec in specs} else None

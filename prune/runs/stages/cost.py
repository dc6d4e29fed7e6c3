"""The stage that measures what every depth costs: parameters, bytes, KV bytes, prefill and decode speed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from prune.files import write_json
from prune.runs.outputs import COSTS

if TYPE_CHECKING:
    from prune.runs.following import Directory
    from prune.runs.inputs import RunInputs
    from prune.runs.verdict import CandidateKey


def measure_cost(inputs: RunInputs, run: Directory, checkpoints: dict[CandidateKey, str]) -> None:
    """Size and speed of the original and of every depth, in turn, into `evidence/cost.json`."""
    from evals.measured import measure_models

    options = inputs.recipe.cost

    def work(target: Path) -> None:
        models = {"original": inputs.original}
        for key in checkpoints:
            if key.stage == "pruned":  # healing changes no shape, hence no speed
                models[str(key.num_layers)] = inputs.candidate(inputs.root / key.path)
        directories = {name: inputs.root / f"pruned/{name}" for name in models}
        measured = measure_models(
            models,
            directories | {"original": inputs.source.directory},
            batch_size=options.batch_size,
            prompt_tokens=options.prompt_tokens,
            new_tokens=options.new_tokens,
            repeats=options.repeats,
        )
        write_json(target, {name: found.to_dict() for name, found in measured.items()})

    depends_on = {
        "model": inputs.source_hash,
        "checkpoints": {str(k): v for k, v in checkpoints.items() if k.stage == "pruned"},
        "options": options.model_dump(include={"batch_size", "prompt_tokens", "new_tokens", "repeats"}),
        "versions": inputs.versions,
        **inputs.arithmetic,
    }
    if inputs.recipe.device_map is not None:  # moves layers, hence speeds
        depends_on |= {"placement": {"device_map": inputs.recipe.device_map, "max_memory": inputs.recipe.max_memory}}
    run.stage("cost", COSTS, depends_on, work)

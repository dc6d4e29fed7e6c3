"""The stage that measures what every depth costs: parameters, bytes, KV bytes, prefill and decode speed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from prune.files import write_json
from prune.model.loading import load_model

if TYPE_CHECKING:
    from prune.runs.directory import RunDirectory
    from prune.runs.pipeline import Pipeline
    from prune.runs.verdict import CandidateKey


def measure_cost(
    pipeline: Pipeline, run: RunDirectory, checkpoints: dict[CandidateKey, str], versions: dict[str, str]
) -> None:
    """Size and speed of the original and of every depth, in turn, into `evidence/cost.json`."""
    from evals.cost import footprint
    from evals.throughput import measure_side_by_side

    options = pipeline.recipe.cost

    def work(target: Path) -> None:
        models = {"original": pipeline.original}
        for key in checkpoints:
            if key.stage == "pruned":  # healing changes no shape, hence no speed
                models[str(key.num_layers)] = load_model(str(pipeline.root / key.path), dtype=pipeline.recipe.dtype)
        speeds = measure_side_by_side(
            models,
            batch_size=options.batch_size,
            prompt_tokens=options.prompt_tokens,
            new_tokens=options.new_tokens,
            repeats=options.repeats,
        )
        rows = {}
        for name, model in models.items():
            directory = Path(pipeline.source) if name == "original" else pipeline.root / f"pruned/{name}"
            size = sum(f.stat().st_size for f in directory.glob("*.safetensors")) if directory.is_dir() else None
            rows[name] = {
                **footprint(model).to_dict(),
                **({"bytes": size} if size else {}),
                "throughput": speeds[name].to_dict(),
            }
        write_json(target, rows)

    inputs = {
        "model": pipeline.source_hash,
        "checkpoints": {str(k): v for k, v in checkpoints.items() if k.stage == "pruned"},
        "options": options.model_dump(include={"batch_size", "prompt_tokens", "new_tokens", "repeats"}),
        "versions": versions,
    }
    run.stage("cost", "evidence/cost.json", inputs, work)

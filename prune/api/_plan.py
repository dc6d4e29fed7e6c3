"""`prune.plan`: decide which layers go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prune.api._inputs import load_domains
from prune.errors import UsageError

if TYPE_CHECKING:
    from prune.planning.plan import Plan


def plan(
    analysis: str | Path,
    output: str | Path,
    *,
    criterion: str = "dnll",
    strategy: str = "greedy",
    num_layers: int | None = None,
    drop_fraction: float | None = None,
    target_params: int | None = None,
    drop_layers: str | Sequence[int] | None = None,
    protect: str | Sequence[int] = (),
    domain_weights: Mapping[str, float] | None = None,
    seed: int = 0,
    dry_run: bool = False,
) -> Plan:
    """Decide which layers go, and write `plan.json`.

    The model and the calibration data are read again from where the analysis found them, only when the criterion
    or the strategy needs them.

    Args:
        analysis: directory that `prune analyze` wrote.
        output: new plan file.
        num_layers, drop_fraction, target_params, drop_layers: exactly one; layers that remain, share of the layers
            that goes, parameters that remain at most, or the layers themselves.
        protect: layers that always stay.
        domain_weights: weight of each domain; equal if None.

    Raises:
        UsageError: unknown names, no budget or several, a budget that cannot be met.
    """
    from prune.analysis.result import Analysis
    from prune.planning.planner import make_plan
    from prune.surgery.layers import parse_layers

    target = Path(output)
    if target.exists():
        raise UsageError(f"{target} exists: give -o a new file, or remove it first")
    found = Analysis.load(Path(analysis))
    options = found.info.get("calibration") or {}
    scored_on_documents = criterion == "taylor" or (criterion == "dnll" and strategy != "one_shot")
    needs_model = target_params is not None or criterion == "magnitude" or scored_on_documents
    model = domains = None
    if needs_model and drop_layers is None:
        from prune.model.loading import load_model, load_tokenizer
        from prune.pipeline import model_directory

        source = model_directory(found.info["model"])
        model = load_model(source, dtype=options.get("dtype", "float32"), revision=options.get("revision"))
        if scored_on_documents:
            if "files" not in options:
                raise UsageError(f"{analysis}: does not say which documents it used; run `prune analyze` again")
            domains = load_domains(
                options["files"],
                load_tokenizer(source, revision=options.get("revision")),
                options["seq_length"],
                options["calib_num_samples"],
                options["seed"],
            )
            for name, domain in domains.items():
                if domain.sha256 != found.info["data"][name]["sha256"]:
                    raise UsageError(f"{domain.source}: changed since the analysis; run `prune analyze` again")
    result = make_plan(
        source=found.info["model"],
        analysis=found,
        model=model,
        domains=domains,
        criterion=criterion,
        strategy=strategy,
        num_layers=num_layers,
        drop_fraction=drop_fraction,
        target_params=target_params,
        drop_layers=parse_layers(drop_layers) if isinstance(drop_layers, str) else drop_layers,
        protect=parse_layers(protect) if isinstance(protect, str) else protect,
        domain_weights=domain_weights,
        seed=seed,
    )
    if not dry_run:
        result.save(target)
    return result

"""The result of an analysis: named arrays plus a readable sidecar.

`measurements.safetensors` holds float32 arrays under the keys of README.md (`name[/part][/statistic]`, a second
group under `by_domain/NAME/...`, interval ends under the same key with `.lo` / `.hi`); `analysis.json` holds the rest.
What was not measured is absent, never zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from prune.analysis.axes import axes
from prune.analysis.display import page, terminal
from prune.errors import PruneError, UsageError, nearest
from prune.files import follow_umask, read_json_file, staged_directory, write_json

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

ENDS = ("lo", "hi")
NATS = ("dnll", "kl")  # last parts of keys whose figures are in nats


class NotMeasured(PruneError, KeyError):  # noqa: N818 (a lookup without an answer)
    """No such key in the analysis; a KeyError too, so that `in` and `get` work as for any mapping."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would show it in quotes


@dataclass(eq=False, repr=False)
class Analysis(Mapping[str, np.ndarray]):
    """Measurements of one model on one calibration set: a mapping of keys to float32 arrays.

    Attributes:
        info: JSON-serialisable: `model`, `revision`, `num_layers`, `hashes`, `data` (documents, tokens and exclusions
            by domain), `seed`, `versions`, `scalars`, `phase_changes`, `stability`, `warnings`.
        measurements: key -> float32 array; shapes as in README.md.
    """

    info: dict[str, Any]
    measurements: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def num_layers(self) -> int:
        """L."""
        return int(self.info["num_layers"])

    @property
    def domains(self) -> list[str]:
        """Names of the domains that have figures of their own."""
        return sorted({key.split("/")[1] for key in self.measurements if key.startswith("by_domain/")})

    def __getitem__(self, key: str) -> np.ndarray:
        """A measurement.

        Raises:
            NotMeasured: a PruneError and a KeyError; names what to measure.
        """
        if key not in self.measurements:
            raise NotMeasured(f"the analysis holds no {key!r}: run `prune analyze` again with a measure that gives it")
        return self.measurements[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.measurements)

    def __len__(self) -> int:
        return len(self.measurements)

    def __eq__(self, other: object) -> bool:
        """The same account and the same figures to the bit."""
        if not isinstance(other, Analysis):
            return NotImplemented
        if self.info != other.info or self.measurements.keys() != other.measurements.keys():
            return False
        return all(np.array_equal(value, other.measurements[key], equal_nan=True) for key, value in self.items())

    __hash__ = None  # type: ignore[assignment]  # compared by value, and mutable

    def __repr__(self) -> str:
        return terminal(self.info, self.measurements)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return page(self.info, self.measurements)

    def of_domain(self, key: str, domain: str) -> np.ndarray:
        """A measurement on one domain's documents only."""
        return self[f"by_domain/{domain}/{key}"]

    def array(self, key: str, domain: str | None = None, *, end: Literal["lo", "hi"] | None = None) -> xr.DataArray:
        """A measurement with named axes: `analysis.array("output_effect/dnll", domain="math").sel(layer=3)`.

        Axes: `layer` [L], `depth` of the stream [L+1] (0 before the first layer), `skipped` and `affected` [L, L],
        `from_depth` and `to_depth` [L+1, L+1]; the others stand in `prune.analysis.axes.NAMED`.

        Args:
            key: as in prune/analysis/README.md.
            domain: figures of that domain's documents only; of all if None.
            end: `lo` or `hi`: that end of the interval instead of the figure.

        Returns:
            Float32; the interval, where there is one, as the coordinates `lo` and `hi` of the same shape; attributes
            `model`, `domain` and, where they are not plain ratios, `units`.

        Raises:
            NotMeasured: no such figure, or no interval where `end` asks for one.
            UsageError: no such domain, or another `end`.
        """
        import xarray as xr

        if end is not None and end not in ENDS:
            raise UsageError(f"end: {nearest(str(end), ENDS)}")
        place = f"{self._prefix(domain)}{key}"
        plain, _, asked = key.rpartition(".") if key.endswith((".lo", ".hi")) else (key, "", "")
        value = self[f"{place}.{end}" if end else place]
        named = axes(plain, value.shape, self.num_layers)
        attributes = {"model": str(self.info.get("model", "")), "domain": domain or "all documents"}
        if plain.rpartition("/")[2] in NATS:
            attributes["units"] = "nats"
        coordinates: dict[str, Any] = dict(named)
        if not end and not asked:
            bounds = {name: self.get(f"{place}.{name}") for name in ENDS}
            coordinates |= {name: (list(named), bound) for name, bound in bounds.items() if bound is not None}
        title = f"{key}.{end}" if end else key
        return xr.DataArray(value, dims=list(named), coords=coordinates, name=title, attrs=attributes)

    def frame(self, domain: str | None = None, *, intervals: bool = False) -> pd.DataFrame:
        """Every figure that is one a layer, as a table: `analysis.frame()["block_influence"].nsmallest(4)`.

        Args:
            domain: figures of that domain's documents only; of all if None.
            intervals: also the ends, as columns `KEY.lo` and `KEY.hi`.

        Returns:
            One row a layer (index `layer`, L rows), one column a key; NaN where a layer has no figure, as the last one
            has none in a swap. Float32.

        Raises:
            UsageError: no such domain.
        """
        import pandas as pd

        prefix, columns = self._prefix(domain), {}
        for place, value in self.items():
            key = place.removeprefix(prefix)
            end = key.endswith((".lo", ".hi"))
            if not place.startswith(prefix) or key.startswith("by_domain/") or (end and not intervals):
                continue
            if list(axes(key.rpartition(".")[0] if end else key, value.shape, self.num_layers)) == ["layer"]:
                columns[key] = np.pad(value, (0, self.num_layers - len(value)), constant_values=np.nan)
        return pd.DataFrame(columns, index=pd.RangeIndex(self.num_layers, name="layer"))

    def _prefix(self, domain: str | None) -> str:
        if domain is None:
            return ""
        if domain not in self.domains:
            raise UsageError(f"domain: unknown domain {nearest(domain, self.domains)}")
        return f"by_domain/{domain}/"

    def save(self, directory: Path) -> None:
        """Write both files; the directory appears only when complete.

        Raises:
            UsageError: the directory is not empty.
        """
        from safetensors.numpy import save_file

        arrays = {k: np.ascontiguousarray(v, dtype=np.float32) for k, v in sorted(self.measurements.items())}
        with staged_directory(directory) as staging:
            save_file(arrays, staging / "measurements.safetensors")
            follow_umask(staging / "measurements.safetensors")
            write_json(staging / "analysis.json", self.info)

    @classmethod
    def load(cls, directory: str | Path) -> Self:
        """Read both files.

        Raises:
            UsageError: one is missing.
        """
        from safetensors.numpy import load_file

        directory = Path(directory)
        for name in ("analysis.json", "measurements.safetensors"):
            if not (directory / name).is_file():
                raise UsageError(f"{directory}: no {name} there; give the -o directory of `prune analyze`")
        info = read_json_file(directory / "analysis.json")
        return cls(info, load_file(directory / "measurements.safetensors"))

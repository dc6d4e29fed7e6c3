"""What a plan is made for: an analysis, a model, or both, each part fetched only when asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.analysis.result import Analysis as Measurements
from prune.api._analysis import Analysis, Origin
from prune.api._given import Given, Model, given
from prune.api._inputs import Data, check_files, load_domains
from prune.data.settings import DocumentSettings
from prune.errors import UsageError
from prune.files import sha256_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prune.data.domains import Domain
    from prune.planning.evaluator import Evaluator
    from prune.planning.planner import Inputs


def planned_for(
    analysis_or_model: Model | Measurements,
    data: Data | None,
    tokenizer: Any,
    documents: DocumentSettings,
    seed: int,
    loading: dict[str, Any],
) -> Subject:
    """Which of the three the caller gave.

    Raises:
        UsageError: none of them, or an analysis whose model has been changed since.
    """
    if data is not None:
        data = check_files(data)
    rest = (data, tokenizer, documents, seed, loading)
    if isinstance(analysis_or_model, Measurements):
        origin = analysis_or_model.origin if isinstance(analysis_or_model, Analysis) else None
        if origin is not None and origin.model is not None:
            now = sha256_json(origin.model.config.to_dict())
            if now != analysis_or_model.info["hashes"]["config"]:
                raise UsageError("the model was changed since this analysis was made: analyze it again")
        return Subject(analysis_or_model, None, None, origin, *rest)
    if isinstance(analysis_or_model, str | Path):
        directory = Path(analysis_or_model)
        if directory.is_dir() and not (directory / "config.json").exists():
            return Subject(Measurements.load(directory), directory, None, None, *rest)
    return Subject(None, None, given(analysis_or_model, tokenizer, **loading), None, *rest)


@dataclass
class Subject:
    """What is planned for: an analysis, a model, or both; each part fetched only when asked for.

    Attributes:
        analysis: measurements, if any.
        directory: where the analysis was read from, if it was.
        given: the model, where the caller named or gave one.
        origin: what an analysis in memory was made from.
        data: documents that the caller gave for scoring.
        tokenizer: that the caller gave.
        documents, seed: how those are cut and drawn.
        loading: permissions, for a model that is read again.
        device: where it is read to; None: wherever the loading says.
        evaluator: scores subsets of a model whose layers stay on disk.
    """

    analysis: Measurements | None
    directory: Path | None
    given: Given | None
    origin: Origin | None
    data: Data | None
    tokenizer: Any
    documents: DocumentSettings
    seed: int
    loading: dict[str, Any]
    device: str | None = None
    evaluator: Evaluator | None = None

    @property
    def label(self) -> str:
        """The model's name in the plan."""
        if self.given is not None:
            return self.given.label
        assert self.analysis is not None
        return str(self.analysis.info["model"])

    @property
    def model(self) -> PreTrainedModel | None:
        """The caller's own model, if it is in memory."""
        return self.given.in_memory if self.given else self.origin.model if self.origin else None

    def inputs(self) -> Inputs:
        """For the planner."""
        if self.evaluator is not None:
            return {"analysis": self.analysis, "locate": self._locate, "evaluator": self.evaluator}
        found: Inputs = {
            "analysis": self.analysis,
            "load_model": lambda: self._loaded,
            "load_domains": self.load_domains,
        }
        if self.model is not None:
            found |= {"model": self.model, "in_memory": True}
            return found
        found["locate"] = self._locate
        if self.analysis is None:
            found["model"] = self._loaded
        return found

    def depth(self) -> int:
        """Layers of the model."""
        if self.evaluator is not None:
            return self.evaluator.num_layers
        if self.analysis is not None:
            return self.analysis.num_layers
        from prune.model.layer_list import find_layer_list

        return len(find_layer_list(self.model if self.model is not None else self._loaded)[1])

    def config(self) -> dict[str, Any]:
        """config.json of the model."""
        if self.model is not None:
            return dict(self.model.config.to_dict())
        from prune.checkpoint.directory import read_config

        return read_config(self._locate(), self.loading.get("allow_links", False))

    @cached_property
    def named(self) -> Given:
        """The model behind the analysis, resolved again."""
        if self.given is not None:
            return self.given
        assert self.analysis is not None
        options = self.analysis.info.get("calibration") or {}
        if options.get("in_memory"):
            raise UsageError("the analysis is of a model that was in memory: give the model and its data to plan with")
        loading = {**self.loading, "dtype": options.get("dtype", "float32")}
        return given(self.label, self.tokenizer, **{**loading, "revision": self.analysis.info.get("revision")})

    def _locate(self) -> Path:
        source = self.named.source
        assert source is not None
        return source.directory

    @cached_property
    def _loaded(self) -> PreTrainedModel:
        return self.named.model(self.device)

    def load_domains(self) -> Mapping[str, Domain]:
        """The documents that candidates are scored on.

        Raises:
            UsageError: there are none, or they have changed since the analysis.
        """
        if self.data is not None:
            subject = given(self.model, self.tokenizer) if self.model is not None else self.named
            asked = self.documents
            return load_domains(self.data, subject.tokenizer, asked.seq_length, asked.calib_num_samples, self.seed)
        if self.origin is not None:
            return self.origin.domains
        if self.analysis is None:
            raise UsageError("--data is missing: the criterion runs the model on documents; give --data")
        return self._read_again(self.analysis)

    def _read_again(self, found: Measurements) -> Mapping[str, Domain]:
        """The documents of an analysis on disk.

        Raises:
            UsageError: they were in memory, or have changed since.
        """
        options, where = found.info.get("calibration") or {}, self.directory or "the analysis"
        if "files" not in options:
            raise UsageError(f"{where}: does not say which documents it used; run `prune analyze` again")
        if absent := [name for name, path in options["files"].items() if path is None]:
            raise UsageError(f"--data {absent[0]}: was in memory and is not in {where}; give --data again")
        if gone := [f"{name}={path}" for name, path in options["files"].items() if _is_gone(path)]:
            raise UsageError(
                f"{where}: was made from documents that are not here ({', '.join(gone)}): give them with --data, or "
                "plan from the measurements alone with --criterion block_influence --strategy one_shot"
            )
        tokenizer = self.named.tokenizer
        loaded = load_domains(
            options["files"], tokenizer, options["seq_length"], options["calib_num_samples"], options["seed"]
        )
        for name, domain in loaded.items():
            if domain.sha256 != found.info["data"][name]["sha256"]:
                raise UsageError(f"{domain.source}: changed since the analysis; run `prune analyze` again")
        return loaded


def _is_gone(path: str) -> bool:
    """Whether a file's full path leads nowhere here, as in a copy of another machine's analysis; a hub id has none."""
    return Path(path).is_absolute() and not Path(path).exists()

"""The pair in the runtime that will serve it: vLLM on the checkpoints, llama.cpp on GGUF files made of them.

llama.cpp reads quantised weights, and a draft may be wrong without harm, so its draft is written in blocks of four bits
(or eight): that makes the head cheaper, which is most of a small draft. The original stays in float32, as it is
computed elsewhere.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.draft_trials import DraftResult, Mismatch, TrialLog
from evals.runtimes import installed
from evals.served_drafts import SERVED, ServedPair
from evals.speculation import Costs
from prune.checkpoint.depth_fields import depth_of
from prune.checkpoint.source import Source
from prune.drafting.rounding import DraftType

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prune.drafting.settings import DraftSettings
    from prune.healing.prompts import Prompt

ROOM = 32
"""Positions beyond the longest prompt and answer: proposals may run past the end."""


def serves(runtime: str) -> bool:
    """Whether pairs can be measured in it here."""
    return runtime in SERVED and installed(runtime)


class Served:
    """A model in another runtime, with drafts of it.

    Args:
        source: the original.
        directory: for converted files; what is there already is used again.
        room: tokens of the longest prompt and answer.
        draft_type: blocks of a draft's file; of llama.cpp alone.
    """

    def __init__(self, runtime: str, source: Source, directory: Path, room: int, draft_type: DraftType) -> None:
        import torch

        self.runtime, self._source, self._directory = runtime, source, directory
        self.draft_type = draft_type if runtime == "llama.cpp" else None
        self._options = {
            "dtype": "float32",
            "threads": torch.get_num_threads(),
            "max_model_len": room + ROOM,
            "batch_size": 1,
        }
        self.version = ""

    def costs(
        self, candidates: Sequence[Sequence[int]], prompts: Sequence[Sequence[int]]
    ) -> list[tuple[float, float, float]]:
        """c of every candidate with its interval, measured on the layers as they were cut.

        Raises:
            PruneError, EvalError: a candidate cannot be cut, or the runtime cannot read it.
        """
        found = []
        for keep in candidates:
            with self._cut(keep) as pair:
                found.append(pair.cost(prompts))
        return found

    def rounds(self, keep: Sequence[int], prompts: Sequence[Sequence[int]], cost: float) -> Costs:
        """What rounds cost, measured with these layers as they were cut.

        Args:
            cost: c of theirs.
        """
        with self._cut(keep) as pair:
            return pair.costs(prompts, cost)

    @contextlib.contextmanager
    def _cut(self, keep: Sequence[int]) -> Iterator[ServedPair]:
        from prune.surgery.cut import cut

        place = self._directory / f"cut-{len(keep)}"
        place.unlink() if place.is_symlink() else shutil.rmtree(place, ignore_errors=True)
        if len(keep) == depth_of(self._source.checkpoint.config):
            place.symlink_to(self._source.directory.absolute())
        else:
            cut(self._source, place, keep_layers=list(keep))
        try:
            with ServedPair(self.runtime, *self._files(place), self._options) as pair:
                yield pair
        finally:
            place.unlink() if place.is_symlink() else shutil.rmtree(place)
            self._file(place).unlink(missing_ok=True)

    def measure(
        self,
        original: PreTrainedModel,
        draft: Path,
        prompts: Mapping[str, Sequence[Prompt]],
        tokens: Mapping[str, int],
        settings: DraftSettings,
        *,
        costs: Costs,
        key: Any,
    ) -> dict[str, DraftResult]:
        """By domain: every prompt plainly and assisted.

        Args:
            original: tells how near to a tie it was where outputs part.
            draft: the trained checkpoint.
            costs: as measured before.
            key: what decides the trials that a killed run left.
        """
        import torch

        from evals.speculative import find_mismatch

        @torch.no_grad()
        def parting(number: int, plain: list[int], helped: list[int], length: int) -> Mismatch:
            return find_mismatch(original, number, plain, helped, length)

        logs = {
            name: TrialLog(self._directory / f"trials-{name}.jsonl", [key, self.runtime, tokens[name]])
            for name in prompts
        }
        with ServedPair(self.runtime, *self._files(draft), self._options) as pair:
            self.version = pair.version
            return pair.measure(
                {name: [p.input_ids for p in members] for name, members in prompts.items()},
                tokens,
                costs=costs,
                max_new_tokens=settings.max_new_tokens,
                ignore_eos=settings.ignore_eos,
                logs=logs,
                parting=parting,
            )

    def gguf(self, checkpoint: Path) -> Path | None:
        """The draft's file, where the runtime reads one."""
        return self._file(checkpoint) if self.draft_type else None

    def _file(self, checkpoint: Path) -> Path:
        return self._directory / f"{checkpoint.name}.gguf"

    def _files(self, draft: Path) -> tuple[Path, Path]:
        """What the runtime loads: the original and the draft."""
        if self.runtime != "llama.cpp":
            return self._source.directory, draft
        from evals.gguf_conversion import to_gguf

        original = self._directory / "original.gguf"
        if not original.is_file():
            to_gguf(self._source.directory, original, "f32")
        assert self.draft_type
        to_gguf(draft, self._file(draft), self.draft_type)
        return original, self._file(draft)

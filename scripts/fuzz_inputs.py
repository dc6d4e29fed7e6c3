"""Fuzz the door with hypothesis: whole configs of several families, index files and LoRA adapters, broken anywhere.

Each case goes through `prune cut --dry_run` and, where its weights are those of a whole tiny model, through the loader
(every `--load_every`-th). Only the errors that users are meant to see may come out, each in under five seconds.

    python scripts/fuzz_inputs.py --cases 20000
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from evals.errors import UserError
from prune.checkpoint.directory import INDEX
from prune.model.loading import load_model
from prune.surgery.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from prune.surgery.cut import cut

SLOWEST = 5.0
"""Seconds that a case may take."""
MEMORY = 12 << 30
"""Bytes of address space: a config of absurd sizes must fail, not fill the machine."""
FAMILIES = ("llama", "gemma3_text", "gpt2", "qwen3_moe", "qwen3_next", "olmo3")
SIZES = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "moe_intermediate_size": 8, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "num_hidden_layers": 4, "n_embd": 16, "n_head": 2, "n_layer": 4,
    "num_experts": 2, "num_experts_per_tok": 1, "max_position_embeddings": 32, "n_positions": 32,
    "linear_num_value_heads": 2, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "shared_expert_intermediate_size": 8, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2,
}  # fmt: skip

TEXTS = st.text(max_size=6) | st.sampled_from(
    ["..", "../x", "/etc/passwd", "C:\\x", "\x1b[2J", "\u202e", "\ud800", "9" * 5000, "٣", "model.layers.03.w", "NaN",
     "model-00001-of-00001.safetensors", "full_attention", "sliding_attention", "llama", "LlamaForCausalLM",
     "(a+)+$", "([a-z_.0-9]+)+!", "(", "[", "re:.*layers\\.(1|2).*", "model.layers.1.mlp", "q_proj", "auto", "fp8"]
)  # fmt: skip
NUMBERS = st.integers(-2, 9) | st.sampled_from([10**6, 2**31, 2**63, 10**30, -(10**30)]) | st.floats()
PLAIN = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = st.recursive(PLAIN, lambda v: st.lists(v, max_size=4) | st.dictionaries(TEXTS, v, max_size=3), max_leaves=5)


def broken(draw: st.DrawFn, value: Any) -> Any:
    """The JSON value with one place in it replaced, removed, renamed, repeated or added to."""
    if isinstance(value, dict) and value and draw(st.integers(0, 9)) < 9:
        key = draw(st.sampled_from(sorted(value)))
        changed = dict(value)
        match draw(st.sampled_from(["inside", "inside", "inside", "removed", "renamed", "added", "moved"])):
            case "inside":
                changed[key] = broken(draw, value[key])
            case "removed":
                del changed[key]
            case "renamed":
                changed[draw(TEXTS)] = changed.pop(key)
            case "moved":
                changed[key] = value[draw(st.sampled_from(sorted(value)))]
            case "added":
                changed[draw(TEXTS)] = draw(VALUES)
        return changed
    if isinstance(value, list) and value and draw(st.booleans()):
        at = draw(st.integers(0, len(value) - 1))
        part = draw(st.sampled_from(["inside", "removed", "repeated"]))
        middle = {"inside": lambda: [broken(draw, value[at])], "removed": list, "repeated": lambda: [value[at]] * 3}
        return [*value[:at], *middle[part](), *value[at + 1 :]]
    return draw(VALUES)


@st.composite
def breakages(draw: st.DrawFn, whole: dict[str, dict[str, Any]]) -> tuple[str, Any]:
    """A part (`llama config`, `index`, `adapter` ...) and its JSON with one to three places broken."""
    part = draw(st.sampled_from(sorted(whole)))
    value: Any = whole[part]
    for _ in range(draw(st.integers(1, 3))):
        value = broken(draw, value)
    return part, value


class Models:
    """A whole tiny model of each family, of which one JSON file is written anew for every case."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.whole: dict[str, dict[str, Any]] = {}
        self.places: dict[str, Path] = {}
        torch.manual_seed(0)
        for family in FAMILIES:
            known = CONFIG_MAPPING[family]()
            sizes = {name: size for name, size in SIZES.items() if hasattr(known, name)}
            model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[family](**sizes))
            model.save_pretrained(root / family, max_shard_size="5KB" if family == "llama" else "5GB")
            self._note(f"{family} config", root / family / "config.json")
        self._note("index", root / "llama" / INDEX)
        self._adapter(root / "adapter")
        self._note("adapter", root / "adapter" / ADAPTER_CONFIG)

    def _note(self, part: str, path: Path) -> None:
        self.whole[part], self.places[part] = json.loads(path.read_text(encoding="utf8")), path

    def _adapter(self, directory: Path) -> None:
        from peft import LoraConfig, get_peft_model

        model = AutoModelForCausalLM.from_pretrained(self.root / "llama")
        options = {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"layers.1.self_attn.q_proj": 2}}
        get_peft_model(model, LoraConfig(r=2, layers_to_transform=[0, 1, 3], **options)).save_pretrained(directory)
        assert (directory / ADAPTER_WEIGHTS).is_file()

    @contextlib.contextmanager
    def with_broken(self, part: str, value: Any) -> Iterator[Path]:
        """The directory of the model while one of its files holds the value."""
        path = self.places[part]
        path.write_bytes(json.dumps(value).encode("utf8", "surrogatepass"))
        try:
            yield self.root / "llama" if part == "adapter" else path.parent
        finally:
            path.write_text(json.dumps(self.whole[part]), encoding="utf8")


def timed(call: Callable[[], object]) -> tuple[str, float, str]:
    """'accepted', 'refused' or the name of an error that no user should see; its seconds; its traceback."""

    def stop(*_: object) -> None:
        raise TimeoutError("more than four times as long as it may take")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(int(4 * SLOWEST))
    began = time.monotonic()
    try:
        call()
        kind, trace = "accepted", ""
    except UserError as error:
        kind, trace = ("refused", "") if "\n" not in str(error).strip() else ("several lines", str(error))
    except Exception as error:
        kind, trace = type(error).__name__, traceback.format_exc()
    finally:
        signal.alarm(0)
    return kind, time.monotonic() - began, trace


def fuzz(cases: int, seed: int, load_every: int) -> tuple[Counter[str], list[str], list[tuple[float, str]]]:
    """Counts by part, door and outcome; what went wrong; seconds and case of the slowest."""
    scratch = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    counts: Counter[str] = Counter()
    wrong: dict[str, str] = {}
    slow: list[tuple[float, str]] = []
    number = 0
    try:
        models = Models(scratch)

        @settings(
            max_examples=cases, deadline=None, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @seeded(seed)
        @given(case=breakages(models.whole))
        def every(case: tuple[str, Any]) -> None:
            nonlocal number
            part, value = case
            number += 1
            with models.with_broken(part, value) as model:
                adapters = [scratch / "adapter"] if part == "adapter" else []
                doors: dict[str, Callable[[], object]] = {
                    "cut": lambda: cut(
                        str(model), scratch / "out", drop_layers=[1], adapters=adapters, verify=False, dry_run=True
                    )
                }
                if part != "adapter" and number % load_every == 0:
                    doors["load"] = lambda: load_model(str(model), device="cpu")
                for door, call in doors.items():
                    kind, seconds, trace = timed(call)
                    counts[f"{door}, {part}: {kind}"] += 1
                    slow.append((seconds, f"{door}, {part}: {json.dumps(value)[:300]}"))
                    slow.sort(reverse=True)
                    del slow[5:]
                    if trace:
                        wrong.setdefault(
                            f"{door}, {part}: {trace.splitlines()[-1][:80]}", f"{trace}\n{json.dumps(value)}"
                        )
            assert not (scratch / "out").exists()

        every()
    finally:
        shutil.rmtree(scratch)
    return counts, list(wrong.values()), slow


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--load_every", type=int, default=5, help="Load one case of so many; it is the slower door.")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity(logging.CRITICAL)
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    began = time.monotonic()
    counts, wrong, slow = fuzz(arguments.cases, arguments.seed, arguments.load_every)
    print(f"{sum(counts.values()):,} calls in {time.monotonic() - began:.0f} s")
    for name, count in sorted(counts.items()):
        print(f"  {name}: {count:,}")
    print(f"slowest: {slow[0][0]:.2f} s ({slow[0][1]})")
    for trace in wrong:
        print(f"\n{trace}")
    print(f"{len(wrong)} kinds of errors that no user should see")
    return 1 if wrong or slow[0][0] > SLOWEST else 0


if __name__ == "__main__":
    sys.exit(main())

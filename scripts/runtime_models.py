"""The models of the runtimes' tables: real ones and tiny random ones, cut, healed, quantised, or without sub-layers.

Each is made once below the tables' output directory, and once more with its config in both dialects of transformers,
as `prune export` writes it. For llama.cpp they are converted by its own script.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import prune
import prune.embedded
from evals.runtimes import home, python_of
from prune.checkpoint.dialects import in_both_dialects
from prune.checkpoint.directory import CONFIG, read_json
from prune.embedded import MODEL as DEMO
from prune.files import write_json
from prune.gguf.real_models import GEMMA3, SMOLLM2, cache_directory

STORIES = Path(prune.embedded.__file__).parent / "data" / "heal" / "stories.jsonl"

CONVERT = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/gguf-py"]
import convert_hf_to_gguf, importlib, pkgutil, conversion
from conversion.base import ModelBase, TextModel
for module in pkgutil.iter_modules(conversion.__path__):
    try:
        importlib.import_module("conversion." + module.name)
    except ImportError:
        pass

def below(kind):
    for child in kind.__subclasses__():
        yield child
        yield from below(child)

for kind in below(ModelBase):
    if "set_vocab" in vars(kind):
        kind.set_vocab = lambda self: self._set_vocab_gpt2()
TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
sys.argv = ["convert_hf_to_gguf.py", *sys.argv[2:]]
convert_hf_to_gguf.main()
"""
"""llama.cpp's converter as it is, but for how text becomes tokens: it knows pre-tokenizers by a hash, and no others."""


@dataclass(frozen=True)
class Case:
    """One model with some layers gone.

    Attributes:
        model: name of the row.
        drop: layers that go; none for the model itself.
        dialect: `as cut`, or `both`.
        kind: what else was done: nothing, `healed`, `nf4`, or `attention`, where only the layers' attention goes.
    """

    model: str
    drop: tuple[int, ...]
    dialect: str
    kind: str = "cut"

    @property
    def row(self) -> str:
        """The model's name in the table."""
        return self.model if self.kind == "cut" else f"{self.model}, {self.kind}"

    def __str__(self) -> str:
        gone = ",".join(map(str, self.drop)) or "none"
        return f"{self.row} without {gone} ({self.dialect})"


def tiny(family: str, **more: Any) -> Callable[[Path], None]:
    """A writer of a random model of a family, over the demo model's tokenizer."""

    def write(directory: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        tokenizer = AutoTokenizer.from_pretrained(DEMO)
        for role in ("unk_token", "bos_token"):  # converters ask for both
            setattr(tokenizer, role, tokenizer.convert_ids_to_tokens(0))
        values: dict[str, Any] = {
            "vocab_size": len(tokenizer), "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 12,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 512,
            "initializer_range": 0.08, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1,
        }  # fmt: skip
        torch.manual_seed(0)
        config = CONFIG_MAPPING[family](**(values | more))
        AutoModelForCausalLM.from_config(config, attn_implementation="eager").save_pretrained(directory)
        tokenizer.save_pretrained(directory)

    return write


GEMMA = {"sliding_window": 8, "query_pre_attn_scalar": 64}
EXPERTS = {"norm_topk_prob": True, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 256}
GPT_OSS = {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8}
WHOLE_YARN = {
    "rope_type": "yarn", "rope_theta": 150_000.0, "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
    "truncate": True, "original_max_position_embeddings": 4096,
}  # fmt: skip
"""What gpt-oss has, but for `truncate`, of which llama.cpp knows nothing."""
MODELS: dict[str, tuple[Path | Callable[[Path], None], tuple[tuple[int, ...], ...]]] = {
    "demo": (DEMO, ((), (3, 9, 10))),
    "llama": (tiny("llama", rope_parameters={"rope_type": "default", "rope_theta": 5e5}), ((4, 5),)),
    "mistral": (tiny("mistral", sliding_window=None), ((4, 5),)),
    "phi3": (tiny("phi3", sliding_window=None, original_max_position_embeddings=512), ((4, 5),)),  # else a LongRoPE
    "qwen3": (tiny("qwen3"), ((4, 5),)),
    "qwen3_moe": (tiny("qwen3_moe", **EXPERTS), ((4, 5),)),
    "gemma2": (tiny("gemma2", **GEMMA), ((4, 5), (4,))),
    "gemma3": (tiny("gemma3_text", **GEMMA), ((3, 4, 5, 6, 7, 8), (3, 4, 5))),
    "gpt_oss": (tiny("gpt_oss", **GPT_OSS), ((4, 5), (4,))),
    "gpt_oss_whole_yarn": (tiny("gpt_oss", **GPT_OSS, rope_parameters=WHOLE_YARN), ((4, 5), (4,))),
    "smollm3": (tiny("smollm3"), ((4, 5, 6, 7), (4, 5))),
}


def add_real_models() -> None:
    """SmolLM2 and Gemma 3, where scripts/real_models.py has fetched them."""
    smol, gemma = ((), (12, 13, 14, 15, 16, 25)), ((), (6, 7, 8, 9, 10, 11), (7, 8, 9))
    for real, cuts in ((SMOLLM2, smol), (GEMMA3, gemma)):
        if (cache_directory() / real.name / CONFIG).is_file():
            MODELS[real.name] = (cache_directory() / real.name, cuts)
        else:
            print(f"{real.name} is not here: run scripts/real_models.py", file=sys.stderr)


VARIANTS = (
    ("demo", (3, 9, 10), "healed", "both"),
    ("demo", (3, 9, 10), "nf4", "both"),
    ("llama", (2, 3, 7), "attention", "as cut"),
    (SMOLLM2.name, (12, 13, 14, 15, 16, 25), "healed", "both"),
    (SMOLLM2.name, (12, 13, 14, 15, 16, 25), "nf4", "both"),
    (SMOLLM2.name, (12, 14, 16, 25), "attention", "as cut"),
)
"""(model, layers, kind, dialect): healed and quantised as exported, sub-layers as cut."""


def cases() -> Iterator[Case]:
    """All of them, small ones first."""
    for name, (_, cuts) in MODELS.items():
        dialects = ("both",) if name == GEMMA3.name else ("as cut", "both")  # large, and `gemma3` has the rest
        for drop in cuts:
            yield from (Case(name, drop, dialect) for dialect in dialects)
    for name, drop, kind, dialect in VARIANTS:
        if name in MODELS:
            yield Case(name, drop, dialect, kind)


def source_of(model: str, place: Path) -> Path:
    """The model before any cut, made once."""
    source, _ = MODELS[model]
    if isinstance(source, Path):
        return source
    made = place / "sources" / model
    if not (made / CONFIG).is_file():
        source(made)
    return made


def prepare(case: Case, place: Path) -> Path:
    """The case's checkpoint, made once."""
    kind = "" if case.kind == "cut" else f"{case.kind}-"
    target = place / "checkpoints" / f"{case.model}-{kind}{'-'.join(map(str, case.drop)) or 'whole'}"
    if not target.is_dir():
        MAKERS[case.kind](case, place, target)
    if case.dialect == "as cut" or case.kind == "nf4":  # an export has both
        return target
    both = target.with_name(target.name + "-both")
    if not both.is_dir():
        shutil.copytree(target, both, copy_function=_link)
        (both / CONFIG).unlink()
        write_json(both / CONFIG, in_both_dialects(read_json(target / CONFIG))[0])
    return both


def _cut(case: Case, place: Path, target: Path) -> None:
    if case.drop:
        prune.cut(source_of(case.model, place), target, drop_layers=list(case.drop))
    else:
        shutil.copytree(source_of(case.model, place), target)


def _healed(case: Case, place: Path, target: Path) -> None:
    """A few steps: enough to change every adapted matrix."""
    prune.heal(
        prepare(Case(case.model, case.drop, "as cut"), place), target, teacher=source_of(case.model, place),
        data={"stories": STORIES}, max_steps=4, per_device_train_batch_size=2, max_length=64, eval_max_documents=2,
    )  # fmt: skip


def _nf4(case: Case, place: Path, target: Path) -> None:
    full = target.with_name(f"{target.name}-full")
    cut = prepare(Case(case.model, case.drop, "as cut"), place)
    prune.export(cut, full, override="made for the matrix of runtimes", quantize="nf4")
    full.with_name(f"{full.name}-nf4").rename(target)


def _attention(case: Case, place: Path, target: Path) -> None:
    prune.cut(source_of(case.model, place), target, drop_attn=list(case.drop), runtime=["mlx"])


MAKERS = {"cut": _cut, "healed": _healed, "nf4": _nf4, "attention": _attention}


def _link(source: str, target: str) -> None:
    Path(target).hardlink_to(source)


def served_by(runtime: str, case: Case, place: Path) -> Path:
    """What a runtime is given: llama.cpp a file, the others the directory."""
    directory = prepare(case, place)
    if runtime != "llama.cpp":
        return directory
    if case.kind != "attention":
        return gguf_of(directory)
    target = directory.with_suffix(".gguf")
    if not target.is_file():
        whole = gguf_of(prepare(Case(case.model, (), "as cut"), place))
        prune.cut(whole, target, drop_attn=list(case.drop), runtime=["llama.cpp"])
    return target


def gguf_of(directory: Path) -> Path:
    """The directory converted by llama.cpp's own script, under a name that says nothing: 'phi3' asks for its tokens."""
    target = directory.with_suffix(".gguf")
    if not target.is_file():
        (tree,) = (home() / "llama.cpp" / "source").glob("*/vendor/llama.cpp")
        command = [python_of("llama.cpp"), "-c", CONVERT, tree, directory, "--outtype", "f32", "--outfile", target]
        command += ["--model-name", "model"]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return target

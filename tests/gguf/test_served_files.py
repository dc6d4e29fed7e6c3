"""A cut GGUF file is what llama.cpp's own converter makes of the cut checkpoint, and llama.cpp answers alike."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import gguf
import pytest

import prune
from evals.runtimes import home, installed, python_of
from evals.worker import Worker
from prune.checkpoint.directory import CONFIG
from prune.gguf.real_models import GEMMA3, SMOLLM2, RealModel, cache_directory
from tests.gguf.files import SLIDING, save_gemma

pytestmark = [pytest.mark.runtime, pytest.mark.slow]
PROMPTS = [list(range(1000 + 50 * i, 1016 + 50 * i)) for i in range(5)]
"""Token ids that both vocabularies have, none of them special."""
TOKENS = 32


def directory_of(model: RealModel) -> Path:
    if not installed("llama.cpp"):
        pytest.skip("llama.cpp: not installed; scripts/runtime llama.cpp")
    if not (cache_directory() / model.name / CONFIG).is_file():
        pytest.skip(f"{model.name} is not here: run scripts/real_models.py")
    return cache_directory() / model.name


def converted(directory: Path, target: Path, kind: str) -> Path:
    """By llama.cpp's script as it stands."""
    (tree,) = (home() / "llama.cpp" / "source").glob("*/vendor/llama.cpp")
    command = [python_of("llama.cpp"), tree / "convert_hf_to_gguf.py", directory, "--outtype", kind]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PYTHONPATH": str(tree / "gguf-py")}
    done = subprocess.run(
        [*map(str, command), "--outfile", str(target)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-1000:]
    return target


def answers(file: Path) -> list[list[int]]:
    with Worker("llama.cpp", file, {"max_model_len": 256, "vocabulary": 300_000}) as worker:
        return worker.generate(PROMPTS, TOKENS)


def contents(file: Path) -> dict[str, object]:
    """Metadata but for the names of the model and of its layers."""
    fields = gguf.GGUFReader(file).fields.items()
    found = {key: field.contents() for key, field in fields if not key.startswith(("GGUF.", "general."))}
    found.pop("prune.kept_layers", None)
    return found


@pytest.mark.parametrize("kind", ["f32", "q8_0"])
@pytest.mark.parametrize(("model", "drop"), [(SMOLLM2, "12-16,25"), (GEMMA3, "6-11")], ids=["SmolLM2", "Gemma 3"])
def test_cutting_the_converted_file_is_converting_the_cut_checkpoint(
    tmp_path: Path, model: RealModel, drop: str, kind: str
) -> None:
    directory = directory_of(model)
    ours, stock = tmp_path / "ours.gguf", tmp_path / "stock.gguf"
    prune.cut(converted(directory, tmp_path / "whole.gguf", kind), ours, drop_layers=drop)
    (tmp_path / "whole.gguf").unlink()
    prune.cut(directory, tmp_path / "cut", drop_layers=drop, verify=False)
    converted(tmp_path / "cut", stock, kind)
    a, b = ({t.name: t for t in gguf.GGUFReader(path).tensors} for path in (ours, stock))
    assert a.keys() == b.keys()
    assert all(a[name].tensor_type == b[name].tensor_type for name in a)
    assert all(a[name].data.tobytes() == b[name].data.tobytes() for name in a)
    assert contents(ours) == contents(stock)
    assert answers(ours) == answers(stock)


def test_windows_out_of_step_are_stated_where_the_stock_converter_loses_them(tmp_path: Path) -> None:
    """Gemma 3 without layers 7, 8 and 9: the stock conversion of the cut answers otherwise, without an error."""
    import torch

    from prune.model.loading import load_model

    directory = directory_of(GEMMA3)
    ours, stock = tmp_path / "ours.gguf", tmp_path / "stock.gguf"
    prune.cut(converted(directory, tmp_path / "whole.gguf", "f32"), ours, drop_layers="7-9")
    (tmp_path / "whole.gguf").unlink()
    prune.cut(directory, tmp_path / "cut", drop_layers="7-9", verify=False)
    converted(tmp_path / "cut", stock, "f32")
    model = load_model(str(tmp_path / "cut"), dtype="float32").eval()
    wanted = []
    for ids in PROMPTS:
        batch = torch.tensor([ids])
        options = {"max_new_tokens": TOKENS, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        wanted.append(model.generate(batch, attention_mask=torch.ones_like(batch), **options)[0, len(ids) :].tolist())
    assert answers(ours) == wanted
    assert answers(stock) != wanted


@pytest.mark.parametrize("says", SLIDING)
def test_an_imported_gemma_slides_and_scales_as_llama_cpp_has_it(tmp_path: Path, says: str) -> None:
    """Which layers slide is in the file in four ways, of which transformers reads none; windows are of 8 tokens."""
    import torch

    from prune.model.loading import load_model

    if not installed("llama.cpp"):
        pytest.skip("llama.cpp: not installed; scripts/runtime llama.cpp")
    file = save_gemma(tmp_path / "g.gguf", SLIDING[says][0])
    prune.import_gguf(file, tmp_path / "out", dtype="float32")
    ids = torch.randint(4, 250, (40,), generator=torch.Generator().manual_seed(1)).tolist()
    with torch.no_grad():
        chances = load_model(str(tmp_path / "out")).eval()(torch.tensor([ids])).logits[0].log_softmax(-1)  # [T, V]
    with Worker("llama.cpp", file, {"max_model_len": 64}) as worker:
        found = worker.score([[ids[:at], [ids[at]]] for at in (4, 12, 24, 39)])
    for at, (logprob, _) in zip((4, 12, 24, 39), found, strict=True):
        assert logprob == pytest.approx(float(chances[at - 1, ids[at]]), abs=0.01)

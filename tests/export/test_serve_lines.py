"""The card's run lines, as they stand there: each in its runtime's environment, and the answer is transformers'."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import subprocess
import textwrap
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

import prune
from evals.runtimes import home, installed, python_of
from prune.checkpoint.directory import CONFIG
from prune.drafting.runtimes import run_lines
from prune.gguf.real_models import SMOLLM2, cache_directory
from prune.model.loading import load_model
from prune.packaging.serve import LINES
from prune.serving.drafts import ONE_CACHE

pytestmark = [pytest.mark.runtime, pytest.mark.slow]
PROMPT = "Hello"
LLAMA_SERVER = """
    import sys, time, xllamacpp
    params = xllamacpp.CommonParams()
    params.model.path, params.port = sys.argv[sys.argv.index("-m") + 1], int(sys.argv[sys.argv.index("--port") + 1])
    params.n_gpu_layers, params.warmup, params.n_ctx = 0, False, 512
    server = xllamacpp.Server(params)
    time.sleep(600)
"""
"""What llama.cpp's program does, with the library of its Python package, which brings no program."""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, demo_model: Path) -> Path:
    """The demo model without three layers, exported."""
    return export_of(str(demo_model), tmp_path_factory.mktemp("exported"), "3,9,10")


def export_of(model: str, place: Path, layers: str) -> Path:
    prune.cut(model, place / "cut", drop_layers=layers)
    prune.export(str(place / "cut"), place / "out", override="a test")
    return place / "out"


def line(runtime: str, checkpoint: Path) -> str:
    """The line as the card has it, in a shell whose programs are the runtime's."""
    name = "transformers-4.57" if runtime == "transformers4" else runtime
    if not installed(name):
        pytest.skip(f"{name}: not installed; scripts/runtime {name}")
    assert LINES[runtime] in (checkpoint / "README.md").read_text()
    text = LINES[runtime].replace("THIS_CHECKPOINT", shlex.quote(str(checkpoint)))
    return f"export PATH={shlex.quote(str(python_of(name).parent))}:$PATH; {text}"


def run(command: str, folder: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def answer(checkpoint: Path, ids: list[int], tokens: int, dtype: str = "auto") -> str:
    """transformers' greedy answer as text."""
    model = load_model(str(checkpoint), dtype=dtype).eval()
    out = model.generate(torch.tensor([ids]), max_new_tokens=tokens, do_sample=False)
    return AutoTokenizer.from_pretrained(checkpoint).decode(out[0, len(ids) :], skip_special_tokens=True)


@pytest.fixture
def served() -> Iterator[list[subprocess.Popen]]:
    """Servers that a test starts; each is ended with all that it started."""
    running: list[subprocess.Popen] = []
    yield running
    for process in running:
        with contextlib.suppress(ProcessLookupError):  # it ended by itself
            os.killpg(process.pid, 9)


def completion(command: str, folder: Path, served: list[subprocess.Popen], asked: dict) -> str:
    """The text that the server of a command answers to a prompt of token ids."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (folder / "server.log").open("w")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    environment |= {"VLLM_CPU_KVCACHE_SPACE": "1"}
    command += f" --port {port}"
    process = subprocess.Popen(
        ["bash", "-c", command], cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
    )
    served.append(process)
    until = time.monotonic() + 400
    while True:
        if process.poll() is not None or time.monotonic() > until:
            pytest.fail((folder / "server.log").read_text()[-3000:])
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
            break
        except OSError:
            time.sleep(1)
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/completions",
        json.dumps(asked).encode(),
        {"Content-Type": "application/json"},
    )
    return json.load(urllib.request.urlopen(request, timeout=120))["choices"][0]["text"]


def test_vllm(exported: Path, tmp_path: Path, served: list[subprocess.Popen]) -> None:
    ids = AutoTokenizer.from_pretrained(exported)("Tom has 12 apples and gives 5 away.").input_ids
    asked = {"model": str(exported), "prompt": ids, "max_tokens": 12, "temperature": 0}
    command = line("vllm", exported) + " --dtype float32"  # in bfloat16 two kernels choose other tokens
    assert completion(command, tmp_path, served, asked) == answer(exported, ids, 12, "float32")


@pytest.mark.parametrize("flagged", [True, False])
def test_vllm_with_a_draft_whose_layers_have_windows_and_none(
    tmp_path: Path, demo_model: Path, served: list[subprocess.Popen], flagged: bool
) -> None:
    """The card's line answers as the original alone; without its flag vLLM ends."""
    if not installed("vllm"):
        pytest.skip("vllm: not installed; scripts/runtime vllm")
    original, draft = gemma_pair(tmp_path, demo_model)
    card = run_lines(str(original), 3, json.loads((draft / CONFIG).read_text()))
    (command,) = [text for text in card.splitlines() if text.startswith("vllm serve")]
    assert command.endswith(ONE_CACHE)
    command = command.replace("THIS_CHECKPOINT", str(draft)) + " --dtype float32 --max-model-len 256"
    command = f"export PATH={shlex.quote(str(python_of('vllm').parent))}:$PATH; {command}"
    ids = list(range(40, 56))
    asked = {"model": str(original), "prompt": ids, "max_tokens": 12, "temperature": 0, "ignore_eos": True}
    if flagged:
        assert completion(command, tmp_path, served, asked) == answer(original, ids, 12, "float32")
        return
    with pytest.raises(pytest.fail.Exception, match=r"same kv cache group|Engine core initialization failed"):
        completion(command.replace(ONE_CACHE, ""), tmp_path, served, asked)


def gemma_pair(place: Path, demo_model: Path) -> tuple[Path, Path]:
    """A random Gemma 3 with the demo's tokenizer, and it without a whole period of windows."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    tokenizer = AutoTokenizer.from_pretrained(demo_model)
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=len(tokenizer), hidden_size=256, intermediate_size=256, num_hidden_layers=12, num_attention_heads=4,
        num_key_value_heads=2, head_dim=64, sliding_window=8, max_position_embeddings=512, initializer_range=0.08,
        bos_token_id=0, eos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    Gemma3ForCausalLM(config).save_pretrained(place / "original")
    tokenizer.save_pretrained(place / "original")
    prune.cut(place / "original", place / "draft", drop_layers="3-8")
    return place / "original", place / "draft"


def test_llama_cpp(tmp_path: Path, served: list[subprocess.Popen]) -> None:
    """On a real model: llama.cpp knows tokenizers by a hash, and the demo's is none of them."""
    if not (cache_directory() / SMOLLM2.name / CONFIG).is_file():
        pytest.skip("SmolLM2 is not here: run scripts/real_models.py")
    checkpoint = export_of(str(cache_directory() / SMOLLM2.name), tmp_path, "12,13,14,15,16,25")
    command = line("llama.cpp", checkpoint)
    (tree,) = (home() / "llama.cpp" / "source").glob("*/vendor/llama.cpp")
    command = command.replace("convert_hf_to_gguf.py", str(tree / "convert_hf_to_gguf.py"))
    program = tmp_path / "bin" / "llama-server"
    program.parent.mkdir()
    program.write_text(f"#!{python_of('llama.cpp')}\n" + textwrap.dedent(LLAMA_SERVER))
    program.chmod(0o755)
    command = f"export PATH={shlex.quote(str(program.parent))}:$PATH PYTHONPATH={tree / 'gguf-py'}; {command}"
    ids = AutoTokenizer.from_pretrained(checkpoint)("The capital of France is").input_ids
    asked = {"prompt": ids, "max_tokens": 12, "temperature": 0}
    assert completion(command, tmp_path, served, asked) == answer(checkpoint, ids, 12)


def test_mlx(exported: Path, tmp_path: Path) -> None:
    out = run(line("mlx", exported), tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(exported)
    chat = [{"role": "user", "content": PROMPT}]
    ids = (
        tokenizer.apply_chat_template(chat, add_generation_prompt=True).input_ids
        if tokenizer.chat_template
        else tokenizer(PROMPT).input_ids
    )
    assert answer(exported, ids, 32).strip()[:40] in out


def test_ctranslate2(exported: Path, tmp_path: Path) -> None:
    run(line("ctranslate2", exported), tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(exported)
    ids = tokenizer("Tom has 12 apples and gives 5 away.").input_ids
    code = """
        import ctranslate2, json, sys
        model = ctranslate2.Generator("converted", compute_type="float32")
        (result,) = model.generate_batch([json.loads(sys.argv[1])], max_length=12, include_prompt_in_result=False)
        print(json.dumps(result.sequences_ids[0]))
    """
    program = [str(python_of("ctranslate2")), "-c", textwrap.dedent(code)]
    program.append(json.dumps(tokenizer.convert_ids_to_tokens(ids)))
    out = run(shlex.join(program), tmp_path)
    assert tokenizer.decode(json.loads(out), skip_special_tokens=True) == answer(exported, ids, 12)


def test_openvino(exported: Path, tmp_path: Path) -> None:
    run(line("openvino", exported), tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(exported)
    ids = tokenizer("Tom has 12 apples and gives 5 away.").input_ids
    code = """
        import json, sys, openvino_genai as ov
        model = ov.LLMPipeline("converted", "CPU", INFERENCE_PRECISION_HINT="f32")
        print(model.generate(sys.argv[1], max_new_tokens=12, do_sample=False, apply_chat_template=False))
    """
    program = [str(python_of("openvino")), "-c", textwrap.dedent(code), tokenizer.decode(ids)]
    assert run(shlex.join(program), tmp_path).strip() == answer(exported, ids, 12, "float32").strip()


def test_onnxruntime(exported: Path, tmp_path: Path) -> None:
    run(line("onnxruntime", exported), tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(exported)
    ids = tokenizer("Tom has 12 apples and gives 5 away.").input_ids
    code = """
        import json, sys, numpy, onnxruntime_genai as og
        model, ids = og.Model("converted"), json.loads(sys.argv[1])
        params = og.GeneratorParams(model)
        params.set_search_options(max_length=len(ids) + 12, do_sample=False, batch_size=1)
        generator = og.Generator(model, params)
        generator.append_tokens(numpy.array([ids], dtype=numpy.int32))
        while not generator.is_done():
            generator.generate_next_token()
        print(json.dumps([int(token) for token in generator.get_sequence(0)[len(ids):]]))
    """
    program = [str(python_of("onnxruntime")), "-c", textwrap.dedent(code), json.dumps(ids)]
    found = json.loads(run(shlex.join(program), tmp_path))
    assert tokenizer.decode(found, skip_special_tokens=True) == answer(exported, ids, 12, "float32")


def test_transformers_4(exported: Path, tmp_path: Path) -> None:
    out = run(line("transformers4", exported), tmp_path)
    ids = AutoTokenizer.from_pretrained(exported)(PROMPT).input_ids
    assert answer(exported, ids, 32).strip()[:40] in out.replace("\\n", "\n").replace("\\'", "'")

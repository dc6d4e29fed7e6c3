"""F1-F21 through every command that takes a model: what `cut` refuses, all refuse, before anything runs."""

from __future__ import annotations

import ast
import inspect
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import prune
from prune.analysis.result import Analysis
from prune.checkpoint.directory import INDEX, SINGLE
from prune.embedded import HERE, MODEL
from prune.errors import PruneError
from prune.model.loading import load_model, load_tokenizer
from prune.model.streaming import StreamedModel
from tests.faults.checkpoints import CONFIG, four_layers, tensor_file
from tests.faults.test_input_faults import edit_index
from tests.tiny_llama import save_llama

DATA = {"arithmetic": str(HERE / "data/calibration/arithmetic.jsonl")}


def _config(source: Path, **changes: Any) -> None:
    (source / "config.json").write_text(json.dumps(CONFIG | changes))


def _link_out(source: Path) -> None:
    (source / "a.safetensors").rename(source.parent / "elsewhere.safetensors")
    (source / "a.safetensors").symlink_to(source.parent / "elsewhere.safetensors")


def _twice_in_a_header(source: Path) -> None:
    item = b'"model.a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
    raw = b"{" + item + b"," + item + b"}"
    (source / "a.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw + b"\0")


def _pickle_only(source: Path) -> None:
    for path in source.glob("*.safetensors*"):
        path.unlink()
    (source / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def _cut_short(source: Path, count: int) -> None:
    data = (source / "a.safetensors").read_bytes()
    (source / "a.safetensors").write_bytes(data[:count])


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "F1": (lambda s: edit_index(s, extra="../x.safetensors"), "not a plain name"),
    "F2": (lambda s: edit_index(s, extra="/etc/x.safetensors"), "not a plain name"),
    "F3": (lambda s: edit_index(s, extra="C:\\x.safetensors"), "not a plain name"),
    "F4": (_link_out, "outside the checkpoint"),
    "F5": (lambda s: (s / "b.safetensors").unlink(), "b.safetensors: missing"),
    "F6": (lambda s: edit_index(s, ghost="a.safetensors"), "ghost"),
    "F7": (lambda s: tensor_file(s / "a.safetensors", ["model.layers.0.w", "model.layers.1.w", "model.a", "x"]), "'x'"),
    "F8": (_twice_in_a_header, "occurs twice"),
    "F9": (lambda s: (s / "a.safetensors").write_bytes(b"\xff" * 16), "truncated safetensors header"),
    "F10": (lambda s: _cut_short(s, -2), "truncated"),
    "F13 (a depth that is none)": (lambda s: _config(s, num_hidden_layers="4"), "num_hidden_layers"),
    "F16": (_pickle_only, "pickled"),
    "F19": (lambda s: tensor_file(s / SINGLE, ["x"]), "stale"),
    "F20": (lambda s: _config(s, architectures=["BertForMaskedLM"]), "no causal language model"),
    "F21": (lambda s: _config(s, quantization_config={"quant_method": "magic"}), "'magic' is not known"),
    "git-lfs": (lambda s: (s / "a.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n"), "git lfs"),
}


def _plan(model: str, root: Path) -> Any:
    """Of an analysis that says it was made of `model`: the criterion reads the model again."""
    values = {"relative_contribution/layer": np.ones(4, np.float32)}
    Analysis({"model": model, "num_layers": 4, "calibration": {"files": DATA}}, values).save(root / "analysis")
    return prune.plan(root / "analysis", output=root / "plan.json", num_layers=3, criterion="dnll")


def _compensate(model: str, root: Path) -> Any:
    drop = {"keep": [0, 1, 3], "drop": [2], "order": [2], "criterion": "explicit", "strategy": "explicit"}
    (root / "plan.json").write_text(json.dumps({"source": "x", "num_layers": 4, **drop}))
    return prune.compensate(model, root / "out.json", plan=root / "plan.json", data=DATA, dry_run=True)


def _run(model: str, root: Path) -> Any:
    recipe = {"model": model, "data": {"domains": DATA}, "plan": {"depths": [3]}, "eval": {"suites": ["math"]}}
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return prune.run(root / "recipe.yaml", root / "out", dry_run=True)


COMMANDS: dict[str, Callable[[str, Path], Any]] = {
    "analyze": lambda m, r: prune.analyze(m, data=DATA, output=r / "out", dry_run=True),
    "analyze --stream": lambda m, r: prune.analyze(
        m, data=DATA, output=r / "out", stream=True, measure=["contributions"], dry_run=True
    ),
    "plan": _plan,
    "compensate": _compensate,
    "cut": lambda m, r: prune.cut(m, r / "out", drop_layers=[1], verify=False, dry_run=True),
    "generate": lambda m, r: prune.generate(m, r / "out.jsonl", data=DATA, dry_run=True),
    "heal": lambda m, r: prune.heal(m, r / "out", teacher=str(MODEL), data=DATA, dry_run=True),
    "heal --teacher": lambda m, r: prune.heal(str(MODEL), r / "out", teacher=m, data=DATA, dry_run=True),
    "eval": lambda m, r: prune.eval(m, r / "out", baseline=str(MODEL), suite=["math"], dry_run=True),
    "eval --baseline": lambda m, r: prune.eval(str(MODEL), r / "out", baseline=m, suite=["math"], dry_run=True),
    "compare": lambda m, r: prune.compare([str(MODEL), m], r / "out", dry_run=True),
    "export": lambda m, r: prune.export(m, r / "out", override="a test", dry_run=True),
    "run": _run,
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_no_command_reads_what_cut_refuses(fault: str, tmp_path: Path) -> None:
    spoil, message = FAULTS[fault]
    spoil(four_layers(tmp_path / "source"))
    taken = {}
    for command, call in COMMANDS.items():
        room = tmp_path / command.replace(" ", "")
        room.mkdir()
        try:
            call(str(tmp_path / "source"), room)
        except PruneError as error:
            if message not in str(error) or (room / "out").exists():
                taken[command] = str(error)
        else:
            taken[command] = "accepted"
    assert taken == {}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole tiny checkpoint; tests spoil copies of it."""
    return save_llama(tmp_path_factory.mktemp("whole") / "model")


def _weights(model: Path, **changes: torch.Tensor) -> None:
    save_file({**load_file(model / SINGLE), **changes}, model / SINGLE, {"format": "pt"})


def _edit(model: Path, **changes: Any) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | changes))


def _not_finite(model: Path) -> None:
    name = "model.layers.2.mlp.up_proj.weight"
    spoiled = load_file(model / SINGLE)[name]
    spoiled[3, 1] = torch.nan
    _weights(model, **{name: spoiled})


def _own_code(model: Path) -> None:
    (model / "modeling_own.py").write_text("import pathlib\npathlib.Path('ran').touch()\n")
    _edit(model, model_type="own", auto_map={"AutoConfig": "modeling_own.A", "AutoModelForCausalLM": "modeling_own.B"})


LOADED: dict[str, tuple[Callable[[Path], object], str]] = {
    "F11": (_not_finite, r"layers\.2|layer 2.*mlp\.up_proj\.weight holds NaN"),
    "F13 (too deep)": (lambda m: _edit(m, num_hidden_layers=5), "missing keys: model.layers.4"),
    "F13 (too shallow)": (lambda m: _edit(m, num_hidden_layers=3), "unexpected keys: model.layers.3"),
    "F14": (lambda m: _edit(m, model_type="qwen2", layer_types=["full_attention"] * 3), "cannot be loaded"),
    "F17": (_own_code, "trust_remote_code"),
}


def _stream(model: str) -> None:
    streamed = StreamedModel(model)
    for layer in range(len(streamed.anatomy.layers)):
        with streamed.layer(layer):
            pass


@pytest.mark.parametrize("door", [load_model, _stream])
@pytest.mark.parametrize("fault", LOADED)
def test_what_only_loading_can_tell_is_told_by_the_one_loader(
    fault: str, door: Callable[[str], object], llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spoil, message = LOADED[fault]
    model = shutil.copytree(llama, tmp_path / "model")
    spoil(model)
    with pytest.raises(PruneError, match=message):
        door(str(model))
    assert not (tmp_path / "ran").exists()


def test_f12_and_f15_carry_on_through_both_loaders(tmp_path: Path) -> None:
    model = save_llama(tmp_path / "model", tie_word_embeddings=True)
    weights = load_file(model / SINGLE)
    name = "model.layers.1.mlp.down_proj.weight"
    _weights(model, **{"lm_head.weight": weights["model.embed_tokens.weight"].clone(), name: weights[name].bfloat16()})
    assert load_model(str(model)).get_parameter(name).dtype == torch.float32
    _stream(str(model))


def test_only_the_loader_and_the_proof_of_a_cut_call_the_library() -> None:
    root = Path(prune.__file__).parent
    callers = set()
    for path in (p for p in root.rglob("*.py") if "gguf" not in p.parts):  # reads files of another kind
        for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
            if isinstance(node, ast.Attribute) and node.attr == "from_pretrained":
                callers.add(path.relative_to(root).as_posix())
    reads_json = "healing/served.py"  # generation_config.json of a source that the door let in
    proofs = {"surgery/proof.py", "surgery/replay.py", "surgery/signature.py"}
    assert callers == {"model/loading.py", reads_json, *proofs}


@pytest.mark.parametrize(
    "command", ["analyze", "compensate", "cut", "generate", "heal", "eval", "compare", "export", "verify"]
)
def test_every_command_that_takes_a_hub_id_takes_its_revision_and_permissions(command: str) -> None:
    parameters = inspect.signature(getattr(prune, command)).parameters
    assert {"revision", "trust_remote_code", "allow_links"} <= parameters.keys()


def test_a_tokenizer_that_is_missing_or_broken_is_told_in_our_words(llama: Path, tmp_path: Path) -> None:
    model = shutil.copytree(llama, tmp_path / "model")
    with pytest.raises(PruneError, match=r"there is no tokenizer .* copy the tokenizer files of the original"):
        load_tokenizer(str(model))
    (model / "tokenizer.json").write_text("{")
    with pytest.raises(PruneError, match=r"tokenizer\.json: not valid JSON"):
        load_tokenizer(str(model))
    (model / "tokenizer.json").write_text("{}")
    with pytest.raises(PruneError, match=r"its tokenizer files cannot be read: .* copy them from the original"):
        load_tokenizer(str(model))


def test_a_stale_single_file_is_not_what_gets_measured(llama: Path, tmp_path: Path) -> None:
    model = shutil.copytree(llama, tmp_path / "model")
    weights = load_file(model / SINGLE)
    shard = "model-00001-of-00001.safetensors"
    save_file(weights, model / shard, {"format": "pt"})
    (model / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(weights, shard)}))
    for door in (load_model, _stream):
        with pytest.raises(PruneError, match=r"model\.safetensors: stands beside"):
            door(str(model))
    (model / SINGLE).unlink()
    load_model(str(model))

"""The files beside the weights: what names layers follows them or stays behind, what transformers reads is carried."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, GenerationConfig

from prune.embedded import MODEL
from prune.errors import PruneError
from prune.model.loading import load_model
from prune.packaging.saving import save_like
from prune.surgery.cut import copy_checkpoint, cut
from tests.tiny_llama import save_llama

EXCLUDED = ["lm_head", "model.layers.3*", "model.layers.1.mlp.up_proj", "*.self_attn.q_proj"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return save_llama(tmp_path / "source")


def write(source: Path, name: str, content: Any) -> None:
    (source / name).parent.mkdir(exist_ok=True)
    (source / name).write_text(content if isinstance(content, str) else json.dumps(content))


def without_layer_1(source: Path) -> Path:
    cut(str(source), source.parent / "out", drop_layers=[1], verify=False)
    return source.parent / "out"


def test_named_chat_templates_live_through_cut_heal_and_export(source: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    tokenizer.chat_template = {"default": "D", "tool_use": "T", "rag": "R"}
    tokenizer.save_pretrained(source)
    assert (source / "additional_chat_templates/tool_use.jinja").is_file()
    out = without_layer_1(source)
    for name in ("healed", "exported"):
        (tmp_path / name).mkdir()
    save_like(load_model(out), [], out, tmp_path / "healed")
    copy_checkpoint(out, tmp_path / "exported", name="x")
    for directory in (out, tmp_path / "healed", tmp_path / "exported"):
        assert AutoTokenizer.from_pretrained(directory).chat_template == tokenizer.chat_template


def test_folders_that_transformers_reads_are_carried_and_others_named(
    source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("qformer_tokenizer/tokenizer_config.json", "custom_generate/generate.py", "original/params.json"):
        write(source, name, {})
    write(source, "extras/notes.txt", "")
    with caplog.at_level(logging.WARNING, "prune"):
        out = without_layer_1(source)
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["extras/"]
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"qformer_tokenizer", "custom_generate"}
    assert (out / "custom_generate/generate.py").is_file()


def test_a_folder_may_not_lead_out_of_the_checkpoint(source: Path, tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", "secret.jinja", "x")
    (source / "additional_chat_templates").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PruneError, match="outside the checkpoint"):
        without_layer_1(source)


def test_files_that_repeat_the_quantisation_follow_their_layers(source: Path) -> None:
    layers = {f"model.layers.{i}.mlp.up_proj": {"quant_algo": "FP8"} for i in range(4)}
    inner = {"quant_algo": "MIXED_PRECISION", "exclude_modules": EXCLUDED, "quantized_layers": layers}
    write(source, "hf_quant_config.json", {"producer": {"version": "0.1"}, "quantization": inner})
    write(source, "quantize_config.json", {"bits": 4, "dynamic": {r"-:.*\.(2|3)\.mlp.*": {}, r"-:.*\.1\.mlp.*": {}}})
    write(source, "quant_config.json", {"w_bit": 4, "modules_to_not_convert": ["model.layers.3.mlp", "lm_head"]})
    write(source, "quanto_qmap.json", {"model.layers.3.mlp.up_proj": {"weights": "qint8"}})
    out = without_layer_1(source)

    def read(name: str) -> Any:
        return json.loads((out / name).read_text())

    found = read("hf_quant_config.json")["quantization"]
    assert found["exclude_modules"] == [EXCLUDED[0], "model.layers.2*", EXCLUDED[3]]
    assert list(found["quantized_layers"]) == [f"model.layers.{i}.mlp.up_proj" for i in range(3)]
    assert list(read("quantize_config.json")["dynamic"]) == [
        rf"-:^model\.layers\.{i}\.mlp{part}$"
        for i in (1, 2)
        for part in (r"\.down_proj", "", r"\.gate_proj", r"\.up_proj")
    ]
    assert read("quant_config.json")["modules_to_not_convert"] == ["model.layers.2.mlp", "lm_head"]
    assert list(read("quanto_qmap.json")) == ["model.layers.2.mlp.up_proj"]


STALE = {
    "params.json": {"dim": 16, "n_layers": 4},
    "model_config.yaml": "encoder: x\nnum_layers: 4\n",
    "recipe.yaml": "ignore: ['re:.*layers\\.[0-3]\\..*', lm_head]\n",
    "quant_log.csv": "layer,module,loss\n0,self_attn.q_proj,0.1\n",
    "act_scales.json": {"model.layers.3.mlp.down_proj": 0.5},
    "adapter_config.json": {"peft_type": "LORA"},
}  # fmt: skip
KEPT = {
    "LICENSE": "num_layers: 4, model.layers.3",
    "vocab.json": {"h.264": 0, "layers.3": 1},
    "configuration.json": {"framework": "pytorch", "task": "text-generation"},
    "preprocessor_config.json": {"num_layers": 4},
    "modeling_own.py": "num_layers = 4",
}


def test_what_states_the_depth_or_layers_is_left_out_and_said(source: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, content in (STALE | KEPT).items():
        write(source, name, content)
    with caplog.at_level(logging.WARNING, "prune"):
        out = without_layer_1(source)
    assert {record.getMessage().split(":")[0] for record in caplog.records} == set(STALE)
    assert [name for name in STALE if (out / name).exists()] == []
    for name in KEPT:
        assert (out / name).read_bytes() == (source / name).read_bytes()


def test_layers_in_the_generation_config_are_renumbered(source: Path) -> None:
    GenerationConfig(dola_layers=[0, 1, 3], assistant_early_exit=3).save_pretrained(source)
    found = GenerationConfig.from_pretrained(without_layer_1(source))
    assert (found.dola_layers, found.assistant_early_exit) == ([0, 2], 2)

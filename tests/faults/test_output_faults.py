"""Faults of what is read in and given out, on a tiny Llama: weights, code, templates, manifests, reports, secrets."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from evals.secrets import without_secrets
from prune.errors import GateFailed, PruneError
from prune.model.chat_template import check_chat_template
from prune.model.loading import load_model
from prune.packaging.export import export_checkpoint
from prune.packaging.manifest import without_paths
from prune.packaging.verify import verify_export
from prune.shown import ShownFormatter
from prune.surgery.cut import cut
from prune.surgery.loaded import drop_layers
from prune.surgery.proof import reload, verify_checkpoint

TOKEN = "hf_" + "Abcd1234" * 5
IDS = torch.arange(3, 15)[None]  # [1, T]


def save(directory: Path, *, tied: bool = False, **tensors: torch.Tensor) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=tied,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, value in tensors.items():
            model.get_parameter(name.replace("__", ".")).copy_(value)
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("output") / "source")


@pytest.fixture(scope="module")
def cut_model(source: Path) -> Path:
    cut(str(source), source.parent / "cut", drop_layers=[1], verify=False)
    return source.parent / "cut"


@pytest.fixture(scope="module")
def exported(cut_model: Path) -> Path:
    target = cut_model.parent / "export"
    plan = {"source": "org/model", "num_layers": 4, "keep": [0, 2, 3], "drop": [1], "note": f"with {TOKEN}"}
    facts = {"source": "org/model", "label": "test", "plan": plan}
    export_checkpoint(cut_model, target, evidence=None, facts=facts, override=f"a test, token {TOKEN}")
    return target


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_f11_non_finite_weights(tmp_path: Path, value: float) -> None:
    directory = save(tmp_path / "bad", model__norm__weight=torch.full((16,), value))
    with pytest.raises(PruneError, match=r"model\.norm\.weight.*NaN or infinite"):
        verify_checkpoint(directory)


@pytest.mark.parametrize("stored", [False, True])
def test_f15_tied_embeddings_with_and_without_a_stored_head(tmp_path: Path, stored: bool) -> None:
    from safetensors.torch import load_file, save_file

    directory = save(tmp_path / "tied", tied=True)
    tensors = load_file(directory / "model.safetensors")
    assert "lm_head.weight" not in tensors
    if stored:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    cut(str(directory), tmp_path / "out", drop_layers=[1], verify=False)
    assert ("lm_head.weight" in load_file(tmp_path / "out/model.safetensors")) == stored
    memory = drop_layers(load_model(str(directory)), [1])
    assert torch.equal(reload(tmp_path / "out").eval()(IDS).logits, memory(IDS).logits)


def test_f17_remote_code_is_never_run(source: Path, tmp_path: Path) -> None:
    hostile = tmp_path / "hostile"
    shutil.copytree(source, hostile)
    (hostile / "modeling.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    config = json.loads((hostile / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling.Model", "AutoConfig": "modeling.Config"}
    (hostile / "config.json").write_text(json.dumps(config))
    cut(str(hostile), tmp_path / "known", drop_layers=[1], verify=False)
    verify_checkpoint(tmp_path / "known")
    config["model_type"] = "foreign"
    (hostile / "config.json").write_text(json.dumps(config))
    with pytest.raises(PruneError, match="foreign"):
        cut(str(hostile), tmp_path / "unknown", drop_layers=[1], verify=False)
    with pytest.raises(PruneError, match="cannot be loaded"):
        load_model(str(hostile))
    assert not (tmp_path / "executed").exists()


class Templated:
    """A tokenizer as far as its chat template goes."""

    special_tokens_map: ClassVar = {"bos_token": "<s>"}

    def __init__(self, template: str | dict[str, str]) -> None:
        self.chat_template = template


BURNS = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}"
FILLS = "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}"


@pytest.mark.parametrize("template", [BURNS + "{% endfor %}", FILLS])
def test_f18_template_that_burns_cpu_or_memory(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prune.model.chat_template.SECONDS", 1)
    with pytest.raises(PruneError, match="chat template needs more than"):
        check_chat_template(Templated(template), "model")


def test_f18_every_named_template_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prune.model.chat_template.SECONDS", 1)
    with pytest.raises(PruneError, match="chat template needs more than"):
        check_chat_template(Templated({"default": "{{ messages }}", "tool_use": FILLS}), "model")


def test_f18_a_template_is_tried_where_there_is_no_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read from /proc, nothing is forked: the trial is a process of its own that never holds torch."""
    monkeypatch.setattr("prune.model.chat_template.SECONDS", 1)
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("forked"))
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: pytest.fail("read a file"))
    with pytest.raises(PruneError, match="chat template needs more than"):
        check_chat_template(Templated("{# anew #}" + FILLS), "model")
    code = "import sys, runpy; sys.argv = ['x', '1']\n"
    code += "try:\n    runpy.run_module('prune.model.chat_template', run_name='__main__')\n"
    code += "except SystemExit as end:\n    print(end.code, 'torch' in sys.modules)"
    given = json.dumps({"template": "{{ bos_token }}", "words": {"bos_token": "<s>"}})
    done = subprocess.run([sys.executable, "-c", code], input=given, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "False"]


ENDING = [
    "{% for m in messages %}{{ m.content }}{% endfor %}",
    "{{ 1 / 0 }}",
    "{% broken",
    "{% generation %}{{ strftime_now('%Y') }}{% endgeneration %}{{ raise_exception('no') }}",
]


@pytest.mark.parametrize("template", ENDING)
def test_f18_template_that_ends_is_left_alone(template: str) -> None:
    check_chat_template(Templated(template), "model")


def test_f31_another_models_cache_is_a_miss(source: Path, cut_model: Path) -> None:
    from evals.fingerprint import fingerprint

    class Words:
        @property
        def special_tokens_map(self) -> dict[str, str]:
            return {}

        def get_vocab(self) -> dict[str, int]:
            return {"a": 0}

    whole, again, shallow = (load_model(str(path)) for path in (source, source, cut_model))
    keys = [fingerprint(model, Words()) for model in (whole, again, shallow)]
    assert keys[0] == keys[1] != keys[2]
    with torch.no_grad():
        again.lm_head.weight[0, 0] += 1
    assert fingerprint(again, Words()) != keys[0]


@pytest.mark.parametrize("change", ["missing", "unexpected", "mismatched"])
def test_f34_reload_accounts_for_every_tensor(cut_model: Path, tmp_path: Path, change: str) -> None:
    from safetensors.torch import load_file, save_file

    bad = tmp_path / "bad"
    shutil.copytree(cut_model, bad)
    tensors = load_file(bad / "model.safetensors")
    if change == "missing":
        del tensors["model.norm.weight"]
    elif change == "unexpected":
        tensors["model.layers.0.extra.weight"] = torch.zeros(2)
    else:
        tensors["model.norm.weight"] = torch.zeros(17)
    save_file(tensors, bad / "model.safetensors", {"format": "pt"})
    reload(cut_model)
    with pytest.raises(PruneError, match=rf"{change} keys|does not load"):
        reload(bad)


def test_f35_disk_equals_memory(source: Path, cut_model: Path) -> None:
    memory = drop_layers(load_model(str(source)), [1])
    assert torch.equal(load_model(str(cut_model))(IDS).logits, memory(IDS).logits)


def test_f36_one_flipped_byte_is_found(exported: Path, tmp_path: Path) -> None:
    verify_export(exported)
    for name in ("model.safetensors", "config.json"):
        copy = tmp_path / name
        shutil.copytree(exported, copy)
        raw = bytearray((copy / name).read_bytes())
        raw[len(raw) // 2] ^= 1
        (copy / name).write_bytes(raw)
        with pytest.raises(PruneError, match=f"{name} was changed"):
            verify_export(copy)


def test_f37_failed_gate_is_the_first_line_and_exit_3(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    import prune.api
    from prune.cli import _run
    from prune.reporting.markdown import render_markdown
    from tests.reporting.sample import sample_report

    failed = sample_report().model_copy(update={"ship": "FAIL", "exported": None})
    assert render_markdown(failed).splitlines()[0].startswith("# Do not ship: Keep all 16 layers")

    def fail(*args: Any, **options: Any) -> None:
        raise GateFailed("arithmetic FAIL")

    monkeypatch.setattr(prune.api, "run", fail, raising=False)
    monkeypatch.setattr("sys.argv", ["prune", "run", "recipe.yaml", "--quiet"])
    assert _run() == 3
    assert capsys.readouterr().err == "prune: arithmetic FAIL\n"


def test_f38_secrets_reach_no_log_manifest_or_card(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in exported.iterdir():
        assert TOKEN.encode() not in path.read_bytes(), path.name
    monkeypatch.setenv("MY_API_KEY", "correct horse battery")
    assert without_paths({"a": [f"x {TOKEN}", "correct horse battery"]}) == {"a": ["x [removed]", "[removed]"]}
    assert without_secrets("https://user:password@host/x") == "https://[removed]@host/x"
    assert without_secrets("https://host/a@b: plain text") == "https://host/a@b: plain text"
    record = logging.LogRecord("prune", logging.INFO, "f", 1, "got %s", (TOKEN,), None)
    assert ShownFormatter("%(message)s").format(record) == "got [removed]"


def test_f39_html_escapes_names(tmp_path: Path) -> None:
    from prune.reporting.page import render_html
    from tests.reporting.sample import sample_report

    hostile = "<img src=x onerror=alert(1)>"
    render_html(sample_report().model_copy(update={"title": hostile}), tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text(encoding="utf8")
    assert hostile not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page

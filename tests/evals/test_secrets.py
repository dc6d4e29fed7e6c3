"""What is secret goes, what only looks unusual stays."""

from __future__ import annotations

import hashlib
import json

import pytest

from evals.secrets import REMOVED, is_secret, redacted, without_secrets
from tests.planted import CORE, HELD, SHAPED


def test_there_are_more_than_thirty_kinds() -> None:
    assert len(SHAPED) > 30


@pytest.mark.parametrize("kind", SHAPED)
def test_a_secret_goes_wherever_it_stands(kind: str) -> None:
    secret, core = SHAPED[kind], CORE[kind]
    for text in (secret, f"see {secret} here", f"'{secret}'", f"({secret})", f'{{"note": {json.dumps(secret)}}}'):
        found = without_secrets(text)
        assert core not in found
        assert REMOVED in found
    assert without_secrets(f"before {secret}. After").startswith("before ")
    assert json.loads(without_secrets(json.dumps({"a": secret, "b": "kept"})))["b"] == "kept"


@pytest.mark.parametrize("name", HELD)
def test_the_value_of_a_secret_variable_goes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value = HELD[name]
    text = {f"a key: {value}": [f"with {value}", 1, None, {"x": value}]}
    assert redacted(text) == text
    monkeypatch.setenv(name, value)
    assert redacted(text) == {f"a key: {REMOVED}": [f"with {REMOVED}", 1, None, {"x": REMOVED}]}
    assert value not in json.loads(without_secrets(json.dumps([value], ensure_ascii=False)))[0]


@pytest.mark.parametrize(
    "name", "AWS_SECRET_ACCESS_KEY GITHUB_PAT DB_PASS db_pass HFTOKEN OPENAI_KEY MY_PWD NPM_AUTH secret".split()
)
def test_names_that_hold_secrets(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize(
    "name", "PATH PWD OLDPWD HOME TOKENIZERS_PARALLELISM HF_TOKEN_PATH SSH_AUTH_SOCK MAX_TOKENS COMPASS KEYMAP".split()
)
def test_names_that_hold_none(name: str) -> None:
    assert not is_secret(name)


def test_short_values_and_paths_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "short")
    monkeypatch.setenv("OTHER_TOKEN", "/usr/bin")
    assert without_secrets("a short walk to /usr/bin") == "a short walk to /usr/bin"


HASH = hashlib.sha256(b"x").hexdigest()
ORDINARY = [
    HASH,
    f"sha256: {HASH}",
    f"revision {HASH[:40]}",
    "HuggingFaceTB/SmolLM2-135M-Instruct",
    "sk-learn-compatible-estimators-of-every-kind",
    "task-specific-2024-instruction-tuned-model",
    "risk-adjusted returns of hf_transfer and ghp",
    "model.layers.12.self_attn.k_proj.weight",
    "num_key_value_heads: 12345678, num_hidden_layers: 30",
    "pad_token: <|endoftext1|>, eos_token=<|im_end_2|>",
    "max_new_tokens=100000000",
    "https://huggingface.co/org/model@main and me@example.org",
    "ssh://git@github.com/org/repo",
    "the secret: everything counts; password: see below",
    "keyword: 12345678, bypass: 12345678, secretary: 2024-11-09",
    "basic understanding of 2024",
    "2024-11-09T10:11:12+00:00",
    "日本語の文章: 百二十三",
    "AKIRA and ASIA1",
    "eyJhbGciOi",
    "d" * 5000,
]


@pytest.mark.parametrize("text", ORDINARY, ids=range(len(ORDINARY)))
def test_ordinary_text_stays(text: str) -> None:
    assert without_secrets(text) == text


@pytest.mark.parametrize("name", ["tokens_per_pass", "secret", "api_key", "kv_bytes_per_access_token"])
def test_a_number_behind_a_name_stays_and_json_stays_json(name: str) -> None:
    """A figure that happens to be named like a secret; what was removed from a run's own file made it unreadable."""
    text = json.dumps({name: 3.921678453567595, "next": [12345678.5, None]}, indent=2)
    assert without_secrets(text) == text
    assert without_secrets(f"{name}: 3.921678453567595") == f"{name}: 3.921678453567595"
    assert REMOVED in without_secrets(json.dumps({"api_key": "abcd12345678"}))

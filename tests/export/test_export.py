"""What an export carries, and what reaches the hub."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

import prune
from evals.evidence import Evidence, SuiteEvidence
from prune.errors import GateFailed, PruneError, UsageError
from prune.packaging.card import write_card
from prune.packaging.export import check_gate, export_checkpoint
from prune.packaging.hub import check_repo_id, push
from prune.packaging.manifest import weights_sha256
from prune.packaging.mergekit import layer_ranges
from prune.surgery.cut import cut

PLAN = {"source": "org/demo", "num_layers": 16, "keep": [*range(5), *range(7, 16)], "drop": [5, 6]}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, demo_model: Path) -> Path:
    import shutil

    root = tmp_path_factory.mktemp("packaging")
    shutil.copytree(demo_model, root / "source")
    (root / "source/LICENSE").write_text("the licence")
    (root / "source/NOTICE.txt").write_text("the notice")
    (root / "source/chat_template.jinja").write_text("{{ messages[0].content }}")
    cut(str(root / "source"), root / "cut", drop_layers=[5, 6], verify=False)
    facts = {"source": "org/demo", "label": "test", "plan": PLAN}
    export_checkpoint(root / "cut", root / "export", evidence=None, facts=facts, override="a test")
    return root / "export"


def test_licence_notice_tokenizer_template_and_generation_config_are_carried(exported: Path) -> None:
    source = exported.parent / "source"
    names = ["LICENSE", "NOTICE.txt", "chat_template.jinja", "tokenizer.json", "generation_config.json"]
    for name in names:
        assert (exported / name).read_bytes() == (source / name).read_bytes(), name


def test_the_card_names_its_base_model(exported: Path) -> None:
    card = ModelCard.load(exported / "README.md")
    assert card.data.base_model == "org/demo"
    assert "5, 6" in card.text


@pytest.mark.parametrize(("source", "revision", "base"), [
    ("org/demo", None, "org/demo"), ("gpt2", "abc123", "gpt2"), ("SmolLM2", None, None),
    ("/models/x", None, None), (None, None, None),
])  # fmt: skip
def test_a_bare_folder_name_is_no_base_model(tmp_path: Path, source: Any, revision: Any, base: Any) -> None:
    write_card(tmp_path, {"source": source, "revision": revision}, None)
    assert ModelCard.load(tmp_path / "README.md").data.get("base_model") == base


@pytest.mark.parametrize("chat", [False, True])
def test_the_card_s_snippet_runs_as_it_stands(exported: Path, tmp_path: Path, capsys: Any, chat: bool) -> None:
    if chat:
        (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}")
    write_card(tmp_path, {"source": "org/demo", "plan": PLAN}, None)
    (snippet,) = re.findall(r"```python\n(.*?)```", (tmp_path / "README.md").read_text(encoding="utf8"), re.S)
    exec(snippet.replace("THIS_CHECKPOINT", str(exported)), {})
    assert capsys.readouterr().out.strip()
    assert ("apply_chat_template" in snippet) == chat


def test_advice_follows_the_verdict(exported: Path) -> None:
    def suite(name: str, verdict: str, **more: Any) -> SuiteEvidence:
        return SuiteEvidence(
            name=name, title=name, tasks=[], n=400, original=0.9, candidate=0.8, chance=0.0, retention=0.9,
            floor=0.95, verdict=verdict, alpha=0.05, **more,
        )  # fmt: skip

    def said(*suites: SuiteEvidence) -> str:
        overall = "FAIL" if any(s.verdict == "FAIL" for s in suites) else "INCONCLUSIVE"
        with pytest.raises(GateFailed) as caught:
            check_gate(Evidence(overall=overall, suites=list(suites), alpha=0.05, seed=0, bootstrap=10), None)
        return caught.value.flagged

    undecided = said(suite("math", "INCONCLUSIVE", items_needed=1672), suite("general", "PASS"))
    assert "test math on about 1,672 items instead of 400" in undecided
    assert "heal" not in undecided
    both = said(suite("math", "FAIL"), suite("general", "INCONCLUSIVE", items_needed=900))
    assert "heal further or keep more layers; test general on about 900 items" in both
    assert "no number of items" in said(suite("math", "INCONCLUSIVE"))


def test_the_mergekit_recipe_keeps_the_same_layers(exported: Path) -> None:
    recipe = yaml.safe_load((exported / "mergekit_config.yml").read_text())
    spans = [piece["sources"][0]["layer_range"] for piece in recipe["slices"]]
    assert [layer for begin, end in spans for layer in range(begin, end)] == PLAN["keep"]
    assert {piece["sources"][0]["model"] for piece in recipe["slices"]} == {"org/demo"}
    assert recipe["merge_method"] == "passthrough"
    assert layer_ranges([0, 1, 2, 5]) == [[0, 3], [5, 6]]


class FakeHub:
    """The two calls of huggingface_hub's HfApi that a push makes."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.error = error

    def create_repo(self, repo_id: str, **options: Any) -> str:
        self.calls.append((repo_id, options))
        return f"https://hub/{repo_id}"

    def upload_folder(self, **options: Any) -> None:
        if self.error:
            raise self.error
        self.calls.append((options["repo_id"], options))


def test_push_uploads_the_verified_directory_once(exported: Path) -> None:
    hub: Any = FakeHub()
    assert push(exported, "me/shallow", private=True, api=hub) == "https://hub/me/shallow"
    (_, created), (_, uploaded) = hub.calls
    assert created == {"private": True, "repo_type": "model", "exist_ok": True}
    assert uploaded["folder_path"] == exported


def test_push_refuses_changed_files_and_keeps_the_export_when_the_hub_fails(exported: Path, tmp_path: Path) -> None:
    import shutil

    broken: Any = FakeHub(OSError("no route, token hf_" + "a1B2" * 8))
    with pytest.raises(PruneError, match=r"not pushed: no route, token \[removed\]"):
        push(exported, "me/shallow", api=broken)
    assert (exported / "prune_manifest.json").is_file()
    shutil.copytree(exported, tmp_path / "copy")
    (tmp_path / "copy/config.json").write_text(json.dumps({}))
    hub: Any = FakeHub()
    with pytest.raises(PruneError, match=r"config\.json was changed"):
        push(tmp_path / "copy", "me/shallow", api=hub)
    assert hub.calls == []


@pytest.mark.parametrize("name", [None, "", "a/b/c", "bad name/x"])
def test_a_bad_hub_id_is_a_usage_error_before_anything_is_written(name: str | None) -> None:
    with pytest.raises(UsageError, match="hub_model_id"):
        check_repo_id(name)


def test_evidence_of_another_checkpoint_does_not_export_this_one(exported: Path, tmp_path: Path) -> None:
    cut_model, source = exported.parent / "cut", exported.parent / "source"
    for name, candidate in (("own", cut_model), ("other", source)):
        evidence = Evidence(overall="PASS", suites=[], alpha=0.05, seed=0, bootstrap=100, candidate_model=name)
        evidence.candidate_sha256 = weights_sha256(candidate)
        evidence.save(tmp_path / name)
    assert prune.export(str(cut_model), tmp_path / "out", evidence=tmp_path / "own", dry_run=True)["overrides"] == []
    with pytest.raises(UsageError, match="is about other, whose weights are not those of"):
        prune.export(str(cut_model), tmp_path / "out", evidence=tmp_path / "other", override="I know")
    in_memory = Evidence(overall="PASS", suites=[], alpha=0.05, seed=0, bootstrap=100, candidate_model="notebook")
    with pytest.raises(UsageError, match=r"^evidence: is about notebook in memory"):
        prune.export(str(cut_model), tmp_path / "out", evidence=in_memory)
    own = in_memory.model_copy(update={"candidate_sha256": weights_sha256(cut_model)})
    assert prune.export(str(cut_model), tmp_path / "out", evidence=own, dry_run=True)["overrides"] == []
    assert not (tmp_path / "out").exists()

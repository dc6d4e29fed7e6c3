"""Which candidate ships: the shallowest that passes, or a labelled part, or nothing."""

from __future__ import annotations

import json

from evals.evidence import Evidence, SuiteEvidence
from evals.speculative import DraftResult
from prune.runs.verdict import CandidateKey, DraftTrial, choose, confirmed_passes, override_reasons, recommend
from prune.wording import Text
from prune.wording.text import english


def evidence(**verdicts: str) -> Evidence:
    suites = [
        SuiteEvidence(
            name=name, title=name.title(), tasks=[], n=10, original=0.9, candidate=0.8, chance=0.0, retention=0.9,
            floor=0.95, verdict=verdict, alpha=0.05,
        )
        for name, verdict in verdicts.items()
    ]  # fmt: skip
    return Evidence(overall="PASS", suites=suites, alpha=0.05, seed=0, bootstrap=1000)


def judged(table):
    return {CandidateKey(depth, stage): evidence(general=g, math=m) for (depth, stage), (g, m) in table.items()}


def test_the_shallowest_full_pass_is_chosen_over_deeper_ones():
    table = judged(
        {
            (14, "pruned"): ("PASS", "PASS"),
            (12, "healed"): ("PASS", "PASS"),
            (10, "healed"): ("PASS", "FAIL"),
        }
    )
    choice = choose(table, fallback=True, depth=16)
    assert (str(choice.key), choice.ship, choice.refused) == ("healed-12", "PASS", ())


def test_at_one_depth_the_untrained_checkpoint_is_preferred():
    table = judged({(12, "healed"): ("PASS", "PASS"), (12, "pruned"): ("PASS", "PASS")})
    assert str(choose(table, fallback=False, depth=16).key) == "pruned-12"


def test_without_fallback_a_part_is_not_enough():
    table = judged({(12, "healed"): ("PASS", "FAIL")})
    choice = choose(table, fallback=False, depth=16)
    assert (choice.key, choice.ship) == (None, "FAIL")
    assert "Keep all 16 layers" in choice.label


def test_a_partial_pass_names_what_must_stay_deep():
    table = judged({(12, "healed"): ("PASS", "FAIL"), (10, "healed"): ("PASS", "INCONCLUSIVE")})
    choice = choose(table, fallback=True, depth=16)
    assert (str(choice.key), choice.ship, choice.refused) == ("healed-10", "PARTIAL", ("math",))
    assert choice.label == "Shallow (10 of 16 layers, healed) for general; keep the 16-layer original for math"


def test_required_suites_decide_alone():
    table = judged({(10, "healed"): ("PASS", "FAIL"), (14, "pruned"): ("PASS", "PASS")})
    assert str(choose(table, require=["general"], fallback=False, depth=16).key) == "healed-10"


def test_recommendations_follow_the_shallowest_pass():
    table = judged({(12, "pruned"): ("PASS", "FAIL"), (12, "healed"): ("PASS", "PASS")})
    general, math = recommend(table, "general"), recommend(table, "math")
    assert (general.recommendation, general.key) == ("use shallow", CandidateKey(12, "pruned"))
    assert (math.recommendation, math.key) == ("heal first", CandidateKey(12, "healed"))
    assert "12 layers, healed, keep 90.0\u00a0% (no limit on either side) against a floor of 95" in english(math.reason)


def test_what_passes_as_it_was_cut_needs_no_healing_though_a_healed_one_is_shallower():
    table = judged(
        {(14, "pruned"): ("PASS", "PASS"), (12, "pruned"): ("FAIL", "PASS"), (12, "healed"): ("PASS", "PASS")}
    )
    general, math = recommend(table, "general"), recommend(table, "math")
    assert (general.recommendation, general.key) == ("use shallow", CandidateKey(14, "pruned"))
    assert "14 layers, pruned, keep" in english(general.reason)
    assert "Healed, a shallower one does, too: 12 layers, healed, keep" in english(general.reason)
    assert (math.recommendation, math.key) == ("use shallow", CandidateKey(12, "pruned"))
    assert "Healed" not in english(math.reason)


def trial(identical: int, speedup: float, half_width: float = 0.1) -> DraftTrial:
    result = DraftResult(
        prompts=200, identical=identical, mismatches=(), new_tokens=2000, num_assistant_tokens=4, acceptance_rate=0.9,
        tokens_per_pass=3.2, draft_cost=0.5, speedup=speedup, expected_speedup=1.3, expected_by_cost=((0.1, 2.9),),
        device="cpu", dtype="float32", speedup_lo=speedup - half_width, speedup_hi=speedup + half_width,
    )  # fmt: skip
    assert DraftResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result
    return DraftTrial(CandidateKey(10, "healed"), result)


def test_a_draft_is_recommended_only_when_it_is_lossless_and_faster():
    failed = judged({(12, "pruned"): ("PASS", "FAIL")})
    assert recommend(failed, "math").recommendation == "keep deep"
    drafted = recommend(failed, "math", {"math": trial(200, 1.3)})
    assert (drafted.recommendation, drafted.key) == ("shallow as draft", CandidateKey(10, "healed"))
    said = english(drafted.reason)
    assert "200 of 200 outputs identical, 90\u00a0% of its tokens accepted, at 1.30× the speed" in said
    for poor in (trial(199, 1.3), trial(200, 0.9), trial(200, 1.3, half_width=0.4)):
        verdict = recommend(failed, "math", {"math": poor})
        assert (verdict.recommendation, verdict.key) == ("keep deep", None)
        assert "As a draft" in english(verdict.reason)
    passed = recommend(failed, "general", {"general": trial(200, 1.3)})
    assert passed.recommendation == "use shallow"


def test_an_interval_without_an_upper_end_is_said_so():
    table = judged({(12, "pruned"): ("INCONCLUSIVE", "PASS")})
    suite = table[CandidateKey(12, "pruned")].suite("general")
    suite.retention_lo, suite.retention_hi = 0.2, None
    assert "(at least 20.0\u00a0%, no upper limit)" in english(recommend(table, "general").reason)
    suite.retention_lo, suite.retention_hi = None, 1.3
    assert "(at most 130.0\u00a0%, no lower limit)" in english(recommend(table, "general").reason)
    suite.retention = None
    assert "what is kept is not defined" in english(recommend(table, "general").reason)


def test_overrides_name_the_refused_suites_and_a_persons_own_words():
    choice = choose(judged({(12, "healed"): ("PASS", "FAIL")}), fallback=True, depth=16)
    fallback, own = override_reasons(choice, "agreed with Ada", {"math": {"en": "Arithmetic", "ja": "計算"}})
    assert english(fallback) == "recipe export.fallback: exported without Arithmetic"
    assert "計算" in Text("ja").say(fallback)
    assert Text("ja").say(own) == "agreed with Ada"


def test_a_pass_below_a_depth_that_does_not_pass_is_not_claimed():
    table = judged(
        {
            (14, "pruned"): ("PASS", "PASS"),
            (12, "pruned"): ("INCONCLUSIVE", "PASS"),
            (10, "pruned"): ("PASS", "PASS"),
            (14, "healed"): ("PASS", "FAIL"),
            (10, "healed"): ("PASS", "PASS"),
        }
    )
    assert confirmed_passes(table) == {
        CandidateKey(14, "pruned"): ["general", "math"],
        CandidateKey(12, "pruned"): ["math"],
        CandidateKey(10, "pruned"): ["math"],
        CandidateKey(14, "healed"): ["general"],
        CandidateKey(10, "healed"): ["general"],
    }
    assert str(choose(table, fallback=True, depth=16).key) == "pruned-14"
    general = recommend(table, "general")
    assert general.key == CandidateKey(14, "pruned")
    assert "10 layers, healed" in english(general.reason)

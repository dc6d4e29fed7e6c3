"""Write the table of supported families into prune/surgery/README.md, from cuts that are made and compared now.

    PYTHONPATH=. python scripts/support_table.py [--families llama,qwen3] [--json found.json]

Every family of the zoo (tests/zoo) is built with eight layers, cut in four ways on disk and in memory, and compared
with the original whose removed layers are passed through. Takes about ten minutes of one core for all families; with
`--families` only prints. `--findings` renders what earlier runs saved with `--json`, so that families can be shared
out over processes. Exit code 1 when any result is wrong.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
README = ROOT / "prune" / "surgery" / "README.md"
BEGIN, END = "<!-- support table: begin -->", "<!-- support table: end -->"

if TYPE_CHECKING:
    from zoo.exactness import Finding


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", help="Comma-separated; print their findings, write nothing.")
    parser.add_argument("--json", type=Path, help="Also write every finding here.")
    parser.add_argument("--findings", type=Path, nargs="+", help="Render these instead of cutting anything.")
    options = parser.parse_args()
    findings = _read(options.findings) if options.findings else _examine(options.families)
    if options.json:
        options.json.write_text(json.dumps([finding.as_dict() for finding in findings], indent=1))
    table = render(findings, importlib.metadata.version("transformers"))
    if options.families:
        print(table)
    else:
        before, _, rest = README.read_text().partition(BEGIN)
        README.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}")
        print(f"written to {README.relative_to(ROOT)}")
    return 1 if any(finding.verdict == "wrong" for finding in findings) else 0


def _examine(families: str | None) -> list[Finding]:
    import transformers
    from zoo.exactness import examine_all
    from zoo.families import FAMILIES

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        chosen = families.split(",") if families else FAMILIES
        return examine_all(chosen, Path(scratch), report=lambda line: print(line, flush=True))


def _read(paths: Sequence[Path]) -> list[Finding]:
    """Findings of earlier runs, which together must cover every family once."""
    from zoo.exactness import Finding
    from zoo.families import FAMILIES

    found = [Finding(**row) for path in paths for row in json.loads(path.read_text())]
    if Counter(finding.family for finding in found) != dict.fromkeys(FAMILIES, 4):
        raise SystemExit("--findings: must hold four findings of every family, no more and no less")
    return found


def _by_family(findings: Sequence[Finding]) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        found[finding.family].append(finding)
    return found


def render(findings: Sequence[Finding], version: str) -> str:
    """The table in Markdown: a summary line, one row a family, and the refusals in full."""
    by_family = _by_family(findings)
    verdicts = Counter(_overall(found) for found in by_family.values())
    memory = sum(all(f.memory == "exact" for f in found) for found in by_family.values())
    lines = [
        f"{len(by_family)} families of transformers {version}: {verdicts['exact']} exact in all four removals, "
        f"{verdicts['partly']} exact in some and refused in the others, {verdicts['refused']} refused altogether, "
        f"{verdicts['wrong']} wrong. In memory: {memory} exact in all four.",
        "",
        "| family | {3,4} | {0} | {7} | {1,2,6} | in memory | fields that change besides the depth |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for family, found in sorted(by_family.items()):
        cells = [_mark(finding.verdict) for finding in found]
        fields = sorted({name for f in found for name in f.fields} - DEPTH_NAMES)
        same = all((f.memory == "exact") == (f.verdict == "exact") for f in found)
        agrees = "same" if same else "; ".join(sorted({f.memory[:60] for f in found if f.memory != "exact"}))
        lines.append(f"| {family} | {' | '.join(cells)} | {agrees} | {', '.join(fields)} |")
    lines += ["", "Refused, and why:", ""]
    for family, found in sorted(by_family.items()):
        reasons: dict[str, list[str]] = defaultdict(list)
        for finding in found:
            if finding.verdict != "exact":
                reasons[finding.reason].append("{" + ",".join(map(str, finding.drop)) + "}")
        lines += [f"- `{family}` {' '.join(drops)}: {reason}" for reason, drops in reasons.items()]
    unlike = sorted(f for f, found in by_family.items() if any(x.generation != "equal" for x in found))
    if unlike:
        lines += ["", f"Logits only (the uncut model's own cached generation differs too): {', '.join(unlike)}."]
    return "\n".join(lines)


DEPTH_NAMES = {"num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks"}


def _mark(verdict: str) -> str:
    return {"exact": "exact", "refused": "refused"}.get(verdict, "**WRONG**")


def _overall(found: Sequence[Finding]) -> str:
    verdicts = {finding.verdict for finding in found}
    return "wrong" if "wrong" in verdicts else verdicts.pop() if len(verdicts) == 1 else "partly"


if __name__ == "__main__":
    raise SystemExit(main())

"""Runs the tests and says which branches of both languages they did not run: `make coverage`.

Python by coverage.py, in all processes; TypeScript by istanbul's counters, within workerd.
Lines for which docs/coverage.md gives no reason are marked with "?".
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from scripts.workerd import COVERAGE, ROOT

REASONS = ROOT / "docs" / "coverage.md"


def reasons() -> list[tuple[re.Pattern[str], re.Pattern[str]]]:
    """Files and source lines that docs/coverage.md has a reason for, as patterns: rows of `file` | `` line `` | reason."""
    rows = re.findall(r"^\| `([^`]+)` \| `` ?(.+?) ?`` \|", REASONS.read_text(), re.MULTILINE)
    return [(re.compile(file.replace("*", ".*")), re.compile(line.replace("\\|", "|"))) for file, line in rows]


def python(folder: Path) -> tuple[dict[str, set[int]], str]:
    """Lines of src/durafetch with a branch, or at all, not run; and how much is."""
    environment = {**os.environ, "COVERAGE_FILE": str(folder / "data")}
    for command in (["combine", "-q"], ["json", "-q", "-o", str(folder / "python.json")]):
        subprocess.run([sys.executable, "-m", "coverage", *command], cwd=ROOT, env=environment, check=True)
    report = json.loads((folder / "python.json").read_text())
    missing: dict[str, set[int]] = defaultdict(set)
    for name, file in report["files"].items():
        missing[name] = set(file["missing_lines"]) | {start for start, _ in file["missing_branches"]}
    totals = report["totals"]
    return missing, f"{totals['covered_branches']} of {totals['num_branches']} branches"


def typescript(folder: Path) -> tuple[dict[str, set[int]], str]:
    """The same of server/src."""
    counts: dict[str, Any] = {}
    for path in folder.glob("*.json"):
        try:
            whole = json.loads(path.read_text())
        except ValueError:
            continue  # the runtime was killed while it answered
        for name, file in whole.items():
            known = counts.setdefault(name, file)
            if known is file:
                continue
            for key, values in file["b"].items():
                known["b"][key] = [a + b for a, b in zip(known["b"][key], values, strict=True)]
            for kind in ("s", "f"):
                for key, value in file[kind].items():
                    known[kind][key] += value
    missing: dict[str, set[int]] = defaultdict(set)
    taken = total = 0
    for name, file in counts.items():
        for key, values in file["b"].items():
            total += len(values)
            taken += sum(value > 0 for value in values)
            for place, value in zip(file["branchMap"][key]["locations"], values, strict=True):
                if value == 0:
                    missing[f"server/{name}"].add(
                        place["start"].get("line") or file["branchMap"][key]["loc"]["start"]["line"]
                    )
        for key, value in file["f"].items():
            if value == 0:
                missing[f"server/{name}"].add(file["fnMap"][key]["loc"]["start"]["line"])
    return missing, f"{taken} of {total} branches"


def main() -> int:
    folder = ROOT / "build" / "coverage"
    shutil.rmtree(folder, ignore_errors=True)
    counters = folder / "server"
    counters.mkdir(parents=True)
    tests = subprocess.run(
        [sys.executable, "-m", "coverage", "run", "-m", "pytest", "-n", "2", "--dist", "loadfile", *sys.argv[1:]],
        cwd=ROOT, env={**os.environ, COVERAGE: str(counters), "COVERAGE_FILE": str(folder / "data")},
    )  # fmt: skip
    found, part = python(folder)
    print(f"Python: {part}")
    more, part = typescript(counters)
    print(f"TypeScript: {part}")
    known = reasons()
    unexplained = 0
    for file, numbers in sorted({**found, **more}.items()):
        lines = (ROOT / file).read_text().splitlines()
        for number in sorted(numbers):
            line = lines[number - 1].strip()
            mark = " " if any(f.fullmatch(file) and pattern.search(line) for f, pattern in known) else "?"
            unexplained += mark == "?"
            print(f"{mark} {file}:{number}  {line}")
    print(f"{unexplained} lines without a reason in {REASONS.relative_to(ROOT)}")
    return tests.returncode


if __name__ == "__main__":
    sys.exit(main())

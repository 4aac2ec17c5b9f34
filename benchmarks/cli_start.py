"""cli_start: `durafetch --version` against `python -c pass`."""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks.runner import Result, measure
from scripts.workerd import ROOT


def seconds(*command: object) -> float:
    started = time.perf_counter()
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def run(runs: int) -> list[Result]:
    """Whole processes."""
    durafetch = ROOT / ".venv/bin/durafetch"
    return [measure(
        "cli_start", lambda: seconds(durafetch, "--version") * 1000, lambda: seconds(sys.executable, "-c", "pass") * 1000,
        unit="ms", runs=max(15, runs), what="durafetch --version, against python -c pass", aim="<= 150 ms more",
    )]  # fmt: skip

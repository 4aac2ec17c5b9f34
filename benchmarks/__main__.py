"""`make bench`, `make bench NAME=v8_decode`: prints a table and writes benchmarks/results.json."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
from pathlib import Path

import apsw
from rich.console import Console
from rich.table import Table

NAMES = [
    "cli_start", "v8_decode", "query", "first_sync", "no_change", "app_overhead", "live_latency", "local_dev", "big_object",
]  # fmt: skip
RESULTS = Path(__file__).with_name("results.json")


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("name", nargs="*", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--runs", type=int, default=5)
    chosen = parser.parse_args()
    table = Table("benchmark", "what", "value", "limit", "ratio", "spread", "aim")
    results = []
    for name in chosen.name or NAMES:
        for result in importlib.import_module(f"benchmarks.{name}").run(chosen.runs):
            results.append(result.row())
            numbers = (f"{result.value:,.4g} {result.unit}", f"{result.limit:,.4g}", f"{result.ratio:.3g}")
            table.add_row(result.name, result.what, *numbers, f"{result.spread:.0%}", result.aim)
    Console(width=None if Console().is_terminal else 160).print(table)
    if not chosen.name:
        machine = {
            "system": platform.platform(), "cpus": os.cpu_count(), "python": platform.python_version(),
            "sqlite": apsw.sqlite_lib_version(),
        }  # fmt: skip
        RESULTS.write_text(json.dumps({"machine": machine, "benchmarks": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()

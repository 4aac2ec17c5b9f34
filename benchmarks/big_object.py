"""big_object: 1 GB in one object, by SQL and by entries: how long, how much memory on both sides, how long the app waits."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.runner import Result
from benchmarks.workers import Bench, bench, inserted
from scripts.workerd import ROOT
from tests.support import TOKEN

MEGABYTES = int(os.environ.get("MEGABYTES") or 1000)
ROW = 10_000


def memory_kb(pid: int, what: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1])


def filled(one: Bench, kind: str) -> None:
    rows = MEGABYTES * 1_000_000 // ROW
    if kind == "sql":
        one.zoo.run("Zoo", kind, ["sql", "CREATE TABLE t(id INTEGER PRIMARY KEY, a)"])
    for first in range(0, rows, 10_000):
        count = min(10_000, rows - first)
        if kind == "sql":
            one.zoo.run("Zoo", kind, ["sql", f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) "
                                             f"INSERT INTO t SELECT i + {first}, hex(randomblob({ROW // 2})) FROM n"], ["sync"])  # fmt: skip
        else:
            for part in range(first, first + count, 1000):
                one.zoo.run("Zoo", kind, ["many", 1000, ROW, f"k{part:08d}"], ["sync"])


@dataclass
class Seen:
    """What was seen while a process ran: its seconds and output, peaks of it and of the runtime in kB, the app's longest wait."""

    seconds: float
    said: str
    peak_kb: int
    runtime_kb: int
    wait_ms: float


def seen(one: Bench, kind: str, command: list[Any]) -> Seen:
    """Runs a command, while the app goes on asking the object for something else."""
    started = time.perf_counter()
    process = subprocess.Popen(
        command, env={**os.environ, "DURAFETCH_TOKEN": TOKEN}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT
    )  # fmt: skip
    peak = runtime = 0
    waits: list[float] = []
    done = threading.Event()

    def app() -> None:
        while not done.is_set():
            asked = time.perf_counter()
            one.zoo.run("Zoo", kind, ["get", "nothing"])
            waits.append(time.perf_counter() - asked)
            time.sleep(0.02)

    thread = threading.Thread(target=app)
    thread.start()
    while process.poll() is None:
        try:
            peak = max(peak, memory_kb(process.pid, "VmHWM"))
        except (OSError, StopIteration):
            pass
        runtime = max(runtime, memory_kb(one.zoo.runtime.pid, "VmRSS"))
        time.sleep(0.05)
    seconds = time.perf_counter() - started
    done.set()
    thread.join()
    said, _ = process.communicate()
    assert process.returncode == 0
    return Seen(seconds, said, peak, runtime, max(waits) * 1000)


def measured(one: Bench, kind: str, runs: int) -> list[Result]:
    """A file's memory is slow to have for the first time, and quick from then on: so the limit and the sync take turns."""
    before = memory_kb(one.zoo.runtime.pid, "VmRSS")
    path = one.folder / f"{kind}.sqlite"
    syncs, bare = [], []
    for _ in range(max(5, runs)):
        bare.append(seen(one, kind, [sys.executable, "-m", "benchmarks.big_object", one.folder]))
        syncs.append(seen(one, kind, [ROOT / ".venv/bin/durafetch", "sync", one.zoo.url, "--db", path]))
        path.unlink()
    what = f"{MEGABYTES} MB in one object, by {kind}"

    def result(name: str, values: list[float], unit: str, limit: float, about: str, aim: str) -> Result:
        value = statistics.median(values)
        spread = round((max(values) - min(values)) / value, 3)
        return Result(
            f"big_object_{kind}{name}", value, unit, limit, value / limit, len(values), spread, what + about, aim
        )

    insert = statistics.median(float(one.said) for one in bare)
    grown = max(one.runtime_kb for one in syncs) - before
    return [
        result("", [one.seconds for one in syncs], "s", insert, "", "<= 1.5 x bare insert"),
        result("_client", [one.peak_kb / 1000 for one in syncs], "MB", 200, ": peak of the client", "<= 200 MB"),
        result("_server", [grown / 1000], "MB", 64, ": growth of the runtime", "<= 64 MB"),
        result("_wait", [one.wait_ms for one in syncs], "ms", 100, ": longest wait of the app", "<= 100 ms"),
        result("_wait_bare", [one.wait_ms for one in bare], "ms", 100, ": the same during the bare insert", "-"),
    ]


def run(runs: int) -> list[Result]:
    """By SQL and by entries."""
    found = []
    for kind in ("sql", "kv"):
        with bench() as one:
            filled(one, kind)
            found += measured(one, kind, runs)
    return found


if __name__ == "__main__":
    rows = ((1, n, "A" * ROW) for n in range(MEGABYTES * 1_000_000 // ROW))
    print(inserted(Path(sys.argv[1]), "a, b, c", "a, b", rows))

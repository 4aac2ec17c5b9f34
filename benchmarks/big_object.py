"""big_object: 1 GB in one object, by SQL and by entries: how long, how much memory on both sides, how long the app waits."""

from __future__ import annotations

import os
import statistics
import subprocess
import threading
import time
from pathlib import Path

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


def looked(one: Bench, kind: str) -> tuple[float, int, int, float]:
    """Seconds of the sync, peak kB of the client, peak kB of the runtime, the longest wait of the app in ms."""
    server = one.zoo.runtime.pid
    path = one.folder / f"{kind}.sqlite"
    started = time.perf_counter()
    process = subprocess.Popen(
        [ROOT / ".venv/bin/durafetch", "sync", one.zoo.url, "--db", path], env={**os.environ, "DURAFETCH_TOKEN": TOKEN},
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    client = resident = 0
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
            client = max(client, memory_kb(process.pid, "VmHWM"))
        except (OSError, StopIteration):
            pass
        resident = max(resident, memory_kb(server, "VmRSS"))
        time.sleep(0.05)
    seconds = time.perf_counter() - started
    done.set()
    thread.join()
    assert process.returncode == 0
    path.unlink()
    return seconds, client, resident, max(waits) * 1000


def run(runs: int) -> list[Result]:
    """Each kind in turns with its limit: a file's memory is slow to have for the first time, and quick from then on."""
    found = []
    for kind in ("sql", "kv"):
        with bench() as one:
            filled(one, kind)
            count = MEGABYTES * 1_000_000 // ROW
            value = "A" * ROW
            bare, seconds, client, grown, waits = [], [], 0, 0, []
            before = memory_kb(one.zoo.runtime.pid, "VmRSS")
            for _ in range(max(5, runs)):
                bare.append(inserted(one.folder, "a, b, c", "a, b", ((1, n, value) for n in range(count))))
                took, peak, resident, wait = looked(one, kind)
                seconds.append(took)
                client, grown = max(client, peak), max(grown, resident - before)
                waits.append(wait)
        took, bound = statistics.median(seconds), statistics.median(bare)
        spread = round((max(seconds) - min(seconds)) / took, 3)
        what = f"{MEGABYTES} MB in one object, by {kind}"
        n = len(seconds)
        found += [
            Result(f"big_object_{kind}", took, "s", bound, took / bound, n, spread, what, "<= 1.5 x bare insert"),
            Result(f"big_object_{kind}_client", client / 1000, "MB", 200, client / 200_000, n, 0.0, f"{what}: peak of the client", "<= 200 MB"),
            Result(f"big_object_{kind}_server", grown / 1000, "MB", 64, grown / 64_000, n, 0.0, f"{what}: growth of the runtime", "<= 64 MB"),
            Result(f"big_object_{kind}_wait", max(waits), "ms", 100, max(waits) / 100, n, 0.0, f"{what}: longest wait of the app", "<= 100 ms"),
        ]  # fmt: skip
    return found

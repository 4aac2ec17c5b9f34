"""big_object: 1 GB in one object, by SQL and by entries: how long, how much memory on both sides, how long the app waits."""

from __future__ import annotations

import os
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
    """Seconds of the sync, peak kB of the client, growth in kB of the runtime, the longest wait of the app in ms."""
    server = one.zoo.runtime.pid
    before = memory_kb(server, "VmRSS")
    path = one.folder / f"{kind}.sqlite"
    started = time.perf_counter()
    process = subprocess.Popen(
        [ROOT / ".venv/bin/durafetch", "sync", one.zoo.url, "--db", path], env={**os.environ, "DURAFETCH_TOKEN": TOKEN},
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    client = grown = 0
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
        grown = max(grown, memory_kb(server, "VmRSS") - before)
        time.sleep(0.05)
    seconds = time.perf_counter() - started
    done.set()
    thread.join()
    assert process.returncode == 0
    path.unlink()
    return seconds, client, grown, max(waits) * 1000


def run(runs: int) -> list[Result]:
    """Once each: a gigabyte takes its time."""
    found = []
    for kind in ("sql", "kv"):
        with bench() as one:
            filled(one, kind)
            seconds, client, grown, wait = looked(one, kind)
            count = MEGABYTES * 1_000_000 // ROW
            value = "A" * ROW
            bare = inserted(one.folder, "a, b, c", "a, b", ((1, n, value) for n in range(count)))
            what = f"{MEGABYTES} MB in one object, by {kind}"
            found += [
                Result(f"big_object_{kind}", seconds, "s", bare, seconds / bare, 1, 0.0, what, "<= 1.5 x bare insert"),
                Result(f"big_object_{kind}_client", client / 1000, "MB", 200, client / 200_000, 1, 0.0, f"{what}: peak of the client", "<= 200 MB"),
                Result(f"big_object_{kind}_server", grown / 1000, "MB", 64, grown / 64_000, 1, 0.0, f"{what}: growth of the runtime", "<= 64 MB"),
                Result(f"big_object_{kind}_wait", wait, "ms", 100, wait / 100, 1, 0.0, f"{what}: longest wait of the app", "<= 100 ms"),
            ]  # fmt: skip
    return found

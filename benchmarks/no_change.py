"""no_change_100k, no_change_1m: `durafetch sync` where nothing changed, against one bare request and an interpreter's start."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import apsw

from benchmarks.runner import Result, measure
from benchmarks.workers import Bench, bench
from durafetch import Mirror, sync_sources
from scripts.workerd import ROOT
from tests.support import TOKEN

COUNTS = {"no_change_100k": 100_000, "no_change_1m": 1_000_000}


def seeded(one: Bench, path: Path, objects: int) -> None:
    """The directory knows so many objects, and the mirror has them all."""
    runtime = one.zoo.runtime
    runtime.stop()
    [file] = [p for p in (runtime.state / "zoo-DurafetchDirectory").glob("*.sqlite") if len(p.stem) == 64]
    with sqlite3.connect(file) as db:
        db.execute("DELETE FROM objects")
        db.execute("INSERT OR IGNORE INTO classes VALUES ('Zoo')")
        ids = ((n, hashlib.sha256(str(n).encode()).hexdigest(), "Zoo", f"user {n}") for n in range(1, objects + 1))
        db.executemany("INSERT INTO objects(seq, id, class, name) VALUES (?, ?, ?, ?)", ids)
    db.close()
    runtime.start()
    with Mirror(path) as mirror:
        assert sync_sources(mirror, [one.zoo.source()], class_name="none of them").error() is None
    # As if each had been pulled.
    database = apsw.Connection(str(path))
    database.execute("UPDATE durable_objects SET status = 'ok', version = 'v', storage = 'sqlite'")
    database.close()


def data(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def run(runs: int) -> list[Result]:
    """Wall time of the whole process; memory and requests are looked at, too."""
    found = []
    peaks = {}
    for name, objects in COUNTS.items():
        with bench() as one:
            path = one.folder / "m.sqlite"
            seeded(one, path, objects)
            before = data(path)
            environment = {**os.environ, "DURAFETCH_TOKEN": TOKEN}
            command = [ROOT / ".venv/bin/durafetch", "sync", one.zoo.url, "--db", path, "--json"]

            def whole(command: list[object] = command, environment: dict[str, str] = environment) -> float:
                started = time.perf_counter()
                done = subprocess.run([str(c) for c in command], env=environment, capture_output=True, check=True)
                seconds = time.perf_counter() - started
                said = json.loads(done.stdout)
                assert (said["requests"], said["objects"]["visited"]) == (1, 0), said
                return seconds

            def limit(url: str = one.limit) -> float:
                started = time.perf_counter()
                subprocess.run([sys.executable, "-c", "pass"], check=True)
                urllib.request.urlopen(url).close()
                return time.perf_counter() - started

            found.append(measure(name, whole, limit, unit="s", runs=max(5, runs), aim="<= 1.5",
                                 what=f"nothing changed, {objects:,} objects known; against python -c pass and one bare request"))  # fmt: skip
            assert data(path) == before, "it wrote"
            peaks[name] = peak_kb([str(c) for c in command], environment)
    least, most = min(peaks.values()), max(peaks.values())
    found.append(Result("no_change_memory", most / 1000, "MB", least / 1000, most / least, 1, 0.0,
                        "peak memory with 1,000,000 objects known, against 100,000", "flat"))  # fmt: skip
    return found


def peak_kb(command: list[str], environment: dict[str, str]) -> int:
    """The most memory that a command takes."""
    code = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], capture_output=True, check=True); print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    assert resource
    done = subprocess.run(
        [sys.executable, "-c", code, *command], env=environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout)

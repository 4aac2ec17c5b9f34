"""1,000 local objects x 10 entries x 200 B: the first mirror against bare inserts, and from a write to its change printed."""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import apsw

from benchmarks.runner import Result, measure
from durafetch import LocalSource, Mirror
from durafetch.sync_local import LocalSync
from scripts.workerd import ROOT, Runtime
from tests.support import Zoo, zoo_worker

OBJECTS, ENTRIES, BYTES = 1000, 10, 200
WRITES = 60


def bare_insert(folder: Path) -> float:
    """The same rows, ready made, into one table."""
    path = folder / "bare.sqlite"
    for leftover in folder.glob("bare.sqlite*"):
        leftover.unlink()
    rows = [(o, f"k{k:06d}", json.dumps("x" * BYTES), None) for o in range(OBJECTS) for k in range(ENTRIES)]
    started = time.perf_counter()
    connection = apsw.Connection(str(path))
    connection.pragma("page_size", 16384)
    connection.pragma("journal_mode", "wal")
    connection.execute("CREATE TABLE kv(a, b, c, d, PRIMARY KEY (a, b)) WITHOUT ROWID; BEGIN")
    connection.executemany("INSERT INTO kv VALUES (?, ?, ?, ?)", rows)
    connection.execute("COMMIT")
    connection.close()
    return time.perf_counter() - started


def first_mirror(folder: Path, state: Path) -> float:
    for leftover in folder.glob("mirror.sqlite*"):
        leftover.unlink()
    started = time.perf_counter()
    with Mirror(folder / "mirror.sqlite") as mirror:
        result = LocalSync(mirror, LocalSource(state)).run()
        assert result.upserted == OBJECTS * ENTRIES, result
    return time.perf_counter() - started


def printed(zoo: Zoo, state: Path, folder: Path) -> list[float]:
    """For each of some writes: seconds from when workerd has answered it to its line on `durafetch dev`'s output."""
    process = subprocess.Popen(
        [ROOT / ".venv/bin/durafetch", "dev", str(state), "--db", str(folder / "dev.sqlite"), "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    delays = []
    try:
        # workerd puts objects away after ten seconds, which writes to their files, too.
        time.sleep(15)
        for n in range(WRITES):
            zoo.run("Zoo", f"o{n * 7 % OBJECTS}", ["put", "k000001", f"write {n}"])
            wrote = time.perf_counter()
            while json.loads(process.stdout.readline())["after"] != f"write {n}":
                pass
            delays.append(time.perf_counter() - wrote)
            time.sleep(0.05)
    finally:
        process.terminate()
        process.wait()
    return sorted(delays)


def run(runs: int) -> list[Result]:
    """local_first, local_change_p50 and local_change_p99."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Runtime(zoo_worker(folder, wrapped=False), folder / "state") as runtime:
            zoo = Zoo(runtime)
            for n in range(OBJECTS):
                zoo.run("Zoo", f"o{n}", ["many", ENTRIES, BYTES])
            first = measure(
                "local_first", lambda: first_mirror(folder, runtime.state), lambda: bare_insert(folder), unit="s",
                runs=runs, what=f"{OBJECTS} local objects x {ENTRIES} entries x {BYTES} B", aim="<= 1.5 x bare insert",
            )  # fmt: skip
            delays = printed(zoo, runtime.state, folder)
    results = [first]
    for label, value in (("p50", statistics.median(delays)), ("p99", delays[int(len(delays) * 0.99)])):
        results.append(
            Result(
                f"local_change_{label}", value * 1000, "ms", 100.0, value * 10, len(delays),
                round((delays[-1] - delays[0]) / value, 3),
                f"a write in one of {OBJECTS} local objects, to its line printed", "<= 100 ms",
            )
        )  # fmt: skip
    return results

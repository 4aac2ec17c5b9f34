"""100 objects that write once a second each: from the Worker's answer to the row in SQL, with `durafetch watch` beside."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import apsw

from benchmarks.runner import Result
from scripts.workerd import ROOT, Runtime
from tests.support import TOKEN, Zoo, zoo_worker

OBJECTS = 100
SECONDS = 15


def write(zoo: Zoo, waiting: dict[tuple[str, str], float], until: float) -> None:
    """One after the other, so that each object writes once a second."""
    number = 0
    while time.monotonic() < until:
        started = time.monotonic()
        name, value = f"o{number % OBJECTS}", str(number)
        zoo.run("Zoo", name, ["put", "k", number])
        waiting[name, value] = time.perf_counter()
        number += 1
        time.sleep(max(0.0, 1 / OBJECTS - (time.monotonic() - started)))


def run(runs: int) -> list[Result]:
    """live_latency_p50 and live_latency_p99, in ms."""
    delays: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Runtime(zoo_worker(folder), folder / "state") as runtime:
            zoo = Zoo(runtime)
            for n in range(OBJECTS):
                zoo.run("Zoo", f"o{n}", ["put", "k", -1])
            process = subprocess.Popen(
                [ROOT / ".venv/bin/durafetch", "watch", runtime.url, "--quiet", "--db", folder / "m.sqlite"],
                env={**os.environ, "DURAFETCH_TOKEN": TOKEN}, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            time.sleep(3)
            waiting: dict[tuple[str, str], float] = {}
            until = time.monotonic() + SECONDS
            writer = threading.Thread(target=write, args=(zoo, waiting, until))
            writer.start()
            reader = apsw.Connection(str(folder / "m.sqlite"), flags=apsw.SQLITE_OPEN_READONLY)
            while time.monotonic() < until + 1:
                rows: list[tuple[str, str]] = reader.execute("SELECT name, val FROM kv WHERE key = 'k'").fetchall()  # type: ignore[assignment]
                now = time.perf_counter()
                delays += [now - wrote for row in rows if (wrote := waiting.pop(row, None)) is not None]
                time.sleep(0.001)
            writer.join()
            reader.close()
            process.send_signal(signal.SIGTERM)
            process.wait()
            runtime.stop(kill=True)
            assert not waiting, f"{len(waiting)} writes were never seen"
    delays.sort()
    p50, p99 = statistics.median(delays) * 1000, delays[int(len(delays) * 0.99)] * 1000
    spread = round((delays[-1] - delays[0]) * 1000 / p50, 3)
    what = f"{OBJECTS} objects, 1 write/s each, to the row in SQL"
    return [
        Result("live_latency_p50", p50, "ms", 20.0, p50 / 20, len(delays), spread, what, "<= 20 ms"),
        Result("live_latency_p99", p99, "ms", 100.0, p99 / 100, len(delays), spread, what, "<= 100 ms"),
    ]

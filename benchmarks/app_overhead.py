"""app_overhead: requests of the app that write a little, with Durafetch and without; the rows they write are the same."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
import urllib.request
from pathlib import Path

from benchmarks.runner import Result
from scripts.workerd import Runtime
from tests.support import Zoo, zoo_worker

REQUESTS = 100
"""In one turn of a side: short turns, so that both sides meet the same noise."""
TURNS = 10
"""Of each side, in one run."""
OBJECTS = 20


def seconds(zoo: Zoo) -> float:
    """Requests one after the other over one connection, each with two writes."""
    from http.client import HTTPConnection

    connection = HTTPConnection("127.0.0.1", zoo.runtime.port)
    started = time.perf_counter()
    for n in range(REQUESTS):
        steps = [["put", f"k{n % 50}", n], ["sql", "INSERT INTO t VALUES (?, 'x')", n]]
        connection.request("POST", "/run", json.dumps({"cls": "Zoo", "name": f"o{n % OBJECTS}", "steps": steps}))
        connection.getresponse().read()
    taken = time.perf_counter() - started
    connection.close()
    return taken


def run(runs: int) -> list[Result]:
    """Interleaved; the pairs' ratios are what counts, since both sides of a pair meet the same noise."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            Runtime(zoo_worker(folder), folder / "wrapped") as one,
            Runtime(zoo_worker(folder, wrapped=False), folder / "plain") as two,
        ):
            wrapped, plain = Zoo(one), Zoo(two)
            for zoo in (wrapped, plain):
                for n in range(OBJECTS):
                    zoo.run("Zoo", f"o{n}", ["sql", "CREATE TABLE t(a, b)"])
            written = [
                zoo.run("Zoo", "o0", ["sql", "INSERT INTO t VALUES (1, 2), (3, 4)"])[0]["rowsWritten"]
                for zoo in (wrapped, plain)
            ]
            assert written[0] == written[1] == 2
            for zoo in (wrapped, plain) * 20:
                seconds(zoo)
            pairs = []
            for _ in range(max(15, runs)):
                taken = {id(wrapped): 0.0, id(plain): 0.0}
                for turn in range(TURNS):
                    # Each side goes first in turn.
                    for zoo in (wrapped, plain) if turn % 2 else (plain, wrapped):
                        taken[id(zoo)] += seconds(zoo)
                pairs.append((taken[id(wrapped)], taken[id(plain)]))
            for runtime in (one, two):
                urllib.request.urlopen(runtime.url).close()
                runtime.stop(kill=True)
    ratio = statistics.median(a / b for a, b in pairs)
    value, bound = (statistics.median(pair[side] for pair in pairs) / (REQUESTS * TURNS) * 1e6 for side in (0, 1))
    spread = round(max(a / b for a, b in pairs) - min(a / b for a, b in pairs), 3)
    return [Result("app_overhead", value, "us", bound, ratio, len(pairs), spread,
                   "a request of the app with two small writes, wrapped against not", "<= 1.03")]  # fmt: skip

"""first_sync_many, first_sync_wide, first_sync_sql, one_percent: a first sync, and one of a few changes, against the
least that gets the same data out of objects and into SQLite."""

from __future__ import annotations

import time
from functools import partial

from benchmarks.runner import Result, measure
from benchmarks.workers import BATCH, Bench, bench, entry_rows, fetched, inserted

MANY, ENTRIES, BYTES = 1000, 10, 200
WIDE_OBJECTS, WIDE_ENTRIES = 200, 1000
ROWS = 300_000


def filled(one: Bench, objects: int, entries: int) -> None:
    for n in range(objects):
        one.zoo.run("Zoo", f"o{n}", ["many", entries, BYTES])


def many(runs: int) -> list[Result]:
    with bench() as one:
        filled(one, MANY, ENTRIES)
        for first in range(0, MANY, BATCH):
            fetched([f"{one.limit}/fill?first={first}&count={BATCH}&entries={ENTRIES}&bytes={BYTES}"])
        what = f"{MANY} objects x {ENTRIES} entries x {BYTES} B"
        results = [
            measure("first_sync_many", one.first_sync, partial(one.asked, "entries", MANY), unit="s", runs=runs,
                    what=f"{what}, against RPCs that list them", aim="<= 1.2"),
            measure("first_sync_many_ping", one.first_sync, partial(one.asked, "ping", MANY), unit="s", runs=runs,
                    what=f"{what}, against RPCs that do nothing", aim="-"),
        ]  # fmt: skip
        results.append(one_percent(one, runs, results[0].value))
    return results


def one_percent(one: Bench, runs: int, first: float) -> Result:
    """1% of the entries, of as many objects, against the first sync."""
    path = one.folder / "again.sqlite"
    one.synced(path)
    turn = 0

    def again() -> float:
        nonlocal turn
        turn += 1
        changed = [f"o{n * 10}" for n in range(MANY * ENTRIES // 100)]
        for name in changed:
            one.zoo.run("Zoo", name, ["put", "k000003", f"{turn}"])
        started = time.perf_counter()
        result = one.synced(path)
        seconds = time.perf_counter() - started
        assert result.total("visited") == result.total("upserted") == len(changed), result
        return seconds

    return measure("one_percent", again, lambda: first, unit="s", runs=runs,
                   what=f"1% of the entries changed, in {MANY * ENTRIES // 100} objects, against the first sync", aim="<= 0.25")  # fmt: skip


def wide(runs: int) -> list[Result]:
    with bench() as one:
        filled(one, WIDE_OBJECTS, WIDE_ENTRIES)
        size = one.synced(":memory:").total("bytes")
        rows = entry_rows(WIDE_OBJECTS, WIDE_ENTRIES, BYTES)
        return [measure(
            "first_sync_wide", one.first_sync,
            lambda: max(one.streamed(size), inserted(one.folder, "a, b, c, d", "a, b", rows)),
            unit="s", runs=runs, what=f"{WIDE_OBJECTS} objects x {WIDE_ENTRIES} entries x {BYTES} B ({size / 1e6:.0f} MB)", aim="<= 1.2",
        )]  # fmt: skip


def sql(runs: int) -> list[Result]:
    with bench() as one:
        one.zoo.run("Zoo", "large", ["sql", "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b, c, d)"],
                    ["sql", f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS}) "
                            "INSERT INTO t SELECT i, hex(randomblob(40)), i * 0.5, i % 7, NULL FROM n"])  # fmt: skip
        size = one.synced(":memory:").total("bytes")
        rows = [(1, "large", i, "A" * 80, i * 0.5, i % 7, None) for i in range(1, ROWS + 1)]
        found = [measure(
            "first_sync_sql", one.first_sync,
            lambda: max(one.streamed(size), inserted(one.folder, "a, b, c, d, e, f, g", "a, c", rows)),
            unit="s", runs=runs, what=f"1 object x {ROWS:,} rows of 5 columns ({size / 1e6:.0f} MB)", aim="<= 1.2",
        )]  # fmt: skip
        found.append(one_row(one, runs))
        return found


def one_row(one: Bench, runs: int) -> Result:
    """One row of many changed, against the object's own reading of all chunks: a pull in which nothing is sent."""
    path = one.folder / "row.sqlite"
    one.synced(path)
    turn = 0

    def changed() -> float:
        nonlocal turn
        turn += 1
        one.zoo.run("Zoo", "large", ["sql", f"UPDATE t SET a = 'turn {turn}' WHERE id = {turn * 1000}"])
        started = time.perf_counter()
        result = one.synced(path)
        seconds = time.perf_counter() - started
        assert result.total("upserted") == 1 and result.total("bytes") < 1_000_000, result
        return seconds

    def scan() -> float:
        """The object's rows as text, summed up by SQLite itself: the least that reads every row."""
        started = time.perf_counter()
        one.zoo.run("Zoo", "large", ["sql", "SELECT sum(length(json_array(id, a, b, c, d))) FROM t"])
        return time.perf_counter() - started

    return measure("one_row_of_300k", changed, scan, unit="s", runs=runs,
                   what=f"1 row of {ROWS:,} changed, against reading them all as text in the object", aim="<= 1.2")  # fmt: skip


def run(runs: int) -> list[Result]:
    """All of them."""
    return [*many(runs), *wide(runs), *sql(runs)]

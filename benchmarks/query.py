"""query: a JSON filter over a million rows of `kv`, against the same SQL in bare apsw on an ideal table."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import apsw

from benchmarks.runner import Result, measure
from durafetch import Mirror
from durafetch.frames import AlarmFrame, DecodedRange, EndFrame, ObjectFrame, TablesFrame
from durafetch.mirror import ListedObject, ReceivedObject

OBJECTS, ENTRIES = 10_000, 100
SQL = "SELECT count(*), sum(val ->> '$.total') FROM {table} WHERE key GLOB 'order:*' AND val ->> '$.plan' = 'pro'"


def value(n: int) -> str:
    return json.dumps({"plan": "pro" if n % 5 == 0 else "free", "total": n % 1000, "note": "x" * 40})


def run(runs: int) -> list[Result]:
    """The mirror is filled through its own front door."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Mirror(folder / "m.sqlite") as mirror:
            mirror.add_worker("w", "shop", "http://127.0.0.1")
            ids = [f"{n:064x}" for n in range(OBJECTS)]
            mirror.list_objects("shop", [ListedObject("Cart", id, None) for id in ids], "c", "http://127.0.0.1")
            pending = mirror.pending("shop", limit=OBJECTS)
            for start in range(0, OBJECTS, 500):
                mirror.apply("shop", [
                    ReceivedObject(item, [
                        ObjectFrame("Cart", item.id, "sqlite", "v"), TablesFrame([], []),
                        DecodedRange(None, None, "d", [(f"order:{n:03d}", value(item.do_id * ENTRIES + n), None) for n in range(ENTRIES)]),
                        AlarmFrame(None), EndFrame("v"),
                    ]) for item in pending[start : start + 500]
                ])  # fmt: skip
        ideal = apsw.Connection(str(folder / "ideal.sqlite"))
        ideal.pragma("page_size", 16384)
        ideal.execute(
            "CREATE TABLE kv(object INTEGER, key TEXT, val TEXT, PRIMARY KEY (object, key)) WITHOUT ROWID; BEGIN"
        )
        ideal.executemany(
            "INSERT INTO kv VALUES (?, ?, ?)",
            ((o, f"order:{n:03d}", value(o * ENTRIES + n)) for o in range(1, OBJECTS + 1) for n in range(ENTRIES)),
        )
        ideal.execute("COMMIT")
        answers = set()

        def ours() -> float:
            started = time.perf_counter()
            with Mirror(folder / "m.sqlite", read_only=True) as mirror:
                answers.add(next(iter(mirror.query(SQL.format(table="kv")))))
            return time.perf_counter() - started

        def bare() -> float:
            started = time.perf_counter()
            connection = apsw.Connection(str(folder / "ideal.sqlite"), flags=apsw.SQLITE_OPEN_READONLY)
            answers.add(connection.execute(SQL.format(table="kv")).fetchone())  # type: ignore[arg-type]
            connection.close()
            return time.perf_counter() - started

        result = measure("query", ours, bare, unit="s", runs=runs, aim="<= 1.1",
                         what=f"a JSON filter over {OBJECTS * ENTRIES:,} rows of kv, against bare apsw on an ideal table")  # fmt: skip
        assert len(answers) == 1, answers
        ideal.close()
    return [result]

"""Random changes to real objects, with syncs in between: incremental equals full, and both equal the objects' files."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from durafetch import Mirror, SyncResult
from durafetch.mirror.changes import row_json
from durafetch.mirror.database import iso_now
from durafetch.sources.local import LocalSource
from durafetch.sync_local import LocalSync
from scripts.workerd import Runtime
from tests.support import Oracle, Zoo, synced, zoo_worker

EXAMPLES = int(os.environ.get("EXAMPLES") or 12)
"""`make soak EXAMPLES=...` runs more."""

OBJECTS = st.sampled_from(["one", "two"])
CLASSES = st.sampled_from(["Zoo", "Old"])
TABLES = st.sampled_from(["a", "b", "B"])
KEYS = st.integers(0, 60).map(lambda n: f"key{n:03d}")
SQL_VALUES = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.text(max_size=20).map(lambda t: "'" + t.replace("'", "''").replace("\0", "") + "'"),
    st.binary(max_size=20).map(lambda b: f"x'{b.hex()}'"),
)
JSON_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.text(max_size=10)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)
DDL = st.sampled_from(
    [
        "CREATE TABLE IF NOT EXISTS {t}(id INTEGER PRIMARY KEY, v, w)",
        "CREATE TABLE IF NOT EXISTS {t}(v, w, id)",
        "CREATE TABLE IF NOT EXISTS {t}(id, v, w, PRIMARY KEY (id, v)) WITHOUT ROWID",
        "DROP TABLE IF EXISTS {t}",
        "ALTER TABLE {t} ADD COLUMN extra DEFAULT 7",
        "ALTER TABLE {t} RENAME COLUMN v TO renamed",
        "ALTER TABLE {t} RENAME TO renamed_{t}",
        "CREATE INDEX IF NOT EXISTS i_{t} ON {t}(w)",
        "DROP TABLE IF EXISTS renamed_{t}",
    ]
)


class Convergence(RuleBasedStateMachine):
    runtime: Runtime
    folder: Path
    number = 0

    def __init__(self) -> None:
        super().__init__()
        Convergence.number += 1
        self.prefix = f"run{Convergence.number}-"
        self.zoo = Zoo(self.runtime)
        self.mirror = Mirror(self.folder / f"{self.prefix}.sqlite")
        self.local = Mirror(self.folder / f"{self.prefix}local.sqlite")
        self.local.history = "1000000"
        self.local_sync = LocalSync(self.local, LocalSource(self.runtime.state))
        self.local_sync.run()
        self.moments: list[tuple[str, dict[tuple[str, Any, str], str]]] = []
        self.ids: dict[tuple[str, str], str] = {}

    def teardown(self) -> None:
        self.check()
        for moment, contents in self.moments:
            assert self.as_of(moment) == contents
        self.mirror.close()
        self.local.close()

    def do(self, cls: str, name: str, *steps: list[Any]) -> None:
        id, _ = self.zoo.call(cls, self.prefix + name, *steps, *([["sync"]] if cls == "Old" else []))
        self.ids[cls, self.prefix + name] = id

    @rule(cls=CLASSES, name=OBJECTS, key=KEYS, value=JSON_VALUES)
    def put(self, cls: str, name: str, key: str, value: Any) -> None:
        self.do(cls, name, ["put", key, value])

    @rule(cls=CLASSES, name=OBJECTS, key=KEYS)
    def delete(self, cls: str, name: str, key: str) -> None:
        self.do(cls, name, ["delete", key])

    @rule(cls=CLASSES, name=OBJECTS, count=st.integers(1, 400), size=st.integers(0, 300))
    def put_many(self, cls: str, name: str, count: int, size: int) -> None:
        self.do(cls, name, ["many", count, size, "key0"])

    @rule(cls=CLASSES, name=OBJECTS, key=KEYS, ending=st.sampled_from(["commit", "rollback", "throw"]))
    def transaction(self, cls: str, name: str, key: str, ending: str) -> None:
        self.do(cls, name, ["transaction", [["put", key, ending], ["delete", "key001"]], ending])

    @rule(name=OBJECTS, table=TABLES, statement=DDL)
    def ddl(self, name: str, table: str, statement: str) -> None:
        self.do("Zoo", name, ["sql", statement.format(t=table)])

    @rule(name=OBJECTS, table=TABLES, id=st.integers(-3, 40), value=SQL_VALUES)
    def insert(self, name: str, table: str, id: int, value: str | None) -> None:
        self.do("Zoo", name, ["sql", f"INSERT OR REPLACE INTO {table}(id, w) VALUES ({id}, {value or 'NULL'})"],
                ["sql", f"INSERT OR REPLACE INTO {table}(id, v, w) VALUES ({id}, {value or 'NULL'}, {id})"])  # fmt: skip

    @rule(name=OBJECTS, table=TABLES, low=st.integers(0, 40), high=st.integers(0, 3000))
    def delete_rows(self, name: str, table: str, low: int, high: int) -> None:
        self.do("Zoo", name, ["sql", f"DELETE FROM {table} WHERE id BETWEEN {low} AND {high}"])

    @rule(name=OBJECTS, table=TABLES, count=st.integers(1, 3000))
    def fill(self, name: str, table: str, count: int) -> None:
        numbers = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})"
        self.do(
            "Zoo",
            name,
            ["sql", f"{numbers} INSERT OR IGNORE INTO {table}(id, v, w) SELECT i, i * 0.5, 'w' || i FROM n"],
        )

    @rule(cls=CLASSES, name=OBJECTS)
    def delete_all(self, cls: str, name: str) -> None:
        self.do(cls, name, ["deleteAll"])

    @rule(cls=CLASSES, name=OBJECTS, at=st.one_of(st.none(), st.integers(4 * 10**12, 5 * 10**12)))
    def alarm(self, cls: str, name: str, at: int | None) -> None:
        self.do(cls, name, ["deleteAlarm"] if at is None else ["setAlarm", at])

    @rule(kill=st.booleans())
    def restart(self, kill: bool) -> None:
        self.runtime.stop(kill=kill)
        self.runtime.start()
        for cls, name in self.ids:
            # An object is known again from its next start on.
            self.zoo.call(cls, name, ["get", "x"])

    @rule()
    def sync(self) -> None:
        self.check()

    def check(self) -> None:
        self.sync_until_quiet()
        with Mirror(self.folder / f"{self.prefix}fresh.sqlite") as fresh:
            synced(fresh, self.zoo.source(), full=True)
            for (cls, name), id in self.ids.items():
                ours, theirs = self.mirror.dump(self.mirror.find(cls, id)), fresh.dump(fresh.find(cls, id))
                assert ours.entries == theirs.entries
                assert repr(ours.tables) == repr(theirs.tables), name
                assert (ours.schema, ours.info.alarm_at) == (theirs.schema, theirs.info.alarm_at)
                assert ours.info.entries == len(ours.entries)
                assert ours.info.rows == sum(len(table.rows) for table in ours.tables.values())
                oracle = Oracle(self.zoo.file(cls, id))
                assert [key for key, _, _ in ours.entries] == list(oracle.entries)
                oracle.close()
        self.check_local()
        assert list(self.mirror.query("PRAGMA integrity_check")) == [("ok",)]

    def check_local(self) -> None:
        """What is read from the objects' files is what the Worker says; and what was, stays known."""
        result = self.local_sync.run()
        assert (result.error, result.failures) == (None, [])
        assert self.local_sync.run().visited == 0
        for (cls, name), id in self.ids.items():
            ours, theirs = self.local.dump(self.local.find(cls, id)), self.mirror.dump(self.mirror.find(cls, id))
            assert ours.entries == theirs.entries
            assert repr(ours.tables) == repr(theirs.tables), name
            assert (ours.schema, ours.info.alarm_at) == (theirs.schema, theirs.info.alarm_at)
            assert (ours.info.entries, ours.info.rows) == (theirs.info.entries, theirs.info.rows)
        # Moments are told apart by milliseconds.
        time.sleep(0.002)
        moment = iso_now()
        time.sleep(0.002)
        self.moments.append((moment, self.as_of(moment)))
        assert self.moments[-1][1] == self.contents()

    def as_of(self, moment: str) -> dict[tuple[str, Any, str], str]:
        """What the objects of this run had at a moment, by the view `history`."""
        found: dict[tuple[str, Any, str], str] = {}
        sql = (
            "SELECT id, table_name, typeof(key) || key, value FROM history WHERE kind IN ('kv', 'table') "
            "AND valid_from <= :at AND :at < valid_to"
        )
        for id, table, key, value in self.local.query(sql, {"at": moment}):
            if id in self.ids.values():
                assert (id, table, key) not in found
                found[str(id), table, str(key)] = bare(str(value))
        return found

    def contents(self) -> dict[tuple[str, Any, str], str]:
        """The same, now, by the objects' dumps."""
        found: dict[tuple[str, Any, str], str] = {}
        for (cls, _), id in self.ids.items():
            dump = self.local.dump(self.local.find(cls, id))
            for key, val, _ in dump.entries:
                found[id, None, f"text{key}"] = bare(val)
            for definition in dump.definitions:
                table = dump.tables[definition.name]
                places = [table.columns.index(c) for c, _ in definition.key] or [0]
                for row in table.rows:
                    cells = [row[place] for place in places]
                    [(own,)] = (
                        self.local.query("SELECT typeof(?1) || ?1", cells)
                        if len(cells) == 1
                        else self.local.query(f"SELECT 'text' || json_array({', '.join('?' * len(cells))})", cells)
                    )
                    found[id, definition.name, str(own)] = bare(row_json(table.columns, row) or "")
        return found

    def sync_until_quiet(self) -> SyncResult:
        while (result := synced(self.mirror, self.zoo.source())).total("visited"):
            pass
        return result

    @invariant()
    def nothing_failed(self) -> None:
        assert not list(self.mirror.objects(failed=True))


def bare(text: str) -> str:
    """JSON text without the columns that are NULL: a mirror's table has those of other objects, too."""
    value = json.loads(text)
    return repr({k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value)


@pytest.fixture(scope="module")
def running(bundles: Path) -> Iterator[None]:
    with tempfile.TemporaryDirectory() as folder, Runtime(zoo_worker(bundles), Path(folder) / "state") as runtime:
        Convergence.runtime, Convergence.folder = runtime, Path(folder)
        yield


@pytest.mark.timeout(60 + 5 * EXAMPLES)
def test_convergence(running: None) -> None:
    run_state_machine_as_test(
        Convergence,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )

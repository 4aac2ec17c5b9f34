"""What an app may do to its objects, as rules of a state machine: the same for the real runtime and for a pure one."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from typing import Any, ClassVar

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from durafetch import Mirror
from durafetch.ids import id_from_name
from tests.oracle.model import ModelObject
from tests.oracle.state import State, of_mirror
from tests.oracle.values import ValueOracle

EXAMPLES = int(os.environ.get("EXAMPLES") or 0)
"""How many examples each seed runs; 0: as many as the test says. `make soak` asks for more."""
SEEDS = [int(os.environ["SEED"])] if os.environ.get("SEED") else [
    int(line.split()[0]) for line in (Path(__file__).parent / "seeds.txt").read_text().splitlines() if line[:1].isdigit()
]  # fmt: skip
STEPS = 25

CLASSES = st.sampled_from(["Zoo", "Old"])
"""SQLite-backed, and KV-backed."""
OBJECTS = st.sampled_from(["one", "one", "one", "two", "two", "three"])
TABLES = st.sampled_from(["a", "b", "B", 'a b"c'])
KEYS = st.integers(0, 60).map(lambda n: f"key{n:03d}") | st.sampled_from(
    ["", "é", "日本", "😀", "a\0b", "key", "zz" * 200]
)
SQL_VALUES: st.SearchStrategy[tuple[str, list[Any]]] = st.one_of(
    st.just(("NULL", [])),
    st.integers(-(2**63), 2**63 - 1).map(lambda n: (str(n), [])),
    # As a parameter: two releases of SQLite may read the same digits as neighbouring numbers.
    st.floats(allow_nan=False, allow_infinity=False).map(lambda x: ("?", [{"real": repr(x)}])),
    st.text(max_size=20).map(lambda t: ("'" + t.replace("'", "''").replace("\0", "") + "'", [])),
    st.binary(max_size=20).map(lambda b: (f"x'{b.hex()}'", [])),
    st.binary(max_size=6).map(lambda b: (f"CAST(x'{b.hex()}' AS TEXT)", [])),
)
JSON_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.text(max_size=10).filter(lambda t: t[:1] != "$")),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5).filter(lambda k: k != "__proto__"), inner, max_size=3)),
    max_leaves=6,
)  # fmt: skip
DDL = st.sampled_from(
    [
        "CREATE TABLE {t}(id INTEGER PRIMARY KEY, v, w)",
        "CREATE TABLE {t}(v, w, id)",
        "CREATE TABLE {t}(id, v, w, PRIMARY KEY (id, v)) WITHOUT ROWID",
        "CREATE TABLE {t}(id INTEGER PRIMARY KEY AUTOINCREMENT, v TEXT DEFAULT 'd', w REAL)",
        "CREATE TABLE {t}(id TEXT PRIMARY KEY, v, w)",
        "CREATE TABLE {t}(id INTEGER, v ANY, w ANY) STRICT",
        "CREATE TABLE {t}(id INTEGER PRIMARY KEY, v UNIQUE ON CONFLICT REPLACE, w, g AS (w || 'g'))",
        "DROP TABLE {t}",
        "DROP TABLE IF EXISTS {t}",
        "ALTER TABLE {t} ADD COLUMN extra DEFAULT 7",
        "ALTER TABLE {t} DROP COLUMN extra",
        "ALTER TABLE {t} RENAME COLUMN v TO renamed",
        "ALTER TABLE {t} RENAME TO renamed",
        "ALTER TABLE renamed RENAME TO {t}",
        "CREATE INDEX i ON {t}(w)",
        "CREATE UNIQUE INDEX i ON {t}(w) WHERE w > 5",
        "DROP INDEX i",
        "CREATE VIEW o AS SELECT w FROM {t}",
        "DROP VIEW IF EXISTS o",
        "CREATE TRIGGER g AFTER INSERT ON {t} BEGIN UPDATE {t} SET w = 'triggered' WHERE id = new.id; END",
        "DROP TRIGGER IF EXISTS g",
        "UPDATE sqlite_sequence SET seq = 70",
    ]
)


class AppMachine(RuleBasedStateMachine):
    """An app that works on its objects. Subclasses sync, and say what has to be true then."""

    values: ClassVar[ValueOracle]
    folder: ClassVar[Path]
    number: ClassVar[int] = 0
    most_rows: ClassVar[int] = 3000

    def __init__(self) -> None:
        super().__init__()
        AppMachine.number += 1
        self.prefix = f"run{AppMachine.number}-"
        self.objects: defaultdict[tuple[str, str], ModelObject] = defaultdict(ModelObject)
        self.states: defaultdict[str, set[State]] = defaultdict(set)
        """All that an object (by its id) ever was."""

    def id_of(self, cls: str, name: str) -> str:
        return id_from_name(f"zoo-{cls}", name)

    def act(self, cls: str, name: str, *steps: list[Any]) -> None:
        """An object does steps, each of which is a state of its own."""
        name = self.prefix + name
        model = self.objects[cls, name]
        expected = []
        for step in steps:
            expected += model.run(step)
            self.states[self.id_of(cls, name)].add(model.state(self.values))
        self.really_act(cls, name, list(steps), expected)

    def really_act(self, cls: str, name: str, steps: list[list[Any]], expected: list[bool]) -> None:
        """The same outside of the model. `expected`: which steps succeed."""

    def plausible(self, mirror: Mirror) -> None:
        """Each object in the mirror is a state that it once had."""
        with mirror._db:
            for info in mirror.objects():
                if info.version is None:
                    assert (info.entries, info.rows) == (0, 0)
                elif (info.name or "").startswith(self.prefix):
                    dump = mirror.dump(info)
                    assert of_mirror(dump, self.values) in self.states[info.id], (info, of_mirror(dump, self.values))
                    assert info.entries == len(dump.entries)
                    assert info.rows == sum(len(table.rows) for table in dump.tables.values())

    @rule(cls=CLASSES, name=OBJECTS, key=KEYS, value=JSON_VALUES)
    def put(self, cls: str, name: str, key: str, value: Any) -> None:
        self.act(cls, name, ["put", key, value])

    @rule(cls=CLASSES, name=OBJECTS, key=KEYS)
    def delete(self, cls: str, name: str, key: str) -> None:
        self.act(cls, name, ["delete", key])

    @rule(cls=CLASSES, name=OBJECTS, count=st.integers(1, 400), size=st.integers(0, 300))
    def put_many(self, cls: str, name: str, count: int, size: int) -> None:
        self.act(cls, name, ["many", min(count, self.most_rows), size, "key0"])

    @rule(cls=CLASSES, name=OBJECTS, key=KEYS, ending=st.sampled_from(["commit", "rollback", "throw"]))
    def transaction(self, cls: str, name: str, key: str, ending: str) -> None:
        self.act(cls, name, ["transaction", [["put", key, ending], ["delete", "key001"]], ending])

    @rule(name=OBJECTS, table=TABLES, ending=st.sampled_from(["commit", "rollback", "throw"]), statement=DDL)
    def sql_transaction(self, name: str, table: str, ending: str, statement: str) -> None:
        quoted = quote(table)
        self.act("Zoo", name, ["transaction", [
            ["sql", f"INSERT INTO {quoted}(id, w) VALUES (77, '{ending}')"], ["put", "key007", ending],
            ["sql", statement.format(t=quoted)], ["sql", f"DELETE FROM {quoted} WHERE id = 3"],
        ], ending])  # fmt: skip

    @rule(name=OBJECTS, table=TABLES, statement=DDL)
    def ddl(self, name: str, table: str, statement: str) -> None:
        self.act("Zoo", name, ["sql", statement.format(t=quote(table))])

    @rule(name=OBJECTS, table=TABLES, id=st.integers(-3, 40), value=SQL_VALUES)
    def insert(self, name: str, table: str, id: int, value: tuple[str, list[Any]]) -> None:
        text, parameters = value
        self.act(
            "Zoo", name,
            ["sql", f"INSERT OR REPLACE INTO {quote(table)}(id, w) VALUES ({id}, {text})", *parameters],
            ["sql", f"INSERT OR REPLACE INTO {quote(table)}(id, v, w) VALUES ({id}, {text}, {id})", *parameters],
        )  # fmt: skip

    @rule(name=OBJECTS, table=TABLES, id=st.integers(-3, 40), value=SQL_VALUES)
    def update(self, name: str, table: str, id: int, value: tuple[str, list[Any]]) -> None:
        text, parameters = value
        self.act("Zoo", name, ["sql", f"UPDATE {quote(table)} SET w = {text} WHERE id >= {id}", *parameters])

    @rule(name=OBJECTS, table=TABLES, id=st.integers(1, 40), by=st.integers(-50, 50))
    def move_key(self, name: str, table: str, id: int, by: int) -> None:
        self.act("Zoo", name, ["sql", f"UPDATE OR REPLACE {quote(table)} SET id = id + {by} WHERE id = {id}"])

    @rule(name=OBJECTS, table=TABLES, low=st.integers(0, 40), high=st.integers(0, 3000))
    def delete_rows(self, name: str, table: str, low: int, high: int) -> None:
        self.act("Zoo", name, ["sql", f"DELETE FROM {quote(table)} WHERE id BETWEEN {low} AND {high}"])

    @rule(name=OBJECTS, table=TABLES, count=st.integers(1, 3000))
    def fill(self, name: str, table: str, count: int) -> None:
        numbers = (
            f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {min(count, self.most_rows)})"
        )
        insert = f"INSERT OR IGNORE INTO {quote(table)}(id, v, w) SELECT i, i * 0.5, 'w' || i FROM n"
        self.act("Zoo", name, ["sql", f"{numbers} {insert}"])

    @rule(cls=CLASSES, name=OBJECTS)
    def delete_all(self, cls: str, name: str) -> None:
        self.act(cls, name, ["deleteAll"])

    @rule(cls=CLASSES, name=OBJECTS, at=st.one_of(st.none(), st.integers(4 * 10**12, 5 * 10**12)))
    def alarm(self, cls: str, name: str, at: int | None) -> None:
        self.act(cls, name, ["deleteAlarm"] if at is None else ["setAlarm", at])


def quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def run(machine: type[AppMachine], number: int, examples: int, steps: int = STEPS, *, shrink: bool = True) -> None:
    """Runs a machine from a seed; what it finds is found again with the same seed."""
    run_state_machine_as_test(
        seed(number)(type(machine.__name__, (machine,), {})),
        settings=settings(
            max_examples=EXAMPLES or examples, stateful_step_count=steps, deadline=None, phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate], print_blob=False,
            suppress_health_check=list(HealthCheck), database=None,
        ),
    )  # fmt: skip

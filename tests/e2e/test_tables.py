"""Every shape of SQL table, compared cell by cell with the object's own file."""

from __future__ import annotations

from typing import Any

import pytest

from durafetch import Mirror
from durafetch.frames import InvalidText
from tests.support import Oracle, Zoo, synced

SHAPES: dict[str, tuple[list[list[Any]], str]] = {
    "rowid": ([["CREATE TABLE t(a, b)"], ["INSERT INTO t VALUES (1, 'x'), (NULL, NULL), (1.0, x'00ff')"]], "rowid"),
    "integer_primary_key": (
        [["CREATE TABLE t(id INTEGER PRIMARY KEY, v)"]]
        + [[f"INSERT INTO t VALUES ({n}, 'v')"] for n in (2**53 + 1, -(2**63), 2**63 - 1, 0, -5)],
        "id",
    ),
    "integer_primary_key_desc": ([["CREATE TABLE t(id INTEGER PRIMARY KEY DESC, v)"], ["INSERT INTO t VALUES (5, 1), (3, 2)"]], "rowid"),
    "autoincrement": ([["CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, v)"], ["INSERT INTO t(v) VALUES (1), (2)"], ["DELETE FROM t WHERE id = 2"]], "id"),
    "without_rowid": ([["CREATE TABLE t(k TEXT PRIMARY KEY, v) WITHOUT ROWID"], ["INSERT INTO t VALUES ('b', 1), ('a', 2), ('', 3)"]], "k"),
    "composite": (
        [["CREATE TABLE t(a TEXT COLLATE NOCASE, b REAL, c, PRIMARY KEY (b DESC, a)) WITHOUT ROWID"],
         ["INSERT INTO t VALUES ('x', 1, 1), ('Y', 1, 2), ('z', -1.5, 3), ('A', 9e15, 4)"]], "b, a",
    ),
    "blob_key": ([["CREATE TABLE t(k BLOB PRIMARY KEY, v) WITHOUT ROWID"], ["INSERT INTO t VALUES (x'00', 1), (x'', 2), (x'ff00', 3)"]], "k"),
    "mixed_key": ([["CREATE TABLE t(k PRIMARY KEY, v) WITHOUT ROWID"], ["INSERT INTO t VALUES (1, 1), (1.5, 2), ('1', 3), (x'31', 4), (9007199254740993, 5)"]], "k"),
    "strict": ([["CREATE TABLE t(id INTEGER PRIMARY KEY, r REAL, t TEXT, b BLOB, a ANY) STRICT"], ["INSERT INTO t VALUES (1, 1, '1', x'01', 1.0)"]], "id"),
    "generated": ([["CREATE TABLE t(a INTEGER, b AS (a * 2), c AS (a || 'x') STORED)"], ["INSERT INTO t(a) VALUES (1), (2)"]], "rowid"),
    "column_names": (
        [['CREATE TABLE t("select" TEXT, "a b", "q""uote", "dot.ted", "name", "do_id", "Ünï", "1")'],
         ["INSERT INTO t VALUES ('s', 1, 2, 3, 'n', 'd', 4, 5)"]], "rowid",
    ),
    "rowid_column": ([["CREATE TABLE t(rowid TEXT, v)"], ["INSERT INTO t VALUES ('mine', 1), ('too', 2)"]], "_rowid_"),
    "all_rowids_hidden": ([["CREATE TABLE t(rowid, oid, _rowid_)"], ["INSERT INTO t VALUES (9, 8, 7), (1, 2, 3)"]], "1=1"),
    "many_columns": ([[f"CREATE TABLE t({', '.join(f'c{i}' for i in range(99))})"], [f"INSERT INTO t VALUES ({', '.join(str(i) for i in range(99))})"]], "rowid"),
    "reals": (
        [["CREATE TABLE t(id INTEGER PRIMARY KEY, v, r REAL)"],
         *[["INSERT INTO t(v, r) VALUES (?, ?)", {"real": r}, {"real": r}] for r in ("-0", "Infinity", "-Infinity", "1", "0.1", "5e-324", "1.7976931348623157e308", "123456789.125")]],
        "id",
    ),
    "texts": (
        [["CREATE TABLE t(id INTEGER PRIMARY KEY, v)"],
         ["INSERT INTO t(v) VALUES ('a' || char(0) || 'b'), (''), (char(0xfffd)), ('😀'), ('[0.0,')"],
         ["INSERT INTO t(v) VALUES (CAST(x'ff41c3' AS TEXT)), (CAST(x'eda080' AS TEXT)), (x'ff41c3')"]], "id",
    ),
    "fts5": ([["CREATE VIRTUAL TABLE t USING fts5(title, body)"], ["INSERT INTO t VALUES ('one', 'hello world'), ('two', 'again')"], ["DELETE FROM t WHERE title = 'one'"]], "rowid"),
    "rtree": ([["CREATE VIRTUAL TABLE t USING rtree(id, minx, maxx)"], ["INSERT INTO t VALUES (7, 1, 2), (3, -1.5, 4)"]], "id"),
    "empty": ([["CREATE TABLE t(a)"]], "rowid"),
}  # fmt: skip


def cells(mirror: Mirror, name: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    table = mirror.dump(mirror.find("Zoo", name)).tables["t"]
    return table.columns, table.rows


def exact(value: Any) -> tuple[str, str]:
    if isinstance(value, InvalidText):
        return "text", bytes(value).hex()
    if isinstance(value, str):
        return "text", value.encode().hex()
    if isinstance(value, bytes):
        return "blob", value.hex()
    return type(value).__name__, repr(value)


def oracle_rows(zoo: Zoo, id: str, columns: list[str], order: str) -> list[tuple[Any, ...]]:
    oracle = Oracle(zoo.file("Zoo", id))
    expressions = []
    for column in columns:
        quoted = '"' + column.replace('"', '""') + '"'
        expressions.append(
            f"typeof({quoted}), CASE WHEN typeof({quoted}) IN ('text', 'blob') THEN hex({quoted}) ELSE {quoted} END"
        )
    found = []
    for row in oracle._db.execute(f"SELECT {', '.join(expressions)} FROM t ORDER BY {order}"):
        out = []
        for kind, value in zip(row[::2], row[1::2], strict=True):
            kind = kind.decode()
            if kind in ("text", "blob"):
                out.append((kind, value.decode().lower()))
            else:
                out.append((type(value).__name__, repr(value)))
        found.append(tuple(out))
    oracle.close()
    return found


@pytest.mark.parametrize("shape", SHAPES)
def test_mirrored_cell_by_cell(zoo: Zoo, mirror: Mirror, shape: str) -> None:
    statements, order = SHAPES[shape]
    id, results = zoo.call("Zoo", shape, *[["sql", *statement] for statement in statements])
    assert not [r for r in results if "error" in r]
    synced(mirror, zoo.source())
    columns, rows = cells(mirror, shape)
    expected_columns = columns
    mine = [tuple(exact(cell) for cell in row) for row in rows]
    if shape in ("rowid_column", "all_rowids_hidden"):
        # Durafetch's rowid stands in front of the app's column of that name.
        mine, expected_columns = [row[1:] for row in mine], columns[1:]
    assert mine == oracle_rows(zoo, id, expected_columns, order)


def test_a_changed_row_moves_one_chunk_and_writes_one_row(zoo: Zoo, mirror: Mirror) -> None:
    zoo.run("Zoo", "large", ["sql", "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b REAL, c, d)"], ["rows", "t", 50_000])
    first = synced(mirror, zoo.source())
    zoo.run("Zoo", "large", ["sql", "UPDATE t SET a = 'changed' WHERE id = 25000"])
    second = synced(mirror, zoo.source())
    assert (second.total("visited"), second.total("changed"), second.total("upserted")) == (1, 1, 1)
    assert second.total("bytes") < first.total("bytes") / 10
    assert list(mirror.query("SELECT id FROM Zoo__t WHERE a = 'changed'")) == [(25000,)]
    assert list(
        mirror.query(
            "SELECT count(*) FROM Zoo__t WHERE do_id = (SELECT do_id FROM durable_objects WHERE name = 'large')"
        )
    ) == [(50_000,)]


@pytest.mark.parametrize(
    "change",
    [
        ["sql", "INSERT INTO t(id, a) VALUES (99999, 'appended')"],
        ["sql", "INSERT INTO t(id, a) VALUES (-1, 'in front')"],
        ["sql", "DELETE FROM t WHERE id BETWEEN 100 AND 4000"],
        ["sql", "DELETE FROM t"],
        ["sql", "UPDATE t SET b = b + 0.25"],
        ["sql", "ALTER TABLE t ADD COLUMN e DEFAULT 'new'"],
        ["sql", "ALTER TABLE t RENAME COLUMN a TO z"],
        ["sql", "ALTER TABLE t DROP COLUMN c"],
        ["sql", "DROP TABLE t"],
        ["sql", "DROP TABLE t; CREATE TABLE t(id INTEGER PRIMARY KEY, a, b REAL, c, d); INSERT INTO t(id) VALUES (1)"],
        ["sql", "DROP TABLE t; CREATE TABLE t(id TEXT PRIMARY KEY, a) WITHOUT ROWID; INSERT INTO t VALUES ('x', 'y')"],
        ["sql", "ALTER TABLE t RENAME TO u"],
        ["deleteAll"],
    ],
    ids=str,
)  # fmt: skip
def test_incremental_equals_full(zoo: Zoo, mirror: Mirror, tmp_path: Any, change: list[Any]) -> None:
    name = f"changed by {change}"
    zoo.run(
        "Zoo",
        name,
        ["sql", "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b REAL, c, d)"],
        ["rows", "t", 5000],
        ["many", 500, 30],
    )
    synced(mirror, zoo.source())
    assert "error" not in str(zoo.run("Zoo", name, change)[0])
    synced(mirror, zoo.source())
    with Mirror(tmp_path / "fresh.sqlite") as fresh:
        synced(fresh, zoo.source())
        ours, theirs = mirror.dump(mirror.find("Zoo", name)), fresh.dump(fresh.find("Zoo", name))
    assert ours.entries == theirs.entries
    assert {k: (v.columns, list(map(repr, v.rows))) for k, v in ours.tables.items()} == {
        k: (v.columns, list(map(repr, v.rows))) for k, v in theirs.tables.items()
    }
    assert (ours.info.entries, ours.info.rows, ours.info.alarm_at) == (
        theirs.info.entries,
        theirs.info.rows,
        theirs.info.alarm_at,
    )
    assert ours.schema == theirs.schema


def test_a_change_of_type_alone_is_a_change(zoo: Zoo, mirror: Mirror) -> None:
    """SQLite tells 1 from 1.0, 0.0 from -0.0 and text from a blob, where == does not."""
    zoo.run("Zoo", "types", ["sql", "CREATE TABLE types(id INTEGER PRIMARY KEY, v)"],
            ["sql", "INSERT INTO types(v) VALUES (1), (0.0), ('x'), (2.0)"])  # fmt: skip
    synced(mirror, zoo.source())
    for id, value in ((1, "1.0"), (2, "-0.0"), (3, "x'78'"), (4, "2")):
        zoo.run("Zoo", "types", ["sql", f"UPDATE types SET v = {value} WHERE id = {id}"])
        assert synced(mirror, zoo.source()).total("upserted") == 1, value
    rows = mirror.dump(mirror.find("Zoo", "types")).tables["types"].rows
    assert repr(rows) == "[(1, 1.0), (2, -0.0), (3, b'x'), (4, 2)]"

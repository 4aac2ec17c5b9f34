"""`changes` and `history`: what each sync changed, row by row, and from when to when each version of a row was there."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

import apsw
import msgspec

from durafetch.errors import UsageError
from durafetch.frames import InvalidText, SchemaEntry, TableDefinition
from durafetch.mirror.database import iso_now, quote
from durafetch.mirror.reading import local_ids
from durafetch.mirror.tables import OBJECT_COLUMN, ROWID, Layout, MirrorTable, TableMap

DEFAULT_KEEP: Final = "100000"
MAX_TOLD: Final = 10_000
"""Changes of one object in one transaction that are given to the caller; what is kept has no such bound."""
_FLUSH_ROWS: Final = 1000
_PRUNE_ROWS: Final = 1000
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_ARGUMENTS: Final = 30
"""Columns in one call of json_object(); SQLite takes 127 arguments by default, two a column."""
_TERMS: Final = 200
"""SELECTs in one compound; SQLite takes 500: https://www.sqlite.org/limits.html"""


def seconds(text: str) -> float | None:
    """A duration such as `90s`, `5m`, `2h`, `7d` or `1w` in seconds; None where it is none."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text.strip())
    return None if match is None else float(match[1]) * _UNITS[match[2]]


@dataclass(frozen=True)
class Keep:
    """How much of the changes is kept: so many, or so long (seconds)."""

    count: int | None = None
    age: float | None = None

    @classmethod
    def parse(cls, text: str) -> Keep:
        """`100000` or `7d`; raises UsageError."""
        if text.isdecimal() and int(text) > 0:
            return cls(count=int(text))
        age = seconds(text)
        if not age:
            raise UsageError(f"{text} does not say how much to keep.", "A number of changes (100000) or a time (7d).")
        return cls(age=age)


@dataclass(frozen=True)
class Change:
    """One row of `changes`. `before` and `after` are JSON text, None where there was, or is, no row."""

    change_id: int
    at: str
    worker_name: str
    class_name: str
    id: str
    name: str | None
    kind: str
    table_name: str | None
    key: Any
    operation: str
    before: str | None
    after: str | None
    do_id: int


@dataclass
class Who:
    """The object that changes."""

    do_id: int
    worker_name: str
    class_name: str
    id: str
    name: str | None


class Recorder:
    """Notes what one object's frames change; written with the object, in the same transaction."""

    def __init__(self, connection: apsw.Connection, at: str, who: Who, *, kept: bool, told: bool) -> None:
        """`at`: the moment, the same for all that one transaction changes.

        `kept`: it goes into the mirror. `told`: it is given to the caller, too, up to MAX_TOLD rows.
        """
        self._db = connection
        self._at = at
        self.who = who
        self._kept = kept
        self._told = told
        self._rows: list[tuple[Any, ...]] = []
        self.changes: list[Change] = []

    def _add(self, kind: str, table: str | None, key: Sequence[Any], before: str | None, after: str | None) -> None:
        operation = "insert" if before is None else "delete" if after is None else "update"
        if self._told and len(self.changes) < MAX_TOLD:
            who = self.who
            shown = key[0] if len(key) == 1 else None if not key else json.dumps([cell_json(cell) for cell in key])
            self.changes.append(
                Change(
                    0, self._at, who.worker_name, who.class_name, who.id, who.name, kind, table, shown, operation,
                    before, after, who.do_id,
                )
            )  # fmt: skip
        if self._kept:
            self._rows.append((self._at, self.who.do_id, kind, table, operation, before, after, *key))
            if len(self._rows) >= _FLUSH_ROWS:
                self.flush()

    def entry(self, key: str, before: str | None, after: str | None) -> None:
        """An entry; values are JSON text."""
        self._add("kv", None, (key,), before, after)

    def row(
        self,
        definition: TableDefinition,
        layout: Layout,
        before: tuple[Any, ...] | None,
        after: tuple[Any, ...] | None,
    ) -> None:
        """A row of a SQL table."""
        columns = ([ROWID] if definition.rowid else []) + definition.columns
        cells = after if before is None else before
        assert cells is not None
        key = [cells[place] for place in layout.key_places]
        self._add("table", definition.name, key, row_json(columns, before), row_json(columns, after))

    def alarm(self, before: str | None, after: str | None) -> None:
        """The alarm, as ISO 8601 text."""
        self._add("alarm", None, (), _text_json(before), _text_json(after))

    def schema(self, before: Iterable[SchemaEntry], after: Iterable[SchemaEntry]) -> None:
        """Definitions: those that are gone, new or others."""
        old = {(entry.type, entry.name): entry for entry in before}
        new = {(entry.type, entry.name): entry for entry in after}
        for name in [*old, *(name for name in new if name not in old)]:
            was, now = old.get(name), new.get(name)
            if was != now and (entry := now or was) is not None and entry.sql is not None:
                texts = [_text_json(None if version is None else version.sql) for version in (was, now)]
                self._add("schema", entry.table, (entry.name,), *texts)

    def object(self, before: str | None, after: str | None) -> None:
        """The object itself, by its kind of storage: it is new, or gone."""
        self._add("object", None, (), _text_json(before), _text_json(after))

    def flush(self) -> None:
        """Writes what was noted."""
        for length, rows in groupby(self._rows, key=len):
            width = length - 7
            key = "NULL" if width == 0 else "?8" if width == 1 else _json_array([f"?{8 + n}" for n in range(width)])
            self._db.executemany(
                "INSERT INTO _durafetch_changes(at, do_id, kind, table_name, operation, before, after, key) "
                f"VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, {key})",
                rows,
            )
        self._rows = []


def _text_json(text: str | None) -> str | None:
    return None if text is None else msgspec.json.encode(text).decode()


def cell_json(cell: Any) -> Any:
    """A cell as it stands in `before` and `after`: blobs, and text that is not UTF-8, by their hexadecimal digits."""
    if isinstance(cell, bytes):
        return {"hex_text" if isinstance(cell, InvalidText) else "hex": cell.hex().upper()}
    if isinstance(cell, float) and math.isinf(cell):
        return msgspec.Raw(b"9e999" if cell > 0 else b"-9e999")
    return cell


def row_json(columns: list[str], row: tuple[Any, ...] | None) -> str | None:
    """A row as JSON text, as it stands in `before` and `after`."""
    if row is None:
        return None
    if any(isinstance(cell, bytes | float) for cell in row):
        row = tuple(cell_json(cell) for cell in row)
    return msgspec.json.encode(dict(zip(columns, row, strict=True))).decode()


def prune(connection: apsw.Connection, keep: Keep) -> None:
    """Takes away what is not kept; reads only what it takes away."""
    newest = connection.execute("SELECT max(change_id) FROM _durafetch_changes").get
    if newest is None:
        return
    if keep.count is not None:
        connection.execute("DELETE FROM _durafetch_changes WHERE change_id <= ?", (newest - keep.count,))
        return
    assert keep.age is not None
    oldest = iso_now(ago=keep.age)
    while True:
        connection.execute(
            "DELETE FROM _durafetch_changes WHERE at < ? AND change_id IN "
            "(SELECT change_id FROM _durafetch_changes ORDER BY change_id LIMIT ?)",
            (oldest, _PRUNE_ROWS),
        )
        if connection.changes() < _PRUNE_ROWS:
            return


_SAME_ROW: Final = "x.do_id = c.do_id AND x.kind = c.kind AND x.table_name IS c.table_name AND x.key IS c.key"


def create_history_view(connection: apsw.Connection, tables: TableMap) -> None:
    """Makes the view `history` anew, over all tables there are."""
    never_changed = "NOT EXISTS (SELECT 1 FROM _durafetch_changes AS x WHERE x.do_id = t.do_id AND x.kind = "
    terms = [
        # Versions that a change made, until the next change of the same row.
        "SELECT c.do_id, c.kind, c.table_name, c.key, c.after AS value, c.at AS valid_from, coalesce((SELECT x.at FROM "
        f"_durafetch_changes AS x WHERE {_SAME_ROW} AND x.change_id > c.change_id ORDER BY x.change_id LIMIT 1), "
        "'9999') AS valid_to FROM _durafetch_changes AS c WHERE c.after IS NOT NULL",
        # What was there before the first change that is kept.
        "SELECT c.do_id, c.kind, c.table_name, c.key, c.before, '', c.at FROM _durafetch_changes AS c WHERE c.before "
        f"IS NOT NULL AND NOT EXISTS (SELECT 1 FROM _durafetch_changes AS x WHERE {_SAME_ROW} AND x.change_id < c.change_id)",
        # What never changed.
        "SELECT t.do_id, 'kv', NULL, t.key, t.val, '', '9999' FROM _durafetch_kv AS t "
        f"WHERE {never_changed}'kv' AND x.table_name IS NULL AND x.key IS t.key)",
        "SELECT t.do_id, 'alarm', NULL, NULL, json_quote(t.alarm_at), '', '9999' FROM durable_objects AS t "
        f"WHERE t.alarm_at IS NOT NULL AND {never_changed}'alarm' AND x.table_name IS NULL AND x.key IS NULL)",
    ]
    for table in tables.tables.values():
        for names, condition in _keys(connection, table):
            key = f"t.{quote(names[0])}" if len(names) == 1 else _json_array([f"t.{quote(name)}" for name in names])
            columns = ([ROWID] if ROWID in names else []) + list(table.columns.values())
            name = _text(table.table_name)
            terms.append(
                f"SELECT t.{OBJECT_COLUMN}, 'table', {name}, {key}, {_json_object(columns)}, '', '9999' "
                f"FROM {quote(table.name)} AS t WHERE {condition} "
                f"AND {never_changed}'table' AND x.table_name IS {name} AND x.key IS {key})"
            )
    while len(terms) > _TERMS:
        groups = [terms[start : start + _TERMS] for start in range(0, len(terms), _TERMS)]
        terms = [f"SELECT * FROM ({' UNION ALL '.join(group)})" for group in groups]
    connection.execute("DROP VIEW IF EXISTS history")
    connection.execute(
        "CREATE VIEW history AS SELECT coalesce(o.worker_name, g.worker_name) AS worker_name, "
        "coalesce(o.class_name, g.class_name) AS class_name, coalesce(o.id, g.id) AS id, "
        "coalesce(o.name, g.name) AS name, h.kind, h.table_name, h.key, h.value, h.valid_from, h.valid_to, h.do_id "
        f"FROM ({' UNION ALL '.join(terms)}) AS h LEFT JOIN durable_objects AS o ON o.do_id = h.do_id "
        "LEFT JOIN _durafetch_gone AS g ON g.do_id = h.do_id"
    )


def _keys(connection: apsw.Connection, table: MirrorTable) -> Iterator[tuple[list[str], str]]:
    """The key's columns of a table, and which rows `t` have that key: not all, where objects have different ones."""
    if table.key is not None:
        yield [column for column, _ in table.key], "1"
        return
    # What this object's own definition says.
    mine = (
        "(SELECT d.value -> '$.key' FROM _durafetch_state AS s JOIN _durafetch_schemas AS m USING (schema_id), "
        f"json_each(m.definition, '$.tables') AS d WHERE s.do_id = t.{OBJECT_COLUMN} "
        f"AND d.value ->> '$.name' = {_text(table.table_name)} COLLATE NOCASE)"
    )
    shapes = connection.execute(
        "SELECT DISTINCT d.value -> '$.key' FROM _durafetch_schemas AS m, json_each(m.definition, '$.tables') AS d "
        "WHERE d.value ->> '$.name' = ? COLLATE NOCASE",
        (table.table_name,),
    ).fetchall()
    for (shape,) in shapes:
        columns = [column.lower() for column, _ in json.loads(str(shape))]
        if all(column in table.columns for column in columns):
            yield [table.columns[column] for column in columns] or [ROWID], f"{mine} = {_text(str(shape))}"


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _json_array(expressions: list[str]) -> str:
    return f"json_array({', '.join(_json_cell(expression) for expression in expressions)})"


def _json_object(columns: list[str]) -> str:
    groups = []
    for start in range(0, len(columns), _ARGUMENTS):
        some = columns[start : start + _ARGUMENTS]
        pairs = [f"{_text(column)}, {_json_cell(f't.{quote(column)}')}" for column in some]
        groups.append(f"json_object({', '.join(pairs)})")
    if len(groups) == 1:
        return groups[0]
    inner = " || ',' || ".join(f"substr({group}, 2, length({group}) - 2)" for group in groups)
    return f"json('{{' || {inner} || '}}')"


def _json_cell(expression: str) -> str:
    return f"CASE typeof({expression}) WHEN 'blob' THEN json_object('hex', hex({expression})) ELSE {expression} END"


def find_changes(
    connection: apsw.Connection,
    *,
    after: int = 0,
    since: str | None = None,
    class_name: str | None = None,
    object_: str | None = None,
    key: str | None = None,
    limit: int | None = None,
) -> Iterator[Change]:
    """Changes in their order; `limit`: only the last so many. `key` is compared as text, `*` stands for anything."""
    where: list[str] = ["change_id > ?"]
    values: list[Any] = [after]
    for condition, value in (
        ("at >= ?", since), ("class_name = ?", class_name), ("CAST(key AS TEXT) GLOB ?", key),
    ):  # fmt: skip
        if value is not None:
            where.append(condition)
            values.append(value)
    if object_ is not None:
        ids = local_ids(connection, object_, class_name)
        prefix = object_ if len(object_) >= 6 else "\0"
        where.append("(name = ? OR id IN (SELECT value FROM json_each(?)) OR substr(id, 1, ?) = ?)")
        values += [object_, json.dumps(ids), len(prefix), prefix]
    sql = f"SELECT {', '.join(Change.__dataclass_fields__)} FROM changes WHERE {' AND '.join(where)} ORDER BY change_id"
    if limit is not None:
        sql = f"SELECT * FROM ({sql} DESC LIMIT ?) ORDER BY change_id"
        values.append(limit)
    for row in connection.execute(sql, values):
        yield Change(*row)

"""The tables of an object's file, and their rows in the order of their keys."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import apsw

from durafetch.frames import Bound, InvalidText, SchemaEntry, TableDefinition, TablesFrame, with_text
from durafetch.mirror.database import exact, key_range, quote

_DATA_MODULES: Final = re.compile(r"\busing\s+(?:fts5|rtree|rtree_i32)\b", re.IGNORECASE)
"""Virtual tables whose rows are data; of any other module only the definition is kept."""
_ROWID_NAMES: Final = ("rowid", "_rowid_", "oid")

# `_cf_…` is the runtime's, `__miniflare_…` what wrangler dev adds to each object's file: neither is the app's.
_SCHEMA_SQL: Final = (
    "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE tbl_name NOT LIKE '\\_cf\\_%' ESCAPE '\\' "
    "AND tbl_name NOT LIKE '\\_\\_miniflare\\_%' ESCAPE '\\' ORDER BY rowid"
)

Master = tuple[tuple[str, str, str, str | None], ...]


@dataclass(frozen=True)
class ReadableTable:
    """One table, as it has to be read."""

    definition: TableDefinition
    rowid_name: str | None
    """The name under which SQL reaches the rowid; None where columns hide all three names."""


@dataclass(frozen=True)
class Schema:
    """All tables of an object."""

    frame: TablesFrame
    tables: tuple[ReadableTable, ...]
    digest: str


def read_master(connection: apsw.Connection) -> Master:
    """The app's rows of `sqlite_master`."""
    master: Any = connection.execute(_SCHEMA_SQL).fetchall()
    return tuple(master)


def read_schema(connection: apsw.Connection, master: Master) -> Schema:
    """The definitions of all tables of the app: the same as the server functions give (`server/src/tables.ts`)."""
    kinds = {
        name: (kind, without_rowid)
        for name, kind, without_rowid in connection.execute(
            "SELECT name, type, wr FROM pragma_table_list WHERE schema = 'main'"
        )
    }
    tables: list[ReadableTable] = []
    for type_, name, _, sql in master:
        if type_ != "table" or name not in kinds or kinds[name][0] == "shadow":
            continue
        if name.startswith("sqlite_") and name != "sqlite_sequence":
            continue
        kind, without_rowid = kinds[name]
        if kind == "virtual" and _DATA_MODULES.search(sql or "") is None:
            continue
        tables.append(_describe(connection, name, kind == "virtual", without_rowid == 1))
    shadow = {name for name, (kind, _) in kinds.items() if kind == "shadow"}
    entries = [SchemaEntry(type_, name, table, sql) for type_, name, table, sql in master if table not in shadow]
    digest = hashlib.blake2b(repr(master).encode(), digest_size=8).hexdigest()
    return Schema(TablesFrame([table.definition for table in tables], entries), tuple(tables), digest)


def _describe(connection: apsw.Connection, name: str, virtual: bool, without_rowid: bool) -> ReadableTable:
    columns: Any = connection.execute(
        "SELECT name, type, pk FROM pragma_table_xinfo(?) WHERE hidden <> 1 ORDER BY cid", (name,)
    ).fetchall()
    names = [column for column, _, _ in columns]
    kind: Any = "virtual" if virtual else "table"
    if without_rowid:
        key: Any = connection.execute(
            "SELECT x.name, upper(x.coll) FROM pragma_index_list(?1) AS l, pragma_index_xinfo(l.name) AS x "
            "WHERE l.origin = 'pk' AND x.key = 1 ORDER BY x.seqno",
            (name,),
        ).fetchall()
        return ReadableTable(TableDefinition(name, kind, names, False, [(c, k) for c, k in key]), None)
    primary = [(column, type_) for column, type_, pk in columns if pk > 0]
    # An INTEGER PRIMARY KEY is the rowid, except for the historical "INTEGER PRIMARY KEY DESC", which has an index.
    if len(primary) == 1 and primary[0][1].upper() == "INTEGER" and not _has_primary_index(connection, name):
        return ReadableTable(TableDefinition(name, kind, names, False, [(primary[0][0], "BINARY")]), None)
    taken = {column.lower() for column in names}
    rowid_name = next((candidate for candidate in _ROWID_NAMES if candidate not in taken), None)
    return ReadableTable(TableDefinition(name, kind, names, True, []), rowid_name)


def _has_primary_index(connection: apsw.Connection, name: str) -> bool:
    return bool(connection.execute("SELECT 1 FROM pragma_index_list(?) WHERE origin = 'pk'", (name,)).get)


class TableRows:
    """The rows of one table."""

    def __init__(self, connection: apsw.Connection, table: ReadableTable) -> None:
        """`connection` reads the object's file."""
        self._db = connection
        self._table = table
        self.name = table.definition.name
        columns = [quote(column) for column in table.definition.columns]
        source = quote(self.name)
        if not table.definition.rowid:
            self._keys = [(quote(c), collation) for c, collation in table.definition.key]
            self._places = [table.definition.columns.index(c) for c, _ in table.definition.key]
        elif table.rowid_name is not None:
            columns.insert(0, table.rowid_name)
            self._keys, self._places = [(table.rowid_name, "BINARY")], [0]
        else:
            # Columns hide every name of the rowid: rows are numbered in their stored order.
            columns.insert(0, '"_durafetch_rowid"')
            source = f'(SELECT row_number() OVER () AS "_durafetch_rowid", * FROM {source})'
            self._keys, self._places = [('"_durafetch_rowid"', "BINARY")], [0]
        self._columns, self._source = columns, source

    def between(self, after: Bound, upto: Bound) -> Iterator[tuple[Any, ...]]:
        """The rows with `after` < key <= `upto`, in the key's order. TEXT that is not UTF-8 comes as InvalidText."""
        row: tuple[Any, ...] | None = None
        try:
            for row in self._select(", ".join(self._columns), after, upto):
                yield row
        except UnicodeDecodeError:
            after = after if row is None else self.bound(row)
            yield from map(with_text, self._select(exact(self._columns), after, upto))

    def _select(self, columns: str, after: Bound, upto: Bound) -> Iterator[tuple[Any, ...]]:
        keys = ", ".join(
            f'{key} COLLATE "{collation}"' if collation != "BINARY" else key for key, collation in self._keys
        )
        where, parameters = key_range(keys, after, upto)
        clause = f"WHERE {' AND '.join(where)}" if where else ""
        return self._db.execute(f"SELECT {columns} FROM {self._source} {clause} ORDER BY {keys}", parameters)

    def bound(self, row: tuple[Any, ...]) -> Bound:
        """A row's key as a bound."""
        return [_tagged(row[place]) for place in self._places]


def _tagged(value: Any) -> list[str]:
    if isinstance(value, InvalidText):
        return ["text", value.hex().upper()]
    if isinstance(value, bytes):
        return ["blob", value.hex().upper()]
    if isinstance(value, str):
        return ["text", value.encode().hex().upper()]
    if isinstance(value, float):
        return ["real", repr(value)]
    return ["integer", str(value)]

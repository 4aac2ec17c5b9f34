"""What can be read from a mirror: objects, one object whole, the tables there are, and any SQL."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import apsw
import msgspec

from durafetch.errors import NothingFoundError, QueryError
from durafetch.frames import SchemaEntry, TableDefinition, TablesFrame, with_text
from durafetch.ids import id_from_name
from durafetch.mirror.database import exact, quote
from durafetch.mirror.tables import OBJECT_COLUMN, TableMap

Value = None | int | float | str | bytes


@dataclass
class Rows:
    """The result of a query: iterate over it once."""

    columns: tuple[str, ...]
    _rows: Iterator[tuple[Value, ...]]

    def __iter__(self) -> Iterator[tuple[Value, ...]]:
        return self._rows


@dataclass
class ObjectInfo:
    """One object, as `durable_objects` has it."""

    do_id: int
    worker_name: str
    class_name: str
    id: str
    name: str | None
    storage: str | None
    alarm_at: str | None
    status: str
    error: str | None
    entries: int
    rows: int
    version: str | None
    listed: int
    first_seen_at: str
    changed_at: str | None
    synced_at: str | None


@dataclass
class TableRows:
    """The rows of one SQL table of one object, under the app's column names (the rowid first where it is the key)."""

    columns: list[str]
    rows: list[tuple[Any, ...]]


@dataclass
class ObjectDump:
    """All that the mirror holds of one object."""

    info: ObjectInfo
    entries: list[tuple[str, str, str | None]]
    """(key, JSON text, devalue text or None), by key."""
    tables: dict[str, TableRows]
    schema: list[SchemaEntry]
    definitions: list[TableDefinition]


@dataclass
class TableInfo:
    """One table or view of the mirror that is there to be queried."""

    name: str
    columns: list[str]
    rows: int


OBJECT_COLUMNS = ", ".join(ObjectInfo.__dataclass_fields__)


def run_query(connection: apsw.Connection, sql: str, parameters: Mapping[str, Value] | Sequence[Value] = ()) -> Rows:
    """Runs one SQL statement that only reads. Raises QueryError with SQLite's words where it cannot."""
    cursor = connection.cursor()
    try:
        if not sql.strip():
            raise QueryError("There is no SQL to run.")
        cursor.execute(sql, parameters)
        try:
            description = cursor.get_description()
        except apsw.ExecutionCompleteError:
            # There is no row, and a finished statement has no columns any more.
            from apsw.ext import query_info

            description = query_info(connection, sql).description
        return Rows(tuple(column[0] for column in description), _fetch(cursor))
    except (apsw.BusyError, apsw.CorruptError, apsw.IOError, apsw.FullError, apsw.NotADBError):
        raise
    except KeyError as error:
        raise QueryError(f"The query's parameter {error} has no value.", "Give it as -p NAME VALUE.") from None
    except (apsw.Error, UnicodeDecodeError) as error:
        raise _query_error(error) from None


def _fetch(cursor: apsw.Cursor) -> Iterator[tuple[Value, ...]]:
    try:
        yield from cursor
    except (apsw.BusyError, apsw.CorruptError, apsw.IOError, apsw.FullError, apsw.NotADBError):
        raise
    except (apsw.Error, UnicodeDecodeError) as error:
        raise _query_error(error) from None


def _query_error(error: Exception) -> QueryError:
    if isinstance(error, UnicodeDecodeError):
        return QueryError("A TEXT value is not UTF-8.", "Select CAST(column AS BLOB) to get its bytes.")
    text = str(error)
    hint = ""
    if "no such table" in text or "no such column" in text:
        hint = "`durafetch schema` lists the tables and columns there are."
    elif isinstance(error, apsw.ReadOnlyError):
        text, hint = (
            "The query would write; `durafetch query` only reads.",
            "Open the file with another SQLite tool.",
        )
    elif isinstance(error, apsw.BindingsError):
        hint = "Give each parameter as -p NAME VALUE."
    return QueryError(f"SQLite: {text}", hint)


def find_objects(
    connection: apsw.Connection, class_name: str | None = None, *, failed: bool = False
) -> Iterator[ObjectInfo]:
    """The objects, by class and name; only those of a class, only those that failed."""
    where = ["1"]
    parameters: list[Value] = []
    if class_name is not None:
        where.append("class_name = ?")
        parameters.append(class_name)
    if failed:
        where.append("status = 'error'")
    sql = (
        f"SELECT {OBJECT_COLUMNS} FROM durable_objects WHERE {' AND '.join(where)} "
        "ORDER BY worker_name, class_name, name IS NULL, name, id"
    )
    for row in connection.execute(sql, parameters):
        yield ObjectInfo(*row)


def find_object(connection: apsw.Connection, class_name: str, name_or_id: str) -> ObjectInfo:
    """One object, by its name, its id or an id's beginning (6 digits or more).

    Raises NothingFoundError where none matches, or several do.
    """
    sql = f"SELECT {OBJECT_COLUMNS} FROM durable_objects WHERE class_name = ? AND "
    for where, parameter in (
        ("name = ?", name_or_id),
        ("id = ?", name_or_id),
        ("substr(id, 1, ?) = ?", name_or_id),
    ):
        values: list[Value] = [class_name, parameter]
        if where.startswith("substr"):
            if len(name_or_id) < 6:
                continue
            values = [class_name, len(name_or_id), name_or_id]
        rows: list[Any] = connection.execute(sql + where, values).fetchall()
        if len(rows) > 1:
            ids = ", ".join(f"{row[3][:12]}… of {row[1]}" for row in rows[:5])
            raise NothingFoundError(f"{class_name} {name_or_id} is not one object: {ids}.", "Give the whole id.")
        if rows:
            return ObjectInfo(*rows[0])
    classes = [c for (c,) in connection.execute("SELECT DISTINCT class_name FROM durable_objects ORDER BY 1")]
    if class_name not in classes:
        raise NothingFoundError(
            f"The mirror has no class {class_name}.",
            f"It has: {', '.join(classes) or 'none yet; run durafetch sync'}.",
        )
    raise NothingFoundError(
        f"The mirror has no {class_name} with the name or id {name_or_id}.",
        f"List them: durafetch ls {class_name}",
    )


LOCAL_ID: Final = "local:"
"""How the ids of Workers begin whose objects are read from files."""


def local_ids(connection: apsw.Connection, name: str, class_name: str | None = None) -> list[str]:
    """The ids of known local objects that follow from a name."""
    namespaces = connection.execute(
        "SELECT DISTINCT worker_id, class_name FROM durable_objects JOIN _durafetch_workers USING (worker_name) "
        "WHERE substr(worker_id, 1, length(?1)) = ?1 AND class_name = coalesce(?2, class_name)",
        (LOCAL_ID, class_name),
    ).fetchall()
    ids = [id_from_name(f"{str(worker).rpartition('#')[2]}-{class_}", name) for worker, class_ in namespaces]
    known = "SELECT value FROM json_each(?) WHERE value IN (SELECT id FROM durable_objects UNION SELECT id FROM _durafetch_gone)"
    return [str(id_) for (id_,) in connection.execute(known, (json.dumps(ids),))]


def dump_object(connection: apsw.Connection, tables: TableMap, info: ObjectInfo) -> ObjectDump:
    """All of one object. TEXT that is not UTF-8 comes as InvalidText."""
    entries: list[Any] = connection.execute(
        "SELECT key, val, devalue FROM _durafetch_kv WHERE do_id = ? ORDER BY key", (info.do_id,)
    ).fetchall()
    row = connection.execute(
        "SELECT definition FROM _durafetch_schemas JOIN _durafetch_state USING (schema_id) WHERE do_id = ?",
        (info.do_id,),
    ).fetchone()
    found: dict[str, TableRows] = {}
    schema: list[SchemaEntry] = []
    definitions: list[TableDefinition] = []
    if row is not None:
        definition = msgspec.json.decode(row[0], type=TablesFrame)
        schema = definition.schema
        definitions = definition.tables
        for table in definition.tables:
            layout = tables.layout(info.class_name, table, make=False)
            if layout is None:
                continue
            columns = exact(quote(column) for column in layout.columns)
            order = ", ".join(f"{quote(column)} COLLATE {collation}" for column, collation in layout.key)
            rows = connection.execute(
                f"SELECT {columns} FROM {quote(layout.table.name)} WHERE {OBJECT_COLUMN} = ? ORDER BY {order}",
                (info.do_id,),
            )
            names = (["rowid"] if table.rowid else []) + table.columns
            found[table.name] = TableRows(names, [with_text(raw) for raw in rows])
    return ObjectDump(info, entries, found, schema, definitions)


def list_tables(connection: apsw.Connection) -> list[TableInfo]:
    """The tables and views to query, Durafetch's own internals apart; those of changes only where any are noted."""
    noted = connection.execute("SELECT 1 FROM _durafetch_settings WHERE name = 'history'").get
    names = [
        name
        for (name,) in connection.execute(
            "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE '\\_durafetch\\_%' "
            "ESCAPE '\\' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name <> 'durable_objects', name <> 'kv', name"
        )
    ]
    found = []
    for name in names:
        if name in ("changes", "history") and not noted:
            continue
        try:
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({quote(name)})")]
            count = int(connection.execute(f"SELECT count(*) FROM {quote(name)}").get)
        except apsw.SQLError:
            continue  # a view of the user's that no longer fits
        found.append(TableInfo(name, columns, count))
    return found

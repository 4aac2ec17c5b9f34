"""`{Class}__{table}`: which table and columns of the mirror hold the rows of an object's SQL table."""

from __future__ import annotations

import json
from dataclasses import dataclass

import apsw

from durafetch.errors import ProtocolError
from durafetch.frames import TableDefinition
from durafetch.mirror.database import free_name, quote

ROWID = "rowid"
"""The column for the rowid of tables whose key it is; in them no other column has that name."""
OBJECT_COLUMN = "do_id"
RESERVED = (OBJECT_COLUMN, ROWID, "oid", "_rowid_")
MAX_COLUMNS = 1900

Key = list[tuple[str, str]]
"""Mirror columns and their collations."""


@dataclass
class MirrorTable:
    """One table of the mirror."""

    name: str
    class_name: str
    table_name: str
    name_column: str
    """The column with the object's name: `name`, or `do_name` where the app's table has a `name` of its own."""
    key: Key | None
    """What rows are ordered by in the file; None where objects' tables of this name have different keys."""
    columns: dict[str, str]
    """The app's column (lower case) to the mirror's."""


@dataclass(frozen=True)
class Layout:
    """How one object's table lies in the mirror."""

    table: MirrorTable
    columns: tuple[str, ...]
    """Mirror columns of a row's cells, in order, the rowid first where there is one."""
    key: Key
    key_places: tuple[int, ...]
    """Where in a row the key's cells stand."""


class TableMap:
    """The mirror's tables, read once; `refresh` it at the begin of a transaction, `forget` it after a rollback."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._db = connection
        self._tables: dict[tuple[str, str], MirrorTable] | None = None
        self._layouts: dict[str, Layout] = {}
        self._schema_version: object = None
        self._taken: set[str] | None = None
        self.altered = False
        """Tables were made or altered since this was last set to False."""

    def refresh(self) -> None:
        """Reads the tables anew where any were made or altered since, by whatever process."""
        # https://www.sqlite.org/pragma.html#pragma_schema_version
        version = self._db.execute("PRAGMA schema_version").get
        if version != self._schema_version:
            self._schema_version = version
            self.forget()

    def forget(self) -> None:
        """What was made is rolled back."""
        self._tables = None
        self._layouts = {}
        self._taken = None

    @property
    def tables(self) -> dict[tuple[str, str], MirrorTable]:
        """All tables by class and lower-case table name."""
        if self._tables is None:
            self._tables = {}
            for name, class_name, table_name, name_column, key in self._db.execute(
                "SELECT mirror_table, class_name, table_name, name_column, key FROM _durafetch_tables"
            ):
                shape = None if key is None else [(c, k) for c, k in json.loads(key)]
                table = MirrorTable(name, class_name, table_name, name_column, shape, {})
                self._tables[class_name, table_name.lower()] = table
            by_name = {table.name.lower(): table for table in self._tables.values()}
            for name, source, column in self._db.execute(
                "SELECT mirror_table, source_column, mirror_column FROM _durafetch_columns"
            ):
                by_name[name.lower()].columns[source.lower()] = column
        return self._tables

    def layout(self, class_name: str, definition: TableDefinition, *, make: bool = True) -> Layout | None:
        """Where the rows of a table go. `make` creates the table, its columns, another key; else None where absent.

        Raises ProtocolError for a definition that no SQLite table has.
        """
        cache_key = f"{class_name}\0{definition.name}\0{definition.columns}\0{definition.rowid}\0{definition.key}"
        cached = self._layouts.get(cache_key)
        if cached is not None:
            return cached
        lowered = [column.lower() for column in definition.columns]
        if len(set(lowered)) != len(lowered) or not (definition.rowid or definition.key):
            raise ProtocolError(f"The Worker sent an impossible definition of the table {definition.name!r}.")
        if any(column.lower() not in lowered for column, _ in definition.key):
            raise ProtocolError(f"The key of the table {definition.name!r} is not among its columns.")
        if any(collation not in ("BINARY", "NOCASE", "RTRIM") for _, collation in definition.key):
            raise ProtocolError(f"The table {definition.name!r} has a collation that SQLite does not have.")
        table = self.tables.get((class_name, definition.name.lower()))
        if table is None:
            if not make:
                return None
            table = self._create(class_name, definition)
        elif make:
            self._widen(table, definition)
        names = ([ROWID] if definition.rowid else []) + [table.columns[column] for column in lowered]
        key = self._mirror_key(table, definition)
        layout = Layout(table, tuple(names), key, tuple(names.index(column) for column, _ in key))
        self._layouts[cache_key] = layout
        if make and table.key is None:
            # The view `history` has to know each key that there is.
            self.altered = True
        return layout

    @staticmethod
    def _mirror_key(table: MirrorTable, definition: TableDefinition) -> Key:
        if definition.rowid:
            return [(ROWID, "BINARY")]
        return [(table.columns[column.lower()], collation) for column, collation in definition.key]

    def _create(self, class_name: str, definition: TableDefinition) -> MirrorTable:
        if self._taken is None:
            self._taken = {name.lower() for (name,) in self._db.execute("SELECT name FROM sqlite_master")}
        wanted = f"{class_name}__{definition.name}"
        if wanted.lower().startswith(("sqlite_", "_durafetch_")):
            wanted = f"class_{wanted}"
        lowered = {column.lower() for column in definition.columns}
        table = MirrorTable(
            free_name(wanted, self._taken),
            class_name,
            definition.name,
            free_name("name", lowered | set(RESERVED)),
            None,
            {},
        )
        if table.name_column != "name":
            table.name_column = free_name("do_name", lowered | set(RESERVED))
        self._name_columns(table, definition.columns)
        table.key = self._mirror_key(table, definition)
        self._db.execute(self._create_sql(table, self._all_columns(table)))
        self._db.execute(
            "INSERT INTO _durafetch_tables VALUES (?, ?, ?, ?, ?)",
            (table.name, class_name, definition.name, table.name_column, json.dumps(table.key)),
        )
        self.tables[class_name, definition.name.lower()] = table
        self._taken.add(table.name.lower())
        self.altered = True
        return table

    def _name_columns(self, table: MirrorTable, columns: list[str]) -> list[str]:
        """Chooses mirror columns for those not yet known; returns them."""
        added = []
        for column in columns:
            if column.lower() in table.columns:
                continue
            taken = {*RESERVED, table.name_column.lower(), *(name.lower() for name in table.columns.values())}
            name = table.columns[column.lower()] = free_name(column, taken)
            added.append(name)
            self._db.execute("INSERT INTO _durafetch_columns VALUES (?, ?, ?)", (table.name, column, name))
        if len(table.columns) > MAX_COLUMNS:
            raise ProtocolError(f"The tables {table.name} have more than {MAX_COLUMNS} columns together.")
        return added

    @staticmethod
    def _all_columns(table: MirrorTable) -> list[str]:
        rowid = [ROWID] if table.key and table.key[0][0] == ROWID else []
        return [OBJECT_COLUMN, table.name_column, *rowid, *table.columns.values()]

    @staticmethod
    def _create_sql(table: MirrorTable, columns: list[str]) -> str:
        # Columns have no type, so that SQLite converts nothing: https://www.sqlite.org/datatype3.html
        collations = dict(table.key or [])
        parts = [
            f"{quote(column)} COLLATE {collations[column]}"
            if collations.get(column, "BINARY") != "BINARY"
            else quote(column)
            for column in columns
        ]
        parts[0] = f"{OBJECT_COLUMN} INTEGER NOT NULL"
        if table.key is None:
            return f"CREATE TABLE {quote(table.name)}({', '.join(parts)})"
        key = ", ".join(quote(column) for column, _ in table.key)
        return (
            f"CREATE TABLE {quote(table.name)}({', '.join(parts)}, PRIMARY KEY ({OBJECT_COLUMN}, {key})) WITHOUT ROWID"
        )

    def _widen(self, table: MirrorTable, definition: TableDefinition) -> None:
        new = [column for column in definition.columns if column.lower() not in table.columns]
        if any(column.lower() == table.name_column.lower() for column in new):
            taken = {*table.columns, *(name.lower() for name in table.columns.values()), *RESERVED}
            taken |= {column.lower() for column in definition.columns}
            name = free_name("do_name", taken)
            self._db.execute(
                f"ALTER TABLE {quote(table.name)} RENAME COLUMN {quote(table.name_column)} TO {quote(name)}"
            )
            table.name_column = name
            self._db.execute("UPDATE _durafetch_tables SET name_column = ? WHERE mirror_table = ?", (name, table.name))
        for column in self._name_columns(table, new):
            self._db.execute(f"ALTER TABLE {quote(table.name)} ADD COLUMN {quote(column)}")
        if new:
            self._layouts = {}
            self.altered = True
        if table.key is not None and self._mirror_key(table, definition) != table.key:
            self._loosen(table)

    def _loosen(self, table: MirrorTable) -> None:
        """Rebuilds a table without a key, for objects whose tables of one name have different keys."""
        mine = f"_durafetch_index_{table.name}"
        extras = [
            sql
            for (sql,) in self._db.execute(
                "SELECT sql FROM sqlite_master WHERE tbl_name = ? COLLATE NOCASE AND type IN ('index', 'trigger') "
                "AND sql IS NOT NULL",
                (table.name,),
            )
        ]
        before = self._all_columns(table)
        table.key = None
        after = [OBJECT_COLUMN, table.name_column, ROWID, *table.columns.values()]
        old = free_name("_durafetch_old", {n.lower() for (n,) in self._db.execute("SELECT name FROM sqlite_master")})
        shared = ", ".join(quote(column) for column in before)
        # The user's views name the table; with this pragma a rename leaves them as they are.
        self._db.execute("PRAGMA legacy_alter_table = ON")
        try:
            self._db.execute(f"ALTER TABLE {quote(table.name)} RENAME TO {quote(old)}")
        finally:
            self._db.execute("PRAGMA legacy_alter_table = OFF")
        self._db.execute(self._create_sql(table, after))
        self._db.execute(f"INSERT INTO {quote(table.name)}({shared}) SELECT {shared} FROM {quote(old)}")
        self._db.execute(f"DROP TABLE {quote(old)}")
        self._db.execute(f"CREATE INDEX {quote(mine)} ON {quote(table.name)}({OBJECT_COLUMN})")
        for sql in extras:
            self._db.execute(sql)
        self._db.execute("UPDATE _durafetch_tables SET key = NULL WHERE mirror_table = ?", (table.name,))
        self._layouts = {}
        self._taken = None
        self.altered = True

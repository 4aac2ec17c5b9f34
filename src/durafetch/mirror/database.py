"""The mirror's SQLite file: opening it, its layout and versions, and SQLite's failures as Durafetch's errors."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import apsw

from durafetch import errors
from durafetch.frames import Bound, InvalidText, untag

APPLICATION_ID: Final = 0x44724674
"""Marks a SQLite file as a mirror (https://www.sqlite.org/pragma.html#pragma_application_id): "DrFt"."""
LAYOUT_VERSION: Final = 2
"""The layout's version, kept in `user_version`. A migration leads from each earlier one to the next."""
PAGE_BYTES: Final = 16_384
"""Rows are kept in tables WITHOUT ROWID, where a row over a quarter of a page spills to pages of its own
(https://www.sqlite.org/withoutrowid.html): with SQLite's default of 4,096, rows of 1 kB would take 4 kB each."""
BUSY_TIMEOUT_MS: Final = 10_000

LAYOUT: Final = """
CREATE TABLE durable_objects(
  do_id INTEGER PRIMARY KEY,
  worker_name TEXT NOT NULL,
  class_name TEXT NOT NULL,
  id TEXT NOT NULL,
  name TEXT,
  storage TEXT,
  alarm_at TEXT,
  status TEXT NOT NULL,
  error TEXT,
  entries INTEGER NOT NULL DEFAULT 0,
  rows INTEGER NOT NULL DEFAULT 0,
  version TEXT,
  listed INTEGER NOT NULL DEFAULT 1,
  first_seen_at TEXT NOT NULL,
  changed_at TEXT,
  synced_at TEXT,
  UNIQUE (id, class_name, worker_name)
);
CREATE INDEX _durafetch_by_name ON durable_objects(class_name, name);
CREATE INDEX _durafetch_to_do ON durable_objects(worker_name) WHERE status <> 'ok';

CREATE TABLE _durafetch_kv(
  do_id INTEGER NOT NULL,
  key TEXT NOT NULL,
  val TEXT NOT NULL,
  devalue TEXT,
  PRIMARY KEY (do_id, key)
) WITHOUT ROWID;
CREATE VIEW kv AS
  SELECT o.worker_name, o.class_name, o.id, o.name, e.key, e.val, e.devalue, e.do_id
  FROM _durafetch_kv AS e LEFT JOIN durable_objects AS o ON o.do_id = e.do_id;

CREATE TABLE _durafetch_workers(
  worker_name TEXT PRIMARY KEY,
  worker_id TEXT NOT NULL UNIQUE,
  url TEXT NOT NULL,
  cursor TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE _durafetch_schemas(schema_id INTEGER PRIMARY KEY, definition TEXT NOT NULL UNIQUE);
CREATE TABLE _durafetch_state(do_id INTEGER PRIMARY KEY, schema_id INTEGER, chunks TEXT NOT NULL);
CREATE TABLE _durafetch_tables(
  mirror_table TEXT PRIMARY KEY COLLATE NOCASE,
  class_name TEXT NOT NULL,
  table_name TEXT NOT NULL COLLATE NOCASE,
  name_column TEXT NOT NULL,
  key TEXT,
  UNIQUE (class_name, table_name)
) WITHOUT ROWID;
CREATE TABLE _durafetch_columns(
  mirror_table TEXT NOT NULL COLLATE NOCASE,
  source_column TEXT NOT NULL COLLATE NOCASE,
  mirror_column TEXT NOT NULL,
  PRIMARY KEY (mirror_table, source_column)
) WITHOUT ROWID;
CREATE TABLE _durafetch_settings(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""

CHANGES_LAYOUT: Final = """
CREATE TABLE _durafetch_changes(
  change_id INTEGER PRIMARY KEY AUTOINCREMENT,
  at TEXT NOT NULL,
  do_id INTEGER NOT NULL,
  kind TEXT NOT NULL,
  table_name TEXT COLLATE NOCASE,
  key,
  operation TEXT NOT NULL,
  before TEXT,
  after TEXT
);
CREATE INDEX _durafetch_changes_of ON _durafetch_changes(do_id, kind, table_name, key, change_id);
CREATE TABLE _durafetch_gone(
  do_id INTEGER PRIMARY KEY,
  worker_name TEXT NOT NULL,
  class_name TEXT NOT NULL,
  id TEXT NOT NULL,
  name TEXT,
  UNIQUE (id, class_name, worker_name)
);
ALTER TABLE _durafetch_workers ADD COLUMN filter TEXT NOT NULL DEFAULT '[]';
CREATE VIEW changes AS
  SELECT c.change_id, c.at, coalesce(o.worker_name, g.worker_name) AS worker_name,
    coalesce(o.class_name, g.class_name) AS class_name, coalesce(o.id, g.id) AS id, coalesce(o.name, g.name) AS name,
    c.kind, c.table_name, c.key, c.operation, c.before, c.after, c.do_id
  FROM _durafetch_changes AS c LEFT JOIN durable_objects AS o ON o.do_id = c.do_id
  LEFT JOIN _durafetch_gone AS g ON g.do_id = c.do_id;
"""
"""What the layout version 2 added; the view `history` is made with it, by `mirror.changes`."""


@contextmanager
def translated(path: Path | str) -> Iterator[None]:
    """Raises SQLite's failures of the file at `path` as MirrorErrors."""
    try:
        yield
    except (apsw.BusyError, apsw.LockedError):
        raise errors.MirrorLockedError(f"{path} is locked by another process.") from None
    except apsw.FullError:
        raise errors.MirrorFullError(f"There is no room left to write {path}.") from None
    except apsw.NotADBError:
        raise errors.NotAMirrorError(f"{path} is not a SQLite database.") from None
    except (apsw.CorruptError, apsw.IOError) as error:
        raise errors.MirrorDamagedError(f"{path} cannot be read or written: {error}.") from None
    except (apsw.CantOpenError, apsw.ReadOnlyError, apsw.PermissionsError, apsw.AuthError) as error:
        raise errors.MirrorError(
            f"{path} cannot be opened for this: {error}.", "Check the folder and its permissions."
        ) from None


def open_database(path: Path | str, *, create: bool, read_only: bool = False) -> apsw.Connection:
    """Opens a mirror file, checks that it is one, and brings its layout up to date.

    `create` makes a new mirror where there is no file, or an empty one. Raises MirrorMissingError, NotAMirrorError,
    MirrorTooNewError, MirrorLockedError and the other MirrorErrors; a file that is not a mirror is not written to.
    """
    if str(path) != ":memory:":
        path = Path(path)
        if not path.exists() and not create:
            raise errors.MirrorMissingError(f"There is no mirror at {path}.")
        if path.is_dir():
            raise errors.NotAMirrorError(f"{path} is a folder.")
        if not path.parent.is_dir():
            raise errors.MirrorError(f"The folder of {path} does not exist.", f"mkdir -p {path.parent}")
    with translated(path):
        flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if create else 0)
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY if read_only else flags)
        try:
            connection.set_busy_timeout(BUSY_TIMEOUT_MS)
            _check(connection, path, create=create and not read_only, read_only=read_only)
            if not read_only:
                connection.pragma("synchronous", "NORMAL")
                connection.pragma("cache_size", -65536)
                connection.pragma("temp_store", "MEMORY")
        except BaseException:
            connection.close()
            raise
        return connection


@contextmanager
def writing(connection: apsw.Connection) -> Iterator[None]:
    """A transaction that takes the write lock at its beginning, and waits for it: one that began by reading would
    fail at once where another process has written meanwhile (https://www.sqlite.org/rescode.html#busy_snapshot)."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _create(connection: apsw.Connection, path: Path | str) -> None:
    """Makes the layout in an empty file; another process may be doing just that."""
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            # Readers see each commit while a sync goes on: https://www.sqlite.org/wal.html
            if connection.execute("SELECT count(*) FROM sqlite_master").get == 0:
                connection.pragma("page_size", PAGE_BYTES)
                connection.pragma("journal_mode", "wal")
            with writing(connection):
                if connection.pragma("application_id") == APPLICATION_ID:
                    return
                if connection.execute("SELECT count(*) FROM sqlite_master").get:
                    raise errors.NotAMirrorError(f"{path} is a SQLite database, but not a mirror made by Durafetch.")
                connection.execute(LAYOUT)
                connection.execute(CHANGES_LAYOUT)
                connection.execute("INSERT INTO _durafetch_settings VALUES ('seed', ?)", (secrets.token_hex(8),))
                connection.pragma("application_id", APPLICATION_ID)
                connection.pragma("user_version", LAYOUT_VERSION)
            return
        except apsw.BusyError:
            # Changing the journal mode does not wait for locks by itself.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _check(connection: apsw.Connection, path: Path | str, *, create: bool, read_only: bool) -> None:
    if connection.pragma("application_id") != APPLICATION_ID:
        if not create:
            raise errors.NotAMirrorError(f"{path} is a SQLite database, but not a mirror made by Durafetch.")
        _create(connection, path)
        return
    version = connection.pragma("user_version")
    if version > LAYOUT_VERSION:
        raise errors.MirrorTooNewError(
            f"{path} has the layout version {version}; this release knows up to {LAYOUT_VERSION}."
        )
    if version < LAYOUT_VERSION:
        try:
            _migrate(path)
        except (apsw.CantOpenError, apsw.ReadOnlyError, apsw.PermissionsError):
            # What may not be written can still be read, as it is.
            if not read_only:
                raise


def _migrate(path: Path | str) -> None:
    """Brings an older layout up to date, step by step, on a connection of its own: the caller's may only read."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    connection.set_busy_timeout(BUSY_TIMEOUT_MS)
    try:
        with writing(connection):
            if connection.pragma("user_version") == 1:
                taken = connection.execute("SELECT name FROM sqlite_master WHERE name IN ('changes', 'history')").get
                if taken:
                    raise errors.MirrorError(
                        f"{path} has a table or view of yours called {taken}, which this release needs for its own.",
                        f'Rename yours: sqlite3 {path} "ALTER TABLE {taken} RENAME TO my_{taken}"',
                    )
                connection.execute(CHANGES_LAYOUT)
                connection.pragma("user_version", 2)
    finally:
        connection.close()


def iso(ms: int | float) -> str:
    """A time in ms since 1970 as ISO 8601 text in UTC, as SQLite's date functions take it; far-off ones as ms."""
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{int(ms % 1000):03d}Z"
    except (ValueError, OverflowError, OSError):
        return str(ms)


def iso_now(*, ago: float = 0) -> str:
    """The time now, or so many seconds ago, as `iso` writes it."""
    return iso((datetime.now(UTC) - timedelta(seconds=ago)).timestamp() * 1000)


def quote(identifier: str) -> str:
    """An identifier as SQL."""
    return '"' + identifier.replace('"', '""') + '"'


def exact(columns: Iterable[str]) -> str:
    """Columns (as SQL) to select so that `frames.with_text` gives their cells, whatever bytes their TEXT has."""
    return ", ".join(f"CASE typeof({c}) WHEN 'text' THEN CAST({c} AS BLOB) ELSE {c} END, typeof({c})" for c in columns)


def key_range(keys: str, after: Bound, upto: Bound) -> tuple[list[str], list[Any]]:
    """The conditions for `after` < keys <= `upto`, and their parameters; `keys` are SQL expressions, joined by commas.

    Raises ProtocolError for a cell that is none.
    """
    where: list[str] = []
    parameters: list[Any] = []
    for bound, operator in ((after, ">"), (upto, "<=")):
        if bound is None:
            continue
        marks = []
        for cell in bound:
            value = untag(cell)
            marks.append("CAST(? AS TEXT)" if isinstance(value, InvalidText) else "?")
            parameters.append(bytes(value) if isinstance(value, InvalidText) else value)
        where.append(f"({keys}) {operator} ({', '.join(marks)})")
    return where, parameters


def free_name(wanted: str, taken: set[str]) -> str:
    """`wanted`, or with the first number behind it that makes it a name not `taken` (lower-case names)."""
    name, n = wanted, 2
    while name.lower() in taken:
        name, n = f"{wanted}_{n}", n + 1
    return name

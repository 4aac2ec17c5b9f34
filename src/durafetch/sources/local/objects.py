"""Utters one object's frames from its file: entries, tables, alarm, all of one committed state."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import apsw

from durafetch import devalue, v8
from durafetch.errors import UnreadableFileError
from durafetch.frames import AlarmFrame, Bound, DecodedRange, EndFrame, Frame, ObjectFrame
from durafetch.mirror import PendingObject
from durafetch.sources.local.chunks import Row, Walker
from durafetch.sources.local.snapshot import opened
from durafetch.sources.local.tables import Master, Schema, TableRows, read_master, read_schema

_ALARM_KEY: Final = 1


@dataclass(frozen=True)
class LocalObject:
    """An object to be read: what is known of it without opening its file."""

    path: Path
    class_name: str
    id: str
    name: str | None
    storage: Any
    alarm: int | None
    """ns since 1970, as the namespace's own file has it; what the object's file says goes before it."""


def version(schema: str, file: str, alarm: int | None) -> str:
    """An object's version: the digest of its schema, its file's version, and what the namespace says of its alarm."""
    return f"{schema}|{file}|{alarm or ''}"


def same_state(held: str | None, file: str, alarm: int | None) -> bool:
    """Whether a version that the mirror holds is of this state."""
    return held is not None and held.partition("|")[2] == f"{file}|{alarm or ''}"


class ObjectFiles:
    """Reads objects' files; remembers the schemas it met, since objects of one class have mostly the same."""

    def __init__(self, seed: str) -> None:
        """`seed`: the mirror's, for digests."""
        self._walker = Walker(bytes.fromhex(seed))
        self._schemas: dict[Master, Schema] = {}
        self.written_ns: dict[tuple[str, str], int] = {}
        """When the state of an object (class, id) that was read was written, ns since 1970."""

    def frames(self, item: LocalObject, asked: PendingObject) -> Iterator[Frame]:
        """The frames of one object. Raises FileNotFoundError, Moved, UnreadableFileError."""
        try:
            with opened(item.path) as (connection, snapshot):
                for frame in self._contents(connection, item, asked, snapshot.version):
                    if isinstance(frame, EndFrame):
                        snapshot.check()
                    yield frame
                self.written_ns[item.class_name, item.id] = snapshot.written_ns
        except UnicodeDecodeError:
            raise UnreadableFileError(f"{item.path} cannot be read: a name in it is not UTF-8.") from None

    def _contents(
        self, connection: apsw.Connection, item: LocalObject, asked: PendingObject, file: str
    ) -> Iterator[Frame]:
        master = read_master(connection)
        schema = self._schemas.get(master)
        if schema is None:
            schema = self._schemas[master] = read_schema(connection, master)
        now = version(schema.digest, file, item.alarm)
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        yield ObjectFrame(item.class_name, item.id, item.storage, now, item.name or _stored_name(connection, names))
        if asked.version is None or not asked.chunks or asked.version.partition("|")[0] != schema.digest:
            yield schema.frame
        held = json.loads(asked.chunks) if asked.chunks else {}
        for chunk in self._walker.walk(_entries_of(connection, names), _entry_bound, held.get("kv", []), b"kv"):
            if chunk.rows is not None:
                rows = [_entry(key, value) for key, value in chunk.rows]
                yield DecodedRange(chunk.after, chunk.upto, chunk.digest, rows)
        for table in schema.tables:
            rows_of = TableRows(connection, table)
            salt = repr(table.definition).encode()
            mine = held.get("tables", {}).get(rows_of.name, [])
            for chunk in self._walker.walk(rows_of.between, rows_of.bound, mine, salt):
                if chunk.rows is not None:
                    yield DecodedRange(chunk.after, chunk.upto, chunk.digest, chunk.rows, rows_of.name)
        yield AlarmFrame(self._alarm(connection, item, names))
        yield EndFrame(now)

    @staticmethod
    def _alarm(connection: apsw.Connection, item: LocalObject, names: set[str]) -> int | None:
        """In ms. The object's own file has it in the same state as all else; without that table, the namespace's."""
        ns = item.alarm
        if "_cf_METADATA" in names:
            ns = connection.execute("SELECT value FROM _cf_METADATA WHERE key = ?", (_ALARM_KEY,)).get
        return ns // 1_000_000 if isinstance(ns, int) else None


def _stored_name(connection: apsw.Connection, names: set[str]) -> str | None:
    """The name that wrangler dev keeps in an object's file."""
    if "__miniflare_do_name" not in names:
        return None
    name = connection.execute("SELECT name FROM __miniflare_do_name LIMIT 1").get
    return name if isinstance(name, str) else None


def own_name(path: Path) -> str | None:
    """The name that an object's file has. Raises as `ObjectFiles.frames` does."""
    with opened(path) as (connection, snapshot):
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        found = _stored_name(connection, names)
        snapshot.check()
        return found


def _entries_of(connection: apsw.Connection, names: set[str]) -> Any:
    def between(after: Bound, upto: Bound) -> Iterator[Row]:
        if "_cf_KV" not in names:
            return iter(())
        where = ["key > ?" if after else "1", "key <= ?" if upto else "1"]
        parameters = [bound[0] for bound in (after, upto) if bound]
        return connection.execute(f"SELECT key, value FROM _cf_KV WHERE {' AND '.join(where)} ORDER BY key", parameters)

    return between


def _entry_bound(row: Row) -> Bound:
    return [row[0]]


def _entry(key: str, value: bytes) -> tuple[str, str, str | None]:
    try:
        return (key, *devalue.encode(v8.deserialize(value)))
    except v8.V8FormatError as error:
        return key, "", devalue.unreadable(str(error), value)

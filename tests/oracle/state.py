"""The canonical dump of one object. The three ways to it share no code: equality of the three is what the tests assert."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from durafetch.frames import InvalidText
from durafetch.mirror import ObjectDump
from tests.oracle.values import Request, ValueOracle

Cell = tuple[str, str]
"""(SQLite's type, the exact value's text)."""


@dataclass(frozen=True)
class State:
    """All that an object holds."""

    entries: tuple[tuple[str, str], ...] = ()
    """(key, canonical text), by key."""
    tables: tuple[tuple[str, tuple[tuple[Cell, ...], ...]], ...] = ()
    """(name, rows in any fixed order), by name; a row has its rowid in front where the table has no primary key."""
    schema: tuple[tuple[str, ...], ...] = ()
    alarm: int | None = None
    """ms since 1970."""

    def only(self, table: Callable[[str], bool], key: Callable[[str], bool]) -> State:
        """What a filter leaves."""
        return replace(
            self,
            entries=tuple(entry for entry in self.entries if key(entry[0])),
            tables=tuple(item for item in self.tables if table(item[0])),
            schema=tuple(item for item in self.schema if table(item[2])),
        )


def of_mirror(dump: ObjectDump, values: ValueOracle) -> State:
    """What the mirror says."""
    forms: list[Request] = [
        ("json", val) if devalue is None else ("devalue", devalue) for _, val, devalue in dump.entries
    ]
    tables = []
    for name, table in dump.tables.items():
        sql = next(entry.sql for entry in dump.schema if entry.type == "table" and entry.name == name)
        with_rowid = not _has_key(sql or "")
        skip = int(not with_rowid and len(table.columns) > len(_columns(sql or "")))
        tables.append((name, _sorted(tuple(_cell(value) for value in row[skip:]) for row in table.rows)))
    return State(
        tuple(zip((key for key, _, _ in dump.entries), values.texts(forms), strict=True)),
        tuple(sorted(tables)),
        tuple(sorted((e.type, e.name, e.table, e.sql or "") for e in dump.schema)),
        None if dump.info.alarm_at is None else _ms(dump.info.alarm_at),
    )


def of_file(path: Path, values: ValueOracle) -> State:
    """What the object's own file under workerd says: Python's sqlite3, and Node's v8.deserialize."""
    if not path.exists():
        return State()
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        db.text_factory = bytes
        db.execute("BEGIN")
        names = {name.decode() for (name,) in db.execute("SELECT name FROM sqlite_master")}
        entries: list[tuple[bytes, bytes]] = []
        if "_cf_KV" in names:
            entries = db.execute("SELECT key, value FROM _cf_KV ORDER BY key").fetchall()
        alarm = None
        if "_cf_METADATA" in names:
            row = db.execute("SELECT value FROM _cf_METADATA WHERE key = 1").fetchone()
            alarm = None if row is None or row[0] is None else int(row[0]) // 1_000_000
        texts = values.texts([("v8", bytes(value).hex()) for _, value in entries])
        keys = (key.decode() for key, _ in entries)
        return State(tuple(zip(keys, texts, strict=True)), *of_tables(db), alarm)
    finally:
        db.close()


def of_tables(db: sqlite3.Connection) -> tuple[Any, Any]:
    """`tables` and `schema` of a database whose `text_factory` is bytes."""
    schema = tuple(
        sorted(
            tuple((part or b"").decode() for part in row)
            for row in db.execute("SELECT type, name, tbl_name, sql FROM sqlite_master")
            if not row[2].startswith((b"_cf_", b"__miniflare_"))
        )
    )
    tables = []
    for kind, name, _, sql in schema:
        if kind != "table":
            continue
        columns = ([] if _has_key(sql) else ["rowid"]) + list(_columns(sql))
        pairs = ", ".join(f"typeof({_quoted(c)}), {_quoted(c)}" for c in columns)
        rows = db.execute(f"SELECT {pairs} FROM {_quoted(name)}")
        tables.append((name, _sorted(tuple(_typed(kind, value) for kind, value in _pairs(row)) for row in rows)))
    return tuple(sorted(tables)), schema


def _typed(kind: bytes, value: Any) -> Cell:
    return kind.decode(), repr(value)


def _cell(value: Any) -> Cell:
    match value:
        case None:
            return "null", "None"
        case InvalidText():
            return "text", repr(bytes(value))
        case str():
            return "text", repr(value.encode())
        case bytes():
            return "blob", repr(value)
        case int():
            return "integer", repr(value)
        case _:
            return "real", repr(value)


def _pairs(row: Sequence[Any]) -> Iterable[tuple[bytes, Any]]:
    return zip(row[::2], row[1::2], strict=True)


def _sorted(rows: Iterable[tuple[Cell, ...]]) -> tuple[tuple[Cell, ...], ...]:
    return tuple(sorted(rows))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@cache
def _shape(sql: str) -> tuple[tuple[str, ...], bool]:
    if sql.lower().startswith("create table sqlite_sequence"):
        return ("name", "seq"), False
    scratch = sqlite3.connect(":memory:")
    scratch.execute(sql)
    [(name,)] = scratch.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    columns = scratch.execute(f"PRAGMA table_info({_quoted(name)})").fetchall()
    scratch.close()
    return tuple(column[1] for column in columns), any(column[5] for column in columns)


def _columns(sql: str) -> tuple[str, ...]:
    return _shape(sql)[0]


def _has_key(sql: str) -> bool:
    return _shape(sql)[1]


def _ms(text: str) -> int:
    since = datetime.fromisoformat(text.replace("Z", "+00:00")) - datetime(1970, 1, 1, tzinfo=UTC)
    return since // timedelta(milliseconds=1)

"""A Worker without runtime and sockets: utters what PROTOCOL.md allows about model objects, in ever other ways."""

from __future__ import annotations

import hashlib
import json
import zlib
from bisect import bisect_right
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import msgspec

from durafetch import WorkerSource, errors
from durafetch.frames import LineSplitter
from durafetch.mirror import PendingObject
from durafetch.sources.worker import ChangesPage
from tests.oracle.model import ModelObject

Key = tuple[tuple[int, Any], ...]
"""Comparable as SQLite compares: by kind, then by value."""
Held = list[list[Any]]


class PureWorker(WorkerSource):
    """A source that asks nobody."""

    def __init__(self, random: Random) -> None:
        super().__init__("http://127.0.0.1:1", token="x" * 32, name="zoo")
        self.random = random
        self.cut: int | None = None
        """Of each reply only so many bytes come."""
        self.flip: int | None = None
        """The number of a bit that is turned, in each reply."""
        self.incarnation = "first"
        self.listed: list[tuple[str, str, str]] = []
        self.objects: dict[tuple[str, str], tuple[str, ModelObject]] = {}
        self.epochs: dict[tuple[str, str], str] = {}
        self.counts: dict[tuple[str, str], int] = {}

    def announce(self, cls: str, id: str, name: str, model: ModelObject) -> None:
        """An object was written to."""
        self.objects[cls, id] = name, model
        self.counts[cls, id] = self.counts.get((cls, id), 0) + 1
        self.listed.append((cls, id, name))

    def restart(self, *, directory: bool) -> None:
        """Everything starts anew; the directory forgets, too."""
        self.epochs = {key: f"{self.random.random()}" for key in self.objects}
        if directory:
            self.incarnation = f"{self.random.random()}"
            self.listed = [(cls, id, name) for (cls, id), (name, _) in self.objects.items()]

    async def __aenter__(self) -> PureWorker:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def changes(self, after: str, *, limit: int = 3) -> ChangesPage:
        incarnation, _, number = after.partition(":")
        start = int(number) if incarnation == self.incarnation else 0
        stop = min(len(self.listed), start + self.random.randint(1, 3))
        page = {
            "protocol": 1, "worker": {"id": "pure", "name": "zoo"}, "cursor": f"{self.incarnation}:{stop}",
            "more": stop < len(self.listed), "reset": after != "" and incarnation != self.incarnation,
            "objects": [{"class": c, "id": i, "name": n} for c, i, n in self.listed[start:stop]],
        }  # fmt: skip
        return msgspec.convert(page, ChangesPage)

    @asynccontextmanager
    async def pull(self, objects: Sequence[PendingObject], seed: str) -> AsyncIterator[AsyncIterator[list[bytes]]]:
        yield self._groups(
            b"".join(self._object(item) for item in objects)
            + _line({"frame": "done", "objects": len(objects), "failed": 0})
        )

    async def _groups(self, data: bytes) -> AsyncIterator[list[bytes]]:
        if self.flip is not None:
            place, bit = divmod(self.flip % (8 * len(data)), 8)
            data = data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :]
        splitter = LineSplitter()
        for part in _parts(data if self.cut is None else data[: self.cut], self.random):
            yield list(splitter.feed(part))
        if splitter.pending:
            raise errors.UnreachableError("cut in the middle of a line")

    def version(self, cls: str, id: str) -> str:
        return f"{self.epochs.get((cls, id), '')}.{self.counts[cls, id]}"

    def _object(self, asked: PendingObject) -> bytes:
        name, model = self.objects[asked.class_name, asked.id]
        version = self.version(asked.class_name, asked.id)
        head = {
            "frame": "object",
            "class": asked.class_name,
            "id": asked.id,
            "name": name,
            "storage": "sqlite",
            "version": version,
        }
        held = asked.chunks is not None and asked.version is not None
        if held and version == asked.version and self.random.random() < 0.9:
            return _ended(_line({**head, "unchanged": True}), version)
        data = _line(head)
        chunks = json.loads(asked.chunks or "{}") if held else {}
        tables = _tables(model)
        data += _line({"frame": "tables", "tables": tables, "schema": _schema(model)})
        kv: Held = chunks.get("kv", [])
        lists: dict[str, Held] = dict(chunks.get("tables", {}))
        # Passes over an object that moves: what they say is overridden by the last one.
        for last in [False] * self.random.choice([0, 0, 0, 1, 2]) + [True]:
            entries = [([key, json.loads(text)], ((3, key.encode()),)) for key, (_, text) in model.entries.items()]
            text, kv = self._ranges(None, sorted(entries, key=lambda e: e[1]), kv, last)
            data += text
            for table in tables:
                # A client drops the chunks of a table that is defined otherwise (F4): their digests differ, too.
                name = table["name"]
                text, lists[name] = self._ranges(table, _rows(model, table), lists.get(name, []), last)
                data += text
        return _ended(data + _line({"frame": "alarm", "at": model.alarm}), version)

    def _ranges(self, table: Any, rows: list[tuple[Any, Key]], held: Held, last: bool) -> tuple[bytes, Held]:
        random = self.random
        if not last:
            rows = [row for row in rows if random.random() < 0.8]
        keys = [key for _, key in rows]
        salt = json.dumps(table)
        data, after, found = b"", None, []
        joined: dict[str, Any] | None = None
        start = 0
        todo: Held = [list(chunk) for chunk in held] or [[None, ""]]
        while todo:
            upto, digest = todo.pop(0)
            while todo and random.random() < 0.2:
                upto, digest = todo.pop(0)[0], ""
            stop = len(rows) if upto is None else bisect_right(keys, _key(upto, table))
            part = rows[start:stop]
            own = _digest(salt, part)
            if own == digest and random.random() < 0.9:
                found.append([upto, digest])
                after, start = upto, stop
                data, joined = data + (b"" if joined is None else _line(joined)), None
                continue
            cuts = (
                sorted(random.sample(range(1, len(part)), min(len(part) - 1, random.choice([0, 0, 1, 2]))))
                if len(part) > 1
                else []
            )
            for low, high in zip([0, *cuts], [*cuts, len(part)], strict=True):
                bound = upto if high == len(part) else _bound(part[high - 1][1], table)
                found.append([bound, _digest(salt, part[low:high])])
                rows_here = [row for row, _ in part[low:high]]
                if joined is not None and random.random() < 0.5:
                    joined["chunks"].append(found[-1])
                    joined["rows"] += rows_here
                else:
                    data += b"" if joined is None else _line(joined)
                    name = {} if table is None else {"table": table["name"]}
                    joined = {"frame": "range", **name, "after": after, "chunks": [found[-1]], "rows": rows_here}
                after = bound
            start = stop
        return data + (b"" if joined is None else _line(joined)), found


def _line(frame: Any) -> bytes:
    return json.dumps(frame, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def _ended(data: bytes, version: str) -> bytes:
    data += _line({"frame": "end", "version": version, "rows_read": 1})[:-2]
    return data + b',"crc32":%d}\n' % zlib.crc32(data)


def _parts(data: bytes, random: Random) -> list[bytes]:
    cuts = sorted(random.randrange(len(data) + 1) for _ in range(random.randint(0, 6)))
    return [data[low:high] for low, high in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def _digest(salt: str, rows: list[tuple[Any, Key]]) -> str:
    return hashlib.md5((salt + json.dumps([row for row, _ in rows])).encode()).hexdigest()[:16]


def _schema(model: ModelObject) -> list[Any]:
    rows = model.db.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY rowid")
    return [dict(zip(("type", "name", "table", "sql"), (v and v.decode() for v in row), strict=True)) for row in rows]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _tables(model: ModelObject) -> list[Any]:
    found = []
    for name, sql in model.db.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'table' ORDER BY rowid"
    ).fetchall():
        name = name.decode()
        info = model.db.execute(f"PRAGMA table_info({_quoted(name)})").fetchall()
        own_key = b"WITHOUT ROWID" in sql or b"INTEGER PRIMARY KEY" in sql
        keys = [column[1].decode() for column in sorted(info, key=lambda c: c[5]) if column[5]] if own_key else []
        found.append({"name": name, "kind": "table", "columns": [column[1].decode() for column in info],
                      "rowid": not own_key, "key": [[key, "BINARY"] for key in keys]})  # fmt: skip
    return found


def _rows(model: ModelObject, table: Any) -> list[tuple[Any, Key]]:
    columns = (["rowid"] if table["rowid"] else []) + table["columns"]
    pairs = ", ".join(f"typeof({_quoted(c)}), {_quoted(c)}" for c in columns)
    places = [0] if table["rowid"] else [columns.index(name) for name, _ in table["key"]]
    found = []
    for raw in model.db.execute(f"SELECT {pairs} FROM {_quoted(table['name'])}"):
        cells = list(zip(raw[::2], raw[1::2], strict=True))
        found.append(([_cell(*cell) for cell in cells], tuple(_part(*cells[place]) for place in places)))
    return sorted(found, key=lambda row: row[1])


def _cell(kind: bytes, value: Any) -> Any:
    if kind == b"text":
        try:
            return value.decode()
        except UnicodeDecodeError:
            return ["text", value.hex()]
    if kind == b"blob":
        return ["blob", value.hex()]
    if kind == b"real" and (value in (float("inf"), float("-inf")) or str(value) == "-0.0"):
        return ["real", str(value).replace("-0.0", "-0")]
    return value


def _part(kind: bytes, value: Any) -> tuple[int, Any]:
    return {b"null": 0, b"integer": 1, b"real": 1, b"text": 3, b"blob": 4}[kind], value


def _bound(key: Key, table: Any) -> list[Any]:
    if table is None:
        return [key[0][1].decode()]
    tagged: list[Any] = []
    for kind, value in key:
        match kind, value:
            case 0, _:
                tagged.append(None)
            case 1, int():
                tagged.append(["integer", str(value)])
            case 1, _:
                tagged.append(["real", repr(value)])
            case _:
                tagged.append(["text" if kind == 3 else "blob", value.hex()])
    return tagged


def _key(bound: list[Any], table: Any) -> Key:
    if table is None:
        return ((3, bound[0].encode()),)
    parts: list[tuple[int, Any]] = []
    for cell in bound:
        match cell:
            case None:
                parts.append((0, None))
            case ["integer", text]:
                parts.append((1, int(text)))
            case ["real", text]:
                parts.append((1, float(text)))
            case [kind, text]:
                parts.append((3 if kind == "text" else 4, bytes.fromhex(text)))
    return tuple(parts)

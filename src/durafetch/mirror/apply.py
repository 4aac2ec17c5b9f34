"""Makes the mirror equal to what it is told: the frames of one object, applied as a whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import apsw
import msgspec

from durafetch import frames
from durafetch.errors import ProtocolError
from durafetch.filters import ALL, Filters
from durafetch.frames import Bound, DecodedRange, Frame, InvalidText, RangeFrame, TableDefinition
from durafetch.mirror.changes import Change, Recorder
from durafetch.mirror.database import exact, iso, iso_now, key_range, quote
from durafetch.mirror.reading import ObjectInfo, dump_object
from durafetch.mirror.tables import OBJECT_COLUMN, Layout, TableMap
from durafetch.values import ValueFormatError, projection


@dataclass(frozen=True)
class PendingObject:
    """An object to be pulled: what the mirror holds of it is at `version` with these `chunks` (JSON text)."""

    do_id: int
    class_name: str
    id: str
    version: str | None
    chunks: str | None
    listed: int
    """How often the object was listed when this was read: a later listing is not answered by this pull."""


@dataclass
class Applied:
    """What one object's frames did to the mirror."""

    changed: bool = False
    upserted: int = 0
    deleted: int = 0


class StaleError(Exception):
    """The mirror's object is at another version than the pull was based on: somebody else applied a pull of it."""


class ObjectWriter:
    """Applies one object's frames, in order, within a transaction that the caller holds.

    `asked` is what the pull was based on. `finish()` says what was done; before it nothing is complete, and the caller
    rolls back. `recorder` notes what changes, where that is wanted. What `filters` leave out is not applied, whether or not
    the source left it out itself.
    """

    def __init__(
        self,
        connection: apsw.Connection,
        tables: TableMap,
        worker_name: str,
        asked: PendingObject,
        *,
        full: bool = False,
        recorder: Recorder | None = None,
        filters: Filters = ALL,
    ) -> None:
        self._filters = filters
        self._db = connection
        self._recorder = recorder
        self._tables = tables
        self._worker = worker_name
        self._asked = asked
        self._base = None if full or not asked.chunks else asked.version
        self._full = full
        self._applied = Applied()
        self._head: frames.ObjectFrame | None = None
        self._ended = False
        self._definitions: dict[str, TableDefinition] = {}
        self._schema: list[frames.SchemaEntry] = []
        self._schema_id: int | None = None
        self._chunks: dict[str, list[frames.Chunk]] = {}
        self._entries = 0
        self._rows = 0
        self._alarm: str | None = None
        # Tables (None: the entries) that have no rows but those just appended, up to a bound: nothing to compare with.
        self._fresh: dict[str | None, Bound] = {}

    def apply(self, items: Iterable[Frame]) -> None:
        """Applies frames. Raises ProtocolError where one is out of place, StaleError at the object's first."""
        for frame in items:
            if self._ended:
                raise ProtocolError("The Worker went on about an object after its end.")
            if isinstance(frame, frames.ObjectFrame):
                self._begin(frame)
                continue
            if self._head is None:
                raise ProtocolError("The Worker sent a frame that belongs to no object.")
            if isinstance(frame, frames.EndFrame):
                self._end(frame)
            elif self._head.unchanged:
                raise ProtocolError("The Worker sent contents for an object that it called unchanged.")
            elif isinstance(frame, RangeFrame | DecodedRange):
                self._range(frame)
            elif isinstance(frame, frames.TablesFrame):
                self._define(frame)
            elif isinstance(frame, frames.AlarmFrame):
                self._alarm = None if frame.at is None else iso(frame.at)
            else:
                raise ProtocolError("The Worker sent a frame where it does not belong.")

    def finish(self) -> Applied:
        """What was done. Raises ProtocolError where the object's end has not come."""
        if not self._ended:
            raise ProtocolError("The Worker's reply stops in the middle of an object.")
        if self._recorder is not None:
            self._recorder.flush()
        return self._applied

    @property
    def changes(self) -> list[Change]:
        """What was changed, where the recorder tells."""
        return [] if self._recorder is None else self._recorder.changes

    def _begin(self, head: frames.ObjectFrame) -> None:
        if self._head is not None:
            raise ProtocolError("The Worker began an object before the end of another.")
        row = self._db.execute(
            "SELECT o.do_id, o.version, o.name, o.entries, o.rows, o.alarm_at, s.schema_id, s.chunks "
            "FROM durable_objects AS o LEFT JOIN _durafetch_state AS s USING (do_id) "
            "WHERE o.id = ? AND o.class_name = ? AND o.worker_name = ?",
            (head.id, head.class_name, self._worker),
        ).fetchone()
        if row is None:
            raise ProtocolError(f"The Worker sent the object {head.id}, which was not asked for.")
        self._head = head
        self._do_id, version, self._name, self._entries, self._rows, self._alarm_before, schema_id, chunks = row
        self._alarm = self._alarm_before
        if version != self._asked.version:
            raise StaleError
        if head.unchanged:
            if self._base is None or head.version != self._base:
                raise ProtocolError("The Worker called an object unchanged that the mirror does not have.")
            return
        self._schema_id = schema_id
        if schema_id is not None:
            (text,) = self._db.execute(
                "SELECT definition FROM _durafetch_schemas WHERE schema_id = ?", (schema_id,)
            ).fetchone() or ("{}",)
            definition = msgspec.json.decode(text, type=frames.TablesFrame)
            self._definitions = {table.name: table for table in definition.tables}
            self._schema = definition.schema
        held = json.loads(chunks) if chunks and not self._full else {}
        self._chunks = {f"t{name}": list_ for name, list_ in held.get("tables", {}).items()}
        self._chunks["kv"] = held.get("kv", [])
        if self._entries == 0:
            self._fresh[None] = None
        if self._recorder is not None:
            self._recorder.who.name = head.name or self._name
            if version is None:
                self._recorder.object(None, head.storage)

    def _define(self, frame: frames.TablesFrame) -> None:
        if self._filters.tables:
            wanted = self._filters.table_matches
            frame = frames.TablesFrame(
                [table for table in frame.tables if wanted(table.name)],
                [entry for entry in frame.schema if wanted(entry.table)],
            )
        text = msgspec.json.encode(frame).decode()
        new = {table.name: table for table in frame.tables}
        if len({name.lower() for name in new}) != len(frame.tables):
            raise ProtocolError("The Worker sent two definitions of one table.")
        for name, old in self._definitions.items():
            if new.get(name) != old:
                self._chunks.pop(f"t{name}", None)
                self._applied.changed = True
                if name in new and (new[name].rowid, new[name].key) == (old.rowid, old.key):
                    self._drop_columns(old, new[name])
                else:
                    self._clear(old)
                    self._fresh[name] = None
        for name, table in new.items():
            self._layout(table)
            if name not in self._definitions:
                self._fresh[name] = None
        if self._recorder is not None and self._asked.version is not None:
            self._recorder.schema(self._schema, frame.schema)
        self._definitions = new
        self._db.execute("INSERT OR IGNORE INTO _durafetch_schemas(definition) VALUES (?)", (text,))
        schema_id = self._db.execute("SELECT schema_id FROM _durafetch_schemas WHERE definition = ?", (text,)).get
        if schema_id != self._schema_id:
            self._schema_id = schema_id
            self._applied.changed = True

    def _layout(self, table: TableDefinition) -> Layout:
        assert self._head is not None
        layout = self._tables.layout(self._head.class_name, table)
        assert layout is not None
        return layout

    def _clear(self, table: TableDefinition) -> None:
        layout = self._layout(table)
        if self._recorder is not None:
            for row in self._held_rows(layout, f"{OBJECT_COLUMN} = ?", [self._do_id]):
                self._recorder.row(table, layout, row, None)
        self._db.execute(f"DELETE FROM {quote(layout.table.name)} WHERE {OBJECT_COLUMN} = ?", (self._do_id,))
        deleted = self._db.changes()
        self._applied.deleted += deleted
        self._rows -= deleted

    def _drop_columns(self, old: TableDefinition, new: TableDefinition) -> None:
        """Empties the columns that a table has no more; its rows stay, to be compared with those that come."""
        kept = {column.lower() for column in new.columns}
        layout = self._layout(old)
        gone = [quote(layout.table.columns[c.lower()]) for c in old.columns if c.lower() not in kept]
        if gone:
            assignments = ", ".join(f"{column} = NULL" for column in gone)
            self._db.execute(
                f"UPDATE {quote(layout.table.name)} SET {assignments} WHERE {OBJECT_COLUMN} = ?", (self._do_id,)
            )

    def _range(self, frame: RangeFrame | DecodedRange) -> None:
        if frame.table is None:
            inserted, replaced, deleted = self._entry_range(frame)
            self._entries += inserted - deleted
            self._splice("kv", frame)
        else:
            if not self._filters.table_matches(frame.table):
                return
            definition = self._definitions.get(frame.table)
            if definition is None:
                raise ProtocolError(f"The Worker sent rows of the table {frame.table!r}, which it did not define.")
            inserted, replaced, deleted = self._row_range(definition, frame)
            self._rows += inserted - deleted
            self._splice(f"t{frame.table}", frame)
        self._applied.upserted += inserted + replaced
        self._applied.deleted += deleted
        if inserted or replaced or deleted:
            self._applied.changed = True

    def _splice(self, name: str, frame: RangeFrame | DecodedRange) -> None:
        """Replaces the chunks that a range covers by its own."""
        chunks = self._chunks.setdefault(name, [])
        start = 0 if frame.after is None else _after(chunks, frame.after)
        if start is None:
            raise ProtocolError("The Worker sent a range that begins where none ended.")
        if frame.upto is None:
            stop = len(chunks)
        else:
            stop = next((i + 1 for i in range(start, len(chunks)) if chunks[i][0] == frame.upto), start)
        if any(bound is None for bound, _ in frame.chunks[:-1]):
            raise ProtocolError("The Worker sent a chunk without an end before the last one.")
        chunks[start:stop] = frame.chunks

    def _appends(self, table: str | None, frame: RangeFrame | DecodedRange) -> bool:
        """Whether the mirror has no rows in the range, since all that it has of the table came just before it."""
        if table not in self._fresh:
            return False
        appends = self._fresh[table] == frame.after
        if appends and frame.upto is not None:
            self._fresh[table] = frame.upto
        else:
            del self._fresh[table]
        return appends

    def _entry_range(self, frame: RangeFrame | DecodedRange) -> tuple[int, int, int]:
        rows = frame.rows if isinstance(frame, DecodedRange) else frames.decode_entries(frame.rows)
        if self._filters.keys:
            rows = [row for row in rows if self._filters.keys.matches(row[0])]
        new = {
            key: (text, devalue) if devalue is None else (_projected(devalue), devalue) for key, text, devalue in rows
        }
        after, upto = _key_bound(frame.after), _key_bound(frame.upto)
        if new and ((after is not None and min(new) <= after) or (upto is not None and max(new) > upto)):
            # Python orders strings by code point, which is the order of their UTF-8 bytes.
            raise ProtocolError("The Worker sent an entry outside of its range.")
        old: dict[str, tuple[str, str | None]] = {}
        if not self._appends(None, frame):
            where, parameters = "do_id = ?", [self._do_id]
            if after is not None:
                where, parameters = f"{where} AND key > ?", [*parameters, after]
            if upto is not None:
                where, parameters = f"{where} AND key <= ?", [*parameters, upto]
            old = {
                key: (val, devalue)
                for key, val, devalue in self._db.execute(
                    f"SELECT key, val, devalue FROM _durafetch_kv WHERE {where}", parameters
                )
            }
        gone = [key for key in old if key not in new]
        changed = {key: value for key, value in new.items() if old.get(key) != value} if old else new
        fresh = [(self._do_id, key, text, devalue) for key, (text, devalue) in changed.items()]
        if gone:
            self._db.executemany(
                "DELETE FROM _durafetch_kv WHERE do_id = ? AND key = ?", ((self._do_id, key) for key in gone)
            )
        if fresh:
            self._db.executemany("INSERT OR REPLACE INTO _durafetch_kv VALUES (?, ?, ?, ?)", fresh)
        if self._recorder is not None:
            for key in gone:
                self._recorder.entry(key, old[key][0], None)
            for _, key, val, _ in fresh:
                self._recorder.entry(key, old[key][0] if key in old else None, val)
        inserted = len(new) - (len(old) - len(gone))
        return inserted, len(fresh) - inserted, len(gone)

    def _row_range(self, definition: TableDefinition, frame: RangeFrame | DecodedRange) -> tuple[int, int, int]:
        layout = self._layout(definition)
        if isinstance(frame, DecodedRange):
            rows, plain = frame.rows, False
        else:
            rows, plain = frames.decode_rows(frame.rows, len(layout.columns))
        recorder = self._recorder
        if self._appends(definition.name, frame):
            if recorder is not None:
                for row in rows:
                    recorder.row(definition, layout, None, row)
            self._insert(layout, rows, plain)
            return len(rows), 0, 0
        where, parameters = self._between(layout, frame.after, frame.upto)
        places = layout.key_places
        old = {tuple(row[place] for place in places): row for row in self._held_rows(layout, where, parameters)}
        fresh = []
        replaced = 0
        for row in rows:
            before = old.pop(tuple(row[place] for place in places), None)
            # repr() tells 1 from 1.0, 0.0 from -0.0 and text from a blob, which == does not.
            if before is not None and before == row and repr(before) == repr(row):
                continue
            if before is not None:
                replaced += 1
                self._delete(layout, before)
            if recorder is not None:
                recorder.row(definition, layout, before, row)
            fresh.append(row)
        for row in old.values():
            self._delete(layout, row)
            if recorder is not None:
                recorder.row(definition, layout, row, None)
        self._insert(layout, fresh, plain)
        return len(fresh) - replaced, replaced, len(old)

    def _held_rows(self, layout: Layout, where: str, parameters: list[Any]) -> list[tuple[Any, ...]]:
        """Rows that the mirror has. TEXT that is not UTF-8 comes as InvalidText."""
        columns = [quote(column) for column in layout.columns]
        select = f"SELECT {{}} FROM {quote(layout.table.name)} WHERE {where}"
        try:
            rows: list[tuple[Any, ...]] = self._db.execute(select.format(", ".join(columns)), parameters).fetchall()
            return rows
        except UnicodeDecodeError:
            return [frames.with_text(row) for row in self._db.execute(select.format(exact(columns)), parameters)]

    def _between(self, layout: Layout, after: Bound, upto: Bound) -> tuple[str, list[Any]]:
        for bound in (after, upto):
            if bound is not None and (
                len(bound) != len(layout.key) or not all(isinstance(cell, list) for cell in bound)
            ):
                raise ProtocolError("The Worker sent a bound that does not fit the table's key.")
        keys = ", ".join(f"{quote(column)} COLLATE {collation}" for column, collation in layout.key)
        where, parameters = key_range(keys, after, upto)
        return " AND ".join([f"{OBJECT_COLUMN} = ?", *where]), [self._do_id, *parameters]

    def _delete(self, layout: Layout, row: tuple[Any, ...]) -> None:
        cells = [row[place] for place in layout.key_places]
        where = " AND ".join(
            f"{quote(column)} = {'CAST(? AS TEXT)' if type(cell) is InvalidText else '?'} COLLATE {collation}"
            for (column, collation), cell in zip(layout.key, cells, strict=True)
        )
        self._db.execute(
            f"DELETE FROM {quote(layout.table.name)} WHERE {OBJECT_COLUMN} = ? AND {where}", (self._do_id, *cells)
        )

    def _insert(self, layout: Layout, rows: list[tuple[Any, ...]], plain: bool) -> None:
        """`plain`: there is no InvalidText among the cells."""
        if not rows:
            return
        columns = ", ".join(quote(column) for column in (OBJECT_COLUMN, layout.table.name_column, *layout.columns))
        insert = f"INSERT OR REPLACE INTO {quote(layout.table.name)}({columns}) VALUES (?, ?, "
        values = ", ".join("?" * len(layout.columns)) + ")"
        head = (self._do_id, self._name if self._head is None or self._head.name is None else self._head.name)
        odd = [] if plain else [row for row in rows if InvalidText in map(type, row)]
        if odd:
            rows = [row for row in rows if InvalidText not in map(type, row)]
        self._db.executemany(insert + values, [head + row for row in rows])
        for row in odd:
            marks = ["CAST(? AS TEXT)" if type(cell) is InvalidText else "?" for cell in row]
            self._db.execute(insert + ", ".join(marks) + ")", (*head, *row))

    def _end(self, frame: frames.EndFrame) -> None:
        head = self._head
        assert head is not None
        self._ended = True
        now = iso_now()
        if head.name is not None and head.name != self._name:
            rename_object(self._db, self._tables, self._do_id, head.class_name, head.name)
        if head.unchanged:
            self._db.execute(
                "UPDATE durable_objects SET status = iif(listed = ?, 'ok', 'pending'), error = NULL, synced_at = ? "
                "WHERE do_id = ?",
                (self._asked.listed, now, self._do_id),
            )
            return
        tables = {name: self._chunks.get(f"t{name}", []) for name in self._definitions}
        for name, chunks in {**tables, "": self._chunks["kv"]}.items():
            if not chunks or chunks[-1][0] is not None:
                raise ProtocolError(
                    f"The Worker did not send {f'the table {name!r}' if name else 'the entries'} whole."
                )
        if self._schema_id is None:
            raise ProtocolError("The Worker sent an object without its tables.")
        text = json.dumps({"kv": self._chunks["kv"], "tables": tables}, separators=(",", ":"), ensure_ascii=False)
        self._db.execute(
            "INSERT OR REPLACE INTO _durafetch_state VALUES (?, ?, ?)", (self._do_id, self._schema_id, text)
        )
        if self._alarm != self._alarm_before:
            self._applied.changed = True
            if self._recorder is not None:
                self._recorder.alarm(self._alarm_before, self._alarm)
        self._db.execute(
            "UPDATE durable_objects SET storage = ?, alarm_at = ?, status = iif(listed = ?, 'ok', 'pending'), error = NULL, entries = ?, rows = ?, "
            "version = ?, synced_at = ?, changed_at = iif(? OR changed_at IS NULL, ?, changed_at) WHERE do_id = ?",
            (
                head.storage, self._alarm, self._asked.listed, self._entries, self._rows, frame.version, now,
                self._applied.changed, now, self._do_id,
            ),
        )  # fmt: skip


def rename_object(connection: apsw.Connection, tables: TableMap, do_id: int, class_name: str, name: str) -> None:
    """The app has addressed an object by name for the first time that the mirror hears of; its rows learn it, too."""
    connection.execute("UPDATE durable_objects SET name = ? WHERE do_id = ?", (name, do_id))
    for table in tables.tables.values():
        if table.class_name == class_name:
            connection.execute(
                f"UPDATE {quote(table.name)} SET {quote(table.name_column)} = ? WHERE {OBJECT_COLUMN} = ?",
                (name, do_id),
            )


def forget_object(connection: apsw.Connection, tables: TableMap, info: ObjectInfo, recorder: Recorder | None) -> None:
    """Takes an object away with all its rows; what `changes` says of it stays."""
    dump = None if recorder is None else dump_object(connection, tables, info)
    if recorder is not None and dump is not None:
        for key, val, _ in dump.entries:
            recorder.entry(key, val, None)
        for definition in dump.definitions:
            layout = tables.layout(info.class_name, definition, make=False)
            for row in dump.tables[definition.name].rows if layout is not None else []:
                assert layout is not None
                recorder.row(definition, layout, row, None)
        if info.alarm_at is not None:
            recorder.alarm(info.alarm_at, None)
        recorder.object(info.storage or "", None)
        recorder.flush()
    for table in tables.tables.values():
        if table.class_name == info.class_name:
            connection.execute(f"DELETE FROM {quote(table.name)} WHERE {OBJECT_COLUMN} = ?", (info.do_id,))
    connection.execute("DELETE FROM _durafetch_kv WHERE do_id = ?", (info.do_id,))
    connection.execute("DELETE FROM _durafetch_state WHERE do_id = ?", (info.do_id,))
    connection.execute(
        "INSERT OR REPLACE INTO _durafetch_gone VALUES (?, ?, ?, ?, ?)",
        (info.do_id, info.worker_name, info.class_name, info.id, info.name),
    )
    connection.execute("DELETE FROM durable_objects WHERE do_id = ?", (info.do_id,))


def _after(chunks: list[frames.Chunk], bound: Bound) -> int | None:
    """The place behind the chunk that ends at a bound; it is looked for from the end, where it mostly is."""
    return next((i + 1 for i in range(len(chunks) - 1, -1, -1) if chunks[i][0] == bound), None)


def _projected(devalue: str) -> str:
    try:
        return projection(devalue)
    except ValueFormatError as error:
        raise ProtocolError(f"The Worker sent a value that cannot be read: {error}.") from None


def _key_bound(bound: Bound) -> str | None:
    if bound is None:
        return None
    if len(bound) == 1 and isinstance(bound[0], str):
        return bound[0]
    raise ProtocolError("The Worker sent a bound that is no entry's key.")

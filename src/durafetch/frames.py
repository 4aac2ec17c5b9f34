"""The wire's types: what a Worker says, one JSON line at a time. No sockets, no SQL. See PROTOCOL.md."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec

from durafetch.errors import ProtocolError
from durafetch.limits import MAX_LINE_BYTES, MAX_TABLES

Bound = list[Any] | None
"""A key, as its tagged cells (a SQL table) or `[key]` (entries); None is −∞ or +∞."""


class ObjectFrame(msgspec.Struct, tag_field="frame", tag="object", rename={"class_name": "class"}):
    """Begins an object."""

    class_name: str
    id: str
    storage: Literal["sqlite", "kv"]
    version: str
    name: str | None = None
    unchanged: bool = False


class TableDefinition(msgspec.Struct):
    """One SQL table whose rows are sent."""

    name: str
    kind: Literal["table", "virtual"]
    columns: list[str]
    rowid: bool
    key: list[tuple[str, str]]


class SchemaEntry(msgspec.Struct):
    """One row of the object's `sqlite_master`."""

    type: str
    name: str
    table: str
    sql: str | None


class TablesFrame(msgspec.Struct, tag_field="frame", tag="tables"):
    """These are all the tables, and all the definitions, of the object."""

    tables: Annotated[list[TableDefinition], msgspec.Meta(max_length=MAX_TABLES)]
    schema: list[SchemaEntry]


Chunk = tuple[Bound, str]
"""(upper bound, digest): what the mirror keeps, and hands back at the next pull."""


class RangeFrame(msgspec.Struct, tag_field="frame", tag="range"):
    """Between `after` (exclusive) and `upto` (inclusive) these are all the rows; `table` None: all the entries."""

    after: Bound
    chunks: Annotated[list[Chunk], msgspec.Meta(min_length=1)]
    rows: msgspec.Raw
    table: str | None = None

    @property
    def upto(self) -> Bound:
        """The upper bound of the last chunk."""
        return self.chunks[-1][0]


@dataclass
class DecodedRange:
    """A range as a source in this process utters it: its rows as `decode_entries` and `decode_rows` give them."""

    after: Bound
    upto: Bound
    digest: str
    rows: list[Any]
    table: str | None = None

    @property
    def chunks(self) -> list[Chunk]:
        """Its only chunk."""
        return [(self.upto, self.digest)]


class AlarmFrame(msgspec.Struct, tag_field="frame", tag="alarm"):
    """When the object's alarm is set, in ms since 1970; None where none is."""

    at: int | None


class EndFrame(msgspec.Struct, tag_field="frame", tag="end"):
    """Ends an object: what was said of it since its `object` frame is its state at this version."""

    version: str
    rows_read: int = 0
    crc32: int | None = None
    """None where it never was on the wire."""


class ErrorFrame(msgspec.Struct, tag_field="frame", tag="error", rename={"class_name": "class"}):
    """This object could not be read, or not to its end."""

    class_name: str
    id: str
    code: str
    message: str
    retry: bool = False


class DoneFrame(msgspec.Struct, tag_field="frame", tag="done"):
    """Ends the reply."""

    objects: int
    failed: int


WireFrame = ObjectFrame | TablesFrame | RangeFrame | AlarmFrame | EndFrame | ErrorFrame | DoneFrame
Frame = WireFrame | DecodedRange


class Entry(msgspec.Struct, array_like=True):
    """One entry of an object: `typed` is devalue text where JSON could not hold the value, and `value` counts not."""

    key: str
    value: msgspec.Raw
    typed: str | None = None


_frame_decoder: Final = msgspec.json.Decoder(WireFrame)
Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_plain_rows_decoder: Final = msgspec.json.Decoder(list[tuple[Int64 | float | str | None, ...]])
_rows_decoder: Final = msgspec.json.Decoder(list[list[Any]])
_TAGS: Final = (b'["blob",', b'["text",', b'["real",', b'["integer",')
_entries_decoder: Final = msgspec.json.Decoder(list[Entry])


def decode_frame(line: bytes) -> Frame:
    """One line as a frame. Raises ProtocolError where it is not one."""
    try:
        frame: Frame = _frame_decoder.decode(line)
        return frame
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolError(f"The Worker sent a line that is not a frame: {error}.") from None


def decode_entries(rows: msgspec.Raw) -> list[tuple[str, str, str | None]]:
    """The entries of a range: (key, JSON text, None), or (key, "", devalue text). Raises ProtocolError."""
    try:
        entries = _entries_decoder.decode(rows)
        return [(e.key, str(e.value, "utf-8"), None) if e.typed is None else (e.key, "", e.typed) for e in entries]
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolError(f"The Worker sent entries that cannot be read: {error}.") from None


def decode_rows(rows: msgspec.Raw, width: int) -> tuple[list[tuple[Any, ...]], bool]:
    """The rows of a range of a SQL table, each of `width` cells: None, int, float, str, bytes or InvalidText; and whether
    they are plain: without the last two.

    Raises ProtocolError where a row has another width or a cell is none of these.
    """
    text = bytes(rows)
    if not any(tag in text for tag in _TAGS):
        # All cells are what JSON has: read, and looked at, without a step of ours for each.
        try:
            plain = _plain_rows_decoder.decode(text)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            plain = []  # said below, in words
        else:
            if plain and {*map(len, plain)} == {width}:
                return plain, True
    try:
        decoded = _rows_decoder.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolError(f"The Worker sent rows that cannot be read: {error}.") from None
    result: list[tuple[Any, ...]] = []
    for row in decoded:
        if len(row) != width:
            raise ProtocolError(f"The Worker sent a row of {len(row)} cells in a table of {width}.")
        for index, cell in enumerate(row):
            kind = type(cell)
            if kind is list:
                row[index] = untag(cell)
            elif kind is bool or kind is dict or (kind is int and not -(2**63) <= cell < 2**63):
                raise ProtocolError("The Worker sent a cell that is no SQL value.")
        result.append(tuple(row))
    return result, False


class InvalidText(bytes):
    """The bytes of a TEXT cell that are not UTF-8; SQLite stores such text, Python's str cannot."""

    def __repr__(self) -> str:
        return f"InvalidText({bytes(self)!r})"


def with_text(raw: tuple[Any, ...]) -> tuple[Any, ...]:
    """Cells out of (value, typeof) pairs in which text came as its bytes."""
    cells = []
    for value, kind in zip(raw[::2], raw[1::2], strict=True):
        if kind == "text":
            try:
                cells.append(value.decode())
            except UnicodeDecodeError:
                cells.append(InvalidText(value))
        else:
            cells.append(value)
    return tuple(cells)


def untag(cell: list[Any]) -> Any:
    """The value of a tagged cell, `[kind, text]`. Raises ProtocolError where it is none."""
    try:
        tag, text = cell
        if tag == "blob":
            return bytes.fromhex(text)
        if tag == "text":
            data = bytes.fromhex(text)
            try:
                return data.decode()
            except UnicodeDecodeError:
                return InvalidText(data)
        if tag == "integer":
            number = int(text)
            if -(2**63) <= number < 2**63:
                return number
        if tag == "real":
            return float(text)
    except (ValueError, TypeError):
        pass
    raise ProtocolError("The Worker sent a tagged cell of an unknown kind.")


class LineSplitter:
    """Cuts a stream of bytes into lines, in bounded memory."""

    def __init__(self, limit: int = MAX_LINE_BYTES) -> None:
        self._limit = limit
        self._rest: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yields each line that the data ends. Raises ProtocolError where one is longer than allowed."""
        if b"\n" not in data:
            self._size += len(data)
            if self._size > self._limit:
                raise ProtocolError(f"The Worker sent a line of more than {self._limit} bytes.")
            self._rest.append(data)
            return
        lines = data.split(b"\n")
        self._rest.append(lines[0])
        lines[0] = b"".join(self._rest)
        tail = lines.pop()
        self._rest = [tail] if tail else []
        self._size = len(tail)
        for line in lines:
            if len(line) > self._limit:
                raise ProtocolError(f"The Worker sent a line of more than {self._limit} bytes.")
            if line:
                yield line

    @property
    def pending(self) -> bool:
        """Whether a line was begun and not ended."""
        return self._size > 0

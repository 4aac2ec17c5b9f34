"""The reader of V8's format on bytes that nobody should write: one error, bounded time and memory, no recursion."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durafetch import devalue, v8, values
from durafetch.jsvalues import View
from durafetch.values import projection

# Written by workerd 2026-11-17 (storage.put) and by the workerd of wrangler 3.99: see tests/workers/values.ts.
STORED = [
    "ff0f6f2205656d61696c220f616e6e406578616d706c652e636f6d2204746167734102220161220162240002226e6573746564",
    "ff0f6f22026174440000d0fc86207a427b01",
    "ff0f3b490222036f6e656f22016b49027b0122066f626a656374220173274902220132 2c023a06".replace(" ", ""),
    "ff0f61064900490 2490a490440 0206".replace(" ", ""),
    "ff0f41024902490422056578747261220870726f7065727479240102",
    "ff0f5c0a022206 62726f6b656e6f2205737461636b2203612062220563617573656f2204636f6465490e7b017b02".replace(" ", ""),
    "ff0f72546d2201787322035365637b",
    "ff0f4208010203040506070856420103 00".replace(" ", ""),
    "ff0f7e0410000000005642000003",
    "ff0f6f22046e616d652203 6f757222047365 6c665e007b02".replace(" ", ""),
    "ff0f6f2201610063046 5e52c677b01".replace(" ", ""),
    "ff0f5a210000000000000000010000000000000 0".replace(" ", ""),
    "ff0f522203612b2f13",
    "ff0f5c080a41626f72744572726f72016d0173",
    "ff0f61 81d0acf30e4e0000000065cded412203666172400181d0acf30e".replace(" ", ""),
    "ff0d4202010256420002",
]
VALUES = [bytes.fromhex(text) for text in STORED if len(text) % 2 == 0]


def read(data: bytes) -> tuple[str, str | None] | None:
    """What the mirror would keep; None for the documented error."""
    try:
        text, typed = devalue.encode(v8.deserialize(data))
    except v8.V8FormatError as error:
        assert 0 <= error.offset <= len(data)
        assert "byte" in str(error)
        return None
    if typed is not None:
        projection(typed)
    return text, typed


@pytest.mark.parametrize("data", VALUES)
def test_cut_short_at_every_byte(data: bytes) -> None:
    for end in range(len(data)):
        # A buffer without the view that follows it is whole.
        assert read(data[:end]) is None or data[end:].startswith(b"V")
    read(data)
    assert read(data + b"\0\1") is None


@given(st.binary(max_size=200))
@settings(max_examples=2000, deadline=None)
def test_any_bytes(data: bytes) -> None:
    read(b"\xff\x0f" + data)
    read(data)


@given(st.sampled_from(VALUES), st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=4), st.data())
@settings(max_examples=2000, deadline=None)
def test_values_with_some_bytes_changed(data: bytes, changes: list[tuple[int, int]], more: st.DataObject) -> None:
    changed = bytearray(data)
    for place, byte in changes:
        changed[place % len(changed)] = byte
    cut = more.draw(st.integers(0, len(changed)))
    read(bytes(changed[:cut] + more.draw(st.binary(max_size=10)) + changed[cut:]))


TAGS = st.sampled_from([bytes([tag]) for tag in b"_0TFIUNZDyxnzs\"cSRoaA$@{;:',B~V^r\\-?muE."])
PARTS = st.one_of(
    TAGS, st.integers(0, 3).map(lambda n: bytes([n])), st.sampled_from([b"\xff\xff\xff\xff\x0f", b"\x80"])
)


@given(st.lists(PARTS, max_size=60).map(b"".join))
@settings(max_examples=3000, deadline=None)
def test_any_sequence_of_tags(data: bytes) -> None:
    read(b"\xff\x0f" + data)


@pytest.mark.parametrize(
    ("what", "data"),
    [
        ("arrays in arrays", b"A\x01" * 40_000 + b"0" + b"$\0\x01" * 40_000),
        ("open arrays", b"A\x01" * 60_000),
        ("objects in objects", b'o"\x01a' * 40_000 + b"0" + b"{\x01" * 40_000),
        ("maps in maps", b";" * 60_000),
        ("sets in sets", b"'" * 40_000 + b",\0" + b",\x01" * 39_999),
        ("errors in errors", b"rc" * 40_000),
        ("host errors", b"\\\x0a\x01" * 40_000),
        ("a long claim", b'"\xff\xff\xff\xff\x7f' + b"x" * 100),
        ("an endless number", b"I" + b"\xff" * 300_000),
        ("a huge array", b"A\xff\xff\xff\xff\x0f0"),
        ("a huge sparse array", b"a\xff\xff\xff\xff\x0f@\0\xff\xff\xff\xff\x0f"),
        ("a huge buffer", b"~\x00\xff\xff\xff\xff\x0fVB\x00\xff\xff\xff\xff\x0f\x00"),
        ("padding", b"\0" * 100_000),
        ("padding in an object", b"o" + b"\0" * 100_000),
        ("shared twice, and again", b"A\x02A\x00$\x00\x00^\x01$\x00\x02"),
        ("a doubling value", b"".join(b"A\x02" for _ in range(40)) + b"0" + b"0$\0\x02" + b"".join(
            b"^" + (bytes([n]) if n < 128 else b"\x80\x01") + b"$\0\x02" for n in range(39, 0, -1))),
    ],
)  # fmt: skip
def test_bombs(what: str, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory in proportion to the input's size, and an end."""
    monkeypatch.setattr(values, "MAX_PROJECTED_NODES", 100_000)
    tracemalloc.start()
    try:
        read(b"\xff\x0f" + data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 400 * len(data) + 200_000_000, what


def test_messages_say_what_and_where() -> None:
    for data, message in (
        (b"", "there is no header at byte 0"),
        (b"\xff\x0c0", "version 12 is not one of 13 to 15 at byte 1"),
        (b"\xff\x100", "version 16 is not one of 13 to 15 at byte 1"),
        (b'\xff\x0fo"\x01a', "the value is cut short at byte 6"),
        (b"\xff\x0fw\x00", "the type 0x77 is not known at byte 2"),
        (b"\xff\x0fA\x02\\\x04", "a Headers cannot be read at byte 4"),
        (b"\xff\x0f00", "there is more behind the value at byte 3"),
        (b"\xff\x0f^\x05", "a reference leads nowhere at byte 2"),
    ):
        with pytest.raises(v8.V8FormatError) as caught:
            v8.deserialize(data)
        assert str(caught.value) == message


def test_older_versions() -> None:
    assert v8.deserialize(b"\xff\x0dI\x04").value == 2
    view = v8.deserialize(bytes.fromhex("ff0d4202010256420002")).value
    assert (view.kind, view.buffer.data, view.offset, view.length) == ("Uint8Array", b"\1\2", 0, 2)
    assert isinstance(v8.deserialize(bytes.fromhex("ff0e420201025642000200")).value, View)

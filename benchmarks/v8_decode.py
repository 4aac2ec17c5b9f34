"""Stored values read per second, against the PyPI package v8serialize and against json.loads of the same values."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable

import v8serialize

from benchmarks.runner import Result, measure
from durafetch import devalue, v8
from durafetch.values import projection

COUNT = 20_000


def string(text: str) -> bytes:
    return b'"' + bytes([len(text)]) + text.encode("latin-1")


def stored(fields: dict[str, object]) -> bytes:
    """An object as V8 stores it, of short strings, small integers, dates (float) and objects."""
    parts = b""
    for key, value in fields.items():
        parts += string(key)
        if isinstance(value, str):
            parts += string(value)
        elif isinstance(value, int):
            parts += b"I" + bytes([2 * value])
        elif isinstance(value, float):
            parts += b"D" + struct.pack("<d", value)
        elif isinstance(value, dict):
            parts += stored(value)[2:]
    return b"\xff\x0fo" + parts + b"{" + bytes([len(fields)])


PLAIN = stored({
    "email": "customer12@example.com", "plan": "pro", "quantity": 3, "city": "Lisbon",
    "address": {"zip": "1100", "street": "Rua Augusta 12"}, "note": "call before noon please",
})  # fmt: skip
DATED = stored({
    "email": "customer12@example.com", "plan": "pro", "opened": 1700000000123.0,
    "address": {"zip": "1100", "city": "Lisbon"}, "note": "call before noon please",
})  # fmt: skip


def per_second(work: Callable[[bytes], object], data: bytes, count: int) -> float:
    started = time.perf_counter()
    for _ in range(count):
        work(data)
    return count / (time.perf_counter() - started)


def to_row(data: bytes) -> str:
    """What the mirror does with a stored value."""
    text, typed = devalue.encode(v8.deserialize(data))
    return text if typed is None else projection(typed)


def run(runs: int) -> list[Result]:
    """v8_decode: the reader alone; v8_decode_row, v8_decode_dated: to the text that the mirror keeps."""
    results = []
    for name, work, data, what in (
        ("v8_decode", v8.deserialize, PLAIN, f"objects of {len(PLAIN)} B, read"),
        ("v8_decode_row", to_row, PLAIN, f"objects of {len(PLAIN)} B, to JSON text"),
        ("v8_decode_dated", to_row, DATED, f"objects of {len(DATED)} B with a Date, to devalue and its projection"),
    ):
        results.append(
            measure(
                name, lambda work=work, data=data: per_second(work, data, COUNT),  # type: ignore[misc]
                lambda data=data: per_second(v8serialize.loads, data, COUNT // 40),  # type: ignore[misc]
                unit="values/s", runs=runs, what=what, aim=">= 60 x PyPI v8serialize, >= 100,000/s",
            )
        )  # fmt: skip
    return results

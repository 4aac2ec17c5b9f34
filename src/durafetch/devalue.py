"""Writes a value read from V8's stored form as the server functions write it: JSON text, or npm `devalue`'s.

The same value must give the same text on both ways, character for character: see the rules V in PROTOCOL.md, and
https://github.com/sveltejs/devalue for the format.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Generator
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from durafetch.jsvalues import (
    HOLE,
    UNDEFINED,
    Array,
    ArrayBuffer,
    BigInt,
    Boxed,
    Date,
    JSError,
    Map,
    RegExp,
    Set,
    View,
)  # fmt: skip
from durafetch.v8 import Decoded
from durafetch.values import HOLE as HOLE_INDEX
from durafetch.values import INFINITY, NAN, NEGATIVE_INFINITY, NEGATIVE_ZERO, SPARSE
from durafetch.values import UNDEFINED as UNDEFINED_INDEX

_MAX_DATE_MS: Final = 8.64e15
_EXACT_FLOATS: Final = 2.0**53


def encode(decoded: Decoded) -> tuple[str, str | None]:
    """(JSON text, None) where JSON holds the value exactly, or ("", devalue text): as `decode_entries` gives them."""
    if not decoded.plain:
        return "", stringify(decoded.value)
    value = _with_js_numbers(decoded.value) if decoded.odd_numbers else decoded.value
    return msgspec.json.encode(value).decode(), None


def unreadable(reason: str, data: bytes) -> str:
    """devalue text for a value that could not be read; it keeps the stored bytes."""
    return _list([_list(['"V8"', "1"]), "[2,3]", _string(reason), _string(base64.b64encode(data).decode())])


def js_number(number: int | float) -> str:
    """A finite number as JavaScript's `String()` writes it (https://tc39.es/ecma262/#sec-numeric-types-number-tostring)."""
    if isinstance(number, int) and abs(number) <= _EXACT_FLOATS:
        return str(number)
    real = float(number)
    if real == 0:
        return "0"
    sign = "-" if real < 0 else ""
    mantissa, _, exponent = f"{abs(real)!r}".partition("e")
    whole, _, fraction = mantissa.partition(".")
    fraction = "" if fraction == "0" else fraction
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0") or "0"
    count = len(digits)
    if count <= point <= 21:
        return sign + digits + "0" * (point - count)
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    power = point - 1
    tail = f".{digits[1:]}" if count > 1 else ""
    return f"{sign}{digits[0]}{tail}e{'+' if power >= 0 else '-'}{abs(power)}"


def _with_js_numbers(root: Any) -> Any:
    """A copy of a plain value whose floats are written as JavaScript does."""
    holder: list[Any] = [root]
    tasks: list[tuple[Any, Any, Any]] = [(holder, 0, root)]
    while tasks:
        container, place, value = tasks.pop()
        if isinstance(value, float):
            container[place] = msgspec.Raw(js_number(value).encode())
        elif isinstance(value, dict):
            copy: Any = dict(value)
            container[place] = copy
            tasks.extend((copy, key, child) for key, child in value.items())
        elif isinstance(value, list):
            copy = list(value)
            container[place] = copy
            tasks.extend((copy, index, child) for index, child in enumerate(value))
    return holder[0]


_ESCAPED: Final = re.compile("[<\u2028\u2029\ud800-\udfff]")


def _string(text: str) -> str:
    """A string as devalue writes it: JSON, with `<`, the two line separators and lone surrogates escaped."""
    quoted = json.dumps(text, ensure_ascii=False)
    if _ESCAPED.search(quoted) is None:
        return quoted
    return _ESCAPED.sub(lambda m: "\\u003C" if m[0] == "<" else f"\\u{ord(m[0]):04x}", quoted)


def _list(parts: list[str]) -> str:
    return f"[{','.join(parts)}]"


Node = Generator[Any, int, str]
"""Yields the values that a node refers to, is sent the index of each, and returns the node's text."""


class _Pair(list[Any]):
    """A list made here, which no stored value is."""


def stringify(root: Any) -> str:
    """devalue text of a value that `v8.deserialize` read, with the reducers of `server/src/values.ts`."""
    out: list[str] = []
    indexes: dict[Any, int] = {}
    keep: list[Any] = []  # what is made on the way, so that no other object takes its id()

    def place(value: Any) -> tuple[int, Node | None]:
        """The index of a value, and what is left to do for it where it is new."""
        simple = _simple(value)
        if isinstance(simple, int):
            return simple, None
        key = id(value) if simple is None else simple
        if key in indexes:
            return indexes[key], None
        index = len(out)
        indexes[key] = index
        if simple is not None:
            out.append(simple)
            return index, None
        keep.append(value)
        out.append("")
        return index, _node(value)

    index, node = place(root)
    if index < 0:
        return str(index)
    stack: list[tuple[int, Node]] = []
    answer: int | None = None
    if node is not None:
        stack.append((index, node))
    while stack:
        index, node = stack[-1]
        try:
            child = next(node) if answer is None else node.send(answer)
        except StopIteration as done:
            out[index] = done.value
            stack.pop()
            answer = index if stack else None
            continue
        answer, node = place(child)
        if node is not None:
            stack.append((answer, node))
            answer = None
    return _list(out)


def _simple(value: Any) -> int | str | None:
    """The text of a value that has no parts, or the index of a special one; None for an object."""
    if value is None:
        return "null"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if value != value:
            return NAN
        if value in (float("inf"), float("-inf")):
            return INFINITY if value > 0 else NEGATIVE_INFINITY
        if value == 0 and str(value) == "-0.0":
            return NEGATIVE_ZERO
        return js_number(value)
    if isinstance(value, int):
        return js_number(value)
    if value is UNDEFINED:
        return UNDEFINED_INDEX
    if isinstance(value, BigInt):
        return f'["BigInt","{value.value}"]'
    return None


def _node(value: Any) -> Node:
    if isinstance(value, dict):
        return _entries(value) if "__proto__" in value else _object(value)
    if isinstance(value, Array):
        return _array(value) if value.properties is None else _array_with_properties(value)
    return _NODES[type(value)](value)


def _object(value: dict[str, Any]) -> Node:
    parts = []
    for key, child in value.items():
        index = yield child
        parts.append(f"{_string(key)}:{index}")
    return "{" + ",".join(parts) + "}"


def _entries(value: dict[str, Any]) -> Node:
    index = yield _Pair(_Pair(item) for item in value.items())
    return f'["Entries",{index}]'


def _pair(value: _Pair) -> Node:
    parts = []
    for child in value:
        index = yield child
        parts.append(str(index))
    return _list(parts)


def _array(value: Array) -> Node:
    length = value.length
    if value.places is None:
        places = {index: child for index, child in enumerate(value) if child is not HOLE}
    else:
        places = dict(sorted(value.places.items()))
    digits = len(str(length))
    parts: list[str] = []
    if (length - len(places)) * 3 > 4 + digits + len(places) * (digits + 1):
        parts += [str(SPARSE), str(length)]
        for index, child in places.items():
            at = yield child
            parts += [str(index), str(at)]
        return _list(parts)
    for index in range(length):
        if index in places:
            at = yield places[index]
            parts.append(str(at))
        else:
            parts.append(str(HOLE_INDEX))
    return _list(parts)


def _array_with_properties(value: Array) -> Node:
    bare = Array()
    bare.extend(value)
    bare.length, bare.places = value.length, value.places
    index = yield _Pair([bare, _Pair(_Pair(item) for item in value.properties or [])])
    return f'["Array",{index}]'


def _boxed(value: Boxed) -> Node:
    index = yield value.value
    return f'["Object",{index}]'


def _date(value: Date) -> Node:
    return f'["Date","{iso_date(value.ms)}"]'
    yield


def iso_date(ms: float) -> str:
    """What JavaScript's `toISOString()` gives, or "" for an invalid date.

    https://tc39.es/ecma262/#sec-date-time-string-format: years before 0 and after 9999 have a sign and six digits.
    """
    if not abs(ms) <= _MAX_DATE_MS:
        return ""
    whole = int(ms)
    days, rest = divmod(whole, 86_400_000)
    # The calendar repeats every 400 years, which are 146,097 days; datetime knows the years 1 to 9999.
    cycles, days = divmod(days, 146_097)
    moment = datetime.fromtimestamp(days * 86_400, UTC)
    year = moment.year + 400 * cycles
    text = f"{year:04d}" if 0 <= year <= 9999 else f"{'-' if year < 0 else '+'}{abs(year):06d}"
    hours, rest = divmod(rest, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{text}-{moment.month:02d}-{moment.day:02d}T{hours:02d}:{minutes:02d}:{rest // 1000:02d}.{rest % 1000:03d}Z"


def _regexp(value: RegExp) -> Node:
    parts = ['"RegExp"', _string(value.source or "(?:)")] + ([f'"{value.flags}"'] if value.flags else [])
    return _list(parts)
    yield


def _set(value: Set) -> Node:
    parts = ['"Set"']
    for child in value.items:
        index = yield child
        parts.append(str(index))
    return _list(parts)


def _map(value: Map) -> Node:
    parts = ['"Map"']
    for pair in value.pairs:
        for child in pair:
            index = yield child
            parts.append(str(index))
    return _list(parts)


def _buffer(value: ArrayBuffer) -> Node:
    return f'["ArrayBuffer","{base64.b64encode(value.data).decode()}"]'
    yield


def _view(value: View) -> Node:
    index = yield value.buffer
    part = f",{value.offset},{value.length // value.element_size}" if value.length != len(value.buffer.data) else ""
    return f'["{value.kind}",{index}{part}]'


def _error(value: JSError) -> Node:
    properties = _Pair(_Pair(item) for item in value.properties)
    index = yield {"name": value.name, "message": value.message, "stack": value.stack, "properties": properties}
    return f'["Error",{index}]'


_NODES: Final[dict[type, Callable[[Any], Node]]] = {
    Boxed: _boxed, Date: _date, RegExp: _regexp, Set: _set, Map: _map, ArrayBuffer: _buffer, View: _view,
    JSError: _error, _Pair: _pair,
}  # fmt: skip

"""What a stored value is on the wire, and its readable JSON projection.

A value that JSON holds exactly travels as JSON text. Any other travels as the text of npm's `devalue` (its format:
https://github.com/sveltejs/devalue), a JSON array in which every value stands at an index and refers to others by
theirs. The mirror keeps that text, and derives from it the projection that `docs/values.md` describes.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import struct
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

MAX_PROJECTED_DEPTH: Final = 500
"""Levels of nesting in a projection; SQLite's JSON functions refuse more than 1,000
(https://www.sqlite.org/json1.html, "JSON_MAX_DEPTH")."""
MAX_PROJECTED_NODES: Final = 1_000_000
"""Values in one projection. A value that shares its parts many times over can be far larger as a tree than it is
stored; past this many, "[...]" stands for a part."""

MAX_HOLES: Final = 10_000
"""A sparse array longer than this becomes an object of its elements by their index."""

UNDEFINED, HOLE, NAN, INFINITY, NEGATIVE_INFINITY, NEGATIVE_ZERO, SPARSE = -1, -2, -3, -4, -5, -6, -7

_SENTINELS: Final[dict[int, Any]] = {
    UNDEFINED: None,
    HOLE: None,
    NAN: "NaN",
    INFINITY: "Infinity",
    NEGATIVE_INFINITY: "-Infinity",
    NEGATIVE_ZERO: 0,
}
_ELLIPSIS: Final = "[...]"
_NUMBER_FORMATS: Final = {
    "Int8Array": "b", "Uint8Array": "B", "Uint8ClampedArray": "B", "Int16Array": "<h", "Uint16Array": "<H",
    "Float16Array": "<e", "Int32Array": "<i", "Uint32Array": "<I", "Float32Array": "<f", "Float64Array": "<d",
    "BigInt64Array": "<q", "BigUint64Array": "<Q",
}  # fmt: skip
_BYTES: Final = {"ArrayBuffer", "DataView", "Uint8Array", "Uint8ClampedArray", "Int8Array"}


class ValueFormatError(ValueError):
    """A text is not devalue's format."""


def projection(devalue: str) -> str:
    """The readable JSON text of a value that travelled as devalue text.

    Takes devalue text; returns JSON text that SQLite's JSON functions accept. Raises ValueFormatError where the text
    is not devalue's.
    """
    try:
        # The standard module: msgspec refuses the lone surrogates that JavaScript's strings may have.
        nodes = json.loads(devalue)
    except (ValueError, RecursionError) as error:
        raise ValueFormatError(f"not devalue text: {error}") from None
    if isinstance(nodes, int) and not isinstance(nodes, bool) and nodes in _SENTINELS:
        return _dumps(_SENTINELS[nodes])
    if not isinstance(nodes, list) or not nodes:
        raise ValueFormatError("devalue text has to be a list of values, or the number of a special one")
    try:
        return _dumps(_Projector(nodes).project())
    except (KeyError, IndexError, TypeError, ValueError, struct.error, OverflowError) as error:
        if isinstance(error, ValueFormatError):
            raise
        raise ValueFormatError(f"not devalue text: {type(error).__name__}: {error}") from None


def _dumps(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _clean(text: str) -> str:
    """A string that UTF-8 holds: lone surrogates become U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


Put = Callable[[Any], None]


class _Projector:
    """Walks the nodes without recursion, since a stored value may be nested deeper than Python's stack."""

    def __init__(self, nodes: list[Any]) -> None:
        self.nodes = nodes
        self.count = 0

    def project(self) -> Any:
        result: list[Any] = [None]

        def put_result(value: Any) -> None:
            result[0] = value

        # Each task: an index, where to put its projection, its depth; or the end of an open container.
        open_nodes: set[int] = set()
        tasks: list[tuple[int, Put | None, int]] = [(0, put_result, 0)]
        while tasks:
            index, put, depth = tasks.pop()
            if put is None:
                open_nodes.discard(index)
                continue
            if not isinstance(index, int) or isinstance(index, bool):
                raise ValueFormatError(f"{index!r} stands where an index has to")
            if index < 0:
                if index not in _SENTINELS:
                    raise ValueFormatError(f"there is no special value {index}")
                put(_SENTINELS[index])
                continue
            self.count += 1
            node = self.nodes[index]
            if not isinstance(node, list | dict):
                put(_clean(node) if isinstance(node, str) else node)
                continue
            if index in open_nodes or depth >= MAX_PROJECTED_DEPTH or self.count > MAX_PROJECTED_NODES:
                put(_ELLIPSIS)
                continue
            children = list(self._expand(node, put))
            if children:
                open_nodes.add(index)
                tasks.append((index, None, depth))
                tasks.extend((child, child_put, depth + 1) for child, child_put in reversed(children))
        return result[0]

    def _expand(self, node: list[Any] | dict[str, Any], put: Put) -> Iterator[tuple[int, Put]]:
        """Puts a node's own projection; yields what is in it, with the place where each part belongs."""
        if isinstance(node, dict):
            yield from self._object(node.items(), put)
        elif not node:
            put([])
        elif isinstance(node[0], str):
            yield from self._typed(node[0], node[1:], put)
        elif node[0] == SPARSE:
            length = node[1]
            if not isinstance(length, int) or not 0 <= length < 2**32:
                raise ValueFormatError("a sparse array without a length")
            places = list(zip(node[2::2], node[3::2], strict=True))
            if length <= MAX_HOLES:
                made = [HOLE] * length
                for place, child in places:
                    made[place] = child
                yield from self._array(made, put)
            else:
                # Writing out four thousand million nulls would help nobody.
                yield from self._object([(str(place), child) for place, child in places], put)
        else:
            yield from self._array(node, put)

    @staticmethod
    def _object(items: Any, put: Put) -> Iterator[tuple[int, Put]]:
        made: dict[str, Any] = {}
        put(made)
        for key, child in items:
            clean = _clean(key)
            made[clean] = None
            yield child, _setter(made, clean)

    @staticmethod
    def _array(indexes: list[Any], put: Put) -> Iterator[tuple[int, Put]]:
        made: list[Any] = [None] * len(indexes)
        put(made)
        for place, child in enumerate(indexes):
            yield child, _setter(made, place)

    def _typed(self, tag: str, rest: list[Any], put: Put) -> Iterator[tuple[int, Put]]:
        if tag == "Date":
            put(rest[0] or None)
        elif tag == "BigInt":
            number = int(rest[0])
            put(number if -(2**63) <= number < 2**63 else str(number))
        elif tag == "Object":
            yield rest[0], put
        elif tag == "RegExp":
            put(f"/{_clean(rest[0])}/{rest[1] if len(rest) > 1 else ''}")
        elif tag == "Set":
            yield from self._array(rest, put)
        elif tag == "Map":
            yield from self._map(rest, put)
        elif tag == "null":
            yield from self._object(list(zip(rest[::2], rest[1::2], strict=True)), put)
        elif tag in _NUMBER_FORMATS or tag in _BYTES:
            put(self._view(tag, rest))
        elif tag in ("URL", "URLSearchParams") or tag.startswith("Temporal."):
            put(_clean(rest[0]))
        elif tag == "Error":
            fields = self.nodes[rest[0]]
            yield from self._object([(k, fields[k]) for k in ("name", "message") if k in fields], put)
        elif tag == "Array":
            yield self.nodes[rest[0]][0], put
        elif tag == "Entries":
            pairs = [self.nodes[pair] for pair in self.nodes[rest[0]]]
            yield from self._object([(self.nodes[key], value) for key, value in pairs], put)
        elif tag == "V8":
            put(f"[{_clean(self.nodes[self.nodes[rest[0]][0]])}]")
        elif tag == "Unsupported":
            put(f"[{self.nodes[rest[0]]}]")
        else:
            raise ValueFormatError(f"there is no type {tag!r}")

    def _map(self, rest: list[Any], put: Put) -> Iterator[tuple[int, Put]]:
        """An object where all keys are strings; else a list of pairs."""
        pairs = list(zip(rest[::2], rest[1::2], strict=True))
        keys = [self.nodes[key] if key >= 0 else None for key, _ in pairs]
        if all(isinstance(key, str) for key in keys):
            yield from self._object(list(zip(keys, (value for _, value in pairs), strict=True)), put)
            return
        made: list[list[Any]] = [[None, None] for _ in pairs]
        put(made)
        for pair, (key, value) in zip(made, pairs, strict=True):
            yield key, _setter(pair, 0)
            yield value, _setter(pair, 1)

    def _view(self, tag: str, rest: list[Any]) -> Any:
        """Bytes as base64 text, other typed arrays as lists of numbers."""
        if tag == "ArrayBuffer":
            return _base64(self._bytes(rest[0]))
        data = self._bytes(self.nodes[rest[0]][1])
        form = _NUMBER_FORMATS.get(tag)
        size = struct.calcsize(form) if form else 1
        if len(rest) > 1:
            offset, length = rest[1], rest[2]
            data = data[offset : offset + length * size]
        if tag in _BYTES or form is None:
            return _base64(data)
        return [_number(n) for (n,) in struct.iter_unpack(form, data)]

    @staticmethod
    def _bytes(text: str) -> bytes:
        try:
            return base64.b64decode(text)
        except (binascii.Error, ValueError):
            raise ValueFormatError("bytes that are not base64") from None


def _setter(container: Any, key: Any) -> Put:
    def put(value: Any) -> None:
        container[key] = value

    return put


def _number(n: int | float) -> int | float | str:
    if isinstance(n, float):
        if math.isnan(n):
            return "NaN"
        if math.isinf(n):
            return "Infinity" if n > 0 else "-Infinity"
    elif not -(2**63) <= n < 2**63:
        return str(n)
    return n


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()

"""The values that JavaScript has and Python lacks, as `v8.deserialize` gives them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

ELEMENT_SIZES: Final = {
    "Int8Array": 1, "Uint8Array": 1, "Uint8ClampedArray": 1, "DataView": 1, "Int16Array": 2, "Uint16Array": 2,
    "Float16Array": 2, "Int32Array": 4, "Uint32Array": 4, "Float32Array": 4, "Float64Array": 8, "BigInt64Array": 8,
    "BigUint64Array": 8,
}  # fmt: skip
"""Bytes per element of each class of views."""


class Special:
    """`undefined`, or a hole in an array."""

    def __init__(self, name: str) -> None:
        """`name` is for debugging."""
        self._name = name

    def __repr__(self) -> str:
        return self._name


UNDEFINED: Final = Special("undefined")
HOLE: Final = Special("hole")


class Array(list[Any]):
    """An array. `places`: a sparse one's elements by index, `length` its length; `properties`: named ones besides."""

    __slots__ = ("length", "places", "properties")

    def __init__(self) -> None:
        """Empty."""
        super().__init__()
        self.length = 0
        self.places: dict[int, Any] | None = None
        self.properties: list[tuple[str, Any]] | None = None


@dataclass(slots=True, eq=False)
class BigInt:
    """A BigInt."""

    value: int


@dataclass(slots=True, eq=False)
class Date:
    """A Date, in ms since 1970; NaN where it is invalid."""

    ms: float


@dataclass(slots=True, eq=False)
class RegExp:
    """A RegExp."""

    source: str
    flags: str


@dataclass(slots=True, eq=False)
class Boxed:
    """`Object(5)` and the like."""

    value: Any


@dataclass(slots=True, eq=False)
class Map:
    """A Map: [key, value] pairs."""

    pairs: list[tuple[Any, Any]] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Set:
    """A Set."""

    items: list[Any] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class ArrayBuffer:
    """An ArrayBuffer."""

    data: bytes


@dataclass(slots=True, eq=False)
class View:
    """A typed array or a DataView: `kind` is its class, `length` is in bytes."""

    kind: str
    buffer: ArrayBuffer
    offset: int
    length: int

    @property
    def element_size(self) -> int:
        """Bytes per element."""
        return ELEMENT_SIZES[self.kind]


@dataclass(slots=True, eq=False)
class JSError:
    """An Error. `properties` are its own ones but for name, message and stack: `cause`, and what the app added."""

    name: str
    message: Any = ""
    stack: Any = UNDEFINED
    properties: list[tuple[str, Any]] = field(default_factory=list)

"""Reads V8's structured-clone format, in which workerd stores the entries of a Durable Object.

The format is V8's own (versions 13 to 15; its reference is `src/objects/value-serializer.cc`,
https://chromium.googlesource.com/v8/v8/+/main/src/objects/value-serializer.cc). workerd adds "host objects" of its own,
of which errors are read here. The reader is one loop without recursion: a stored value may be nested deeper than any
stack, and a file may hold anything.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Final

from durafetch.jsvalues import (
    ELEMENT_SIZES,
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
from durafetch.limits import MAX_DEPTH

MIN_VERSION: Final = 13
MAX_VERSION: Final = 15


class V8FormatError(ValueError):
    """Bytes are not what this reader knows; `offset` is where in the value."""

    def __init__(self, what: str, offset: int) -> None:
        """`what` is said to a person."""
        super().__init__(f"{what} at byte {offset}")
        self.offset = offset


@dataclass(slots=True)
class Decoded:
    """A value; `plain`: JSON holds it exactly, and it is made of None, bool, int, float, str, list and dict alone.

    `odd_numbers`: it has numbers that JavaScript writes otherwise than other writers of JSON.
    """

    value: Any
    plain: bool
    odd_numbers: bool


_REGEXP_FLAGS: Final = (
    (128, "d"), (1, "g"), (2, "i"), (64, "l"), (4, "m"), (32, "s"), (16, "u"), (256, "v"), (8, "y"),
)  # fmt: skip
_VIEWS: Final = {
    ord("b"): "Int8Array", ord("B"): "Uint8Array", ord("C"): "Uint8ClampedArray", ord("w"): "Int16Array",
    ord("W"): "Uint16Array", ord("d"): "Int32Array", ord("D"): "Uint32Array", ord("h"): "Float16Array",
    ord("f"): "Float32Array", ord("F"): "Float64Array", ord("q"): "BigInt64Array", ord("Q"): "BigUint64Array",
    ord("?"): "DataView",
}  # fmt: skip
_V8_ERRORS: Final = {
    ord("E"): "EvalError", ord("R"): "RangeError", ord("F"): "ReferenceError", ord("S"): "SyntaxError",
    ord("T"): "TypeError", ord("U"): "URIError",
}  # fmt: skip

# workerd's tags for host objects: https://github.com/cloudflare/workerd/blob/main/src/workerd/io/worker-interface.capnp
_HOST_NAMES: Final = {4: "Headers", 5: "Request", 6: "Response", 15: "Blob"}
_HOST_DOM_EXCEPTION: Final = 8
_HOST_ERROR: Final = 10
_HOST_ERRORS: Final = {
    1: "Error", 2: "TypeError", 3: "RangeError", 4: "ReferenceError", 5: "SyntaxError", 10: "EvalError",
    11: "URIError", 12: "AggregateError",
}  # fmt: skip
_DOM_CODES: Final = {
    "IndexSizeError": 1, "HierarchyRequestError": 3, "WrongDocumentError": 4, "InvalidCharacterError": 5,
    "NoModificationAllowedError": 7, "NotFoundError": 8, "NotSupportedError": 9, "InUseAttributeError": 10,
    "InvalidStateError": 11, "SyntaxError": 12, "InvalidModificationError": 13, "NamespaceError": 14,
    "InvalidAccessError": 15, "TypeMismatchError": 17, "SecurityError": 18, "NetworkError": 19, "AbortError": 20,
    "URLMismatchError": 21, "QuotaExceededError": 22, "TimeoutError": 23, "InvalidNodeTypeError": 24,
    "DataCloneError": 25,
}  # fmt: skip
"""https://webidl.spec.whatwg.org/#dfn-error-names-table"""

_double: Final = struct.Struct("<d").unpack_from
_SMALLEST_USUAL: Final = 1e-5
"""Between this and 2^53, JavaScript writes a number that is no integer as other writers of JSON do."""
_LARGEST_EXACT: Final = 2.0**53

# The container that is open. In those from _PROPERTIES on, something comes before each value, or may end them there.
_ROOT, _OBJECT, _DENSE, _MESSAGE, _PROPERTIES, _SPARSE, _MAP, _SET, _V8_ERROR, _HOST_PROPERTIES = range(10)


def deserialize(data: bytes) -> Decoded:
    """The value that `data` holds, header included. Raises V8FormatError, and nothing else, whatever the bytes."""
    return _Reader(data).read()


class _Reader:
    __slots__ = ("data", "objects", "odd_numbers", "plain", "pos", "version")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.pos = 0
        self.version = MAX_VERSION
        self.plain = True
        self.odd_numbers = False
        self.objects: list[Any] = []

    def read(self) -> Decoded:
        data = self.data
        if len(data) < 2 or data[0] != 0xFF:
            raise V8FormatError("there is no header", 0)
        self.version = data[1]
        if not MIN_VERSION <= self.version <= MAX_VERSION:
            raise V8FormatError(f"version {self.version} is not one of {MIN_VERSION} to {MAX_VERSION}", 1)
        self.pos = 2
        try:
            value = self._value()
        except (IndexError, struct.error):
            raise V8FormatError("the value is cut short", len(data)) from None
        if self.pos != len(data):
            raise V8FormatError("there is more behind the value", self.pos)
        return Decoded(value, self.plain, self.odd_numbers)

    def _value(self) -> Any:
        """The loop: each turn reads one value, or ends a container, and puts it where it belongs.

        What is frequent is read here, with the position in a local variable: a call costs as much as a string.
        """
        data, objects = self.data, self.objects
        pos, size = self.pos, len(self.data)
        stack: list[tuple[int, Any, Any]] = []
        mode: int = _ROOT
        current: Any = None
        key: Any = None
        value: Any
        while True:
            tag = data[pos]
            pos += 1
            if mode == _OBJECT:
                if tag == 0x22 and data[pos] < 0x80:
                    end = pos + 1 + data[pos]
                    if end >= size:
                        raise IndexError
                    key = str(data[pos + 1 : end], "latin-1")
                    if key == "__proto__":
                        self.plain = False
                    tag = data[end]
                    pos = end + 1
                elif tag == 0x7B:  # its end
                    self.pos = pos
                    if self._varint() < len(current):
                        raise V8FormatError("an object has more properties than it says", pos)
                    pos = self.pos
                    tag = -1
                elif tag == 0:
                    continue
                else:
                    self.pos = pos
                    key = self._name(self._key(tag))
                    pos = self.pos
                    tag = data[pos]
                    pos += 1
            else:
                if mode == _DENSE and len(current) == current.length:
                    mode = _PROPERTIES
                if mode >= _PROPERTIES and not (mode == _MAP and key is not None):
                    self.pos = pos
                    ended, key = self._next(mode, tag, current)
                    pos = self.pos
                    if ended:
                        tag = -1
                    else:
                        tag = data[pos]
                        pos += 1
            start = pos - 1
            if tag == 0x22:  # a string of one byte a character
                length = data[pos]
                pos += 1
                if length >= 0x80:
                    self.pos = pos - 1
                    length = self._varint()
                    pos = self.pos
                end = pos + length
                if end > size:
                    raise V8FormatError("a string is cut short", start)
                value = str(data[pos:end], "latin-1")
                pos = end
            elif tag == 0x49:  # an integer of 32 bits
                number = data[pos]
                pos += 1
                if number >= 0x80:
                    self.pos = pos - 1
                    number = self._uint32()
                    pos = self.pos
                value = (number >> 1) ^ -(number & 1)
            elif tag == 0x4E:  # any other number
                (value,) = _double(data, pos)
                pos += 8
                if not _SMALLEST_USUAL <= abs(value) <= _LARGEST_EXACT:
                    self.plain = self.plain and value - value == 0.0 and str(value) != "-0.0"
                    self.odd_numbers = True
                elif value == int(value):
                    value = int(value)
            elif tag in (0x6F, 0x41, 0x61):  # an object, a dense array, a sparse array
                stack.append((mode, current, key))
                if len(stack) > MAX_DEPTH:
                    self.plain = False
                key = None
                if tag == 0x6F:
                    mode, current = _OBJECT, {}
                else:
                    self.pos = pos
                    mode, current = self._array(tag)
                    pos = self.pos
                objects.append(current)
                continue
            elif tag == 0x54:
                value = True
            elif tag == 0x46:
                value = False
            elif tag == 0x30:
                value = None
            elif tag == -1:  # the container's end: it is a value itself
                value = current
                mode, current, key = stack.pop()
            elif tag == 0x3B or tag == 0x27 or tag == 0x72:  # a Map, a Set, an error as V8 writes it
                self.plain = False
                stack.append((mode, current, key))
                key = None
                if tag == 0x72:
                    mode, current = _V8_ERROR, JSError("Error")
                else:
                    mode, current = (_MAP, Map()) if tag == 0x3B else (_SET, Set())
                objects.append(current)
                continue
            elif tag == 0x2D and mode == _DENSE:
                self.plain = False
                value = HOLE
            else:
                while tag == 0:  # padding, which aligns a string of two bytes a character
                    tag = data[pos]
                    pos += 1
                self.pos = pos
                self.plain = self.plain and tag in (0x63, 0x55, 0x53)
                if tag == 0x5C:
                    value = self._host(start)
                    if type(value) is JSError and value.message is HOLE:
                        pos = self.pos
                        stack.append((mode, current, key))
                        mode, current, key = _MESSAGE, value, None
                        continue
                else:
                    value = self._other(tag, start)
                if type(value) is ArrayBuffer:
                    value = self._maybe_view(value)
                pos = self.pos
            if mode == _OBJECT:
                current[key] = value
            elif mode == _DENSE:
                current.append(value)
            elif mode == _ROOT:
                self.pos = pos
                return value
            elif mode == _MAP:
                if key is None:
                    key = (value,)
                else:
                    current.pairs.append((key[0], value))
                    key = None
            elif mode == _MESSAGE:
                current.message = value
                # Its properties are in an object of their own, which counts as one.
                if data[pos] != 0x6F:
                    raise V8FormatError("an error has no properties", pos)
                pos += 1
                objects.append(None)
                mode = _HOST_PROPERTIES
            else:
                self._put(mode, current, key, value, start)

    def _next(self, mode: int, tag: int, current: Any) -> tuple[bool, Any]:
        """What comes in a container whose next byte is `tag`: its end, or else a value for the key that is returned."""
        while tag == 0:
            tag = self.data[self.pos]
            self.pos += 1
        start = self.pos - 1
        if mode in (_PROPERTIES, _SPARSE):
            if tag != (0x24 if mode == _PROPERTIES else 0x40):
                return False, self._key(tag)
            self._varint()
            if self._varint() != current.length:
                raise V8FormatError("an array has another length than it says", start)
            self._end_array(current)
        elif mode in (_MAP, _SET):
            if tag != (0x3A if mode == _MAP else 0x2C):
                self.pos -= 1
                return False, None
            count = len(current.pairs) * 2 if mode == _MAP else len(current.items)
            if self._varint() != count:
                raise V8FormatError("a Map or Set has another size than it says", start)
        elif mode == _HOST_PROPERTIES:
            if tag != 0x7B:
                return False, self._name(self._key(tag))
            self._varint()
        else:
            if tag in _V8_ERRORS:
                current.name = _V8_ERRORS[tag]
                return self._next(mode, self._byte(), current) if current.message == "" else (False, None)
            if tag != 0x2E:
                if tag not in (0x6D, 0x73, 0x63):
                    raise V8FormatError(f"an error has a part {tag:#04x} that is not known", start)
                return False, {0x6D: "message", 0x73: "stack", 0x63: "cause"}[tag]
        return True, None

    def _put(self, mode: int, current: Any, key: Any, value: Any, start: int) -> None:
        """Puts a value into one of the rarer containers."""
        if mode == _SET:
            current.items.append(value)
        elif mode == _SPARSE and isinstance(key, int):
            if not 0 <= key < current.length:
                raise V8FormatError("an element stands outside of its array", start)
            current.places[key] = value
        elif mode == _PROPERTIES and isinstance(key, int) and 0 <= key < current.length:
            current[key] = value
        elif mode in (_SPARSE, _PROPERTIES):
            self.plain = False
            if current.properties is None:
                current.properties = []
            current.properties.append((self._name(key), value))
        elif key == "stack":
            current.stack = value
        elif key == "message":
            current.message = value
        else:
            current.properties.append((key, value))

    def _array(self, tag: int) -> tuple[int, Array]:
        start = self.pos - 1
        array = Array()
        array.length = self._varint()
        if tag == 0x41:
            if array.length > len(self.data) - self.pos:
                raise V8FormatError("an array is longer than what there is", start)
            return _DENSE, array
        if array.length >= 2**32:
            raise V8FormatError("an array is too long", start)
        array.places = {}
        return _SPARSE, array

    def _end_array(self, array: Array) -> None:
        if array.places is None:
            return
        if len(array.places) == array.length:
            # No hole after all, so nobody can tell it from a dense one.
            array.extend(array.places[index] for index in range(array.length))
            array.places = None
        else:
            self.plain = False

    def _byte(self) -> int:
        byte = self.data[self.pos]
        self.pos += 1
        return byte

    def _varint(self) -> int:
        result = shift = 0
        while True:
            byte = self._byte()
            result |= (byte & 0x7F) << shift
            if byte < 0x80:
                return result
            shift += 7
            if shift > 63:
                raise V8FormatError("a number is too long", self.pos - 1)

    def _uint32(self) -> int:
        number = self._varint()
        if number >= 2**32:
            raise V8FormatError("a number has more than 32 bits", self.pos - 1)
        return number

    def _take(self, length: int) -> bytes:
        end = self.pos + length
        if end > len(self.data):
            raise V8FormatError("the value is cut short", self.pos)
        taken = self.data[self.pos : end]
        self.pos = end
        return taken

    def _string(self, tag: int) -> str:
        """A string whose tag was read."""
        while tag == 0:
            tag = self._byte()
        start = self.pos - 1
        if tag == 0x22:
            return str(self._take(self._varint()), "latin-1")
        if tag == 0x63:
            raw = self._take(self._varint())
            if len(raw) % 2:
                raise V8FormatError("a string ends within a character", start)
            try:
                return str(raw, "utf-16-le")
            except UnicodeDecodeError:
                self.plain = False
                return str(raw, "utf-16-le", "surrogatepass")
        if tag == 0x53:
            return str(self._take(self._varint()), "utf-8", "replace")
        raise V8FormatError(f"{tag:#04x} stands where a string has to", start)

    def _key(self, tag: int) -> str | int:
        while tag == 0:
            tag = self._byte()
        if tag == 0x49:
            number = self._uint32()
            return (number >> 1) ^ -(number & 1)
        if tag == 0x55:
            return self._uint32()
        if tag == 0x4E:
            start = self.pos - 1
            (real,) = _double(self.data, self.pos)
            self.pos += 8
            if not 0 <= real < 2**53 or real != int(real):
                raise V8FormatError("a key is a number that is no index", start)
            return int(real)
        return self._string(tag)

    def _name(self, key: str | int) -> str:
        if key == "__proto__":
            self.plain = False
        return str(key)

    def _bigint(self) -> int:
        bits = self._varint()
        number = int.from_bytes(self._take(bits >> 1), "little")
        return -number if bits & 1 else number

    def _other(self, tag: int, start: int) -> Any:
        """The rarer values."""
        if tag == 0x63 or tag == 0x53:
            return self._string(tag)
        if tag == 0x55:
            return self._uint32()
        if tag == 0x5F:
            return UNDEFINED
        if tag == 0x5A:
            return BigInt(self._bigint())
        if tag == 0x5E:
            index = self._varint()
            if index >= len(self.objects) or self.objects[index] is None:
                raise V8FormatError("a reference leads nowhere", start)
            return self.objects[index]
        value: Any
        if tag == 0x44:
            (ms,) = _double(self.data, self.pos)
            self.pos += 8
            value = Date(ms)
        elif tag == 0x42 or tag == 0x7E:
            length = self._varint()
            if tag == 0x7E:
                self._varint()  # how far it may grow
            value = ArrayBuffer(self._take(length))
        elif tag == 0x52:
            source = self._string(self._byte())
            bits = self._varint()
            value = RegExp(source, "".join(letter for bit, letter in _REGEXP_FLAGS if bits & bit))
        elif tag == 0x79 or tag == 0x78:
            value = Boxed(tag == 0x79)
        elif tag == 0x6E:
            (number,) = _double(self.data, self.pos)
            self.pos += 8
            value = Boxed(number)
        elif tag == 0x7A:
            value = Boxed(BigInt(self._bigint()))
        elif tag == 0x73:
            value = Boxed(self._string(self._byte()))
        else:
            raise V8FormatError(f"the type {tag:#04x} is not known", start)
        self.objects.append(value)
        return value

    def _maybe_view(self, buffer: ArrayBuffer) -> ArrayBuffer | View:
        """The buffer just read, or the view of it that follows and takes its place."""
        data, pos = self.data, self.pos
        while data[pos : pos + 1] == b"\0":
            pos += 1
        if data[pos : pos + 1] != b"V":
            return buffer
        self.pos = pos + 1
        kind = _VIEWS.get(self._byte())
        if kind is None:
            raise V8FormatError("a view is of a type that is not known", pos)
        offset, length = self._varint(), self._varint()
        if self.version >= 14 and self._varint() & 1:
            # It follows the length of its buffer.
            length = max(0, len(buffer.data) - offset)
            length -= length % ELEMENT_SIZES[kind]
        size = ELEMENT_SIZES[kind]
        if offset + length > len(buffer.data) or offset % size or length % size:
            raise V8FormatError("a view does not fit its buffer", pos)
        view = View(kind, buffer, offset, length)
        self.objects.append(view)
        return view

    def _host(self, start: int) -> JSError:
        """An object that workerd writes itself. A `message` of HOLE: it follows, and then the properties."""
        tag = self._varint()
        if tag == _HOST_ERROR:
            kind = self._varint()
            name = self._string(self._byte()) if kind == 0 else _HOST_ERRORS.get(kind)
            if name is None:
                raise V8FormatError(f"the type {kind} of an error is not known", start)
            value = JSError(name, HOLE)
        elif tag == _HOST_DOM_EXCEPTION:
            name, message, stack = (str(self._take(self._varint()), "utf-8", "replace") for _ in range(3))
            value = JSError(name, message, stack, [("code", _DOM_CODES.get(name, 0))])
        else:
            raise V8FormatError(f"a {_HOST_NAMES.get(tag, f'host object of type {tag}')} cannot be read", start)
        self.objects.append(value)
        return value

"""Reads JSON with comments, and adds to it without touching what is there."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|//[^\n]*|/\*.*?\*/|[{}\[\],:]|[^\s{}\[\],:"/]+|\s+|.', re.DOTALL)


@dataclass(frozen=True)
class _Place:
    """Where a container ends in the text, and whether something stands in it (and a comma behind that)."""

    close: int
    last_end: int
    empty: bool
    trailing_comma: bool


def loads(text: str) -> Any:
    """The value of a JSON text with comments and trailing commas. Raises ValueError where it is not one."""
    parts = []
    for match in _TOKEN.finditer(text.removeprefix("\ufeff")):
        token = match[0]
        parts.append(" " if token.startswith(("//", "/*")) else token)
    joined = "".join(parts)
    # A comma before a closing bracket, outside of strings.
    clean = re.sub(r'("(?:[^"\\]|\\.)*")|,(?=\s*[}\]])', lambda match: match[1] or "", joined)
    return json.loads(clean)


def add(text: str, path: list[str], key: str | None, value: Any) -> str:
    """The text with `value` added at the end of the container at `path`: under `key` in an object, else to an array.

    Containers on the path have to exist. Everything else keeps its place and form. Raises KeyError, ValueError.
    """
    place = _find(text, path)
    indent = _indent(text)
    depth = len(path) + 1
    multiline = "\n" in text[: place.close].rsplit("{" if key is not None else "[", 1)[-1] or place.empty
    new = json.dumps(value, ensure_ascii=False)
    if key is not None:
        shown = json.dumps(value, indent=indent, ensure_ascii=False) if isinstance(value, list) else new
        new = f"{json.dumps(key)}: " + shown.replace("\n", "\n" + indent * depth)
    comma = "" if place.empty or place.trailing_comma else ","
    before, after = text[: place.last_end] + comma, text[place.last_end : place.close]
    if place.trailing_comma:
        before, after = text[: place.close].rstrip(), ""
    if multiline:
        tail = after.rstrip()
        return f"{before}{tail}\n{indent * depth}{new}\n{indent * (depth - 1)}{text[place.close :]}"
    return f"{before}{after.rstrip()} {new}{' ' if text[place.close - 1] == ' ' else ''}{text[place.close :]}"


def _indent(text: str) -> str:
    match = re.search(r"\n([ \t]+)\S", text)
    return match[1] if match else "  "


def _find(text: str, path: list[str]) -> _Place:
    """The container at a path of object keys; an empty path is the root."""
    stack: list[str | None] = []
    opened: list[tuple[list[str | None], str]] = []
    key: str | None = None
    pending: str | None = None
    last_end: list[int] = []
    count: list[int] = []
    comma: list[bool] = []
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token.isspace() or token.startswith(("//", "/*")) or token == "\ufeff":
            continue
        if token in "{[":
            opened.append((list(stack), token))
            stack.append(key)
            key = pending = None
            last_end.append(match.end())
            count.append(0)
            comma.append(False)
        elif token in "}]":
            if not opened:
                raise ValueError("the brackets do not match")
            opened.pop()
            if stack[1:] == path:
                return _Place(match.start(), last_end[-1], count[-1] == 0, comma[-1])
            stack.pop()
            last_end.pop()
            count.pop()
            comma.pop()
            if last_end:
                last_end[-1], count[-1], comma[-1] = match.end(), count[-1] + 1, False
            key = None
        elif token == ":":
            key = pending
        elif token == ",":
            if comma:
                comma[-1] = True
            key = None
        else:
            pending = json.loads(token) if token.startswith('"') else None
            if last_end:
                last_end[-1], count[-1], comma[-1] = match.end(), count[-1] + 1, False
    raise KeyError("/".join(path))

"""How changes are shown to a person, and as JSON lines: `durafetch dev`, `watch` and `log` print by the same code."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from itertools import groupby
from typing import Any, Final

import click

from durafetch.cli.output import safe
from durafetch.mirror import Change

SHOWN_LINES: Final = 40
"""Lines of one object's changes at one moment; the rest is counted."""
_PLAIN_WIDTH: Final = 160
"""Where the output is no terminal."""
_MIN_KIND: Final = 8
_BARE: Final = re.compile(r"[A-Za-z_][\w.@:/+-]*")
_MOMENT_COLUMN: Final = re.compile(
    r"(?:^|_)(?:at|time|timestamp|until|expires|created|updated)$|[a-z](?:At|Time|Until)$"
)
_MARKS: Final = {"insert": ("+", "green"), "delete": ("-", "red"), "update": ("~", "yellow")}

Written = Callable[[str, str], int | None]


@dataclass
class Style:
    """Whether colours are used, and how wide a line may be."""

    colour: bool
    width: int

    @classmethod
    def of_stdout(cls) -> Style:
        """As stdout takes it: see https://no-color.org."""
        terminal = sys.stdout.isatty()
        width = shutil.get_terminal_size((_PLAIN_WIDTH, 24)).columns if terminal or "COLUMNS" in os.environ else 0
        return cls(terminal and not os.environ.get("NO_COLOR"), width or _PLAIN_WIDTH)

    def paint(self, text: str, **styles: Any) -> str:
        """A text in colour."""
        return click.style(text, **styles) if self.colour else text


@dataclass(frozen=True)
class Filter:
    """Shows only what has a text in its class, its object's name or id, its table or its key; `*` is anything."""

    text: str = ""

    def matches(self, change: Change) -> bool:
        """Whether a change is shown."""
        if not self.text:
            return True
        wanted = self.text.lower()
        wanted = wanted if "*" in wanted else f"*{wanted}*"
        fields = (change.class_name, change.name, change.id, change.table_name, change.kind, change.key)
        return any(field is not None and fnmatchcase(str(field).lower(), wanted) for field in fields)


def json_line(change: Change) -> str:
    """One change as a line of JSON."""
    row = {
        "change_id": change.change_id or None, "at": change.at, "worker": change.worker_name, "class": change.class_name,
        "id": change.id, "name": change.name, "kind": change.kind, "table": change.table_name,
        "key": key_value(change.key), "operation": change.operation, "before": _parsed(change.before),
        "after": _parsed(change.after),
    }  # fmt: skip
    return json.dumps(row, ensure_ascii=False)


def key_value(key: Any) -> Any:
    """A change's key as JSON takes it."""
    return {"hex": key.hex().upper()} if isinstance(key, bytes) else key


def _parsed(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def show_changes(
    changes: Iterable[Change],
    style: Style,
    *,
    date: bool = False,
    written: Written | None = None,
    all_lines: bool = False,
) -> Iterator[str]:
    """Changes as lines for people, grouped by moment and object.

    `date`: with the day. `written` tells when an object's state was written (ns since 1970), where that is known.
    """
    for (at, _), group in groupby(changes, key=lambda change: (change.at, change.do_id)):
        items = list(group)
        yield from _group(at, items, style, date, written, None if all_lines else SHOWN_LINES)


def print_changes(changes: Iterable[Change], as_json: bool, **options: Any) -> bool:
    """Changes to stdout, as JSON lines or for people; `options` are those of `show_changes`. Returns whether any were."""
    lines = map(json_line, changes) if as_json else show_changes(changes, Style.of_stdout(), **options)
    line = None
    for line in lines:
        click.echo(line)
    sys.stdout.flush()
    return line is not None


def _group(
    at: str, items: list[Change], style: Style, date: bool, written: Written | None, limit: int | None
) -> Iterator[str]:
    first = items[0]
    moment = _moment(at)
    state = next((c.operation for c in items if c.kind == "object"), None)
    title = _line_safe(f"{first.class_name} {first.name or first.id[:12] + '…'}")
    note = {"insert": "new", "delete": "gone", None: "", "update": ""}[state]
    ns = None if written is None or state == "delete" else written(first.class_name, first.id)
    if ns is not None:
        wrote = datetime.fromtimestamp(ns / 1e9, UTC)
        behind = f"{max(0, round((moment - wrote).total_seconds() * 1000))} ms after {_clock(wrote)}"
        note = f"{note}, {behind}" if note else behind
    clock = f"{moment.astimezone():%Y-%m-%d} {_clock(moment)}" if date else _clock(moment)
    head = f"{style.paint(clock, dim=True)}  {style.paint(title, bold=True)}"
    gap = max(2, 38 - len(clock) - 2 - len(title))
    yield head + (" " * gap + style.paint(f"({note})", dim=True) if note else "")
    if state == "delete":
        rows = sum(c.kind in ("kv", "table") for c in items)
        yield style.paint(f"  - with {rows} {'row' if rows == 1 else 'rows'}", fg="red")
        return
    rest = [change for change in items if change.kind != "object"]
    shown = rest if limit is None or len(rest) <= limit else rest[: limit - 1]
    kinds = max([_MIN_KIND, *(len(_kind(change)) for change in shown)])
    keys = min(28, max([4, *(len(_key(change)) for change in shown)]))
    for change in shown:
        yield _line(change, kinds, keys, moment, style)
    if len(shown) < len(rest):
        yield style.paint(f"  … and {len(rest) - len(shown)} more", dim=True)


def _line(change: Change, kinds: int, keys: int, moment: datetime, style: Style) -> str:
    mark, colour = _MARKS[change.operation]
    if change.kind == "alarm":
        mark = "⏰"
        text = f"{'alarm':<{kinds}}  {_alarm(_parsed(change.after), moment)}"
        # The sign is two cells wide.
        return style.paint(f"  {mark} {_cut(text, style.width - 5)}".rstrip(), fg="cyan")
    text = f"{_line_safe(_kind(change)):<{kinds}}  {_line_safe(_key(change)):<{keys}}  {_line_safe(_what(change))}".rstrip()
    return f"  {style.paint(mark, fg=colour, bold=True)} {_cut(text, style.width - 4)}"


def _line_safe(text: str) -> str:
    return safe(text).replace("\n", "\\n").replace("\t", "\\t")


def _cut(text: str, width: int) -> str:
    if text.isascii():
        return text if len(text) <= width else text[: max(1, width - 1)] + "…"
    from rich.cells import cell_len, set_cell_size

    return text if cell_len(text) <= width else set_cell_size(text, max(1, width - 1)).rstrip() + "…"


def _kind(change: Change) -> str:
    return change.table_name or "" if change.kind == "table" else change.kind


def _key(change: Change) -> str:
    key = change.key
    if isinstance(key, bytes):
        return f"x'{key.hex()}'"
    if change.kind == "table" and isinstance(key, int):
        return f"#{key}"
    return "" if key is None else str(key)


def _what(change: Change) -> str:
    before, after = _parsed(change.before), _parsed(change.after)
    if change.kind == "schema":
        return " ".join(str(after if after is not None else before).split()) if change.operation != "delete" else ""
    if change.operation == "delete":
        return ""
    if change.kind == "kv":
        if change.operation == "insert":
            return _text(after)
        return difference(before, after) or "(the same as JSON; the stored types differ)"
    if change.operation == "insert":
        keys = _key_columns(change, after)
        return "  ".join(f"{name}={_cell(name, value)}" for name, value in after.items() if name not in keys)
    names = list(dict.fromkeys([*before, *after]))
    return "  ".join(
        f"{name}={_cell_difference(name, before.get(name), after.get(name))}"
        for name in names
        if not _same(before.get(name), after.get(name))
    )


def _key_columns(change: Change, row: dict[str, Any]) -> set[str]:
    """The columns that repeat the key: the first that has its value."""
    if isinstance(change.key, int | str):
        return set([name for name, value in row.items() if _same(value, change.key)][:1])
    return set()


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and bool(a == b)


def _cell(name: str, value: Any) -> str:
    if isinstance(value, int) and 10**12 <= value < 4.2 * 10**12 and _MOMENT_COLUMN.search(name):
        return f"{datetime.fromtimestamp(value / 1000, UTC):%Y-%m-%dT%H:%M:%S}Z"
    if isinstance(value, str) and _BARE.fullmatch(value) and value not in ("true", "false", "null"):
        return value
    return _text(value)


def _cell_difference(name: str, before: Any, after: Any) -> str:
    if isinstance(before, str) and isinstance(after, str):
        try:
            old, new = json.loads(before), json.loads(after)
        except ValueError:
            pass
        else:
            if isinstance(old, dict | list) and isinstance(new, dict | list):
                return difference(old, new)
    return f"{_cell(name, before)} → {_cell(name, after)}"


def _text(value: Any) -> str:
    if isinstance(value, dict) and set(value) <= {"hex", "hex_text"} and len(value) == 1:
        return f"x'{next(iter(value.values())).lower()}'"
    return json.dumps(value, ensure_ascii=False)


def difference(before: Any, after: Any, depth: int = 0) -> str:
    """What differs between two JSON values: only the paths that changed; "" where nothing does."""
    if _same(before, after) and json.dumps(before) == json.dumps(after):
        return ""
    if depth < 50 and isinstance(before, dict) and isinstance(after, dict):
        parts = []
        for key in dict.fromkeys([*before, *after]):
            label = json.dumps(key, ensure_ascii=False)
            if key not in after:
                parts.append(f"-{label}")
            elif key not in before:
                parts.append(f"+{label}: {_text(after[key])}")
            elif inner := difference(before[key], after[key], depth + 1):
                parts.append(f"{label}: {inner}")
        if parts:
            return "{" + ", ".join(parts) + "}"
    if depth < 50 and isinstance(before, list) and isinstance(after, list):
        return _list_difference(before, after, depth)
    return f"{_text(before)} → {_text(after)}"


def _list_difference(before: list[Any], after: list[Any], depth: int) -> str:
    """Positions that changed between a common beginning and a common end."""
    start = 0
    while start < min(len(before), len(after)) and _equal(before[start], after[start]):
        start += 1
    end = 0
    while end < min(len(before), len(after)) - start and _equal(before[-1 - end], after[-1 - end]):
        end += 1
    old, new = before[start : len(before) - end], after[start : len(after) - end]
    parts = []
    for place in range(max(len(old), len(new))):
        if place >= len(new):
            parts.append(f"-{start + place}")
        elif place >= len(old):
            parts.append(f"+{start + place}: {_text(new[place])}")
        elif inner := difference(old[place], new[place], depth + 1):
            parts.append(f"{start + place}: {inner}")
    return "[" + ", ".join(parts) + "]"


def _equal(a: Any, b: Any) -> bool:
    return json.dumps(a) == json.dumps(b)


def _alarm(at: str | None, moment: datetime) -> str:
    if at is None:
        return "off"
    try:
        due = _moment(at)
    except ValueError:
        return at
    wait = (due - moment).total_seconds()
    if wait < 0:
        return f"at {_clock(due)}, which is past"
    for size, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if wait >= 2 * size:
            return f"in {wait / size:.0f} {unit}"
    return f"in {wait:.0f} s"


def _moment(at: str) -> datetime:
    return datetime.fromisoformat(at.replace("Z", "+00:00"))


def _clock(moment: datetime) -> str:
    local = moment.astimezone()
    return f"{local:%H:%M:%S}.{local.microsecond // 1000:03d}"

"""How things are printed: data to stdout, talk to stderr, tables and colour on a terminal only."""

from __future__ import annotations

import base64
import csv
import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click

from durafetch.errors import DurafetchError


def is_terminal() -> bool:
    """Whether talk goes to a terminal."""
    return sys.stderr.isatty()


def styled(text: str, *styles: str) -> str:
    """A text with colour, where stderr is a terminal and NO_COLOR (https://no-color.org) is not set."""
    if not is_terminal() or os.environ.get("NO_COLOR"):
        return text
    return click.style(text, bold=True, fg=styles[0] if styles else None)


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def safe(text: str) -> str:
    """A text whose control characters do nothing to a terminal: they are shown as `\\x1b`."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def say(message: str) -> None:
    """Talk, to stderr."""
    click.echo(safe(message), err=True)


def print_error(error: DurafetchError) -> None:
    """An error and its hint, to stderr."""
    click.echo(f"{styled('error:', 'red')} {safe(error.message)}  [{error.code}]", err=True)
    if error.hint:
        click.echo(f"{styled('hint:')}  {safe(error.hint)}", err=True)


def plain(value: Any) -> Any:
    """A SQL value as JSON takes it: bytes become {"base64": ...}."""
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    return value


def shown(value: Any) -> str:
    """A SQL value in a table or in CSV."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    return str(value)


def write_json(value: Any) -> None:
    """One JSON text, to stdout."""
    click.echo(json.dumps(value, ensure_ascii=False, default=plain))


def write_rows(columns: Sequence[str], rows: Iterable[Sequence[Any]], form: str) -> None:
    """Rows to stdout: `table`, `json` (an array), `nl` (JSON lines), `csv` or `tsv`. Streams, but for a table."""
    if form == "table":
        write_table(columns, rows)
    elif form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([shown(value) for value in row] for row in rows)
    elif form == "tsv":
        escape = str.maketrans({"\t": "\\t", "\n": "\\n", "\r": "\\r", "\\": "\\\\"})
        click.echo("\t".join(column.translate(escape) for column in columns))
        for row in rows:
            click.echo("\t".join(shown(value).translate(escape) for value in row))
    else:
        names = _distinct(columns)
        separator = "\n" if form == "nl" else ",\n "
        first = True
        if form == "json":
            click.echo("[", nl=False)
        for row in rows:
            text = json.dumps({name: plain(value) for name, value in zip(names, row, strict=True)}, ensure_ascii=False)
            click.echo(("" if first else separator) + text, nl=False)
            first = False
        click.echo("]" if form == "json" else "", nl=form == "json" or not first)


def _distinct(columns: Sequence[str]) -> list[str]:
    """Column names, numbered where a query gives two the same."""
    names: list[str] = []
    for column in columns:
        name, n = column, 2
        while name in names:
            name, n = f"{column}_{n}", n + 1
        names.append(name)
    return names


def write_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """An aligned table for people, to stdout; as wide as the terminal there, as wide as it needs elsewhere."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 100_000, soft_wrap=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(Text(safe(column)), overflow="ellipsis", no_wrap=True)
    for row in rows:
        table.add_row(
            *(
                Text(
                    safe(shown(value)).replace("\n", "\\n"),
                    justify="right" if isinstance(value, int | float) else "left",
                )
                for value in row
            )
        )
    console.print(table)


def size(count: int) -> str:
    """A number of bytes for people."""
    amount = float(count)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"

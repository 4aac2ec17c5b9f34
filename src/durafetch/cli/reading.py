"""`durafetch query`, `ls`, `show` and `schema`: what the mirror holds."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from durafetch.cli import output
from durafetch.cli.options import db_option, json_option
from durafetch.config import choose_db, load_config
from durafetch.frames import InvalidText
from durafetch.mirror import Mirror, ObjectDump, ObjectInfo

FORMS = ("json", "csv", "tsv", "nl", "table")


def open_mirror(db: Path | None) -> Mirror:
    """The mirror, to read from."""
    return Mirror(choose_db(load_config(), db, reading=True), create=False, read_only=True)


def form_options(command: Any) -> Any:
    """--json, --csv, --tsv, --nl, --table"""
    helps = {
        "json": "One JSON array of objects.",
        "csv": "CSV with a header.",
        "tsv": "Tab-separated values with a header.",
        "nl": "One JSON object a line. The default where the output is no terminal.",
        "table": "An aligned table. The default on a terminal.",
    }
    for form in reversed(FORMS):
        command = click.option(f"--{form}", "form", flag_value=form, help=helps[form])(command)
    return command


def chosen_form(form: str | None) -> str:
    """The output's form: as told, else a table on a terminal and JSON lines elsewhere."""
    return form or ("table" if sys.stdout.isatty() else "nl")


@click.command(
    epilog="""\b
Examples:
  durafetch query "SELECT class_name, count(*) FROM durable_objects GROUP BY 1"
  durafetch query "SELECT val ->> '$.email' AS email FROM kv WHERE key = 'profile'"
  durafetch query "SELECT * FROM Room__messages WHERE author = :who" -p who ann --csv
  echo "SELECT count(*) FROM kv" | durafetch query -
"""
)
@click.argument("sql")
@db_option
@click.option(
    "-p", "--parameter", "parameters", nargs=2, multiple=True, metavar="NAME VALUE", help="A value for :NAME."
)
@form_options
def query(sql: str, db: Path | None, parameters: tuple[tuple[str, str], ...], form: str | None) -> None:
    """Run SQL on the mirror. It can only read. SQL of "-" is taken from standard input."""
    if sql == "-":
        sql = sys.stdin.read()
    with open_mirror(db) as mirror:
        rows = mirror.query(sql, {name.lstrip(":@$"): _typed(value) for name, value in parameters})
        output.write_rows(rows.columns, rows, chosen_form(form))


def _typed(text: str) -> int | float | str:
    """A parameter as SQL would read it: a number where it is written as one."""
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        if str(value) == text and (kind is float or -(2**63) <= value < 2**63):
            return value
    return text


@click.command(
    epilog="""\b
Examples:
  durafetch ls
  durafetch ls Room --csv
  durafetch ls --failed
"""
)
@click.argument("class_name", metavar="[CLASS]", required=False)
@db_option
@click.option("--failed", is_flag=True, help="Only objects that could not be mirrored, with the reason.")
@form_options
def ls(class_name: str | None, db: Path | None, failed: bool, form: str | None) -> None:
    """List the objects: all, or those of one class."""
    columns = ["class_name", "name", "id", "status", "entries", "rows", "alarm_at", "changed_at"]
    if failed:
        columns += ["error"]
    with open_mirror(db) as mirror:
        found = list(mirror.objects(class_name, failed=failed))
        if len({info.worker_name for info in found}) > 1:
            columns.insert(0, "worker_name")
        if class_name is not None and not found and not failed:
            mirror.find(class_name, "")  # raises, and says which classes there are
        output.write_rows(columns, ([getattr(info, name) for name in columns] for info in found), chosen_form(form))


@click.command(
    short_help="Show all of one object.",
    epilog="""\b
Examples:
  durafetch show Room lobby
  durafetch show Cart 0ee4e7cb            the beginning of an id is enough
  durafetch show Room lobby --json
""",
)
@click.argument("class_name", metavar="CLASS")
@click.argument("name_or_id", metavar="NAME-OR-ID")
@db_option
@json_option("Print all of it as one JSON object.")
def show(class_name: str, name_or_id: str, db: Path | None, as_json: bool) -> None:
    """Show all of one object: its entries, tables and alarm, and when it was last seen."""
    with open_mirror(db) as mirror:
        dump = mirror.dump(mirror.find(class_name, name_or_id))
    if as_json:
        output.write_json(as_object(dump))
        return
    _print_info(dump.info)
    if dump.entries:
        click.echo(f"\nentries ({len(dump.entries)})")
        output.write_table(["key", "val"], [(key, val) for key, val, _ in dump.entries])
    for name, table in dump.tables.items():
        click.echo(output.safe(f"\ntable {name} ({len(table.rows)})"))
        if table.rows:
            output.write_table(table.columns, table.rows)
    views = [entry for entry in dump.schema if entry.type == "view"]
    for view in views:
        click.echo(output.safe(f"\nview {view.name}\n{view.sql}"))


def as_object(dump: ObjectDump) -> dict[str, Any]:
    """An object for `--json`: its `durable_objects` row, `kv`, `tables` and `schema`."""
    return {
        **asdict(dump.info),
        "kv": {key: json.loads(val) for key, val, _ in dump.entries},
        "tables": {
            name: [
                {
                    column: {"base64_text": output.plain(bytes(cell))["base64"]}
                    if isinstance(cell, InvalidText)
                    else output.plain(cell)
                    for column, cell in zip(table.columns, row, strict=True)
                }
                for row in table.rows
            ]
            for name, table in dump.tables.items()
        },
        "schema": [{"type": e.type, "name": e.name, "table": e.table, "sql": e.sql} for e in dump.schema],
    }


def _print_info(info: ObjectInfo) -> None:
    click.echo(output.safe(f"{info.class_name} {info.name or '(no name known)'}"))
    facts = {
        "id": info.id,
        "worker": info.worker_name,
        "storage": info.storage or "not known yet",
        "status": info.status if info.error is None else f"{info.status}: {info.error}",
        "alarm": info.alarm_at or "none",
        "first seen": info.first_seen_at,
        "changed": info.changed_at or "never",
        "synced": info.synced_at or "never",
    }
    for name, value in facts.items():
        click.echo(output.safe(f"  {name:<11}{value}"))


@click.command(
    short_help="List the tables there are to query.",
    epilog="""\b
Examples:
  durafetch schema
  durafetch schema --json
""",
)
@db_option
@form_options
def schema(db: Path | None, form: str | None) -> None:
    """List the tables there are to query, their columns and row counts."""
    with open_mirror(db) as mirror:
        found = mirror.tables()
    if chosen_form(form) in ("json", "nl"):
        rows: list[tuple[Any, ...]] = [(table.name, table.rows, table.columns) for table in found]
    else:
        rows = [(table.name, table.rows, ", ".join(table.columns)) for table in found]
    output.write_rows(["table", "rows", "columns"], rows, chosen_form(form))

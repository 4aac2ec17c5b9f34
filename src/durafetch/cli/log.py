"""`durafetch log`: what the syncs changed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from durafetch.cli import output
from durafetch.cli.changes import print_changes
from durafetch.cli.options import db_option, json_option
from durafetch.config import choose_db, load_config
from durafetch.errors import UsageError
from durafetch.mirror import Mirror
from durafetch.mirror.changes import seconds
from durafetch.mirror.database import iso, iso_now

SHOWN = 200


@click.command(
    short_help="Show what syncs changed.",
    epilog="""\b
Examples:
  durafetch log --since 5m
  durafetch log --class Room --object lobby
  durafetch log --key 'item:*' --json
""",
)
@db_option
@click.option("--since", metavar="WHEN", help="Not before: a time ago (90s, 5m, 2h, 7d) or a moment in ISO 8601.")
@click.option("--class", "class_name", metavar="CLASS", help="Only objects of this class.")
@click.option("--object", "object_", metavar="NAME", help="Only this object: its name, its id, or an id's beginning.")
@click.option("--key", metavar="KEY", help="Only this key; `*` stands for anything.")
@click.option("--limit", metavar="N", type=click.IntRange(min=1), help=f"Only the last N changes. Default: {SHOWN}.")
@json_option("Print one JSON line per change.")
def log(
    db: Path | None,
    since: str | None,
    class_name: str | None,
    object_: str | None,
    key: str | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Show what syncs changed, row by row, the last at the end.

    Changes are noted by `durafetch dev`, and by `durafetch sync --history`.
    """
    with Mirror(choose_db(load_config(), db, reading=True), create=False, read_only=True) as mirror:
        found = mirror.changes(
            since=None if since is None else moment(since), class_name=class_name, object_=object_, key=key,
            limit=limit or (None if since is not None else SHOWN),
        )  # fmt: skip
        if not print_changes(found, as_json, date=True, all_lines=True):
            noted = mirror.history is not None
            output.say("Nothing changed." if noted else "Changes are not noted here: durafetch sync --history")


def moment(text: str) -> str:
    """`5m`, or a moment in ISO 8601 (local time where it says no other), as the mirror has moments. Raises UsageError."""
    ago = seconds(text)
    if ago is not None:
        return iso_now(ago=ago)
    try:
        return iso(datetime.fromisoformat(text).astimezone(UTC).timestamp() * 1000)
    except ValueError:
        raise UsageError(f"{text} is not a time.", "A time ago (90s, 5m, 2h, 7d) or 2026-11-23T12:00.") from None

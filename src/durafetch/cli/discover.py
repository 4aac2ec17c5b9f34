"""`durafetch discover`: objects that have not started since Durafetch was added."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import click

from durafetch.cli import output
from durafetch.cli.options import LINES_FILE, json_option, open_source, read_lines, token_option
from durafetch.config import choose_sources, load_config
from durafetch.errors import PartlyDoneError, UsageError
from durafetch.limits import MAX_DISCOVER_OBJECTS
from durafetch.sources.worker import WorkerSource


@click.command(
    short_help="Tell a Worker of objects that it has not heard of.",
    epilog="""\b
Examples:
  durafetch discover prod --class Room --names rooms.txt
  psql -tc 'SELECT object_id FROM carts' | durafetch discover prod --class Cart --ids -
""",
)
@click.argument("source")
@click.option("--class", "class_name", metavar="CLASS", required=True, help="Their class.")
@click.option(
    "--names",
    metavar="FILE",
    type=LINES_FILE,
    help="Their names, one a line (-: standard input).",
)
@click.option(
    "--ids",
    metavar="FILE",
    type=LINES_FILE,
    help="Their ids, one a line (-: standard input).",
)
@token_option
@json_option("Print what was done as one JSON object.")
def discover(
    source: str, class_name: str, names: Path | None, ids: Path | None, token_file: Path | None, as_json: bool
) -> None:
    """Tell a Worker of objects that you know, so that the next sync pulls them.

    Durafetch hears of an object when it first starts with the wrapper around it. Those that have not started since are
    known by their names, or by ids that you keep elsewhere. An object that never was is there from then on, empty.
    """
    given = names or ids
    if given is None or (names is not None and ids is not None):
        raise UsageError("Give either --names or --ids.")
    [chosen] = choose_sources(load_config(), (source,), token_file)
    worker = open_source(chosen)
    if not isinstance(worker, WorkerSource):
        raise UsageError(
            f"{source} is a folder: all its objects are known.", "Offer names: durafetch sync DIR --names FILE"
        )
    lines = [line.strip() for line in read_lines(given) if line.strip()]
    if ids is not None and (wrong := next((line for line in lines if not re.fullmatch(r"[0-9a-f]{64}", line)), None)):
        raise UsageError(f"{wrong[:80]} is not an id.", "An id has 64 hexadecimal digits.")
    added, refused = asyncio.run(_discover(worker, class_name, lines, by_name=names is not None))
    if as_json:
        output.write_json({"given": len(lines), "added": added, "refused": refused})
    else:
        output.say(f"{len(lines)} given, {added} new. Next: durafetch sync {source}")
    if refused:
        raise PartlyDoneError(f"{len(refused)} ids are none of {class_name}: {refused[0]}", "Check --class.")


async def _discover(worker: WorkerSource, class_name: str, lines: list[str], *, by_name: bool) -> tuple[int, list[str]]:
    added = 0
    refused: list[str] = []
    async with worker:
        for start in range(0, len(lines), MAX_DISCOVER_OBJECTS):
            some = lines[start : start + MAX_DISCOVER_OBJECTS]
            done = await worker.discover(class_name, names=some if by_name else (), ids=() if by_name else some)
            added += done.added
            refused += done.refused
    return added, refused

"""Options that several commands share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from durafetch.config import Config, SourceConfig, find_token
from durafetch.errors import UsageError
from durafetch.filters import ALL, Filters
from durafetch.mirror import Mirror
from durafetch.mirror.changes import DEFAULT_KEEP

if TYPE_CHECKING:
    from durafetch.sync import Source

Command = Callable[..., Any]
LINES_FILE: Final = click.Path(path_type=Path, dir_okay=False, exists=True, allow_dash=True)
"""The type of an option for `read_lines`."""


def db_option(command: Command) -> Command:
    """--db FILE"""
    return click.option(
        "--db",
        type=click.Path(path_type=Path, dir_okay=False),
        help="The mirror file. Default: $DURAFETCH_DB, then db in durafetch.toml, then durafetch.sqlite; to read from, also "
        "what `durafetch dev` made in this folder.",
    )(command)


def token_option(command: Command) -> Command:
    """--token-file FILE"""
    return click.option(
        "--token-file",
        type=click.Path(path_type=Path, dir_okay=False, exists=True),
        help="A file with the token, or with a line DURAFETCH_TOKEN=... Default: the environment.",
    )(command)


def json_option(help_text: str) -> Callable[[Command], Command]:
    """--json"""
    return click.option("--json", "as_json", is_flag=True, help=help_text)


def history_options(command: Command) -> Command:
    """--history, --no-history, --keep SPEC"""
    command = click.option(
        "--keep",
        metavar="SPEC",
        help=f"How many changes to keep, or how long (7d); default {DEFAULT_KEEP}. Implies --history.",
    )(command)
    return click.option(
        "--history/--no-history",
        default=None,
        help="Note what changes, row by row, from now on (see `durafetch log`); or no more. The mirror remembers it.",
    )(command)


def set_history(mirror: Mirror, config: Config, history: bool | None, keep: str | None) -> None:
    """Turns the noting of changes on or off as the options, or else the configuration, say."""
    if history is False:
        mirror.history = None
    elif history or keep or config.history:
        mirror.history = keep or config.history or mirror.history or DEFAULT_KEEP


def persist_option(command: Command) -> Command:
    """--persist-to DIR"""
    return click.option(
        "--persist-to",
        metavar="DIR",
        type=click.Path(path_type=Path, file_okay=False),
        help="The state folder, where `wrangler dev` was given one as --persist-to.",
    )(command)


def names_option(command: Command) -> Command:
    """--names FILE"""
    return click.option(
        "--names",
        metavar="FILE",
        type=LINES_FILE,
        help="Names that local objects may have, one a line (-: standard input); each is taken where an id follows from it.",
    )(command)


def read_names(path: Path | None) -> list[str]:
    """The names in a file, one a line. Raises UsageError."""
    return [] if path is None else [line for line in read_lines(path) if line]


def read_lines(path: Path) -> list[str]:
    """The lines of a file, or of standard input (`-`). Raises UsageError."""
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}.") from None
    return text.splitlines()


def filter_options(command: Command) -> Command:
    """--include WHAT=PATTERN, --exclude WHAT=PATTERN"""
    for name, what in (
        ("exclude", "Leave out, whatever is included."),
        ("include", "Mirror only this, and nothing else."),
    ):
        command = click.option(
            f"--{name}",
            metavar="WHAT=PATTERN",
            multiple=True,
            help=f"{what} WHAT is class, object, table or key; `*` is any text.",
        )(command)
    return command


def printed_option(command: Command) -> Command:
    """--filter TEXT"""
    return click.option(
        "--filter",
        "filter_text",
        metavar="TEXT",
        default="",
        help="Print only classes, objects, tables and keys with TEXT.",
    )(command)


def open_source(
    source: SourceConfig, *, filters: Filters = ALL, persist_to: Path | None = None, names: Sequence[str] = ()
) -> Source:
    """The source that a configuration describes: a Worker with its token, or a folder."""
    if source.folder is not None:
        from durafetch.sources.local import LocalSource

        return LocalSource(
            source.folder,
            persist_to=persist_to or source.persist_to,
            names=names,
            label=source.label,
            name=source.name,
            filters=filters,
        )
    from durafetch.sources.worker import WorkerSource

    label = None if source.label == source.url else source.label
    return WorkerSource(source.url, token=find_token(source), name=source.name, label=label, filters=filters)

"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from durafetch.config import SourceConfig, find_token

if TYPE_CHECKING:
    from durafetch.sources import WorkerSource

Command = Callable[..., Any]


def db_option(command: Command) -> Command:
    """--db FILE"""
    return click.option(
        "--db",
        type=click.Path(path_type=Path, dir_okay=False),
        help="The mirror file. Default: $DURAFETCH_DB, then db in durafetch.toml, then durafetch.sqlite.",
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


def worker_source(source: SourceConfig) -> WorkerSource:
    """The source that a configuration describes, with its token."""
    from durafetch.sources import WorkerSource

    label = None if source.label == source.url else source.label
    return WorkerSource(source.url, token=find_token(source), name=source.name, label=label)

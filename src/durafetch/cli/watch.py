"""`durafetch watch`: the mirror follows Workers live."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from durafetch.cli import output
from durafetch.cli.changes import Filter, Style, json_line, print_changes
from durafetch.cli.health import served
from durafetch.cli.options import (
    db_option,
    filter_options,
    history_options,
    json_option,
    open_source,
    printed_option,
    set_history,
    token_option,
)
from durafetch.config import TOKEN_VARIABLE, choose_db, choose_filters, choose_sources, load_config
from durafetch.cost import dollars
from durafetch.errors import UsageError
from durafetch.mirror import Change, Mirror
from durafetch.mirror.changes import seconds
from durafetch.results import Failure
from durafetch.sources.worker import WorkerSource
from durafetch.watch import MIN_INTERVAL_S, RECONCILE_S, Pace, Status, Told
from durafetch.watch import watch as follow

STATUS_LINE_S: Final = 0.5
END_S: Final = 0.8
"""How long a command of --exec may take to end when the watch ends."""


class Duration(click.ParamType[float]):
    """A time such as 100ms, 5s or 10m."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """In seconds."""
        if isinstance(value, float):
            return value
        text = str(value)
        found = seconds(f"{text[:-2]}s") if text.endswith("ms") else seconds(text)
        if found is None:
            self.fail(f"{text} is not a time such as 100ms, 5s or 10m.", param, ctx)
        return found / 1000 if text.endswith("ms") else found


@click.command(
    short_help="Follow Workers live.",
    epilog="""\b
Examples:
  durafetch watch                          all sources of durafetch.toml
  durafetch watch prod --history --json
  durafetch watch prod --exec 'jq -r .key >> keys.txt'
  durafetch watch prod --health-port 9100  curl localhost:9100/health
""",
)
@click.argument("source", nargs=-1)
@db_option
@token_option
@filter_options
@history_options
@click.option(
    "--exec",
    "command",
    metavar="CMD",
    help="Run a shell command after each batch, with its changes as JSON lines on its input.",
)
@click.option(
    "--min-interval",
    type=Duration(),
    metavar="TIME",
    default=MIN_INTERVAL_S,
    help="One object is pulled at most this often. Default: 100ms.",
)
@click.option(
    "--reconcile",
    type=Duration(),
    metavar="TIME",
    default=RECONCILE_S,
    help="List all objects this often, and try again what failed. Default: 10m.",
)
@printed_option
@click.option("--quiet", is_flag=True, help="Print no changes.")
@click.option(
    "--health-port", type=click.IntRange(1, 65535), metavar="PORT", help="Answer /health and /metrics on this port."
)
@click.option("--health-host", metavar="HOST", default="127.0.0.1", help="The address for that. Default: 127.0.0.1.")
@json_option("Print one JSON line per change.")
def watch(
    source: tuple[str, ...],
    db: Path | None,
    token_file: Path | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    history: bool | None,
    keep: str | None,
    command: str | None,
    min_interval: float,
    reconcile: float,
    filter_text: str,
    quiet: bool,
    health_port: int | None,
    health_host: str,
    as_json: bool,
) -> None:
    """Sync, then follow: each change is in the mirror, and printed, a moment after it happened.

    SOURCE is a Worker's address, or a name from durafetch.toml; without any, all that it names. A Worker that is away is
    tried again, and nothing is missed. For the local objects of a project there is `durafetch dev`.
    """
    config = load_config()
    chosen = choose_sources(config, source, token_file)
    if folders := [item.label for item in chosen if item.folder is not None]:
        raise UsageError(f"{folders[0]} is a folder.", f"durafetch dev {folders[0]}")
    made = [open_source(item, filters=choose_filters(config, item, include, exclude)) for item in chosen]
    sources = [one for one in made if isinstance(one, WorkerSource)]
    secrets = {TOKEN_VARIABLE, *(item.token_env for item in chosen)}
    with Mirror(choose_db(config, db)) as mirror:
        set_history(mirror, config, history, keep)
        screen = _Screen(command, Filter(filter_text), as_json, quiet, secrets)
        asyncio.run(_watch(mirror, sources, screen, Pace(min_interval, reconcile), health_host, health_port))


async def _watch(
    mirror: Mirror, sources: Sequence[WorkerSource], screen: _Screen, pace: Pace, host: str, port: int | None
) -> None:
    main = asyncio.current_task()
    assert main is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, main.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        async with contextlib.AsyncExitStack() as stack:
            if port is not None:
                await stack.enter_async_context(served(host, port, screen.statuses))
            line = asyncio.create_task(screen.status_line())
            try:
                await follow(mirror, sources, screen, pace, screen.statuses)
            finally:
                line.cancel()
                screen.clear_line()


class _Screen(Told):
    """Prints what happens, and runs the command."""

    def __init__(self, command: str | None, shown: Filter, as_json: bool, quiet: bool, secrets: set[str]) -> None:
        self.statuses: list[Status] = []
        self._command = command
        self._shown = shown
        self._as_json = as_json
        self._quiet = quiet
        self._environment = {name: value for name, value in os.environ.items() if name not in secrets}
        self._running = asyncio.Lock()
        self._told: dict[tuple[str, str], str] = {}

    async def changes(self, changes: list[Change]) -> None:
        shown = [change for change in changes if self._shown.matches(change)]
        if shown and not self._quiet:
            self.clear_line()
            print_changes(shown, self._as_json)
        if self._command is not None:
            # One at a time: a slow command holds up the pulls, not the memory.
            async with self._running:
                await self._execute(self._command, changes)

    async def _execute(self, command: str, changes: list[Change]) -> None:
        process = await asyncio.create_subprocess_shell(
            command, stdin=asyncio.subprocess.PIPE, env=self._environment, start_new_session=True
        )
        try:
            await process.communicate("".join(f"{json_line(change)}\n" for change in changes).encode())
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), END_S)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
        if process.returncode:
            self._say(f"--exec: the command ended with {process.returncode}")

    def failure(self, failure: Failure) -> None:
        key = (failure.class_name, failure.id)
        if self._told.get(key) != failure.message:
            if len(self._told) > 10_000:
                self._told.clear()
            self._told[key] = failure.message
            self._say(f"failed: {failure.class_name} {failure.id}: {failure.message}")

    def status(self, status: Status) -> None:
        if status.error is None:
            self._say(f"{status.source}: following {status.worker}, {status.known} objects known")
        else:
            self._say(f"{status.source}: {status.error.message} Trying again.")

    def _say(self, text: str) -> None:
        self.clear_line()
        output.say(text)

    def clear_line(self) -> None:
        """Takes the status line away, so that something else can be printed."""
        if output.is_terminal():
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    async def status_line(self) -> None:
        """Keeps one line up to date at the bottom of a terminal."""
        if not output.is_terminal():
            return
        before, then = 0, time.monotonic()
        while True:
            await asyncio.sleep(STATUS_LINE_S)
            pulled, now = sum(status.changed for status in self.statuses), time.monotonic()
            rate, before, then = (pulled - before) / (now - then), pulled, now
            known, pending = (sum(getattr(s, name) for s in self.statuses) for name in ("known", "pending"))
            lag = max((status.lag_s for status in self.statuses), default=0.0)
            down = sum(not status.connected for status in self.statuses)
            text = f"{known} objects, {pending} pending, {rate:.0f} changed/s, lag {lag * 1000:.0f} ms"
            text += f", {dollars(sum(status.cost.usd for status in self.statuses))}"
            text += f", {down} of {len(self.statuses)} away" if down else ""
            width = Style.of_stdout().width
            sys.stderr.write(f"\r\x1b[K{output.styled(text[: width - 1])}")
            sys.stderr.flush()

"""`durafetch dev`: what the last request changed, while `wrangler dev` runs."""

from __future__ import annotations

import contextlib
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from durafetch.cli import output
from durafetch.cli.changes import Filter, print_changes
from durafetch.cli.keys import Keys
from durafetch.cli.options import filter_options, json_option, names_option, persist_option, printed_option, read_names
from durafetch.config import DEV_DB, choose_filters, load_config
from durafetch.errors import UsageError
from durafetch.mirror import Mirror
from durafetch.mirror.changes import DEFAULT_KEEP
from durafetch.sources.local import LocalSource
from durafetch.sync_local import LocalSync

if TYPE_CHECKING:
    from durafetch.results import SourceResult

TICK_MS: Final = 100
"""How often keys are looked at; files are told of by the system."""
RESCAN_S: Final = 2.0
"""All files are looked at this often, lest the system told us too late of a folder that is new."""
KEYS_HELP: Final = "c clear  p pause  / filter  q quit"


@click.command(
    short_help="Show what the last request changed, beside `wrangler dev`.",
    epilog="""\b
Examples:
  durafetch dev                      in a wrangler project, beside `wrangler dev`
  durafetch dev ../chat --json
  durafetch dev --persist-to ../state --filter 'item:*'
  durafetch query "SELECT * FROM kv"    in another shell, in the same folder
""",
)
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path), default=".")
@click.option(
    "--db",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"The mirror file. Default: {DEV_DB} in DIR.",
)
@click.option("--once", is_flag=True, help="Show what changed since the last time, and end.")
@click.option("--keep", metavar="SPEC", help=f"How many changes to keep, or how long (7d). Default: {DEFAULT_KEEP}.")
@printed_option
@filter_options
@persist_option
@names_option
@json_option("Print one JSON line per change.")
def dev(
    folder: Path,
    db: Path | None,
    once: bool,
    keep: str | None,
    filter_text: str,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    persist_to: Path | None,
    names: Path | None,
    as_json: bool,
) -> None:
    """Mirror the objects of `wrangler dev` from their files, and show each change as it happens.

    Nothing has to be added to the Worker. DIR is a wrangler project (default: this folder). All that was stored is
    in the mirror, to be queried at any time; `durafetch log` shows the changes again.
    """
    filters = choose_filters(load_config(folder), None, include, exclude)
    source = LocalSource(folder, persist_to=persist_to, names=read_names(names), filters=filters)
    path = db or _default_db(folder)
    with Mirror(path) as mirror:
        mirror.history = keep or mirror.history or DEFAULT_KEEP
        screen = _Dev(mirror, source, path, Filter(filter_text), as_json)
        screen.first()
        if not once:
            screen.follow()


def _default_db(folder: Path) -> Path:
    path = folder / DEV_DB
    try:
        path.parent.mkdir(exist_ok=True)
        ignore = path.parent / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path.parent} cannot be made: {error.strerror}.", "Name a file with --db.") from None
    return path


class _Dev:
    def __init__(self, mirror: Mirror, source: LocalSource, path: Path, shown: Filter, as_json: bool) -> None:
        self.mirror = mirror
        self.source = source
        self.path = path
        self.shown = shown
        self.as_json = as_json
        self.sync = LocalSync(mirror, source)
        self.printed = mirror.last_change
        self.told: set[str] = set()
        self.paused = False

    def first(self) -> None:
        """Syncs, and says what there is, and what changed since the last time."""
        fresh = not any(True for _ in self.mirror.objects())
        self._tell(self.sync.run())
        counts = Counter(info.class_name for info in self.mirror.objects())
        if counts:
            objects = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
            output.say(f"{self.path}: {objects}")
        elif not self.source.folder.is_dir():
            output.say(f"waiting for {self.source.folder}: start the Worker with `npx wrangler dev`")
        else:
            output.say(f"waiting for the first object in {self.source.folder}")
        if not fresh:
            self.show()
        self.printed = self.mirror.last_change

    def follow(self) -> None:
        """Shows changes until Ctrl-C or `q`."""
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with contextlib.suppress(KeyboardInterrupt), Keys() as keys:
            if keys.active:
                output.say(KEYS_HELP)
            for changed in _watched(self.source.folder):
                if changed is None or changed:
                    self._tell(self.sync.run(changed=changed))
                    if not self.paused:
                        self.show()
                for key in keys.pressed():
                    if key == "q":
                        return
                    self._press(key, keys)

    def _press(self, key: str, keys: Keys) -> None:
        if key == "c":
            click.clear()
        elif key == "p":
            self.paused = not self.paused
            output.say("paused; p goes on" if self.paused else "going on")
            if not self.paused:
                self.show()
        elif key == "/":
            text = keys.ask("filter (class, object, table or key; nothing shows all): ")
            if text is not None:
                self.shown = Filter(text.strip())
                output.say(f"showing {self.shown.text}" if self.shown.text else "showing all")
        elif key in ("?", "h"):
            output.say(KEYS_HELP)

    def show(self) -> None:
        """Prints the changes that were not printed yet."""
        last = self.mirror.last_change
        if last == self.printed:
            return
        changes = [change for change in self.mirror.changes(after=self.printed) if self.shown.matches(change)]
        self.printed = last
        print_changes(changes, self.as_json, written=self.sync.written_ns)

    def _tell(self, result: SourceResult) -> None:
        """Says once what could not be mirrored, or was left aside."""
        notes = [f"failed: {f.class_name} {f.id}: {f.message}" for f in result.failures]
        notes += [f"skipped: {note}" for note in result.notes]
        for note in notes:
            if note not in self.told:
                output.say(note)
        self.told.update(notes)
        if result.error is not None:
            raise result.error


def _watched(folder: Path) -> Iterator[set[Path] | None]:
    """The files that were written, as soon as the system tells; an empty set on a tick; None: look at all of them."""
    from watchfiles import watch

    while True:
        if not folder.is_dir():
            yield None
            time.sleep(TICK_MS / 1000)
            continue
        yield None
        inode = folder.stat().st_ino
        looked = time.monotonic()
        try:
            for changes in watch(
                folder, watch_filter=None, debounce=60, step=15, rust_timeout=TICK_MS, yield_on_timeout=True,
                raise_interrupt=True,
            ):  # fmt: skip
                if not folder.is_dir() or folder.stat().st_ino != inode:
                    break
                if changes:
                    yield {Path(name) for _, name in changes if not name.endswith("-shm")}
                elif time.monotonic() - looked > RESCAN_S:
                    looked = time.monotonic()
                    yield None
                else:
                    yield set()
        except FileNotFoundError:
            continue

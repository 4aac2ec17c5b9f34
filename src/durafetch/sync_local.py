"""Syncs the files of `wrangler dev`: what is there → what differs → read → apply."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from durafetch import errors
from durafetch.frames import Frame
from durafetch.mirror import Applied, ListedObject, Mirror, PendingObject, ReceivedObject, StaleError
from durafetch.mirror.reading import LOCAL_ID
from durafetch.results import Failure, Progress, SourceResult
from durafetch.sources.local import Listing, LocalObject, LocalSource, Moved, same_state

BATCH_OBJECTS = 200
ATTEMPTS = 5


def differs(held: tuple[str | None, str | None] | None, item: LocalObject, version: str) -> bool:
    """Whether an object is at another version than the mirror holds, or has a name that the mirror does not know."""
    if held is None or not same_state(held[0], version, item.alarm):
        return True
    return item.name is not None and item.name != held[1]


@dataclass
class _Worker:
    own: str
    name: str
    baseline: bool
    objects: dict[tuple[str, str], tuple[LocalObject, str]]


class LocalSync:
    """Keeps a mirror equal to a state folder; may be run again and again."""

    def __init__(self, mirror: Mirror, source: LocalSource) -> None:
        """The mirror is used by the thread that calls `run` alone."""
        self.mirror = mirror
        self.source = source
        self._files = source.reader(mirror.seed)
        self._ran = False

    def run(
        self,
        *,
        class_name: str | None = None,
        full: bool = False,
        changed: Iterable[Path] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> SourceResult:
        """Makes the mirror equal to what the files say now; `changed`: only these were written since the last run.

        Raises MirrorError where the mirror fails.
        """
        started = time.monotonic()
        result = SourceResult(self.source.label)
        try:
            listing = self.source.look(changed)
            result.notes = listing.skipped
            if listing.whole:
                self._remove_gone(listing, result)
            for own, objects in listing.workers.items():
                worker = self._worker(own, objects)
                self._run_worker(worker, class_name, full, result, on_progress)
                if len(listing.workers) == 1:
                    result.worker = worker.name
                failed = [
                    Failure(self.source.label, class_, id_, "unreadable_file", message)
                    for name, class_, id_, message in listing.failed
                    if name == own
                ]
                self._fail(worker, failed, result)
        except errors.MirrorError as error:
            if not isinstance(error, errors.WorkerNameTakenError):
                raise
            result.error = error
        self._ran = True
        result.seconds = time.monotonic() - started
        return result

    def written_ns(self, class_name: str, id_: str) -> int | None:
        """When the state of an object that was read last was written, ns since 1970."""
        return self._files.written_ns.get((class_name, id_))

    def _worker(self, own: str, objects: dict[tuple[str, str], tuple[LocalObject, str]]) -> _Worker:
        worker_id, url = f"{LOCAL_ID}{self.source.folder}#{own}", self.source.url(own)
        name = own if self.source.name is None else f"{self.source.name}-{own}"
        known = self.mirror.worker(worker_id)
        if known is not None:
            return _Worker(own, known.name, False, objects)
        moved = self.mirror.local_worker(name, LOCAL_ID)
        if moved is not None and not moved.exists():
            # The project was moved, or its state is elsewhere now.
            self.mirror.move_worker(f"{LOCAL_ID}{moved}#{own}", worker_id, url)
            return _Worker(own, name, False, objects)
        self.mirror.add_worker(worker_id, name, url)
        # A Worker that comes up while it is watched was not there before.
        return _Worker(own, name, not self._ran, objects)

    def _remove_gone(self, listing: Listing, result: SourceResult) -> None:
        """Objects, and Workers, whose files are no more."""
        prefix = f"{LOCAL_ID}{self.source.folder}#"
        for worker in self.mirror.workers():
            if worker.worker_id.startswith(prefix):
                there = listing.workers.get(worker.worker_id.removeprefix(prefix), {})
                gone = [key for key in self.mirror.versions(worker.name) if key not in there]
                result.gone += self.mirror.forget(worker.name, gone)

    def _run_worker(
        self,
        worker: _Worker,
        class_name: str | None,
        full: bool,
        result: SourceResult,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        mirror = self.mirror
        mirror.apply_filters(worker.name, self.source.filters)
        held = mirror.versions(worker.name)
        differing = [
            ListedObject(item.class_name, item.id, item.name)
            for key, (item, version) in worker.objects.items()
            if full or differs(held.get(key), item, version)
        ]
        mirror.list_objects(worker.name, differing, "local", self.source.url(worker.own))
        result.known += len(worker.objects)
        pending = len([item for item in differing if class_name in (None, item.class_name)])
        failures: dict[tuple[str, str], Failure] = {}
        for attempt in range(1, ATTEMPTS + 1):
            after = 0
            failures.clear()
            while batch := mirror.pending(worker.name, class_name, after=after, limit=BATCH_OBJECTS):
                after = batch[-1].do_id
                self._apply(worker, batch, full, result, failures)
                if on_progress is not None:
                    on_progress(Progress(result.source, pending, result.visited, result.changed, result.failed))
            if not any(failure.retry for failure in failures.values()):
                break
            time.sleep(0.01 * attempt)
        self._fail(worker, list(failures.values()), result)

    def _apply(
        self,
        worker: _Worker,
        batch: list[PendingObject],
        full: bool,
        result: SourceResult,
        failures: dict[tuple[str, str], Failure],
    ) -> None:
        there = [(asked, worker.objects.get((asked.class_name, asked.id))) for asked in batch]
        received = [
            ReceivedObject(asked, self._frames(found[0], asked, full)) for asked, found in there if found is not None
        ]
        outcomes = self.mirror.apply(
            worker.name, received, full=full, baseline=worker.baseline, filters=self.source.filters
        )
        for item, outcome in zip(received, outcomes, strict=True):
            key = (item.asked.class_name, item.asked.id)
            if isinstance(outcome, Applied):
                result.visited += 1
                result.changed += outcome.changed
                result.upserted += outcome.upserted
                result.deleted += outcome.deleted
            elif isinstance(outcome, StaleError):
                failures[key] = Failure(result.source, *key, "busy", "its file changes faster than it is read", True)
            else:
                failures[key] = Failure(result.source, *key, outcome.code, outcome.message)

    def _frames(self, item: LocalObject, asked: PendingObject, full: bool) -> Iterator[Frame]:
        if full:
            asked = PendingObject(asked.do_id, asked.class_name, asked.id, None, None, asked.listed)
        try:
            yield from self._files.frames(item, asked)
        except (Moved, FileNotFoundError):
            # Read again; a file that is gone is seen to be so by the next listing.
            raise StaleError from None

    def _fail(self, worker: _Worker, failures: list[Failure], result: SourceResult) -> None:
        # A file that vanished while it was read is no failure.
        failures = [failure for failure in failures if failure.code != "busy" or self._exists(worker.own, failure)]
        result.failed += len(failures)
        result.visited += len(failures)
        result.failures += failures
        if failures:
            self.mirror.mark_failed(worker.name, [(f.class_name, f.id, f.message) for f in failures])

    def _exists(self, worker: str, failure: Failure) -> bool:
        return (self.source.folder / f"{worker}-{failure.class_name}" / f"{failure.id}.sqlite").exists()

"""The loop: what changed → pull → apply. Several Workers at a time, each by batches over a few connections."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, TypeVar

from durafetch import errors
from durafetch.frames import DoneFrame, EndFrame, ErrorFrame, Frame, ObjectFrame, decode_frame
from durafetch.mirror import Applied, KnownWorker, Mirror, PendingObject, ReceivedObject, StaleError
from durafetch.mirror.apply import ObjectWriter
from durafetch.results import Failure, Progress, SourceResult, SyncResult
from durafetch.sources.worker import WorkerSource

BATCH_OBJECTS: Final = 100
BATCH_BYTES: Final = 4 * 1024 * 1024
"""Stored chunks sent along with one request."""
CONNECTIONS: Final = 3
"""Requests to one Worker at the same time."""
ATTEMPTS: Final = 4
BACKOFF_S: Final = 0.25
LARGE_BYTES: Final = 8 * 1024 * 1024
"""An object with more than this is applied while it arrives; up to it, once it is complete."""
APPLY_BYTES: Final = 1024 * 1024

T = TypeVar("T")


def sync_sources(
    mirror: Mirror,
    sources: Sequence[WorkerSource],
    *,
    class_name: str | None = None,
    full: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> SyncResult:
    """Makes the mirror equal to what the Workers have.

    `class_name`: only objects of this class are pulled; others that changed stay to be pulled. `full`: every object is
    fetched whole, whatever the mirror holds. One Worker's or object's failure does not stop the others: see the
    result. Raises MirrorError where the file fails; what was committed before stays.
    """
    return asyncio.run(sync_async(mirror, sources, class_name=class_name, full=full, on_progress=on_progress))


async def sync_async(
    mirror: Mirror,
    sources: Sequence[WorkerSource],
    *,
    class_name: str | None = None,
    full: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> SyncResult:
    """The same as `sync_sources`, within a running event loop. The mirror is used from another thread until it returns."""
    started = time.monotonic()
    with ThreadPoolExecutor(1, thread_name_prefix="durafetch-mirror") as executor:
        writer = _Writer(mirror, executor)
        tasks = [
            asyncio.ensure_future(_SourceSync(writer, source, class_name, full, on_progress).run())
            for source in sources
        ]
        try:
            results = await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
    return SyncResult(list(results), time.monotonic() - started)


class _Writer:
    """The mirror, behind one thread; a large object holds the lock from its beginning to its end."""

    def __init__(self, mirror: Mirror, executor: ThreadPoolExecutor) -> None:
        self.mirror = mirror
        self.lock = asyncio.Lock()
        self._executor = executor

    async def locked(self, call: Callable[..., T], *arguments: Any, **keywords: Any) -> T:
        async with self.lock:
            return await self.run(call, *arguments, **keywords)

    async def run(self, call: Callable[..., T], *arguments: Any, **keywords: Any) -> T:
        future = asyncio.get_running_loop().run_in_executor(self._executor, lambda: call(*arguments, **keywords))
        # A cancelled caller must not leave the thread at work in a transaction that others then use.
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise


def _decoded(lines: Sequence[bytes | Frame]) -> Iterator[Frame]:
    return (decode_frame(line) if isinstance(line, bytes) else line for line in lines)


@dataclass
class _Ready:
    """Objects that arrived whole and wait to be applied."""

    items: list[tuple[PendingObject, list[bytes | Frame]]] = field(default_factory=list)
    size: int = 0


class _SourceSync:
    def __init__(
        self,
        writer: _Writer,
        source: WorkerSource,
        class_name: str | None,
        full: bool,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self.writer = writer
        self.source = source
        self.class_name = class_name
        self.full = full
        self.on_progress = on_progress
        self.result = SourceResult(source.label)
        self.pending = 0
        self.seed = ""

    async def run(self) -> SourceResult:
        started = time.monotonic()
        try:
            async with self.source:
                worker = await self._listing()
                self.result.worker = worker
                await self._pull_all(worker)
                self.result.known = await self.writer.locked(self.writer.mirror.count, worker)
        except errors.MirrorError as error:
            if not isinstance(error, errors.WorkerNameTakenError):
                raise
            self.result.error = error
        except errors.DurafetchError as error:
            self.result.error = error
        self.result.seconds = time.monotonic() - started
        self.result.requests = self.source.traffic.requests
        self.result.bytes = self.source.traffic.bytes
        return self.result

    async def _retrying(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await call()
            except errors.RedirectedError:
                raise
            except errors.UnreachableError:
                if attempt == ATTEMPTS:
                    raise
                await _back_off(attempt)
        raise AssertionError("unreachable")

    async def _listing(self) -> str:
        """Takes in what changed since the last sync; returns the Worker's name in the mirror."""
        mirror, writer, source = self.writer.mirror, self.writer, self.source
        self.seed = await writer.locked(lambda: mirror.seed)
        known: KnownWorker | None = await writer.locked(mirror.worker_at, source.url)
        cursor = known.cursor if known else ""
        while True:
            page = await self._retrying(partial(source.changes, cursor))
            if page.worker.id is None:
                raise errors.ProtocolError(f"{source.url} does not say which Worker it is.")
            if known is None or known.worker_id != page.worker.id:
                # Another Worker than was last seen at this address: its cursor is another one, too.
                known = await writer.locked(mirror.worker, page.worker.id)
                if known is None:
                    name = source.name or page.worker.name or source.default_name
                    known = await writer.locked(mirror.add_worker, page.worker.id, name, source.url)
                if known.cursor != cursor:
                    cursor = known.cursor
                    continue
            if page.more and page.cursor == cursor:
                raise errors.ProtocolError(f"{source.url} lists changes without getting on.")
            await writer.locked(
                mirror.list_objects, known.name, page.listed(), page.cursor, source.url, reset=page.reset
            )
            cursor = page.cursor
            if not page.more:
                break
        if self.full:
            await writer.locked(mirror.mark_all, known.name, self.class_name)
        return known.name

    async def _pull_all(self, worker: str) -> None:
        """Pulls all pending objects, a few batches at a time."""
        running: set[asyncio.Task[None]] = set()
        after = 0
        try:
            while True:
                batch = await self.writer.locked(
                    self.writer.mirror.pending, worker, self.class_name, after=after, limit=BATCH_OBJECTS
                )
                if not batch:
                    break
                batch = _bounded(batch)
                after = batch[-1].do_id
                self.pending += len(batch)
                self._report()
                running.add(asyncio.create_task(self._pull_batch(worker, batch)))
                if len(running) >= CONNECTIONS:
                    done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        task.result()
            await asyncio.gather(*running)
        except BaseException:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            raise

    async def _pull_batch(self, worker: str, batch: list[PendingObject]) -> None:
        """Pulls one batch; what a broken connection or a passing failure leaves is asked for again."""
        left = {(item.class_name, item.id): item for item in batch}
        failures: dict[tuple[str, str], Failure] = {}
        for attempt in range(1, ATTEMPTS + 1):
            failures.clear()
            error: errors.DurafetchError | None = None
            try:
                await self._pull_once(worker, left, failures)
            except errors.UnreachableError as broken:
                error = broken
            if not left:
                return
            if error is None and not any(failure.retry for failure in failures.values()):
                break
            if attempt == ATTEMPTS:
                if error is not None:
                    raise error
                break
            await _back_off(attempt)
            left = await self._refreshed(left)
        await self._failed(worker, list(failures.values()))

    async def _refreshed(self, left: dict[tuple[str, str], PendingObject]) -> dict[tuple[str, str], PendingObject]:
        """The objects that are left, as the mirror has them by now: another sync may have applied them meanwhile."""
        rows = await self.writer.locked(self.writer.mirror.refreshed, [item.do_id for item in left.values()])
        return {(item.class_name, item.id): item for item in rows}

    async def _failed(self, worker: str, failures: list[Failure]) -> None:
        for failure in failures:
            self.result.failed += 1
            self.result.visited += 1
            self.result.failures.append(failure)
        if failures:
            await self.writer.locked(
                self.writer.mirror.mark_failed, worker, [(f.class_name, f.id, f.message) for f in failures]
            )
        self._report()

    async def _pull_once(
        self,
        worker: str,
        left: dict[tuple[str, str], PendingObject],
        failures: dict[tuple[str, str], Failure],
    ) -> None:
        """One request. What arrives whole leaves `left`; what fails is noted."""
        asked = list(left.values())
        if self.full:
            asked = [replace(item, version=None, chunks=None) for item in asked]
        async with self.source.pull(asked, self.seed) as groups:
            reply = _Reply(self, worker, left, failures)
            try:
                async for lines in groups:
                    for line in lines:
                        await reply.line(line)
                    await reply.flush(force=False)
                await reply.flush(force=True)
                reply.check_done()
            finally:
                await reply.abandon()

    def applied(self, outcome: Applied) -> None:
        self.result.visited += 1
        self.result.changed += outcome.changed
        self.result.upserted += outcome.upserted
        self.result.deleted += outcome.deleted

    def _report(self) -> None:
        if self.on_progress is not None:
            r = self.result
            self.on_progress(Progress(r.source, self.pending, r.visited, r.changed, r.failed))


class _Reply:
    """The lines of one reply, put together to objects."""

    def __init__(
        self,
        owner: _SourceSync,
        worker: str,
        left: dict[tuple[str, str], PendingObject],
        failures: dict[tuple[str, str], Failure],
    ) -> None:
        self.owner = owner
        self.worker = worker
        self.left = left
        self.failures = failures
        self.ready = _Ready()
        self.current: PendingObject | None = None
        self.lines: list[bytes | Frame] = []
        self.size = 0
        self.large: ObjectWriter | None = None
        self.done = False

    async def line(self, line: bytes) -> None:
        if self.done:
            raise errors.ProtocolError("The Worker went on after the end of its reply.")
        if line.startswith(b'{"frame":"range"'):
            # The bulk of a reply: decoded by the mirror's thread.
            if self.current is None:
                raise errors.ProtocolError("The Worker sent a range that belongs to no object.")
            await self._keep(line, len(line))
            return
        try:
            frame = decode_frame(line)
        except errors.ProtocolError:
            # A line cut short by an object that failed while it was streamed; its error follows.
            if self.current is None:
                raise
            self.lines.append(line)
            return
        if isinstance(frame, ObjectFrame):
            if self.current is not None:
                raise errors.ProtocolError("The Worker began an object before the end of another.")
            self.current = self.left.get((frame.class_name, frame.id))
            if self.current is None:
                raise errors.ProtocolError(f"The Worker sent the object {frame.id}, which was not asked for.")
            await self._keep(frame, len(line))
        elif isinstance(frame, ErrorFrame):
            await self._error(frame)
        elif isinstance(frame, DoneFrame):
            self.done = True
        elif self.current is None:
            raise errors.ProtocolError("The Worker sent a frame that belongs to no object.")
        else:
            await self._keep(frame, len(line))
            if isinstance(frame, EndFrame):
                await self._object_done()

    async def _keep(self, line: bytes | Frame, size: int) -> None:
        self.lines.append(line)
        self.size += size
        if self.size < LARGE_BYTES or self.current is None:
            return
        writer, mirror = self.owner.writer, self.owner.writer.mirror
        if self.large is None:
            await self.flush(force=True)
            await writer.lock.acquire()
            try:
                self.large = await writer.run(mirror.begin, self.worker, self.current, full=self.owner.full)
            except BaseException:
                writer.lock.release()
                raise
        await self._feed()

    async def _feed(self) -> None:
        assert self.large is not None
        mirror, large, lines = self.owner.writer.mirror, self.large, self.lines
        self.lines, self.size = [], LARGE_BYTES - APPLY_BYTES
        await self.owner.writer.run(lambda: mirror.feed(large, _decoded(lines)))

    async def _object_done(self) -> None:
        assert self.current is not None
        item, self.current = self.current, None
        lines, self.lines = self.lines, []
        size, self.size = self.size, 0
        if self.large is None:
            self.ready.items.append((item, lines))
            self.ready.size += size
            return
        self.lines = lines
        try:
            await self._feed()
            large = self.large
            outcome: Applied | errors.DurafetchError | StaleError = await self.owner.writer.run(
                self.owner.writer.mirror.commit, large
            )
            self._release()
        except (errors.ProtocolError, StaleError) as error:
            outcome = error
            await self.abandon()
        self.lines, self.size = [], 0
        self._outcome(item, outcome)

    async def _error(self, frame: ErrorFrame) -> None:
        key = (frame.class_name, frame.id)
        item = self.left.get(key)
        if item is None or (self.current is not None and self.current is not item):
            raise errors.ProtocolError("The Worker sent an error for an object that was not asked for.")
        await self.abandon()
        self.current, self.lines, self.size = None, [], 0
        message = f"{frame.code}: {frame.message}"
        self.failures[key] = Failure(self.owner.source.label, *key, frame.code, message, frame.retry)

    async def flush(self, *, force: bool) -> None:
        """Applies the objects that are complete, once there are enough of them."""
        if not self.ready.items or not (force or self.ready.size >= APPLY_BYTES):
            return
        items, self.ready = self.ready.items, _Ready()
        mirror, full = self.owner.writer.mirror, self.owner.full

        def work() -> list[Applied | errors.DurafetchError | StaleError]:
            received = [ReceivedObject(item, _decoded(lines)) for item, lines in items]
            return mirror.apply(self.worker, received, full=full)

        outcomes = await self.owner.writer.locked(work)
        for (item, _), outcome in zip(items, outcomes, strict=True):
            self._outcome(item, outcome)
        self.owner._report()

    def _outcome(self, item: PendingObject, outcome: Applied | errors.DurafetchError | StaleError) -> None:
        key = (item.class_name, item.id)
        if isinstance(outcome, Applied):
            self.owner.applied(outcome)
            self.left.pop(key, None)
        elif isinstance(outcome, StaleError):
            message = "stale: another sync of this mirror was faster"
            self.failures[key] = Failure(self.owner.source.label, *key, "stale", message, retry=True)
        else:
            self.failures[key] = Failure(self.owner.source.label, *key, outcome.code, outcome.message)

    def check_done(self) -> None:
        """Raises UnreachableError where the reply ended before its end."""
        if not self.done:
            raise errors.UnreachableError(f"The reply of {self.owner.source.url} ended too early.")

    def _release(self) -> None:
        self.large = None
        self.owner.writer.lock.release()

    async def abandon(self) -> None:
        """Drops a large object that did not come to its end."""
        if self.large is not None:
            try:
                await self.owner.writer.run(self.owner.writer.mirror.rollback)
            finally:
                self._release()


def _bounded(batch: list[PendingObject]) -> list[PendingObject]:
    """The beginning of a batch, so that the chunks sent along have a bounded size; at least one object."""
    size = 0
    for count, item in enumerate(batch):
        size += len(item.chunks or "") + 200
        if size > BATCH_BYTES and count > 0:
            return batch[:count]
    return batch


async def _back_off(attempt: int) -> None:
    await asyncio.sleep(random.uniform(0, BACKOFF_S * 2**attempt))

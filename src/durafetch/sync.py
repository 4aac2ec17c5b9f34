"""The loop: what changed → pull → apply. Several Workers at a time, each by batches over a few connections."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeVar

from durafetch import errors
from durafetch.limits import MAX_BATCH_OBJECTS
from durafetch.mirror import Applied, KnownWorker, ListedObject, Mirror, PendingObject
from durafetch.reply import Reply
from durafetch.results import Failure, Progress, SourceResult, SyncResult
from durafetch.sources.local import LocalSource
from durafetch.sources.worker import WorkerSource
from durafetch.sync_local import LocalSync

FIRST_BATCH_OBJECTS: Final = 100
BATCH_SECONDS: Final = 1.0
BATCH_REPLY_BYTES: Final = 16 * 1024 * 1024
"""What a request should take and bring; the number of objects follows from what the last ones did."""
BATCH_BYTES: Final = 4 * 1024 * 1024
"""Stored chunks sent along with one request."""
CONNECTIONS: Final = 3
"""Requests to one Worker at the same time."""
ATTEMPTS: Final = 4
BACKOFF_S: Final = 0.25

T = TypeVar("T")
Source = WorkerSource | LocalSource


def sync_sources(
    mirror: Mirror,
    sources: Sequence[Source],
    *,
    class_name: str | None = None,
    full: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> SyncResult:
    """Makes the mirror equal to what the Workers, or the files of `wrangler dev`, have.

    `class_name`: only objects of this class are pulled; others that changed stay to be pulled. `full`: every object is
    fetched whole, whatever the mirror holds. One Worker's or object's failure does not stop the others: see the
    result. Raises MirrorError where the file fails; what was committed before stays.
    """
    return asyncio.run(sync_async(mirror, sources, class_name=class_name, full=full, on_progress=on_progress))


async def sync_async(
    mirror: Mirror,
    sources: Sequence[Source],
    *,
    class_name: str | None = None,
    full: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> SyncResult:
    """The same as `sync_sources`, within a running event loop. The mirror is used from another thread until it returns."""
    started = time.monotonic()
    with ThreadPoolExecutor(1, thread_name_prefix="durafetch-mirror") as executor:
        writer = Writer(mirror, executor)
        tasks = [asyncio.ensure_future(_run(writer, source, class_name, full, on_progress)) for source in sources]
        try:
            results = await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
    return SyncResult(list(results), time.monotonic() - started)


async def _run(
    writer: Writer,
    source: Source,
    class_name: str | None,
    full: bool,
    on_progress: Callable[[Progress], None] | None,
) -> SourceResult:
    if isinstance(source, WorkerSource):
        return await SourceSync(writer, source, class_name, full, on_progress).run()
    local = await writer.locked(LocalSync, writer.mirror, source)
    result = await writer.locked(local.run, class_name=class_name, full=full, on_progress=on_progress)
    if not source.folder.is_dir() and not result.gone:
        result.error = errors.NoStateError(f"There are no local objects: {source.folder} does not exist.")
    return result


class Writer:
    """The mirror, behind one thread; a large object holds the lock from its beginning to its end."""

    def __init__(self, mirror: Mirror, executor: ThreadPoolExecutor) -> None:
        self.mirror = mirror
        self.lock = asyncio.Lock()
        self.replies = 0
        """How many are being read."""
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


class SourceSync:
    """Syncs one Worker; `result` says what was done."""

    def __init__(
        self,
        writer: Writer,
        source: WorkerSource,
        class_name: str | None = None,
        full: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
        *,
        attempts: int = ATTEMPTS,
    ) -> None:
        """`attempts`: how often a request is tried before its failure counts."""
        self.writer = writer
        self.source = source
        self.class_name = class_name
        self.full = full
        self.on_progress = on_progress
        self.attempts = attempts
        self.result = SourceResult(source.label)
        self.pending = 0
        self.batch = FIRST_BATCH_OBJECTS
        self.seed = ""
        self.baseline = False

    async def run(self) -> SourceResult:
        started = time.monotonic()
        before = replace(self.source.cost)
        try:
            async with self.source:
                worker = await self.listing()
                self.result.worker = worker
                await self.pull_all(worker)
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
        self.result.cost = self.source.cost - before
        return self.result

    async def _retrying(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        for attempt in range(1, self.attempts + 1):
            try:
                return await call()
            except errors.RedirectedError:
                raise
            except errors.UnreachableError:
                if attempt == self.attempts:
                    raise
                await _back_off(attempt)
        raise AssertionError("unreachable")

    async def prepare(self) -> None:
        """Has to come before `pull_batch`, where there is no `listing`."""
        self.seed = await self.writer.locked(lambda: self.writer.mirror.seed)

    async def listing(self) -> str:
        """Takes in what changed since the last sync; returns the Worker's name in the mirror."""
        mirror, writer, source = self.writer.mirror, self.writer, self.source
        await self.prepare()
        known: KnownWorker | None = await writer.locked(mirror.worker_at, source.url)
        cursor = known.cursor if known else ""
        filtered = False
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
                    self.baseline = True
                if known.cursor != cursor:
                    cursor = known.cursor
                    continue
            if not filtered:
                filtered = True
                if await writer.locked(mirror.apply_filters, known.name, source.filters):
                    await self.relist(known.name)
            listed = await self.wanted(known.name, page.listed())
            await writer.locked(mirror.list_objects, known.name, listed, page.cursor, source.url, reset=page.reset)
            cursor = page.cursor
            if not page.more:
                break
        if self.full:
            await writer.locked(mirror.mark_all, known.name, self.class_name)
        return known.name

    async def wanted(self, worker: str, listed: list[ListedObject]) -> list[ListedObject]:
        """Those that the filters let through. Others may have been let through before their names were known: they go."""
        if not self.source.filters:
            return listed
        matches = self.source.filters.object_matches
        others = [(item.class_name, item.id) for item in listed if not matches(item.class_name, item.id, item.name)]
        if others:
            await self.writer.locked(self.writer.mirror.forget, worker, others)
        return [item for item in listed if matches(item.class_name, item.id, item.name)]

    async def relist(self, worker: str) -> None:
        """Reads the whole listing; takes in what the mirror does not know, and leaves what it knows as it is."""
        cursor = ""
        while True:
            page = await self._retrying(partial(self.source.changes, cursor))
            listed = await self.wanted(worker, page.listed())
            await self.writer.locked(self.writer.mirror.add_unknown, worker, listed)
            cursor = page.cursor
            if not page.more:
                return

    async def pull_all(self, worker: str) -> None:
        """Pulls all pending objects, a few batches at a time."""
        running: set[asyncio.Task[None]] = set()
        # Looked up while the ones before are pulled, so that no connection waits for the mirror.
        upcoming = asyncio.create_task(self._batch(worker, 0))
        try:
            while batch := await upcoming:
                self.pending += len(batch)
                self.report()
                running.add(asyncio.create_task(self.pull_batch(worker, batch)))
                upcoming = asyncio.create_task(self._batch(worker, batch[-1].do_id))
                if len(running) >= CONNECTIONS:
                    done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        task.result()
            await asyncio.gather(*running)
        except BaseException:
            tasks: list[asyncio.Task[Any]] = [*running, upcoming]
            for each in tasks:
                each.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    async def _batch(self, worker: str, after: int) -> list[PendingObject]:
        """The next pending objects behind one, as many as one request should ask for."""
        pending = self.writer.mirror.pending
        return _bounded(await self.writer.locked(pending, worker, self.class_name, after=after, limit=self.batch))

    async def pull_batch(self, worker: str, batch: list[PendingObject]) -> None:
        """Pulls one batch; what a broken connection or a passing failure leaves is asked for again."""
        left = {(item.class_name, item.id): item for item in batch}
        failures: dict[tuple[str, str], Failure] = {}
        for attempt in range(1, self.attempts + 1):
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
            if attempt == self.attempts:
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
        self.report()

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
        started = time.monotonic()
        async with self.source.pull(asked, self.seed) as groups:
            reply = Reply(self, worker, left, failures)
            self.writer.replies += 1
            try:
                async for lines in groups:
                    for line in lines:
                        await reply.line(line)
                    await reply.flush(force=False)
                await reply.flush(force=True)
                reply.check_done()
            finally:
                self.writer.replies -= 1
                await reply.close()
        self._adapt(len(asked), time.monotonic() - started, reply.bytes)

    def _adapt(self, objects: int, seconds: float, size: int) -> None:
        """How many objects the next request asks for: at most twice as many as this one, if it was quick and small."""
        room = min(BATCH_SECONDS / max(seconds, 0.001), BATCH_REPLY_BYTES / max(size, 1), 2.0)
        self.batch = min(MAX_BATCH_OBJECTS, max(1, int(objects * room)))

    def applied(self, outcome: Applied) -> None:
        """Counts an object that was applied."""
        self.result.visited += 1
        self.result.changed += outcome.changed
        self.result.upserted += outcome.upserted
        self.result.deleted += outcome.deleted

    def report(self) -> None:
        """Says how far it has come."""
        if self.on_progress is not None:
            r = self.result
            self.on_progress(Progress(r.source, self.pending, r.visited, r.changed, r.failed))


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

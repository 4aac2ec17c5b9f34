"""Follows Workers: what their directories say at once becomes rows, object by object, at a bounded pace."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import math
import random
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from durafetch import errors
from durafetch.cost import Cost
from durafetch.mirror import Change, Mirror
from durafetch.results import Failure
from durafetch.sources.worker import WatchPage, WorkerSource
from durafetch.sync import SourceSync, Writer

MIN_INTERVAL_S: Final = 0.1
RECONCILE_S: Final = 600.0
BATCH_OBJECTS: Final = 100
PULLS: Final = 3
"""Pulls of one Worker at the same time."""
FIRST_BACKOFF_S: Final = 0.25
MAX_BACKOFF_S: Final = 30.0
RETRY_S: Final = 1.0
CACHE_BYTES: Final = 8 * 1024 * 1024
"""Pages of the mirror kept in memory. A sync uses more, for minutes; this is for weeks."""
COUNT_S: Final = 5.0
"""Objects are counted at most this often."""
STEADY_S: Final = 30.0
"""After so long without a break, the next one counts as the first."""

LASTING: Final = (
    errors.NotAuthorizedError, errors.NotDurafetchError, errors.NoDirectoryError, errors.RedirectedError,
    errors.ProtocolError,
)  # fmt: skip
Key = tuple[str, str]


@dataclass
class Status:
    """How one Worker is followed. Times are seconds since 1970, 0.0 where there was none yet."""

    source: str
    cost: Cost
    worker: str | None = None
    connected: bool = False
    known: int = 0
    pending: int = 0
    pulled: int = 0
    changed: int = 0
    failed: int = 0
    lag_s: float = 0.0
    """From being told of a change until it was in the mirror, for the last objects applied."""
    synced_at: float = 0.0
    down_since: float = 0.0
    reconnects: int = 0
    error: errors.DurafetchError | None = None


@dataclass(frozen=True)
class Pace:
    """How often, in seconds: `min_interval` between two pulls of one object, `reconcile` between full listings."""

    min_interval: float = MIN_INTERVAL_S
    reconcile: float = RECONCILE_S


class Told:
    """What a watcher hears of; override what is of interest. Called within the event loop; `changes` may take its time."""

    async def changes(self, changes: list[Change]) -> None:
        """A batch was applied."""

    def failure(self, failure: Failure) -> None:
        """An object could not be mirrored."""

    def status(self, status: Status) -> None:
        """A Worker was reached, or lost."""


class _ReadAnew(Exception):
    """The directory began anew: everything has to be listed."""


async def watch(
    mirror: Mirror, sources: Sequence[WorkerSource], told: Told, pace: Pace, statuses: list[Status]
) -> None:
    """Follows Workers until it is cancelled; `statuses` is filled with one for each, kept up to date.

    One Worker being away does not stop the others: it is tried again. Raises MirrorError where the file fails,
    and what no waiting mends (a wrong token) where it is the only Worker and was never reached.
    """
    mirror.telling = True
    mirror.bound_cache(CACHE_BYTES)
    with ThreadPoolExecutor(1, thread_name_prefix="durafetch-mirror") as executor:
        writer = Writer(mirror, executor)
        followers = [_Follower(writer, source, told, pace, alone=len(sources) == 1) for source in sources]
        statuses += [follower.status for follower in followers]
        await _all([follower.run() for follower in followers])


async def _all(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Runs all until one ends or fails; then ends the others."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Follower:
    """Follows one Worker."""

    def __init__(self, writer: Writer, source: WorkerSource, told: Told, pace: Pace, *, alone: bool) -> None:
        self._alone = alone
        self._writer = writer
        self._source = source
        self._told = told
        self._pace = pace
        self.status = Status(source.label, source.cost)
        self._cursors: list[str] = []
        self._worker = ""
        # When each object that changed may be pulled (by key, and in that order), since when it waits, and when it was
        # pulled last.
        self._due: dict[Key, float] = {}
        self._order: list[tuple[float, Key]] = []
        self._since: dict[Key, float] = {}
        self._last: dict[Key, float] = {}
        self._flying: set[Key] = set()
        self._wake = asyncio.Event()
        self._counted = 0.0

    async def run(self) -> None:
        attempt = 0
        while True:
            started = time.monotonic()
            try:
                async with self._source:
                    await self._session()
            except _ReadAnew:
                continue
            except errors.MirrorError:
                raise
            except errors.DurafetchError as error:
                # What no waiting mends, where nothing else is followed, is better said at once.
                if self._alone and isinstance(error, LASTING) and not self.status.synced_at:
                    raise
                self._lost(error)
            if time.monotonic() - started > STEADY_S:
                attempt = 0
            attempt += 1
            ceiling = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(attempt, 10))
            await asyncio.sleep(random.uniform(ceiling / 2, ceiling))

    def _lost(self, error: errors.DurafetchError) -> None:
        if self.status.connected or self.status.error is None:
            self.status.down_since = time.time()
        self.status.reconnects += self.status.connected
        self.status.connected = False
        self.status.error = error
        self._told.status(self.status)

    async def _session(self) -> None:
        """From a sync to the break of the connection. What was not pulled before stays pending, and is synced first."""
        self._due, self._order, self._since, self._flying = {}, [], {}, set()
        await self._sync()
        cursor = await self._writer.locked(self._cursor)
        self._cursors = cursor.split(",")
        # The first shard says how many there are.
        async with contextlib.AsyncExitStack() as stack:
            first = await stack.enter_async_context(self._source.watch(cursor, 0))
            page = await first.next()
            others = [
                await stack.enter_async_context(self._source.watch(cursor, shard)) for shard in range(1, page.shards)
            ]
            self._cursors += [""] * (page.shards - len(self._cursors))
            if not self.status.connected:
                self.status.connected, self.status.error = True, None
                self._told.status(self.status)
            await self._page(page)
            await first.acknowledge(page)

            async def follow(shard: Any) -> None:
                while True:
                    page = await shard.next()
                    await self._page(page)
                    await shard.acknowledge(page)

            await _all([*(follow(shard) for shard in (first, *others)), self._pull_loop(), self._reconcile_loop()])

    def _cursor(self) -> str:
        return next(w.cursor for w in self._writer.mirror.workers() if w.name == self._worker)

    async def _sync(self) -> None:
        """Lists and pulls what changed meanwhile, as `durafetch sync` does; what failed before is tried again."""
        sync = SourceSync(self._writer, self._source)
        self._worker = await sync.listing()
        self.status.worker = self._worker
        await sync.pull_all(self._worker)
        await self._applied(sync)
        self.status.known = await self._writer.locked(self._writer.mirror.count, self._worker)
        self.status.synced_at = time.time()

    async def _page(self, page: WatchPage) -> None:
        """Takes in a page: its objects are to be pulled, which outlives a crash, and the cursor moves on."""
        if page.reset:
            raise _ReadAnew
        if not page.objects:
            return
        cursors = list(self._cursors)
        cursors[page.shard] = page.cursor
        mirror = self._writer.mirror
        listed = await SourceSync(self._writer, self._source).wanted(self._worker, page.listed())
        await self._writer.locked(mirror.list_objects, self._worker, listed, ",".join(cursors), self._source.url)
        self._cursors = cursors
        now = time.monotonic()
        for item in listed:
            self._wait_for((item.class_name, item.id), now)
        if now - self._counted > COUNT_S:
            self._counted = now
            self.status.known = await self._writer.locked(mirror.count, self._worker)
        self._wake.set()

    def _wait_for(self, key: Key, now: float, delay: float = 0.0) -> None:
        at = max(now + delay, self._last.get(key, 0.0) + self._pace.min_interval)
        if at < self._due.get(key, math.inf):
            self._due[key] = at
            if key not in self._flying:
                heapq.heappush(self._order, (at, key))
        self._since.setdefault(key, now)
        self.status.pending = len(self._due) + len(self._flying)

    async def _pull_loop(self) -> None:
        """Pulls what is due, those that wait longest first; an object is in one pull at a time."""
        running: set[asyncio.Task[None]] = set()
        try:
            while True:
                now = time.monotonic()
                if len(running) < PULLS and (ready := self._ready(now)):
                    running.add(asyncio.create_task(self._pull(ready, self._take(ready, now))))
                    continue
                self._wake.clear()
                timeout = None if len(running) >= PULLS or not self._order else max(0.0, self._order[0][0] - now)
                woken = asyncio.create_task(self._wake.wait())
                done, _ = await asyncio.wait({woken, *running}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                woken.cancel()
                for task in done - {woken}:
                    running.discard(task)
                    task.result()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _ready(self, now: float) -> list[Key]:
        """Those that are due, the first of them, up to a batch."""
        ready: list[Key] = []
        while self._order and len(ready) < BATCH_OBJECTS and self._order[0][0] <= now:
            at, key = heapq.heappop(self._order)
            # What was put off, or taken already, stands here a second time.
            if self._due.get(key) == at and key not in self._flying and key not in ready:
                ready.append(key)
        return ready

    def _take(self, keys: list[Key], now: float) -> float:
        """These are pulled now; returns since when the first of them waits."""
        for key in keys:
            del self._due[key]
            self._last[key] = now
        self._flying.update(keys)
        return min(self._since.pop(key, now) for key in keys)

    async def _pull(self, keys: list[Key], since: float) -> None:
        try:
            batch = await self._writer.locked(self._writer.mirror.pending_of, self._worker, keys)
            if batch:
                sync = SourceSync(self._writer, self._source, attempts=1)
                await sync.prepare()
                await sync.pull_batch(self._worker, batch)
                self.status.lag_s = time.monotonic() - since
                await self._applied(sync)
                for failure in sync.result.failures:
                    if failure.retry:
                        self._wait_for((failure.class_name, failure.id), time.monotonic(), RETRY_S)
        finally:
            self._flying.difference_update(keys)
            for key in keys:
                if key in self._due:
                    heapq.heappush(self._order, (self._due[key], key))
            self.status.pending = len(self._due) + len(self._flying)
            horizon = time.monotonic() - self._pace.min_interval
            if len(self._last) > 10_000:
                self._last = {key: at for key, at in self._last.items() if at > horizon}

    async def _applied(self, sync: SourceSync) -> None:
        result = sync.result
        self.status.pulled += result.visited
        self.status.changed += result.changed
        self.status.failed += result.failed
        for failure in result.failures:
            if not failure.retry:
                self._told.failure(failure)
        changes = await self._writer.locked(self._writer.mirror.take_changes)
        if changes:
            await self._told.changes(changes)

    async def _reconcile_loop(self) -> None:
        """Repairs anything that was ever missed: objects unknown to the mirror, and those that failed."""
        while True:
            await asyncio.sleep(self._pace.reconcile)
            await SourceSync(self._writer, self._source).relist(self._worker)
            pending = await self._writer.locked(self._writer.mirror.pending, self._worker, limit=10_000)
            now = time.monotonic()
            for item in pending:
                self._wait_for((item.class_name, item.id), now)
            self.status.synced_at = time.time()
            self._wake.set()

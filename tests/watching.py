"""Watching from within a test: `watch` in a thread, and one shard of a directory without a mirror."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from durafetch import Change, Failure, Mirror, WorkerSource
from durafetch.sources.worker import WatchPage
from durafetch.watch import Pace, Status, Told, watch


def until(condition: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.002)


class Watching(Told):
    """`watch` in a thread. A context manager; what it raised is raised at the end."""

    def __init__(self, path: Path, *sources: WorkerSource, pace: Pace | None = None) -> None:
        self.path = path
        self.sources = sources
        self.pace = pace or Pace()
        self.statuses: list[Status] = []
        self.batches: list[list[Change]] = []
        self.failures: list[Failure] = []
        self.error: BaseException | None = None
        with Mirror(path):
            self.reader = Mirror(path, read_only=True)
        self._thread = threading.Thread(target=self._run)
        self._task: asyncio.Task[None] | None = None

    async def changes(self, changes: list[Change]) -> None:
        self.batches.append(changes)

    def failure(self, failure: Failure) -> None:
        self.failures.append(failure)

    def _run(self) -> None:
        async def main() -> None:
            self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
            with Mirror(self.path) as mirror:
                await watch(mirror, self.sources, self, self.pace, self.statuses)

        try:
            asyncio.run(main())
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            self.error = error

    def __enter__(self) -> Watching:
        self._thread.start()
        until(lambda: (all(s.connected for s in self.statuses) and bool(self.statuses)) or not self._thread.is_alive())
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive() and self._task is not None:
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(10)
        assert not self._thread.is_alive()
        self.reader.close()
        if self.error is not None:
            raise self.error

    def value(self, name: str, key: str) -> str | None:
        rows = list(self.reader.query("SELECT val FROM kv WHERE name = ? AND key = ?", [name, key]))
        return str(rows[0][0]) if rows else None


class Shard:
    """Gathers in a thread what a shard says, acknowledged or not. A context manager; entered once the first page came."""

    def __init__(self, source: WorkerSource, *, acknowledge: bool = True) -> None:
        self.pages: list[WatchPage] = []
        self._source, self._acknowledge = source, acknowledge
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._gather()))

    async def _gather(self) -> None:
        async with self._source as source, source.watch("", 0) as shard:
            while not self._stop.is_set():
                with suppress(TimeoutError):
                    page = await asyncio.wait_for(shard.next(), 0.2)
                    if self._acknowledge:
                        await shard.acknowledge(page)
                    self.pages.append(page)

    def __enter__(self) -> Shard:
        self._thread.start()
        until(lambda: bool(self.pages) or not self._thread.is_alive())
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def names(self) -> list[str]:
        """The objects that were named, as often as they were."""
        return [o.name for page in self.pages for o in page.objects if o.name]

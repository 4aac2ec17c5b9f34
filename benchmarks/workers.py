"""What the benchmarks over HTTP share: the app under Durafetch beside the limit's Worker, and minimal clients."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import apsw

from durafetch import Mirror, SyncResult, sync_sources
from scripts.workerd import ROOT, Runtime, Worker, bundle
from tests.support import Zoo, zoo_worker

BATCH, CONNECTIONS = 100, 3


@dataclass
class Bench:
    """Both Workers, running."""

    folder: Path
    zoo: Zoo
    limit: str
    """The address of the limit's Worker."""

    def synced(self, path: Path | str, *, full: bool = False) -> SyncResult:
        """A sync that succeeds."""
        with Mirror(path) as mirror:
            result = sync_sources(mirror, [self.zoo.source()], full=full)
        error = result.error()
        assert error is None, error
        return result

    def first_sync(self) -> float:
        """Seconds of a sync into a new file."""
        for leftover in self.folder.glob("first.sqlite*"):
            leftover.unlink()
        started = time.perf_counter()
        self.synced(self.folder / "first.sqlite")
        return time.perf_counter() - started

    def asked(self, call: str, objects: int) -> float:
        """Seconds to ask the limit's objects in batches over a few connections, the bodies discarded."""
        urls = [f"{self.limit}/{call}?first={first}&count={BATCH}" for first in range(0, objects, BATCH)]
        return fetched(urls)

    def streamed(self, size: int) -> float:
        """Seconds to stream so many bytes, discarded."""
        return fetched([f"{self.limit}/bytes?bytes={size}"])


@contextmanager
def bench() -> Iterator[Bench]:
    """Runs both Workers."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        script = bundle(ROOT / "benchmarks" / "limit_worker.ts", folder / "limit.js")
        limit = Worker(script, ["Least"], name="limit")
        with Runtime(zoo_worker(folder), folder / "state") as runtime, Runtime(limit, folder / "limit") as other:
            yield Bench(folder, Zoo(runtime).ready(), other.url)
            runtime.stop(kill=True)
            other.stop(kill=True)


def fetched(urls: list[str]) -> float:
    """Seconds to GET all addresses over a few connections, what they answer being discarded."""

    async def main() -> None:
        waiting = list(reversed(urls))
        async with aiohttp.ClientSession(read_bufsize=512 * 1024, connector=aiohttp.TCPConnector(limit=16)) as session:

            async def one() -> None:
                while waiting:
                    async with session.get(waiting.pop()) as response:
                        async for _ in response.content.iter_any():
                            pass

            await asyncio.gather(*(one() for _ in range(CONNECTIONS)))

    started = time.perf_counter()
    asyncio.run(main())
    return time.perf_counter() - started


def inserted(folder: Path, columns: str, key: str, rows: Iterable[tuple[Any, ...]]) -> float:
    """Seconds to insert ready rows with bare apsw into one table of a new file, in one transaction."""
    for leftover in folder.glob("bare.sqlite*"):
        leftover.unlink()
    rows = list(rows)
    marks = ", ".join("?" * len(rows[0]))
    started = time.perf_counter()
    connection = apsw.Connection(str(folder / "bare.sqlite"))
    connection.pragma("page_size", 16384)
    connection.pragma("journal_mode", "wal")
    connection.pragma("synchronous", "NORMAL")
    connection.execute(f"CREATE TABLE t({columns}, PRIMARY KEY ({key})) WITHOUT ROWID; BEGIN")
    connection.executemany(f"INSERT INTO t VALUES ({marks})", rows)
    connection.execute("COMMIT")
    connection.close()
    return time.perf_counter() - started


def entry_rows(objects: int, entries: int, size: int) -> list[tuple[Any, ...]]:
    """The rows of a mirror's entries."""
    value = json.dumps("x" * size)
    return [(o, f"k{k:06d}", value, None) for o in range(objects) for k in range(entries)]

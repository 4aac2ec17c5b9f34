"""What many clients, and those that stop reading, do to the app: next to nothing."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from durafetch import Mirror
from durafetch.sync import sync_async
from scripts.workerd import Runtime
from tests.support import TOKEN, Zoo, zoo_worker


@pytest.fixture
def own(tmp_path: Path, bundles: Path) -> Iterator[Zoo]:
    with Runtime(zoo_worker(bundles), tmp_path / "state") as runtime:
        yield Zoo(runtime).ready()
        runtime.stop(kill=True)


def resident_kb(zoo: Zoo) -> int:
    status = Path(f"/proc/{zoo.runtime.pid}/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmRSS")).split()[1])


def test_fifty_clients_at_once(own: Zoo) -> None:
    """Each gets everything, and the app is answered meanwhile."""
    own.run("Zoo", "driver", ["burst", 100, 3])
    for n in range(4):
        own.run("Zoo", f"large{n}", ["many", 3000, 100, "k"])
    mirrors = [Mirror(":memory:") for _ in range(50)]
    done = threading.Event()
    answered = 0
    failures: list[BaseException] = []

    async def all_at_once() -> list[int]:
        results = await asyncio.gather(*(sync_async(mirror, [own.source()]) for mirror in mirrors))
        assert all(result.error() is None for result in results)
        return [result.total("upserted") for result in results]

    def app() -> None:
        nonlocal answered
        try:
            while not done.is_set():
                assert own.run("Zoo", "app", ["put", "n", answered], ["get", "n"]) == [None, answered]
                answered += 1
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=app)
    thread.start()
    try:
        counts = asyncio.run(all_at_once())
    finally:
        done.set()
        thread.join()
    assert not failures and answered > 20
    assert min(counts) >= 12_100
    for mirror in mirrors:
        mirror.close()


def test_a_reader_that_stops_reading(own: Zoo) -> None:
    """60 MB are asked for ten times, and not read: the runtime holds back, and the object answers the app."""
    id, _ = own.call("Zoo", "large", ["sql", "CREATE TABLE t(id INTEGER PRIMARY KEY, a)"], ["sql",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60000) INSERT INTO t SELECT i, hex(zeroblob(500)) FROM n"])  # fmt: skip
    body = json.dumps({"seed": "0" * 16, "objects": [{"class": "Zoo", "id": id}]}).encode()
    parts = urlsplit(own.url)
    request = (
        f"POST /__durafetch/v1/pull HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    before = resident_kb(own)
    stalled = [socket.create_connection((parts.hostname or "", parts.port or 0)) for _ in range(10)]
    try:
        for connection in stalled:
            connection.sendall(request)
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        for n in range(20):
            assert own.run("Zoo", "large", ["put", "n", n], ["get", "n"]) == [None, n]
            time.sleep(0.1)
        assert resident_kb(own) - before < 10 * 16_000
    finally:
        for connection in stalled:
            connection.close()
    assert own.run("Zoo", "large", ["get", "n"]) == [19]

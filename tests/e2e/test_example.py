"""The chat example: WebSockets, RPC, entries, a KV-backed counter, as a user of it would meet them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from durafetch import Mirror, WorkerSource
from scripts.workerd import EXAMPLE_TOKEN, ROOT, Runtime, example, free_port
from tests.support import synced


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory, bundles: Path) -> Iterator[Runtime]:
    with Runtime(example(bundles), tmp_path_factory.mktemp("chat") / "state") as runtime:
        yield runtime


def post(url: str, body: object = None) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, method="POST")) as response:
        content: bytes = response.read()
        return content


def test_hibernating_websockets(chat: Runtime, mirror: Mirror) -> None:
    source = WorkerSource(chat.url, token=EXAMPLE_TOKEN)

    async def talk() -> list[str]:
        async with aiohttp.ClientSession() as session:
            address = f"{chat.url}/rooms/ws/socket"
            async with (
                session.ws_connect(f"{address}?author=ann") as ann,
                session.ws_connect(f"{address}?author=bob") as bob,
            ):
                await ann.send_str("hello over a socket")
                heard = [json.loads((await socket.receive()).data)["text"] for socket in (ann, bob)]
                await asyncio.to_thread(synced, mirror, source)
                return heard

    assert asyncio.run(talk()) == ["hello over a socket"] * 2
    assert list(mirror.query("SELECT author, text FROM Room__messages WHERE name = 'ws'")) == [
        ("ann", "hello over a socket")
    ]
    present = "SELECT key FROM kv WHERE name = 'ws' AND key LIKE 'present:%' ORDER BY 1"
    assert list(mirror.query(present)) == [("present:ann",), ("present:bob",)]
    for _ in range(50):
        synced(mirror, source)
        if not list(mirror.query(present)):
            break
    else:
        raise AssertionError("the sockets' end did not reach the mirror")


def test_carts_and_counters(chat: Runtime, mirror: Mirror) -> None:
    id = json.loads(post(f"{chat.url}/carts?n=4"))["id"]
    assert json.loads(post(f"{chat.url}/carts/{id}/items", {"sku": "pen", "price": 2, "quantity": 3})) == {"total": 6}
    assert json.loads(post(f"{chat.url}/counters/c")) == {"value": 1}
    synced(mirror, WorkerSource(chat.url, token=EXAMPLE_TOKEN))
    cart = {key: json.loads(val) for key, val, _ in mirror.dump(mirror.find("Cart", id)).entries}
    assert cart["item:pen"] == {"sku": "pen", "price": 2, "quantity": 3} and cart["total"] == 6
    assert cart["coupons"] == {"WELCOME": {"percent": 10, "until": "2030-01-01T00:00:00.000Z"}}
    assert (mirror.find("Counter", "c").storage, mirror.find("Cart", id).storage) == ("kv", "sqlite")
    post(f"{chat.url}/carts/{id}/checkout")
    synced(mirror, WorkerSource(chat.url, token=EXAMPLE_TOKEN))
    assert "coupons" not in [key for key, _, _ in mirror.dump(mirror.find("Cart", id)).entries]


def test_make_example(tmp_path: Path) -> None:
    """What `make example PORT=... STATE=...` runs: it says how to reach it, and keeps its state where it is told."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "scripts.workerd"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "PORT": str(port), "STATE": str(tmp_path / "state")},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        said = ""
        for line in process.stdout:
            said += line
            if "Ctrl-C" in line:
                break
        assert f"http://127.0.0.1:{port}" in said and EXAMPLE_TOKEN in said
        post(f"http://127.0.0.1:{port}/counters/x")
    finally:
        process.terminate()
        process.wait(10)
    assert list((tmp_path / "state" / "chat-Counter").glob("*.sqlite"))

"""`durafetch watch`: from a write in an object to its row, over broken connections, restarts and bursts."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from durafetch import Mirror, WorkerSource
from durafetch import watch as watching
from durafetch.errors import NotAuthorizedError, UnreachableError
from durafetch.sources import worker
from durafetch.watch import Pace
from scripts.workerd import Runtime, free_port
from tests.fault.tcp import TcpProxy
from tests.support import DURAFETCH, TOKEN, Zoo, cli, synced, zoo_worker
from tests.watching import Shard, Watching, until


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "MAX_BACKOFF_S", 0.3)


@pytest.fixture
def own(tmp_path: Path, bundles: Path) -> Iterator[Zoo]:
    """A zoo of the test's own."""
    with Runtime(zoo_worker(bundles), tmp_path / "state") as runtime:
        yield Zoo(runtime).ready()
        runtime.stop(kill=True)


def equal_to_objects(path: Path, zoo: Zoo, tmp_path: Path) -> None:
    with Mirror(path, read_only=True) as ours, Mirror(tmp_path / "fresh.sqlite") as fresh:
        synced(fresh, zoo.source(), full=True)
        theirs = {(o.class_name, o.id): o for o in fresh.objects()}
        mine = {(o.class_name, o.id): o for o in ours.objects()}
        assert mine.keys() == theirs.keys()
        for key, info in theirs.items():
            a, b = ours.dump(mine[key]), fresh.dump(info)
            assert (a.entries, a.tables, a.schema) == (b.entries, b.tables, b.schema)


def test_rows_follow_writes(own: Zoo, tmp_path: Path) -> None:
    own.run("Zoo", "before", ["put", "k", 0])
    with Watching(tmp_path / "m.sqlite", own.source()) as watched:
        assert watched.value("before", "k") == "0"
        assert watched.batches == [], "what was there at first is no change"
        for n in range(1, 6):
            own.run("Zoo", "before", ["put", "k", n], ["sync"])
            until(lambda n=n: watched.value("before", "k") == str(n))  # type: ignore[misc]
        own.run("Zoo", "later", ["put", "k", "new"], ["setAlarm", 4102444800123])
        until(lambda: watched.value("later", "k") == '"new"')
        # A row is there a moment before it is told of.
        until(lambda: watched.batches[-1][-1].name == "later")
        told = [(c.name, c.kind, c.key, c.before, c.after) for batch in watched.batches for c in batch]
        assert [t for t in told if t[0] == "before"] == [("before", "kv", "k", str(n - 1), str(n)) for n in range(1, 6)]
        assert ("later", "kv", "k", None, '"new"') in told
        assert watched.statuses[0].reconnects == 0
        assert watched.reader.last_change == 0, "told of, but not kept"


def test_a_burst_is_no_storm(own: Zoo, tmp_path: Path) -> None:
    """1,000 objects become dirty in one second, with many writes each: each is listed once, in few messages."""
    with Shard(own.source()) as shard:
        own.run("Zoo", "driver", ["burst", 1000, 5])
        until(lambda: len(set(shard.names)) == 1001)
    assert sorted(shard.names) == sorted({*(f"burst{n}" for n in range(1000)), "driver"})
    # Each announced itself once, whatever it wrote; so did the object that drove them.
    assert int(shard.pages[-1].cursor.split(":")[1]) <= 1002
    assert len(shard.pages) < 400, "many are told of together"
    assert max(len(page.objects) for page in shard.pages) <= 1000
    # And all of them arrive.
    with Watching(tmp_path / "m.sqlite", own.source()) as watched:
        own.run("Zoo", "driver", ["burst", 1000, 5])
        until(
            lambda: (
                list(watched.reader.query("SELECT count(*) FROM kv WHERE name GLOB 'burst*' AND val = '9'"))
                == [(1000,)]
            )
        )
        # Told once for each, perhaps once more where a pull came between its writes.
        assert watched.statuses[0].pulled < 3500


def test_a_hot_object_is_paced_and_starves_nobody(own: Zoo, tmp_path: Path) -> None:
    own.run("Zoo", "hot", ["put", "k", 0])
    own.run("Zoo", "calm", ["put", "k", 0])
    with Watching(tmp_path / "m.sqlite", own.source(), pace=Pace(min_interval=0.25)) as watched:
        stop = threading.Event()

        def heat() -> None:
            n = 0
            while not stop.is_set():
                n += 1
                own.run("Zoo", "hot", ["put", "k", n])

        heater = threading.Thread(target=heat)
        before, started = watched.statuses[0].pulled, time.monotonic()
        heater.start()
        try:
            for n in range(1, 8):
                own.run("Zoo", "calm", ["put", "k", n])
                until(lambda n=n: watched.value("calm", "k") == str(n))  # type: ignore[misc]
                time.sleep(0.3)
        finally:
            stop.set()
            heater.join()
        hot = watched.statuses[0].pulled - before - 7
        assert hot <= (time.monotonic() - started) / 0.25 + 2
        assert hot >= 3
        last = own.run("Zoo", "hot", ["get", "k"])[0]
        until(lambda: watched.value("hot", "k") == str(last))


def test_the_connection_breaks_at_every_message(own: Zoo, tmp_path: Path) -> None:
    """Cut after ever more bytes, within messages and between: nothing is missed, nothing is told twice as a change."""
    with TcpProxy(own.url) as proxy:
        source = WorkerSource(proxy.url, token=TOKEN, name="zoo")
        with Watching(tmp_path / "m.sqlite", source) as watched:
            for n, budget in enumerate([*range(130, 700, 60), 1000, 1500]):
                proxy.budget = budget
                proxy.cut()
                for k in range(5):
                    own.run("Zoo", f"o{k}", ["put", "k", n])
                time.sleep(0.15)
                proxy.budget = None
                proxy.cut()
                for k in range(5):
                    until(lambda n=n, k=k: watched.value(f"o{k}", "k") == str(n))  # type: ignore[misc]
            until(lambda: watched.statuses[0].connected)
            assert watched.statuses[0].reconnects >= 5
            told = [(c.name, c.after) for batch in watched.batches for c in batch if c.kind == "kv"]
            assert len(told) == len(set(told)), "each change once"
        equal_to_objects(tmp_path / "m.sqlite", own, tmp_path)


def test_the_runtime_dies_and_comes_back(own: Zoo, tmp_path: Path) -> None:
    own.run("Zoo", "a", ["put", "k", 0], ["sync"])
    with Watching(tmp_path / "m.sqlite", own.source()) as watched:
        for n in range(1, 4):
            until(lambda: watched.statuses[0].connected)
            own.runtime.stop(kill=True)
            until(lambda: not watched.statuses[0].connected)
            own.runtime.start()
            own.run("Zoo", "a", ["put", "k", n], ["sync"])
            own.run("Zoo", f"new{n}", ["put", "k", n], ["sync"])
            until(lambda n=n: watched.value("a", "k") == watched.value(f"new{n}", "k") == str(n))  # type: ignore[misc]
        assert watched.statuses[0].reconnects == 3
        # The directory's own state is lost: everything is listed anew.
        own.runtime.stop(kill=True)
        for file in (own.runtime.state / "zoo-DurafetchDirectory").glob("*"):
            file.unlink()
        own.runtime.start()
        own.run("Zoo", "a", ["put", "k", 9], ["sync"])
        until(lambda: watched.value("a", "k") == "9")


@pytest.mark.timeout(120)
def test_the_directory_sleeps_meanwhile(own: Zoo, tmp_path: Path) -> None:
    """Idle for longer than the runtime keeps an object in memory: the socket outlives it."""
    own.run("Zoo", "a", ["put", "k", 0])
    with Watching(tmp_path / "m.sqlite", own.source()) as watched:
        # The runtime closes an object's file when it puts the object away.
        folder = own.runtime.state / "zoo-DurafetchDirectory"
        until(lambda: [log.name for log in folder.glob("*.sqlite-wal")] == ["metadata.sqlite-wal"])
        own.run("Zoo", "a", ["put", "k", 1])
        until(lambda: watched.value("a", "k") == "1")
        assert watched.statuses[0].reconnects == 0


def test_two_watchers_and_a_dead_one(own: Zoo, tmp_path: Path) -> None:
    """Each has its own cursor. One that never acknowledges is sent one page, and holds nothing up."""
    own.run("Zoo", "a", ["put", "k", 0])
    with Shard(own.source(), acknowledge=False) as silent, Watching(tmp_path / "1.sqlite", own.source()) as one:
        own.run("Zoo", "b", ["put", "k", 1])
        until(lambda: one.value("b", "k") == "1")
        with Watching(tmp_path / "2.sqlite", own.source()) as two:
            assert two.value("b", "k") == "1"
            for n in range(2, 12):
                own.run("Zoo", "b", ["put", "k", n])
                until(lambda n=n: one.value("b", "k") == two.value("b", "k") == str(n))  # type: ignore[misc]
    assert len(silent.pages) == 1


def test_a_directory_that_began_anew_between_the_listing_and_the_watch(
    own: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first page says so: everything is listed again before anything is taken for known."""
    own.run("Zoo", "a", ["put", "k", 0])
    right = watching._Follower._cursor
    cursors = ["00000000-0000-0000-0000-000000000000:7"]
    monkeypatch.setattr(watching._Follower, "_cursor", lambda self: cursors.pop() if cursors else right(self))
    with Watching(tmp_path / "m.sqlite", own.source()) as watched:
        until(lambda: watched.sources[0].traffic.requests >= 5)
        own.run("Zoo", "a", ["put", "k", 1])
        until(lambda: watched.value("a", "k") == "1")


def test_many_shards(tmp_path: Path, bundles: Path) -> None:
    """Each shard of the directory has its socket; a directory that is split later is followed, too."""
    path = tmp_path / "m.sqlite"
    for shards in ("1", "4"):
        with Runtime(zoo_worker(bundles, DURAFETCH_SHARDS=shards), tmp_path / "state") as runtime:
            zoo = Zoo(runtime)
            with Watching(path, zoo.source()) as watched:
                for n in range(24):
                    zoo.run("Zoo", f"o{n}", ["put", "k", f"{shards} {n}"])
                for n in range(24):
                    until(lambda n=n, to=f'"{shards} {n}"': watched.value(f"o{n}", "k") == to)  # type: ignore[misc]
                [(cursor,)] = watched.reader.query("SELECT cursor FROM _durafetch_workers")
                assert len(str(cursor).split(",")) == int(shards)
            with Mirror(path) as mirror:
                # It may be told of an object once more than it changed, not once less.
                assert synced(mirror, zoo.source()).total("changed") == 0
            runtime.stop(kill=True)


def test_heartbeats(own: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing happens the connection is tried; one that is dead without having been closed is made anew."""
    monkeypatch.setattr(worker, "PING_INTERVAL_S", 0.1)
    monkeypatch.setattr(worker, "PONG_TIMEOUT_S", 5.0)
    own.run("Zoo", "a", ["put", "k", 0])
    with TcpProxy(own.url) as proxy:
        source = WorkerSource(proxy.url, token=TOKEN, name="zoo")
        with Watching(tmp_path / "m.sqlite", source) as watched:
            time.sleep(2)
            assert watched.statuses[0].reconnects == 0
            before = source.traffic.bytes
            time.sleep(1)
            assert source.traffic.bytes > before, "pongs"
            proxy.stalled = True
            own.run("Zoo", "a", ["put", "k", 1])
            until(lambda: not watched.statuses[0].connected)
            proxy.stalled = False
            until(lambda: watched.value("a", "k") == "1")
            assert watched.statuses[0].reconnects == 1


def test_a_watcher_that_never_acknowledges_is_dropped(tmp_path: Path) -> None:
    deployed = zoo_worker(tmp_path)
    script = deployed.script.read_text()
    shorter = re.sub(r"(\bWATCHER_TIMEOUT_MS = [^;\n]*?)\b(?:6e4|60000)\b", r"\g<1>300", script)
    assert shorter != script
    deployed.script.write_text(shorter)
    with Runtime(deployed, tmp_path / "state") as runtime:
        zoo = Zoo(runtime)
        zoo.run("Zoo", "a", ["put", "k", 0])

        async def silent() -> None:
            source = zoo.source()
            async with source, source.watch("", 0) as shard:
                await shard.next()
                await asyncio.sleep(0.5)
                await asyncio.to_thread(zoo.run, "Zoo", "b", ["put", "k", 1])
                await shard.next()

        with pytest.raises(UnreachableError, match="did not acknowledge in time"):
            asyncio.run(silent())
        runtime.stop(kill=True)


def test_what_changes_during_a_pull_is_pulled_next(own: Zoo, tmp_path: Path) -> None:
    own.run("Zoo", "a", ["put", "k", 0])
    with (
        TcpProxy(own.url) as proxy,
        Watching(tmp_path / "m.sqlite", WorkerSource(proxy.url, token=TOKEN, name="zoo")) as watched,
    ):
        until(lambda: watched.value("a", "k") == "0")
        proxy.held = b"/v1/pull"
        own.run("Zoo", "a", ["put", "k", 1])
        # The object has answered, and the answer is on its way: a further write is news.
        assert proxy.holding.wait(30)
        own.run("Zoo", "a", ["put", "k", 2])
        until(lambda: watched.statuses[0].pending == 2)
        proxy.held = None
        until(lambda: watched.value("a", "k") == "2", 10)


def test_the_status_line(own: Zoo, tmp_path: Path) -> None:
    own.run("Zoo", "a", ["put", "k", 0])
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [DURAFETCH, "watch", own.url], cwd=tmp_path, env={**os.environ, "DURAFETCH_TOKEN": TOKEN},
        stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
    )  # fmt: skip
    shown = b""
    try:
        deadline = time.monotonic() + 90
        while b"kv        k     0 \xe2\x86\x92 1" not in shown or b"1 objects, 0 pending, " not in shown:
            assert time.monotonic() < deadline, shown
            if select.select([master], [], [], 0.1)[0]:
                shown += os.read(master, 65536)
            if b"following" in shown and b"0 pending" in shown:
                own.run("Zoo", "a", ["put", "k", 1])
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        process.kill()
        os.close(master)
        os.close(slave)


def test_what_the_server_refuses(own: Zoo) -> None:
    async def broken(acknowledge: str) -> None:
        source = own.source()
        async with source, source.watch("", 0) as shard:
            await shard.next()
            await shard._send(acknowledge)
            await shard.next()

    async def refused() -> None:
        async with own.source("x" * 40) as source, source.watch("", 0) as shard:
            await shard.next()

    with pytest.raises(UnreachableError, match="broke off: not the cursor of the last page"):
        asyncio.run(broken("nonsense"))
    with pytest.raises(NotAuthorizedError):
        asyncio.run(refused())
    for path, headers, status in (
        ("watch", {}, 426), ("watch?shard=1", {"Upgrade": "websocket"}, 400), ("watch?after=x", {"Upgrade": "websocket"}, 400),
    ):  # fmt: skip
        request = urllib.request.Request(
            f"{own.url}/__durafetch/v1/{path}", headers={"Authorization": f"Bearer {TOKEN}", **headers}
        )
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request)
        assert caught.value.code == status
        assert json.loads(caught.value.read())["error"]["code"] in ("upgrade_required", "bad_request")


def test_one_worker_away_does_not_stop_the_others(own: Zoo, tmp_path: Path) -> None:
    with TcpProxy(own.url) as gone:
        gone.refusing = True
        missing = WorkerSource(gone.url, token=TOKEN, name="gone")
        path = tmp_path / "m.sqlite"
        own.run("Zoo", "a", ["put", "k", 0])
        watched = Watching(path, own.source(), missing)
        watched._thread.start()
        try:
            until(lambda: watched.value("a", "k") == "0")
            own.run("Zoo", "a", ["put", "k", 1])
            until(lambda: watched.value("a", "k") == "1")
            until(lambda: watched.statuses[1].error is not None)
            assert [s.connected for s in watched.statuses] == [True, False]
            assert watched.statuses[1].error is not None and watched.statuses[1].error.code == "unreachable"
        finally:
            watched.__exit__()


def test_reconcile_repairs_what_was_missed(own: Zoo, tmp_path: Path) -> None:
    own.run("Zoo", "a", ["put", "k", 0])
    own.run("Zoo", "missed", ["put", "k", 0])
    path = tmp_path / "m.sqlite"
    with Mirror(path) as mirror:
        synced(mirror, own.source())
        # As if the directory had never spoken of it.
        info = next(info for info in mirror.objects() if info.name == "missed")
        assert mirror.forget("zoo", [("Zoo", info.id)]) == 1
    with Watching(path, own.source(), pace=Pace(reconcile=0.5)) as watched:
        assert watched.value("missed", "k") is None
        until(lambda: watched.value("missed", "k") == "0")


def test_discover(own: Zoo, tmp_path: Path) -> None:
    """Objects from before Durafetch was added: the app runs without it, then with it."""
    ids = [own.call("Zoo", f"early{n}", ["put", "k", n], ["sync"])[0] for n in range(4)]
    own.runtime.stop(kill=True)
    for file in (own.runtime.state / "zoo-DurafetchDirectory").glob("*"):
        file.unlink()
    own.runtime.start()
    (tmp_path / "names").write_text("early0\nearly1\n\n")
    (tmp_path / "ids").write_text(f"{ids[2]}\n{ids[3]}\n{'0' * 64}\n")
    with Watching(tmp_path / "m.sqlite", own.source()) as watched:
        done = cli("discover", own.url, "--class", "Zoo", "--names", "names", "--json", cwd=tmp_path)
        assert json.loads(done.stdout) == {"given": 2, "added": 2, "refused": []}
        until(lambda: watched.value("early0", "k") == "0" and watched.value("early1", "k") == "1")
        done = cli("discover", own.url, "--class", "Zoo", "--ids", "ids", cwd=tmp_path)
        assert (done.returncode, "3 given, 2 new" in done.stderr) == (3, True)
        until(lambda: list(watched.reader.query("SELECT count(*) FROM kv")) == [(4,)])
    again = cli("discover", own.url, "--class", "Zoo", "--names", "names", "--json", cwd=tmp_path)
    assert json.loads(again.stdout)["added"] == 0
    assert cli("discover", own.url, "--class", "Nobody", "--names", "names", cwd=tmp_path).returncode == 1
    assert cli("discover", own.url, "--class", "Zoo", cwd=tmp_path).returncode == 2
    with Mirror(tmp_path / "m.sqlite") as mirror:
        assert synced(mirror, own.source()).total("visited") == 0


def listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


class Cli:
    """A running `durafetch watch`."""

    def __init__(self, *arguments: str, cwd: Path) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("DURAFETCH_")}
        self.process = subprocess.Popen(
            [DURAFETCH, "watch", *arguments], cwd=cwd, env={**environment, "DURAFETCH_TOKEN": TOKEN},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None and self.process.stderr is not None
        self.out, self.talk = self.process.stdout, self.process.stderr

    def end(self, how: int) -> str:
        self.process.send_signal(how)
        assert self.process.wait(30) == 0
        rest = self.out.read() + self.talk.read()
        assert TOKEN not in rest and "Traceback" not in rest
        return rest


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_the_command_line(own: Zoo, tmp_path: Path, how: int) -> None:
    own.run("Zoo", "a", ["put", "k", 0])
    port = free_port()
    command = 'cat >> seen; env | grep -c "^DURAFETCH_TOKEN" >> leaked; true'
    running = Cli(own.url, "--json", "--history", "--exec", command, "--health-port", str(port), cwd=tmp_path)
    assert "following" in running.talk.readline()
    own.run("Zoo", "a", ["put", "k", 1])
    change = json.loads(running.out.readline())
    assert (change["name"], change["key"], change["before"], change["after"]) == ("a", "k", 0, 1)
    until(lambda: (tmp_path / "seen").exists() and len((tmp_path / "seen").read_text().splitlines()) == 1)
    assert json.loads((tmp_path / "seen").read_text()) == change
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as response:
        health = json.loads(response.read())
    assert health["ok"] and health["sources"][0]["connected"] and health["sources"][0]["objects"] == 1
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
        metrics = response.read().decode()
    assert f'durafetch_connected{{source="{own.url}"}} 1\n' in metrics
    assert "# TYPE durafetch_lag_seconds gauge\n" in metrics
    until(lambda: (tmp_path / "leaked").exists() and (tmp_path / "leaked").read_text() != "")
    running.end(how)
    assert (tmp_path / "leaked").read_text() == "0\n"
    assert len(cli("log", "--json", cwd=tmp_path).stdout.splitlines()) == 1


def test_it_ends_at_once_in_the_midst_of_a_large_object(own: Zoo, tmp_path: Path) -> None:
    own.run("Zoo", "large", ["sql", "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b, c, d)"], ["rows", "t", 100_000])
    for delay in (0.0, 0.1, 0.2, 0.4, 0.8):
        running = Cli(own.url, "--quiet", "--health-port", str(port := free_port()), cwd=tmp_path)
        until(lambda port=port: listening(port))  # type: ignore[misc]
        time.sleep(delay)
        running.end(signal.SIGTERM)
        with Mirror(tmp_path / "durafetch.sqlite") as mirror:
            assert list(mirror.query("PRAGMA integrity_check")) == [("ok",)]
            for info in mirror.objects():
                assert info.rows in (0, 100_000)
    with Mirror(tmp_path / "durafetch.sqlite") as mirror:
        synced(mirror, own.source())
        assert list(mirror.query("SELECT count(*) FROM Zoo__t")) == [(100_000,)]


def test_what_no_waiting_mends_is_said_at_once(own: Zoo, tmp_path: Path) -> None:
    done = cli("watch", own.url, cwd=tmp_path, token="y" * 40)
    assert done.returncode == 4 and "does not accept the token" in done.stderr
    assert cli("watch", str(tmp_path), cwd=tmp_path).returncode == 2
    assert cli("watch", own.url, "--min-interval", "soon", cwd=tmp_path).returncode == 2


def test_memory_stays_flat(own: Zoo, tmp_path: Path) -> None:
    """A short look; `make soak` is the long one (scripts/soak.py)."""
    running = Cli(own.url, "--quiet", cwd=tmp_path)
    assert "following" in running.talk.readline()
    sizes: list[int] = []
    files: list[int] = []
    for n in range(30):
        own.run("Zoo", "driver", ["burst", 50, 2])
        if n in (10, 29):
            status = Path(f"/proc/{running.process.pid}/status").read_text()
            sizes.append(int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]))
            files.append(len(list(Path(f"/proc/{running.process.pid}/fd").iterdir())))
    running.end(signal.SIGTERM)
    assert sizes[1] < sizes[0] * 1.3
    assert files[1] <= files[0] + 3

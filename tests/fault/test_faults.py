"""Broken connections, broken processes and broken peers: the mirror holds what objects had, and a rerun converges."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import apsw
import pytest

import durafetch.sync
from durafetch import Mirror, WorkerSource, errors, sync_sources
from durafetch.limits import MAX_TABLES
from durafetch.mirror.database import open_database, writing
from scripts.workerd import Runtime
from tests.fault.proxy import FaultServer, forward, reply
from tests.support import DURAFETCH, TOKEN, Zoo, cli, synced, zoo_worker


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durafetch.sync, "BACKOFF_S", 0.01)


def filled(zoo: Zoo, count: int = 6) -> None:
    for n in range(count):
        zoo.run("Zoo", f"o{n}", ["sql", "CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, a, b, c, d)"],
                ["rows", "t", 50], ["many", 20, 20])  # fmt: skip


def check_equal(mirror: Mirror, zoo: Zoo, tmp_path: Path) -> None:
    with Mirror(tmp_path / f"fresh{random.random()}.sqlite") as fresh:
        synced(fresh, zoo.source())
        for info in fresh.objects():
            ours, theirs = mirror.dump(mirror.find(info.class_name, info.id)), fresh.dump(info)
            assert (ours.entries, ours.tables, ours.schema) == (theirs.entries, theirs.tables, theirs.schema)


def test_a_connection_that_fails_once_is_tried_again(zoo: Zoo, mirror: Mirror) -> None:
    filled(zoo)
    calls = {"n": 0}

    def handler(connection: socket.socket, request: bytes) -> None:
        calls["n"] += 1
        if calls["n"] % 2:
            return  # hangs up
        connection.sendall(forward(zoo.url, request))

    with FaultServer(handler) as proxy:
        synced(mirror, WorkerSource(proxy.url, token=TOKEN, name="zoo"))


def test_interrupted(zoo: Zoo, tmp_path: Path) -> None:
    for n in range(30):
        zoo.run("Zoo", f"k{n}", ["many", 2000, 100])
    environment = {**os.environ, "DURAFETCH_TOKEN": TOKEN}
    process = subprocess.Popen(
        [DURAFETCH, "sync", zoo.url, "--db", tmp_path / "m.sqlite", "--full"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (tmp_path / "m.sqlite").exists() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, talk = process.communicate(timeout=60)
    assert process.returncode == 130 and "Interrupted" in talk and "Traceback" not in talk


def test_two_clients_at_once(zoo: Zoo, tmp_path: Path) -> None:
    """One mirror, two syncs, and an app that writes meanwhile."""
    filled(zoo, 20)
    stop = threading.Event()

    def write() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            zoo.run("Zoo", f"o{n % 20}", ["put", "n", n], ["sql", "UPDATE t SET a = ? WHERE id = ?", n, n % 50])

    writer = threading.Thread(target=write)
    writer.start()
    path = tmp_path / "mirror.sqlite"
    try:
        for _ in range(3):
            both = [
                subprocess.Popen(
                    [DURAFETCH, "sync", zoo.url, "--db", path],
                    env={**os.environ, "DURAFETCH_TOKEN": TOKEN},
                    stderr=subprocess.PIPE,
                    text=True,
                )
                for _ in range(2)
            ]
            for process in both:
                _, talk = process.communicate(timeout=60)
                assert process.returncode == 0, talk
    finally:
        stop.set()
        writer.join()
    time.sleep(0.2)
    with Mirror(path) as mirror:
        synced(mirror, WorkerSource(zoo.url, token=TOKEN))
        check_equal(mirror, zoo, tmp_path)


def test_a_stale_pull_is_not_applied(zoo: Zoo, tmp_path: Path) -> None:
    """The slower of two pulls of one object brings an older state: it is asked for again."""
    filled(zoo, 1)
    path = tmp_path / "mirror.sqlite"
    with Mirror(path) as mirror:
        synced(mirror, zoo.source())
    zoo.run("Zoo", "o0", ["put", "n", "older"])

    def handler(connection: socket.socket, request: bytes) -> None:
        data = forward(zoo.url, request)
        if b"/pull" in request[:200] and not done.is_set():
            done.set()
            zoo.run("Zoo", "o0", ["put", "n", "newer"])
            with Mirror(path) as other:
                synced(other, zoo.source())
        connection.sendall(data)

    done = threading.Event()
    with FaultServer(handler) as proxy, Mirror(path) as mirror:
        synced(mirror, WorkerSource(proxy.url, token=TOKEN, name="zoo"))
        assert list(mirror.query("SELECT val FROM kv WHERE name = 'o0' AND key = 'n'")) == [('"newer"',)]


def test_workerd_killed_and_started_again(tmp_path: Path, bundles: Path) -> None:
    with Runtime(zoo_worker(bundles), tmp_path / "state") as runtime, Mirror(tmp_path / "m.sqlite") as mirror:
        zoo = Zoo(runtime)
        for turn in range(4):
            filled(zoo, 1 + turn) if turn == 0 else zoo.run("Zoo", f"o{turn}", ["put", "turn", turn])
            synced(mirror, zoo.source())
            zoo.run("Zoo", "o0", ["put", "turn", turn], ["sync"])
            runtime.stop(kill=True)
            runtime.start()
            zoo.run("Zoo", "o0", ["get", "turn"])
        synced(mirror, zoo.source())
        check_equal(mirror, zoo, tmp_path)


def test_a_worker_without_the_migration(tmp_path: Path, bundles: Path) -> None:
    worker = zoo_worker(bundles)
    worker.sqlite_classes.remove("DurafetchDirectory")
    with Runtime(worker, tmp_path / "state") as runtime:
        zoo = Zoo(runtime)
        assert zoo.run("Zoo", "works", ["put", "a", 1], ["get", "a"]) == [None, 1]
        done = cli("sync", zoo.url, cwd=tmp_path)
        assert done.returncode == 1 and "[no_directory]" in done.stderr and "new_sqlite_classes" in done.stderr
        doctor = cli("doctor", zoo.url, cwd=tmp_path)
        assert "FAIL  directory" in doctor.stdout and doctor.returncode == 1


@pytest.mark.parametrize("token", [None, "short"])
def test_a_worker_without_a_token(tmp_path: Path, bundles: Path, token: str | None) -> None:
    with Runtime(zoo_worker(bundles, token=token), tmp_path / "state") as runtime:
        Zoo(runtime).run("Zoo", "works", ["put", "a", 1])
        done = cli("sync", runtime.url, cwd=tmp_path)
        assert done.returncode == 6 and "[not_durafetch]" in done.stderr


CHANGES = {
    "protocol": 1, "worker": {"id": "w" * 64, "name": "fake"}, "cursor": "c", "more": False, "reset": False,
    "objects": [{"class": "C", "id": "i1", "name": None}, {"class": "C", "id": "i2", "name": None}],
}  # fmt: skip
HEAD = {"frame": "object", "class": "C", "id": "i1", "storage": "sqlite", "version": "v"}
TABLES = {"frame": "tables", "tables": [], "schema": []}
ENTRIES = {"frame": "range", "after": None, "chunks": [[None, "d"]], "rows": [["k", 1]]}
END = {"frame": "end", "version": "v"}
DONE = {"frame": "done", "objects": 2, "failed": 0}


def stream(*frames: Any) -> bytes:
    """A reply of these frames; an `end` gets the checksum of its object, bytes go in as they are."""
    data = bytearray()
    begin = 0
    for frame in frames:
        if isinstance(frame, bytes):
            data += frame + b"\n"
            continue
        if frame["frame"] == "object":
            begin = len(data)
        line = json.dumps(frame, separators=(",", ":")).encode()
        if frame["frame"] == "end":
            line = line[:-1]
            line += b',"crc32":%d}' % zlib.crc32(data[begin:] + line)
        data += line + b"\n"
    return bytes(data)


def fake(changes: Any, *frames: Any) -> FaultServer:
    def handler(connection: socket.socket, request: bytes) -> None:
        if b"/changes" in request[:200]:
            connection.sendall(changes if isinstance(changes, bytes) else reply(json.dumps(changes).encode()))
        else:
            connection.sendall(reply(stream(*frames)))

    return FaultServer(handler)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        (reply(b"<html>hello</html>"), errors.NotDurafetchError),
        (reply(b"[]"), errors.NotDurafetchError),
        (reply(b"{}", "404 Not Found"), errors.NotDurafetchError),
        (reply(b"", "301 Moved", "Location: https://evil.example/"), errors.RedirectedError),
        (reply(b"", "502 Bad Gateway"), errors.UnreachableError),
        (reply(b"", "401 Unauthorized"), errors.NotAuthorizedError),
        ({**CHANGES, "protocol": 2}, errors.ProtocolError),
        ({**CHANGES, "objects": 5}, errors.ProtocolError),
        ({**CHANGES, "more": True, "cursor": ""}, errors.ProtocolError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{", errors.UnreachableError),
        (b"garbage", errors.UnreachableError),
    ],
    ids=str,
)
def test_what_is_not_durafetch(mirror: Mirror, changes: Any, error: type[errors.DurafetchError]) -> None:
    with fake(changes) as server:
        result = sync_sources(mirror, [WorkerSource(server.url, token=TOKEN)])
    assert type(result.error()) is error, result.error()
    assert list(mirror.objects()) == []


@pytest.mark.parametrize(
    "frames",
    [
        [b"not json", DONE],
        [b"[" * 100_000, DONE],
        [{"frame": "nonsense"}, DONE],
        [TABLES, DONE],
        [ENTRIES, DONE],
        [HEAD, HEAD, DONE],
        [{**HEAD, "id": "unasked"}, DONE],
        [{**HEAD, "unchanged": True}, END, DONE],
        [HEAD, END, DONE],
        [HEAD, TABLES, END, DONE],
        [HEAD, ENTRIES, END, DONE],
        [HEAD, TABLES, {**ENTRIES, "chunks": [[["k"], "d"]]}, END, DONE],
        [HEAD, TABLES, {**ENTRIES, "after": ["a"]}, END, DONE],
        [HEAD, TABLES, {**ENTRIES, "after": ["x"], "chunks": [[["y"], "d"]]}, END, DONE],
        [HEAD, TABLES, {**ENTRIES, "chunks": []}, END, DONE],
        [HEAD, TABLES, {**ENTRIES, "chunks": [[None, "d"], [None, "d"]]}, END, DONE],
        [HEAD, TABLES, {**ENTRIES, "table": "t", "rows": [[1]]}, END, DONE],
        [HEAD, TABLES, {**ENTRIES, "rows": [["k", 0, "[[\"Map\",1]]"]]}, END, DONE],
        [HEAD, TABLES, {**ENTRIES, "rows": [["k", 0, "[[99]]"]]}, END, DONE],
        [HEAD, TABLES, {**ENTRIES, "rows": [5]}, END, DONE],
        [HEAD, {**TABLES, "tables": [{"name": "t", "kind": "table", "columns": ["a", "A"], "rowid": True, "key": []}]}, ENTRIES, END, DONE],
        [HEAD, {**TABLES, "tables": [{"name": "t", "kind": "table", "columns": ["a"], "rowid": False, "key": [["b", "BINARY"]]}]}, ENTRIES, END, DONE],
        [HEAD, {**TABLES, "tables": [{"name": "t", "kind": "table", "columns": ["a"], "rowid": False, "key": [["a", "x; DROP"]]}]}, ENTRIES, END, DONE],
        [HEAD, {**TABLES, "tables": [{"name": "t", "kind": "table", "columns": ["a"], "rowid": True, "key": []}]}, ENTRIES, {**ENTRIES, "table": "t", "rows": [[1, True]]}, END, DONE],
        [HEAD, {**TABLES, "tables": [{"name": "t", "kind": "table", "columns": ["a"], "rowid": True, "key": []}]}, ENTRIES, {**ENTRIES, "table": "t", "rows": [[1, ["evil", "x"]]]}, END, DONE],
        [HEAD, {**TABLES, "tables": [{"name": "t", "kind": "table", "columns": ["a"], "rowid": True, "key": []}]}, ENTRIES, {**ENTRIES, "table": "t", "rows": [[1, 2, 3]]}, END, DONE],
        [{"frame": "error", "class": "C", "id": "unasked", "code": "x", "message": "m"}, DONE],
        [DONE, HEAD],
        [],
    ],
    ids=lambda frames: str(frames)[:120],
)  # fmt: skip
def test_frames_that_break_the_protocol(mirror: Mirror, frames: list[Any]) -> None:
    with fake(CHANGES, *frames) as server:
        result = sync_sources(mirror, [WorkerSource(server.url, token=TOKEN)])
    error = result.error()
    assert error is not None and type(error) in (errors.ProtocolError, errors.PartlyDoneError, errors.UnreachableError)
    assert [(o.status == "ok", o.entries, o.rows) for o in mirror.objects()] == [(False, 0, 0)] * 2
    assert list(mirror.query("SELECT * FROM kv")) == []
    assert not [t for t in mirror.tables() if "__" in t.name]


def test_hostile_names(mirror: Mirror) -> None:
    names = ['quo"te', "a;b--", "../../x", "sqlite_master", "_durafetch_kv", "durable_objects", "ünï", " "]
    for name in names:
        table = {"name": name, "kind": "table", "columns": [name, "do_id", "name"], "rowid": True, "key": []}
        frames = [HEAD, {**TABLES, "tables": [table]}, ENTRIES, {**ENTRIES, "table": name, "rows": [[1, "x", "y", "z"]]}, END,
                  {**HEAD, "id": "i2"}, TABLES, ENTRIES, END, DONE]  # fmt: skip
        cls = f"sqlite_{name}"
        text = json.dumps([CHANGES, frames]).replace('"class": "C"', f'"class": {json.dumps(cls)}')
        changes, frames = json.loads(text)
        changes["worker"]["id"] = changes["worker"]["name"] = name
        with fake(changes, *frames) as server:
            synced(mirror, WorkerSource(server.url, token=TOKEN))
        assert mirror.dump(mirror.find(cls, "i1")).tables[name].rows == [(1, "x", "y", "z")]
    assert list(mirror.query("PRAGMA integrity_check")) == [("ok",)]
    assert mirror.find("sqlite_ünï", "i1").entries == 1


def test_many_tables(mirror: Mirror) -> None:
    """As many as an object may have, in a time that grows as their number; a million are refused."""

    def tables(count: int) -> dict[str, Any]:
        return {
            **TABLES,
            "tables": [
                {"name": f"t{n}", "kind": "table", "columns": ["a"], "rowid": True, "key": []} for n in range(count)
            ],
        }

    one: dict[str, Any] = {**CHANGES, "objects": [{"class": "C", "id": "i1", "name": None}]}
    for too_many in (MAX_TABLES + 1, 1_000_000):
        whole = [
            {"frame": "range", "table": f"t{n}", "after": None, "chunks": [[None, "d"]], "rows": []}
            for n in range(MAX_TABLES + 1)
        ]
        with fake(one, HEAD, tables(too_many), ENTRIES, *whole, END, DONE) as server:
            error = sync_sources(mirror, [WorkerSource(server.url, token=TOKEN)]).error()
        assert isinstance(error, errors.ProtocolError | errors.PartlyDoneError)
        assert not [t for t in mirror.tables() if "__" in t.name]
    ranges = [
        {"frame": "range", "table": f"t{n}", "after": None, "chunks": [[None, "d"]], "rows": [[1, n]]}
        for n in range(2000)
    ]
    with fake(one, HEAD, tables(2000), ENTRIES, *ranges, END, DONE) as server:
        synced(mirror, WorkerSource(server.url, token=TOKEN))
    assert mirror.find("C", "i1").rows == 2000


def peak_kb() -> int:
    """The most memory that this process has had since `/proc/self/clear_refs` was told to forget."""
    return int(
        next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")).split()[1]
    )


def forget_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return peak_kb()


@pytest.mark.parametrize("call", ["changes", "pull"])
def test_a_bomb_by_compression(mirror: Mirror, call: str) -> None:
    """Half a gigabyte of nothing, in half a megabyte, sent whether or not it was asked for compression."""
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    bomb = b"".join([*(packer.compress(b" " * 2**24) for _ in range(32)), packer.flush()])

    def handler(connection: socket.socket, request: bytes) -> None:
        if call.encode() in request[:200]:
            connection.sendall(reply(bomb, "200 OK", "Content-Encoding: gzip"))
        else:
            connection.sendall(reply(json.dumps(CHANGES).encode()))

    before = forget_peak()
    with FaultServer(handler) as server:
        error = sync_sources(mirror, [WorkerSource(server.url, token=TOKEN)]).error()
    assert isinstance(error, errors.NotDurafetchError | errors.ProtocolError), error
    assert peak_kb() - before < 250_000


def test_compression(zoo: Zoo, mirror: Mirror, tmp_path: Path) -> None:
    """Asked for where replies cross a network; on loopback only where a test wants it."""
    zoo.run("Zoo", "packed", ["many", 2000, 100])
    plain, packed = zoo.source(), WorkerSource(zoo.url, token=TOKEN, name="zoo", compression=True)
    synced(mirror, packed)
    with Mirror(tmp_path / "plain.sqlite") as other:
        synced(other, plain)
    assert packed.traffic.bytes < plain.traffic.bytes / 5
    check_equal(mirror, zoo, tmp_path)
    assert WorkerSource("https://example.com", token=TOKEN)._compression
    for damage in (b"\x1f\x8b garbage", b"plain", b""):
        with fake(reply(damage, "200 OK", "Content-Encoding: gzip")) as server:
            error = sync_sources(mirror, [WorkerSource(server.url, token=TOKEN)]).error()
        assert isinstance(error, errors.UnreachableError)


def test_a_full_disk(zoo: Zoo, tmp_path: Path) -> None:
    """SQLite's own limit on pages makes it report a full disk."""
    zoo.run("Zoo", "big", ["many", 2000, 1000, "big"])
    with Mirror(tmp_path / "m.sqlite") as mirror:
        mirror._db.pragma("max_page_count", 60)
        with pytest.raises(errors.MirrorFullError) as caught:
            sync_sources(mirror, [zoo.source()])
        assert caught.value.exit_status == 7
    with Mirror(tmp_path / "m.sqlite") as mirror:
        assert list(mirror.query("PRAGMA integrity_check")) == [("ok",)]
        synced(mirror, zoo.source())
        assert mirror.find("Zoo", "big").entries == 2000


def test_a_writer_waits_for_another_from_the_beginning(tmp_path: Path) -> None:
    """A transaction that began by reading could not write once another one has: it takes the lock at once."""
    one, two = (open_database(tmp_path / "m.sqlite", create=True) for _ in range(2))
    two.set_busy_timeout(50)
    with writing(one):
        assert one.execute("SELECT count(*) FROM _durafetch_settings").get == 1
        with pytest.raises(apsw.BusyError), writing(two):
            two.execute("INSERT INTO _durafetch_settings VALUES ('two', '')")
        one.execute("INSERT INTO _durafetch_settings VALUES ('one', '')")
    assert two.execute("SELECT group_concat(name) FROM _durafetch_settings ORDER BY 1").get == "one,seed"
    one.close()
    two.close()


def test_another_process_makes_tables_and_adds_the_worker(zoo: Zoo, tmp_path: Path) -> None:
    """A mirror that stays open sees what another process made of the same file meanwhile."""
    with Mirror(tmp_path / "m.sqlite") as one, Mirror(tmp_path / "m.sqlite") as two:
        for n, mirror in enumerate((one, two, one, two)):
            zoo.run("Zoo", "both", ["sql", f"CREATE TABLE both{n}(a, b{n})"], ["sql", f"INSERT INTO both{n} VALUES (1, 2)"],
                    ["sql", f"ALTER TABLE both0 ADD COLUMN c{n}"])  # fmt: skip
            synced(mirror, zoo.source())
            for reader in (one, two):
                tables = reader.dump(reader.find("Zoo", "both")).tables
                assert [len(table.rows) for table in tables.values()] == [1] * (n + 1)
                assert tables["both0"].columns[-1] == f"c{n}"
        first, second = (m.add_worker("same id", "same", "http://127.0.0.1") for m in (one, two))
        assert first == second
        with pytest.raises(errors.WorkerNameTakenError):
            two.add_worker("another id", "same", "http://127.0.0.1")

"""The local source: what is read from the objects' files is what the server functions say, and no trace is left."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from durafetch import LocalSource, Mirror, SourceResult, sync_sources
from durafetch.errors import UsageError
from durafetch.ids import id_from_name
from durafetch.sources.local.snapshot import Moved, opened
from durafetch.sync_local import LocalSync
from durafetch.verify import verify
from scripts.workerd import Runtime
from tests.support import WORKERS, Zoo, synced, zoo_worker

NAMES = [
    name
    for file, stop in (("values.ts", None), ("more_values.ts", "export const OPAQUE"))
    for name in re.findall(
        r"^  (\w+)(?:: \(\) =>|,$)", (WORKERS / file).read_text().split(stop or "\0")[0], re.MULTILINE
    )
]


def local(mirror: Mirror, folder: Path, **options: Any) -> SourceResult:
    """Syncs from files; all has to succeed."""
    result = LocalSync(mirror, LocalSource(folder, **options)).run()
    assert (result.error, result.failures) == (None, [])
    return result


def assert_equal(ours: Mirror, theirs: Mirror, cls: str, id: str) -> None:
    """One object is the same in both mirrors, to the last character."""
    mine, other = ours.dump(ours.find(cls, id)), theirs.dump(theirs.find(cls, id))
    for a, b in zip(mine.entries, other.entries, strict=True):
        assert a == b, a[0]
    assert repr(mine.tables) == repr(other.tables)
    assert mine.schema == other.schema
    assert mine.info.alarm_at == other.info.alarm_at
    assert (mine.info.entries, mine.info.rows) == (other.info.entries, other.info.rows)


@pytest.mark.parametrize("cls", ["Zoo", "Old"])
def test_every_value_is_the_same_on_both_ways(zoo: Zoo, tmp_path: Path, cls: str) -> None:
    names = [name for name in NAMES if name != "undefined"]
    assert {"regexp", "aggregate", "domException", "resizable", "twoByteAfterKeys"} <= set(names)
    id, results = zoo.call(cls, "all values", *[["put", name, f"${name}"] for name in names], ["sync"])
    assert not [(n, r) for n, r in zip(names, results, strict=False) if r and "error" in r]
    with Mirror(tmp_path / "remote.sqlite") as remote, Mirror(tmp_path / "local.sqlite") as mine:
        synced(remote, zoo.source())
        local(mine, zoo.runtime.state)
        assert_equal(mine, remote, cls, id)
        assert mine.find(cls, id).entries == len(names)
        assert not list(mine.query("SELECT key FROM kv WHERE devalue LIKE '%\"V8\"%'"))


def test_what_the_server_cannot_read_is_kept_by_its_bytes(zoo: Zoo, mirror: Mirror) -> None:
    id = zoo.call("Zoo", "opaque", *[["put", name, f"${name}"] for name in ("blob", "headers", "request")])[0]
    local(mirror, zoo.runtime.state)
    entries = {key: (val, devalue) for key, val, devalue in mirror.dump(mirror.find("Zoo", id)).entries}
    assert entries["blob"] == (
        '"[a Blob cannot be read at byte 2]"', '[["V8",1],[2,3],"a Blob cannot be read at byte 2","/w9cDwADYWJj"]',
    )  # fmt: skip
    assert entries["headers"][0] == '"[a Headers cannot be read at byte 2]"'


TABLES = [
    "CREATE TABLE plain(a, b); INSERT INTO plain VALUES (1, 'x'), (NULL, x'00ff'), (9007199254740993, 1.0), (-0.0, 1e999)",
    "CREATE TABLE counted(id INTEGER PRIMARY KEY AUTOINCREMENT, a TEXT); INSERT INTO counted(a) VALUES ('a'), ('b')",
    "CREATE TABLE odd_key(id INTEGER PRIMARY KEY DESC, a); INSERT INTO odd_key VALUES (1, 2)",
    "CREATE TABLE keyed(k TEXT COLLATE NOCASE, n, v, PRIMARY KEY (k, n DESC)) WITHOUT ROWID; "
    "INSERT INTO keyed VALUES ('b', 1, 2), ('A', 1.5, x'01'), ('a', 'text', NULL), ('C', x'02', 3)",
    "CREATE TABLE hidden(rowid, oid, _rowid_); INSERT INTO hidden VALUES (1, 2, 3), ('x', NULL, 5)",
    "CREATE TABLE generated(a, b AS (a * 2), c AS (a || '!') STORED); INSERT INTO generated VALUES (21)",
    "CREATE VIRTUAL TABLE words USING fts5(title, body); INSERT INTO words VALUES ('hello', 'world'), ('x', 'y')",
    f"CREATE TABLE wide({', '.join(f'c{n}' for n in range(95))}); INSERT INTO wide(c0, c94) VALUES (1, x'02')",
    "CREATE TABLE 'qu\"ote''s %'(\"a \"\"b\"); INSERT INTO 'qu\"ote''s %' VALUES ('ü')",
    "CREATE TABLE broken(a, b); INSERT INTO broken VALUES (CAST(x'ff41' AS TEXT), x'ff41'), ('é', 1)",
    "CREATE TABLE broken_key(k TEXT PRIMARY KEY, v) WITHOUT ROWID; "
    "INSERT INTO broken_key VALUES (CAST(x'ff41' AS TEXT), 1), ('é', 2), (CAST(x'fe' AS TEXT), 3)",
    "CREATE INDEX by_b ON plain(b); CREATE VIEW seen AS SELECT a FROM plain; "
    "CREATE TRIGGER noted AFTER DELETE ON plain BEGIN DELETE FROM counted; END",
]


def test_every_shape_of_table_is_the_same_on_both_ways(zoo: Zoo, tmp_path: Path) -> None:
    id, results = zoo.call("Zoo", "tables", *[["sql", text] for text in TABLES], ["rows", "plain2", 1])
    assert [i for i, r in enumerate(results) if "error" in r] == [len(TABLES)]
    with Mirror(tmp_path / "remote.sqlite") as remote, Mirror(tmp_path / "local.sqlite") as mine:
        mine.history = "100000"
        local(mine, zoo.runtime.state)
        for change in (
            [],
            [["sql", "UPDATE broken SET b = 7"], ["sql", "DELETE FROM broken_key WHERE v = 1"]],
            [["sql", "UPDATE keyed SET v = 9 WHERE n = 1.5"], ["sql", "INSERT INTO words VALUES ('new', 'word')"]],
            [["sql", "ALTER TABLE plain ADD COLUMN added DEFAULT 4"], ["sql", "DROP VIEW seen"]],
            [["sql", "ALTER TABLE counted RENAME COLUMN a TO b"], ["sql", "DELETE FROM hidden WHERE rowid = 1"]],
            [["sql", "ALTER TABLE generated DROP COLUMN b"], ["sql", "DROP TABLE keyed"], ["setAlarm", 4102444800123]],
            [["sql", "CREATE TABLE keyed(k, n, PRIMARY KEY (n)) WITHOUT ROWID; INSERT INTO keyed VALUES (1, 2)"]],
            [["deleteAll"]],
        ):
            _, done = zoo.call("Zoo", "tables", *change) if change else ("", [])
            assert not [r for r in done if r and "error" in r]
            synced(remote, zoo.source())
            local(mine, zoo.runtime.state)
            assert_equal(mine, remote, "Zoo", id)
        assert mine.find("Zoo", id).rows == 0


def test_a_large_table_is_read_in_chunks(zoo: Zoo, mirror: Mirror) -> None:
    id, _ = zoo.call(
        "Zoo", "large", ["sql", "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b, c, d)"], ["rows", "t", 50_000]
    )
    mirror.history = "1000"
    first = local(mirror, zoo.runtime.state)
    assert first.upserted >= 50_000
    assert list(mirror.changes()) == [], "what was there at first is no change"
    for statement, changed in (
        ("UPDATE t SET a = 'x' WHERE id = 30000", (1, 0)),
        ("DELETE FROM t WHERE id BETWEEN 100 AND 199", (0, 100)),
        ("INSERT INTO t(a) VALUES ('end')", (1, 0)),
        ("DELETE FROM t WHERE id > 1000", (0, 49_001)),
    ):
        zoo.run("Zoo", "large", ["sql", statement])
        result = local(mirror, zoo.runtime.state)
        assert (result.upserted, result.deleted) == changed, statement
    assert mirror.find("Zoo", id).rows == 900
    assert list(mirror.query("SELECT count(*), sum(id) FROM Zoo__t")) == [
        (900, 1000 * 1001 // 2 - sum(range(100, 200)))
    ]


def test_it_leaves_no_trace(zoo: Zoo, mirror: Mirror, tmp_path: Path) -> None:
    """No file is made, changed, or locked; neither while workerd runs, nor after it ended, nor after a crash."""
    state = tmp_path / "state"
    with Runtime(zoo_worker(tmp_path, wrapped=False), state) as runtime:
        own = Zoo(runtime)
        own.run("Zoo", "x", ["put", "a", 1], ["sync"])

        def listing() -> dict[str, tuple[int, int, bytes]]:
            files = [path for path in state.rglob("*") if path.is_file()]
            return {str(p): (p.stat().st_ino, p.stat().st_mtime_ns, p.read_bytes()) for p in files}

        for ending in (None, False, True):
            if ending is not None:
                runtime.stop(kill=ending)
            before = listing()
            assert any(name.endswith("-shm") for name in before) == (ending is not False)
            assert local(mirror, state).known == 1
            assert listing() == before
            inodes = {str(inode) for inode, _, _ in before.values()}
            locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
            assert not [lock for lock in locks if lock[4] == str(os.getpid()) and lock[5].split(":")[-1] in inodes]
            if ending is False:
                runtime.start()
                own.run("Zoo", "x", ["put", "a", 2], ["sync"])


@pytest.mark.parametrize("without", ["-shm", "garbage"])
def test_after_a_crash_the_log_is_recovered_in_a_copy(tmp_path: Path, mirror: Mirror, without: str) -> None:
    state = tmp_path / "state"
    with Runtime(zoo_worker(tmp_path), state) as runtime:
        zoo = Zoo(runtime)
        id, _ = zoo.call("Zoo", "x", ["many", 300, 100], ["sync"])
        runtime.stop(kill=True)
        shm = zoo.file("Zoo", id).with_name(f"{id}.sqlite-shm")
        if without == "garbage":
            shm.write_bytes(os.urandom(32768))
        else:
            shm.unlink()
        before = sorted(path.name for path in shm.parent.iterdir())
        local(mirror, state)
        assert mirror.find("Zoo", id).entries == 300
        assert sorted(path.name for path in shm.parent.iterdir()) == before
        # And goes on once it runs again.
        runtime.start()
        zoo.run("Zoo", "x", ["put", "z", 1], ["sync"])
        local(mirror, state)
        assert mirror.find("Zoo", id).entries == 301


def test_no_torn_reads_while_workerd_writes_and_checkpoints(zoo: Zoo) -> None:
    id, _ = zoo.call("Zoo", "torn", ["sql", "CREATE TABLE pair(k PRIMARY KEY, v); CREATE TABLE bulk(a, b)"])
    stop = threading.Event()
    failures: list[BaseException] = []
    fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400)"

    def write() -> None:
        number = 0
        try:
            while not stop.is_set():
                number += 1
                zoo.run("Zoo", "torn", ["transactionSync", [
                    ["sql", "INSERT OR REPLACE INTO pair VALUES (1, ?)", number], ["sql", "DELETE FROM bulk"],
                    ["sql", f"{fill} INSERT INTO bulk SELECT ?, hex(randomblob(50)) FROM n", number],
                    ["sql", "INSERT OR REPLACE INTO pair VALUES (2, ?)", -number],
                ]])  # fmt: skip
        except BaseException as error:
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    logs: set[str] = set()
    states: set[int] = set()
    read = 0
    try:
        while len(logs) < 4 or read < 300:
            assert writer.is_alive()
            try:
                with opened(zoo.file("Zoo", id)) as (connection, snapshot):
                    pair = [v for (v,) in connection.execute("SELECT v FROM pair ORDER BY k")]
                    bulk = connection.execute("SELECT count(*), min(a), max(a) FROM bulk").fetchone()
                    sound = connection.pragma("integrity_check")
                    snapshot.check()
            except Moved:
                continue
            assert sound == "ok"
            if pair and bulk is not None:
                assert pair == [bulk[1], -bulk[2]] and bulk[0] == 400
                states.add(pair[0])
            logs.add(snapshot.version.split(".")[1])
            read += 1
    finally:
        stop.set()
        writer.join()
    assert not failures
    assert len(states) > 10


def test_files_that_are_no_objects(zoo: Zoo, mirror: Mirror, tmp_path: Path) -> None:
    """Each is told of with the reason; a damaged one fails; all others are mirrored."""
    zoo.run("Zoo", "whole", ["put", "a", 1], ["sync"])
    state = tmp_path / "state"
    shutil.copytree(zoo.runtime.state, state)
    folder = state / "zoo-Zoo"
    ids = sorted(path.stem for path in folder.glob("*.sqlite") if len(path.stem) == 64)
    facet, foreign, damaged = folder / f"{ids[0]}.facets", folder / f"{'ab' * 32}.sqlite", folder / f"{ids[0]}.sqlite"
    facet.write_bytes(b"facets")
    (folder / f"{ids[0]}.1.sqlite").write_bytes(b"")
    shutil.copy(folder / f"{ids[0]}.sqlite", foreign)
    (folder / "notes.txt").write_text("mine")
    (state / "stray").mkdir()
    garbage = id_from_name("zoo-Zoo", "garbage")
    (folder / f"{garbage}.sqlite").write_bytes(b"not a database at all, " * 400)
    for suffix in ("-wal", "-shm"):
        damaged.with_name(damaged.name + suffix).unlink(missing_ok=True)
    content = bytearray(damaged.read_bytes())
    content[100:] = b"\x5a" * (len(content) - 100)
    damaged.write_bytes(content)
    result = LocalSync(mirror, LocalSource(state)).run()
    notes = "\n".join(result.notes)
    assert "notes.txt: not an object's file" in notes
    assert f"{facet.name}: a facet's file" in notes and ".1.sqlite: a facet's file" in notes
    assert f"{foreign.name}: its id belongs to another class" in notes
    assert "stray: not named" in notes
    assert {(f.id, f.code) for f in result.failures} == {(ids[0], "unreadable_file"), (garbage, "unreadable_file")}
    assert mirror.find("Zoo", id_from_name("zoo-Zoo", "whole")).status == "ok"
    assert {info.id for info in mirror.objects(failed=True)} == {ids[0], garbage}


def test_names_follow_from_ids(zoo: Zoo, mirror: Mirror) -> None:
    zoo.run("Zoo", "offered name", ["put", "a", 1])
    zoo.run("Zoo", "alarmed", ["setAlarm", 4102444800123])
    zoo.run("Zoo", "unknown", ["put", "a", 1])
    local(mirror, zoo.runtime.state, names=["offered name", "nobody"])
    names = {info.name for info in mirror.objects("Zoo")}
    assert {"offered name", "alarmed"} <= names
    assert "unknown" not in names and "nobody" not in names
    # A name that nobody told is found all the same, since the id follows from it.
    assert mirror.find("Zoo", "unknown").id == id_from_name("zoo-Zoo", "unknown")


def test_objects_that_vanish_and_come_back(tmp_path: Path, mirror: Mirror) -> None:
    state = tmp_path / "state"
    with Runtime(zoo_worker(tmp_path), state) as runtime:
        zoo = Zoo(runtime)
        a, _ = zoo.call("Zoo", "a", ["put", "k", 1], ["sql", "CREATE TABLE t(x); INSERT INTO t VALUES (1)"])
        zoo.run("Zoo", "b", ["put", "k", 1])
        mirror.history = "100"
        local(mirror, state)
        do_id = mirror.find("Zoo", a).do_id
        runtime.stop()
        zoo.file("Zoo", a).unlink()
        result = local(mirror, state)
        assert result.gone == 1
        assert [info.name for info in mirror.objects("Zoo")] == [None]
        assert list(mirror.query("SELECT count(*) FROM Zoo__t")) == [(0,)]
        gone = [(c.kind, c.operation, c.id) for c in mirror.changes()]
        assert gone == [("kv", "delete", a), ("table", "delete", a), ("object", "delete", a)]
        runtime.start()
        zoo.run("Zoo", "a", ["put", "k", 2])
        zoo.run("Zoo", "c", ["put", "k", 3])
        local(mirror, state)
        assert mirror.find("Zoo", a).do_id == do_id, "the same object again"
        assert len({info.do_id for info in mirror.objects("Zoo")}) == 3
        # The whole state is deleted.
        runtime.stop()
        shutil.rmtree(state)
        assert local(mirror, tmp_path, persist_to=tmp_path).gone == 0, "another folder takes nothing away"
        (state / "zoo-Zoo").mkdir(parents=True)
        (state / "zoo-Zoo" / "metadata.sqlite").touch()
        assert local(mirror, state).gone == 3
        assert list(mirror.objects()) == []


def test_a_file_that_vanishes_while_it_is_read(zoo: Zoo, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo.run("Zoo", "vanishing", ["put", "a", 1])
    source = LocalSource(zoo.runtime.state)
    listing = source.look()
    [(item, version)] = [
        found for key, found in listing.workers["zoo"].items() if key[1] == id_from_name("zoo-Zoo", "vanishing")
    ]
    nowhere = type(item)(item.path.with_name("gone.sqlite"), item.class_name, item.id, None, "sqlite", None)
    listing.workers["zoo"][item.class_name, item.id] = (nowhere, version)
    monkeypatch.setattr(source, "look", lambda changed=None: listing)
    result = LocalSync(mirror, source).run()
    assert [(f.id, f.code) for f in result.failures] == [(item.id, "busy")]
    # Its file is there, only not where it was looked for: were it gone, it would be no failure.
    assert result.changed == result.known - 1


def test_another_folder_under_the_same_name(zoo: Zoo, mirror: Mirror, tmp_path: Path) -> None:
    zoo.run("Zoo", "a", ["put", "k", 1])
    local(mirror, zoo.runtime.state)
    count = len(list(mirror.objects()))
    other = tmp_path / "other"
    shutil.copytree(zoo.runtime.state, other)
    result = LocalSync(mirror, LocalSource(other)).run()
    assert result.error is not None and result.error.code == "worker_name_taken"
    with Mirror(tmp_path / "moved.sqlite") as moved:
        local(moved, other)
        other.rename(tmp_path / "renamed")
        local(moved, tmp_path / "renamed")
        assert len(list(moved.objects())) == count
    with pytest.raises(UsageError):
        LocalSource(tmp_path / "nowhere")


def test_verify_and_full(zoo: Zoo, mirror: Mirror) -> None:
    zoo.run("Zoo", "verified", ["put", "k", 1])
    source = LocalSource(zoo.runtime.state)
    assert sync_sources(mirror, [source]).error() is None
    result, compared, differences = verify(mirror, source)
    assert (result.error(), differences) == (None, []) and compared == len(list(mirror.objects()))
    # A quiet sync writes nothing at all. The runtime may tidy up a file that nothing uses any more, between two looks.
    for _ in range(20):
        before = list(mirror.query("PRAGMA data_version")), sorted(mirror.query("SELECT * FROM durable_objects"))
        if sync_sources(mirror, [source]).total("visited") == 0:
            break
    else:
        raise AssertionError("it is never quiet")
    assert (list(mirror.query("PRAGMA data_version")), sorted(mirror.query("SELECT * FROM durable_objects"))) == before
    path = str(mirror.path)
    mirror.close()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE _durafetch_kv SET val = '2'")
    with Mirror(path) as again:
        assert {d.what for d in verify(again, source)[2]} == {"kv"}
        assert sync_sources(again, [source], full=True).error() is None
        assert not verify(again, source)[2]


def test_beside_the_deployed_worker(zoo: Zoo, tmp_path: Path) -> None:
    """The same Worker, local and deployed, in one mirror under two names."""
    zoo.run("Zoo", "both", ["put", "k", 1])
    with Mirror(tmp_path / "both.sqlite") as mirror:
        assert sync_sources(mirror, [zoo.source(), LocalSource(zoo.runtime.state, name="local")]).error() is None
        assert [worker.name for worker in mirror.workers()] == ["local-zoo", "zoo"]
        id = id_from_name("zoo-Zoo", "both")
        rows = list(mirror.query("SELECT worker_name, key, val FROM kv WHERE id = ? ORDER BY 1", [id]))
        assert rows == [("local-zoo", "k", "1"), ("zoo", "k", "1")]
        assert not verify(mirror, LocalSource(zoo.runtime.state, name="local"))[2]
        none = sync_sources(mirror, [LocalSource(zoo.runtime.state, persist_to=tmp_path)]).error()
        assert none is not None and none.code == "no_state"


def test_several_workers_in_one_project(zoo: Zoo, mirror: Mirror, tmp_path: Path) -> None:
    """Two Workers that `wrangler dev` ran together, one with hyphens in its name, and classes of the same name."""
    zoo.run("Zoo", "shared name", ["put", "k", 1], ["sync"])
    state = tmp_path / "project" / ".wrangler" / "state" / "v3" / "do"
    shutil.copytree(zoo.runtime.state, state)
    with Runtime(replace(zoo_worker(tmp_path), name="my-other-worker"), state) as runtime:
        other = Zoo(runtime)
        other.run("Zoo", "shared name", ["put", "k", 2])
        for config in ("wrangler.toml", "wrangler.json", "wrangler.jsonc"):
            (tmp_path / "project" / config).write_text('name = "zoo"' if config.endswith("toml") else '{"name": "zoo"}')
            local(mirror, tmp_path / "project")
            (tmp_path / "project" / config).unlink()
        rows = sorted(mirror.query("SELECT worker_name, val FROM kv WHERE class_name = 'Zoo' AND key = 'k' AND id IN (?, ?)",
                      [id_from_name(f"{worker}-Zoo", "shared name") for worker in ("zoo", "my-other-worker")]))  # fmt: skip
        assert rows == [("my-other-worker", "2"), ("zoo", "1")]
        assert LocalSync(mirror, LocalSource(tmp_path / "project")).run().worker is None
        shutil.rmtree(state / "my-other-worker-Zoo", ignore_errors=True)
        runtime.stop(kill=True)
    local(mirror, tmp_path / "project")
    assert {info.worker_name for info in mirror.objects()} == {"zoo"}

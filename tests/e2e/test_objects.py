"""Objects of every kind, found and followed: classes, names, ids, starts, writes, transactions, the directory."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from durafetch import Mirror, WorkerSource, sync_sources
from scripts.workerd import Runtime, Worker, bundle
from tests.support import TOKEN, WORKERS, Oracle, Zoo, synced, zoo_worker


def get(zoo: Zoo, path: str, token: str | None = TOKEN, data: bytes | None = None) -> tuple[int, Any]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"{zoo.url}/__durafetch/v1/{path}", data, headers)
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_by_name_by_id_and_unique(zoo: Zoo, mirror: Mirror) -> None:
    named, _ = zoo.call("Zoo", "by name", ["put", "k", 1])
    unique, _ = zoo.call("Zoo", None, ["put", "k", 2])
    zoo.run("Zoo", None, ["put", "more", 3], id=named)  # by idFromString, which knows no name
    synced(mirror, zoo.source())
    assert mirror.find("Zoo", "by name").id == named
    assert mirror.find("Zoo", unique).name is None
    assert mirror.find("Zoo", unique[:10]).entries == 1


def test_a_name_that_is_learnt_later_reaches_all_rows(tmp_path: Path, bundles: Path, mirror: Mirror) -> None:
    with Runtime(zoo_worker(bundles), tmp_path / "state") as runtime:
        zoo = Zoo(runtime)
        id, _ = zoo.call("Zoo", "learnt", ["sql", "CREATE TABLE learnt(a)"], ["sql", "INSERT INTO learnt VALUES (1)"])
        runtime.stop()
        for leftover in (tmp_path / "state" / "zoo-DurafetchDirectory").glob("*"):
            leftover.unlink()
        runtime.start()
        zoo.run("Zoo", None, ["get", "x"], id=id)
        synced(mirror, zoo.source())
        assert list(mirror.query("SELECT name FROM Zoo__learnt")) == [(None,)]
        runtime.stop()
        runtime.start()
        zoo.run("Zoo", "learnt", ["put", "x", 1])
        synced(mirror, zoo.source())
        assert list(mirror.query("SELECT name FROM Zoo__learnt")) == [("learnt",)]
        runtime.stop()
        runtime.start()
        zoo.run("Zoo", None, ["put", "x", 2], id=id)
        synced(mirror, zoo.source())
        assert mirror.find("Zoo", "learnt").name == "learnt"


def test_a_pull_does_not_make_the_next_sync_visit_again(tmp_path: Path, bundles: Path, mirror: Mirror) -> None:
    with Runtime(zoo_worker(bundles), tmp_path / "state") as runtime:
        zoo = Zoo(runtime)
        for cls in ("Zoo", "Old", "Eager"):
            zoo.run(cls, "one", ["put", "a", 1])
        synced(mirror, zoo.source())
        runtime.stop()
        runtime.start()
        with Mirror(tmp_path / "second.sqlite") as second:
            synced(second, zoo.source())  # wakes all of them
        result = synced(mirror, zoo.source())
        assert (result.total("visited"), result.total("requests")) == (0, 1)


def test_after_a_restart_all_chunks_are_looked_at_and_the_changed_ones_sent(
    tmp_path: Path, bundles: Path, mirror: Mirror
) -> None:
    with Runtime(zoo_worker(bundles), tmp_path / "state") as runtime:
        zoo = Zoo(runtime).ready()
        id, _ = zoo.call("Zoo", "wide", ["many", 500, 200])
        first = synced(mirror, zoo.source())
        [(text,)] = mirror.query("SELECT chunks FROM _durafetch_state")
        bounds = [upto[0] for upto, _ in json.loads(str(text))["kv"][:-1]]
        assert len(bounds) > 10
        runtime.stop()
        runtime.start()
        # The last entry of a chunk goes, others change and come.
        zoo.run(
            "Zoo", "wide", ["delete", bounds[3]], ["put", "k000020", "other"], ["put", bounds[7] + "a", "new"], ["sync"]
        )
        second = synced(mirror, zoo.source())
        assert (second.total("upserted"), second.total("deleted")) == (2, 1)
        assert second.total("bytes") < first.total("bytes") / 4
        entries = mirror.dump(mirror.find("Zoo", "wide")).entries
        assert [key for key, _, _ in entries] == list(Oracle(zoo.file("Zoo", id)).entries)
        assert {key: val for key, val, _ in entries}["k000020"] == '"other"'


def test_nothing_changed_writes_nothing(zoo: Zoo, mirror: Mirror) -> None:
    zoo.run("Zoo", "quiet", ["put", "a", 1])
    synced(mirror, zoo.source())
    before = Path(mirror.path).read_bytes(), (Path(f"{mirror.path}-wal")).stat().st_size
    result = synced(mirror, zoo.source())
    assert (Path(mirror.path).read_bytes(), (Path(f"{mirror.path}-wal")).stat().st_size) == before
    assert (result.total("requests"), result.total("visited")) == (1, 0)


def test_writes_in_the_constructor(zoo: Zoo, mirror: Mirror) -> None:
    zoo.run("Eager", "eager", ["get", "born"])
    synced(mirror, zoo.source())
    assert list(mirror.query("SELECT name, at FROM Eager__born")) == [("eager", 1)]
    assert mirror.find("Eager", "eager").entries == 1


@pytest.mark.parametrize(
    ("steps", "entries"),
    [
        ([["put", {"a": 1, "b": 2}]], {"a": "1", "b": "2"}),
        ([["put", {"a": 1, "b": 2}], ["delete", ["a", "b"]]], {}),
        ([["transaction", [["put", "a", 1], ["put", "b", 2]], "commit"]], {"a": "1", "b": "2"}),
        ([["put", "a", 0], ["transaction", [["put", "a", 1]], "rollback"]], {"a": "0"}),
        ([["put", "a", 0], ["transaction", [["put", "a", 1]], "throw"]], {"a": "0"}),
        ([["put", "a", 0], ["transaction", [["put", "a", 1]], "wait"]], {"a": "1"}),
        ([["put", "a", 1], ["deleteAll"], ["put", "b", 2]], {"b": "2"}),
    ],
    ids=str,
)
@pytest.mark.parametrize("cls", ["Zoo", "Old"])
def test_every_way_to_write_entries_is_noticed(
    zoo: Zoo, mirror: Mirror, cls: str, steps: list[list[Any]], entries: dict[str, str]
) -> None:
    name = f"writes {cls} {steps}"
    zoo.run(cls, name, ["put", "before", 1])
    synced(mirror, zoo.source())
    zoo.run(cls, name, ["delete", "before"], *steps)
    synced(mirror, zoo.source())
    assert {key: val for key, val, _ in mirror.dump(mirror.find(cls, name)).entries} == entries


def test_transaction_sync_and_alarms_that_ring(zoo: Zoo, mirror: Mirror) -> None:
    zoo.run("Zoo", "tx", ["sql", "CREATE TABLE tx(a)"])
    synced(mirror, zoo.source())
    zoo.run("Zoo", "tx", ["transactionSync", [["sql", "INSERT INTO tx VALUES (1)"]], "commit"])
    zoo.run("Zoo", "tx", ["transactionSync", [["sql", "INSERT INTO tx VALUES (2)"]], "throw"])
    synced(mirror, zoo.source())
    assert list(mirror.query("SELECT a FROM Zoo__tx")) == [(1,)]
    for cls in ("Zoo", "Old"):
        zoo.run(cls, "ring", ["setAlarm", 1], ["wait", 300])
    synced(mirror, zoo.source())
    assert mirror.find("Zoo", "ring").alarm_at is None
    assert list(mirror.query("SELECT class_name, val FROM kv WHERE name = 'ring' ORDER BY 1")) == [
        ("Old", '"rang"'),
        ("Zoo", '"rang"'),
    ]


def test_info_tells_which_classes_are_wrapped(zoo: Zoo) -> None:
    for cls in ("Zoo", "Eager", "Old", "Bare"):
        zoo.run(cls, "info", ["put", "a", 1])
    status, body = get(zoo, "info")
    assert status == 200
    classes = {item["name"]: item["wrapped"] for item in json.loads(body)["classes"]}
    assert classes == {"Zoo": True, "Eager": True, "Old": True, "Broken": True, "Bare": False}


def test_a_class_that_is_not_wrapped_breaks_nothing(zoo: Zoo) -> None:
    id, _ = zoo.call("Bare", "bare", ["put", "a", 1])
    wrapped, _ = zoo.call("Zoo", "beside", ["put", "a", 1])
    body = {"seed": "0" * 16, "objects": [{"class": "Bare", "id": id}, {"class": "Zoo", "id": wrapped}]}
    status, reply = get(zoo, "pull", data=json.dumps(body).encode())
    frames = [json.loads(line) for line in reply.splitlines()]
    assert status == 200
    assert (frames[0]["frame"], frames[0]["code"]) == ("error", "class_not_wrapped")
    assert frames[1]["frame"] == "object"
    assert frames[-1] == {"frame": "done", "objects": 2, "failed": 1}


def test_one_failing_object_does_not_stop_the_others(tmp_path: Path, bundles: Path, mirror: Mirror) -> None:
    state = tmp_path / "state"
    with Runtime(zoo_worker(bundles), state) as runtime:
        Zoo(runtime).run("Broken", "b", ["put", "a", 1])
        Zoo(runtime).run("Zoo", "z", ["put", "a", 1])
    with Runtime(zoo_worker(bundles, BROKEN="1"), state) as runtime:
        result = sync_sources(mirror, [Zoo(runtime).source()])
        assert (result.total("visited"), result.total("failed"), result.total("changed")) == (2, 1, 1)
        error = result.error()
        assert error is not None and error.exit_status == 3
        [failed] = mirror.objects(failed=True)
        assert failed.class_name == "Broken" and "broken on purpose" in (failed.error or "")
    with Runtime(zoo_worker(bundles), state) as runtime:
        synced(mirror, Zoo(runtime).source())  # tried again, although the directory has nothing new
        assert mirror.find("Broken", "b").status == "ok"


def test_many_workers_into_one_file(tmp_path: Path, bundles: Path, mirror: Mirror) -> None:
    first, second = zoo_worker(bundles), zoo_worker(bundles)
    second.name = "other"
    with Runtime(first, tmp_path / "one") as a, Runtime(second, tmp_path / "two") as b:
        for runtime in (a, b):
            for n in range(150):
                Zoo(runtime).run("Zoo", f"o{n}", ["put", "url", runtime.url])
        synced(mirror, WorkerSource(a.url, token=TOKEN, name="a"), WorkerSource(b.url, token=TOKEN, name="b"))
        counts = "SELECT worker_name, count(*), count(DISTINCT val) FROM kv GROUP BY 1 ORDER BY 1"
        assert list(mirror.query(counts)) == [("a", 150, 1), ("b", 150, 1)]
        b.stop()
        Zoo(a).run("Zoo", "new", ["put", "x", 1])
        result = sync_sources(
            mirror, [WorkerSource(a.url, token=TOKEN, name="a"), WorkerSource(b.url, token=TOKEN, name="b")]
        )
        error = result.error()
        assert error is not None and error.exit_status == 3
        assert mirror.find("Zoo", "new").status == "ok"


def test_a_directory_that_began_anew(tmp_path: Path, bundles: Path, mirror: Mirror) -> None:
    with Runtime(zoo_worker(bundles), tmp_path / "state") as runtime:
        zoo = Zoo(runtime)
        for n in range(3):
            zoo.run("Zoo", f"o{n}", ["put", "a", n])
        synced(mirror, zoo.source())
        runtime.stop()
        for leftover in (tmp_path / "state" / "zoo-DurafetchDirectory").glob("*"):
            leftover.unlink()
        runtime.start()
        zoo.ready().run("Zoo", "o1", ["put", "a", "changed"], ["sync"])
        # Its number in the new directory is one that the old one had given, too.
        zoo.run("Zoo", "p", ["put", "a", "new"], ["sync"])
        result = synced(mirror, zoo.source())
        assert result.total("visited") == 4
        values = [("0",), ('"changed"',), ("2",), ('"new"',)]
        assert list(mirror.query("SELECT val FROM kv ORDER BY name")) == values


def test_shards(tmp_path: Path, bundles: Path, mirror: Mirror) -> None:
    state = tmp_path / "state"
    with Runtime(zoo_worker(bundles), state) as runtime:
        for n in range(20):
            Zoo(runtime).run("Zoo", f"o{n}", ["put", "a", n])
        synced(mirror, Zoo(runtime).source())
    with Runtime(zoo_worker(bundles, DURAFETCH_SHARDS="4"), state) as runtime:
        for n in range(10, 30):
            Zoo(runtime).run("Zoo", f"o{n}", ["put", "a", -n])
        result = synced(mirror, Zoo(runtime).source())
        assert (result.total("known"), result.total("changed")) == (30, 20)
        assert synced(mirror, Zoo(runtime).source()).total("visited") == 0


def test_a_listing_waits_for_the_announcement_of_an_answered_write(
    tmp_path: Path, bundles: Path, mirror: Mirror
) -> None:
    worker = zoo_worker(bundles)
    worker.script = bundle(WORKERS / "zoo_slow_directory.ts", bundles / "zoo_slow_directory.js")
    with Runtime(worker, tmp_path / "state") as runtime:
        zoo = Zoo(runtime).ready()
        for n in range(2):
            zoo.run("Zoo", "one", ["put", "k", n])
            synced(mirror, zoo.source())
            assert list(mirror.query("SELECT val FROM kv WHERE name = 'one'")) == [(str(n),)]


def test_app_is_reached_beside_durafetch(zoo: Zoo) -> None:
    with urllib.request.urlopen(f"{zoo.url}/anything?x=/__durafetch/") as response:
        assert response.read() == b"app GET /anything"


def test_before_ctx_exports_by_bindings(tmp_path: Path, bundles: Path, mirror: Mirror) -> None:
    script = bundle(WORKERS / "old_date.ts", bundles / "old_date.js")
    worker = Worker(
        script, ["Note", "DurafetchDirectory"], env={"DURAFETCH_TOKEN": TOKEN}, compatibility_date="2025-06-01",
        bindings={"NOTES": "Note", "DIRECTORY": "DurafetchDirectory"},
    )  # fmt: skip
    with Runtime(worker, tmp_path / "state") as runtime:
        with urllib.request.urlopen(f"{runtime.url}/hello") as response:
            assert response.read() == b"private fields work"
        synced(mirror, WorkerSource(runtime.url, token=TOKEN))
    assert list(mirror.query("SELECT class_name, name, key FROM kv")) == [("Note", "one", "text")]


def test_the_directory_keeps_a_name_that_it_learnt(tmp_path: Path, bundles: Path) -> None:
    """An object that starts by its id, later, has no name of itself; a mirror made then knows it all the same."""
    with Runtime(zoo_worker(bundles), tmp_path / "state") as runtime:
        zoo = Zoo(runtime).ready()
        id, _ = zoo.call("Zoo", "known by name", ["put", "k", 1], ["sync"])
        with Mirror(tmp_path / "before.sqlite") as mirror:
            synced(mirror, zoo.source())
        runtime.stop(kill=True)
        runtime.start()
        zoo.run("Zoo", None, ["put", "k", 2], ["sync"], id=id)
        with Mirror(tmp_path / "after.sqlite") as mirror:
            synced(mirror, zoo.source())
            assert [(info.id, info.name) for info in mirror.objects()] == [(id, "known by name")]

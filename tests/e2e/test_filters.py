"""Filters: what they leave out is never in the mirror, and changing them adds and removes at the next sync."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from durafetch import LocalSource, Mirror, WorkerSource, sync_sources
from durafetch.errors import UsageError
from durafetch.filters import ALL, Filters
from durafetch.ids import id_from_name
from scripts.workerd import Runtime
from tests.support import TOKEN, Zoo, cli, synced, zoo_worker
from tests.watching import Watching, until

Contents = dict[str, set[str]]


@pytest.fixture
def own(tmp_path: Path, bundles: Path) -> Iterator[Zoo]:
    with Runtime(zoo_worker(bundles), tmp_path / "state") as runtime:
        zoo = Zoo(runtime).ready()
        for name in ("lobby", "test1"):
            zoo.run(
                "Zoo", name, ["put", {"item:a": 1, "item:b": 2, "secret": 3}],
                ["sql", "CREATE TABLE messages(id INTEGER PRIMARY KEY, t); INSERT INTO messages(t) VALUES ('x'), ('y')"],
                ["sql", "CREATE TABLE Audit(a); INSERT INTO Audit VALUES (1); CREATE INDEX by_a ON Audit(a)"],
            )  # fmt: skip
        zoo.run("Old", "cart", ["put", {"item:a": 1, "secret": 3}], ["sync"])
        zoo.run("Eager", "eager", ["put", "item:z", 1])
        yield zoo
        runtime.stop(kill=True)


def contents(mirror: Mirror) -> Contents:
    """Each object's keys and tables with rows; its schema's tables, too."""
    names = {
        id_from_name(f"zoo-{c}", n): n for c in ("Zoo", "Old", "Eager") for n in ("lobby", "test1", "cart", "eager")
    }
    found: Contents = {}
    for info in mirror.objects():
        dump = mirror.dump(info)
        parts = (
            {key for key, _, _ in dump.entries}
            | {f"[{t}]" for t in dump.tables}
            | {f"[{e.table}]" for e in dump.schema}
        )
        found[names[info.id]] = parts
        assert info.entries == len(dump.entries)
        assert info.rows == sum(len(table.rows) for table in dump.tables.values())
    return found


ITEMS = {"item:a", "item:b"}
TABLES = {"[messages]", "[Audit]"}
WHOLE: Contents = {
    "lobby": {*ITEMS, "secret", *TABLES}, "test1": {*ITEMS, "secret", *TABLES}, "cart": {"item:a", "secret"},
    "eager": {"born", "item:z", "[born]"},
}  # fmt: skip
STEPS: list[tuple[list[str], list[str], Contents]] = [
    ([], [], WHOLE),
    (["key=item:*"], ["table=*"], {"lobby": ITEMS, "test1": ITEMS, "cart": {"item:a"}, "eager": {"item:z"}}),
    (["key=item:*"], ["table=audit", "object=test*"],
     {"lobby": {*ITEMS, "[messages]"}, "cart": {"item:a"}, "eager": {"item:z", "[born]"}}),
    (["class=Zoo", "object=lobby"], ["key=*"], {"lobby": TABLES}),
    ([], ["class=E*"], {k: v for k, v in WHOLE.items() if k != "eager"}),
    (["class=Nobody"], [], {}),
    ([], [], WHOLE),
]  # fmt: skip


@pytest.mark.parametrize("way", ["server", "client", "local"])
def test_each_filter_and_each_change_of_it(own: Zoo, mirror: Mirror, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluated by the server, by the client alone (as with a server that knows no filters), and on local files."""
    if way == "client":
        monkeypatch.setattr(Filters, "wire", lambda self: None)

    def source(filters: Filters) -> Any:
        if way == "local":
            names = ["lobby", "test1", "cart", "eager"]
            return LocalSource(own.runtime.state, filters=filters, names=names)
        return WorkerSource(own.url, token=TOKEN, name="zoo", filters=filters)

    for include, exclude, expected in STEPS:
        filters = Filters.parse(include, exclude)
        synced(mirror, source(filters))
        assert contents(mirror) == expected, (include, exclude)
        # The runtime may tidy up a file that nothing uses any more, between two looks at it.
        assert any(synced(mirror, source(filters)).total("visited") == 0 for _ in range(20))
        # What is left out stays out when it changes.
        own.run("Zoo", "lobby", ["put", {"secret": len(include), "item:a": 5}], ["sql", "INSERT INTO Audit VALUES (2)"])
        own.run("Zoo", "test1", ["put", "item:a", 5])
        synced(mirror, source(filters))
        assert contents(mirror) == expected, (include, exclude)
    raw = b"".join(path.read_bytes() for path in Path(str(mirror.path)).parent.glob("mirror.sqlite*"))
    assert b"item:a" in raw


def test_the_server_sends_nothing_that_is_left_out(own: Zoo, mirror: Mirror) -> None:
    own.run("Zoo", "lobby", ["many", 2000, 100, "bulk"])
    everything = synced(mirror, own.source()).total("bytes")
    with Mirror(mirror.path) as again:
        filters = Filters.parse([], ["key=bulk*", "table=*"])
        result = sync_sources(again, [WorkerSource(own.url, token=TOKEN, name="zoo", filters=filters)], full=True)
        assert result.error() is None and result.total("bytes") < everything / 20
        assert again.find("Zoo", "lobby").entries == 3
        # An object that is left out is not asked for.
        own.run("Zoo", "test1", ["put", "k", 1])
        filters = Filters.parse(["object=lobby"], [])
        result = sync_sources(again, [WorkerSource(own.url, token=TOKEN, name="zoo", filters=filters)])
        assert [info.name for info in again.objects()] == ["lobby"]


def test_watch_with_filters(own: Zoo, tmp_path: Path) -> None:
    filters = Filters.parse(["object=lobby", "object=new*"], ["key=secret"])
    source = WorkerSource(own.url, token=TOKEN, name="zoo", filters=filters)
    with Watching(tmp_path / "m.sqlite", source) as watched:
        own.run("Zoo", "test1", ["put", "item:a", 9])
        own.run("Zoo", "new one", ["put", {"k": 1, "secret": 1}])
        own.run("Zoo", "lobby", ["put", {"item:a": 9, "secret": 9}])
        until(lambda: watched.value("lobby", "item:a") == "9" and watched.value("new one", "k") == "1")
        assert {info.name for info in watched.reader.objects()} == {"lobby", "new one"}
        assert not list(watched.reader.query("SELECT 1 FROM kv WHERE key = 'secret'"))


def test_a_name_that_is_learnt_later_may_leave_an_object_out(own: Zoo, mirror: Mirror) -> None:
    id, _ = own.call("Zoo", "test9", ["put", "k", 1])
    own.runtime.stop(kill=True)
    for file in (own.runtime.state / "zoo-DurafetchDirectory").glob("*"):
        file.unlink()
    own.runtime.start()
    own.run("Zoo", None, ["put", "k", 2], id=id)
    filters = Filters.parse([], ["object=test*"])
    source = WorkerSource(own.url, token=TOKEN, name="zoo", filters=filters)
    synced(mirror, source)
    assert [info.id for info in mirror.objects("Zoo")] == [id], "no name is known, and its id does not match"
    own.runtime.stop(kill=True)
    own.runtime.start()
    own.run("Zoo", "test9", ["put", "k", 3])
    synced(mirror, source)
    assert list(mirror.objects("Zoo")) == []


def test_the_configuration_and_the_command_line(own: Zoo, tmp_path: Path) -> None:
    (tmp_path / "durafetch.toml").write_text(
        f'exclude = ["key=secret"]\n[sources.a]\nurl = "{own.url}"\nname = "zoo"\ninclude = ["class=Zoo", "class=Old"]\n'
    )
    assert cli("sync", "a", "--exclude", "object=test*", cwd=tmp_path).returncode == 0
    with Mirror(tmp_path / "durafetch.sqlite") as mirror:
        expected = {"lobby": WHOLE["lobby"] - {"secret"}, "cart": {"item:a"}}
        assert contents(mirror) == expected
    assert cli("verify", "a", "--exclude", "object=test*", cwd=tmp_path).returncode == 0
    plan = json.loads(cli("sync", "a", "--dry-run", "--full", "--json", cwd=tmp_path).stdout)
    assert plan["sources"][0]["known"] == 2
    assert cli("sync", "a", cwd=tmp_path).returncode == 0
    with Mirror(tmp_path / "durafetch.sqlite") as mirror:
        assert contents(mirror).keys() == {"lobby", "test1", "cart"}
    for wrong in ("secret", "keys=x", "key="):
        assert cli("sync", "a", "--include", wrong, cwd=tmp_path).returncode == 2
    (tmp_path / "durafetch.toml").write_text(f'exclude = "key=secret"\n[sources.a]\nurl = "{own.url}"\n')
    assert cli("sync", cwd=tmp_path).returncode == 2


def test_patterns() -> None:
    assert not ALL and Filters.parse([], []) == ALL
    assert Filters.parse(["key=b", "key=a", "key=a"], []).keys.include == ("a", "b")
    assert Filters.parse(["table=Messages"], []).table_matches("messages")
    assert not Filters.parse(["key=Messages"], []).keys.matches("messages")
    with pytest.raises(UsageError):
        Filters.parse(["nonsense"], [])

"""`changes` and `history`: what each sync changed, kept within bounds, and the past as a query."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import apsw
import pytest

from durafetch import Mirror
from durafetch.errors import MirrorError, UsageError
from durafetch.mirror.database import APPLICATION_ID, LAYOUT, iso_now
from tests.support import Zoo, cli, synced


def test_what_each_sync_changed(zoo: Zoo, mirror: Mirror) -> None:
    zoo.run("Zoo", "told", ["put", {"a": 1, "b": "$withDate"}], ["sql", "CREATE TABLE t(id INTEGER PRIMARY KEY, v)"])
    synced(mirror, zoo.source())
    assert list(mirror.query("SELECT * FROM changes")) == [], "changes are noted only where that is wanted"
    mirror.history = "1000"
    zoo.run(
        "Zoo", "told", ["put", "a", 2], ["delete", "b"], ["sql", "INSERT INTO t(v) VALUES ('x'), (x'0102'), (1e999)"]
    )
    zoo.run("Zoo", "new", ["put", "k", None])
    synced(mirror, zoo.source())
    columns = "name, kind, table_name, key, operation, before, after"
    assert list(mirror.query(f"SELECT {columns} FROM changes ORDER BY name DESC, change_id")) == [
        ("told", "kv", None, "b", "delete", '{"email":"ann@example.com","at":"2023-11-14T22:13:20.123Z"}', None),
        ("told", "kv", None, "a", "update", "1", "2"),
        ("told", "table", "t", 1, "insert", None, '{"id":1,"v":"x"}'),
        ("told", "table", "t", 2, "insert", None, '{"id":2,"v":{"hex":"0102"}}'),
        ("told", "table", "t", 3, "insert", None, '{"id":3,"v":9e999}'),
        ("new", "object", None, None, "insert", None, '"sqlite"'),
        ("new", "kv", None, "k", "insert", None, "null"),
    ]
    zoo.run("Zoo", "told", ["sql", "ALTER TABLE t ADD COLUMN w DEFAULT 7"], ["setAlarm", 4102444800123])
    synced(mirror, zoo.source())
    zoo.run("Zoo", "told", ["sql", "DROP TABLE t"], ["deleteAlarm"])
    synced(mirror, zoo.source())
    rows = [tuple(row) for row in mirror.query(f"SELECT {columns} FROM changes WHERE change_id > 7")]
    assert [row[1:5] for row in rows] == [
        ("schema", "t", "t", "update"), ("table", "t", 1, "update"), ("table", "t", 2, "update"),
        ("table", "t", 3, "update"), ("alarm", None, None, "insert"), ("table", "t", 1, "delete"),
        ("table", "t", 2, "delete"), ("table", "t", 3, "delete"), ("schema", "t", "t", "delete"),
        ("alarm", None, None, "delete"),
    ]  # fmt: skip
    assert rows[1][6] == '{"id":1,"v":"x","w":7}' and rows[1][5] == '{"id":1,"v":"x","w":null}'
    assert rows[4][6] == '"2100-01-01T00:00:00.123Z"'
    mirror.history = None
    zoo.run("Zoo", "told", ["put", "a", 3])
    synced(mirror, zoo.source())
    assert mirror.last_change == 17


def test_as_it_was(zoo: Zoo, mirror: Mirror) -> None:
    """The documentation's queries (docs/mirror.md)."""
    zoo.run("Zoo", "past", ["put", {"same": 1, "a": 1, "gone": 1}], ["sql", "CREATE TABLE p(id INTEGER PRIMARY KEY, v)"],
            ["sql", "INSERT INTO p(v) VALUES ('one'), ('two'), ('three')"])  # fmt: skip
    mirror.history = "1000"
    synced(mirror, zoo.source())
    moments = []
    rounds: list[list[list[Any]]] = [
        [],
        [["put", "a", 2], ["delete", "gone"], ["sql", "UPDATE p SET v = 'TWO' WHERE id = 2"]],
        [["put", "gone", 3], ["sql", "DELETE FROM p WHERE id = 2"], ["sql", "INSERT INTO p VALUES (9, 'nine')"]],
        [["put", "a", 1], ["sql", "INSERT INTO p VALUES (2, 'again')"]],
    ]
    for steps in rounds:
        if steps:
            zoo.run("Zoo", "past", *steps)
            synced(mirror, zoo.source())
        time.sleep(0.003)
        moments.append(iso_now())
        time.sleep(0.003)

    def then(moment: str, kind: str) -> dict[object, object]:
        sql = ("SELECT key, value FROM history WHERE class_name = 'Zoo' AND name = 'past' AND kind = :kind "
               "AND :at >= valid_from AND :at < valid_to")  # fmt: skip
        return {k: json.loads(str(v)) for k, v in mirror.query(sql, {"kind": kind, "at": moment})}

    assert [then(moment, "kv") for moment in moments] == [
        {"same": 1, "a": 1, "gone": 1}, {"same": 1, "a": 2}, {"same": 1, "a": 2, "gone": 3}, {"same": 1, "a": 1, "gone": 3},
    ]  # fmt: skip
    assert [{k: v["v"] for k, v in then(moment, "table").items()} for moment in moments] == [  # type: ignore[index]
        {1: "one", 2: "two", 3: "three"}, {1: "one", 2: "TWO", 3: "three"}, {1: "one", 3: "three", 9: "nine"},
        {1: "one", 2: "again", 3: "three", 9: "nine"},
    ]  # fmt: skip


def test_only_so_much_is_kept(zoo: Zoo, mirror: Mirror) -> None:
    mirror.history = "10"
    zoo.run("Zoo", "kept", ["put", "x", 0])
    synced(mirror, zoo.source())
    for n in range(1, 8):
        zoo.run("Zoo", "kept", ["put", {"x": n, "y": n, "z": n}])
        synced(mirror, zoo.source())
    assert list(mirror.query("SELECT count(*), min(change_id) > 1 FROM changes")) == [(10, 1)]
    assert list(mirror.query("SELECT json_group_array(after) FROM (SELECT after FROM changes ORDER BY change_id DESC LIMIT 3)")) == [
        ('["7","7","7"]',)
    ]  # fmt: skip
    mirror.history = "0.2s"
    time.sleep(0.3)
    zoo.run("Zoo", "kept", ["put", "x", "last"])
    synced(mirror, zoo.source())
    assert [(c.key, c.after) for c in mirror.changes()] == [("x", '"last"')]
    for wrong in ("", "0", "-1", "soon", "7x"):
        with pytest.raises(UsageError):
            mirror.history = wrong


def test_the_command_line(zoo: Zoo, tmp_path: Path) -> None:
    zoo.run("Zoo", "cli", ["put", "x", 0])
    assert cli("sync", zoo.url, cwd=tmp_path).returncode == 0
    done = cli("log", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "",
        "Changes are not noted here: durafetch sync --history\n",
    )
    assert "changes" not in cli("schema", cwd=tmp_path).stdout
    zoo.run("Zoo", "cli", ["put", "x", 1])
    assert cli("sync", zoo.url, "--history", cwd=tmp_path).returncode == 0
    assert [json.loads(line)["after"] for line in cli("log", "--json", cwd=tmp_path).stdout.splitlines()] == [1]
    assert {"changes", "history"} <= {
        line["table"] for line in json.loads(cli("schema", "--json", cwd=tmp_path).stdout)
    }
    # The mirror remembers it, until it is told otherwise.
    zoo.run("Zoo", "cli", ["put", "x", 2])
    assert cli("sync", zoo.url, cwd=tmp_path).returncode == 0
    zoo.run("Zoo", "cli", ["put", "x", 3])
    assert cli("sync", zoo.url, "--keep", "1", cwd=tmp_path).returncode == 0
    assert [json.loads(line)["after"] for line in cli("log", "--json", cwd=tmp_path).stdout.splitlines()] == [3]
    zoo.run("Zoo", "cli", ["put", "x", 4])
    assert cli("sync", zoo.url, "--no-history", cwd=tmp_path).returncode == 0
    assert [json.loads(line)["after"] for line in cli("log", "--json", cwd=tmp_path).stdout.splitlines()] == [3]
    assert cli("sync", zoo.url, "--keep", "much", cwd=tmp_path).returncode == 2
    assert cli("sync", zoo.url, "--names", "/dev/null", "--persist-to", ".", cwd=tmp_path).returncode == 2
    (tmp_path / "durafetch.toml").write_text(f'history = "5"\n[sources.here]\nfolder = "{zoo.runtime.state}"\n')
    (tmp_path / "local").mkdir()
    done = cli("sync", "here", "--db", "local/m.sqlite", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with Mirror(tmp_path / "local" / "m.sqlite") as mirror:
        assert mirror.history == "5"


def test_a_mirror_of_the_first_layout_is_brought_up_to_date(zoo: Zoo, tmp_path: Path) -> None:
    def old(name: str) -> Path:
        with apsw.Connection(str(tmp_path / name)) as connection:
            connection.execute(LAYOUT)
            connection.execute("INSERT INTO _durafetch_settings VALUES ('seed', '0123456789abcdef')")
        connection.pragma("application_id", APPLICATION_ID)
        connection.pragma("user_version", 1)
        connection.execute("CREATE TABLE mine(a)")
        connection.close()
        return tmp_path / name

    zoo.run("Zoo", "old layout", ["put", "x", 0])
    path = old("old.sqlite")
    with Mirror(path, read_only=True) as mirror:
        assert list(mirror.query("SELECT count(*) FROM changes")) == [(0,)]
    with Mirror(path) as mirror:
        mirror.history = "10"
        synced(mirror, zoo.source())
        assert list(mirror.query("SELECT count(*) > 0 FROM history")) == [(1,)]
        assert list(mirror.query("PRAGMA user_version")) == [(2,)]
        assert list(mirror.query("SELECT count(*) FROM mine")) == [(0,)]
    # A table of the user's that has one of the new names is not touched.
    path = old("taken.sqlite")
    with apsw.Connection(str(path)) as connection:
        connection.execute("CREATE TABLE changes(a)")
    connection.close()
    with pytest.raises(MirrorError, match="changes"):
        Mirror(path)

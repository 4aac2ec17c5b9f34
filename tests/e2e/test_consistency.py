"""What reaches the mirror is one committed state of an object, however large it is and whoever writes meanwhile."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from durafetch import Mirror, sync_sources
from tests.support import Zoo, synced

TABLE = ["sql", "CREATE TABLE IF NOT EXISTS filler(id INTEGER PRIMARY KEY, a, b REAL, c, d)"]
PAIR = ["sql", "CREATE TABLE pair(id INTEGER PRIMARY KEY, amount); INSERT INTO pair VALUES (1, 0), (2, 0)"]


@pytest.mark.parametrize(("cls", "filler"), [("Zoo", 0), ("Zoo", 60_000), ("Old", 0), ("Old", 20_000)])
def test_no_torn_reads(zoo: Zoo, tmp_path: Path, cls: str, filler: int) -> None:
    """Two rows, and two entries, that always sum to zero, while transactions that await change them."""
    name = f"torn {cls} {filler}"
    if cls == "Zoo":
        zoo.run(cls, name, PAIR, TABLE, *([["rows", "filler", filler]] if filler else []))
    zoo.run(cls, name, ["put", {"left": 0, "right": 0}])
    if filler and cls == "Old":
        zoo.run(cls, name, ["many", filler, 100, "m"], ["sync"])
    failures: list[BaseException] = []
    stop = threading.Event()

    def hammer() -> None:
        try:
            while not stop.is_set():
                zoo.run(cls, name, ["hammer", 500, "kv" if cls == "Old" else "both"])
        except BaseException as error:
            failures.append(error)

    writer = threading.Thread(target=hammer)
    writer.start()
    seen: set[int] = set()
    try:
        for round_ in range(1, 60):
            if round_ > 8 and len(seen) > 3:
                break
            with Mirror(tmp_path / f"{round_ if round_ % 3 == 0 else 'same'}.sqlite") as mirror:
                sync_sources(mirror, [zoo.source()], class_name=cls)
                info = mirror.find(cls, name)
                if info.status != "ok":
                    continue
                entries = {key: val for key, val, _ in mirror.dump(info).entries if key in ("left", "right")}
                left, right = json.loads(entries["left"]), json.loads(entries["right"])
                assert left + right == 0
                seen.add(left)
                if cls == "Zoo":
                    rows = list(mirror.query("SELECT id, amount FROM Zoo__pair WHERE name = ? ORDER BY 1", [name]))
                    assert rows == [(1, left), (2, right)]
    finally:
        stop.set()
        writer.join()
    assert not failures
    assert len(seen) > 3, "the writer and the pulls did not overlap"
    with Mirror(tmp_path / "same.sqlite") as mirror:
        result = synced(mirror, zoo.source())
        assert result.total("failed") == 0


def test_a_large_object_is_streamed(zoo: Zoo, mirror: Mirror) -> None:
    zoo.run("Zoo", "huge", TABLE, ["rows", "filler", 400_000])
    result = synced(mirror, zoo.source())
    assert result.total("bytes") > 10_000_000
    assert list(mirror.query("SELECT count(*), min(id), max(id) FROM Zoo__filler WHERE name = 'huge'")) == [
        (400_000, 1, 400_000)
    ]
    zoo.run("Zoo", "huge", ["sql", "UPDATE filler SET c = -1 WHERE id % 40000 = 7"])
    second = synced(mirror, zoo.source())
    assert (second.total("upserted"), second.total("deleted")) == (10, 0)
    assert second.total("bytes") < result.total("bytes") / 3


def test_large_rows_and_values(zoo: Zoo, mirror: Mirror) -> None:
    zoo.run(
        "Zoo",
        "wide",
        ["sql", "CREATE TABLE wide(id INTEGER PRIMARY KEY, b)"],
        *[
            ["sql", f"INSERT INTO wide(b) VALUES (randomblob({size}))"]
            for size in (2_000_000, 1, 2_000_000, 10, 1_500_000)
        ],
        ["many", 10, 1_000_000, "v"],
    )
    synced(mirror, zoo.source())
    assert list(mirror.query("SELECT id, length(b) FROM Zoo__wide ORDER BY 1")) == [
        (1, 2_000_000), (2, 1), (3, 2_000_000), (4, 10), (5, 1_500_000),
    ]  # fmt: skip
    assert mirror.find("Zoo", "wide").entries == 10


def test_objects_whose_tables_differ(zoo: Zoo, mirror: Mirror) -> None:
    """One table of the mirror for all of them: the union of their columns, and nothing converted."""
    zoo.run(
        "Zoo",
        "d1",
        ["sql", "CREATE TABLE differs(id INTEGER PRIMARY KEY, a TEXT)"],
        ["sql", "INSERT INTO differs VALUES (1, '5')"],
    )
    zoo.run(
        "Zoo",
        "d2",
        ["sql", "CREATE TABLE Differs(A INTEGER, extra, name)"],
        ["sql", "INSERT INTO differs VALUES (5, 'e', 'mine')"],
    )
    synced(mirror, zoo.source())
    zoo.run(
        "Zoo",
        "d3",
        ["sql", "CREATE TABLE differs(k TEXT PRIMARY KEY COLLATE NOCASE, a) WITHOUT ROWID"],
        ["sql", "INSERT INTO differs VALUES ('K', 5.0)"],
    )
    synced(mirror, zoo.source())
    query = "SELECT do_name, id, a, typeof(a), extra, name, k, rowid FROM Zoo__differs ORDER BY do_name"
    assert list(mirror.query(query)) == [
        ("d1", 1, "5", "text", None, None, None, None),
        ("d2", None, 5, "integer", "e", "mine", None, 1),
        ("d3", None, 5.0, "real", None, None, "K", None),
    ]
    zoo.run("Zoo", "d3", ["sql", "UPDATE differs SET a = 6"], ["sql", "INSERT INTO differs VALUES ('j', 7)"])
    zoo.run("Zoo", "d1", ["sql", "INSERT INTO differs VALUES (2, 'two')"], ["sql", "DELETE FROM differs WHERE id = 1"])
    synced(mirror, zoo.source())
    assert list(mirror.query("SELECT do_name, a FROM Zoo__differs ORDER BY 1, 2")) == [
        ("d1", "two"), ("d2", 5), ("d3", 6), ("d3", 7),
    ]  # fmt: skip


def test_what_users_add_to_the_mirror_stays(zoo: Zoo, mirror: Mirror, tmp_path: Path) -> None:
    import sqlite3

    zoo.run(
        "Zoo", "user", ["sql", "CREATE TABLE u(id INTEGER PRIMARY KEY, a)"], ["sql", "INSERT INTO u VALUES (1, 'x')"]
    )
    synced(mirror, zoo.source())
    other = sqlite3.connect(mirror.path)
    other.executescript(
        "CREATE INDEX my_index ON Zoo__u(a); CREATE VIEW my_view AS SELECT name, a FROM Zoo__u; CREATE TABLE Zoo__v(mine);"
        "INSERT INTO Zoo__v VALUES ('kept');"
    )
    zoo.run(
        "Zoo",
        "user2",
        ["sql", "CREATE TABLE u(other TEXT PRIMARY KEY, a) WITHOUT ROWID"],
        ["sql", "INSERT INTO u VALUES ('o', 'y')"],
    )
    zoo.run("Zoo", "user", ["sql", "CREATE TABLE v(a)"], ["sql", "INSERT INTO v VALUES (7)"])
    synced(mirror, zoo.source())
    assert sorted(other.execute("SELECT * FROM my_view").fetchall()) == [("user", "x"), ("user2", "y")]
    assert other.execute("SELECT sql FROM sqlite_master WHERE name = 'my_index'").fetchone()
    assert other.execute("SELECT * FROM Zoo__v").fetchall() == [("kept",)]
    assert other.execute("SELECT a FROM Zoo__v_2").fetchall() == [(7,)]
    other.close()

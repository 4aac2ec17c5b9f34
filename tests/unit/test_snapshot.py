"""A snapshot of a database that changes while it is read, step by step: either one state, or it says that it moved."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from durafetch.sources.local.snapshot import Moved, opened, version_of


class Writer:
    """A database in WAL mode that stays open, as the runtime keeps it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("PRAGMA wal_autocheckpoint = 0")
        # Large rows, so that each is on a page of its own.
        self.db.execute("CREATE TABLE pair(k INTEGER PRIMARY KEY, v, filler)")
        self.db.execute(
            "INSERT INTO pair VALUES (1, 0, zeroblob(3000)), (2, 0, zeroblob(3000)), (3, 0, zeroblob(3000))"
        )

    def write(self, n: int) -> None:
        self.db.execute("UPDATE pair SET v = ?", (n,))

    def checkpoint(self) -> None:
        assert self.db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[0] == 0


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    made = Writer(tmp_path / "x.sqlite")
    yield made
    made.db.close()


def test_a_state_is_kept_while_others_follow(writer: Writer) -> None:
    writer.write(1)
    with opened(writer.path) as (db, snapshot):
        assert db.execute("SELECT v FROM pair WHERE k = 1").get == 1
        writer.write(2)
        writer.write(3)
        assert db.execute("SELECT v FROM pair WHERE k = 3").get == 1
        snapshot.check()
    with opened(writer.path) as (db, snapshot):
        assert db.execute("SELECT group_concat(v) FROM pair").get == "3,3,3"
        snapshot.check()


def test_a_checkpoint_of_this_state_changes_nothing(writer: Writer) -> None:
    writer.write(1)
    with opened(writer.path) as (db, snapshot):
        assert db.execute("SELECT v FROM pair WHERE k = 1").get == 1
        writer.checkpoint()
        assert db.execute("SELECT v FROM pair WHERE k = 3").get == 1
        snapshot.check()


def test_a_checkpoint_of_a_later_state_is_seen(writer: Writer) -> None:
    writer.checkpoint()
    writer.db.execute("UPDATE pair SET v = 1 WHERE k = 1")
    with opened(writer.path) as (db, snapshot):
        assert db.execute("SELECT v FROM pair WHERE k = 1").get == 1
        writer.write(2)
        writer.checkpoint()
        # What is read now is of another state: pages that the log did not have come from the main file.
        assert db.execute("SELECT v FROM pair WHERE k = 3").get == 2
        with pytest.raises(Moved):
            snapshot.check()


def test_a_log_that_began_anew_is_seen(writer: Writer) -> None:
    writer.write(1)
    with opened(writer.path) as (db, snapshot):
        assert db.execute("SELECT v FROM pair WHERE k = 1").get == 1
        writer.checkpoint()
        # The first write after everything was copied back overwrites the log from its beginning.
        writer.write(2)
        with pytest.raises(Moved):
            snapshot.check()


def test_a_file_that_was_replaced_is_seen(writer: Writer, tmp_path: Path) -> None:
    with opened(writer.path) as (db, snapshot):
        assert db.execute("SELECT count(*) FROM pair").get == 3
        other = tmp_path / "other.sqlite"
        sqlite3.connect(other).close()
        other.write_bytes(b"")
        other.rename(writer.path)
        with pytest.raises(Moved):
            snapshot.check()


def test_versions(writer: Writer) -> None:
    seen = []
    for n in range(3):
        writer.write(n)
        seen.append(version_of(writer.path))
        assert version_of(writer.path) == seen[-1]
    writer.checkpoint()
    assert version_of(writer.path) == seen[-1]
    writer.write(9)
    seen.append(version_of(writer.path))
    assert len(set(seen)) == 4

"""What a sync says that it cost is what the objects and the directory counted."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from durafetch import Mirror
from durafetch.cost import USD_PER_MILLION, Cost, dollars
from scripts.workerd import Runtime
from tests.support import Zoo, cli, synced, zoo_worker


@pytest.fixture
def own(tmp_path: Path, bundles: Path) -> Iterator[Zoo]:
    with Runtime(zoo_worker(bundles), tmp_path / "state") as runtime:
        yield Zoo(runtime).ready()
        runtime.stop(kill=True)


def directory_rows_written(zoo: Zoo) -> int:
    """How often the directory has written an object's row: its sequence goes up by one each time."""
    [path] = [p for p in (zoo.runtime.state / "zoo-DurafetchDirectory").glob("*.sqlite") if len(p.stem) == 64]
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
        return int(db.execute("SELECT coalesce(max(seq), 0) FROM objects").fetchone()[0])


def test_each_part(own: Zoo, tmp_path: Path) -> None:
    for n in range(10):
        own.run("Zoo", f"o{n}", ["put", {"a": 1, "b": 2}], ["sql", "CREATE TABLE t(a)"],
                ["sql", "INSERT INTO t VALUES (1), (2), (3)"])  # fmt: skip
    own.run("Old", "old", ["put", {"a": 1, "b": 2}], ["sync"])
    with Mirror(tmp_path / "m.sqlite") as mirror:
        cost = synced(mirror, own.source()).cost
        assert (cost.worker_requests, cost.objects_woken) == (2, 11)
        assert cost.do_requests == 11 + 1, "the objects, and the directory's one shard"
        assert cost.rows_read == 10 * (2 + 3) + 11 and cost.read_units == 2
        assert cost.rows_written == 0 and 0 < cost.duration_s < 60
        expected = 0.3 * 2 + 0.15 * 12 + 0.001 * cost.rows_read + 0.2 * 2 + 1.6 * cost.duration_s
        assert cost.usd == pytest.approx(expected / 1e6)
        quiet = synced(mirror, own.source()).cost
        assert (quiet.worker_requests, quiet.do_requests, quiet.objects_woken, quiet.rows_read) == (1, 1, 0, 0)
        before = directory_rows_written(own)
        for n in range(4):
            own.run("Zoo", f"o{n}", ["put", "a", 5], ["put", "b", 6], ["put", "a", 7])
        changed = synced(mirror, own.source()).cost
        assert directory_rows_written(own) - before == 4, "once for each object, however often it writes"
        # Its row, and the row of the index: what it says of rowsWritten is shown in the directory's own SQL below.
        assert (changed.rows_written, changed.objects_woken, changed.do_requests) == (2 * 4, 4, 1 + 4 + 4)


def test_an_announcement_writes_two_rows(own: Zoo) -> None:
    """The directory's own statement, in an object of the app's."""
    insert = (
        "INSERT OR REPLACE INTO objects(seq, id, class, name) VALUES ((SELECT coalesce(max(seq), 0) + 1 FROM objects), "
        "?1, ?2, coalesce(?3, (SELECT name FROM objects WHERE id = ?1)))"
    )
    table = "CREATE TABLE objects(seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, class TEXT NOT NULL, name TEXT)"
    results = own.run("Zoo", "x", ["sql", table], *[["sql", insert, id, "C", "n"] for id in ("a", "b", "a", "a", "c")])
    assert [result["rowsWritten"] for result in results[2:]] == [2, 2, 2, 2]


def test_the_command_line(own: Zoo, tmp_path: Path) -> None:
    for n in range(3):
        own.run("Zoo", f"o{n}", ["put", {"a": 1, "b": 2}])
    estimate = json.loads(cli("sync", own.url, "--dry-run", "--json", cwd=tmp_path).stdout)["sources"][0]
    assert (estimate["would_visit"], estimate["new"], estimate["cost"]["do_requests"]) == (3, 3, 4)
    assert "besides what 3 new ones hold" in cli("sync", own.url, "--dry-run", cwd=tmp_path).stderr
    done = json.loads(cli("sync", own.url, "--json", cwd=tmp_path).stdout)
    assert set(done["cost"]) == {*USD_PER_MILLION, "objects_woken", "usd"}
    assert done["cost"] == done["sources"][0]["cost"]
    own.run("Zoo", "o1", ["put", "a", 2])
    estimate = json.loads(cli("sync", own.url, "--dry-run", "--json", cwd=tmp_path).stdout)["sources"][0]
    assert (estimate["would_visit"], estimate["new"], estimate["cost"]["rows_read"]) == (1, 0, 1 + 2)
    done_text = cli("sync", own.url, cwd=tmp_path).stderr
    assert "cost: at most $0.0000" in done_text and "(3 Durable Object requests, " in done_text


def test_amounts() -> None:
    assert [dollars(usd) for usd in (0, 12.345, 0.0123, 0.00012345, 3.2e-6, 2e-7)] == [
        "$0.00", "$12.35", "$0.01", "$0.000123", "$0.000003", "$0.000001",
    ]  # fmt: skip
    assert Cost(5, 4, 3) - Cost(1, 1, 1) + Cost() == Cost(4, 3, 2)

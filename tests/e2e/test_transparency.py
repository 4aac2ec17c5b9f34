"""An app does the same with and without Durafetch: answers, errors, order, stored bytes, rows written."""

from __future__ import annotations

import json
import sqlite3
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from durafetch import Mirror, WorkerSource
from scripts.workerd import Runtime, Worker, bundle
from tests.support import TOKEN, WORKERS, Zoo, synced, zoo_worker

TABLE = "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, a UNIQUE, b DEFAULT 5)"
SCRIPT: list[tuple[str, str, list[list[Any]]]] = [
    ("Zoo", "sql", [["sql", TABLE], ["sql", "CREATE INDEX i ON t(b)"], ["sql", "INSERT INTO t(a) VALUES (1), (2), (3)"]]),
    ("Zoo", "sql", [["sql", "INSERT INTO t(a) VALUES (1)"], ["sql", "SELEC"], ["sql", "SELECT * FROM nothing"]]),
    ("Zoo", "sql", [["sql", "UPDATE t SET b = 6 RETURNING *"], ["sql", "SELECT changes(), last_insert_rowid(), total_changes()"]]),
    ("Zoo", "sql", [["transactionSync", [["sql", "INSERT INTO t(a) VALUES (9)"]], "throw"], ["sql", "SELECT count(*) FROM t"]]),
    ("Zoo", "kv", [["put", "a", 1], ["put", {"b": 2, "c": "$map"}], ["get", "c"], ["delete", "a"], ["delete", ["b", "zz"]], ["get", "a"]]),
    ("Zoo", "kv", [["transaction", [["put", "x", 1], ["get", "x"]], "throw"], ["get", "x"], ["put", "undef", "$undefined"]]),
    ("Zoo", "kv", [["transaction", [["put", "x", 1]], "rollback"], ["get", "x"], ["kv.put", "sync", "$withDate"], ["kv.delete", "sync"]]),
    ("Zoo", "kv", [["setAlarm", 4102444800000], ["getAlarm"], ["deleteAlarm"], ["getAlarm"], ["setAlarm", "no"]]),
    ("Zoo", "gone", [["put", "a", 1], ["sql", "CREATE TABLE g(a)"], ["deleteAll"], ["get", "a"], ["put", "b", 2]]),
    ("Eager", "eager", [["get", "born"], ["sql", "SELECT * FROM born"]]),
    ("Old", "old", [["put", "a", 1], ["put", {"b": "$set", "c": 3}], ["delete", ["b"]], ["get", "c"], ["transaction", [["put", "x", 1]], "commit"]]),
    ("Old", "old", [["sql", "SELECT 1"], ["kv.put", "a", 1], ["transaction", [["put", "y", 1]], "throw"], ["get", "y"], ["sync"]]),
    ("Old", "cleared", [["put", "a", 1], ["sync"], ["deleteAll"], ["get", "a"], ["put", "b", 1], ["sync"]]),
]  # fmt: skip


def stored(state: Path) -> dict[str, Any]:
    """Every object's file, table by table, but for the directory's."""
    found = {}
    for path in sorted(state.glob("*/*.sqlite")):
        if "DurafetchDirectory" in str(path) or path.name == "metadata.sqlite":
            continue
        db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        db.text_factory = bytes
        tables = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
        contents = {
            name: db.execute(f'SELECT * FROM "{name.decode()}" ORDER BY 1').fetchall()
            for name, _ in tables
            if b"METADATA" not in name
        }
        found[f"{path.parent.name}/{path.name}"] = (tables, contents)
        db.close()
    return found


def scripted(zoo: Zoo, pull: bool, tmp_path: Path) -> list[Any]:
    answers: list[Any] = []
    with Mirror(tmp_path / "m.sqlite") as mirror:
        for cls, name, steps in SCRIPT:
            answers.append(zoo.call(cls, name, *steps))
            if pull:
                synced(mirror, zoo.source())
    return answers


@pytest.mark.parametrize("directory", ["working", "missing", "failing"])
def test_the_zoo(tmp_path: Path, bundles: Path, directory: str) -> None:
    with Runtime(zoo_worker(bundles, wrapped=False), tmp_path / "plain") as runtime:
        plain = scripted(Zoo(runtime), False, tmp_path)
    worker = zoo_worker(bundles)
    if directory == "missing":
        worker.sqlite_classes.remove("DurafetchDirectory")
    if directory == "failing":
        # On the KV backend its very constructor throws.
        worker.sqlite_classes.remove("DurafetchDirectory")
        worker.kv_classes.append("DurafetchDirectory")
    with Runtime(worker, tmp_path / "wrapped") as runtime:
        wrapped = scripted(Zoo(runtime), directory == "working", tmp_path)
    assert wrapped == plain
    assert stored(tmp_path / "wrapped") == stored(tmp_path / "plain")


def frameworks(bundles: Path, wrapped: bool) -> Worker:
    name = f"frameworks_{'wrapped' if wrapped else 'plain'}"
    # A dependency of agents still says require("path").
    banner = 'import path_ from "node:path"; const require = (name) => path_;'
    aliases = ("--alias:path=node:path", f"--alias:cloudflare:email={WORKERS / 'no_email.ts'}")
    script = bundle(WORKERS / f"{name}.ts", bundles / f"{name}.js", *aliases, f"--banner:js={banner}")
    classes = ["Party", "CountAgent"] + (["DurafetchDirectory"] if wrapped else [])
    bindings = {"PARTY": "Party", "AGENT": "CountAgent"}
    return Worker(script, classes, [], {"DURAFETCH_TOKEN": TOKEN}, "frameworks", bindings=bindings)


def ask(url: str, method: str = "GET") -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=30) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_partyserver_and_agents(tmp_path: Path, bundles: Path, mirror: Mirror) -> None:
    answers = {}
    for wrapped in (False, True):
        with Runtime(frameworks(bundles, wrapped), tmp_path / f"{wrapped}") as runtime:
            answers[wrapped] = [
                ask(f"{runtime.url}/{path}", method)
                for path, method in (
                    ("party/one", "GET"), ("party/one", "POST"), ("party/two", "GET"),
                    ("agent/a", "GET"), ("agent/a", "POST"), ("agent/a", "POST"), ("agent/b", "GET"), ("none/x", "GET"),
                )
            ]  # fmt: skip
            if wrapped:
                synced(mirror, WorkerSource(runtime.url, token=TOKEN))
    assert [status for status, _ in answers[True]] == [200] * 7 + [404], answers[True]
    assert answers[True] == answers[False]
    plain, wrapped_state = stored(tmp_path / "False"), stored(tmp_path / "True")
    assert plain.keys() == wrapped_state.keys()
    for key in plain:
        assert wrapped_state[key][0] == plain[key][0]
    assert [o.name for o in mirror.objects("Party")] == ["one", "two"]
    visits = "SELECT name, count(*) FROM CountAgent__visits GROUP BY 1 ORDER BY 1"
    assert list(mirror.query(visits)) == [("a", 3), ("b", 1)]
    assert json.loads(answers[True][5][1])["state"] == {"count": 2}

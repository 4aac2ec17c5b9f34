"""The command line: what each command prints, and how each kind of bad input ends."""

from __future__ import annotations

import csv
import io
import json
import re
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from durafetch.cli import COMMANDS
from durafetch.cli import cli as command_group
from scripts.workerd import Runtime
from tests.support import TOKEN, Zoo, cli, zoo_worker


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, bundles: Path) -> Iterator[Zoo]:
    with Runtime(zoo_worker(bundles), tmp_path_factory.mktemp("small") / "state") as runtime:
        zoo = Zoo(runtime)
        zoo.run(
            "Zoo",
            "lobby",
            ["sql", "CREATE TABLE t(id INTEGER PRIMARY KEY, a)"],
            ["sql", "INSERT INTO t VALUES (1, 'x'), (2, x'00ff')"],
        )
        zoo.run(
            "Zoo", "lobby", ["put", "profile", "$withDate"], ["put", "evil", "\x1b[31mred"], ["setAlarm", 4102444800000]
        )
        zoo.run("Old", "old", ["put", "n", 1])
        yield zoo


@pytest.fixture
def folder(small: Zoo, tmp_path: Path) -> Path:
    assert cli("sync", small.url, cwd=tmp_path).returncode == 0
    return tmp_path


def test_sync_summary_as_json(small: Zoo, tmp_path: Path) -> None:
    done = cli("sync", small.url, "--json", cwd=tmp_path)
    summary = json.loads(done.stdout)
    assert list(summary) == ["objects", "rows", "requests", "bytes", "cost", "seconds", "sources"]
    assert summary["objects"] == {"known": 2, "visited": 2, "changed": 2, "failed": 0, "gone": 0}
    assert summary["rows"] == {"upserted": 5, "deleted": 0}
    assert summary["requests"] == 2
    assert [source["source"] for source in summary["sources"]] == [small.url]
    assert done.stderr == ""
    again = cli("sync", small.url, cwd=tmp_path)
    assert again.stdout == "" and "2 objects known, 0 visited" in again.stderr


def test_sync_options(small: Zoo, tmp_path: Path) -> None:
    plan = json.loads(cli("sync", small.url, "--dry-run", "--json", cwd=tmp_path).stdout)
    assert plan["sources"][0]["would_visit"] == 2
    assert list(tmp_path.iterdir()) == []
    one = json.loads(cli("sync", small.url, "--class", "Old", "--json", cwd=tmp_path).stdout)
    assert one["objects"] == {"known": 2, "visited": 1, "changed": 1, "failed": 0, "gone": 0}
    rest = json.loads(cli("sync", small.url, "--json", cwd=tmp_path).stdout)
    assert rest["objects"]["visited"] == 1
    full = json.loads(cli("sync", small.url, "--full", "--json", cwd=tmp_path).stdout)
    assert full["objects"] == {"known": 2, "visited": 2, "changed": 0, "failed": 0, "gone": 0}
    assert full["rows"] == {"upserted": 0, "deleted": 0}


def test_config_file_and_token_file(small: Zoo, tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "durafetch.toml").write_text(
        f'db = "here.sqlite"\n[sources.dev]\nurl = "{small.url}"\nname = "mine"\ntoken_file = ".dev.vars"\n'
    )
    (tmp_path / ".dev.vars").write_text(f'OTHER=1\nDURAFETCH_TOKEN="{TOKEN}"\n')
    assert cli("sync", cwd=tmp_path / "deep" / "er", token=None).returncode == 0
    done = cli("query", "SELECT DISTINCT worker_name FROM durable_objects", cwd=tmp_path / "deep", token=None)
    assert json.loads(done.stdout) == {"worker_name": "mine"}
    assert (tmp_path / "here.sqlite").exists()
    assert TOKEN.encode() not in (tmp_path / "here.sqlite").read_bytes()


def test_query_forms(folder: Path) -> None:
    sql = "SELECT id, a, NULL AS n, 1.5 AS r FROM Zoo__t ORDER BY id"
    assert json.loads(cli("query", sql, "--json", cwd=folder).stdout) == [
        {"id": 1, "a": "x", "n": None, "r": 1.5},
        {"id": 2, "a": {"base64": "AP8="}, "n": None, "r": 1.5},
    ]
    assert [json.loads(line)["id"] for line in cli("query", sql, cwd=folder).stdout.splitlines()] == [1, 2]
    rows = list(csv.reader(io.StringIO(cli("query", sql, "--csv", cwd=folder).stdout)))
    assert rows == [["id", "a", "n", "r"], ["1", "x", "", "1.5"], ["2", "x'00ff'", "", "1.5"]]
    assert cli("query", sql, "--tsv", cwd=folder).stdout.splitlines()[1] == "1\tx\t\t1.5"
    assert cli("query", sql, "--table", cwd=folder).stdout.splitlines()[0].split() == ["id", "a", "n", "r"]
    with_parameter = cli("query", "SELECT a FROM Zoo__t WHERE id = :id", "-p", "id", "1", "--json", cwd=folder)
    assert json.loads(with_parameter.stdout) == [{"a": "x"}]
    assert json.loads(cli("query", "SELECT 1 AS a, 2 AS a", "--json", cwd=folder).stdout) == [{"a": 1, "a_2": 2}]
    assert cli("query", "SELECT 1 WHERE 0", "--json", cwd=folder).stdout == "[]\n"
    assert cli("query", "SELECT 1 WHERE 0", cwd=folder).stdout == ""


def test_ls_show_schema(folder: Path) -> None:
    listed = [json.loads(line) for line in cli("ls", cwd=folder).stdout.splitlines()]
    assert [(o["class_name"], o["name"], o["status"]) for o in listed] == [("Old", "old", "ok"), ("Zoo", "lobby", "ok")]
    assert "lobby" not in cli("ls", "Old", cwd=folder).stdout
    shown = cli("show", "Zoo", "lobby", cwd=folder)
    assert "alarm      2100-01-01T00:00:00.000Z" in shown.stdout
    assert "table t (2)" in shown.stdout and "ann@example.com" in shown.stdout
    assert "\x1b" not in shown.stdout
    whole = json.loads(cli("show", "Zoo", "lobby", "--json", cwd=folder).stdout)
    assert whole["kv"]["profile"]["email"] == "ann@example.com"
    assert whole["tables"]["t"][1] == {"id": 2, "a": {"base64": "AP8="}}
    assert "\x1b" not in cli("query", "SELECT val ->> '$' FROM kv", "--table", cwd=folder).stdout
    tables = {t["table"]: t for t in map(json.loads, cli("schema", cwd=folder).stdout.splitlines())}
    assert tables["Zoo__t"] == {"table": "Zoo__t", "rows": 2, "columns": ["do_id", "name", "id", "a"]}


def test_verify(small: Zoo, folder: Path) -> None:
    assert cli("verify", small.url, cwd=folder).returncode == 0
    db = sqlite3.connect(folder / "durafetch.sqlite")
    db.execute("UPDATE Zoo__t SET a = 'forged' WHERE id = 1")
    db.execute("DELETE FROM _durafetch_kv WHERE key = 'n'")
    db.commit()
    done = cli("verify", small.url, cwd=folder)
    assert done.returncode == 1
    assert "Old old: kv n is not in the mirror" in done.stdout and "forged" in done.stdout
    report = json.loads(cli("verify", small.url, "--json", cwd=folder).stdout)
    assert report["equal"] is False and report["objects"] == 2 and len(report["differences"]) == 3
    assert cli("sync", small.url, "--full", cwd=folder).returncode == 0
    assert cli("verify", small.url, cwd=folder).returncode == 0


def test_doctor(small: Zoo, folder: Path) -> None:
    done = cli("doctor", small.url, cwd=folder)
    assert done.returncode == 0, done.stdout
    assert "ok    class: Zoo is wrapped" in done.stdout
    assert "Bare" in done.stdout
    wrong = cli("doctor", small.url, cwd=folder, token="x" * 40)
    assert wrong.returncode == 4 and "FAIL  worker" in wrong.stdout
    nobody = cli("doctor", "http://127.0.0.1:9", cwd=folder)
    assert nobody.returncode == 5 and "FAIL  connection" in nobody.stdout


def error_of(done: subprocess.CompletedProcess[str]) -> tuple[int, str]:
    found = re.search(r"^error: .*\[(\w+)\]$", done.stderr, re.MULTILINE)
    return done.returncode, found[1] if found else done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (["sync", "http://127.0.0.1:9"], 5, "unreachable"),
        (["sync", "https://no-such-host.invalid"], 5, "unreachable"),
        (["sync", "http://example.com"], 2, "insecure_url"),
        (["sync", "ftp://example.com"], 2, "usage"),
        (["sync", "https://user:pw@example.com"], 2, "usage"),
        (["sync", "https://example.com:99999"], 2, "usage"),
        (["sync", "nowhere"], 2, "usage"),
        (["sync"], 2, "usage"),
        (["query", "SELECT 1"], 7, "mirror_missing"),
        (["ls"], 7, "mirror_missing"),
        (["init"], 2, "usage"),
    ],
    ids=str,
)
def test_bad_input_without_a_mirror(tmp_path: Path, arguments: list[str], status: int, code: str) -> None:
    done = cli(*arguments, cwd=tmp_path)
    assert error_of(done) == (status, code), done.stderr
    assert "hint:" in done.stderr
    assert [p.name for p in tmp_path.iterdir() if "sqlite" not in p.name] == []


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (["query", "SELEC 1"], 1, "query"),
        (["query", "SELECT * FROM nothing"], 1, "query"),
        (["query", "SELECT :missing"], 1, "query"),
        (["query", ""], 1, "query"),
        (["query", "DELETE FROM durable_objects"], 1, "query"),
        (["query", "CREATE TABLE x(y)"], 1, "query"),
        (["query", "PRAGMA user_version = 9"], 1, "query"),
        (["query", "SELECT CAST(x'ff' AS TEXT)"], 1, "query"),
        (["show", "Zoo", "nobody"], 1, "nothing_found"),
        (["show", "Nothing", "lobby"], 1, "nothing_found"),
        (["ls", "Nothing"], 1, "nothing_found"),
    ],
    ids=str,
)
def test_bad_input_with_a_mirror(folder: Path, arguments: list[str], status: int, code: str) -> None:
    before = (folder / "durafetch.sqlite").read_bytes()
    assert error_of(cli(*arguments, cwd=folder)) == (status, code)
    assert (folder / "durafetch.sqlite").read_bytes() == before


def test_tokens(small: Zoo, tmp_path: Path) -> None:
    assert error_of(cli("sync", small.url, cwd=tmp_path, token=None)) == (4, "no_token")
    assert error_of(cli("sync", small.url, cwd=tmp_path, token="short")) == (4, "no_token")
    assert error_of(cli("sync", small.url, cwd=tmp_path, token="w" * 40)) == (4, "not_authorized")
    assert error_of(cli("sync", small.url, cwd=tmp_path, token=TOKEN + "x")) == (4, "not_authorized")
    assert error_of(cli("sync", small.url, cwd=tmp_path, token=TOKEN[:-1])) == (4, "not_authorized")


def test_usage(tmp_path: Path) -> None:
    assert cli("sync", "--no-such-option", cwd=tmp_path).returncode == 2
    assert cli("no-such-command", cwd=tmp_path).returncode == 2
    (tmp_path / "durafetch.toml").write_text("sources = 5")
    assert error_of(cli("sync", cwd=tmp_path)) == (2, "config")
    (tmp_path / "durafetch.toml").write_text("[[[")
    assert error_of(cli("sync", cwd=tmp_path)) == (2, "config")
    (tmp_path / "durafetch.toml").write_text("[sources.a]\nurl = 'https://x.example'\ntypo = 1")
    assert error_of(cli("sync", cwd=tmp_path)) == (2, "config")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(command: str) -> None:
    done = CliRunner().invoke(command_group, [command, "--help"])
    assert done.exit_code == 0 and "Examples:" in done.output and f"durafetch {command}" in done.output


class TestMirrorFiles:
    def test_not_a_database(self, small: Zoo, tmp_path: Path) -> None:
        (tmp_path / "durafetch.sqlite").write_text("this is no database, and long enough to look at" * 50)
        before = (tmp_path / "durafetch.sqlite").read_bytes()
        assert error_of(cli("sync", small.url, cwd=tmp_path)) == (7, "not_a_mirror")
        assert (tmp_path / "durafetch.sqlite").read_bytes() == before

    def test_another_database(self, small: Zoo, tmp_path: Path) -> None:
        db = sqlite3.connect(tmp_path / "durafetch.sqlite")
        db.execute("CREATE TABLE mine(a)")
        db.close()
        before = (tmp_path / "durafetch.sqlite").read_bytes()
        assert error_of(cli("sync", small.url, cwd=tmp_path)) == (7, "not_a_mirror")
        assert error_of(cli("query", "SELECT 1", cwd=tmp_path)) == (7, "not_a_mirror")
        assert (tmp_path / "durafetch.sqlite").read_bytes() == before

    def test_a_newer_mirror(self, small: Zoo, folder: Path) -> None:
        db = sqlite3.connect(folder / "durafetch.sqlite")
        db.execute("PRAGMA user_version = 99")
        db.close()
        assert error_of(cli("sync", small.url, cwd=folder)) == (7, "mirror_too_new")

    def test_a_folder(self, small: Zoo, tmp_path: Path) -> None:
        done = cli("sync", small.url, "--db", str(tmp_path), cwd=tmp_path)
        assert done.returncode == 2
        assert error_of(cli("sync", small.url, "--db", "no/such/x.sqlite", cwd=tmp_path)) == (7, "mirror")

    def test_a_truncated_mirror(self, small: Zoo, folder: Path) -> None:
        path = folder / "durafetch.sqlite"
        sqlite3.connect(path).execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
        status, code = error_of(cli("sync", small.url, "--full", cwd=folder))
        assert (status, code) == (7, "mirror_damaged")

    @pytest.mark.timeout(60)
    def test_a_locked_mirror(self, small: Zoo, folder: Path) -> None:
        db = sqlite3.connect(folder / "durafetch.sqlite", isolation_level=None)
        db.execute("BEGIN IMMEDIATE")
        assert error_of(cli("sync", small.url, "--full", cwd=folder)) == (7, "mirror_locked")
        assert cli("query", "SELECT count(*) FROM kv", cwd=folder).returncode == 0
        db.execute("ROLLBACK")
        assert cli("sync", small.url, "--full", cwd=folder).returncode == 0

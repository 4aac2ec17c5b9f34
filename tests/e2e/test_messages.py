"""What the command line says where something is odd: each message names the thing, and what mends it."""

from __future__ import annotations

import json
import os
import pty
import select
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from durafetch.errors import UsageError
from durafetch.project import Project
from scripts.workerd import Runtime, Worker, bundle
from tests.fault.proxy import FaultServer, reply
from tests.support import DURAFETCH, TOKEN, Zoo, cli, zoo_worker


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory, bundles: Path) -> Iterator[Zoo]:
    """A Worker with objects that fail, and some that do not."""
    state = tmp_path_factory.mktemp("odd") / "state"
    with Runtime(zoo_worker(bundles), state) as runtime:
        for n in range(12):
            Zoo(runtime).run("Broken", f"b{n}", ["put", "k", n])
        Zoo(runtime).run("Zoo", "fine", ["put", {"k": 1, "nan": "$nan"}], ["sql", "CREATE TABLE t(a)"],
                         ["sql", "INSERT INTO t VALUES (9e999)"], ["sql", "CREATE VIEW seen AS SELECT a FROM t"])  # fmt: skip
        Zoo(runtime).run("Zoo", "bare", ["sql", "CREATE TABLE empty(a)"])
    with Runtime(zoo_worker(bundles, BROKEN="1"), state) as runtime:
        yield Zoo(runtime).ready()


@pytest.fixture
def folder(odd: Zoo, tmp_path: Path) -> Path:
    assert cli("sync", odd.url, cwd=tmp_path).returncode == 3
    return tmp_path


def test_failures_are_listed_up_to_ten(odd: Zoo, tmp_path: Path) -> None:
    done = cli("sync", odd.url, cwd=tmp_path)
    assert done.returncode == 3 and done.stderr.count("broken on purpose") == 10
    assert "failed: 2 more; durafetch ls --failed lists them" in done.stderr
    listed = cli("ls", "--failed", cwd=tmp_path).stdout
    assert listed.count("broken on purpose") == 12
    verified = cli("verify", odd.url, cwd=tmp_path)
    assert verified.returncode == 3 and "12 could not be fetched to be compared" in verified.stderr


def test_several_sources(odd: Zoo, tmp_path: Path) -> None:
    (tmp_path / "durafetch.toml").write_text(
        f'[sources.good]\nurl = "{odd.url}"\nexclude = ["class=Broken"]\n[sources.away]\nurl = "http://127.0.0.1:9"\n'
    )
    done = cli("sync", cwd=tmp_path)
    assert done.returncode == 3 and "failed: away:" in done.stderr and "[unreachable]" in done.stderr
    (tmp_path / "durafetch.toml").write_text(
        '[sources.a]\nurl = "http://127.0.0.1:9"\n[sources.b]\nurl = "http://127.0.0.1:10"\n'
    )
    done = cli("sync", cwd=tmp_path)
    assert done.returncode == 5 and "cannot be reached" in done.stderr


def test_verify_names_each_difference(odd: Zoo, folder: Path) -> None:
    choice = ("--exclude", "class=Broken")
    assert cli("sync", odd.url, *choice, cwd=folder).returncode == 0
    database = sqlite3.connect(folder / "durafetch.sqlite")
    database.executescript(
        "UPDATE durable_objects SET alarm_at = '2030-01-01T00:00:00.000Z' WHERE name = 'fine';"
        "DELETE FROM _durafetch_kv WHERE key = 'k'; DELETE FROM Zoo__t;"
    )
    database.close()
    done = cli("verify", odd.url, *choice, "--json", cwd=folder)
    assert done.returncode == 1
    found = {(d["what"], d["how"].split(" ")[0]) for d in json.loads(done.stdout)["differences"]}
    assert found == {("alarm", "is"), ("kv", "is"), ("t", "is")}, found
    database = sqlite3.connect(folder / "durafetch.sqlite")
    database.execute("DELETE FROM durable_objects WHERE name = 'bare'")
    database.commit()
    database.close()
    assert "Zoo bare: object is not in the mirror" in cli("verify", odd.url, *choice, cwd=folder).stdout


def test_queries(folder: Path) -> None:
    done = cli("query", "SELECT * FROM nothing_here", cwd=folder)
    assert done.returncode == 1 and "`durafetch schema` lists the tables" in done.stderr
    done = cli("query", "SELECT :a, :b, :c", "-p", "a", "7", "-p", "b", "1.5", "-p", "c", "007", "--json", cwd=folder)
    assert json.loads(done.stdout) == [{":a": 7, ":b": 1.5, ":c": "007"}]
    assert "has no value" in cli("query", "SELECT :a", cwd=folder).stderr
    piped = subprocess.run(
        [DURAFETCH, "query", "-"], cwd=folder, input="SELECT 41 + 1 AS n", capture_output=True, text=True
    )
    assert json.loads(piped.stdout) == {"n": 42}
    assert json.loads(cli("query", "SELECT 9e999 AS big", "--json", cwd=folder).stdout) == [{"big": "inf"}]
    # Whoever reads the output may have had enough.
    lines = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200000) SELECT * FROM n"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {DURAFETCH} query '{lines}' | head -1"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""


def test_show_and_schema(folder: Path) -> None:
    shown = cli("show", "Zoo", "fine", cwd=folder).stdout
    assert "view seen" in shown and "CREATE VIEW seen" in shown
    assert cli("show", "Zoo", "bare", cwd=folder).returncode == 0
    tables = [table["table"] for table in json.loads(cli("schema", "--json", cwd=folder).stdout)]
    assert {"durable_objects", "kv", "Zoo__t"} <= set(tables)
    # A view of the user's that no longer fits is passed over.
    with sqlite3.connect(folder / "durafetch.sqlite") as database:
        database.execute("CREATE VIEW stale AS SELECT * FROM gone_long_ago")
    assert "stale" not in cli("schema", cwd=folder).stdout


def test_doctor(odd: Zoo, tmp_path: Path) -> None:
    def findings(*arguments: str) -> dict[str, tuple[bool | None, str]]:
        found = json.loads(cli("doctor", *arguments, "--json", cwd=tmp_path).stdout)["findings"]
        return {f["check"]: (f["ok"], f["message"]) for f in found}

    assert findings("http://workers.example")["address"] == (
        False,
        "http://workers.example would show the token to the network.",
    )
    assert findings("https://nobody.invalid")["dns"][0] is False
    assert findings(f"https://127.0.0.1:{odd.runtime.port}")["tls"][0] is False
    assert findings(odd.url)["mirror"][0] is None
    (tmp_path / "durafetch.sqlite").write_text("this is no database, however long it may be" * 100)
    assert findings(odd.url)["mirror"][0] is False
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "wrangler.jsonc").write_text('{"name": "app"}')
    assert findings("app")["folder"][0] is None
    do = tmp_path / "app/.wrangler/state/v3/do/app-Room"
    do.mkdir(parents=True)
    (do / f"{'ab' * 32}.sqlite").write_text("no database" * 1000)
    (do / "foreign.sqlite").write_text("")
    assert findings("app")["folder"][0] is True


def test_doctor_of_a_worker_without_classes(tmp_path: Path) -> None:
    (tmp_path / "empty.ts").write_text(
        'import { durafetchWorker } from "durafetch-server"; export default durafetchWorker({ fetch: () => new Response() });'
    )
    worker = Worker(bundle(tmp_path / "empty.ts", tmp_path / "empty.js"), [], env={"DURAFETCH_TOKEN": TOKEN})
    with Runtime(worker, tmp_path / "state") as runtime:
        done = cli("doctor", runtime.url, cwd=tmp_path)
        assert done.returncode == 1 and "exports no Durable Object class" in done.stdout
        for call, body in (("discover", {"class": "C"}), ("watch", None)):
            command = ["curl", "-s", "-H", f"Authorization: Bearer {TOKEN}", "-H", "Upgrade: websocket",
                       *(["-d", json.dumps(body)] if body else []), f"{runtime.url}/__durafetch/v1/{call}"]  # fmt: skip
            said = subprocess.run(command, capture_output=True, text=True).stdout
            assert json.loads(said)["error"]["code"] == "no_directory"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense = 1", "unknown setting: nonsense"),
        ('[sources.a]\nurl = "http://127.0.0.1:1"\nfolder = "."', "has both a url and a folder"),
        ("[sources.a]\nname = 'x'", "has no url"),
        ("[sources.a]\nurl = 5", "url has to be a text"),
        ("db = []", "db has to be a text"),
        ('[sources.a]\nurl = "http://127.0.0.1:1"\ntoken_file = "none"', "token file"),
    ],
)
def test_configuration(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "durafetch.toml").write_text(text)
    done = cli("sync", cwd=tmp_path, token=None)
    assert done.returncode == 2 and message in done.stderr, done.stderr


def test_options(odd: Zoo, tmp_path: Path) -> None:
    for arguments, message in (
        (("discover", odd.url, "--class", "Zoo", "--ids", "ids"), "xyz is not an id"),
        (("discover", odd.url, "--class", "Zoo", "--names", "missing"), "does not exist"),
        (("watch", odd.url, "--health-port", str(odd.runtime.port)), "Nothing can listen on"),
    ):
        (tmp_path / "ids").write_text("xyz\n")
        done = cli(*arguments, cwd=tmp_path)
        assert done.returncode == 2 and message in done.stderr, (arguments, done.stderr)
    (tmp_path / "folder.sqlite").mkdir()
    assert "is a directory" in cli("query", "SELECT 1", "--db", "folder.sqlite", cwd=tmp_path).stderr
    done = cli("sync", odd.url, "--exclude", "class=Broken", cwd=tmp_path, DURAFETCH_DB="named.sqlite")
    assert done.returncode == 0 and (tmp_path / "named.sqlite").exists()
    assert cli("--help", cwd=tmp_path).stdout.count("\n  ") > 10


def test_an_error_of_our_own(tmp_path: Path) -> None:
    """Without --debug a message and how to report it; with it, the traceback."""
    broken = "import durafetch.cli.reading as r; r.run_query = None; import durafetch.mirror; durafetch.mirror.Mirror.query = lambda *a: 1 / 0\n"
    code = broken + "from durafetch.__main__ import main\nmain()"
    (tmp_path / "m.sqlite").touch()
    assert cli("query", "SELECT 1", "--db", "m.sqlite", cwd=tmp_path).returncode == 7
    (tmp_path / "m.sqlite").unlink()
    subprocess.run([DURAFETCH, "sync", "http://127.0.0.1:9", "--db", "m.sqlite"], cwd=tmp_path, capture_output=True,
                   env={**os.environ, "DURAFETCH_TOKEN": TOKEN})  # fmt: skip
    python = str(DURAFETCH.with_name("python"))
    done = subprocess.run(
        [python, "-c", code, "query", "SELECT 1", "--db", "m.sqlite"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr and "--debug" in done.stderr
    done = subprocess.run(
        [python, "-c", code, "--debug", "query", "SELECT 1", "--db", "m.sqlite"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "ZeroDivisionError" in done.stderr


def test_progress_on_a_terminal(odd: Zoo, tmp_path: Path) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [DURAFETCH, "sync", odd.url, "--exclude", "class=Broken"], cwd=tmp_path, stdin=slave, stdout=slave, stderr=slave,
        env={**os.environ, "DURAFETCH_TOKEN": TOKEN, "TERM": "xterm"},
    )  # fmt: skip
    os.close(slave)
    shown = b""
    deadline = time.monotonic() + 60
    with suppress(OSError):  # the terminal's other end is closed when the command ends
        while time.monotonic() < deadline:
            if select.select([master], [], [], 0.1)[0]:
                shown += os.read(master, 65536)
    os.close(master)
    assert process.wait(30) == 0 and b"2 objects known" in shown and b"objects" in shown


def test_watch_says_what_fails(odd: Zoo, tmp_path: Path) -> None:
    odd.run("Zoo", "fine", ["put", "k", 1])
    process = subprocess.Popen(
        [DURAFETCH, "watch", odd.url, "--exec", "cat > /dev/null; exit 5", "--min-interval", "50ms"], cwd=tmp_path,
        env={**os.environ, "DURAFETCH_TOKEN": TOKEN}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    said: list[str] = []
    try:
        while "following" not in (line := process.stderr.readline()):
            said.append(line)
        assert sum("broken on purpose" in line for line in said) == 12
        odd.run("Zoo", "fine", ["put", "k", time.time()])
        while "the command ended with 5" not in process.stderr.readline():
            assert process.poll() is None
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (301, "redirected"),
        (302, "redirected"),
        (404, "not_durafetch"),
        (403, "not_authorized"),
        (500, "unreachable"),
        (418, "not_durafetch"),
    ],
)
def test_what_answers_is_another_thing(tmp_path: Path, status: int, code: str) -> None:
    with FaultServer(
        lambda connection, _: connection.sendall(reply(b"", f"{status} X", "Location: https://other.example/"))
    ) as server:
        for command in ("sync", "watch", "doctor"):
            if command == "watch" and status == 500:
                continue  # it would wait for it to come back
            done = cli(command, server.url, cwd=tmp_path)
            assert f"[{code}]" in done.stderr, (command, done.stderr)


def test_classes_that_were_renamed_and_deleted(tmp_path: Path) -> None:
    (tmp_path / "wrangler.jsonc").write_text(json.dumps({
        "name": "app",
        "migrations": [
            {"tag": "1", "new_classes": ["Old", "Gone"], "new_sqlite_classes": ["Room"]},
            {"tag": "2", "renamed_classes": [{"from": "Old", "to": "New"}], "deleted_classes": ["Gone"]},
        ],
        "durable_objects": {"bindings": [{"name": "R", "class_name": "Room"}, {"name": "E", "class_name": "Elsewhere", "script_name": "other"}]},
    }))  # fmt: skip
    project = Project.open(tmp_path)
    assert project.classes == ["Room", "New"] and "New" in project.kv_classes
    (tmp_path / "wrangler.jsonc").write_text("[1, 2]")
    with pytest.raises(UsageError, match="is not a wrangler configuration"):
        Project.open(tmp_path)

"""`durafetch dev` beside the real runtime: the mirror, and what is printed."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import queue
import re
import select
import shutil
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from durafetch import Mirror
from durafetch.ids import id_from_name
from scripts.workerd import ROOT, Runtime, Worker, example
from tests.support import DURAFETCH, WranglerDev, cli, post

STATE = Path(".wrangler", "state", "v3", "do")
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("DURAFETCH_")} | {"COLUMNS": "120"}


class Dev:
    """A running `durafetch dev`, and the lines it prints."""

    def __init__(self, *arguments: str | Path, cwd: Path) -> None:
        self.process = subprocess.Popen(
            [DURAFETCH, "dev", *arguments], cwd=cwd, env=ENVIRONMENT, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.lines: list[str] = []
        self.talk: list[str] = []
        self._new: queue.Queue[None] = queue.Queue()
        for stream, into in ((self.process.stdout, self.lines), (self.process.stderr, self.talk)):
            threading.Thread(target=self._read, args=(stream, into), daemon=True).start()

    def _read(self, stream: Iterator[str], into: list[str]) -> None:
        for line in stream:
            into.append(line.rstrip("\n"))
            self._new.put(None)

    def wait(self, pattern: str, *, talk: bool = False) -> str:
        """Waits for a line that matches, among those not looked at before; returns it."""
        lines = self.talk if talk else self.lines
        deadline = time.monotonic() + 90
        seen = 0
        while time.monotonic() < deadline:
            while seen < len(lines):
                line = lines[seen]
                seen += 1
                if re.search(pattern, line):
                    del lines[:seen]
                    return line
            try:
                self._new.get(timeout=0.2)
            except queue.Empty:
                continue
        raise AssertionError(f"no line matches {pattern}: {self.lines} {self.talk}")

    def end(self, how: int = signal.SIGINT) -> None:
        self.process.send_signal(how)
        assert self.process.wait(60) == 0, self.talk
        assert not [line for line in self.talk if "Traceback" in line]


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Worker:
    return example(tmp_path_factory.mktemp("chat"))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copy(ROOT / "examples" / "chat" / "wrangler.jsonc", folder)
    return folder


def test_each_change_is_printed(chat: Worker, project: Path) -> None:
    """From before the first object exists, over restarts of the runtime, to its state being deleted and made anew."""
    dev = Dev(cwd=project)
    dev.wait(r"^waiting for .*\.wrangler/state/v3/do: start the Worker", talk=True)
    with Runtime(chat, project / STATE) as runtime:
        post(f"{runtime.url}/rooms/lobby/messages", {"author": "ann", "text": "hi"})
        # The name comes from another file than the contents, which may be a moment later.
        dev.wait(r"^\d\d:\d\d:\d\d\.\d{3}  Room (lobby|[0-9a-f]{12}…) +\(new, \d+ ms after \d\d:\d\d:\d\d\.\d{3}\)$")
        dev.wait(r'^  \+ kv        last  \{"author": "ann", "at": "20\d\d-')
        dev.wait(r"^  \+ messages  #1    author=ann  text=hi  at=20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
        dev.wait(r"^  \+ members   ann   messages=1$")
        dev.wait(r"^  ⏰ alarm     in 30 days$")
        post(f"{runtime.url}/rooms/lobby/messages", {"author": "ann", "text": "\x1b[2Jred \u202e text\n" + "x" * 500})
        dev.wait(r"^\S+  Room lobby +\(\d+ ms after")
        dev.wait(r'^  ~ kv        last  \{"at": "[^"]+" → "[^"]+"\}$')
        line = dev.wait(r"^  \+ messages  #2 ")
        assert "\\u001b[2Jred" in line and "\\x202e" in line and line.endswith("…") and len(line) == 120
        dev.wait(r"^  ~ members   ann   messages=1 → 2$")
        runtime.stop(kill=True)
        runtime.start()
        post(f"{runtime.url}/counters/c")
        dev.wait(r"Counter [0-9a-f]{12}… +\(new, ")
        dev.wait(r"^  \+ kv        value  1$")
        runtime.stop()
        shutil.rmtree(project / ".wrangler")
        dev.wait(r"^\S+  Counter [0-9a-f]{12}… +\(gone\)$")
        dev.wait(r"^  - with 2 rows$")
        runtime.start()
        post(f"{runtime.url}/counters/c")
        dev.wait(r"Counter .*\(new, ")
        dev.end()
    with Mirror(project / ".durafetch" / "dev.sqlite") as mirror:
        assert [(o.class_name, o.entries) for o in mirror.objects()] == [("Counter", 2)]
    assert (project / ".durafetch" / ".gitignore").read_text() == "*\n"


def test_json_lines_and_the_log(chat: Worker, project: Path) -> None:
    with Runtime(chat, project / STATE) as runtime:
        post(f"{runtime.url}/rooms/lobby/messages", {"author": "ann", "text": "before"})
        dev = Dev("--json", "--filter", "messages", cwd=project)
        dev.wait(r"dev\.sqlite: 1 Room$", talk=True)
        post(f"{runtime.url}/rooms/lobby/messages", {"author": "bob", "text": "hi"})
        change = json.loads(dev.wait("bob"))
        at = change["after"].pop("at")
        assert isinstance(at, int)
        id = id_from_name("chat-Room", "lobby")
        assert {k: v for k, v in change.items() if k not in ("at", "change_id")} == {
            "worker": "chat", "class": "Room", "id": id, "name": "lobby", "kind": "table", "table": "messages", "key": 2,
            "operation": "insert", "before": None, "after": {"id": 2, "author": "bob", "text": "hi"},
        }  # fmt: skip
        dev.end(signal.SIGTERM)
        assert dev.lines == []
    db = str(project / ".durafetch" / "dev.sqlite")
    shown = cli("log", "--db", db, "--object", "lobby", cwd=project).stdout.splitlines()
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}  Room lobby$", shown[0])
    assert "  + messages  #2    author=bob  text=hi  at=20" in "\n".join(shown)
    assert any(line.startswith("  ~ kv        last") for line in shown)
    lines = cli("log", "--db", db, "--class", "Room", "--key", "bo*", "--since", "5m", "--json").stdout.splitlines()
    assert [json.loads(line)["table"] for line in lines] == ["members"]
    assert cli("log", "--db", db, "--class", "Cart").stderr == "Nothing changed.\n"
    assert cli("log", "--db", db, "--since", "yesterday").returncode == 2


def test_once(chat: Worker, project: Path) -> None:
    done = cli("dev", "--once", cwd=project)
    assert done.returncode == 0 and done.stderr.startswith("waiting for ")
    with Runtime(chat, project / STATE) as runtime:
        post(f"{runtime.url}/counters/c")
        assert "1 Counter" in cli("dev", "--once", cwd=project).stderr
        # What reads a mirror takes this one, where there is no other.
        assert json.loads(cli("query", "SELECT key FROM kv WHERE val = '1'", cwd=project).stdout) == {"key": "value"}
        post(f"{runtime.url}/counters/c")
        done = cli("dev", "--once", str(project), cwd=project.parent)
        assert re.search(r"^  ~ kv        value  1 → 2$", done.stdout, re.MULTILINE)
        assert cli("dev", "--once", cwd=project).stdout == ""
        done = cli("sync", str(project), "--db", "m.sqlite", "--json", cwd=project.parent)
        assert json.loads(done.stdout)["objects"] == {"known": 1, "visited": 1, "changed": 1, "failed": 0, "gone": 0}
        assert cli("verify", str(project), "--db", "m.sqlite", cwd=project.parent).returncode == 0
        assert "value" in cli("show", "Counter", "c", "--db", "m.sqlite", cwd=project.parent).stdout
        assert cli("doctor", str(project), "--db", "m.sqlite", cwd=project.parent).returncode == 0
    # The runtime has closed the object's file, which may look like another version of it.
    cli("sync", str(project), "--db", "m.sqlite", cwd=project.parent)
    dry = cli("sync", str(project), "--db", "m.sqlite", "--dry-run", "--json", cwd=project.parent)
    assert json.loads(dry.stdout)["sources"][0] == {"source": str(project), "known": 1, "would_visit": 0}
    assert cli("dev", "--once", cwd=project.parent).returncode == 2


def test_filters(chat: Worker, project: Path) -> None:
    (project / "durafetch.toml").write_text('exclude = ["key=last"]\n')
    with Runtime(chat, project / STATE) as runtime:
        dev = Dev("--include", "class=Room", "--exclude", "table=members", cwd=project)
        dev.wait("waiting for the first object", talk=True)
        post(f"{runtime.url}/counters/c")
        post(f"{runtime.url}/rooms/lobby/messages", {"author": "ann", "text": "hi"})
        dev.wait("messages  #1")
        dev.end()
    with Mirror(project / ".durafetch" / "dev.sqlite") as mirror:
        assert [(o.class_name, o.entries, o.rows) for o in mirror.objects()] == [("Room", 0, 1)]
        assert "Room__members" not in {table.name for table in mirror.tables()}


def test_keys_on_a_terminal(chat: Worker, project: Path) -> None:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    before = termios.tcgetattr(slave)
    process = subprocess.Popen(
        [DURAFETCH, "dev"], cwd=project, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        env={k: v for k, v in ENVIRONMENT.items() if k != "COLUMNS"},
    )  # fmt: skip
    text = ""

    def wait(pattern: str) -> str:
        nonlocal text
        deadline = time.monotonic() + 90
        while (match := re.search(pattern, text)) is None:
            assert time.monotonic() < deadline, (pattern, text)
            if select.select([master], [], [], 0.2)[0]:
                text += os.read(master, 65536).decode()
        passed, text = text[: match.end()], text[match.end() :]
        return passed

    try:
        wait("c clear  p pause")
        with Runtime(chat, project / STATE) as runtime:
            post(f"{runtime.url}/counters/c")
            wait("\x1b\\[32m.*\\+.* kv        value  1\r\n")
            os.write(master, b"p")
            wait("paused")
            post(f"{runtime.url}/counters/c")
            post(f"{runtime.url}/counters/c")
            time.sleep(0.5)
            shown = os.read(master, 65536).decode() if select.select([master], [], [], 0)[0] else ""
            assert "value" not in text + shown
            os.write(master, b"p")
            wait("value  .* → 3")
            os.write(master, b"/")
            wait("filter .*: ")
            os.write(master, b"room\n")
            wait("showing room")
            post(f"{runtime.url}/counters/c")
            post(f"{runtime.url}/rooms/lobby/messages", {"author": "ann", "text": "日本" * 100})
            shown = wait("members +ann")
            assert "Counter" not in shown
            rows = [re.sub(r"\x1b\[[0-9;]*m", "", row) for row in shown.splitlines()]
            [row] = [row for row in rows if "messages  #1" in row]
            assert len(row) + len(re.findall("[日本]", row)) <= 80
            os.write(master, b"c")
            wait("\x1b\\[2J")
            os.write(master, b"q")
            assert process.wait(60) == 0
        assert termios.tcgetattr(slave) == before
    finally:
        process.kill()
        process.wait()
        os.close(master)
        os.close(slave)


OLD_APP = {
    "wrangler.toml": """
name = "old-app"
main = "index.js"
compatibility_date = "2024-10-01"
[durable_objects]
bindings = [{ name = "SQ", class_name = "Sq" }, { name = "KV", class_name = "Kv" }]
[[migrations]]
tag = "v1"
new_sqlite_classes = ["Sq"]
new_classes = ["Kv"]
""",
    "index.js": """
import { DurableObject } from "cloudflare:workers";
export class Sq extends DurableObject {
  async go() {
    this.ctx.storage.sql.exec("CREATE TABLE IF NOT EXISTS t(a, b)");
    this.ctx.storage.sql.exec("INSERT INTO t VALUES (1, 2.5)");
    await this.ctx.storage.put("d", { at: new Date(0), e: new TypeError("x", { cause: 1 }), m: new Map([[1, 2]]) });
    await this.ctx.storage.setAlarm(4102444800123);
  }
  alarm() {}
}
export class Kv extends DurableObject {
  async go() {
    await this.ctx.storage.put("n", ((await this.ctx.storage.get("n")) ?? 0) + 1);
    await this.ctx.storage.put("b", new Uint16Array([1, 2]));
  }
}
export default {
  async fetch(request, env) {
    if (request.method === "POST") {
      await env.SQ.get(env.SQ.idFromName("lobby")).go();
      await env.KV.get(env.KV.idFromName("lobby")).go();
    }
    return new Response("null");
  },
};
""",
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("version", [3, 4])
def test_wrangler(tmp_path: Path, version: int) -> None:
    """A project without a trace of Durafetch, beside the last wrangler 3 and the current 4, with --persist-to."""
    project = tmp_path / "app"
    project.mkdir()
    for name, text in OLD_APP.items():
        (project / name).write_text(text)
    folder = ROOT / ("tests/wrangler3" if version == 3 else "server") / "node_modules" / ".bin"
    (tmp_path / "names").write_text("lobby\n")
    dev = Dev("app", "--persist-to", "kept", "--names", "names", cwd=tmp_path)
    dev.wait(r"^waiting for ", talk=True)
    with WranglerDev(project, "--persist-to", str(tmp_path / "kept"), binary=folder / "wrangler") as wrangler:
        wrangler.post("/")
        dev.wait(r"Sq lobby +\(new")
        dev.wait(r"^  \+ t +#1    a=1  b=2.5$")
        wrangler.post("/")
        dev.wait(r"^  \+ t +#2 ")
        # Both objects are of one moment or two, in any order.
        changes = "\n".join(cli("log", "--db", "app/.durafetch/dev.sqlite", cwd=tmp_path).stdout.splitlines())
        deadline = time.monotonic() + 90
        while not re.search(r"~ kv +n +1 → 2", changes) and time.monotonic() < deadline:
            time.sleep(0.1)
            changes = cli("log", "--db", "app/.durafetch/dev.sqlite", cwd=tmp_path).stdout
        assert re.search(r"~ kv +n +1 → 2", changes), changes
        dev.end()
    with Mirror(project / ".durafetch" / "dev.sqlite") as mirror:
        objects = [(o.worker_name, o.class_name, o.name, o.storage, o.alarm_at) for o in mirror.objects()]
        assert objects == [
            ("old-app", "Kv", "lobby", "kv", None), ("old-app", "Sq", "lobby", "sqlite", "2100-01-01T00:00:00.123Z"),
        ]  # fmt: skip
        entries = {(row[0], row[1]): row[2] for row in mirror.query("SELECT class_name, key, val FROM kv")}
        value = json.loads(str(entries["Sq", "d"]))
        assert value == {"at": "1970-01-01T00:00:00.000Z", "e": {"name": "TypeError", "message": "x"}, "m": [[1, 2]]}
        assert entries["Kv", "b"] == "[1,2]"
        # wrangler dev's own table is not the app's.
        assert "Sq__t" in {table.name for table in mirror.tables()}
        assert not [table.name for table in mirror.tables() if "miniflare" in table.name]

"""What the tests share: Workers in the real runtime, and an independent look at their objects' files."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from durafetch import Mirror, SyncResult, WorkerSource, sync_sources
from scripts import workerd
from scripts.workerd import ROOT, Runtime, Worker, bundle, environment, free_port

TOKEN = "canary-token-0123456789-abcdefghijklmnop"
WORKERS = ROOT / "tests" / "workers"
DURAFETCH = ROOT / ".venv" / "bin" / "durafetch"


def zoo_worker(out: Path, *, wrapped: bool = True, token: str | None = TOKEN, **env: str) -> Worker:
    """The Worker of tests/workers/zoo.ts."""
    name = "zoo_wrapped" if wrapped else "zoo_plain"
    script = bundle(WORKERS / f"{name}.ts", out / f"{name}.js")
    variables = {**({} if token is None else {"DURAFETCH_TOKEN": token}), **env}
    classes = ["Zoo", "Eager", "Bare", "Broken"] + (["DurafetchDirectory"] if wrapped else [])
    return Worker(script, classes, ["Old"], variables, "zoo")


@dataclass
class Zoo:
    """A running zoo."""

    runtime: Runtime

    @property
    def url(self) -> str:
        return self.runtime.url

    def run(self, cls: str, name: str | None, *steps: list[Any], id: str | None = None) -> list[Any]:
        """Does steps within one object; returns their results."""
        return self.call(cls, name, *steps, id=id)[1]

    def call(self, cls: str, name: str | None, *steps: list[Any], id: str | None = None) -> tuple[str, list[Any]]:
        """The same; returns the object's id, too."""
        body = {
            "cls": cls,
            "steps": steps,
            **({} if name is None else {"name": name}),
            **({} if id is None else {"id": id}),
        }
        request = urllib.request.Request(f"{self.url}/run", json.dumps(body).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.headers["X-Object-Id"], json.loads(response.read())

    def ready(self) -> Zoo:
        """Starts the directory, as yet without an object: what is announced from now on is listed at once."""
        request = urllib.request.Request(
            f"{self.url}/__durafetch/v1/changes", headers={"Authorization": f"Bearer {TOKEN}"}
        )
        urllib.request.urlopen(request, timeout=60).close()
        return self

    def source(self, token: str = TOKEN) -> WorkerSource:
        return WorkerSource(self.url, token=token, name="zoo")

    def file(self, cls: str, id: str) -> Path:
        """The object's own file under workerd."""
        return self.runtime.state / f"zoo-{cls}" / f"{id}.sqlite"


def synced(mirror: Mirror, *sources: WorkerSource, full: bool = False) -> SyncResult:
    """Syncs; every object has to succeed."""
    result = sync_sources(mirror, sources, full=full)
    error = result.error()
    assert error is None, (error, result)
    return result


class WranglerDev:
    """`wrangler dev` of a project, on loopback. A context manager."""

    def __init__(self, project: Path, *options: str, binary: Path = ROOT / "server/node_modules/.bin/wrangler") -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = project.parent / f"{project.name}.log"
        self._command = [
            str(binary), "dev", "--local", "--ip", "127.0.0.1", "--port", str(self.port), "--inspector-port",
            str(free_port()), *options,
        ]  # fmt: skip
        self._project = project

    def __enter__(self) -> WranglerDev:
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self._project, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                env={**environment(), "WRANGLER_SEND_METRICS": "false", "CI": "true", "NO_COLOR": "1",
                     "HOME": str(self._project.parent), "XDG_CONFIG_HOME": str(self._project.parent),
                     "DO_NOT_TRACK": "1", "WRANGLER_HIDE_BANNER": "true"}, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                urllib.request.urlopen(self.url, timeout=5).close()
                return self
            except urllib.error.HTTPError:
                return self
            except OSError:
                time.sleep(0.2)
        self.__exit__()
        raise AssertionError(f"wrangler dev did not start:\n{self.log.read_text()}")

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait(20)

    def post(self, path: str, body: Any = None) -> Any:
        """Sends a request; returns the reply's JSON."""
        return post(f"{self.url}{path}", body)


def post(url: str, body: Any = None) -> Any:
    """Sends a request with a JSON body; returns the reply's JSON, None where there is none."""
    text = workerd.post(url, body)
    return json.loads(text) if text else None


class Oracle:
    """An object's own file, read by Python's sqlite3: shares no code with the product."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        self._db.text_factory = bytes

    def rows(self, table: str, columns: list[str], order: str) -> list[tuple[Any, ...]]:
        """The rows of a table as (type, exact value) pairs."""
        quoted = ", ".join('"' + column.replace('"', '""') + '"' for column in columns)
        name = '"' + table.replace('"', '""') + '"'
        return [exact(row) for row in self._db.execute(f"SELECT {quoted} FROM {name} ORDER BY {order}")]

    @cached_property
    def entries(self) -> dict[str, bytes]:
        """The entries' stored bytes by key."""
        tables = [name for (name,) in self._db.execute("SELECT name FROM sqlite_master")]
        if b"_cf_KV" not in tables:
            return {}
        return {key.decode(): value for key, value in self._db.execute("SELECT key, value FROM _cf_KV ORDER BY key")}

    def close(self) -> None:
        self._db.close()


def exact(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Cells with their types: 1 and 1.0, 0.0 and -0.0, text and blob are told apart. TEXT comes as bytes."""
    return tuple(
        ("text", v) if isinstance(v, bytes) and not isinstance(v, Blob) else (type(v).__name__, repr(v)) for v in row
    )


class Blob(bytes):
    """Marks bytes that are a BLOB."""


def cli(
    *arguments: str, cwd: Path | None = None, token: str | None = TOKEN, **env: str
) -> subprocess.CompletedProcess[str]:
    """Runs the command line; never raises. Its output never holds the token."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DURAFETCH_")} | env
    if token is not None:
        environment["DURAFETCH_TOKEN"] = token
    done = subprocess.run(
        [DURAFETCH, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )
    if token:
        assert token not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done

"""Runs Workers in the real runtime, workerd, on loopback: for the example, the demo, the tests and benchmarks."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parent.parent
COVERAGE = "DURAFETCH_COVERAGE"
"""The environment variable with the folder for the server functions' counters."""
BIN = ROOT / "server" / "node_modules" / ".bin"


def environment() -> dict[str, str]:
    """The environment for npm's command-line tools: the Node.js of requirements-dev.txt first on the path."""
    return {**os.environ, "PATH": f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"}


def free_port() -> int:
    """A TCP port on loopback that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def bundle(entry: Path, out: Path, *options: str) -> Path:
    """Bundles a Worker's entry file with esbuild; `durafetch-server` is this repository's source."""
    out.parent.mkdir(parents=True, exist_ok=True)
    modules = ROOT / "server" / "node_modules"
    # `make coverage` bundles counters with it.
    esbuild = ["node", str(ROOT / "scripts" / "counted.mjs")] if os.environ.get(COVERAGE) else [str(BIN / "esbuild")]
    subprocess.run(
        [
            *esbuild, str(entry), "--bundle", "--format=esm", f"--outfile={out}", "--log-level=error",
            "--external:cloudflare:*", "--external:node:*", "--target=es2024", "--main-fields=module,main",
            "--conditions=workerd,worker,import", f"--alias:durafetch-server={ROOT / 'server' / 'src' / 'index.ts'}",
            *options,
        ],
        check=True,
        env={**environment(), "NODE_PATH": str(modules)},
    )  # fmt: skip
    return out


def post(url: str, body: object = None) -> str:
    """Sends a request with a JSON body, or none; returns the reply's text."""
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data=data, method="POST"), timeout=60) as response:
        text: str = response.read().decode()
        return text


@dataclass
class Worker:
    """What to run: a bundled script and the Durable Object classes that it exports."""

    script: Path
    sqlite_classes: list[str]
    kv_classes: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    name: str = "main"
    compatibility_date: str = "2026-11-01"
    bindings: dict[str, str] = field(default_factory=dict)
    """Binding name to class name."""

    def capnp(self, address: str, state: Path) -> str:
        namespaces = [
            f'(className = "{c}", uniqueKey = "{self.name}-{c}", enableSql = true)' for c in self.sqlite_classes
        ]
        namespaces += [f'(className = "{c}", uniqueKey = "{self.name}-{c}")' for c in self.kv_classes]
        bindings = [f"(name = {json.dumps(k)}, text = {json.dumps(v)})" for k, v in self.env.items()]
        bindings += [f'(name = "{k}", durableObjectNamespace = "{v}")' for k, v in self.bindings.items()]
        return f"""using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [ (name = "main", worker = .worker), (name = "disk", disk = (path = {json.dumps(str(state))}, writable = true)) ],
  sockets = [ (name = "http", address = "{address}", http = (), service = "main") ]
);
const worker :Workerd.Worker = (
  modules = [ (name = "worker.js", esModule = embed {json.dumps(os.path.relpath(self.script, state.parent))}) ],
  compatibilityDate = "{self.compatibility_date}",
  compatibilityFlags = ["nodejs_compat"],
  durableObjectNamespaces = [ {", ".join(namespaces)} ],
  durableObjectStorage = (localDisk = "disk"),
  bindings = [ {", ".join(bindings)} ],
);
"""


class Runtime:
    """workerd, serving one Worker on loopback. A context manager; `stop` and `start` may be called in between."""

    def __init__(self, worker: Worker, state: Path, port: int | None = None) -> None:
        """`state` is the folder for the objects' files; it is made where it does not exist."""
        self.worker = worker
        self.state = state.resolve()
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = self.state.parent / f"{self.state.name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        # Tests stop it from several threads.
        self._lock = threading.RLock()

    def start(self) -> Runtime:
        """Starts workerd and waits until it accepts connections; raises RuntimeError where it ends instead."""
        with self._lock:
            return self._start()

    def _start(self) -> Runtime:
        if self._process is not None and self._process.poll() is None:
            raise RuntimeError("workerd is running already.")
        self.state.mkdir(parents=True, exist_ok=True)
        config = self.state.parent / f"{self.state.name}.capnp"
        config.write_text(self.worker.capnp(f"127.0.0.1:{self.port}", self.state))
        binary = next((ROOT / "server" / "node_modules" / "@cloudflare").glob("workerd-*/bin/workerd"))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(binary), "serve", "--experimental", str(config)],
                stdout=log,
                stderr=log,
                cwd=self.state.parent,
            )
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return self
            except OSError:
                time.sleep(0.01)
        self.stop()
        raise RuntimeError(f"workerd did not start:\n{self.log.read_text()}")

    def stop(self, *, kill: bool = False) -> None:
        """Ends workerd; `kill` ends it as a crash would."""
        with self._lock:
            if self._process is None:
                return
            self._count()
            self._process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def _count(self) -> None:
        """Keeps what the server functions counted, where they do."""
        folder = os.environ.get(COVERAGE)
        token = self.worker.env.get("DURAFETCH_TOKEN")
        if not folder or not token:
            return
        request = urllib.request.Request(
            f"{self.url}/__durafetch/v1/coverage", headers={"Authorization": f"Bearer {token}"}
        )
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=10) as response:
            (Path(folder) / f"{os.getpid()}-{time.monotonic_ns()}.json").write_bytes(response.read())

    @property
    def pid(self) -> int:
        """The process id of workerd; it runs."""
        assert self._process is not None
        return self._process.pid

    def wait(self) -> int:
        """Waits until workerd ends; returns its exit status."""
        assert self._process is not None
        return self._process.wait()

    def __enter__(self) -> Runtime:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


EXAMPLE_TOKEN = "development-token-of-the-chat-example"


def example(out: Path, *, name: str = "chat", token: str | None = EXAMPLE_TOKEN) -> Worker:
    """The chat example, bundled into the folder `out`."""
    project = ROOT / "examples" / "chat"
    config = json.loads(re.sub(r"^\s*//.*$", "", (project / "wrangler.jsonc").read_text(), flags=re.MULTILINE))
    script = bundle(project / "src" / "index.ts", out / "chat.js")
    migrations = config["migrations"]
    return Worker(
        script,
        [c for m in migrations for c in m.get("new_sqlite_classes", [])],
        [c for m in migrations for c in m.get("new_classes", [])],
        {} if token is None else {"DURAFETCH_TOKEN": token},
        name,
        config["compatibility_date"],
        {b["name"]: b["class_name"] for b in config["durable_objects"]["bindings"]},
    )


def main() -> int:
    """`make example`: the chat example in the foreground."""
    port = int(os.environ.get("PORT") or 8787)
    with tempfile.TemporaryDirectory() as folder:
        state = Path(os.environ.get("STATE") or Path(folder) / "state")
        worker = example(Path(folder))
        try:
            with Runtime(worker, state, port) as runtime:
                print(f"The chat example answers at {runtime.url}")
                print(f"Its development token:      {EXAMPLE_TOKEN}")
                print(f"Its objects are stored in   {runtime.state}\n\nIn another shell:")
                print(f"  curl -X POST '{runtime.url}/traffic?rooms=5&carts=5&counters=5'")
                print(f"  DURAFETCH_TOKEN={EXAMPLE_TOKEN} .venv/bin/durafetch sync {runtime.url}\n")
                print("Ctrl-C ends it.", flush=True)
                signal.signal(signal.SIGTERM, signal.default_int_handler)
                return runtime.wait()
        except RuntimeError as error:
            print(error, file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 0


if __name__ == "__main__":
    sys.exit(main())

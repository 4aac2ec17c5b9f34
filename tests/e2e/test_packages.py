"""The built artifacts: the wheel alone in an empty environment, the npm tarball in a wrangler project under wrangler dev."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from durafetch import Mirror, WorkerSource
from scripts.workerd import EXAMPLE_TOKEN, ROOT, Runtime, environment, example, free_port
from tests.support import synced

UV = ROOT / ".venv" / "bin" / "uv"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run([UV, "build", "--wheel", "--no-build-isolation", "--quiet", "--out-dir", out, ROOT], check=True,
                   env={**os.environ, "VIRTUAL_ENV": str(ROOT / ".venv")})  # fmt: skip
    [built] = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def tarball(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tarball")
    subprocess.run(
        ["npm", "pack", "--silent", "--pack-destination", out], cwd=ROOT / "server", env=environment(), check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    [packed] = out.glob("*.tgz")
    return packed


def test_the_wheel_works_alone(wheel: Path, tmp_path: Path, bundles: Path) -> None:
    subprocess.run([UV, "venv", "--quiet", tmp_path / "venv"], check=True)
    subprocess.run(
        [UV, "pip", "install", "--quiet", "--python", tmp_path / "venv" / "bin" / "python", wheel], check=True
    )
    with Runtime(example(bundles), tmp_path / "state") as runtime:
        urllib.request.urlopen(
            urllib.request.Request(f"{runtime.url}/traffic?rooms=3&carts=3&counters=3", method="POST")
        )
        run = [tmp_path / "venv" / "bin" / "durafetch"]
        env = {**os.environ, "DURAFETCH_TOKEN": EXAMPLE_TOKEN}
        done = subprocess.run(
            [*run, "sync", runtime.url, "--json"], cwd=tmp_path, env=env, capture_output=True, text=True
        )
        assert json.loads(done.stdout)["objects"]["changed"] == 9, done.stderr
        counted = subprocess.run(
            [*run, "query", "SELECT count(*) AS n FROM Room__messages"],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
        )
        assert json.loads(counted.stdout) == {"n": 9}


def test_the_tarball_holds_what_is_needed(tarball: Path, tmp_path: Path) -> None:
    shutil.unpack_archive(tarball, tmp_path)
    package = tmp_path / "package"
    names = {str(path.relative_to(package)) for path in package.rglob("*") if path.is_file()}
    assert {"package.json", "README.md", "LICENSE", "dist/index.js", "dist/index.d.ts"} <= names
    assert not [name for name in names if name.startswith(("src", "test"))]
    assert json.loads((package / "package.json").read_text())["dependencies"].keys() == {"devalue"}


def wait_for(url: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError("wrangler dev did not start")


@pytest.mark.timeout(170)
def test_the_example_under_wrangler_dev(tarball: Path, tmp_path: Path) -> None:
    """The example, unchanged, with the tarball as its dependency: wrangler finds the directory by its migration alone."""
    project = tmp_path / "chat"
    shutil.copytree(ROOT / "examples" / "chat", project, ignore=shutil.ignore_patterns("node_modules", ".wrangler"))
    modules = project / "node_modules"
    modules.mkdir()
    shutil.unpack_archive(tarball, modules)
    (modules / "package").rename(modules / "durafetch-server")
    (modules / "devalue").symlink_to(ROOT / "server" / "node_modules" / "devalue")
    (project / ".dev.vars").write_text(f'DURAFETCH_TOKEN="{EXAMPLE_TOKEN}"\n')
    port = free_port()
    env = {**environment(), "WRANGLER_SEND_METRICS": "false", "CI": "true", "NO_COLOR": "1", "HOME": str(tmp_path),
           "XDG_CONFIG_HOME": str(tmp_path), "DO_NOT_TRACK": "1", "WRANGLER_HIDE_BANNER": "true"}  # fmt: skip
    log = (tmp_path / "wrangler.log").open("w+")
    process = subprocess.Popen(
        [ROOT / "server" / "node_modules" / ".bin" / "wrangler", "dev", "--local", "--ip", "127.0.0.1", "--port", str(port),
         "--inspector-port", str(free_port())],
        cwd=project, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(url, process)
        urllib.request.urlopen(
            urllib.request.Request(f"{url}/traffic?rooms=3&carts=3&counters=3", method="POST")
        ).read()
        with Mirror(tmp_path / "m.sqlite") as mirror:
            result = synced(mirror, WorkerSource(url, token=EXAMPLE_TOKEN))
            assert result.total("changed") == 9
            assert list(mirror.query("SELECT name, count(*) FROM Room__messages GROUP BY 1")) == [
                ("room-0", 3), ("room-1", 3), ("room-2", 3),
            ]  # fmt: skip
            # wrangler dev keeps a table of its own in each object's file.
            assert [t.name for t in mirror.tables()] == ["durable_objects", "kv", "Room__members", "Room__messages"]
            urllib.request.urlopen(urllib.request.Request(f"{url}/counters/counter-1", method="POST")).read()
            assert synced(mirror, WorkerSource(url, token=EXAMPLE_TOKEN)).total("changed") == 1
    except BaseException:
        log.seek(0)
        print(log.read())
        raise
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)

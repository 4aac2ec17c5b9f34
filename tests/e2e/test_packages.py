"""The built artifacts: the wheel alone in an empty environment, the npm tarball in a wrangler project under wrangler dev."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from durafetch import LocalSource, Mirror, WorkerSource, sync_sources
from scripts.workerd import EXAMPLE_TOKEN, ROOT, Runtime, environment, example
from tests.support import WranglerDev, synced

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
    with WranglerDev(project) as wrangler, Mirror(tmp_path / "m.sqlite") as mirror:
        wrangler.post("/traffic?rooms=3&carts=3&counters=3")
        source = WorkerSource(wrangler.url, token=EXAMPLE_TOKEN)
        assert synced(mirror, source).total("changed") == 9
        assert list(mirror.query("SELECT name, count(*) FROM Room__messages GROUP BY 1")) == [
            ("room-0", 3), ("room-1", 3), ("room-2", 3),
        ]  # fmt: skip
        # wrangler dev keeps a table of its own in each object's file.
        assert [t.name for t in mirror.tables()] == ["durable_objects", "kv", "Room__members", "Room__messages"]
        wrangler.post("/counters/counter-1")
        assert synced(mirror, source).total("changed") == 1
        with Mirror(tmp_path / "local.sqlite") as local:
            # On the KV backend wrangler keeps no name beside the object.
            names = [f"counter-{n}" for n in range(3)]
            assert sync_sources(local, [LocalSource(project, names=names)]).error() is None
            facts = "SELECT worker_name, class_name, id, name, storage, alarm_at, status, entries, rows FROM durable_objects"
            assert sorted(local.query(facts)) == sorted(mirror.query(facts))
            for info in mirror.objects():
                mine = local.dump(local.find(info.class_name, info.id))
                theirs = mirror.dump(info)
                assert (mine.entries, mine.tables, mine.schema) == (theirs.entries, theirs.tables, theirs.schema)

"""The command killed at each of its writes, the runtime killed at each frame, the reply cut at each byte: a rerun converges."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import durafetch.sync
from durafetch import Mirror, WorkerSource, sync_sources
from durafetch.errors import UnreachableError
from scripts.workerd import Runtime
from tests.fault.dying import Dying
from tests.fault.tcp import TcpProxy
from tests.oracle.model import ModelObject
from tests.oracle.state import State, of_file, of_mirror
from tests.oracle.values import ValueOracle
from tests.support import TOKEN, Zoo, synced, zoo_worker

BEFORE: list[list[Any]] = [
    ["sql", "CREATE TABLE t(id INTEGER PRIMARY KEY, v)"], ["sql", "INSERT INTO t(v) VALUES ('x'), (2.5), (NULL)"],
    ["many", 30, 20, "k"], ["setAlarm", 4102444800000],
]  # fmt: skip
AFTER: list[list[Any]] = [
    ["sql", "DELETE FROM t WHERE id = 2"], ["sql", "ALTER TABLE t RENAME TO u"], ["put", "k000003", {"a": [1, None]}],
    ["delete", "k000007"], ["put", "m", "$map"], ["deleteAlarm"],
]  # fmt: skip


class World:
    """Three objects before and after some changes, and what they were and are."""

    def __init__(self, zoo: Zoo, values: ValueOracle) -> None:
        self.zoo, self.values = zoo, values
        self.models = {name: ModelObject() for name in ("one", "two", "three")}
        self.ids: dict[str, str] = {}
        self.states: dict[str, list[State]] = {name: [State()] for name in self.models}

    def run(self, steps: list[list[Any]]) -> None:
        for name, model in self.models.items():
            self.ids[name] = self.zoo.call("Zoo", name, *steps)[0]
            assert all(model.run(*steps))
            self.states[name].append(model.state(self.values))

    def check(self, mirror: Mirror, *, done: bool = False) -> None:
        """Each object is one of its states; where all is done, its last one, which its file has, too."""
        assert mirror._db.execute("PRAGMA integrity_check").get == "ok"
        for info in mirror.objects():
            assert info.name is not None
            found = of_mirror(mirror.dump(info), self.values)
            known = self.states[info.name]
            assert found in (known[-1:] if done else known)
        if done:
            assert {info.name for info in mirror.objects()} == {*self.models}
            for name in self.models:
                assert of_file(self.zoo.file("Zoo", self.ids[name]), self.values) == self.states[name][-1]


@pytest.fixture
def world(bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(durafetch.sync.SourceSync.__init__, "__kwdefaults__", {"attempts": 1})
    with Runtime(zoo_worker(bundles), tmp_path / "state") as runtime, ValueOracle(tmp_path) as values:
        yield World(Zoo(runtime).ready(), values)
        runtime.stop(kill=True)


@pytest.fixture
def dying() -> Iterator[Dying]:
    with Dying() as one:
        yield one


def test_the_command_killed_at_each_write(world: World, dying: Dying, tmp_path: Path) -> None:
    """A first sync, and one of changes: killed at the first of SQLite's writes, the second … until none is left."""
    base = tmp_path / "base.sqlite"
    Mirror(base).close()
    for number, steps in enumerate((BEFORE, AFTER)):
        world.run(steps)
        n = killed = 0
        while True:
            n += 1
            path = tmp_path / f"killed{number}-{n}.sqlite"
            path.write_bytes(base.read_bytes())
            status = dying.run(n, "sync", world.zoo.url, "--db", str(path))
            if status == 0:
                break
            assert status == -signal.SIGKILL
            killed += 1
            with Mirror(path) as mirror:
                world.check(mirror)
                synced(mirror, world.zoo.source())
                world.check(mirror, done=True)
        assert killed >= 8
        with Mirror(base) as mirror:
            synced(mirror, world.zoo.source())


def through(proxy: TcpProxy, mirror: Mirror) -> None:
    error = sync_sources(mirror, [WorkerSource(proxy.url, token=TOKEN, name="zoo")]).error()
    assert error is None or isinstance(error, UnreachableError), error


def test_the_reply_cut_at_each_byte(world: World) -> None:
    """By a proxy between the real client and the real runtime, headers included."""
    del world.models["two"], world.models["three"]
    world.run([["put", "k", "v"], ["sql", "CREATE TABLE t(a)"]])
    with TcpProxy(world.zoo.url, every_connection=True) as proxy:
        at = 0
        while True:
            with Mirror(":memory:") as mirror:
                proxy.budget = at
                through(proxy, mirror)
                if proxy.budget != 0:
                    break
                world.check(mirror)
                if at % 25 == 0:
                    synced(mirror, world.zoo.source())
                    world.check(mirror, done=True)
            at += 1
    assert at > 1000


def test_the_runtime_killed_at_each_frame(world: World, tmp_path: Path) -> None:
    world.run(BEFORE)
    with Mirror(tmp_path / "base.sqlite") as mirror:
        synced(mirror, world.zoo.source())
    world.run(AFTER)
    with TcpProxy(world.zoo.url, every_connection=True) as proxy:
        proxy.seen = b""
        with Mirror(tmp_path / "whole.sqlite") as mirror:
            through(proxy, mirror)
        places = [place + 1 for place, byte in enumerate(proxy.seen) if byte == ord("\n")]
        for at in places:
            with Mirror(tmp_path / f"at{at}.sqlite") as mirror:
                proxy.budget = at
                proxy.on_cut = lambda: world.zoo.runtime.stop(kill=True)
                through(proxy, mirror)
                world.check(mirror)
                proxy.budget = proxy.on_cut = None
                world.zoo.runtime.stop(kill=True)
                world.zoo.runtime.start()
                for name in world.models:
                    world.zoo.run("Zoo", name, ["get", "x"])
                synced(mirror, world.zoo.source())
                world.check(mirror, done=True)
    assert len(places) > 15

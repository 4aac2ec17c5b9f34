"""The same machine without runtime and sockets: thousands of steps, in ways of telling that no server would choose."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule

import durafetch.sync
from durafetch import Mirror, SyncResult, sync_sources
from durafetch.errors import UnreachableError
from tests.oracle.state import of_mirror
from tests.oracle.values import ValueOracle
from tests.property.machine import SEEDS, AppMachine, run
from tests.property.pure_worker import PureWorker

SEED = st.integers(0, 2**32)


class Pure(AppMachine):
    most_rows = 60

    def __init__(self) -> None:
        super().__init__()
        self.worker = PureWorker(Random(0))
        self.path = self.folder / f"{self.prefix}.sqlite"
        self.mirror = Mirror(":memory:")

    def teardown(self) -> None:
        self.quiet(0)
        self.mirror.close()

    def really_act(self, cls: str, name: str, steps: list[list[object]], expected: list[bool]) -> None:
        self.worker.announce(cls, self.id_of(cls, name), name, self.objects[cls, name])

    @rule(seed=SEED)
    def sync(self, seed: int) -> None:
        self.synced(seed)

    def synced(self, seed: int) -> SyncResult:
        self.worker.random = Random(seed)
        result = sync_sources(self.mirror, [self.worker])
        assert result.error() is None
        self.plausible(self.mirror)
        return result

    @rule(seed=SEED)
    def full_sync(self, seed: int) -> None:
        self.worker.random = Random(seed)
        assert sync_sources(self.mirror, [self.worker], full=True).error() is None
        self.plausible(self.mirror)

    @rule(seed=SEED, at=st.integers(0, 3000))
    def cut_sync(self, seed: int, at: int) -> None:
        self.worker.random, self.worker.cut = Random(seed), at
        error = sync_sources(self.mirror, [self.worker]).error()
        self.worker.cut = None
        assert error is None or isinstance(error, UnreachableError)
        self.plausible(self.mirror)

    @rule(seed=SEED, bit=st.integers(0, 10**6))
    def damaged_sync(self, seed: int, bit: int) -> None:
        self.worker.random, self.worker.flip = Random(seed), bit
        error = sync_sources(self.mirror, [self.worker]).error()
        self.worker.flip = None
        assert error is None or error.exit_status in (3, 5, 6), error
        self.plausible(self.mirror)

    @rule(directory=st.booleans())
    def restart(self, directory: bool) -> None:
        self.worker.restart(directory=directory)

    @rule(seed=SEED)
    def quiet(self, seed: int) -> None:
        while self.synced(seed).total("visited"):
            pass
        for (cls, name), model in self.objects.items():
            dump = self.mirror.dump(self.mirror.find(cls, self.id_of(cls, name)))
            assert of_mirror(dump, self.values) == model.state(self.values)
        assert list(self.mirror._db.execute("PRAGMA integrity_check")) == [("ok",)]


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("pure")
    with ValueOracle(folder) as values:
        Pure.values, Pure.folder = values, folder
        yield


@pytest.mark.parametrize("seed", SEEDS)
def test_pure(ready: None, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(durafetch.sync, "BACKOFF_S", 0.0)
    run(Pure, seed, 25, 50)

"""Random changes to real objects under workerd, with syncs of every kind and faults of every kind in between.

At any moment each object in a mirror is a state that it once had. After a quiet sync the mirror, the object's own file and
the model in memory are equal; incremental equals full; and what was at any moment stays known to `history`.
"""

from __future__ import annotations

import json
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

import durafetch.sync
import durafetch.watch
from durafetch import Mirror, SyncResult, WorkerSource, sync_sources
from durafetch.errors import UnreachableError
from durafetch.filters import Filters
from durafetch.mirror.changes import row_json
from durafetch.mirror.database import iso_now
from durafetch.sources.local import LocalSource
from durafetch.sync_local import LocalSync
from scripts.workerd import Runtime
from tests.fault.dying import Dying
from tests.fault.tcp import TcpProxy
from tests.oracle.state import of_file, of_mirror
from tests.oracle.values import ValueOracle
from tests.property.machine import CLASSES, EXAMPLES, KEYS, OBJECTS, SEEDS, AppMachine, run
from tests.support import TOKEN, Zoo, synced, zoo_worker
from tests.watching import Watching, until

CHOICES = [([], []), (["key=key0*"], ["table=a"]), ([], ["table=B", "key=*1*"]), (["table=a*", "key=zz*"], [])]
"""Filters: included, excluded."""
TYPED = st.sampled_from(["$map", "$set", "$withDate", "$bigint", "$uint8", "$negativeZero", "$nan", "$undefinedIn", "$cycle",
                         "$shared", "$regexp", "$sparse", "$mapOddKeys", "$lone", "$float64", "$proto", "$deep"])  # fmt: skip


class Convergence(AppMachine):
    runtime: ClassVar[Runtime]
    proxy: ClassVar[TcpProxy]
    dying: ClassVar[Dying]

    def __init__(self) -> None:
        super().__init__()
        self.zoo = Zoo(self.runtime)
        self.path = self.folder / f"{self.prefix}.sqlite"
        self.mirror = Mirror(self.path)
        self.filtered = Mirror(self.folder / f"{self.prefix}filtered.sqlite")
        self.choice = 0
        self.local = Mirror(self.folder / f"{self.prefix}local.sqlite")
        self.local.history = "1000000"
        self.local_sync = LocalSync(self.local, LocalSource(self.runtime.state))
        self.local_sync.run()
        self.moments: list[tuple[str, list[tuple[str, Any, str]]]] = []
        self.watched: Watching | None = None

    def teardown(self) -> None:
        try:
            self.quiet()
            for moment, contents in self.moments:
                assert self.as_of(moment) == contents
        finally:
            if self.watched is not None:
                self.watched.__exit__()
            for mirror in (self.mirror, self.filtered, self.local):
                mirror.close()

    def really_act(self, cls: str, name: str, steps: list[list[Any]], expected: list[bool]) -> None:
        # On the KV backend a write is in the file only once it was waited for.
        results = self.zoo.run(cls, name, *steps, *([["sync"]] if cls == "Old" else []))
        succeeded = ["error" not in result if isinstance(result, dict) else True for result in results[: len(steps)]]
        assert succeeded == expected, (steps, results)

    @rule(cls=CLASSES, name=OBJECTS, key=KEYS, value=TYPED)
    def put_typed(self, cls: str, name: str, key: str, value: str) -> None:
        self.act(cls, name, ["put", key, value])

    # Faults, and syncs of every kind

    @rule(kill=st.booleans())
    def restart(self, kill: bool) -> None:
        self.restarted(lambda: self.runtime.stop(kill=kill))

    def restarted(self, stop: Callable[[], None]) -> None:
        stop()
        self.runtime.start()
        for cls, name in self.objects:
            # An object is known again from its next start on.
            self.zoo.call(cls, name, ["get", "x"])

    @rule()
    def sync(self) -> None:
        synced(self.mirror, self.zoo.source())
        self.plausible(self.mirror)

    @rule()
    def full_sync(self) -> None:
        synced(self.mirror, self.zoo.source(), full=True)
        self.plausible(self.mirror)

    @rule(at=st.integers(0, 6000))
    def connection_cut(self, at: int) -> None:
        self.proxy.budget = at
        self.through_proxy()
        self.plausible(self.mirror)

    @rule(at=st.integers(0, 6000))
    def runtime_killed_during_a_sync(self, at: int) -> None:
        self.proxy.budget = at
        self.proxy.on_cut = lambda: self.runtime.stop(kill=True)
        self.through_proxy()
        # A reply that was too short to be cut has not killed it.
        self.restarted(lambda: self.runtime.stop(kill=True))
        self.plausible(self.mirror)

    def through_proxy(self) -> None:
        try:
            error = sync_sources(self.mirror, [WorkerSource(self.proxy.url, token=TOKEN, name="zoo")]).error()
            assert error is None or isinstance(error, UnreachableError), error
        finally:
            self.proxy.budget, self.proxy.on_cut = None, None

    @rule(at=st.integers(1, 60))
    def command_killed(self, at: int) -> None:
        status = self.dying.run(at, "sync", self.zoo.url, "--db", str(self.path))
        assert status in (0, -signal.SIGKILL)
        self.plausible(self.mirror)

    @rule(data=st.data())
    def two_clients(self, data: st.DataObject) -> None:
        """Two syncs of one mirror at the same time, while the app goes on."""
        errors: list[BaseException | None] = []

        def other() -> None:
            with Mirror(self.path) as mirror:
                result = sync_sources(mirror, [self.zoo.source()])
                errors.append(result.sources[0].error)

        threads = [threading.Thread(target=other) for _ in range(2)]
        for thread in threads:
            thread.start()
        for n in range(data.draw(st.integers(0, 3))):
            self.act(data.draw(CLASSES), data.draw(OBJECTS), ["put", f"key00{n}", n])
        for thread in threads:
            thread.join()
        assert errors == [None, None]
        self.plausible(self.mirror)

    @rule(choice=st.integers(0, len(CHOICES) - 1))
    def filtered_sync(self, choice: int) -> None:
        self.choice = choice
        synced(self.filtered, self.filtered_source())

    def filtered_source(self) -> WorkerSource:
        return WorkerSource(self.zoo.url, token=TOKEN, name="zoo", filters=Filters.parse(*CHOICES[self.choice]))

    @rule()
    def local_files(self) -> None:
        self.local_sync.run()
        self.plausible(self.local)

    @precondition(lambda self: self.watched is None)
    @rule()
    def watch(self) -> None:
        self.watched = Watching(self.folder / f"{self.prefix}watched.sqlite", self.zoo.source()).__enter__()

    @precondition(lambda self: self.watched is not None)
    @rule()
    def unwatch(self) -> None:
        assert self.watched is not None
        watched = self.watched
        self.watched = None
        self.plausible(watched.reader)
        watched.__exit__()

    # What has to be true

    @rule()
    def quiet(self) -> None:
        self.sync_until_quiet(self.mirror, self.zoo.source())
        self.sync_until_quiet(self.filtered, self.filtered_source())
        result = self.local_sync.run()
        assert (result.error, result.failures) == (None, [])
        # The runtime may tidy up a file that nothing uses any more, between two looks.
        assert any(self.local_sync.run().visited == 0 for _ in range(20))
        with Mirror(self.folder / f"{self.prefix}fresh.sqlite") as fresh:
            synced(fresh, self.zoo.source(), full=True)
            for (cls, name), model in self.objects.items():
                id = self.id_of(cls, name)
                state = model.state(self.values)
                assert of_file(self.zoo.file(cls, id), self.values) == state
                ours, theirs, local = (m.dump(m.find(cls, id)) for m in (self.mirror, fresh, self.local))
                for dump in (ours, theirs, local):
                    assert of_mirror(dump, self.values) == state
                    # To the letter: the text of values, too.
                    assert (dump.entries, repr(dump.tables), dump.schema) == (
                        ours.entries,
                        repr(ours.tables),
                        ours.schema,
                    )
                    assert dump.info.status == "ok"
                filters = Filters.parse(*CHOICES[self.choice])
                left = of_mirror(self.filtered.dump(self.filtered.find(cls, id)), self.values)
                assert left == state.only(filters.table_matches, filters.keys.matches)
        if self.watched is not None:
            until(self.watcher_is_there)
            self.plausible(self.watched.reader)
        assert list(self.mirror.query("PRAGMA integrity_check")) == [("ok",)]
        self.remember()

    def sync_until_quiet(self, mirror: Mirror, source: WorkerSource) -> SyncResult:
        while (result := synced(mirror, source)).total("visited"):
            pass
        return result

    def watcher_is_there(self) -> bool:
        assert self.watched is not None
        reader = self.watched.reader
        found = {}
        with reader._db:
            for info in reader.objects():
                found[info.id] = of_mirror(reader.dump(info), self.values)
        return all(found.get(self.id_of(*key)) == model.state(self.values) for key, model in self.objects.items())

    def remember(self) -> None:
        # Moments are told apart by milliseconds.
        time.sleep(0.002)
        moment = iso_now()
        time.sleep(0.002)
        self.moments.append((moment, self.as_of(moment)))
        assert self.moments[-1][1] == self.contents()

    def as_of(self, moment: str) -> list[tuple[str, Any, str]]:
        """What the objects of this run had at a moment, by the view `history`."""
        sql = (
            "SELECT id, table_name, value FROM history WHERE kind IN ('kv', 'table') "
            "AND valid_from <= :at AND :at < valid_to"
        )
        own = {self.id_of(*key) for key in self.objects}
        rows = self.local.query(sql, {"at": moment})
        return sorted((str(id), table or "", bare(str(value))) for id, table, value in rows if id in own)

    def contents(self) -> list[tuple[str, Any, str]]:
        """The same, now, by the objects' dumps."""
        found: list[tuple[str, Any, str]] = []
        for cls, name in self.objects:
            id = self.id_of(cls, name)
            dump = self.local.dump(self.local.find(cls, id))
            found += [(id, "", bare(val)) for _, val, _ in dump.entries]
            for table in dump.tables:
                rows = dump.tables[table]
                found += [(id, table, bare(row_json(rows.columns, row) or "")) for row in rows.rows]
        return sorted(found)


def bare(text: str) -> str:
    """JSON text without the columns that are NULL: a mirror's table has those of other objects, too."""
    value = json.loads(text)
    return repr({k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value)


@pytest.fixture(scope="module")
def running(bundles: Path) -> Iterator[None]:
    with (
        tempfile.TemporaryDirectory() as name,
        Runtime(zoo_worker(bundles), Path(name) / "state") as runtime,
        ValueOracle(Path(name)) as values,
        TcpProxy(runtime.url, every_connection=True) as proxy,
        Dying() as dying,
    ):
        Convergence.runtime, Convergence.proxy, Convergence.dying = runtime, proxy, dying
        Convergence.folder, Convergence.values = Path(name), values
        Zoo(runtime).ready()
        yield
        with suppress(Exception):
            runtime.stop(kill=True)


@pytest.mark.timeout(300 + 10 * EXAMPLES)
@pytest.mark.parametrize("seed", SEEDS)
def test_convergence(running: None, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(durafetch.sync, "BACKOFF_S", 0.01)
    monkeypatch.setattr(durafetch.watch, "MAX_BACKOFF_S", 0.2)
    # Real objects live on, so that no shorter example could be tried: it would meet another world.
    run(Convergence, seed, 4, shrink=False)

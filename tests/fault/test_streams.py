"""Recorded replies of the real runtime, told in part or wrong: an object is what it was or what it is, and never called
complete where it is neither."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

import durafetch.sync
from durafetch import Mirror, WorkerSource, sync_sources
from durafetch.errors import UnreachableError
from durafetch.frames import LineSplitter
from durafetch.mirror import PendingObject
from durafetch.sources.worker import ChangesPage
from tests.support import TOKEN, Zoo, synced


class Recorded(WorkerSource):
    """Gives what a Worker said before, or what a test makes of it. Its replies are recorded while `data` is None."""

    def __init__(self, url: str) -> None:
        super().__init__(url, token=TOKEN, name="zoo")
        self.page: ChangesPage | None = None
        self.data: bytes | None = None
        self.recorded = b""

    async def changes(self, after: str, *, limit: int = 1000) -> ChangesPage:
        if self.data is None or self.page is None:
            self.page = await super().changes(after)
        return self.page

    @asynccontextmanager
    async def pull(self, objects: Sequence[PendingObject], seed: str) -> AsyncIterator[AsyncIterator[list[bytes]]]:
        if self.data is not None:
            yield self._told(self.data)
            return
        async with super().pull(objects, seed) as groups:
            yield self._kept(groups)

    async def _kept(self, groups: AsyncIterator[list[bytes]]) -> AsyncIterator[list[bytes]]:
        async for lines in groups:
            self.recorded += b"".join(line + b"\n" for line in lines)
            yield lines

    async def _told(self, data: bytes) -> AsyncIterator[list[bytes]]:
        splitter = LineSplitter()
        yield list(splitter.feed(data))
        if splitter.pending:
            raise UnreachableError("in the middle of a line")


States = dict[str, Any]


def states(mirror: Mirror) -> States:
    """Each object's contents by its id; those not called complete under the id and "?"."""
    found: States = {}
    for info in mirror.objects():
        dump = mirror.dump(info)
        contents = (dump.entries, repr(dump.tables), dump.schema, info.alarm_at, info.entries, info.rows)
        found[info.id + ("" if info.status == "ok" else "?")] = contents
    return found


class Case:
    """A mirror at one state, a reply that leads to another, and the states of the objects before and after."""

    def __init__(self, folder: Path, zoo: Zoo, first: bool) -> None:
        self.base = folder / "base.sqlite"
        self.path = folder / "told.sqlite"
        self.source = Recorded(zoo.url)
        table = "CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, v)"
        ids = [
            zoo.call("Zoo", "a", ["sql", table], ["sql", "INSERT INTO t(v) VALUES ('x'), (2.5), (NULL)"], ["put", "k", {"n": 1}])[0],
            zoo.call("Old", "b", ["put", {"k": "v", "m": "$map"}], ["setAlarm", 4102444800000], ["sync"])[0],
        ]  # fmt: skip
        with Mirror(self.base) as mirror:
            if not first:
                synced(mirror, zoo.source())
                zoo.run("Zoo", "a", ["sql", "UPDATE t SET v = 'changed' WHERE id = 2"], ["sql", "ALTER TABLE t ADD COLUMN w"],
                        ["delete", "k"], ["put", "l", 5])  # fmt: skip
                zoo.run("Old", "b", ["put", "k", "w"], ["deleteAlarm"], ["sync"])
        shutil.copy(self.base, self.path)
        with Mirror(self.base) as mirror:
            self.before = states(mirror)
            synced(mirror, self.source)
            self.after = states(mirror)
        shutil.copy(self.path, self.base)
        self.reply = self.source.recorded
        assert {*self.after} == {*ids} and self.before != self.after
        self.mirror = Mirror(self.path)

    def tell(self, data: bytes) -> None:
        """Syncs with this reply, and looks what became of it; the mirror is then as before."""
        self.source.data = data
        sync_sources(self.mirror, [self.source])
        now = states(self.mirror)
        for key, contents in now.items():
            id = key.removesuffix("?")
            if key == id:
                assert contents == self.after[id], "called complete, and is not"
            else:
                assert contents in (self.before.get(id), self.after[id], ([], "{}", [], None, 0, 0))
        if any(not key.endswith("?") for key in now):
            self.mirror.close()
            shutil.copy(self.base, self.path)
            self.mirror = Mirror(self.path)

    def close(self) -> None:
        self.mirror.close()


@pytest.fixture(params=["first", "incremental"])
def case(request: pytest.FixtureRequest, zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    monkeypatch.setattr(durafetch.sync, "ATTEMPTS", 1)
    monkeypatch.setattr(durafetch.sync.SourceSync.__init__, "__kwdefaults__", {"attempts": 1})
    zoo.run("Zoo", "a", ["deleteAll"])
    zoo.run("Old", "b", ["deleteAll"], ["sync"])
    made = Case(tmp_path, zoo, request.param == "first")
    yield made
    made.close()


def test_every_prefix_of_bytes(case: Case) -> None:
    for size in range(len(case.reply) + 1):
        case.tell(case.reply[:size])


def test_every_frame_missing_twice_and_elsewhere(case: Case) -> None:
    lines = case.reply.splitlines(keepends=True)
    for n, line in enumerate(lines):
        case.tell(b"".join(lines[:n] + lines[n + 1 :]))
        case.tell(b"".join([*lines[: n + 1], *lines[n:]]))
        for m in range(len(lines)):
            others = lines[:n] + lines[n + 1 :]
            case.tell(b"".join([*others[:m], line, *others[m:]]))
            case.tell(b"".join([*lines[:n], lines[m], *lines[n + 1 :]]))


def test_every_byte_damaged(case: Case) -> None:
    random = Random(5)
    for place, byte in enumerate(case.reply):
        turned = random.choice([byte ^ (1 << random.randrange(8)), random.randrange(256)])
        case.tell(case.reply[:place] + bytes([turned]) + case.reply[place + 1 :])


def test_bytes_missing_and_added(case: Case) -> None:
    random = Random(6)
    for _ in range(400):
        start = random.randrange(len(case.reply))
        stop = min(len(case.reply), start + random.choice([1, 2, 5, 50]))
        case.tell(case.reply[:start] + case.reply[stop:])
        case.tell(case.reply[:stop] + case.reply[start:])

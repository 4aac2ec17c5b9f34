"""The disk fails, runs full, or loses what was not synced, at the n-th call that SQLite makes for the mirror, for n = 1, 2, 3 …

Each time: a documented error and nothing else, and a mirror that opens, is sound, and is brought to its end by the next run.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import apsw
import pytest

from durafetch import LocalSource, Mirror
from durafetch.errors import MirrorDamagedError, MirrorError, MirrorFullError
from durafetch.sync_local import LocalSync
from scripts.workerd import Runtime
from tests.support import Zoo, zoo_worker

SYSTEM = apsw.vfs_names()[0]
CALLS = ("xWrite", "xSync", "xTruncate", "xRead")


class Disk(apsw.VFS):
    """SQLite's own disk, and this process's default, until `fails_at` calls of one kind were made; then it fails."""

    def __init__(self) -> None:
        super().__init__("faulty", base=SYSTEM, makedefault=True)
        self.kind = ""
        self.fails_at = 0
        self.error: type[apsw.Error] = apsw.IOError
        self.count = 0
        self.lasting = True

    def xOpen(self, name: Any, flags: list[int]) -> Any:
        return DiskFile(self, name, flags)

    def call(self, kind: str) -> None:
        if kind == self.kind:
            self.count += 1
            if self.count == self.fails_at or (self.lasting and self.count > self.fails_at > 0):
                raise self.error("injected")


class DiskFile(apsw.VFSFile):
    def __init__(self, disk: Disk, name: Any, flags: list[int]) -> None:
        super().__init__(SYSTEM, name, flags)
        self._disk = disk

    def xWrite(self, data: bytes, offset: int) -> None:
        self._disk.call("xWrite")
        super().xWrite(data, offset)

    def xRead(self, amount: int, offset: int) -> bytes:
        self._disk.call("xRead")
        return super().xRead(amount, offset)

    def xSync(self, flags: int) -> None:
        self._disk.call("xSync")
        super().xSync(flags)

    def xTruncate(self, size: int) -> None:
        self._disk.call("xTruncate")
        super().xTruncate(size)


@pytest.fixture
def disk() -> Iterator[Disk]:
    made = Disk()
    yield made
    made.unregister()
    # SQLite would take any other there is.
    apsw.set_default_vfs(SYSTEM)


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The files of some objects, and of the same objects later."""
    folder = tmp_path_factory.mktemp("disk")
    with Runtime(zoo_worker(folder, wrapped=False), folder / "state") as runtime:
        zoo = Zoo(runtime)
        for n in range(8):
            zoo.run("Zoo", f"o{n}", ["sql", "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b, c, d)"], ["rows", "t", 60 * n],
                    ["many", 20 * n, 100], ["sync"])  # fmt: skip
        shutil.copytree(runtime.state, folder / "before")
        for n in range(0, 8, 2):
            zoo.run("Zoo", f"o{n}", ["sql", "DELETE FROM t WHERE id % 3 = 0"], ["put", "k000001", "later"], ["sync"])
        zoo.run("Zoo", "new", ["put", "k", 1], ["sync"])
        zoo.run("Zoo", "o1", ["sql", "ALTER TABLE t ADD COLUMN e DEFAULT 1"], ["sync"])
        shutil.copytree(runtime.state, folder / "after")
    return folder / "before", folder / "after"


def sync(path: Path, state: Path, place: Path) -> None:
    """Syncs from files that lie where they lay before; raises what failed."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(state, place)
    with Mirror(path) as mirror:
        mirror.history = "10000"
        result = LocalSync(mirror, LocalSource(place)).run()
        if result.error is not None:
            raise result.error
        assert not result.failures


def dump(path: Path) -> list[Any]:
    with Mirror(path) as mirror:
        assert list(mirror.query("PRAGMA integrity_check")) == [("ok",)]
        parts = []
        for info in mirror.objects():
            whole = mirror.dump(info)
            assert info.entries == len(whole.entries) and info.rows == sum(len(t.rows) for t in whole.tables.values())
            parts.append((info.id, info.status, whole.entries, repr(whole.tables), whole.schema))
        return parts


@pytest.mark.parametrize("kind", CALLS)
@pytest.mark.parametrize(("error", "expected"), [(apsw.FullError, MirrorFullError), (apsw.IOError, MirrorDamagedError)])
def test_the_disk_fails_at_every_call(
    disk: Disk,
    states: tuple[Path, Path],
    tmp_path: Path,
    kind: str,
    error: type[apsw.Error],
    expected: type[MirrorError],
) -> None:
    before, after = states
    place = tmp_path / "state"
    base = tmp_path / "base.sqlite"
    sync(base, before, place)
    reference = tmp_path / "reference.sqlite"
    shutil.copy(base, reference)
    sync(reference, after, place)
    wanted, had = dump(reference), dump(base)
    assert wanted != had
    failed = 0
    step = 1
    n = 1
    while True:
        path = tmp_path / f"{kind}{n}.sqlite"
        shutil.copy(base, path)
        disk.kind, disk.fails_at, disk.error, disk.count = kind, n, error, 0
        disk.lasting = n % 2 == 0
        caught: Exception | None = None
        try:
            sync(path, after, place)
        except MirrorError as raised:
            caught = raised
            assert raised.exit_status == 7 and "injected" not in type(raised).__name__
            assert isinstance(raised, expected | MirrorDamagedError | MirrorFullError)
        reached = disk.count >= n
        disk.fails_at = 0
        if caught is not None:
            failed += 1
            # Every object is as it was, or as it is now.
            now = {part[0]: part[2:] for part in dump(path)}
            old, new = ({part[0]: part[2:] for part in parts} for parts in (had, wanted))
            for id_, contents in now.items():
                assert contents in (old.get(id_), new.get(id_), ([], "{}", [])), id_
            sync(path, after, place)
        assert dump(path) == wanted
        for leftover in tmp_path.glob(f"{path.name}*"):
            leftover.unlink()
        if not reached:
            break
        # Every call at first, then ever fewer of the many that are alike.
        step = max(1, n // 12)
        n += step
    assert failed >= {"xWrite": 10, "xRead": 5, "xSync": 1, "xTruncate": 0}[kind]


class LosingDisk(apsw.VFS):
    """SQLite's own disk; before each call it is noted what would be left of the files if the power failed there.

    Of what was written since a file's last sync some is there and some is not, whole or in part.
    """

    def __init__(self, random: Random) -> None:
        super().__init__("losing", base=SYSTEM, makedefault=True)
        self.random = random
        self.synced: dict[str, bytes] = {}
        self.unsynced: dict[str, list[tuple[int, bytes | None]]] = {}
        """Writes (offset, data) and truncations (size, None) of a file since its last sync."""
        self.images: list[dict[str, bytes]] = []

    def xOpen(self, name: Any, flags: list[int]) -> Any:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        if path not in self.synced:
            self.synced[path] = Path(path).read_bytes() if Path(path).exists() else b""
            self.unsynced[path] = []
        return LosingFile(self, path, name, flags)

    def xDelete(self, name: str, syncdir: bool) -> None:
        super().xDelete(name, syncdir)
        self.note()
        self.synced.pop(name, None)
        self.unsynced.pop(name, None)

    def note(self) -> None:
        image = {}
        for path, data in self.synced.items():
            left = bytearray(data)
            for offset, written in self.unsynced[path]:
                chance = self.random.random()
                if chance < 0.4:
                    continue
                if written is None:
                    del left[offset:]
                    continue
                if chance < 0.6:
                    written = written[: self.random.randrange(len(written) + 1)]
                left.extend(bytes(max(0, offset - len(left))))
                left[offset : offset + len(written)] = written
            image[path] = bytes(left)
        self.images.append(image)


class LosingFile(apsw.VFSFile):
    def __init__(self, disk: LosingDisk, path: str, name: Any, flags: list[int]) -> None:
        super().__init__(SYSTEM, name, flags)
        self._disk, self._path = disk, path

    def xWrite(self, data: bytes, offset: int) -> None:
        super().xWrite(data, offset)
        self._disk.unsynced[self._path].append((offset, bytes(data)))
        self._disk.note()

    def xTruncate(self, size: int) -> None:
        super().xTruncate(size)
        self._disk.unsynced[self._path].append((size, None))
        self._disk.note()

    def xSync(self, flags: int) -> None:
        super().xSync(flags)
        self._disk.synced[self._path] = Path(self._path).read_bytes()
        self._disk.unsynced[self._path] = []
        self._disk.note()


@pytest.mark.parametrize("first", [True, False])
def test_the_power_fails_at_every_call(states: tuple[Path, Path], tmp_path: Path, first: bool) -> None:
    before, after = states
    place = tmp_path / "state"
    path = tmp_path / "mirror" / "m.sqlite"
    path.parent.mkdir()
    had: list[Any] = []
    if not first:
        sync(path, before, place)
        had = dump(path)
    losing = LosingDisk(Random(7))
    try:
        sync(path, after, place)
    finally:
        losing.unregister()
        apsw.set_default_vfs(SYSTEM)
    wanted = dump(path)
    old, new = ({part[0]: part[2:] for part in parts} for parts in (had, wanted))
    changed = 0
    for image in losing.images[:: max(1, len(losing.images) // 150)]:
        for leftover in path.parent.iterdir():
            leftover.unlink()
        for name, data in image.items():
            Path(name).write_bytes(data)
        now = dump(path)
        for id_, _, *contents in now:
            assert tuple(contents) in (old.get(id_), new.get(id_), ([], "{}", [])), id_
        changed += now not in (had, wanted)
        sync(path, after, place)
        assert dump(path) == wanted
    assert len(losing.images) > 30

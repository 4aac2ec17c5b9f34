"""Reads a SQLite file that another process is writing, without a lock and without leaving a trace beside it.

SQLite itself cannot: to read a database in WAL mode it takes locks in, and may create, the `-shm` file. So the pages of
one committed state are put together here, from the main file and the write-ahead log, and handed to SQLite through a VFS
of our own that only reads. Formats: https://www.sqlite.org/fileformat2.html#walformat and, for what the `-shm` file
says about the log, https://www.sqlite.org/walformat.html.
"""

from __future__ import annotations

import itertools
import os
import shutil
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import apsw

from durafetch.errors import UnreadableFileError

WAL_HEADER_BYTES: Final = 32
FRAME_HEADER_BYTES: Final = 24
_INDEX_HEADER: Final = struct.Struct("=III B B H II II II II")
_INDEX_VERSION: Final = 3_007_000
_CLOCK_TICK_S: Final = 0.012
"""File times are no finer than the kernel's clock; a file written this recently may be written again unnoticed."""
_ATTEMPTS: Final = 20


class Moved(Exception):
    """The file was checkpointed or replaced while it was read; reading it again will do."""


class Snapshot:
    """One committed state of a database file, for as long as `check()` does not raise.

    `version` is equal for equal states. `written_ns`: when the last commit in it was written, ns since 1970.
    """

    version: str
    written_ns: int

    def __init__(self, path: Path) -> None:
        """Raises FileNotFoundError where there is no file, Moved where it changes just now."""
        self._path = path
        self._wal_path = path.with_name(f"{path.name}-wal")
        self._shm_path = path.with_name(f"{path.name}-shm")
        self._files: list[int] = []
        self._frames: dict[int, int] = {}
        self._page_size = 0
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        try:
            self._main = self._open(path)
            self._before = os.fstat(self._main)
            self.written_ns = self._before.st_mtime_ns
            self._index: int | None = None
            self._settle()
        except BaseException:
            self.close()
            raise

    def _open(self, path: Path) -> int:
        file = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        self._files.append(file)
        return file

    def _settle(self) -> None:
        """Finds out where the pages of the last committed state are."""
        wal = self._optional(self._wal_path)
        if wal is None or os.fstat(wal).st_size < WAL_HEADER_BYTES:
            if self._path.with_name(f"{self._path.name}-journal").exists():
                self._copy_aside()
                return
            if time.time_ns() - self._before.st_mtime_ns < _CLOCK_TICK_S * 1e9:
                time.sleep(_CLOCK_TICK_S)
                if _moved(self._before, os.fstat(self._main)):
                    raise Moved
            self.size = self._before.st_size
            self.version = f"{self._before.st_ino:x}.{self.size:x}.{self._before.st_mtime_ns:x}"
            return
        index = self._optional(self._shm_path)
        header = None if index is None else _index_header(index)
        if index is None or header is None or not self._read_log(wal, index, header):
            self._copy_aside()
            return
        self._index = index

    def _optional(self, path: Path) -> int | None:
        try:
            return self._open(path)
        except FileNotFoundError:
            return None

    def _read_log(self, wal: int, index: int, header: tuple[int, ...]) -> bool:
        """Takes the frames of the log up to the last commit; False where the index does not belong to it."""
        last, pages, salts, checksum = header[6], header[7], header[10:12], header[8:10]
        self.written_ns = max(self.written_ns, os.fstat(wal).st_mtime_ns)
        state = f"{self._before.st_ino:x}.{salts[0]:08x}{salts[1]:08x}.{last:x}"
        self._salts, self._last = salts, last
        if last == 0:
            self.size = os.fstat(self._main).st_size
            self.version = f"{state}.{self._before.st_mtime_ns:x}"
            return True
        log = os.pread(wal, WAL_HEADER_BYTES, 0)
        self._page_size = page_size = int.from_bytes(log[8:12], "big")
        # The index keeps the salts as the log has them, byte for byte.
        if not 512 <= page_size <= 65_536 or struct.unpack("=II", log[16:24]) != salts:
            return False
        step = FRAME_HEADER_BYTES + page_size
        places = range(WAL_HEADER_BYTES, WAL_HEADER_BYTES + last * step, step)
        frame = os.pread(wal, FRAME_HEADER_BYTES, places[-1])
        # The last frame has to be a commit, of this log, and the one that the index speaks of.
        if frame[4:8] == b"\0\0\0\0" or frame[8:16] != log[16:24] or struct.unpack(">II", frame[16:24]) != checksum:
            return False
        # A page's last frame wins.
        numbers = _index_pages(index, last)
        if len(numbers) < last:
            return False
        self._frames = dict(zip(numbers, places, strict=True))
        self._wal = wal
        self.size = pages * page_size
        self.version = state
        return True

    def _copy_aside(self) -> None:
        """A crash left a log or a journal that nobody has recovered: SQLite does that, in a copy of the files."""
        before = self._stats()
        self.version = "copy." + ".".join(f"{s.st_ino:x}-{s.st_size:x}-{s.st_mtime_ns:x}" if s else "-" for s in before)
        self.written_ns = max(s.st_mtime_ns for s in before if s)
        self._copy = tempfile.TemporaryDirectory(prefix="durafetch-")
        target = Path(self._copy.name) / "copy.sqlite"
        shutil.copyfile(self._path, target)
        for suffix in ("-wal", "-journal"):
            try:
                shutil.copyfile(f"{self._path}{suffix}", f"{target}{suffix}")
            except FileNotFoundError:
                continue
        if any(_moved(a, b) for a, b in zip(before, self._stats(), strict=True)):
            raise Moved
        connection = apsw.Connection(str(target))
        connection.pragma("journal_mode", "delete")
        connection.close()
        os.close(self._files.pop(0))
        self._main = self._open(target)
        self.size = os.fstat(self._main).st_size

    def _stats(self) -> list[os.stat_result | None]:
        found: list[os.stat_result | None] = []
        for suffix in ("", "-wal", "-journal"):
            try:
                found.append(self._path.with_name(f"{self._path.name}{suffix}").stat())
            except FileNotFoundError:
                found.append(None)
        return found

    def read(self, amount: int, offset: int) -> bytes:
        """Bytes of the database as it would be without a log."""
        page_size = self._page_size
        data = b""
        if page_size:
            within = offset % page_size
            place = self._frames.get(offset // page_size + 1)
            if place is not None and within + amount <= page_size:
                data = os.pread(self._wal, amount, place + FRAME_HEADER_BYTES + within)
        if not data:
            data = os.pread(self._main, amount, offset)
        if offset <= 18 < offset + amount and len(data) >= 20 - offset:
            # "Read and written by a log" would make SQLite look for one.
            data = data[: 18 - offset] + b"\1\1" + data[20 - offset :]
        return data

    def check(self) -> None:
        """Raises Moved where what was read so far may be of several states."""
        if self._copy is not None:
            return
        try:
            if self._path.stat().st_ino != self._before.st_ino:
                raise Moved
            if self._index is None:
                if _moved(self._before, os.fstat(self._main)):
                    raise Moved
                return
            if self._shm_path.stat().st_ino != os.fstat(self._index).st_ino:
                raise Moved
        except FileNotFoundError:
            raise Moved from None
        header = _index_header(self._index)
        # What was copied back from the log meanwhile has to be what is taken from the log here, too.
        (attempted,) = struct.unpack("=I", os.pread(self._index, 4, 128))
        if header is None or header[10:12] != self._salts or attempted > self._last:
            raise Moved

    def close(self) -> None:
        """Closes the files."""
        for file in self._files:
            os.close(file)
        self._files = []
        if self._copy is not None:
            self._copy.cleanup()
            self._copy = None


def _index_header(index: int) -> tuple[int, ...] | None:
    """The header of the log's index; None where it is not one, or is being written."""
    for _ in range(_ATTEMPTS):
        data = os.pread(index, 96, 0)
        if len(data) < 96:
            return None
        if data[:48] == data[48:]:
            header = _INDEX_HEADER.unpack(data[:48])
            return header if header[0] == _INDEX_VERSION and header[3] == 1 else None
        time.sleep(0.0005)
    return None


def _index_pages(index: int, count: int) -> list[int]:
    """The page number of each of the log's first `count` frames, as the index has them."""
    numbers: list[int] = []
    block = 0
    while len(numbers) < count:
        # Blocks of 32 kB: page numbers, then a hash table; in front of the first, the header.
        header = 136 if block == 0 else 0
        amount = min(4 * (count - len(numbers)), 4 * 4096 - header)
        data = os.pread(index, amount, block * 32_768 + header)
        if len(data) < amount:
            break
        numbers += struct.unpack(f"={amount // 4}I", data)
        block += 1
    return numbers


def _moved(before: os.stat_result | None, after: os.stat_result | None) -> bool:
    if before is None or after is None:
        return before is not after
    return (before.st_ino, before.st_size, before.st_mtime_ns) != (after.st_ino, after.st_size, after.st_mtime_ns)


class _File:
    """A snapshot as SQLite's VFS sees it (https://www.sqlite.org/vfs.html)."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def xRead(self, amount: int, offset: int) -> bytes:
        return self._snapshot.read(amount, offset)

    def xFileSize(self) -> int:
        return self._snapshot.size

    def xClose(self) -> None:
        pass

    def xLock(self, level: int) -> None:
        pass

    def xUnlock(self, level: int) -> None:
        pass

    def xCheckReservedLock(self) -> bool:
        return False

    def xSectorSize(self) -> int:
        return 4096

    def xDeviceCharacteristics(self) -> int:
        return int(apsw.SQLITE_IOCAP_IMMUTABLE)

    def xFileControl(self, operation: int, pointer: int) -> bool:
        return False

    def xSync(self, flags: int) -> None:
        pass


class _VFS(apsw.VFS):
    name: Final = "durafetch-snapshot"

    def __init__(self) -> None:
        super().__init__(self.name, base="")
        self.snapshots: dict[str, Snapshot] = {}
        self.numbers = itertools.count()

    def xOpen(self, name: Any, flags: list[int]) -> Any:
        snapshot = self.snapshots.get(name.filename() if isinstance(name, apsw.URIFilename) else str(name))
        if snapshot is None:
            raise apsw.CantOpenError("not a snapshot")
        return _File(snapshot)

    def xFullPathname(self, name: str) -> str:
        return name

    def xAccess(self, pathname: str, flags: int) -> bool:
        return False


_vfs: _VFS | None = None


@contextmanager
def opened(path: Path) -> Iterator[tuple[apsw.Connection, Snapshot]]:
    """A connection that reads one committed state of a database file; call the snapshot's `check()` before using it.

    Raises FileNotFoundError, Moved, and UnreadableFileError where the file is no database, or damaged.
    """
    global _vfs
    if _vfs is None:
        _vfs = _VFS()
    try:
        snapshot = Snapshot(path)
    except (PermissionError, IsADirectoryError, apsw.Error) as error:
        raise UnreadableFileError(f"{path} cannot be read: {error}.") from None
    token = f"snapshot-{next(_vfs.numbers)}"
    _vfs.snapshots[token] = snapshot
    try:
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        connection = apsw.Connection(f"file:{token}?immutable=1", flags=flags, vfs=_vfs.name)
        try:
            connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
            connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
            connection.execute("PRAGMA temp_store = MEMORY; PRAGMA cell_size_check = ON")
            yield connection, snapshot
        except apsw.Error as error:
            snapshot.check()
            raise UnreadableFileError(f"{path} cannot be read: {error}.") from None
        finally:
            connection.close()
    finally:
        del _vfs.snapshots[token]
        snapshot.close()


def version_of(path: Path) -> str:
    """The version of a file's last committed state, without reading it. Raises as `Snapshot` does."""
    snapshot = Snapshot(path)
    try:
        return snapshot.version
    finally:
        snapshot.close()

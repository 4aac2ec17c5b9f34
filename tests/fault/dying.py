"""`durafetch` that dies at the n-th write to its disk: `python -m tests.fault.dying N|- COUNT_FILE arguments...`.

SQLite's calls are counted: writes, syncs, truncations, all files together. With "-" it lives, and COUNT_FILE has their number.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import apsw

from durafetch.__main__ import main


class DyingDisk(apsw.VFS):
    """SQLite's own disk, and the process's default, until `at` calls were made; then the process is killed."""

    def __init__(self, at: int | None) -> None:
        self.system = apsw.vfs_names()[0]
        super().__init__("dying", base=self.system, makedefault=True)
        self.at = at
        self.count = 0

    def xOpen(self, name: Any, flags: list[int]) -> Any:
        return DyingFile(self, name, flags)

    def call(self) -> None:
        self.count += 1
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


class DyingFile(apsw.VFSFile):
    def __init__(self, disk: DyingDisk, name: Any, flags: list[int]) -> None:
        super().__init__(disk.system, name, flags)
        self._disk = disk

    def xWrite(self, data: bytes, offset: int) -> None:
        self._disk.call()
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:
        self._disk.call()
        super().xSync(flags)

    def xTruncate(self, size: int) -> None:
        self._disk.call()
        super().xTruncate(size)


if __name__ == "__main__":
    disk = DyingDisk(None if sys.argv[1] == "-" else int(sys.argv[1]))
    counted = Path(sys.argv[2])
    sys.argv[1:] = sys.argv[3:]
    try:
        main()
    finally:
        counted.write_text(str(disk.count))

"""`durafetch` that is killed at the n-th of SQLite's calls that write to its disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import aiohttp  # noqa: F401  what a child would otherwise import each time anew
import apsw
import rich.console  # noqa: F401

import durafetch.sync  # noqa: F401
from durafetch.__main__ import main
from scripts.workerd import ROOT
from tests.support import TOKEN


class DyingDisk(apsw.VFS):
    """SQLite's own disk, and the process's default, until `at` calls were made; then the process is killed."""

    def __init__(self, at: int) -> None:
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


class Dying:
    """Runs `durafetch` so that it dies at a write. A context manager: a process that forks one for each run."""

    def __enter__(self) -> Dying:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fault.dying"], cwd=ROOT, env={**os.environ, "DURAFETCH_TOKEN": TOKEN},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def run(self, at: int, *arguments: str) -> int:
        """The exit status, -9 where it was killed at the `at`-th call (writes, syncs and truncations, of all files)."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([at, *arguments]) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


def serve() -> None:
    """Forks for each line of standard input, and prints the child's exit status."""
    for line in sys.stdin:
        at, *arguments = json.loads(line)
        child = os.fork()
        if child == 0:
            os.dup2(2, 1)
            disk = DyingDisk(at)
            assert disk is not None
            sys.argv[1:] = arguments
            status = 0
            try:
                main()
            except SystemExit as exit_:
                status = exit_.code if isinstance(exit_.code, int) else 1
            except BaseException:
                status = 99
            os._exit(status)
        _, result = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(result), flush=True)


if __name__ == "__main__":
    serve()

"""Single keys, read from the terminal while something else goes on."""

from __future__ import annotations

import os
import select
import sys
from types import TracebackType
from typing import Any

try:
    import termios
    import tty
except ImportError:  # Windows: no keys, all else works.
    termios = None  # type: ignore[assignment]


class Keys:
    """A context manager; `active` only where a person sits before a terminal."""

    def __init__(self) -> None:
        """Changes nothing yet."""
        self.active = termios is not None and sys.stdin.isatty() and sys.stderr.isatty()
        self._saved: list[Any] = []

    def __enter__(self) -> Keys:
        if self.active:
            self._saved = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.active:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._saved)

    def pressed(self) -> str:
        """The keys pressed since the last call; "" where none was."""
        keys = ""
        while self.active and select.select([sys.stdin], [], [], 0)[0]:
            data = os.read(sys.stdin.fileno(), 64)
            if not data:
                self.active = False
            keys += data.decode(errors="ignore")
        return keys

    def ask(self, question: str) -> str | None:
        """A line, typed with echo; None where it was given up with Ctrl-D."""
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._saved)
        try:
            sys.stderr.write(question)
            sys.stderr.flush()
            return input()
        except EOFError:
            return None
        finally:
            tty.setcbreak(sys.stdin)

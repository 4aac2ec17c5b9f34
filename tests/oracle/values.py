"""What a stored value is, by Node.js: `v8.deserialize` and the npm package devalue, in one canonical text."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.workerd import BIN, ROOT, environment

Request = tuple[str, str]
"""("v8", hex), ("devalue", text), ("json", text), or ("name", a value of tests/workers/values.ts)."""


class ValueOracle:
    """A running Node.js that is asked. A context manager."""

    def __init__(self, folder: Path) -> None:
        """`folder`: where its bundle is put."""
        self._script = folder / "canonical.mjs"
        self._known: dict[Request, str] = {}

    def __enter__(self) -> ValueOracle:
        source = ROOT / "tests" / "oracle" / "canonical.ts"
        subprocess.run(
            [BIN / "esbuild", source, "--bundle", "--format=esm", "--platform=node", f"--outfile={self._script}",
             "--log-level=error"],
            check=True, env={**environment(), "NODE_PATH": str(ROOT / "server" / "node_modules")},
        )  # fmt: skip
        self._process = subprocess.Popen(
            [ROOT / ".venv" / "bin" / "node", self._script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def texts(self, requests: Sequence[Request]) -> list[str]:
        """The canonical text of each value."""
        assert self._process.stdin is not None and self._process.stdout is not None
        new = [request for request in dict.fromkeys(requests) if request not in self._known]
        if new:
            self._process.stdin.write(json.dumps([{form: text} for form, text in new]) + "\n")
            self._process.stdin.flush()
            answer: Any = json.loads(self._process.stdout.readline())
            self._known.update(zip(new, answer, strict=True))
        return [self._known[request] for request in requests]

"""After the tests: no file that they left has the token in it, but for those whose purpose it is to hold it.

`python -m scripts.leaks FOLDER`, as part of `make test`; the tests look at output by themselves.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support import TOKEN

HOLDERS = {".capnp", ".vars"}
"""The runtime's own configuration: bindings, and .dev.vars."""


def main(folder: Path) -> int:
    searched = 0
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.suffix not in HOLDERS:
            searched += 1
            if TOKEN.encode() in path.read_bytes():
                found.append(path)
    for path in found:
        print(f"{path} has the token in it", file=sys.stderr)
    print(f"{searched} files left by the tests: {len(found)} with the token")
    return int(bool(found) or searched < 1000)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

"""`durafetch`, and `python -m durafetch`. Kept small: what is imported here cannot be interrupted gracefully."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line and ends the process with its exit status."""
    try:
        from durafetch.cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()

"""`make recording`: runs `durafetch dev` on a terminal beside the chat example, and keeps what it printed as docs/dev.svg."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import tempfile
import termios
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

from scripts.workerd import ROOT, Runtime, example, post

OUT = ROOT / "docs" / "dev.svg"
COLUMNS = 104
PROMPT = "$ durafetch dev"


def story(url: str) -> None:
    """What a developer would do: write in a room, fill a cart, pay, and do all of it again."""
    post(f"{url}/rooms/lobby/messages", {"author": "ann", "text": "hi"})
    time.sleep(0.7)
    post(f"{url}/rooms/lobby/messages", {"author": "bob", "text": "hello ann"})
    time.sleep(0.7)
    cart = json.loads(post(f"{url}/carts?n=1"))["id"]
    time.sleep(0.7)
    for quantity in (1, 2):
        post(f"{url}/carts/{cart}/items", {"sku": "tea", "price": 4, "quantity": quantity})
        time.sleep(0.7)
    post(f"{url}/carts/{cart}/checkout")
    time.sleep(0.7)


def record(folder: Path) -> str:
    """What the terminal showed, colours included."""
    project = folder / "chat"
    project.mkdir()
    shutil.copy(ROOT / "examples" / "chat" / "wrangler.jsonc", project)
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    shown = b""
    with Runtime(example(folder), project / ".wrangler" / "state" / "v3" / "do") as runtime:
        process = subprocess.Popen(
            [ROOT / ".venv" / "bin" / "durafetch", "dev"], cwd=project, stdin=slave, stdout=slave, stderr=slave,
            env={**os.environ, "TERM": "xterm-256color"}, start_new_session=True,
        )  # fmt: skip
        time.sleep(1.5)
        story(runtime.url)
        os.write(master, b"q")
        process.wait(10)
    while select.select([master], [], [], 0.2)[0]:
        shown += os.read(master, 65536)
    return shown.decode().replace("\r\n", "\n").replace(str(project.resolve()), "~/chat")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        text = record(Path(name))
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text(PROMPT, style="bold"))
    console.print(Text.from_ansi(text.rstrip("\n")))
    svg = console.export_svg(title="durafetch dev")
    # A picture that loads nothing from elsewhere: the reader's own fixed-width font will do.
    OUT.write_text(re.sub(r"@font-face \{.*?\}\n", "", svg, flags=re.DOTALL), encoding="utf-8")
    print(f"{PROMPT}\n{text}\nwrote {OUT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

"""`make demo`: the main job from end to end, on the chat example in the real runtime."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from scripts.workerd import EXAMPLE_TOKEN, ROOT, Runtime, example, post

DB = ROOT / "durafetch-demo.sqlite"
DURAFETCH = ROOT / ".venv" / "bin" / "durafetch"
QUESTIONS = [
    (
        "Sign-ups per plan, over all carts (JSON inside of entries):",
        "SELECT val ->> '$.plan' AS plan, count(*) AS carts FROM kv WHERE key = 'profile' GROUP BY 1 ORDER BY 2 DESC",
    ),
    (
        "Who wrote most, over all rooms (rows of SQL tables):",
        "SELECT author, count(*) AS messages, count(DISTINCT name) AS rooms FROM Room__messages GROUP BY 1 ORDER BY 2 DESC, 1",
    ),
    (
        "Objects of each class:",
        "SELECT class_name, storage, count(*) AS objects, sum(entries) AS entries, sum(rows) AS rows "
        "FROM durable_objects GROUP BY 1",
    ),
]


def say(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def durafetch(*arguments: str) -> str:
    """Runs the command line as a user would; its output is shown. Returns its standard output."""
    print("$ durafetch " + " ".join(f'"{a}"' if " " in a else a for a in arguments), flush=True)
    environment = {**os.environ, "DURAFETCH_TOKEN": EXAMPLE_TOKEN, "DURAFETCH_DB": DB.name}
    done = subprocess.run([DURAFETCH, *arguments], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    print(done.stdout, end="", flush=True)
    if done.returncode != 0:
        raise SystemExit(f"the demo failed: durafetch ended with {done.returncode}")
    return done.stdout


def main() -> None:
    started = time.monotonic()
    for leftover in ROOT.glob(f"{DB.name}*"):
        leftover.unlink()
    with tempfile.TemporaryDirectory() as folder, Runtime(example(Path(folder)), Path(folder) / "state") as runtime:
        url = runtime.url
        say(f"1. The chat example runs in workerd at {url}. Some traffic: rooms, carts and counters come to life.")
        print(post(f"{url}/traffic?rooms=60&carts=60&counters=20&messages=5"))

        say("2. One command mirrors every object into one SQLite file.")
        durafetch("sync", url)

        say("3. Questions that no single object could answer.")
        for question, sql in QUESTIONS:
            print(question)
            durafetch("query", "--table", sql)

        say("4. Three rooms and a counter change; so does nothing else.")
        for room in ("room-1", "room-2", "room-3"):
            print(post(f"{url}/rooms/{room}/messages", {"author": "zoe", "text": "anyone here?"}))
        print(post(f"{url}/counters/counter-7"))

        say("5. The next sync visits those four objects, and moves a few rows.")
        summary = json.loads(durafetch("sync", url, "--json"))
        if (summary["objects"]["visited"], summary["objects"]["changed"]) != (4, 4):
            raise SystemExit("the demo failed: not just the four changed objects were visited")
        durafetch("query", "--table", "SELECT name, author, text FROM Room__messages WHERE author = 'zoe'")

        say("6. And with nothing changed, one request finds that out.")
        durafetch("sync", url)
        durafetch("verify", url)
    say(f"Done in {time.monotonic() - started:.1f} s. The mirror stays in {DB.name}. Try next:")
    prefix = f"{DURAFETCH.relative_to(ROOT)}"
    print(f"  {prefix} schema --db {DB.name}\n  {prefix} show Room room-1 --db {DB.name}")
    print(f"  {prefix} query --db {DB.name} \"SELECT val ->> '$.email' FROM kv WHERE key = 'profile' LIMIT 5\"")
    print("  make example    the same Worker in the foreground, to sync from yourself")
    print("  README.md       how to add Durafetch to your own Worker, in five minutes")


if __name__ == "__main__":
    main()

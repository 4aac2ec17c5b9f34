"""`make soak`: `durafetch watch` beside 1,000 objects that write, for minutes; says what it took, and compares at the end."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

from durafetch import Mirror
from durafetch.verify import verify
from scripts.workerd import ROOT, Runtime, free_port
from tests.support import TOKEN, Zoo, zoo_worker

MINUTES = float(os.environ.get("MINUTES") or 10)
OBJECTS = 1000
WRITES_PER_S = 300
LOOK_S = 10.0


def resident_kb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


def write(zoo: Zoo, stop: threading.Event, count: list[int]) -> None:
    """A share of all objects each tenth of a second, in turn."""
    share = WRITES_PER_S // 10
    while not stop.is_set():
        started = time.monotonic()
        zoo.run("Zoo", "driver", ["turn", OBJECTS, share, count[0]])
        count[0] += share
        time.sleep(max(0.0, 0.1 - (time.monotonic() - started)))


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Runtime(zoo_worker(folder), folder / "state") as runtime:
            zoo = Zoo(runtime)
            zoo.run("Zoo", "driver", ["burst", OBJECTS, 1])
            port = free_port()
            process = subprocess.Popen(
                [ROOT / ".venv/bin/durafetch", "watch", runtime.url, "--quiet", "--history", "--db", folder / "m.sqlite",
                 "--health-port", str(port)],
                env={**os.environ, "DURAFETCH_TOKEN": TOKEN}, stdin=subprocess.DEVNULL,
            )  # fmt: skip
            time.sleep(3)
            stop, count = threading.Event(), [0]
            writer = threading.Thread(target=write, args=(zoo, stop, count))
            writer.start()
            samples: list[tuple[int, int, float, int, int]] = []
            until = time.monotonic() + MINUTES * 60
            while time.monotonic() < until:
                time.sleep(min(LOOK_S, max(0.1, until - time.monotonic())))
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as response:
                    [health] = json.loads(response.read())["sources"]
                samples.append((resident_kb(process.pid), resident_kb(runtime.pid), health["lag_s"],
                                len(list(Path(f"/proc/{process.pid}/fd").iterdir())), health["pending"]))  # fmt: skip
                if len(samples) % 6 == 1:
                    client, server, lag, files, pending = samples[-1]
                    print(f"{len(samples) * LOOK_S / 60:5.1f} min  {count[0]:>8} writes  {health['pulled']:>8} pulls  client "
                          f"{client / 1000:.0f} MB  workerd {server / 1000:.0f} MB  lag {lag * 1000:.0f} ms  {files} files  "
                          f"{pending} pending", flush=True)  # fmt: skip
            stop.set()
            writer.join()
            time.sleep(3)
            with Mirror(folder / "m.sqlite", read_only=True) as mirror:
                result, compared, differences = verify(mirror, zoo.source())
            process.send_signal(signal.SIGTERM)
            ended = process.wait(10)
            runtime.stop(kill=True)
    half = len(samples) // 2
    early, late = (statistics.median(s[0] for s in part) for part in (samples[: max(1, half)], samples[half:]))
    counts = {s[3] for s in samples}
    print(f"{count[0]} writes; client {early / 1000:.1f} MB in the first half, {late / 1000:.1f} MB in the second; "
          f"lag {statistics.median(s[2] for s in samples) * 1000:.0f} ms in the median, "
          f"{max(s[2] for s in samples) * 1000:.0f} ms at most; {min(counts)} to {max(counts)} files; "
          f"{compared} objects compared, {len(differences)} differ; ended with {ended}")  # fmt: skip
    return int(bool(differences) or result.error() is not None or ended != 0 or late > early * 1.2)


if __name__ == "__main__":
    sys.exit(main())

"""How the cost of a sync grows: with what is known, with what changed, with bytes. `python -m benchmarks.curves` measures,
and draws docs/curves.svg."""

from __future__ import annotations

import json
import time
from pathlib import Path

from benchmarks.no_change import seeded
from benchmarks.workers import Bench, bench
from scripts.workerd import ROOT

CHANGED = 100
KNOWN = [1_000, 10_000, 100_000]
MEGABYTES = [10, 100, 1000]
DATA = Path(__file__).with_name("curves.json")
DRAWING = ROOT / "docs" / "curves.svg"


def timed(one: Bench, path: Path) -> float:
    started = time.perf_counter()
    one.synced(path)
    return time.perf_counter() - started


def by_known() -> tuple[list[float], list[float]]:
    """Seconds of a sync of no change, and of 100 changed objects, with ever more objects known."""
    quiet, changed = [], []
    for objects in KNOWN:
        with bench() as one:
            path = one.folder / "m.sqlite"
            seeded(one, path, objects)
            one.synced(path)
            quiet.append(min(timed(one, path) for _ in range(5)))
            found = []
            for turn in range(5):
                for n in range(CHANGED):
                    one.zoo.run("Zoo", f"changed {n}", ["put", "k", turn])
                found.append(timed(one, path))
            changed.append(min(found[1:]))
    return quiet, changed


def by_bytes() -> tuple[list[float], list[float]]:
    """Seconds of the first sync of one object, and of one row changed in it, with ever more bytes."""
    first, again = [], []
    for size in MEGABYTES:
        with bench() as one:
            one.zoo.run("Zoo", "o", ["sql", "CREATE TABLE t(id INTEGER PRIMARY KEY, a)"])
            for part in range(size // 10):
                one.zoo.run("Zoo", "o", ["sql", "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000) "
                                                f"INSERT INTO t SELECT i + {part * 10_000}, hex(randomblob(500)) FROM n"])  # fmt: skip
            path = one.folder / "m.sqlite"
            first.append(timed(one, path))
            found = []
            for turn in range(3):
                one.zoo.run("Zoo", "o", ["sql", f"UPDATE t SET a = 'turn {turn}' WHERE id = {turn + 5}"])
                found.append(timed(one, path))
            again.append(min(found))
    return first, again


def panel(left: int, title: str, ticks: list[str], lines: list[tuple[str, str, list[float]]]) -> str:
    """One plot: seconds, on a logarithmic scale from 1 ms to 100 s, over three steps."""
    import math

    def y(seconds: float) -> float:
        return 250 - 200 * (math.log10(max(seconds, 0.001)) + 3) / 5

    parts = [f'<text x="{left + 150}" y="24" text-anchor="middle" font-weight="bold">{title}</text>']
    for power, text in ((-3, "1 ms"), (-2, "10 ms"), (-1, "0.1 s"), (0, "1 s"), (1, "10 s"), (2, "100 s")):
        at = y(10.0**power)
        parts.append(
            f'<path d="M{left} {at:.0f}h300" stroke="#8884"/><text x="{left - 6}" y="{at + 4:.0f}" text-anchor="end">{text}</text>'
        )
    for n, tick in enumerate(ticks):
        parts.append(f'<text x="{left + 30 + 120 * n}" y="270" text-anchor="middle">{tick}</text>')
    for name, colour, values in lines:
        points = [(left + 30 + 120 * n, y(value)) for n, value in enumerate(values)]
        parts.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{" ".join(f"{a},{b:.1f}" for a, b in points)}"/>'
        )
        parts += [f'<circle cx="{a}" cy="{b:.1f}" r="3.5" fill="{colour}"/><text x="{a}" y="{b - 8:.1f}" text-anchor="middle" fill="{colour}">'
                  f'{seconds(value)}</text>' for (a, b), value in zip(points, values, strict=True)]  # fmt: skip
        parts.append(
            f'<text x="{points[-1][0] + 8}" y="{points[-1][1] + 16:.1f}" text-anchor="end" fill="{colour}">{name}</text>'
        )
    return "".join(parts)


def seconds(value: float) -> str:
    return f"{value * 1000:.1f} ms" if value < 0.1 else f"{value:.2f} s" if value < 10 else f"{value:.0f} s"


def draw(measured: dict[str, list[float]]) -> None:
    """docs/curves.svg."""
    known = panel(70, "seconds of a sync, by objects known", [f"{n:,}" for n in KNOWN], [
        ("nothing changed", "#2a9d8f", measured["quiet"]), (f"{CHANGED} objects changed", "#e76f51", measured["changed"]),
    ])  # fmt: skip
    size = panel(470, "seconds of a sync, by bytes in one object", [f"{n:,} MB" for n in MEGABYTES], [
        ("first sync", "#e76f51", measured["first"]), ("one row changed", "#2a9d8f", measured["again"]),
    ])  # fmt: skip
    DRAWING.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 285" font-family="sans-serif" font-size="12">'
        f'<rect width="800" height="285" fill="#fff"/>{known}{size}</svg>\n'
    )


if __name__ == "__main__":
    quiet, changed = by_known()
    first, again = by_bytes()
    measured = {"quiet": quiet, "changed": changed, "first": first, "again": again}
    DATA.write_text(json.dumps(measured, indent=1) + "\n")
    draw(measured)
    print(json.dumps(measured))

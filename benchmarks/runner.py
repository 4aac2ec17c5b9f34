"""Runs a measurement and its limit in turns, and keeps the medians."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass


@dataclass
class Result:
    """One row of results.json. `ratio` is value / limit; `spread` is (slowest - fastest) / median of the value."""

    name: str
    value: float
    unit: str
    limit: float
    ratio: float
    runs: int
    spread: float
    what: str
    aim: str

    def row(self) -> dict[str, object]:
        """As JSON takes it."""
        return asdict(self)


def measure(
    name: str, run: Callable[[], float], limit: Callable[[], float], *, unit: str, runs: int, what: str, aim: str
) -> Result:
    """`run` and `limit` each measure once and return a number in `unit`; they take turns, so that noise hits both."""
    values, limits = [], []
    for _ in range(runs):
        limits.append(limit())
        values.append(run())
    value, bound = statistics.median(values), statistics.median(limits)
    spread = (max(values) - min(values)) / value
    return Result(name, value, unit, bound, value / bound, runs, round(spread, 3), what, aim)

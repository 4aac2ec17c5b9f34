"""What fetching costs, by Cloudflare's published prices beyond what a plan includes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

PRICES_SOURCE: Final = "https://developers.cloudflare.com/durable-objects/platform/pricing/"
PRICES_DATE: Final = "2026-11"

MEMORY_GB: Final = 0.128
"""What a Durable Object is billed for while it is active, whatever it uses."""
USD_PER_MILLION: Final = {
    "worker_requests": 0.30,
    "do_requests": 0.15,
    "rows_read": 0.001,
    "rows_written": 1.00,
    "read_units": 0.20,
    "duration_s": 12.50 * MEMORY_GB,
}
"""Requests to Workers (https://developers.cloudflare.com/workers/platform/pricing/) and to Durable Objects, rows of
SQLite-backed objects, units of 4 kB read from KV-backed ones, and seconds of an active object ($12.50 per million GB-s)."""

ANNOUNCEMENT_ROWS: Final = 2
"""Rows that the directory writes when an object starts or becomes dirty: the object's, and its index's."""
CONCURRENT_OBJECTS: Final = 24
"""Objects that the server functions read at the same time for one request (server/src/routes.ts)."""


@dataclass
class Cost:
    """What was used. An upper bound: what no reply tells is taken for as much as it can be."""

    do_requests: int = 0
    """To objects, to the directory, and the announcements by which the objects listed told the directory."""
    worker_requests: int = 0
    objects_woken: int = 0
    """Objects asked, whether or not they were in memory."""
    rows_read: int = 0
    rows_written: int = 0
    """By announcements alone: nothing is ever written in the objects themselves."""
    read_units: int = 0
    """Of KV-backed objects: each entry read is taken for one unit, as long as it has up to 4 kB."""
    duration_s: float = 0.0
    """Each object is taken to be active for as long as the request that it was part of."""

    @property
    def usd(self) -> float:
        """In US dollars, without what a plan includes, and without CPU time."""
        return float(sum(getattr(self, name) * price for name, price in USD_PER_MILLION.items()) / 1e6)

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Cost)))

    def __sub__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(Cost)))

    def listed(self, objects: int, shards: int, *, news: bool) -> None:
        """A page of the directory's listing. `news`: its objects announced themselves since the last one."""
        self.do_requests += shards
        self.rows_read += objects
        if news:
            self.do_requests += objects
            self.rows_written += objects * ANNOUNCEMENT_ROWS

    def asked(self, objects: int, seconds: float = 0.0) -> None:
        """A request for objects."""
        self.do_requests += objects
        self.objects_woken += objects
        self.duration_s += seconds * min(objects, CONCURRENT_OBJECTS)

    def read(self, storage: str, rows: int) -> None:
        """An object's rows were read."""
        if storage == "kv":
            self.read_units += rows
        else:
            self.rows_read += rows

    def summary(self) -> dict[str, float]:
        """As JSON takes it."""
        counts = {f.name: getattr(self, f.name) for f in fields(Cost)}
        return {**counts, "duration_s": round(self.duration_s, 3), "usd": float(f"{self.usd:.3g}")}


def dollars(usd: float) -> str:
    """An amount, with as many digits as it takes to see it; a millionth at least, where it is not nothing."""
    if usd >= 0.01 or usd == 0:
        return f"${usd:,.2f}"
    return f"${max(usd, 0.000001):.6f}".rstrip("0")

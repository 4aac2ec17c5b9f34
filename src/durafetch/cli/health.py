"""Liveness and lag over HTTP: `/health` as JSON, `/metrics` as Prometheus text."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from aiohttp import web

from durafetch.errors import UsageError
from durafetch.watch import Status

DOWN_S: Final = 60.0
"""A Worker that is away for longer makes the whole unhealthy (503)."""

METRICS: Final = {
    "connected": ("gauge", "1 while the Worker is followed"),
    "objects": ("gauge", "objects known"),
    "pending_objects": ("gauge", "objects that changed and are not in the mirror yet"),
    "lag_seconds": ("gauge", "from being told of a change until it was in the mirror, for the last objects applied"),
    "pulled_objects_total": ("counter", "objects pulled"),
    "changed_objects_total": ("counter", "objects pulled that had changed"),
    "failed_objects_total": ("counter", "objects that could not be mirrored"),
    "cost_usd_total": ("counter", "what following cost, by Cloudflare's prices beyond what a plan includes, at most"),
    "reconnects_total": ("counter", "how often the connection was lost"),
}


def _values(status: Status) -> dict[str, float]:
    return {
        "connected": float(status.connected), "objects": status.known, "pending_objects": status.pending,
        "lag_seconds": status.lag_s, "pulled_objects_total": status.pulled, "changed_objects_total": status.changed,
        "failed_objects_total": status.failed, "cost_usd_total": status.cost.usd,
        "reconnects_total": status.reconnects,
    }  # fmt: skip


def report(statuses: Sequence[Status]) -> dict[str, Any]:
    """What `/health` says; `ok` is False where a Worker is away for more than a minute."""
    now = time.time()
    sources: list[dict[str, Any]] = [
        {
            "source": status.source, "worker": status.worker, "connected": status.connected, "objects": status.known,
            "pending": status.pending, "lag_s": round(status.lag_s, 4), "pulled": status.pulled,
            "changed": status.changed, "failed": status.failed, "reconnects": status.reconnects,
            "synced_s_ago": round(now - status.synced_at, 1) if status.synced_at else None,
            "down_s": 0.0 if status.connected or not status.down_since else round(now - status.down_since, 1),
            "cost": status.cost.summary(),
            "error": None if status.error is None else status.error.code,
        }
        for status in statuses
    ]  # fmt: skip
    return {"ok": all(source["down_s"] <= DOWN_S for source in sources), "sources": sources}


def metrics(statuses: Sequence[Status]) -> str:
    """Prometheus' text format: https://prometheus.io/docs/instrumenting/exposition_formats/"""
    lines = []
    for name, (kind, what) in METRICS.items():
        lines += [f"# HELP durafetch_{name} {what}", f"# TYPE durafetch_{name} {kind}"]
        for status in statuses:
            label = status.source.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
            lines.append(f'durafetch_{name}{{source="{label}"}} {_values(status)[name]:g}')
    return "\n".join(lines) + "\n"


@asynccontextmanager
async def served(host: str, port: int, statuses: Sequence[Status]) -> AsyncIterator[None]:
    """Answers while it is open. Raises UsageError where the address cannot be listened on."""

    async def health(_: web.Request) -> web.Response:
        answer = report(statuses)
        return web.json_response(answer, status=200 if answer["ok"] else 503)

    async def prometheus(_: web.Request) -> web.Response:
        return web.Response(text=metrics(statuses), content_type="text/plain")

    app = web.Application()
    app.router.add_get("/health", health)
    app.router.add_get("/metrics", prometheus)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise UsageError(f"Nothing can listen on {host}:{port}: {error.strerror}.") from None
        yield
    finally:
        await runner.cleanup()

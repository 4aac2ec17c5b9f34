"""Durafetch mirrors every Cloudflare Durable Object you have into one SQLite database.

from durafetch import Mirror, WorkerSource, sync_sources

with Mirror.open("durafetch.sqlite") as mirror:
    result = sync_sources(mirror, [WorkerSource("https://chat.example.workers.dev", token=token)])
    for row in mirror.query("SELECT class_name, count(*) FROM durable_objects GROUP BY 1"):
        print(row)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from durafetch.errors import DurafetchError
    from durafetch.mirror import Change, Mirror, ObjectDump, ObjectInfo, Rows, TableInfo
    from durafetch.results import Failure, Progress, SourceResult, SyncResult
    from durafetch.sources.local import LocalSource
    from durafetch.sources.worker import WorkerSource
    from durafetch.sync import sync_async, sync_sources

_WHERE = {
    "Change": "durafetch.mirror",
    "DurafetchError": "durafetch.errors",
    "LocalSource": "durafetch.sources.local",
    "Mirror": "durafetch.mirror",
    "ObjectDump": "durafetch.mirror",
    "ObjectInfo": "durafetch.mirror",
    "Rows": "durafetch.mirror",
    "TableInfo": "durafetch.mirror",
    "WorkerSource": "durafetch.sources.worker",
    "Failure": "durafetch.results",
    "Progress": "durafetch.results",
    "SourceResult": "durafetch.results",
    "SyncResult": "durafetch.results",
    "sync_async": "durafetch.sync",
    "sync_sources": "durafetch.sync",
}

__all__ = [
    "Change", "DurafetchError", "Failure", "LocalSource", "Mirror", "ObjectDump", "ObjectInfo", "Progress", "Rows", "SourceResult",
    "SyncResult", "TableInfo", "WorkerSource", "sync_async", "sync_sources",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    # Imported when used: the HTTP client alone takes longer to import than most commands to run.
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'durafetch' has no attribute {name!r}")

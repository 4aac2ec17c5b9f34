"""Durafetch mirrors every Cloudflare Durable Object you have into one SQLite database.

from durafetch import Mirror, WorkerSource, sync_sources

with Mirror.open("durafetch.sqlite") as mirror:
    result = sync_sources(mirror, [WorkerSource("https://chat.example.workers.dev", token=token)])
    for row in mirror.query("SELECT class_name, count(*) FROM durable_objects GROUP BY 1"):
        print(row)
"""

from durafetch.errors import DurafetchError
from durafetch.mirror import Mirror, ObjectDump, ObjectInfo, Rows, TableInfo
from durafetch.sources import WorkerSource
from durafetch.sync import Failure, Progress, SourceResult, SyncResult, sync_async, sync_sources

__all__ = [
    "DurafetchError",
    "Failure",
    "Mirror",
    "ObjectDump",
    "ObjectInfo",
    "Progress",
    "Rows",
    "SourceResult",
    "SyncResult",
    "TableInfo",
    "WorkerSource",
    "sync_async",
    "sync_sources",
]  # fmt: skip

"""Compares a mirror with what its Workers have now."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from durafetch.mirror import Mirror, ObjectDump, ObjectInfo
from durafetch.results import SyncResult
from durafetch.sync import Source, sync_sources


@dataclass(frozen=True)
class Difference:
    """One thing that is not the same: in which object, what (a table, `kv`, `alarm`), which key, and how."""

    class_name: str
    id: str
    name: str | None
    what: str
    key: str
    how: str


def verify(mirror: Mirror, source: Source) -> tuple[SyncResult, int, list[Difference]]:
    """Fetches every object of a source anew and compares it with the mirror's.

    Returns the result of fetching, the number of objects compared, and the differences. Raises MirrorError.
    """
    with tempfile.TemporaryDirectory(prefix="durafetch-verify-") as folder:  # noqa: SIM117 - closed before its folder goes
        with Mirror(Path(folder) / "fresh.sqlite") as fresh:
            result = sync_sources(fresh, [source])
            if result.sources[0].error is not None:
                return result, 0, []
            ids = {worker.name: worker.worker_id for worker in fresh.workers()}
            known = {worker.name: worker.worker_id for worker in mirror.workers()}
            objects = [((ids[o.worker_name], o.class_name, o.id), o) for o in fresh.objects()]
            theirs = {key: o for key, o in objects if o.status == "ok"}
            failed = {key for key, o in objects if o.status != "ok"}
            held = [((known[o.worker_name], o.class_name, o.id), o) for o in mirror.objects()]
            ours = {key: o for key, o in held if key[0] in ids.values()}
            compared = sorted((theirs.keys() | ours.keys()) - failed)
            found: list[Difference] = []
            for key in compared:
                found += _compare(mirror, ours.get(key), fresh, theirs.get(key))
            return result, len(compared), found


def _compare(mirror: Mirror, mine: ObjectInfo | None, fresh: Mirror, theirs: ObjectInfo | None) -> Iterator[Difference]:
    either = mine or theirs
    assert either is not None

    def difference(what: str, key: str, how: str) -> Difference:
        return Difference(either.class_name, either.id, either.name, what, key, how)

    if mine is None or mine.version is None:
        yield difference("object", "", "is not in the mirror")
        return
    if theirs is None:
        if mine.entries or mine.rows:
            yield difference("object", "", "is in the mirror, but the Worker's directory does not list it")
        return
    if mine.alarm_at != theirs.alarm_at:
        yield difference("alarm", "", f"is {mine.alarm_at} in the mirror, {theirs.alarm_at} in the object")
    ours, wanted = mirror.dump(mine), fresh.dump(theirs)
    for what, key, how in _differing_rows(ours, wanted):
        yield difference(what, key, how)


def _differing_rows(ours: ObjectDump, wanted: ObjectDump) -> Iterator[tuple[str, str, str]]:
    mine = {key: rest for key, *rest in ours.entries}
    theirs = {key: rest for key, *rest in wanted.entries}
    yield from _differing_keys("kv", mine, theirs)
    for name in sorted(ours.tables.keys() | wanted.tables.keys()):
        left, right = ours.tables.get(name), wanted.tables.get(name)
        if left is None or right is None:
            yield name, "", "is not in the mirror" if left is None else "is not in the object"
        elif left.columns != right.columns:
            yield name, "", "has other columns in the object"
        else:
            # repr() tells 1 from 1.0, which == does not.
            yield from _differing_keys(
                name, {repr(row): None for row in left.rows}, {repr(row): None for row in right.rows}
            )
    if ours.schema != wanted.schema:
        yield "schema", "", "is another one in the object"


def _differing_keys(
    what: str, mine: Mapping[str, object], theirs: Mapping[str, object]
) -> Iterator[tuple[str, str, str]]:
    for key in sorted(mine.keys() | theirs.keys()):
        if key not in mine:
            yield what, key, "is not in the mirror"
        elif key not in theirs:
            yield what, key, "is not in the object"
        elif mine[key] != theirs[key]:
            yield what, key, "has another value in the object"

"""The mirror: one SQLite file that holds every object of any number of Workers."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import apsw

from durafetch.errors import DurafetchError, NothingFoundError, WorkerNameTakenError
from durafetch.filters import ALL, Filters
from durafetch.frames import Frame
from durafetch.mirror import reading
from durafetch.mirror.apply import Applied, ObjectWriter, PendingObject, StaleError, forget_object, rename_object
from durafetch.mirror.changes import Change, Keep, Recorder, Who, create_history_view, find_changes, prune
from durafetch.mirror.database import iso_now, open_database, translated, writing
from durafetch.mirror.reading import ObjectDump, ObjectInfo, Rows, TableInfo, Value
from durafetch.mirror.tables import TableMap

__all__ = [
    "Applied", "Change", "KnownWorker", "ListedObject", "Mirror", "ObjectDump", "ObjectInfo", "ObjectWriter", "PendingObject",
    "ReceivedObject", "Rows", "StaleError", "TableInfo", "Value",
]  # fmt: skip


@dataclass(frozen=True)
class KnownWorker:
    """A Worker in the mirror: `worker_id` never changes, `cursor` is how far its directory was read."""

    worker_id: str
    name: str
    cursor: str


@dataclass(frozen=True)
class ListedObject:
    """An object that a directory lists."""

    class_name: str
    id: str
    name: str | None


@dataclass
class ReceivedObject:
    """One object's frames, complete, and what the pull was based on."""

    asked: PendingObject
    frames: Iterable[Frame]


_COUNT = "objects of "
"""Settings of this name, and a Worker's, have the number of its objects."""


class Mirror:
    """An open mirror file. A context manager; not to be used by two threads at a time.

    `Mirror.open(path)` makes the file where there is none. All methods raise MirrorError for failures of the file.
    """

    def __init__(self, path: Path | str, *, create: bool = True, read_only: bool = False) -> None:
        """Raises MirrorMissingError, NotAMirrorError, MirrorTooNewError and other MirrorErrors."""
        self.path = path
        self._db = open_database(path, create=create, read_only=read_only)
        self._tables = TableMap(self._db)
        self._reader: apsw.Connection | None = None
        # Of the transaction that is open: its moment, and how much of the changes is kept (None: nothing is noted).
        self._at = ""
        self._keep: Keep | None = None
        self.telling = False
        """Whether changes are gathered for `take_changes`, kept in the mirror or not."""
        self._told: list[Change] = []
        if not read_only:
            self._make_views()

    def _make_views(self) -> None:
        if self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'history'").get is None:
            with translated(self.path), writing(self._db):
                self._tables.refresh()
                create_history_view(self._db, self._tables)

    @classmethod
    def open(cls, path: Path | str, *, create: bool = True, read_only: bool = False) -> Mirror:
        """The same as `Mirror(path, ...)`."""
        return cls(path, create=create, read_only=read_only)

    def close(self) -> None:
        """Closes the file; what was committed is in it."""
        for connection in (self._reader, self._db):
            if connection is not None:
                # Where the disk is full or failing the log stays beside the file, and whoever opens it next reads it.
                with contextlib.suppress(apsw.FullError, apsw.IOError):
                    connection.close()

    def __enter__(self) -> Mirror:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Reading

    def query(self, sql: str, parameters: Mapping[str, Value] | Sequence[Value] = ()) -> Rows:
        """Runs SQL that only reads; raises QueryError. Cells are None, int, float, str or bytes."""
        with translated(self.path):
            if self._reader is None:
                self._reader = open_database(self.path, create=False, read_only=True)
            return reading.run_query(self._reader, sql, parameters)

    def objects(self, class_name: str | None = None, *, failed: bool = False) -> Iterator[ObjectInfo]:
        """The objects, by Worker, class and name."""
        with translated(self.path):
            yield from reading.find_objects(self._db, class_name, failed=failed)

    def find(self, class_name: str, name_or_id: str) -> ObjectInfo:
        """One object, by name, id or the beginning of an id; raises NothingFoundError.

        A local object is found by a name that the mirror does not know, too: its id follows from it.
        """
        with translated(self.path):
            try:
                return reading.find_object(self._db, class_name, name_or_id)
            except NothingFoundError:
                for id_ in reading.local_ids(self._db, name_or_id, class_name):
                    return reading.find_object(self._db, class_name, id_)
                raise

    def dump(self, info: ObjectInfo) -> ObjectDump:
        """All of one object."""
        with translated(self.path):
            self._tables.refresh()
            return reading.dump_object(self._db, self._tables, info)

    def tables(self) -> list[TableInfo]:
        """The tables and views there are to query, with their row counts."""
        with translated(self.path):
            return reading.list_tables(self._db)

    def changes(
        self,
        *,
        after: int = 0,
        since: str | None = None,
        class_name: str | None = None,
        object_: str | None = None,
        key: str | None = None,
        limit: int | None = None,
    ) -> Iterator[Change]:
        """What syncs changed, in order: those with a `change_id` beyond `after`, not before the moment `since` (ISO
        8601 in UTC), of a class, of an object (its name, its id or an id's beginning), with a key (`*` stands for
        anything); only the last `limit`."""
        with translated(self.path):
            yield from find_changes(
                self._db, after=after, since=since, class_name=class_name, object_=object_, key=key, limit=limit
            )

    @property
    def last_change(self) -> int:
        """The `change_id` of the newest change; 0 where none was noted."""
        with translated(self.path):
            return int(self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = '_durafetch_changes'").get or 0)

    @property
    def history(self) -> str | None:
        """How many changes are kept (`100000`), or how long (`7d`); None where changes are not noted."""
        with translated(self.path):
            text = self._db.execute("SELECT value FROM _durafetch_settings WHERE name = 'history'").get
            return None if text is None else str(text)

    @history.setter
    def history(self, keep: str | None) -> None:
        """Turns the noting of changes on, or off; raises UsageError."""
        if keep is not None:
            Keep.parse(keep)
        if keep == self.history:
            return
        with translated(self.path), writing(self._db):
            self._db.execute("DELETE FROM _durafetch_settings WHERE name = 'history'")
            if keep is not None:
                self._db.execute("INSERT INTO _durafetch_settings VALUES ('history', ?)", (keep,))

    @property
    def seed(self) -> str:
        """The seed of this mirror's digests: 16 hexadecimal digits."""
        with translated(self.path):
            return str(self._db.execute("SELECT value FROM _durafetch_settings WHERE name = 'seed'").get)

    def check_writable(self) -> None:
        """Takes the write lock and gives it back; raises MirrorLockedError where another process keeps it."""
        with translated(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("ROLLBACK")

    def bound_cache(self, size: int) -> None:
        """Keeps at most so many bytes of the file in memory (https://www.sqlite.org/pragma.html#pragma_cache_size)."""
        with translated(self.path):
            self._db.pragma("cache_size", -(size // 1024))

    # Syncing

    def worker(self, worker_id: str) -> KnownWorker | None:
        """The Worker of this id; None where the mirror does not know it."""
        return self._worker_where("worker_id = ?", worker_id)

    def workers(self) -> list[KnownWorker]:
        """All Workers in the mirror, by name."""
        with translated(self.path):
            return [
                KnownWorker(*row)
                for row in self._db.execute(
                    "SELECT worker_id, worker_name, cursor FROM _durafetch_workers ORDER BY worker_name"
                )
            ]

    def worker_at(self, url: str) -> KnownWorker | None:
        """The Worker that was last seen at an address."""
        return self._worker_where("url = ?", url)

    def _worker_where(self, condition: str, value: str) -> KnownWorker | None:
        with translated(self.path):
            row = self._db.execute(
                f"SELECT worker_id, worker_name, cursor FROM _durafetch_workers WHERE {condition}", (value,)
            ).fetchone()
            return None if row is None else KnownWorker(*row)

    def add_worker(self, worker_id: str, name: str, url: str) -> KnownWorker:
        """Adds a Worker; raises WorkerNameTakenError where the mirror has another one of this name."""
        with translated(self.path), writing(self._db):
            known = self.worker(worker_id)
            if known is not None:
                return known  # another process was faster
            if self._db.execute("SELECT 1 FROM _durafetch_workers WHERE worker_name = ?", (name,)).get:
                raise WorkerNameTakenError(
                    f"{self.path} already holds another Worker called {name}.",
                    'Give one of them another name in durafetch.toml ([sources.NAME] with name = "..."), or use '
                    "another file with --db.",
                )
            self._db.execute(
                "INSERT INTO _durafetch_workers(worker_name, worker_id, url, cursor) VALUES (?, ?, ?, '')",
                (name, worker_id, url),
            )
        return KnownWorker(worker_id, name, "")

    def apply_filters(self, worker: str, filters: Filters) -> bool:
        """Makes the choice of what is mirrored of a Worker another one, where it is: what is left out goes, and what
        is to be seen anew is to be pulled. Returns whether objects may be missing that the directory listed before."""
        texts = [filters.objects_text, filters.contents_text]
        with translated(self.path):
            before = json.loads(
                str(self._db.execute("SELECT filter FROM _durafetch_workers WHERE worker_name = ?", (worker,)).get)
            ) or ["", ""]
        if before == texts:
            return False
        if before[0] != texts[0]:
            left_out = [
                (class_name, id_)
                for (class_name, id_), (_, name) in self.versions(worker).items()
                if not filters.object_matches(class_name, id_, name)
            ]
            self.forget(worker, left_out)
        with translated(self.path), writing(self._db):
            if before[1] != texts[1]:
                # Without chunks everything is sent, and compared with what is here.
                self._db.execute(
                    "UPDATE _durafetch_state SET chunks = '' WHERE do_id IN "
                    "(SELECT do_id FROM durable_objects WHERE worker_name = ?)",
                    (worker,),
                )
                self._db.execute(
                    "UPDATE durable_objects SET status = 'pending', listed = listed + 1 WHERE worker_name = ?",
                    (worker,),
                )
            self._db.execute(
                "UPDATE _durafetch_workers SET filter = ? WHERE worker_name = ?", (json.dumps(texts), worker)
            )
        return bool(before[0] != texts[0])

    def list_objects(
        self, worker: str, listed: Sequence[ListedObject], cursor: str, url: str, *, reset: bool = False
    ) -> None:
        """Takes in a page of a directory's listing: its objects are to be pulled, and the cursor moves on.

        Writes nothing where nothing is new. `reset`: the directory began anew, so every known object is to be pulled.
        """
        with translated(self.path):
            before = self._db.execute(
                "SELECT cursor, url FROM _durafetch_workers WHERE worker_name = ?", (worker,)
            ).fetchone()
            if not listed and not reset and before == (cursor, url):
                return
            now = iso_now()
            with writing(self._db):
                self._tables.refresh()
                if reset:
                    self._db.execute(
                        "UPDATE durable_objects SET status = 'pending', listed = listed + 1 WHERE worker_name = ? AND status = 'ok'",
                        (worker,),
                    )
                keys = {(o.class_name, o.id) for o in listed}
                if len(self._known(worker, list(keys))) < len(keys):
                    self._recount(worker)
                for do_id, class_name, name in self._newly_named(worker, listed):
                    rename_object(self._db, self._tables, do_id, class_name, name)
                self._db.executemany(
                    # A do_id is never given twice: `changes` may still speak of an object that is gone.
                    "INSERT INTO durable_objects(do_id, worker_name, class_name, id, name, status, first_seen_at) "
                    "VALUES (coalesce((SELECT do_id FROM _durafetch_gone WHERE id = ?3 AND class_name = ?2 AND "
                    "worker_name = ?1), max(coalesce((SELECT max(do_id) FROM durable_objects), 0), "
                    "coalesce((SELECT max(do_id) FROM _durafetch_gone), 0)) + 1), ?1, ?2, ?3, ?4, 'pending', ?5) "
                    "ON CONFLICT (id, class_name, worker_name) DO UPDATE SET "
                    "status = 'pending', listed = listed + 1, name = coalesce(excluded.name, name)",
                    ((worker, o.class_name, o.id, o.name, now) for o in listed),
                )
                # Another Worker may have answered at this address before.
                self._db.execute(
                    "UPDATE _durafetch_workers SET url = '' WHERE url = ? AND worker_name <> ?", (url, worker)
                )
                self._db.execute(
                    "UPDATE _durafetch_workers SET cursor = ?, url = ? WHERE worker_name = ?",
                    (cursor, url, worker),
                )

    def _newly_named(self, worker: str, listed: Sequence[ListedObject]) -> list[tuple[int, str, str]]:
        """Objects with rows in the mirror whose name is another, or one at last: (do_id, class, name)."""
        named = json.dumps([(o.class_name, o.id, o.name) for o in listed if o.name is not None])
        found: list[tuple[Any, ...]] = self._db.execute(
            "SELECT o.do_id, o.class_name, l.value ->> 2 FROM json_each(?) AS l JOIN durable_objects AS o "
            "ON o.id = l.value ->> 1 AND o.class_name = l.value ->> 0 AND o.worker_name = ? "
            "WHERE o.version IS NOT NULL AND o.name IS NOT l.value ->> 2",
            (named, worker),
        ).fetchall()
        return [(do_id, class_name, name) for do_id, class_name, name in found]

    def mark_all(self, worker: str, class_name: str | None = None) -> None:
        """Every known object of a Worker (of a class) is to be pulled."""
        with translated(self.path), writing(self._db):
            self._db.execute(
                "UPDATE durable_objects SET status = 'pending', listed = listed + 1 WHERE worker_name = ? AND class_name = coalesce(?, class_name)",
                (worker, class_name),
            )

    def pending(
        self, worker: str, class_name: str | None = None, *, after: int = 0, limit: int = 500
    ) -> list[PendingObject]:
        """Objects of a Worker that are to be pulled, those that failed before included, by `do_id`."""
        return self._pending_where(
            "o.worker_name = ? AND o.status <> 'ok' AND o.class_name = coalesce(?, o.class_name) "
            "AND o.do_id > ? ORDER BY o.do_id LIMIT ?",
            (worker, class_name, after, limit),
        )

    def pending_of(self, worker: str, objects: Sequence[tuple[str, str]]) -> list[PendingObject]:
        """Those of these objects (class, id) of a Worker that are to be pulled."""
        listed = json.dumps([list(key) for key in objects])
        condition = (
            "o.worker_name = ? AND o.status <> 'ok' AND (o.class_name, o.id) IN "
            "(SELECT value ->> 0, value ->> 1 FROM json_each(?)) ORDER BY o.do_id"
        )
        return self._pending_where(condition, (worker, listed))

    def add_unknown(self, worker: str, listed: Sequence[ListedObject]) -> None:
        """Takes in those of a directory's objects that are not known yet; leaves all others as they are."""
        known = self._known(worker, [(item.class_name, item.id) for item in listed])
        new = [item for item in listed if (item.class_name, item.id) not in known]
        if not new:
            return
        with translated(self.path):
            row = self._db.execute(
                "SELECT cursor, url FROM _durafetch_workers WHERE worker_name = ?", (worker,)
            ).fetchone()
        if row is not None:
            self.list_objects(worker, new, str(row[0]), str(row[1]))

    def refreshed(self, do_ids: Sequence[int]) -> list[PendingObject]:
        """These objects as they are now, to be pulled again."""
        condition = "o.do_id IN (SELECT value FROM json_each(?)) ORDER BY o.do_id"
        return self._pending_where(condition, (json.dumps(list(do_ids)),))

    def _pending_where(self, condition: str, values: tuple[Value, ...]) -> list[PendingObject]:
        with translated(self.path):
            return [
                PendingObject(*row)
                for row in self._db.execute(
                    "SELECT o.do_id, o.class_name, o.id, o.version, s.chunks, o.listed FROM durable_objects AS o "
                    f"LEFT JOIN _durafetch_state AS s USING (do_id) WHERE {condition}",
                    values,
                )
            ]

    def count(self, worker: str) -> int:
        """How many objects of a Worker are known."""
        name = _COUNT + worker
        with translated(self.path):
            counted = self._db.execute("SELECT value FROM _durafetch_settings WHERE name = ?", (name,)).get
            if counted is None:
                # Counted once after objects came or went, so that a sync of no change does not look at all of them.
                with writing(self._db):
                    counted = self._db.execute(
                        "SELECT count(*) FROM durable_objects WHERE worker_name = ?", (worker,)
                    ).get
                    self._db.execute("INSERT OR REPLACE INTO _durafetch_settings VALUES (?, ?)", (name, str(counted)))
            return int(str(counted))

    def _recount(self, worker: str) -> None:
        self._db.execute("DELETE FROM _durafetch_settings WHERE name = ?", (_COUNT + worker,))

    def apply(
        self,
        worker: str,
        received: Sequence[ReceivedObject],
        *,
        full: bool = False,
        baseline: bool = False,
        filters: Filters = ALL,
    ) -> list[Applied | DurafetchError | StaleError]:
        """Applies objects in one transaction, each as a whole or not at all; says what became of each, in order.

        `baseline`: this is the Worker's first sync, so an object's first appearance is no change.
        """
        results: list[Applied | DurafetchError | StaleError] = []
        told: list[Change] = []
        with translated(self.path):
            self._begin()
            try:
                for item in received:
                    self._db.execute("SAVEPOINT object")
                    writer = self._writer(worker, item.asked, full, baseline, filters)
                    try:
                        writer.apply(item.frames)
                        results.append(writer.finish())
                        told += writer.changes
                    except (DurafetchError, StaleError) as error:
                        self._db.execute("ROLLBACK TO object")
                        self._tables.forget()
                        results.append(error)
                    self._db.execute("RELEASE object")
                self._commit()
            except BaseException:
                self._rollback()
                raise
        self._told += told
        return results

    def take_changes(self) -> list[Change]:
        """What was applied since the last call, where `telling` is set; those not kept have a `change_id` of 0."""
        told, self._told = self._told, []
        return told

    def _begin(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        self._tables.refresh()
        self._at = iso_now()
        keep = self.history
        self._keep = None if keep is None else Keep.parse(keep)

    def _commit(self) -> None:
        if self._tables.altered:
            create_history_view(self._db, self._tables)
        if self._keep is not None:
            prune(self._db, self._keep)
        self._db.execute("COMMIT")
        self._tables.altered = False

    def _writer(self, worker: str, asked: PendingObject, full: bool, baseline: bool, filters: Filters) -> ObjectWriter:
        kept = self._keep is not None
        recorder = None
        if (kept or self.telling) and not (baseline and asked.version is None):
            who = Who(asked.do_id, worker, asked.class_name, asked.id, None)
            recorder = Recorder(self._db, self._at, who, kept=kept, told=self.telling)
        return ObjectWriter(self._db, self._tables, worker, asked, full=full, recorder=recorder, filters=filters)

    def begin(
        self,
        worker: str,
        asked: PendingObject,
        *,
        full: bool = False,
        baseline: bool = False,
        filters: Filters = ALL,
    ) -> ObjectWriter:
        """Opens a transaction for one large object whose frames are still arriving; end it by `commit` or `rollback`."""
        with translated(self.path):
            self._begin()
        return self._writer(worker, asked, full, baseline, filters)

    def feed(self, writer: ObjectWriter, items: Iterable[Frame]) -> None:
        """Applies further frames of a large object."""
        with translated(self.path):
            writer.apply(items)

    def commit(self, writer: ObjectWriter) -> Applied:
        """Ends a large object; raises ProtocolError, and applies nothing, where it is not complete."""
        with translated(self.path):
            try:
                applied = writer.finish()
                self._commit()
            except BaseException:
                self._rollback()
                raise
            self._told += writer.changes
            return applied

    def _known(self, worker: str, objects: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        """Those of these objects (class, id) that the mirror has."""
        with translated(self.path):
            rows: list[Any] = self._db.execute(
                "SELECT o.class_name, o.id FROM json_each(?) AS l JOIN durable_objects AS o "
                "ON o.id = l.value ->> 1 AND o.class_name = l.value ->> 0 AND o.worker_name = ?",
                (json.dumps([list(key) for key in objects]), worker),
            ).fetchall()
        return {(class_name, id_) for class_name, id_ in rows}

    def forget(self, worker: str, objects: Sequence[tuple[str, str]]) -> int:
        """Takes away objects (class, id), with all their rows. Returns how many there were; writes nothing for none."""
        there = sorted(self._known(worker, objects))
        if not there:
            return 0
        with translated(self.path):
            self._begin()
            try:
                count = 0
                self._recount(worker)
                for class_name, id_ in there:
                    count += self._forget(worker, class_name, id_)
                self._commit()
            except BaseException:
                self._rollback()
                raise
            return count

    def _forget(self, worker: str, class_name: str, id_: str) -> int:
        row = self._db.execute(
            f"SELECT {reading.OBJECT_COLUMNS} FROM durable_objects WHERE worker_name = ? AND class_name = ? AND id = ?",
            (worker, class_name, id_),
        ).fetchone()
        if row is None:
            return 0
        info = ObjectInfo(*row)
        who = Who(info.do_id, worker, class_name, id_, info.name)
        recorder = None if self._keep is None else Recorder(self._db, self._at, who, kept=True, told=False)
        forget_object(self._db, self._tables, info, recorder)
        return 1

    def rollback(self) -> None:
        """Drops what arrived of a large object."""
        with translated(self.path):
            self._rollback()

    def _rollback(self) -> None:
        self._tables.forget()
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def versions(self, worker: str) -> dict[tuple[str, str], tuple[str | None, str | None]]:
        """Of each known object (class, id) of a Worker: the version at which the mirror has it whole, and its name."""
        with translated(self.path):
            return {
                (class_name, id_): (version, name)
                for class_name, id_, version, name in self._db.execute(
                    "SELECT class_name, id, iif(status = 'ok', version, NULL), name FROM durable_objects "
                    "WHERE worker_name = ?",
                    (worker,),
                )
            }

    def local_worker(self, name: str, id_prefix: str) -> Path | None:
        """The folder that a Worker's id names after a prefix; None where its id does not begin so."""
        with translated(self.path):
            id_ = self._db.execute("SELECT worker_id FROM _durafetch_workers WHERE worker_name = ?", (name,)).get
            if not isinstance(id_, str) or not id_.startswith(id_prefix):
                return None
            return Path(id_.removeprefix(id_prefix).rpartition("#")[0])

    def move_worker(self, worker_id: str, new_id: str, url: str) -> None:
        """A Worker has another id and address from now on."""
        with translated(self.path), writing(self._db):
            self._db.execute(
                "UPDATE _durafetch_workers SET worker_id = ?, url = ? WHERE worker_id = ?", (new_id, url, worker_id)
            )

    def mark_failed(self, worker: str, failures: Sequence[tuple[str, str, str]]) -> None:
        """Notes objects that could not be mirrored: (class, id, what happened)."""
        with translated(self.path), writing(self._db):
            self._db.executemany(
                "UPDATE durable_objects SET status = 'error', error = ? "
                "WHERE id = ? AND class_name = ? AND worker_name = ?",
                ((error, id_, class_name, worker) for class_name, id_, error in failures),
            )

"""The mirror: one SQLite file that holds every object of any number of Workers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import apsw

from durafetch.errors import DurafetchError, WorkerNameTakenError
from durafetch.frames import Frame
from durafetch.mirror import reading
from durafetch.mirror.apply import Applied, ObjectWriter, PendingObject, StaleError, iso_now, rename_object
from durafetch.mirror.database import open_database, translated, writing
from durafetch.mirror.reading import ObjectDump, ObjectInfo, Rows, TableInfo, Value
from durafetch.mirror.tables import TableMap

__all__ = [
    "Applied", "KnownWorker", "ListedObject", "Mirror", "ObjectDump", "ObjectInfo", "ObjectWriter", "PendingObject",
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

    @classmethod
    def open(cls, path: Path | str, *, create: bool = True, read_only: bool = False) -> Mirror:
        """The same as `Mirror(path, ...)`."""
        return cls(path, create=create, read_only=read_only)

    def close(self) -> None:
        """Closes the file; what was committed is in it."""
        if self._reader is not None:
            self._reader.close()
        self._db.close()

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
        """One object, by name, id or the beginning of an id; raises NothingFoundError."""
        with translated(self.path):
            return reading.find_object(self._db, class_name, name_or_id)

    def dump(self, info: ObjectInfo) -> ObjectDump:
        """All of one object."""
        with translated(self.path):
            return reading.dump_object(self._db, self._tables, info)

    def tables(self) -> list[TableInfo]:
        """The tables and views there are to query, with their row counts."""
        with translated(self.path):
            return reading.list_tables(self._db)

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

    # Syncing

    def worker(self, worker_id: str) -> KnownWorker | None:
        """The Worker of this id; None where the mirror does not know it."""
        return self._worker_where("worker_id = ?", worker_id)

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
            if self._db.execute("SELECT 1 FROM _durafetch_workers WHERE worker_name = ?", (name,)).get:
                raise WorkerNameTakenError(
                    f"{self.path} already holds another Worker called {name}.",
                    'Give one of them another name in durafetch.toml ([sources.NAME] with name = "..."), or use '
                    "another file with --db.",
                )
            self._db.execute("INSERT INTO _durafetch_workers VALUES (?, ?, ?, '')", (name, worker_id, url))
        return KnownWorker(worker_id, name, "")

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
                if reset:
                    self._db.execute(
                        "UPDATE durable_objects SET status = 'pending', listed = listed + 1 WHERE worker_name = ? AND status = 'ok'",
                        (worker,),
                    )
                for do_id, class_name, name in self._newly_named(worker, listed):
                    rename_object(self._db, self._tables, do_id, class_name, name)
                self._db.executemany(
                    "INSERT INTO durable_objects(worker_name, class_name, id, name, status, first_seen_at) "
                    "VALUES (?, ?, ?, ?, 'pending', ?) ON CONFLICT DO UPDATE SET "
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
        with translated(self.path):
            return int(self._db.execute("SELECT count(*) FROM durable_objects WHERE worker_name = ?", (worker,)).get)

    def apply(
        self, worker: str, received: Sequence[ReceivedObject], *, full: bool = False
    ) -> list[Applied | DurafetchError | StaleError]:
        """Applies objects in one transaction, each as a whole or not at all; says what became of each, in order."""
        results: list[Applied | DurafetchError | StaleError] = []
        with translated(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                for item in received:
                    self._db.execute("SAVEPOINT object")
                    writer = ObjectWriter(self._db, self._tables, worker, item.asked, full=full)
                    try:
                        writer.apply(item.frames)
                        results.append(writer.finish())
                    except (DurafetchError, StaleError) as error:
                        self._db.execute("ROLLBACK TO object")
                        self._tables.forget()
                        results.append(error)
                    self._db.execute("RELEASE object")
                self._db.execute("COMMIT")
            except BaseException:
                self._rollback()
                raise
        return results

    def begin(self, worker: str, asked: PendingObject, *, full: bool = False) -> ObjectWriter:
        """Opens a transaction for one large object whose frames are still arriving; end it by `commit` or `rollback`."""
        with translated(self.path):
            self._db.execute("BEGIN IMMEDIATE")
        return ObjectWriter(self._db, self._tables, worker, asked, full=full)

    def feed(self, writer: ObjectWriter, items: Iterable[Frame]) -> None:
        """Applies further frames of a large object."""
        with translated(self.path):
            writer.apply(items)

    def commit(self, writer: ObjectWriter) -> Applied:
        """Ends a large object; raises ProtocolError, and applies nothing, where it is not complete."""
        with translated(self.path):
            try:
                applied = writer.finish()
                self._db.execute("COMMIT")
            except BaseException:
                self._rollback()
                raise
            return applied

    def rollback(self) -> None:
        """Drops what arrived of a large object."""
        with translated(self.path):
            self._rollback()

    def _rollback(self) -> None:
        self._tables.forget()
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def mark_failed(self, worker: str, failures: Sequence[tuple[str, str, str]]) -> None:
        """Notes objects that could not be mirrored: (class, id, what happened)."""
        with translated(self.path), writing(self._db):
            self._db.executemany(
                "UPDATE durable_objects SET status = 'error', error = ? "
                "WHERE id = ? AND class_name = ? AND worker_name = ?",
                ((error, id_, class_name, worker) for class_name, id_, error in failures),
            )

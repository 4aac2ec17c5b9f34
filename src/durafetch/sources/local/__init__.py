"""The objects that `wrangler dev` keeps in files: nothing has to be added to the Worker, and it need not run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from durafetch.errors import UnreadableFileError, UsageError
from durafetch.filters import ALL, Filters
from durafetch.ids import id_from_name
from durafetch.project import Project
from durafetch.sources.local.objects import LocalObject, ObjectFiles, own_name, same_state
from durafetch.sources.local.snapshot import Moved, opened, version_of
from durafetch.sources.local.state import METADATA_FILE, Found, Namespace, find, names_by_id, object_at, objects_folder

__all__ = ["Listing", "LocalObject", "LocalSource", "Moved", "same_state"]


@dataclass
class Listing:
    """What there is at one moment: each object with its file's version."""

    workers: dict[str, dict[tuple[str, str], tuple[LocalObject, str]]] = field(default_factory=dict)
    """By Worker's name, by (class, id)."""
    skipped: list[str] = field(default_factory=list)
    """Files that are no object's, each with the reason."""
    whole: bool = True
    """False where only some files were looked at."""
    failed: list[tuple[str, str, str, str]] = field(default_factory=list)
    """(Worker, class, id, what happened) of objects whose file cannot be read at all."""


@dataclass
class _Metadata:
    """What a namespace's own file says: alarms in ns since 1970, and names, by id."""

    version: str = ""
    alarms: dict[str, int] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)


class LocalSource:
    """The objects of one state folder: of all Workers that `wrangler dev` ran there."""

    def __init__(
        self,
        folder: Path | str,
        *,
        persist_to: Path | str | None = None,
        names: Sequence[str] = (),
        label: str = "",
        name: str | None = None,
        filters: Filters = ALL,
    ) -> None:
        """`folder`: a wrangler project, a state folder, or the folder of the namespaces; `persist_to`: as for wrangler.

        `names`: names that objects may have; each is taken where an object's id follows from it. `name`: the Worker W
        is called `<name>-W` in the mirror, which may hold the deployed W, too. Raises UsageError where `folder` is no
        such folder; the state itself need not exist yet. `filters`: what is mirrored.
        """
        self.filters = filters
        self.folder = objects_folder(Path(folder), None if persist_to is None else Path(persist_to)).resolve()
        self.label = label or str(folder)
        self.name = name
        self._names = list(dict.fromkeys(names))
        self._kv_classes = _kv_classes(Path(folder))
        self._checked: set[tuple[str, str]] = set()
        self._metadata: dict[str, _Metadata] = {}
        self._offered: dict[tuple[str, str], str] = {}
        self._offered_to: set[str] = set()
        self._own_names: dict[tuple[str, str], str | None] = {}

    def url(self, worker: str) -> str:
        """The address that stands for a Worker's files in the mirror."""
        return f"{self.folder.as_uri()}#{worker}"

    def look(self, changed: Iterable[Path] | None = None) -> Listing:
        """Looks at all files, or only at those `changed`; opens none but the namespaces' own."""
        found = None if changed is None else self._found_at(changed)
        whole = found is None
        if found is None:
            found = find(self.folder, self._checked)
        listing = Listing(skipped=found.skipped, whole=whole)
        for namespace in found.namespaces:
            listing.workers.setdefault(namespace.worker, {})
            self._read_metadata(namespace, listing)
            if self._names and namespace.unique_key not in self._offered_to:
                self._offered_to.add(namespace.unique_key)
                self._offered.update(names_by_id([namespace], self._names))
        for namespace, id_ in found.objects:
            metadata = self._metadata[namespace.unique_key]
            name = metadata.names.get(id_) or self._offered.get((namespace.unique_key, id_))
            storage = "kv" if namespace.class_name in self._kv_classes else "sqlite"
            item = LocalObject(namespace.file(id_), namespace.class_name, id_, name, storage, metadata.alarms.get(id_))
            if self.filters and not self._wanted(namespace, item):
                continue
            try:
                version = version_of(item.path)
            except Moved:
                version = ""
            except FileNotFoundError:
                continue
            except (OSError, UnreadableFileError) as error:
                listing.failed.append((namespace.worker, namespace.class_name, id_, str(error)))
                version = ""
            listing.workers[namespace.worker][namespace.class_name, id_] = (item, version)
        return listing

    def _wanted(self, namespace: Namespace, item: LocalObject) -> bool:
        """Whether the filters let an object through. Its name may stand in its own file alone."""
        name = item.name
        if name is None and self.filters.objects and self.filters.classes.matches(item.class_name):
            key = (namespace.unique_key, item.id)
            if key not in self._own_names:
                try:
                    self._own_names[key] = own_name(item.path)
                except (Moved, OSError, UnreadableFileError):
                    return self.filters.object_matches(item.class_name, item.id, None)
            name = self._own_names[key]
        return self.filters.object_matches(item.class_name, item.id, name)

    def _found_at(self, changed: Iterable[Path]) -> Found | None:
        """The objects of these files, if all are known and still there: else all files have to be looked at."""
        found = Found()
        for path in changed:
            place = object_at(self.folder, path)
            if place is None:
                if path.name.startswith(METADATA_FILE) and path.parent.name in self._metadata:
                    continue
                return None
            if (place[0].unique_key, place[1]) not in self._checked or not place[0].file(place[1]).exists():
                return None
            if place not in found.objects:
                found.objects.append(place)
            if place[0] not in found.namespaces:
                found.namespaces.append(place[0])
        return found

    def _read_metadata(self, namespace: Namespace, listing: Listing) -> None:
        """Takes in the alarms and names that the namespace's own file has, where it changed."""
        held = self._metadata.setdefault(namespace.unique_key, _Metadata())
        try:
            if version_of(namespace.metadata) == held.version:
                return
            with opened(namespace.metadata) as (connection, snapshot):
                columns = [name for (name,) in connection.execute("SELECT name FROM pragma_table_info('_cf_ALARM')")]
                fresh = _Metadata(snapshot.version)
                if {"actor_id", "scheduled_time"} <= set(columns):
                    name = "actor_name" if "actor_name" in columns else "NULL"
                    for id_, at, actor in connection.execute(f"SELECT actor_id, scheduled_time, {name} FROM _cf_ALARM"):
                        if isinstance(at, int):
                            fresh.alarms[str(id_)] = at
                        # What the runtime says is believed only where the id follows from it.
                        if isinstance(actor, str) and id_from_name(namespace.unique_key, actor) == id_:
                            fresh.names[str(id_)] = actor
                # A name that was learnt stays known when its alarm is gone.
                fresh.names = {**held.names, **fresh.names}
                snapshot.check()
                self._metadata[namespace.unique_key] = fresh
        except FileNotFoundError:
            # wrangler 3 has none.
            self._metadata[namespace.unique_key] = _Metadata(names=held.names)
        except Moved:
            return
        except (OSError, UnreadableFileError) as error:
            listing.skipped.append(f"{namespace.metadata}: {error}")

    def reader(self, seed: str) -> ObjectFiles:
        """What reads objects, with a mirror's seed."""
        return ObjectFiles(seed)


def _kv_classes(folder: Path) -> set[str]:
    """The classes that the project's migrations make on the KV backend: their files look the same."""
    try:
        return Project.open(folder).kv_classes
    except UsageError:
        return set()

"""Where `wrangler dev` keeps its objects: the folder, its namespaces, the objects' files, their ids and names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from durafetch.errors import UsageError
from durafetch.ids import belongs, id_from_name
from durafetch.project import CONFIG_NAMES, DIRECTORY_CLASS

STATE_PATH: Final = Path(".wrangler", "state")
OBJECTS_PATH: Final = Path("v3", "do")
"""Within the state folder; the same in wrangler 3 and 4."""
METADATA_FILE: Final = "metadata.sqlite"
_OBJECT_FILE: Final = re.compile(r"([0-9a-f]{64})\.sqlite")
_COMPANION: Final = re.compile(r".*\.sqlite-(?:wal|shm|journal)")
_FACET: Final = re.compile(r"[0-9a-f]{64}\.(?:facets|[0-9]+\.sqlite)")


@dataclass(frozen=True)
class Namespace:
    """The folder of one class: `<worker>-<Class>`."""

    path: Path
    worker: str
    class_name: str

    @property
    def unique_key(self) -> str:
        """What the namespace's ids are derived from."""
        return self.path.name

    @property
    def metadata(self) -> Path:
        """The file with the alarms."""
        return self.path / METADATA_FILE

    def file(self, id_: str) -> Path:
        """An object's file."""
        return self.path / f"{id_}.sqlite"


@dataclass
class Found:
    """What there is in a state folder."""

    objects: list[tuple[Namespace, str]] = field(default_factory=list)
    namespaces: list[Namespace] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    """Files that are no object's, each with the reason."""


def objects_folder(folder: Path, persist_to: Path | None = None) -> Path:
    """The folder of the namespaces, which need not exist yet.

    `folder` is a wrangler project, a state folder (what `--persist-to` names), or the folder of the namespaces itself.
    `persist_to`: the state folder, as it was given to wrangler. Raises UsageError where `folder` is none of these.
    """
    if persist_to is not None:
        return persist_to / OBJECTS_PATH
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder.", "Name the folder of a wrangler project.")
    if (folder / OBJECTS_PATH).is_dir():
        return folder / OBJECTS_PATH
    if any((folder / name).is_file() for name in CONFIG_NAMES) or (folder / STATE_PATH.parts[0]).is_dir():
        return folder / STATE_PATH / OBJECTS_PATH
    if any(_is_namespace(child) for child in _folders(folder)):
        return folder
    raise UsageError(
        f"{folder} is not a wrangler project: it has none of {', '.join(CONFIG_NAMES)}.",
        "Name the project's folder, or the one that was given to wrangler as --persist-to.",
    )


def _is_namespace(folder: Path) -> bool:
    names = _names(folder) if "-" in folder.name else []
    return any(name == METADATA_FILE or _OBJECT_FILE.fullmatch(name) for name in names)


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(child for child in folder.iterdir() if child.is_dir())
    except OSError:
        return []


def find(folder: Path, known: set[tuple[str, str]]) -> Found:
    """All objects in a folder of namespaces. `known`: (unique key, id) pairs that were checked before; grows."""
    found = Found()
    for path in _folders(folder):
        # A class has no hyphen in its name, a Worker may.
        worker, hyphen, class_name = path.name.rpartition("-")
        if not hyphen or not worker or not class_name:
            found.skipped.append(f"{path}: not named <worker>-<Class>")
            continue
        if class_name == DIRECTORY_CLASS:
            continue
        namespace = Namespace(path, worker, class_name)
        found.namespaces.append(namespace)
        for name in _names(path):
            match = _OBJECT_FILE.fullmatch(name)
            if match is None:
                if name != METADATA_FILE and _COMPANION.fullmatch(name) is None:
                    what = "a facet's file, which is not mirrored" if _FACET.fullmatch(name) else "not an object's file"
                    found.skipped.append(f"{path / name}: {what}")
                continue
            if (path.name, match[1]) not in known:
                if not belongs(path.name, match[1]):
                    found.skipped.append(f"{path / name}: its id belongs to another class or Worker")
                    continue
                known.add((path.name, match[1]))
            found.objects.append((namespace, match[1]))
    return found


def object_at(folder: Path, path: Path) -> tuple[Namespace, str] | None:
    """The object that a file in a folder of namespaces, or its log, is of; None where it is none's."""
    worker, hyphen, class_name = path.parent.name.rpartition("-")
    match = re.match(r"([0-9a-f]{64})\.sqlite(?:-wal|-journal)?$", path.name)
    if match is None or path.parent.parent != folder or not hyphen or class_name == DIRECTORY_CLASS:
        return None
    return Namespace(path.parent, worker, class_name), match[1]


def _names(path: Path) -> list[str]:
    try:
        return sorted(child.name for child in path.iterdir())
    except OSError:
        return []


def names_by_id(namespaces: Iterable[Namespace], names: Iterable[str]) -> dict[tuple[str, str], str]:
    """(unique key, id) of each name in each namespace: a name is that of the object whose id follows from it."""
    names = list(names)
    return {(n.unique_key, id_from_name(n.unique_key, name)): name for n in namespaces for name in names}

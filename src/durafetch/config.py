"""durafetch.toml, and where tokens come from. The file is looked up in this folder and its parents."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from durafetch.errors import ConfigError, NoTokenError, UsageError
from durafetch.filters import Filters
from durafetch.limits import MIN_TOKEN_LENGTH

CONFIG_FILE: Final = "durafetch.toml"
DEFAULT_DB: Final = "durafetch.sqlite"
DEV_DB: Final = Path(".durafetch", "dev.sqlite")
"""The mirror that `durafetch dev` makes, within the project."""
TOKEN_VARIABLE: Final = "DURAFETCH_TOKEN"
DB_VARIABLE: Final = "DURAFETCH_DB"

SETTINGS: Final = {
    "db": "the mirror file, relative to durafetch.toml; default: `durafetch.sqlite` in the current folder",
    "history": "note what each sync changes, and keep so many changes (`100000`) or so long (`7d`); default: as the mirror "
    "was told before, at first not at all",
    "include": "what is mirrored of all sources: a list of `class=…`, `object=…` (a name), `table=…`, `key=…`, in which `*` is "
    "any text and `?` any one character; default: everything",
    "exclude": "the same for what is left out, whatever is included",
    "sources.NAME.include": "the same for this source, besides what stands above",
    "sources.NAME.exclude": "the same",
    "sources.NAME.url": "the Worker's address",
    "sources.NAME.folder": "instead of `url`: a wrangler project, relative to durafetch.toml, whose local objects are read",
    "sources.NAME.persist_to": "with `folder`: the state folder, where `wrangler dev` was given one as `--persist-to`",
    "sources.NAME.name": "the Worker's name in the mirror; default: the one that the Worker gives itself, else NAME. With "
    "`folder`: what stands before each Worker's name, as in `NAME-chat`; default: nothing",
    "sources.NAME.token_env": f"the environment variable that holds the token; default: `{TOKEN_VARIABLE}`",
    "sources.NAME.token_file": "a file with the token, relative to durafetch.toml, used where the variable is not set: "
    f"either the token alone, or a line `{TOKEN_VARIABLE}=...` as in wrangler's `.dev.vars`",
}
"""Each setting of durafetch.toml and what it does; docs/config.md is generated from it."""


@dataclass(frozen=True)
class SourceConfig:
    """One `[sources.NAME]` of durafetch.toml, or an address or folder from the command line; it has one of both."""

    label: str
    url: str = ""
    name: str | None = None
    token_env: str = TOKEN_VARIABLE
    token_file: Path | None = None
    folder: Path | None = None
    persist_to: Path | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True)
class Config:
    """A durafetch.toml; `path` is None where there is none."""

    path: Path | None = None
    db: Path | None = None
    sources: dict[str, SourceConfig] = field(default_factory=dict)
    history: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


def load_config(start: Path | None = None) -> Config:
    """The nearest durafetch.toml, from `start` (default: the current folder) upwards; an empty Config without one.

    Raises ConfigError where it cannot be used.
    """
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        path = folder / CONFIG_FILE
        if path.is_file():
            return _read(path)
    return Config()


def _read(path: Path) -> Config:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from None
    known = {name.split(".")[0] for name in SETTINGS}
    if unknown := set(data) - known:
        raise ConfigError(f"{path} has an unknown setting: {sorted(unknown)[0]}.", f"Known: {', '.join(SETTINGS)}.")
    db = _text(path, data, "db")
    tables = data.get("sources", {})
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise ConfigError(f"{path}: sources has to be tables.", '[sources.chat] with url = "https://..."')
    sources = {name: _source(path, name, table) for name, table in tables.items()}
    return Config(
        path,
        None if db is None else path.parent / db,
        sources,
        _text(path, data, "history"),
        _texts(path, data, "include"),
        _texts(path, data, "exclude"),
    )


def _source(path: Path, label: str, table: dict[str, Any]) -> SourceConfig:
    known = {name.rpartition(".")[2] for name in SETTINGS if name.startswith("sources.")}
    where = f"sources.{label}"
    if unknown := set(table) - known:
        raise ConfigError(
            f"{path}: {where} has an unknown setting: {sorted(unknown)[0]}.", f"Known: {', '.join(sorted(known))}."
        )
    texts = {name: _text(path, table, name, where) for name in known - {"include", "exclude"}}
    if (texts["url"] is None) == (texts["folder"] is None):
        what = "has no url" if texts["url"] is None else "has both a url and a folder"
        raise ConfigError(f"{path}: {where} {what}.", f'[{where}] with url = "https://..." (or folder = ".")')

    def place(name: str) -> Path | None:
        text = texts[name]
        return None if text is None else path.parent / text

    return SourceConfig(
        label,
        texts["url"] or "",
        texts["name"],
        texts["token_env"] or TOKEN_VARIABLE,
        place("token_file"),
        place("folder"),
        place("persist_to"),
        _texts(path, table, "include", where),
        _texts(path, table, "exclude", where),
    )


def _text(path: Path, table: dict[str, Any], name: str, where: str = "") -> str | None:
    value = table.get(name)
    if value is not None and not (isinstance(value, str) and value):
        raise ConfigError(f"{path}: {where}{'.' if where else ''}{name} has to be a text.")
    return value


def _texts(path: Path, table: dict[str, Any], name: str, where: str = "") -> tuple[str, ...]:
    values = table.get(name, [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ConfigError(f"{path}: {where}{'.' if where else ''}{name} has to be a list of texts.")
    return tuple(values)


def choose_filters(
    config: Config, source: SourceConfig | None, include: tuple[str, ...], exclude: tuple[str, ...]
) -> Filters:
    """What is mirrored of a source, by the configuration and the command line together. Raises UsageError."""
    mine = source or SourceConfig("")
    return Filters.parse((*config.include, *mine.include, *include), (*config.exclude, *mine.exclude, *exclude))


def choose_sources(config: Config, given: tuple[str, ...], token_file: Path | None = None) -> list[SourceConfig]:
    """The sources that the command line names: addresses, folders, or names from the configuration; all of it where none.

    Raises UsageError where a name is not in it, or there is nothing to choose from.
    """
    chosen: dict[str, SourceConfig] = {}
    for text in given or tuple(config.sources):
        if text in config.sources:
            source = config.sources[text]
        elif "://" in text:
            source = SourceConfig(text, text)
        elif Path(text).is_dir():
            source = SourceConfig(text, folder=Path(text))
        else:
            names = ", ".join(config.sources) or "none"
            raise UsageError(
                f"{text} is neither an address, nor a folder, nor a source of {config.path or CONFIG_FILE} (it has: {names}).",
                "An address begins with https:// (or http:// on localhost).",
            )
        if token_file is not None:
            source = replace(source, token_file=token_file)
        chosen[source.label] = source
    if not chosen:
        raise UsageError(
            f"There is no Worker to fetch from: no address or folder was given and no {CONFIG_FILE} names one.",
            "durafetch sync https://your-worker.example, or durafetch sync DIR for the local objects of a project.",
        )
    return list(chosen.values())


def choose_db(config: Config, given: Path | None, *, reading: bool = False) -> Path:
    """The mirror file: from the command line, the environment, the configuration, or the default.

    `reading`: where the default does not exist, the mirror of `durafetch dev` in this folder will do.
    """
    if given is not None:
        return given
    if os.environ.get(DB_VARIABLE):
        return Path(os.environ[DB_VARIABLE])
    path = config.db or Path(DEFAULT_DB)
    return DEV_DB if reading and not path.exists() and DEV_DB.exists() else path


def find_token(source: SourceConfig) -> str:
    """A source's token, from its environment variable or its file. Raises NoTokenError, ConfigError."""
    token = os.environ.get(source.token_env, "").strip()
    origin = f"The environment variable {source.token_env}"
    if not token and source.token_file is not None:
        origin = str(source.token_file)
        token = _token_in(source.token_file)
    if not token:
        raise NoTokenError(
            f"There is no token for {source.label}.",
            f"export {source.token_env}=... (the secret that the Worker has), or name a file with --token-file.",
        )
    if len(token) < MIN_TOKEN_LENGTH or not token.isascii() or not token.isprintable() or " " in token:
        raise NoTokenError(
            f"{origin} does not hold a token: it takes {MIN_TOKEN_LENGTH} or more printable characters without spaces.",
            "Make one: openssl rand -hex 32",
        )
    return token


def _token_in(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"The token file {path} cannot be read: {reason}.") from None
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and name.strip().removeprefix("export ").strip() == TOKEN_VARIABLE:
            return value.strip().strip("\"'")
    return text.strip() if "=" not in text.strip().rstrip("=") else ""

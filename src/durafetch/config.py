"""durafetch.toml, and where tokens come from. The file is looked up in this folder and its parents."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from durafetch.errors import ConfigError, NoTokenError, UsageError
from durafetch.limits import MIN_TOKEN_LENGTH

CONFIG_FILE: Final = "durafetch.toml"
DEFAULT_DB: Final = "durafetch.sqlite"
TOKEN_VARIABLE: Final = "DURAFETCH_TOKEN"
DB_VARIABLE: Final = "DURAFETCH_DB"

SETTINGS: Final = {
    "db": "the mirror file, relative to durafetch.toml; default: `durafetch.sqlite` in the current folder",
    "sources.NAME.url": "the Worker's address",
    "sources.NAME.name": "the Worker's name in the mirror; default: the one that the Worker gives itself, else NAME",
    "sources.NAME.token_env": f"the environment variable that holds the token; default: `{TOKEN_VARIABLE}`",
    "sources.NAME.token_file": "a file with the token, relative to durafetch.toml, used where the variable is not set: "
    f"either the token alone, or a line `{TOKEN_VARIABLE}=...` as in wrangler's `.dev.vars`",
}
"""Each setting of durafetch.toml and what it does; docs/config.md is generated from it."""


@dataclass(frozen=True)
class SourceConfig:
    """One `[sources.NAME]` of durafetch.toml, or an address from the command line."""

    label: str
    url: str
    name: str | None = None
    token_env: str = TOKEN_VARIABLE
    token_file: Path | None = None


@dataclass(frozen=True)
class Config:
    """A durafetch.toml; `path` is None where there is none."""

    path: Path | None = None
    db: Path | None = None
    sources: dict[str, SourceConfig] = field(default_factory=dict)


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
    return Config(path, None if db is None else path.parent / db, sources)


def _source(path: Path, label: str, table: dict[str, Any]) -> SourceConfig:
    known = {name.rpartition(".")[2] for name in SETTINGS if name.startswith("sources.")}
    where = f"sources.{label}"
    if unknown := set(table) - known:
        raise ConfigError(
            f"{path}: {where} has an unknown setting: {sorted(unknown)[0]}.", f"Known: {', '.join(sorted(known))}."
        )
    url = _text(path, table, "url", where)
    if url is None:
        raise ConfigError(f"{path}: {where} has no url.", f'[{where}] with url = "https://..."')
    token_file = _text(path, table, "token_file", where)
    return SourceConfig(
        label,
        url,
        _text(path, table, "name", where),
        _text(path, table, "token_env", where) or TOKEN_VARIABLE,
        None if token_file is None else path.parent / token_file,
    )


def _text(path: Path, table: dict[str, Any], name: str, where: str = "") -> str | None:
    value = table.get(name)
    if value is not None and not (isinstance(value, str) and value):
        raise ConfigError(f"{path}: {where}{'.' if where else ''}{name} has to be a text.")
    return value


def choose_sources(config: Config, given: tuple[str, ...], token_file: Path | None = None) -> list[SourceConfig]:
    """The sources that the command line names: addresses, or names from the configuration; all of it where none.

    Raises UsageError where a name is not in it, or there is nothing to choose from.
    """
    chosen: dict[str, SourceConfig] = {}
    for text in given or tuple(config.sources):
        if text in config.sources:
            source = config.sources[text]
        elif "://" in text:
            source = SourceConfig(text, text)
        else:
            names = ", ".join(config.sources) or "none"
            raise UsageError(
                f"{text} is neither an address nor a source of {config.path or CONFIG_FILE} (it has: {names}).",
                "An address begins with https:// (or http:// on localhost).",
            )
        if token_file is not None:
            source = SourceConfig(source.label, source.url, source.name, source.token_env, token_file)
        chosen[source.label] = source
    if not chosen:
        raise UsageError(
            f"There is no Worker to fetch from: no address was given and no {CONFIG_FILE} names one.",
            "durafetch sync https://your-worker.example, or run `durafetch init` in the Worker's project.",
        )
    return list(chosen.values())


def choose_db(config: Config, given: Path | None) -> Path:
    """The mirror file: from the command line, the environment, the configuration, or the default."""
    if given is not None:
        return given
    if os.environ.get(DB_VARIABLE):
        return Path(os.environ[DB_VARIABLE])
    return config.db or Path(DEFAULT_DB)


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

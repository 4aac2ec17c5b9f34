"""`durafetch doctor`: looks at each thing that can be wrong, in order, and says how to mend it."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import click

from durafetch.cli import output
from durafetch.cli.options import db_option, json_option, token_option
from durafetch.config import SourceConfig, choose_db, choose_sources, find_token, load_config
from durafetch.errors import DurafetchError, MirrorMissingError, NoDirectoryError, UnreachableError
from durafetch.limits import PROTOCOL_VERSION
from durafetch.mirror import Mirror
from durafetch.sources.worker import WorkerInfo, WorkerSource, normalized_url

LOW_DISK_BYTES = 100_000_000
CONNECT_TIMEOUT_S = 10.0


@dataclass
class Finding:
    """One check: `ok` None is a remark that nothing has to be done about."""

    check: str
    ok: bool | None
    message: str
    hint: str = ""
    error: DurafetchError | None = None


@click.command(
    epilog="""\b
Examples:
  durafetch doctor
  durafetch doctor https://chat.example.workers.dev
"""
)
@click.argument("source", nargs=-1)
@db_option
@token_option
@json_option("Print the findings as one JSON object.")
def doctor(source: tuple[str, ...], db: Path | None, token_file: Path | None, as_json: bool) -> None:
    """Check each thing that can be wrong, and say how to mend it.

    The address, DNS, TLS, the token, the protocol's version, unwrapped classes, the directory's migration, the mirror
    file, its lock and disk.
    """
    findings: list[Finding] = []
    config = load_config()
    where = str(config.path) if config.path else "none here or in a parent folder"
    findings.append(Finding("config", None if config.path is None else True, where))
    for chosen in choose_sources(config, source, token_file):
        findings += _check_source(chosen) if chosen.folder is None else _check_folder(chosen)
    findings += _check_mirror(choose_db(config, db))
    if as_json:
        output.write_json(
            {
                "ok": all(f.ok is not False for f in findings),
                "findings": [{"check": f.check, "ok": f.ok, "message": f.message, "hint": f.hint} for f in findings],
            }
        )
    else:
        for finding in findings:
            mark = {True: "ok  ", False: "FAIL", None: "note"}[finding.ok]
            click.echo(output.safe(f"{mark}  {finding.check}: {finding.message}"))
            if finding.hint and finding.ok is not True:
                click.echo(output.safe(f"      {finding.hint}"))
    failed = next((f for f in findings if f.ok is False), None)
    if failed is not None:
        raise failed.error or DurafetchError(f"{failed.check}: {failed.message}", failed.hint)


def _failed(check: str, error: DurafetchError) -> Finding:
    return Finding(check, False, error.message, error.hint, error)


def _check_source(source: SourceConfig) -> Iterator[Finding]:
    try:
        url = normalized_url(source.url)
    except DurafetchError as error:
        yield _failed("address", error)
        return
    yield Finding("address", True, url)
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    try:
        addresses = sorted({str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)})
        yield Finding("dns", True, f"{host} is {', '.join(addresses[:4])}")
    except OSError:
        yield _failed("dns", UnreachableError(f"There is no host {host}.", "Check the spelling of the address."))
        return
    try:
        with socket.create_connection((host, port), CONNECT_TIMEOUT_S) as connection:
            yield Finding("connection", True, f"port {port} accepts connections")
            if parts.scheme == "https":
                with ssl.create_default_context().wrap_socket(connection, server_hostname=host) as tls:
                    yield Finding("tls", True, str(tls.version()))
    except ssl.SSLError as error:
        yield _failed("tls", UnreachableError(f"TLS fails: {error.reason or error}.", "Check the host's certificate."))
        return
    except OSError as error:
        hint = "Start it (npx wrangler dev), or check the port." if parts.scheme == "http" else ""
        yield _failed("connection", UnreachableError(f"Port {port} of {host}: {error.strerror or error}.", hint))
        return
    try:
        token = find_token(source)
        yield Finding("token", True, f"{len(token)} characters")
        info = asyncio.run(_info(WorkerSource(url, token=token)))
    except DurafetchError as error:
        yield _failed("worker", error)
        return
    yield Finding("worker", True, f"{info.worker.name or '(no name)'} accepts the token, protocol {PROTOCOL_VERSION}")
    yield from _check_classes(info)


def _check_folder(source: SourceConfig) -> Iterator[Finding]:
    from durafetch.sources.local import LocalSource

    try:
        local = LocalSource(source.folder or Path(), persist_to=source.persist_to)
    except DurafetchError as error:
        yield _failed("folder", error)
        return
    if not local.folder.is_dir():
        yield Finding("folder", None, f"{local.folder} does not exist yet; `npx wrangler dev` makes it")
        return
    listing = local.look()
    count = sum(len(objects) for objects in listing.workers.values())
    yield Finding("folder", True, f"{local.folder} has {count} objects of {', '.join(listing.workers) or 'no Worker'}")
    for note in listing.skipped:
        yield Finding("file", None, f"skipped: {note}")
    for _, class_name, id_, message in listing.failed:
        yield Finding("file", False, f"{class_name} {id_}: {message}")


def _check_classes(info: WorkerInfo) -> Iterator[Finding]:
    if info.directory is None:
        yield _failed("directory", NoDirectoryError("The Worker has no Durable Object class DurafetchDirectory."))
    else:
        yield Finding("directory", True, f"{info.directory.get('shards', 1)} shard(s)")
    if not info.classes:
        yield Finding("classes", False, "The Worker exports no Durable Object class.", "See `durafetch init`.")
    for item in info.classes:
        if item.wrapped is False:
            hint = f"export const {item.name} = durafetchObject({item.name}Base);"
            yield Finding("class", None, f"{item.name} is not wrapped, so its objects are not mirrored", hint)
        elif item.wrapped is None:
            yield Finding(
                "class", None, f"{item.name}: not known yet whether it is wrapped; none of its objects started"
            )
        else:
            yield Finding("class", True, f"{item.name} is wrapped")


async def _info(source: WorkerSource) -> WorkerInfo:
    async with source:
        return await source.info()


def _check_mirror(path: Path) -> Iterator[Finding]:
    try:
        with Mirror(path, create=False) as mirror:
            count = sum(1 for _ in mirror.objects())
            yield Finding("mirror", True, f"{path} holds {count} objects")
            mirror.check_writable()
            yield Finding("lock", True, "nobody holds the mirror's write lock")
    except MirrorMissingError:
        yield Finding("mirror", None, f"{path} does not exist yet; durafetch sync makes it")
    except DurafetchError as error:
        yield _failed("mirror", error)
    folder = path.parent if path.parent.is_dir() else Path()
    free = shutil.disk_usage(folder).free
    yield Finding(
        "disk",
        free >= LOW_DISK_BYTES,
        f"{output.size(free)} free",
        "" if free >= LOW_DISK_BYTES else "Make room, or name a file on another disk with --db.",
    )

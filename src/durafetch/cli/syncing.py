"""`durafetch sync` and `durafetch verify`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from durafetch import errors
from durafetch import sync as sync_module
from durafetch.cli import output
from durafetch.cli.options import (
    db_option,
    filter_options,
    history_options,
    json_option,
    names_option,
    open_source,
    persist_option,
    read_names,
    set_history,
    token_option,
)
from durafetch.config import choose_db, choose_filters, choose_sources, load_config
from durafetch.cost import Cost, dollars
from durafetch.mirror import Mirror
from durafetch.results import Progress, SyncResult
from durafetch.sources.local import LocalSource
from durafetch.sources.worker import WorkerSource
from durafetch.sync import Source
from durafetch.sync_local import differs
from durafetch.verify import Difference
from durafetch.verify import verify as compare

SHOWN_FAILURES = 10
ASSUMED_S = 0.05
"""How long an object is taken to be active for a pull, in an estimate: a cold one starts in a few milliseconds."""
COUNTS = ("known", "visited", "changed", "failed", "gone")


@click.command(
    short_help="Make the mirror equal to the objects.",
    epilog="""\b
Examples:
  durafetch sync                                   all sources of durafetch.toml
  durafetch sync https://chat.example.workers.dev  one Worker, token in $DURAFETCH_TOKEN
  durafetch sync prod staging --db all.sqlite      two sources of durafetch.toml
  durafetch sync ./chat                            the local objects of a wrangler project
  durafetch sync --class Room --json               one class; the summary as JSON
""",
)
@click.argument("source", nargs=-1)
@db_option
@token_option
@click.option("--class", "class_name", metavar="CLASS", help="Only objects of this class.")
@click.option("--full", is_flag=True, help="Fetch every object whole, whatever the mirror holds.")
@click.option(
    "--dry-run", is_flag=True, help="Only say how many objects would be visited, and what it may cost; write nothing."
)
@filter_options
@history_options
@persist_option
@names_option
@json_option("Print the summary as one JSON object.")
def sync(
    source: tuple[str, ...],
    db: Path | None,
    token_file: Path | None,
    class_name: str | None,
    full: bool,
    dry_run: bool,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    history: bool | None,
    keep: str | None,
    persist_to: Path | None,
    names: Path | None,
    as_json: bool,
) -> None:
    """Make the mirror equal to the objects, moving only what changed.

    SOURCE is a Worker's address, the folder of a wrangler project (whose local objects are read from their files), or a
    name from durafetch.toml; without any, all that it names.
    """
    config = load_config()
    chosen = choose_sources(config, source, token_file)
    offered = read_names(names)
    if (persist_to is not None or offered) and not any(item.folder for item in chosen):
        raise errors.UsageError("--persist-to and --names are for the folders of wrangler projects.")
    sources = [
        open_source(item, filters=choose_filters(config, item, include, exclude), persist_to=persist_to, names=offered)
        for item in chosen
    ]
    path = choose_db(config, db)
    if dry_run:
        _dry_run(path, sources, class_name, full, as_json)
        return
    with Mirror(path) as mirror, _progress() as on_progress:
        set_history(mirror, config, history, keep)
        result = sync_module.sync_sources(mirror, sources, class_name=class_name, full=full, on_progress=on_progress)
    _report(result, path, as_json)
    error = result.error()
    if error is not None:
        raise error


@contextmanager
def _progress() -> Iterator[Any]:
    """A progress bar on a terminal, nothing elsewhere."""
    if not output.is_terminal():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("objects"),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def on_progress(progress: Progress) -> None:
            if progress.source not in tasks:
                tasks[progress.source] = bar.add_task(output.safe(progress.source), total=None)
            bar.update(tasks[progress.source], total=progress.pending, completed=progress.visited)

        yield on_progress


def summary(result: SyncResult) -> dict[str, Any]:
    """The summary of a sync, as `--json` prints it."""
    return {
        "objects": {name: result.total(name) for name in COUNTS},
        "rows": {"upserted": result.total("upserted"), "deleted": result.total("deleted")},
        "requests": result.total("requests"),
        "bytes": result.total("bytes"),
        "cost": result.cost.summary(),
        "seconds": round(result.seconds, 3),
        "sources": [
            {
                "source": source.source,
                "worker": source.worker,
                "objects": {name: getattr(source, name) for name in COUNTS},
                "rows": {"upserted": source.upserted, "deleted": source.deleted},
                "skipped": source.notes,
                "requests": source.requests,
                "bytes": source.bytes,
                "cost": source.cost.summary(),
                "seconds": round(source.seconds, 3),
                "error": None
                if source.error is None
                else {"code": source.error.code, "message": source.error.message, "hint": source.error.hint},
                "failures": [
                    {"class": f.class_name, "id": f.id, "code": f.code, "message": f.message} for f in source.failures
                ],
            }
            for source in result.sources
        ],
    }


def _report(result: SyncResult, path: Path, as_json: bool) -> None:
    if as_json:
        output.write_json(summary(result))
        return
    for source in result.sources:
        for note in source.notes[:SHOWN_FAILURES]:
            output.say(f"skipped: {note}")
        if len(source.notes) > SHOWN_FAILURES:
            output.say(f"skipped: {len(source.notes) - SHOWN_FAILURES} more files")
        for failure in source.failures[:SHOWN_FAILURES]:
            output.say(f"failed: {failure.class_name} {failure.id}: {failure.message}")
        if len(source.failures) > SHOWN_FAILURES:
            output.say(f"failed: {len(source.failures) - SHOWN_FAILURES} more; durafetch ls --failed lists them")
        if source.error is not None and len(result.sources) > 1:
            output.say(f"failed: {source.source}:")
            output.print_error(source.error)
    if all(source.error is not None for source in result.sources):
        return
    t = result.total
    moved = f"{t('requests')} {'request' if t('requests') == 1 else 'requests'}, {output.size(t('bytes'))}, "
    removed = f", {t('gone')} gone" if t("gone") else ""
    output.say(
        f"{path}: {t('known')} objects known, {t('visited')} visited, {t('changed')} changed{removed}, {t('failed')} failed\n"
        f"rows: {t('upserted')} written, {t('deleted')} deleted; "
        f"{moved if t('requests') else ''}{result.seconds:.2f} s" + (f"\n{_cost(result.cost)}" if t("requests") else "")
    )


def _cost(cost: Cost) -> str:
    requests = f"{cost.do_requests:,} Durable Object request{'' if cost.do_requests == 1 else 's'}"
    return (
        f"cost: at most {dollars(cost.usd)} ({requests}, "
        f"{cost.rows_read + cost.read_units:,} rows read, {cost.rows_written:,} written)"
    )


def _dry_run(path: Path, sources: list[Source], class_name: str | None, full: bool, as_json: bool) -> None:
    mirror = Mirror(path, create=False, read_only=True) if path.exists() else None
    try:
        plans = [
            _local_plan(mirror, source, class_name, full)
            if isinstance(source, LocalSource)
            else asyncio.run(_plan(mirror, source, class_name, full))
            for source in sources
        ]
    finally:
        if mirror is not None:
            mirror.close()
    if as_json:
        output.write_json({"dry_run": True, "sources": plans})
        return
    for plan in plans:
        cost = plan.get("cost")
        estimate = f", for at most {dollars(cost['usd'])}" if cost else ""
        unknown = f" besides what {plan['new']} new ones hold" if cost and plan["new"] else ""
        output.say(
            f"{plan['source']}: {plan['known']} objects known, {plan['would_visit']} would be visited{estimate}{unknown}"
        )


def _local_plan(mirror: Mirror | None, source: LocalSource, class_name: str | None, full: bool) -> dict[str, Any]:
    known = to_visit = 0
    for worker, objects in source.look().workers.items():
        held = mirror.versions(worker) if mirror else {}
        known += len(objects)
        differing = [key for key, found in objects.items() if full or differs(held.get(key), *found)]
        to_visit += len([key for key in differing if class_name in (None, key[0])])
    return {"source": source.label, "known": known, "would_visit": to_visit}


async def _plan(mirror: Mirror | None, source: WorkerSource, class_name: str | None, full: bool) -> dict[str, Any]:
    known = mirror.worker_at(source.url) if mirror else None
    cursor = known.cursor if known else ""
    existing = (
        {(o.class_name, o.id): o for o in mirror.objects() if known and o.worker_name == known.name} if mirror else {}
    )
    to_visit = {key for key, held in existing.items() if full or held.status != "ok"}
    async with source:
        while True:
            page = await source.changes(cursor)
            matches = source.filters.object_matches
            to_visit |= {(o.class_name, o.id) for o in page.objects if matches(o.class_name, o.id, o.name)}
            if page.reset:
                to_visit |= set(existing)
            cursor = page.cursor
            if not page.more:
                break
    total = len(existing.keys() | to_visit)
    chosen = [key for key in to_visit if class_name in (None, key[0])]
    cost = source.cost
    cost.worker_requests += -(-len(chosen) // sync_module.FIRST_BATCH_OBJECTS)
    cost.asked(len(chosen))
    cost.duration_s += ASSUMED_S * len(chosen)
    held = [existing[key] for key in chosen if key in existing]
    for one in held:
        cost.read(one.storage or "", one.entries + one.rows)
    return {
        "source": source.label, "known": total, "would_visit": len(chosen), "new": len(chosen) - len(held),
        "cost": cost.summary(),
    }  # fmt: skip


@click.command(
    short_help="Compare the mirror with the objects.",
    epilog="""\b
Examples:
  durafetch verify https://chat.example.workers.dev
  durafetch verify prod --json
  durafetch verify ./chat
""",
)
@click.argument("source", nargs=-1)
@db_option
@token_option
@persist_option
@filter_options
@json_option("Print what was compared and each difference as one JSON object.")
def verify(
    source: tuple[str, ...],
    db: Path | None,
    token_file: Path | None,
    persist_to: Path | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    as_json: bool,
) -> None:
    """Fetch everything anew and compare it with the mirror; ends with 0 only where they are equal."""
    config = load_config()
    path = choose_db(config, db, reading=True)
    with Mirror(path, create=False, read_only=True) as mirror:
        objects, failed = 0, 0
        found: list[Difference] = []
        reports: list[dict[str, Any]] = []
        for chosen in choose_sources(config, source, token_file):
            filters = choose_filters(config, chosen, include, exclude)
            worker = open_source(chosen, filters=filters, persist_to=persist_to)
            result, compared, differences = compare(mirror, worker)
            error = result.error()
            if error is not None and not compared:
                raise error
            objects += compared
            found += differences
            failed += result.total("failed")
            reports.append({"source": worker.label, "objects": compared, "failed": result.total("failed")})
    if as_json:
        listed = [
            {"class": d.class_name, "id": d.id, "name": d.name, "what": d.what, "key": d.key, "how": d.how}
            for d in found
        ]
        output.write_json({"equal": not found, "objects": objects, "differences": listed, "sources": reports})
    else:
        for d in found[:1000]:
            click.echo(output.safe(f"{d.class_name} {d.name or d.id}: {d.what} {d.key} {d.how}".replace("  ", " ")))
    if found:
        what = f"{len(found)} {'difference' if len(found) == 1 else 'differences'}"
        raise errors.DifferentError(f"{path} differs from the objects: {what} in {objects} objects.")
    if failed:
        raise errors.PartlyDoneError(f"{objects} objects are equal; {failed} could not be fetched to be compared.")
    output.say(f"{path} is equal to {objects} {'object' if objects == 1 else 'objects'}.")

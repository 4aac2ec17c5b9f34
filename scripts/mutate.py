"""Breaks the product in marked ways, one at a time, and shows that a test catches each: `make mutate`.

`--check` only says whether each place that is to be broken is still there, once; it is part of `make lint`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SERVER, CLIENT = "server/src", "src/durafetch"
TIMEOUT_S = 170


@dataclass(frozen=True)
class Mutation:
    """In `path`, `old` (which stands there once) becomes `new`; one of `tests` has to fail."""

    path: str
    old: str
    new: str
    tests: str


E2E = "tests/e2e"
MUTATIONS = [
    # The server: versions and what counts as a change.
    Mutation(f"{SERVER}/tracker.ts", "this.mutations += 1;", "this.mutations += 0;", f"{E2E}/test_objects.py {E2E}/test_tables.py"),
    Mutation(f"{SERVER}/tracker.ts", "this.#dirty = false;", "", f"{E2E}/test_objects.py {E2E}/test_watch.py"),
    Mutation(f"{SERVER}/tracker.ts", "this.#startAnnounced = true;\n    this.#dirty", "this.#dirty", f"{E2E}/test_objects.py"),
    Mutation(f"{SERVER}/versions.ts", "schema === \"[]\" ? NO_SCHEMA : digest([0, 0], schema)", "schema === \"[]\" ? NO_SCHEMA : \"x\"", f"{E2E}/test_tables.py"),
    Mutation(f"{SERVER}/instrument.ts", "if (typeof sql !== \"string\" || mayWrite(sql)) tracker.sqlChanged();", "", f"{E2E}/test_tables.py {E2E}/test_consistency.py {E2E}/test_watch.py"),
    # The server: one committed state.
    Mutation(f"{SERVER}/pull.ts", "const settled = !this.#tracker.inTransaction && !moved;", "const settled = true;", f"{E2E}/test_consistency.py"),
    Mutation(f"{SERVER}/chunking.ts", "if (digest === range.digest) {", "if (digest !== \"\") {", f"{E2E}/test_tables.py {E2E}/test_values.py"),
    Mutation(f"{SERVER}/chunking.ts", "const upto = read.more ? read.last : range.upto;", "const upto = range.upto;", f"{E2E}/test_consistency.py {E2E}/test_values.py"),
    Mutation(f"{SERVER}/entries.ts", "options.end = `${upto[0]}\\0`;", "options.end = `${upto[0]}`;", f"{E2E}/test_values.py"),
    Mutation(f"{SERVER}/tables.ts", "[upto, \"<=\"],", "[upto, \"<\"],", f"{E2E}/test_tables.py {E2E}/test_consistency.py"),
    # The server: values.
    Mutation(f"{SERVER}/values.ts", " && !Object.is(value, -0);", ";", f"{E2E}/test_values.py tests/conformance"),
    Mutation(f"{SERVER}/values.ts", "else if (seen.has(value)) return false;", "", f"{E2E}/test_values.py tests/conformance"),
    Mutation(f"{SERVER}/tables.ts", ">= x'' THEN json_array('blob', hex(${column})) ELSE", ">= x'' THEN json_array('text', hex(${column})) ELSE", f"{E2E}/test_tables.py"),
    Mutation(f"{SERVER}/entries.ts", "next !== undefined && (upto === null || compareKeys(next[0], String(upto[0])) <= 0)", "next !== undefined", f"{E2E}/test_objects.py"),
    Mutation(f"{SERVER}/entries.ts", "this.#complete = this.#listed.length < limit ? end : undefined;", "this.#complete = end;", f"{E2E}/test_values.py {E2E}/test_consistency.py"),
    Mutation(f"{SERVER}/frames.ts", "if (this.#chunks.length === 0) this.#after = after;", "this.#after = after;", f"{E2E}/test_values.py {E2E}/test_consistency.py"),
    Mutation(f"{SERVER}/blocks.ts", "=== 0xd800) to -= 1;", "=== 0xd800) to -= 0;", f"{E2E}/test_values.py"),
    Mutation(f"{SERVER}/blocks.ts", "bytes.fill(0, written, written + 16);", "", f"{E2E}/test_objects.py"),
    # The server: the directory, watchers, filters, authorization.
    Mutation(f"{SERVER}/directory.ts", "coalesce(?3, (SELECT name FROM objects WHERE id = ?1)))", "?3)", f"{E2E}/test_objects.py"),
    Mutation(f"{SERVER}/directory.ts", "const after = incarnation === this.#incarnation ? seq : 0;", "const after = seq;", f"{E2E}/test_objects.py {E2E}/test_watch.py"),
    Mutation(f"{SERVER}/directory.ts", "if (!this.#tickets.delete(query.get(\"ticket\") ?? \"\"))", "if (this.#tickets.delete(query.get(\"ticket\") ?? \"\"))", f"{E2E}/test_watch.py"),
    Mutation(f"{SERVER}/watchers.ts", "this.#send(socket, { ...watcher, sentAt: null }, false);", "", f"{E2E}/test_watch.py"),
    Mutation(f"{SERVER}/watchers.ts", "if (watcher.sentAt === null) this.#send", "if (watcher.seq >= 0) this.#send", f"{E2E}/test_watch.py"),
    Mutation(f"{SERVER}/filters.ts", "    !exclude.some((pattern) => pattern.test(text));", "    !exclude.some(() => false);", f"{E2E}/test_filters.py"),
    Mutation(f"{SERVER}/auth.ts", "return crypto.subtle.timingSafeEqual(given, expected) && match !== null;", "return given !== expected;", "tests/conformance tests/e2e/test_watch.py"),
    Mutation(f"{SERVER}/auth.ts", "token.length >= MIN_TOKEN_LENGTH ? token", "token.length >= 1 ? token", "tests/fault/test_faults.py"),
    # The client: applying.
    Mutation(f"{CLIENT}/mirror/apply.py", "if version != self._asked.version:", "if version == 0:", "tests/fault/test_faults.py"),
    Mutation(f"{CLIENT}/mirror/apply.py", "if not chunks or chunks[-1][0] is not None:", "if not chunks and name is None:", "tests/fault/test_faults.py"),
    Mutation(f"{CLIENT}/mirror/apply.py", "before == row and repr(before) == repr(row):", "before == row:", f"{E2E}/test_tables.py {E2E}/test_local.py"),
    Mutation(f"{CLIENT}/mirror/apply.py", "        if gone:\n            self._db.executemany(", "        if gone is None:\n            self._db.executemany(", f"{E2E}/test_values.py"),
    Mutation(f"{CLIENT}/mirror/apply.py", "raise ProtocolError(\"The Worker sent a range that begins where none ended.\")", "start = 0", "tests/fault/test_faults.py"),
    Mutation(f"{CLIENT}/mirror/__init__.py", "                        self._db.execute(\"ROLLBACK TO object\")\n", "", "tests/fault/test_faults.py"),
    Mutation(f"{CLIENT}/mirror/database.py", "connection.execute(\"BEGIN IMMEDIATE\")\n    try:", "connection.execute(\"BEGIN\")\n    try:", "tests/fault/test_faults.py"),
    Mutation(f"{CLIENT}/sync.py", "page.cursor, source.url, reset=page.reset)", "page.cursor, source.url)", f"{E2E}/test_objects.py"),
    Mutation(f"{CLIENT}/sync.py", "                reply.check_done()\n", "", "tests/fault/test_faults.py"),
    Mutation(f"{CLIENT}/sources/worker.py", "headers=headers, allow_redirects=False", "headers=headers, allow_redirects=True", "tests/fault/test_faults.py"),
    Mutation(f"{CLIENT}/mirror/tables.py", "self._loosen(table)\n\n    def _loosen", "pass\n\n    def _loosen", f"{E2E}/test_consistency.py"),
    Mutation(f"{SERVER}/news.ts", "waited = waited.filter((token) => underway.has(token));", "waited = [];", f"{E2E}/test_objects.py"),
    Mutation(f"{SERVER}/checksum.ts", "return ~crc >>> 0;", "return crc >>> 0;", "tests/conformance tests/fault/test_streams.py"),
    Mutation(f"{CLIENT}/reply.py", "if frame.crc32 != zlib.crc32(", "if frame.crc32 == 0 != zlib.crc32(", "tests/fault/test_streams.py"),
    Mutation(f"{CLIENT}/mirror/tables.py", "if version != self._schema_version:", "if self._schema_version is None:", "tests/fault/test_faults.py"),
    Mutation(f"{CLIENT}/mirror/__init__.py", "if known is not None:\n                return known", "if known is None and not name:\n                return None  # type: ignore", "tests/fault/test_faults.py"),
    Mutation(f"{CLIENT}/mirror/__init__.py", "if len(self._known(worker, list(keys))) < len(keys):", "if not keys:", f"{E2E}/test_cli.py {E2E}/test_objects.py"),
    Mutation(f"{CLIENT}/mirror/database.py", "connection.pragma(\"synchronous\", \"NORMAL\")", "connection.pragma(\"synchronous\", \"OFF\")", "tests/fault/test_disk.py"),
    Mutation(f"{CLIENT}/frames.py", "if plain and {*map(len, plain)} == {width}:", "if plain:", "tests/fault/test_faults.py"),
    Mutation(f"{CLIENT}/frames.py", "Annotated[list[TableDefinition], msgspec.Meta(max_length=MAX_TABLES)]", "list[TableDefinition]", "tests/fault/test_faults.py"),
    Mutation(f"{CLIENT}/sources/worker.py", "yield unpacker.decompress(data, UNPACKED_BYTES)", "yield unpacker.decompress(data)", "tests/fault/test_faults.py"),
    Mutation(f"{CLIENT}/cost.py", "self.rows_written += objects * ANNOUNCEMENT_ROWS", "self.rows_written += objects", f"{E2E}/test_cost.py"),
    # The client: changes, filters, watch.
    Mutation(f"{CLIENT}/mirror/changes.py", "AND x.change_id > c.change_id ORDER BY", "AND x.change_id < c.change_id ORDER BY", f"{E2E}/test_history.py"),
    Mutation(f"{CLIENT}/mirror/changes.py", "WHERE change_id <= ?\", (newest - keep.count,)", "WHERE change_id <= ?\", (0,)", f"{E2E}/test_history.py"),
    Mutation(f"{CLIENT}/mirror/apply.py", "if self._filters.keys:\n            rows = [", "if False:\n            rows = [", f"{E2E}/test_filters.py"),
    Mutation(f"{CLIENT}/mirror/__init__.py", "UPDATE _durafetch_state SET chunks = '' WHERE", "UPDATE _durafetch_state SET chunks = chunks WHERE", f"{E2E}/test_filters.py"),
    Mutation(f"{CLIENT}/watch.py", "self._last.get(key, 0.0) + self._pace.min_interval)", "0.0)", f"{E2E}/test_watch.py"),
    Mutation(f"{CLIENT}/watch.py", "            raise _ReadAnew\n", "            return\n", f"{E2E}/test_watch.py"),
    Mutation(f"{CLIENT}/watch.py", "if key in self._due:\n                    heapq", "if key == 0:\n                    heapq", f"{E2E}/test_watch.py::test_what_changes_during_a_pull_is_pulled_next"),
    # The client: local files and stored values.
    Mutation(f"{CLIENT}/sources/local/snapshot.py", "or attempted > self._last:", "or attempted < 0:", f"tests/unit/test_snapshot.py {E2E}/test_local.py"),
    Mutation(f"{CLIENT}/sources/local/snapshot.py", "header is None or header[10:12] != self._salts or", "header is None or", f"tests/unit/test_snapshot.py {E2E}/test_local.py"),
    Mutation(f"{CLIENT}/sources/local/snapshot.py", "dict(zip(numbers, places, strict=True))", "dict(zip(reversed(numbers), reversed(places), strict=True))", f"{E2E}/test_local.py"),
    Mutation(f"{CLIENT}/sources/local/chunks.py", "read.rest is None and read.digest == digest:", "read.rest is None:", f"{E2E}/test_local.py"),
    Mutation(f"{CLIENT}/sources/local/state.py", "if not belongs(path.name, match[1]):", "if False:", f"{E2E}/test_local.py"),
    Mutation(f"{CLIENT}/sync_local.py", "result.gone += self.mirror.forget(worker.name, gone)", "pass", f"{E2E}/test_local.py"),
    Mutation(f"{CLIENT}/v8.py", "while tag == 0:  # padding", "while tag == -2:  # padding", "tests/conformance"),
    Mutation(f"{CLIENT}/v8.py", "if index >= len(self.objects) or self.objects[index] is None:", "if self.objects[index] is None:", "tests/unit/test_v8.py"),
    Mutation(f"{CLIENT}/devalue.py", "    if count <= point <= 21:", "    if count <= point <= 20:", "tests/conformance"),
    Mutation(f"{CLIENT}/values.py", "if index in open_nodes or", "if", "tests/conformance tests/e2e/test_values.py"),
    Mutation(f"{CLIENT}/cli/output.py", "return _CONTROL.sub(lambda match: f\"\\\\x{ord(match[0]):02x}\", text)", "return text", "tests/unit/test_changes.py"),
]  # fmt: skip


def misplaced() -> list[str]:
    """Mutations whose place is gone, or is not the only one."""
    found = []
    for mutation in MUTATIONS:
        count = (ROOT / mutation.path).read_text(encoding="utf-8").count(mutation.old)
        if count != 1:
            found.append(f"{mutation.path}: {mutation.old!r} stands there {count} times")
    return found


def copied(folder: Path) -> Path:
    """A copy of what is under version control, with this checkout's tools."""
    copy = folder / "copy"
    copy.mkdir()
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    for tools in (".venv", "server/node_modules", "tests/wrangler3/node_modules"):
        (copy / tools).symlink_to(ROOT / tools)
    return copy


def interruptible() -> None:
    """What a shell starts in the background ignores Ctrl-C, and so would all that it starts; tests send it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def caught(copy: Path, mutation: Mutation) -> str | None:
    """The test that fails with a mutation; None where all pass."""
    path = copy / mutation.path
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
    process = subprocess.Popen(
        [ROOT / ".venv/bin/python", "-m", "pytest", "-x", "--timeout", "60", *mutation.tests.split()],
        cwd=copy, env={**os.environ, "PYTHONPATH": str(copy / "src")}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, start_new_session=True, preexec_fn=interruptible,
    )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return "(they did not end)"
    finally:
        # The runtimes that the tests started, too, where they were not ended.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        path.write_text(text, encoding="utf-8")
    if process.returncode == 0:
        return None
    lines = [line for line in said.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return lines[0].split(" - ")[0] if lines else f"(status {process.returncode})"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make mutate")
    parser.add_argument("--check", action="store_true", help="only look whether the places are there")
    parser.add_argument("--first", type=int, default=1, help="the number to begin with")
    parser.add_argument("--only", default="", help="only mutations whose file has this in its name")
    chosen = parser.parse_args()
    wrong = misplaced()
    for problem in wrong:
        print(problem, file=sys.stderr)
    if wrong or chosen.check:
        return int(bool(wrong))
    survived = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = copied(Path(folder))
        for number, mutation in enumerate(MUTATIONS, 1):
            if number < chosen.first or chosen.only not in mutation.path:
                continue
            started = time.monotonic()
            by = caught(copy, mutation)
            survived += by is None
            shown = " ".join(mutation.old.split())[:60]
            print(
                f"{number:>3}  {mutation.path}: {shown}\n     {by or 'SURVIVED'}  ({time.monotonic() - started:.0f} s)",
                flush=True,
            )
    print(f"{len(MUTATIONS)} mutations, {survived} survived")
    return int(survived > 0)


if __name__ == "__main__":
    sys.exit(main())

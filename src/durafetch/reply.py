"""The lines of one pull's reply, put together to objects, and applied: small ones together, a large one as it arrives."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from durafetch import errors
from durafetch.frames import DoneFrame, EndFrame, ErrorFrame, Frame, ObjectFrame, decode_frame
from durafetch.mirror import Applied, PendingObject, ReceivedObject, StaleError
from durafetch.mirror.apply import ObjectWriter
from durafetch.results import Failure

if TYPE_CHECKING:
    from durafetch.sync import SourceSync

LARGE_BYTES: Final = 8 * 1024 * 1024
"""An object with more than this is applied while it arrives, which keeps other replies from being applied; up to it, once
it is complete. Where there is no other reply, APPLY_BYTES are enough."""
APPLY_BYTES: Final = 1024 * 1024
"""While one part is applied so much more is read, and no more."""
APPLY_AT_BYTES: Final = 128 * 1024
"""Complete objects of this size are applied, if nothing else of this reply is being applied."""


def _decoded(lines: Sequence[bytes | Frame]) -> Iterator[Frame]:
    return (decode_frame(line) if isinstance(line, bytes) else line for line in lines)


@dataclass
class _Ready:
    """Objects that arrived whole and wait to be applied."""

    items: list[tuple[PendingObject, list[bytes | Frame]]] = field(default_factory=list)
    size: int = 0


class Reply:
    """The lines of one reply, put together to objects."""

    def __init__(
        self,
        owner: SourceSync,
        worker: str,
        left: dict[tuple[str, str], PendingObject],
        failures: dict[tuple[str, str], Failure],
    ) -> None:
        self.owner = owner
        self.worker = worker
        self.left = left
        self.failures = failures
        self.ready = _Ready()
        self.current: PendingObject | None = None
        self.lines: list[bytes | Frame] = []
        self.size = 0
        self.large: ObjectWriter | None = None
        self.feeding: asyncio.Task[None] | None = None
        self.applying: asyncio.Task[None] | None = None
        self.bytes = 0
        self.done = False
        self.checksum = 0
        self.storage = ""

    async def line(self, line: bytes) -> None:
        if self.done:
            raise errors.ProtocolError("The Worker went on after the end of its reply.")
        self.bytes += len(line)
        before, self.checksum = self.checksum, zlib.crc32(b"\n", zlib.crc32(line, self.checksum))
        if line.startswith(b'{"frame":"range"'):
            # The bulk of a reply: decoded by the mirror's thread.
            if self.current is None:
                raise errors.ProtocolError("The Worker sent a range that belongs to no object.")
            await self._keep(line, len(line))
            return
        try:
            frame = decode_frame(line)
        except errors.ProtocolError:
            # A line cut short by an object that failed while it was streamed; its error follows.
            if self.current is None:
                raise
            self.lines.append(line)
            return
        if isinstance(frame, ObjectFrame):
            if self.current is not None:
                raise errors.ProtocolError("The Worker began an object before the end of another.")
            self.current = self.left.get((frame.class_name, frame.id))
            if self.current is None:
                raise errors.ProtocolError(f"The Worker sent the object {frame.id}, which was not asked for.")
            self.checksum = zlib.crc32(b"\n", zlib.crc32(line))
            self.storage = frame.storage
            await self._keep(frame, len(line))
        elif isinstance(frame, ErrorFrame):
            await self._error(frame)
        elif isinstance(frame, DoneFrame):
            self.done = True
        elif self.current is None:
            raise errors.ProtocolError("The Worker sent a frame that belongs to no object.")
        else:
            await self._keep(frame, len(line))
            if isinstance(frame, EndFrame):
                if frame.crc32 != zlib.crc32(line.rpartition(b',"crc32":')[0], before):
                    raise errors.UnreachableError(f"What {self.owner.source.url} sent was damaged on its way.")
                self.owner.source.cost.read(self.storage, frame.rows_read)
                await self._object_done()

    async def _keep(self, line: bytes | Frame, size: int) -> None:
        self.lines.append(line)
        self.size += size
        alone = self.owner.writer.replies == 1
        enough = APPLY_BYTES if alone or self.large is not None else LARGE_BYTES
        if self.size < enough or self.current is None:
            return
        writer, mirror = self.owner.writer, self.owner.writer.mirror
        if self.large is None:
            await self.flush(force=True)
            await writer.lock.acquire()
            try:
                self.large = await writer.run(
                    mirror.begin, self.worker, self.current, full=self.owner.full, baseline=self.owner.baseline,
                    filters=self.owner.source.filters,
                )  # fmt: skip
            except BaseException:
                writer.lock.release()
                raise
        await self._feed()

    async def _feed(self) -> None:
        """Applies what came of a large object, while more of it is read: one part is applied, one arrives."""
        assert self.large is not None
        mirror, large, lines = self.owner.writer.mirror, self.large, self.lines
        self.lines, self.size = [], 0
        await self._fed()
        self.feeding = asyncio.create_task(self.owner.writer.run(lambda: mirror.feed(large, _decoded(lines))))

    async def _fed(self) -> None:
        feeding, self.feeding = self.feeding, None
        if feeding is not None:
            await feeding

    async def _object_done(self) -> None:
        assert self.current is not None
        item, self.current = self.current, None
        lines, self.lines = self.lines, []
        size, self.size = self.size, 0
        if self.large is None:
            self.ready.items.append((item, lines))
            self.ready.size += size
            return
        self.lines = lines
        try:
            await self._feed()
            await self._fed()
            large = self.large
            outcome: Applied | errors.DurafetchError | StaleError = await self.owner.writer.run(
                self.owner.writer.mirror.commit, large
            )
            self._release()
        except (errors.ProtocolError, StaleError) as error:
            outcome = error
            await self.abandon()
        self.lines, self.size = [], 0
        self._outcome(item, outcome)

    async def _error(self, frame: ErrorFrame) -> None:
        key = (frame.class_name, frame.id)
        item = self.left.get(key)
        if item is None or (self.current is not None and self.current is not item):
            raise errors.ProtocolError("The Worker sent an error for an object that was not asked for.")
        await self.abandon()
        self.current, self.lines, self.size = None, [], 0
        message = f"{frame.code}: {frame.message}"
        self.failures[key] = Failure(self.owner.source.label, *key, frame.code, message, frame.retry)

    async def flush(self, *, force: bool) -> None:
        """Begins to apply the objects that are complete, once there are enough of them; `force`: all, to the end."""
        while self.ready.items or (force and self.applying is not None):
            if self.applying is not None and not self.applying.done() and not (force or self.ready.size >= APPLY_BYTES):
                return
            await self._finished()
            if self.ready.items and (force or self.ready.size >= APPLY_AT_BYTES):
                self.applying = asyncio.create_task(self._apply())
            elif not force:
                return

    async def _finished(self) -> None:
        """Waits for the objects that are being applied."""
        applying, self.applying = self.applying, None
        if applying is not None:
            await applying

    async def _apply(self) -> None:
        items, self.ready = self.ready.items, _Ready()
        mirror, full, baseline = self.owner.writer.mirror, self.owner.full, self.owner.baseline
        filters = self.owner.source.filters

        def work() -> list[Applied | errors.DurafetchError | StaleError]:
            received = [ReceivedObject(item, _decoded(lines)) for item, lines in items]
            return mirror.apply(self.worker, received, full=full, baseline=baseline, filters=filters)

        outcomes = await self.owner.writer.locked(work)
        for (item, _), outcome in zip(items, outcomes, strict=True):
            self._outcome(item, outcome)
        self.owner.report()

    def _outcome(self, item: PendingObject, outcome: Applied | errors.DurafetchError | StaleError) -> None:
        key = (item.class_name, item.id)
        if isinstance(outcome, Applied):
            self.owner.applied(outcome)
            self.left.pop(key, None)
        elif isinstance(outcome, StaleError):
            message = "stale: another sync of this mirror was faster"
            self.failures[key] = Failure(self.owner.source.label, *key, "stale", message, retry=True)
        else:
            self.failures[key] = Failure(self.owner.source.label, *key, outcome.code, outcome.message)

    def check_done(self) -> None:
        """Raises UnreachableError where the reply ended before its end."""
        if not self.done:
            raise errors.UnreachableError(f"The reply of {self.owner.source.url} ended too early.")

    def _release(self) -> None:
        self.large = None
        self.owner.writer.lock.release()

    async def abandon(self) -> None:
        """Drops a large object that did not come to its end."""
        if self.large is not None:
            try:
                with suppress(errors.DurafetchError, StaleError):
                    await self._fed()
                await self.owner.writer.run(self.owner.writer.mirror.rollback)
            finally:
                self._release()

    async def close(self) -> None:
        """Waits for what is being applied, and drops what did not come to its end."""
        try:
            await self._finished()
        finally:
            await self.abandon()

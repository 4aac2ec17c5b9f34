"""The walk over one table in chunks whose digests the mirror holds: the twin of `server/src/chunking.ts`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Final

import msgspec

from durafetch.frames import Bound, InvalidText
from durafetch.limits import MAX_CHUNK_BYTES, MIN_CHUNK_BYTES

_BATCH_ROWS: Final = 32
"""Rows are digested this many at a time; the same rows in the same range make the same batches."""
_SPLIT_AT: Final = 2
"""A held range that grew is split once it has this many times the aim."""

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Chunk:
    """One chunk that was read; `rows` None: the mirror has the same."""

    after: Bound
    upto: Bound
    digest: str
    rows: list[Row] | None


@dataclass
class _Gathered:
    rows: list[Row]
    size: int
    digest: str
    rest: Iterator[Row] | None
    """What comes behind, where there is more."""


def _extension(value: Any) -> msgspec.msgpack.Ext:
    assert isinstance(value, InvalidText)
    return msgspec.msgpack.Ext(1, bytes(value))


_pack: Final = msgspec.msgpack.Encoder(enc_hook=_extension).encode


class Walker:
    """Walks tables along the chunks that the mirror holds of them, with digests that begin with a seed."""

    def __init__(self, seed: bytes) -> None:
        """`seed`: up to 64 bytes."""
        self._seed = seed

    def walk(
        self,
        between: Callable[[Bound, Bound], Iterator[Row]],
        bound: Callable[[Row], Bound],
        held: Sequence[Sequence[Any]],
        salt: bytes,
    ) -> Iterator[Chunk]:
        """The chunks of one table, from −∞ to +∞: those that grew are split, those that became empty joined.

        `between` gives the rows with after < key <= upto, `bound` a row's key; `held` has (upto, digest) pairs; `salt`
        is what the digests depend on besides the rows.
        """
        ranges: list[tuple[Bound, Bound, str | None]] = []
        last: Bound = None
        for upto, digest in held:
            ranges.append((last, upto, digest))
            last = upto
        if not ranges or last is not None:
            ranges.append((last, None, None))
        done = 0
        for index, (after, upto, digest) in enumerate(ranges):
            if digest is not None:
                read = self._gather(between(after, upto), _SPLIT_AT * MAX_CHUNK_BYTES, salt)
                if read.rest is None and read.digest == digest:
                    done += read.size
                    yield Chunk(after, upto, digest, None)
                    continue
                if read.rest is None and read.size <= _SPLIT_AT * _target(done):
                    done += read.size
                    if read.rows or index + 1 == len(ranges):
                        yield Chunk(after, upto, read.digest, read.rows)
                    else:
                        ranges[index + 1] = (after, ranges[index + 1][1], None)
                    continue
            rest: Iterator[Row] | None = between(after, upto)
            while rest is not None:
                read = self._gather(rest, _target(done), salt)
                done += read.size
                rest = read.rest
                end = upto if rest is None else bound(read.rows[-1])
                yield Chunk(after, end, read.digest, read.rows)
                after = end

    def _gather(self, rows: Iterator[Row], size: int, salt: bytes) -> _Gathered:
        """Reads about so many bytes of rows."""
        hashed = hashlib.blake2b(salt, digest_size=16, key=self._seed)
        gathered: list[Row] = []
        total = 0
        while total < size:
            batch = list(islice(rows, _BATCH_ROWS))
            if not batch:
                return _Gathered(gathered, total, hashed.hexdigest(), None)
            packed = _pack(batch)
            hashed.update(packed)
            total += len(packed)
            gathered += batch
        more = next(rows, None)
        return _Gathered(gathered, total, hashed.hexdigest(), None if more is None else chain([more], rows))


def _target(done: int) -> int:
    """The size to aim for in the next chunk of a table of which so many bytes were read: small at first."""
    return min(MAX_CHUNK_BYTES, max(MIN_CHUNK_BYTES, done // 32))

"""What a sync did, and how far it has come."""

from __future__ import annotations

from dataclasses import dataclass, field

from durafetch import errors
from durafetch.cost import Cost


@dataclass(frozen=True)
class Failure:
    """An object that could not be mirrored; `retry`: asking again soon may help."""

    source: str
    class_name: str
    id: str
    code: str
    message: str
    retry: bool = False


@dataclass
class SourceResult:
    """What a sync did for one Worker; `error` is set where it could not be done at all."""

    source: str
    worker: str | None = None
    known: int = 0
    visited: int = 0
    changed: int = 0
    failed: int = 0
    upserted: int = 0
    deleted: int = 0
    gone: int = 0
    """Objects that are no more, and were taken out of the mirror."""
    requests: int = 0
    bytes: int = 0
    cost: Cost = field(default_factory=Cost)
    seconds: float = 0.0
    error: errors.DurafetchError | None = None
    failures: list[Failure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What was left aside, and why."""


@dataclass
class SyncResult:
    """What a sync did. `seconds` is the whole's, not the sum."""

    sources: list[SourceResult]
    seconds: float

    @property
    def cost(self) -> Cost:
        """What it cost, over all sources."""
        return sum((source.cost for source in self.sources), Cost())

    def total(self, name: str) -> int:
        """The sum of one of the counts over all sources."""
        return sum(getattr(source, name) for source in self.sources)

    def error(self) -> errors.DurafetchError | None:
        """What to end with: None where all is well; a Worker's own error where there is only one Worker."""
        failed = [source for source in self.sources if source.error is not None]
        if failed and len(self.sources) == 1:
            return failed[0].error
        if failed and len(failed) == len(self.sources):
            first = failed[0].error
            if len({type(source.error) for source in failed}) == 1:
                return first
            return errors.DurafetchError("None of the Workers could be synced.", "Each has its own error above.")
        objects = self.total("failed")
        if not failed and not objects:
            return None
        parts = []
        if failed:
            parts.append(f"{len(failed)} of {len(self.sources)} Workers could not be synced")
        if objects:
            parts.append(f"{objects} {'object' if objects == 1 else 'objects'} failed")
        return errors.PartlyDoneError(f"{' and '.join(parts)}; the rest is mirrored.")


@dataclass(frozen=True)
class Progress:
    """How far one Worker's sync has come: `visited` of `pending` objects."""

    source: str
    pending: int
    visited: int
    changed: int
    failed: int

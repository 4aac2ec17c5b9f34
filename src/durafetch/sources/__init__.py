"""Where objects come from. Each source utters the same frames."""

from durafetch.sources.worker import ChangesPage, WorkerSource

__all__ = ["ChangesPage", "WorkerSource"]

"""A loopback proxy for whole connections, which can be cut at any byte."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from urllib.parse import urlsplit


class TcpProxy:
    """Passes bytes on to a server. A context manager."""

    def __init__(self, target: str, *, every_connection: bool = False) -> None:
        """`target`: the server's address, http://host:port. `every_connection`: `budget` is not for upgraded ones alone."""
        self._every_connection = every_connection
        parts = urlsplit(target)
        self._target = (parts.hostname or "", parts.port or 0)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        self.budget: int | None = None
        """Bytes from the server that still pass on upgraded connections; then they are cut. None: no bound."""
        self.on_cut: Callable[[], None] | None = None
        """Called once `budget` is used up."""
        self.seen: bytes | None = None
        """What came from the server, where it is b"" at first."""
        self.refusing = False
        self.stalled = False
        """Nothing is passed on, and nothing closed, as when a machine in between is gone."""
        self.held: bytes | None = None
        """Replies to requests that have this in them are not passed on, until it is None."""
        self.holding = threading.Event()
        """A reply is being held."""
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> TcpProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Breaks all connections."""
        with self._lock:
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            if self.refusing:
                client.close()
                continue
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            with self._lock:
                self._open |= {client, server}
            asked = threading.Event()
            for source, sink, back in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._pump, args=(source, sink, back, asked), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, back: bool, asked: threading.Event) -> None:
        upgraded = self._every_connection and back
        try:
            while data := source.recv(65536):
                while self.stalled:
                    time.sleep(0.02)
                if not back and self.held is not None and self.held in data:
                    asked.set()
                while back and self.held is not None and asked.is_set():
                    self.holding.set()
                    time.sleep(0.002)
                upgraded = upgraded or (back and data.startswith(b"HTTP/1.1 101"))
                if upgraded and self.budget is not None:
                    data = data[: self.budget]
                    self.budget -= len(data)
                if back and self.seen is not None:
                    self.seen += data
                sink.sendall(data)
                if upgraded and self.budget == 0:
                    if self.on_cut is not None:
                        self.on_cut()
                    break
        except OSError:
            pass
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            with self._lock:
                self._open.discard(one)

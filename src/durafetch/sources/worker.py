"""A Worker with durafetch-server, over HTTP."""

from __future__ import annotations

import asyncio
import ipaddress
import time
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode, urlsplit, urlunsplit

import aiohttp
import msgspec

from durafetch import errors
from durafetch.cost import Cost
from durafetch.filters import ALL, Filters
from durafetch.frames import LineSplitter
from durafetch.limits import MAX_CHANGES_PAGE, PROTOCOL_VERSION
from durafetch.mirror import ListedObject, PendingObject

CONNECT_TIMEOUT_S: Final = 15.0
READ_TIMEOUT_S: Final = 60.0
"""A Worker that says nothing for this long counts as gone; one object may take OBJECT_TIMEOUT_MS to answer."""
PING_INTERVAL_S: Final = 20.0
PONG_TIMEOUT_S: Final = 10.0
MAX_JSON_BYTES: Final = 64 * 1024 * 1024
MAX_REFUSAL_BYTES: Final = 64 * 1024
UNPACKED_BYTES: Final = 1024 * 1024
"""What a compressed reply is unpacked to at a time."""
PREFIX: Final = "/__durafetch/v1/"


class _Listed(msgspec.Struct, rename={"class_name": "class"}):
    class_name: str
    id: str
    name: str | None = None


class _WorkerIdentity(msgspec.Struct):
    id: str | None
    name: str | None


class ChangesPage(msgspec.Struct):
    """One page of what changed since a cursor."""

    protocol: int
    worker: _WorkerIdentity
    cursor: str
    more: bool
    reset: bool
    objects: list[_Listed]

    def listed(self) -> list[ListedObject]:
        """The objects, as the mirror takes them."""
        return [ListedObject(o.class_name, o.id, o.name) for o in self.objects]


class WatchPage(msgspec.Struct):
    """One message of a watched shard."""

    shard: int
    shards: int
    cursor: str
    reset: bool
    objects: list[_Listed]

    def listed(self) -> list[ListedObject]:
        """The objects, as the mirror takes them."""
        return [ListedObject(o.class_name, o.id, o.name) for o in self.objects]


class ClassInfo(msgspec.Struct):
    """A Durable Object class that a Worker exports; `wrapped` None: not known yet."""

    name: str
    wrapped: bool | None


class WorkerInfo(msgspec.Struct):
    """What a Worker says of itself."""

    protocol: int
    worker: _WorkerIdentity
    directory: dict[str, Any] | None
    classes: list[ClassInfo]


@dataclass
class Traffic:
    """What went over the network."""

    requests: int = 0
    bytes: int = 0


class WorkerSource:
    """A Worker at an address, with its token. An async context manager: within it, requests can be made."""

    def __init__(
        self,
        url: str,
        *,
        token: str,
        name: str | None = None,
        label: str | None = None,
        filters: Filters = ALL,
        compression: bool | None = None,
    ) -> None:
        """Raises UsageError and InsecureUrlError for an address that cannot be used.

        `name`: what the mirror calls the Worker, whatever it calls itself. `label`: how messages call this source, and
        what the mirror calls a Worker that has no name at all; default: its address. `filters`: what of it is mirrored.
        `compression`: whether replies are to be compressed; default: where they cross a network.
        """
        self.filters = filters
        self.url = normalized_url(url)
        self.name = name
        self.label = label or self.url
        self.default_name = label or urlsplit(self.url).netloc
        self.traffic = Traffic()
        self.cost = Cost()
        self._token = token
        self._compression = not is_loopback(urlsplit(self.url).hostname or "") if compression is None else compression
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"WorkerSource({self.url!r})"

    async def __aenter__(self) -> WorkerSource:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S)
        self._session = aiohttp.ClientSession(
            timeout=timeout,
            headers={
                "Authorization": f"Bearer {self._token}",
                "User-Agent": "durafetch",
                "Accept-Encoding": "gzip" if self._compression else "identity",
            },
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            connector=aiohttp.TCPConnector(limit=16),
            read_bufsize=512 * 1024,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def info(self) -> WorkerInfo:
        """What the Worker says of itself. Raises as `changes` does."""
        async with self._request("GET", "info") as response:
            info: WorkerInfo = await self._json(response, WorkerInfo)
            return info

    async def changes(self, after: str, *, limit: int = MAX_CHANGES_PAGE) -> ChangesPage:
        """The objects that started or became dirty since a cursor ("" for all).

        Raises UnreachableError, NotAuthorizedError, NotDurafetchError, NoDirectoryError, ProtocolError, ServerError.
        """
        query = urlencode({"limit": limit, "after": after})
        async with self._request("GET", f"changes?{query}") as response:
            page: ChangesPage = await self._json(response, ChangesPage)
        self.cost.listed(len(page.objects), page.cursor.count(",") + 1, news=after != "")
        if page.more and page.cursor == after:
            raise errors.ProtocolError(f"{self.url} lists changes without getting on.")
        return page

    @asynccontextmanager
    async def watch(self, after: str, shard: int) -> AsyncIterator[WatchedShard]:
        """Opens the socket on which a shard of the directory tells what changes. Raises as `changes` does."""
        assert self._session is not None, "use it as an async context manager"
        self.traffic.requests += 1
        self.cost.worker_requests += 1
        query = urlencode({"after": after, "shard": shard})
        try:
            socket = await self._session.ws_connect(
                f"{self.url}{PREFIX}watch?{query}", max_msg_size=MAX_JSON_BYTES, autoclose=True
            )
        except aiohttp.WSServerHandshakeError as error:
            raise await self._handshake_refused(error.status) from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise errors.UnreachableError(f"{self.url} cannot be reached: {_reason(error)}.") from None
        try:
            yield WatchedShard(self, socket)
        finally:
            await socket.close()

    async def _handshake_refused(self, status: int) -> errors.DurafetchError:
        """Why a socket was refused: asked again without one, the Worker says it in words."""
        if status == 404:
            try:
                await self.info()
            except errors.DurafetchError as error:
                return error
            return errors.ProtocolError(f"{self.url} has no watch.", "Update durafetch-server in the Worker.")
        if status in (401, 403):
            return errors.NotAuthorizedError(f"{self.url} does not accept the token.")
        if 300 <= status < 400:
            return errors.RedirectedError(f"{self.url} redirects, which is not followed.")
        return errors.UnreachableError(f"{self.url} answered watch with the status {status}.")

    async def discover(self, class_name: str, *, names: Sequence[str] = (), ids: Sequence[str] = ()) -> Discovered:
        """Tells the Worker of objects that have not started since Durafetch was added. Raises as `changes` does."""
        body = msgspec.json.encode({"class": class_name, "names": names, "ids": ids})
        async with self._request("POST", "discover", body) as response:
            data = await self._whole(response)
        try:
            return msgspec.json.decode(data, type=Discovered)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise errors.ProtocolError(f"{self.url} sent a reply that cannot be read: {error}.") from None

    @asynccontextmanager
    async def pull(self, objects: Sequence[PendingObject], seed: str) -> AsyncIterator[AsyncIterator[list[bytes]]]:
        """Asks for objects; gives an iterator over the reply's lines, as they arrive in groups.

        An object without `version` is asked for whole. Raises as `changes` does; the iterator raises
        UnreachableError where the connection breaks, and ProtocolError for a line that is too long.
        """
        body = pull_body(objects, seed, self.filters)
        started = time.monotonic()
        try:
            async with self._request("POST", "pull", body) as response:
                yield self._lines(response)
        finally:
            self.cost.asked(len(objects), time.monotonic() - started)

    async def _lines(self, response: aiohttp.ClientResponse) -> AsyncIterator[list[bytes]]:
        splitter = LineSplitter()
        try:
            async for data in self._data(response):
                lines = list(splitter.feed(data))
                if lines:
                    yield lines
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise errors.UnreachableError(f"The connection to {self.url} broke off: {_reason(error)}.") from None
        if splitter.pending:
            raise errors.UnreachableError(f"The connection to {self.url} broke off in the middle of a line.")

    async def _data(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        """A reply's bytes as they arrive, unpacked in pieces of a bounded size, whatever they unpack to."""
        unpacker = None if response.headers.get("Content-Encoding") is None else zlib.decompressobj(zlib.MAX_WBITS | 16)
        async for data in response.content.iter_any():
            self.traffic.bytes += len(data)
            if unpacker is None:
                yield data
                continue
            try:
                while data:
                    yield unpacker.decompress(data, UNPACKED_BYTES)
                    data = unpacker.unconsumed_tail
            except zlib.error:
                raise errors.UnreachableError(f"What {self.url} sent was damaged on its way.") from None
        if unpacker is not None and not unpacker.eof:
            raise errors.UnreachableError(f"The reply of {self.url} ended too early.")

    @asynccontextmanager
    async def _request(
        self, method: str, call: str, body: bytes | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        assert self._session is not None, "use it as an async context manager"
        self.traffic.requests += 1
        self.cost.worker_requests += 1
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            response = await self._session.request(
                method, self.url + PREFIX + call, data=body, headers=headers, allow_redirects=False
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise errors.UnreachableError(f"{self.url} cannot be reached: {_reason(error)}.") from None
        try:
            if response.status != 200:
                raise await self._refusal(response)
            yield response
        finally:
            response.release() if response.content.at_eof() else response.close()

    async def _refusal(self, response: aiohttp.ClientResponse) -> errors.DurafetchError:
        status = response.status
        if 300 <= status < 400:
            target = urlsplit(response.headers.get("Location", ""))
            shown = urlunsplit((target.scheme, target.netloc, "", "", "")) or "another path"
            return errors.RedirectedError(
                f"{self.url} redirects to {shown}; that is not followed, since the token is for this address alone.",
                f"If you trust it, use that address: {shown}",
            )
        try:
            answer = msgspec.json.decode(await self._whole(response, MAX_REFUSAL_BYTES))
            code, message = str(answer["error"]["code"]), str(answer["error"]["message"])
        except (msgspec.DecodeError, KeyError, TypeError, errors.DurafetchError):
            code, message = "", ""
        if code == "unauthorized" or (status in (401, 403) and code != "insecure"):
            return errors.NotAuthorizedError(f"{self.url} does not accept the token.")
        if code == "no_directory":
            return errors.NoDirectoryError(f"The Worker at {self.url} has no directory: {message}")
        if status == 404:
            return errors.NotDurafetchError(f"{self.url} has no Durafetch routes, or they are switched off (404).")
        if code:
            return errors.ServerError(f"{self.url} answered {code}: {message}")
        if status >= 500:
            return errors.UnreachableError(f"{self.url} answered with the status {status}.")
        return errors.NotDurafetchError(
            f"{self.url} answered with the status {status}, as durafetch-server never does."
        )

    async def _whole(self, response: aiohttp.ClientResponse, limit: int = MAX_JSON_BYTES) -> bytes:
        """A reply's bytes up to a limit."""
        data = bytearray()
        try:
            async for part in self._data(response):
                data += part[: limit - len(data)]
                if len(data) == limit:
                    break
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise errors.UnreachableError(f"The connection to {self.url} broke off: {_reason(error)}.") from None
        return bytes(data)

    async def _json(self, response: aiohttp.ClientResponse, kind: type[Any]) -> Any:
        data = await self._whole(response)
        try:
            raw = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
            protocol = msgspec.json.decode(raw["protocol"], type=int)
        except (msgspec.DecodeError, KeyError, RecursionError, UnicodeDecodeError):
            raise errors.NotDurafetchError(f"What answers at {self.url} is not durafetch-server.") from None
        if protocol != PROTOCOL_VERSION:
            older = "durafetch (pip install --upgrade durafetch)" if protocol > PROTOCOL_VERSION else "durafetch-server"
            raise errors.ProtocolError(
                f"{self.url} speaks version {protocol} of the protocol; this release speaks {PROTOCOL_VERSION}.",
                f"Update {older}.",
            )
        try:
            return msgspec.json.decode(data, type=kind)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise errors.ProtocolError(f"{self.url} sent a reply that cannot be read: {error}.") from None


class Discovered(msgspec.Struct):
    """What `discover` did: how many objects are new, and the ids that are none of the class."""

    added: int
    refused: list[str]


class WatchedShard:
    """The open socket of one shard."""

    def __init__(self, source: WorkerSource, socket: aiohttp.ClientWebSocketResponse) -> None:
        """`WorkerSource.watch` makes it."""
        self._source = source
        self._socket = socket

    async def next(self) -> WatchPage:
        """The next page; the one before has to be acknowledged. Raises UnreachableError, ProtocolError.

        While there is none the connection is tried by a ping, which the runtime answers without waking the directory.
        """
        pinged = False
        while True:
            try:
                message = await self._socket.receive(timeout=PONG_TIMEOUT_S if pinged else PING_INTERVAL_S)
            except TimeoutError:
                if pinged:
                    raise errors.UnreachableError(f"{self._source.url} does not answer any more.") from None
                pinged = True
                await self._send("ping")
                continue
            if message.type is not aiohttp.WSMsgType.TEXT:
                reason = f": {message.extra}" if message.type is aiohttp.WSMsgType.CLOSE and message.extra else ""
                raise errors.UnreachableError(f"The connection to {self._source.url} broke off{reason}.")
            self._source.traffic.bytes += len(message.data)
            if message.data == "pong":
                pinged = False
                continue
            try:
                page = msgspec.json.decode(message.data, type=WatchPage)
                self._source.cost.listed(len(page.objects), 1, news=True)
                return page
            except (msgspec.DecodeError, RecursionError) as error:
                raise errors.ProtocolError(f"{self._source.url} sent what cannot be read: {error}.") from None

    async def acknowledge(self, page: WatchPage) -> None:
        """Says that a page is safe; only then the next one is sent."""
        await self._send(page.cursor)

    async def _send(self, text: str) -> None:
        try:
            await self._socket.send_str(text)
        except (aiohttp.ClientError, ConnectionError, OSError) as error:
            raise errors.UnreachableError(
                f"The connection to {self._source.url} broke off: {_reason(error)}."
            ) from None


def pull_body(objects: Sequence[PendingObject], seed: str, filters: Filters = ALL) -> bytes:
    """The body of a pull request. The stored chunks are JSON text and go in as they are."""
    parts = []
    for item in objects:
        head = msgspec.json.encode({"class": item.class_name, "id": item.id}).decode()[:-1]
        if item.version is not None and item.chunks:
            head += f',"version":{msgspec.json.encode(item.version).decode()},"chunks":{item.chunks}'
        parts.append(head + "}")
    wire = filters.wire()
    chosen = "" if wire is None else f'"filter":{msgspec.json.encode(wire).decode()},'
    return f'{{"seed":"{seed}",{chosen}"objects":[{",".join(parts)}]}}'.encode()


def normalized_url(url: str) -> str:
    """A Worker's address without a trailing slash. Raises UsageError, and InsecureUrlError for http off loopback."""
    parts = urlsplit(url if "://" in url else f"//{url}")
    try:
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if parts.scheme not in ("http", "https") or not host:
        raise errors.UsageError(f"{url} is not a Worker's address.", "It looks like https://chat.example.workers.dev")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise errors.UsageError(
            "The address has a user, a password, a query or a fragment.",
            "Give the address alone; the token is apart.",
        )
    if parts.scheme == "http" and not is_loopback(host):
        raise errors.InsecureUrlError(f"http://{parts.netloc} would show the token to the network.")
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))


def is_loopback(host: str) -> bool:
    """Whether a host name means this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _reason(error: BaseException) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return "it did not answer in time"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its TLS certificate is not valid ({error.certificate_error})"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "there is no such host"
    if isinstance(error, aiohttp.ClientConnectorError):
        return (error.os_error.strerror or str(error.os_error)).lower()
    return str(error) or type(error).__name__

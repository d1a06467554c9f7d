"""One connection of the HTTP server: bytes in, requests to the application, bytes out.

One task lives as long as the connection does. It reads until the headers of a request are whole, runs the application,
which pulls the body and pushes the response through `receive` and `send`, and goes on with the next request. Requests that
a client sends ahead wait, parsed, in order; nothing more is read meanwhile, so what waits is bounded by one read.

Deadlines are plain numbers that the server looks at once per tick: setting one costs a request next to nothing. They are
for reading and for sending apart, because a streaming request does both at once.

It is one long file because reading, answering and cutting off are one state machine.
"""

from __future__ import annotations

import enum
import http
import logging
import math
import ssl
from collections import deque
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

import httptools
import trio

from aegis_backends.http.asgi import Disconnected, Headers, Message, Scope

if TYPE_CHECKING:
    from aegis_backends.http.server import HttpServer

__all__ = ["Connection", "Cut"]

_log = logging.getLogger("aegis.http")

_READ: Final = 1 << 16
_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in http.HTTPStatus
}
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_BODILESS: Final = frozenset({204, 304})
_END_OF_CHUNKS: Final = b"0\r\n\r\n"
_ASGI: Final = {"version": "3.0", "spec_version": "2.3"}


class Cut(enum.StrEnum):
    """Why a client was cut off, or a request of its refused."""

    CONNECTIONS = "too_many_connections"
    RATE = "too_many_requests"
    HEAD = "head_too_large"
    BODY = "body_too_large"
    MALFORMED = "malformed"
    UPGRADE = "upgrade"
    SLOW_HEAD = "slow_head"
    SLOW_BODY = "slow_body"
    SLOW_READER = "slow_reader"
    LEFT = "left_halfway"
    TLS = "tls"
    CRASH = "crash"


class _Refused(Exception):
    """What the client sends is not to be read any further; `status` is the answer, where one is still possible."""

    def __init__(self, status: int, cut: Cut) -> None:
        self.status = status
        self.cut = cut


class _Gone(Exception):
    """The client has closed its end, or the connection broke."""


class _Request:
    """One request and its response; its `receive` and `send` are what the application gets."""

    __slots__ = (
        "_bytes_left",
        "_chunked",
        "_connection",
        "_continues",
        "_head",
        "_is_head",
        "_read_all",
        "answered",
        "body",
        "complete",
        "declared",
        "head_size",
        "headers",
        "keep_alive",
        "left",
        "method",
        "size",
        "started",
        "streaming",
        "url",
        "version",
    )

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.url = b""
        self.headers: Headers = []
        self.method = ""
        self.version = ""
        self.keep_alive = False
        self.body: list[bytes] = []
        self.head_size = 0
        self.declared = 0
        self.size = 0
        self.complete = False
        self.streaming = False
        self.started = False
        self.answered = False
        self.left = False
        self._continues = False
        self._read_all = False
        self._head: tuple[int, list[tuple[bytes, bytes]]] | None = None
        self._is_head = False
        self._chunked = False
        self._bytes_left = math.inf

    def prepare(self, method: str, version: str, *, keep_alive: bool) -> None:
        """Its headers are whole.

        Raises:
            _Refused: They are not acceptable.
        """
        self.method = method
        self.version = version
        self.keep_alive = keep_alive
        self._is_head = method == "HEAD"
        hosts = 0
        for name, value in self.headers:
            if name == b"content-length":
                self.declared = int(value)
            elif name == b"expect":
                self._continues = value.lower() == b"100-continue"
            elif name == b"host":
                hosts += 1
        if version == "1.1" and hosts != 1:
            raise _Refused(400, Cut.MALFORMED)

    def lift_limits(self) -> None:
        """Take the body as a stream: of any length, and for any time."""
        self.streaming = True
        self._connection.read_deadline = math.inf

    # -- what the application calls ----------------------------------------------------------------

    async def receive(self) -> Message:
        """The next part of the body; once it is whole, wait until the client is gone, or all is answered."""
        connection = self._connection
        try:
            self._check_size()
            if not self.complete and not self.body:
                if self._continues:
                    self._continues = False
                    await connection.write(_CONTINUE)
                connection.read_deadline = math.inf if self.streaming else connection.body_deadline
                while not self.body and not self.complete:
                    await connection.read()
                connection.read_deadline = math.inf
            if not self._read_all:
                part = self.body[0] if len(self.body) == 1 else b"".join(self.body)
                self.body.clear()
                self._read_all = self.complete
                self._check_size()
                return {"type": "http.request", "body": part, "more_body": not self.complete}
            while not self.answered:
                if connection.is_ahead:
                    await trio.sleep_forever()  # what the client sends ahead is not to be read any further
                await connection.read()
        except _Gone:
            if not self.complete:
                connection.server.cut[Cut.LEFT] += 1
            self.left = True
        except _Refused as refused:
            await connection.refuse(self, refused)
        return {"type": "http.disconnect"}

    def _check_size(self) -> None:
        if max(self.declared, self.size) > self._connection.most_body and not self.streaming:
            raise _Refused(413, Cut.BODY)

    async def send(self, message: Message) -> None:
        """Take a part of the response; it is on its way when this returns. What comes after the end is ignored."""
        if self.answered:
            await trio.lowlevel.checkpoint()
            return
        kind = message["type"]
        if kind == "http.response.start":
            self._head = (message.get("status", 500), list(message.get("headers", ())))
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        data = b""
        if not self.started:
            data = self._begin(body, more=more)
            self.started = True
        if not self._is_head:
            if self._chunked:
                if body:
                    data += b"%x\r\n%b\r\n" % (len(body), body)
                if not more:
                    data += _END_OF_CHUNKS
            else:
                if len(body) > self._bytes_left:
                    raise RuntimeError("the application sends more than it said")
                self._bytes_left -= len(body)
                data += body
        if not more:
            self.answered = True
            if self._bytes_left not in (0, math.inf) and not self._is_head:
                self.keep_alive = False
        try:
            await self._connection.write(data)
        except _Gone:
            self.answered = self.left = True

    def _begin(self, body: bytes, *, more: bool) -> bytes:
        """The status line and the headers of the response."""
        if self._head is None:
            raise RuntimeError("the application sends a body before it has begun its response")
        status, headers = self._head
        if self._connection.server.stopping:
            self.keep_alive = False
        framed = status in _BODILESS
        if framed:
            self._is_head = True
        lines = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status]
        for name, value in headers:
            if b"\n" in value or b"\r" in value or b"\n" in name:
                raise RuntimeError(f"a header of the response has a line break: {name!r}")
            lowered = name.lower()
            if lowered == b"content-length":
                framed = True
                self._bytes_left = int(value)
            elif lowered == b"connection" and value.lower() == b"close":
                self.keep_alive = False
                continue
            lines.append(b"%b: %b\r\n" % (name, value))
        lines.append(b"date: %b\r\n" % self._connection.server.date)
        if not framed:
            if not more:
                self._bytes_left = len(body)
                lines.append(b"content-length: %d\r\n" % len(body))
            elif self.version == "1.1":
                self._chunked = True
                lines.append(b"transfer-encoding: chunked\r\n")
            else:
                self.keep_alive = False
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        elif self.version == "1.0":
            lines.append(b"connection: keep-alive\r\n")
        lines.append(b"\r\n")
        return b"".join(lines)


class Connection:
    """Made, and run as a task, by the server.

    Args:
        server: Whose it is.
        stream: The connection.
        tls: How to speak TLS on it, or None.
    """

    def __init__(self, server: HttpServer, stream: trio.SocketStream, tls: ssl.SSLContext | None) -> None:
        self.server: Final = server
        self.read_deadline = math.inf
        self.body_deadline = math.inf
        self.is_idle = False
        self.most_body: Final = server.limits.body
        self._stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]
        self._stream = stream if tls is None else trio.SSLStream(stream, tls, server_side=True, https_compatible=True)
        self._client = _address(stream.socket.getpeername)
        self._local = _address(stream.socket.getsockname)
        self._scope = trio.CancelScope()
        self._write_deadline = math.inf
        self._cut: Cut | None = None
        self._reading = Cut.SLOW_HEAD
        self._parser = httptools.HttpRequestParser(self)
        self._incoming: _Request | None = None
        self._in_head = False
        self._head_read = 0
        self._ready: deque[_Request] = deque()
        self._refused: _Refused | None = None

    def __repr__(self) -> str:
        state = "idle" if self.is_idle else "busy"
        return f"<Connection of {self._client}: {state}, {len(self._ready)} requests waiting>"

    @property
    def is_ahead(self) -> bool:
        """Whether there is more from the client than the request that is being served."""
        return bool(self._ready) or self._refused is not None

    # -- what the server calls ---------------------------------------------------------------------

    async def run(self) -> None:
        """Serve requests until either side has had enough."""
        with self._scope:
            try:
                if isinstance(self._stream, trio.SSLStream):
                    await self._shake_hands(self._stream)
                while await self._serve_request():
                    pass
                await self._close()
            except _Gone:
                pass
        if self._cut is not None:
            self.server.cut[self._cut] += 1

    def stop(self) -> None:
        """End now if nothing is under way, else after that."""
        if self.is_idle:
            self._scope.cancel()

    def check_time(self, now: float) -> None:
        """Cut the client off if it has run out of time."""
        if now >= self._write_deadline:
            self._cut = Cut.SLOW_READER
        elif now >= self.read_deadline:
            self._cut = None if self.is_idle else self._reading
        else:
            return
        self._scope.cancel()

    # -- one request -------------------------------------------------------------------------------

    async def _shake_hands(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        self.read_deadline = self._until(self.server.limits.head_time)
        self._reading = Cut.TLS
        try:
            await stream.do_handshake()
        except (trio.BrokenResourceError, ssl.SSLError) as exc:
            self.server.cut[Cut.TLS] += 1
            _log.debug("no TLS with %s: %s", self._client, exc)
            raise _Gone from exc

    async def _serve_request(self) -> bool:
        """Serve the next request; False when there will be none."""
        if not self._ready and not await self._wait_request():
            return False
        request = self._ready.popleft()
        server = self.server
        server.requests += 1
        self._reading = Cut.SLOW_BODY
        self.read_deadline = math.inf
        self.body_deadline = self._until(server.limits.body_time)
        if not server.take_turn(self._client[0]):
            server.cut[Cut.RATE] += 1
            await self._answer(request, 429, [(b"retry-after", b"1")])
        else:
            try:
                await server.app(self._describe(request), request.receive, request.send)
            except _Refused as refused:
                await self.refuse(request, refused)
            except Disconnected:
                request.left = True
            except Exception:  # noqa: BLE001 - the application's mistake ends its request, and nothing else
                server.cut[Cut.CRASH] += 1
                _log.exception("the application failed on %s %r", request.method, request.url)
                if not request.started:
                    await self._answer(request, 500)
                request.keep_alive = False
        if not request.answered:
            if not request.started and not request.left:
                _log.error("the application did not answer %s %r", request.method, request.url)
                await self._answer(request, 500)
            return False
        if not request.complete and request.keep_alive:
            await self._drain(request)
        return request.keep_alive and not request.left

    async def _wait_request(self) -> bool:
        """Read until the headers of a request are whole."""
        self._reading = Cut.SLOW_HEAD
        if self._incoming is None:
            self.is_idle = True
            self.read_deadline = self._until(self.server.limits.idle_time)
            if self.server.stopping:
                return False
        else:
            self.read_deadline = self._until(self.server.limits.head_time)
        while not self._ready:
            try:
                await self.read()
            except _Refused as refused:
                self.server.cut[refused.cut] += 1
                request = self._incoming or _Request(self)
                request.version = request.version or "1.1"
                await self._answer(request, refused.status, close=True)
                return False
            except _Gone:
                if self._incoming is not None:
                    self.server.cut[Cut.LEFT] += 1
                return False
        self.is_idle = False
        return True

    async def _drain(self, request: _Request) -> None:
        """Read the rest of a body that the application did not want, if it is short; else the connection ends."""
        request.keep_alive = False
        if max(request.size, request.declared) <= _READ and not request.streaming:
            self.read_deadline = self.body_deadline
            try:
                while not request.complete and request.size <= _READ:
                    request.body.clear()
                    await self.read()
            except (_Gone, _Refused):
                return
            request.keep_alive = request.complete

    async def refuse(self, request: _Request, refused: _Refused) -> None:
        """Answer *request* that it is refused, if it is not too late for that, and end the connection afterwards."""
        self.server.cut[refused.cut] += 1
        if not request.started:
            await self._answer(request, refused.status, close=True)
        request.answered = True
        request.keep_alive = False

    async def _answer(
        self, request: _Request, status: int, headers: Headers | None = None, *, close: bool = False
    ) -> None:
        request.keep_alive = request.keep_alive and not close
        await request.send({"type": "http.response.start", "status": status, "headers": headers or []})
        await request.send({"type": "http.response.body", "body": b""})

    async def _close(self) -> None:
        """Say the end of the connection, so that what was sent last is not lost, and do not wait long for the other's."""
        self.read_deadline = self._until(1.0)
        self.is_idle = True
        try:
            if isinstance(self._stream, trio.SocketStream):
                await self._stream.send_eof()
                while await self._stream.receive_some(_READ):
                    pass
            else:
                await self._stream.aclose()
        except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError):
            pass

    def _describe(self, request: _Request) -> Scope:
        path, _, query = request.url.partition(b"?")
        raw = path
        if not path.startswith(b"/") and path != b"*":
            try:
                parsed = httptools.parse_url(request.url)
            except httptools.HttpParserInvalidURLError as exc:
                raise _Refused(400, Cut.MALFORMED) from exc
            raw, query = parsed.path or b"/", parsed.query or b""
        try:
            text = (unquote_to_bytes(raw) if b"%" in raw else raw).decode()
        except UnicodeDecodeError as exc:
            raise _Refused(400, Cut.MALFORMED) from exc
        return {
            "type": "http",
            "asgi": _ASGI,
            "http_version": request.version,
            "method": request.method,
            "scheme": self.server.scheme,
            "path": text,
            "raw_path": raw,
            "query_string": query,
            "root_path": "",
            "headers": request.headers,
            "client": self._client,
            "server": self._local,
            "state": {},
            "extensions": {"aegis.stream": request.lift_limits},
        }

    # -- bytes -------------------------------------------------------------------------------------

    async def read(self) -> None:
        """Read once, and let the parser tell what that was.

        Raises:
            _Gone: There is nothing more to come.
            _Refused: It is not to be read any further.
        """
        if self._refused is not None:
            raise self._refused
        try:
            data = await self._stream.receive_some(_READ)
        except (trio.BrokenResourceError, ssl.SSLError) as exc:
            raise _Gone from exc
        if not data:
            raise _Gone
        if self.is_idle:
            self.is_idle = False
            self.read_deadline = self._until(self.server.limits.head_time)
        if self._in_head:
            self._head_read += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            context = exc.__context__
            self._refused = context if isinstance(context, _Refused) else _Refused(400, Cut.MALFORMED)
        if self._in_head and self._head_read > self.server.limits.head:
            self._refused = self._refused or _Refused(431, Cut.HEAD)
        if self._refused is not None and not self._ready:
            raise self._refused

    async def write(self, data: bytes) -> None:
        """Send *data*.

        Raises:
            _Gone: Nobody will read it.
        """
        self._write_deadline = self._until(self.server.limits.send_time)
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError) as exc:
            raise _Gone from exc
        finally:
            self._write_deadline = math.inf

    def _until(self, seconds: float) -> float:
        # The server's time may be a tick old.
        return self.server.now + seconds + self.server.tick

    # -- what the parser calls ---------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request begins."""
        self._incoming = _Request(self)
        self._in_head = True
        self._head_read = 0

    def on_url(self, url: bytes) -> None:
        """A part of its target."""
        assert self._incoming is not None
        self._incoming.url += url
        self._grow(self._incoming, len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header of it, or one after its body, which is not wanted."""
        request = self._incoming
        assert request is not None
        self._grow(request, len(name) + len(value) + 4)
        if self._in_head:
            headers = request.headers
            headers.append((name.lower(), value))
            if len(headers) > self.server.limits.headers:
                raise _Refused(431, Cut.HEAD)

    def on_headers_complete(self) -> None:
        """It can be handed to the application."""
        request, parser = self._incoming, self._parser
        assert request is not None
        self._in_head = False
        if parser.should_upgrade():
            raise _Refused(501, Cut.UPGRADE)
        request.prepare(
            parser.get_method().decode(),
            parser.get_http_version(),
            keep_alive=parser.should_keep_alive(),
        )
        self._ready.append(request)

    def on_body(self, body: bytes) -> None:
        """A part of its body."""
        request = self._incoming
        assert request is not None
        request.size += len(body)
        request.body.append(body)

    def on_message_complete(self) -> None:
        """It is whole."""
        assert self._incoming is not None
        self._incoming.complete = True
        self._incoming = None

    def _grow(self, request: _Request, size: int) -> None:
        request.head_size += size
        if request.head_size > self.server.limits.head:
            raise _Refused(431, Cut.HEAD)


def _address(ask: object) -> tuple[str, int]:
    """Host and port of a socket's end; unknown when the other side has gone already, or speaks no IP."""
    assert callable(ask)
    try:
        address = ask()
    except OSError:
        return ("", 0)
    return (str(address[0]), int(address[1])) if isinstance(address, tuple) else ("", 0)

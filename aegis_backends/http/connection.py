"""One connection of the HTTP server: bytes in, requests to the application, bytes out.

One task lives as long as the connection does. It reads until the headers of a request are whole, runs the application,
which pulls the body and pushes the response through `receive` and `send`, and goes on with the next request. Requests that
a client sends ahead wait, parsed, in order; nothing more is read meanwhile, so what waits is bounded by one read.

Deadlines are plain numbers that the server looks at once per tick: setting one costs a request next to nothing. They are
for reading and for sending apart, because a streaming request does both at once.

What is read, what the parser tells and what is answered change one state, so all of it stands in one file.
"""

from __future__ import annotations

import logging
import math
import ssl
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

import httptools
import trio

from aegis_backends.http import wire
from aegis_backends.http.asgi import Disconnected, Headers, Scope, respond
from aegis_backends.http.exchange import Cut, Exchange, Gone, Refused
from aegis_backends.http.stream import watch_peer
from aegis_backends.tcp import TcpStream

if TYPE_CHECKING:
    from aegis_backends.http.server import HttpServer

__all__ = ["Connection"]

_log = logging.getLogger("aegis.http")

_READ: Final = 1 << 16
# What is sent in one step: copying it, or encrypting it, keeps everybody else waiting.
_PIECE: Final = 1 << 18
# How long a client has to close after the last answer to it, in seconds.
_LINGER: Final = 1.0
_ASGI: Final = {"version": "3.0", "spec_version": "2.3"}


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
        watch_peer(stream)
        self._client = _address(stream.socket.getpeername)
        self._local = _address(stream.socket.getsockname)
        self._stream: TcpStream | trio.SSLStream[trio.SocketStream]
        if tls is None:
            self._stream = TcpStream(stream)
        else:
            self._stream = trio.SSLStream(stream, tls, server_side=True, https_compatible=True)
        self._scope = trio.CancelScope()
        self._write_deadline = math.inf
        self._cut: Cut | None = None
        self._reading = Cut.SLOW_HEAD
        self._parser = httptools.HttpRequestParser(self)
        self._incoming: Exchange | None = None
        self._in_head = False
        self._head_read = 0
        self._ready: deque[Exchange] = deque()
        self._refused: Refused | None = None

    def __repr__(self) -> str:
        state = "idle" if self.is_idle else "busy"
        return f"<Connection of {self._client}: {state}, {len(self._ready)} requests waiting>"

    @property
    def address(self) -> str:
        """Where the client is; "" if that is not known any more."""
        return self._client[0]

    @property
    def stream_deadline(self) -> float:
        """When a client whose request is a stream must have given a sign of life."""
        return self._until(self.server.limits.stream_time)

    @property
    def is_ahead(self) -> bool:
        """Whether there is more from the client than the request that is being served."""
        return bool(self._ready) or self._refused is not None

    # -- what the server calls ---------------------------------------------------------------------

    async def run(self) -> None:
        """Serve requests until either side has had enough."""
        try:
            with self._scope:
                if isinstance(self._stream, trio.SSLStream):
                    await self._shake_hands(self._stream)
                while await self._serve_request():
                    pass
                await self._close()
        except Gone:
            pass
        finally:
            if self._cut is not None:
                self.server.count_cut(self._cut)
            await trio.aclose_forcefully(self._stream)  # noqa: ASYNC102 - forcefully is without waiting

    async def turn_away(self, answer: bytes, *, lingers: bool) -> None:
        """Instead of `run`: send *answer*, where no TLS comes before it, and close.

        Args:
            answer: A whole response.
            lingers: Drop what the client sends until it closes, for a second: of a connection that is closed with anything
                unread, clients often see that it broke, and not the answer.
        """
        try:
            with trio.move_on_after(min(self.server.limits.send_time, _LINGER)):
                if isinstance(self._stream, TcpStream):
                    await self._stream.send_all(answer)
                    if lingers:
                        await self._read_out(self._stream)
        except trio.BrokenResourceError:
            pass
        finally:
            await trio.aclose_forcefully(self._stream)  # noqa: ASYNC102 - forcefully is without waiting

    def stop(self) -> None:
        """End now if nothing is under way, else after that."""
        if self.is_idle:
            self.is_idle = False  # it makes room for one, and not for two
            self.read_deadline = math.inf
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
            self.server.count_cut(Cut.TLS)
            _log.debug("no TLS with %s: %s", self._client, exc)
            raise Gone from exc

    async def _serve_request(self) -> bool:
        """Serve the next request; False when there will be none."""
        if self._ready:
            await trio.lowlevel.checkpoint()  # nothing else need wait while a client sends ahead
        elif not await self._wait_request():
            return False
        request = self._ready.popleft()
        server = self.server
        server.requests += 1
        self._reading = Cut.SLOW_BODY
        self.read_deadline = math.inf
        self.body_deadline = self._until(server.limits.body_time)
        if not server.take_turn(self._client[0]):
            server.count_cut(Cut.RATE)
            await self._answer(request, 429, [(b"retry-after", b"1")])
        else:
            try:
                await server.app(self._describe(request), request.receive, request.send)
            except Refused as refused:
                await self.refuse(request, refused)
            except Disconnected:
                request.left = True
            except Exception:  # noqa: BLE001 - the application's mistake ends its request, and nothing else
                server.count_cut(Cut.CRASH)
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
            except Refused as refused:
                self.server.count_cut(refused.cut)
                request = self._incoming or Exchange(self)
                request.version = request.version or "1.1"
                await self._answer(request, refused.status, close=True)
                return False
            except Gone:
                if self._incoming is not None:
                    self.server.count_cut(Cut.LEFT)
                return False
        self.is_idle = False
        return True

    async def _drain(self, request: Exchange) -> None:
        """Read the rest of a body that the application did not want, if it is short; else the connection ends."""
        request.keep_alive = False
        if max(request.size, request.declared) <= _READ and not request.streaming:
            self.read_deadline = self.body_deadline
            try:
                while not request.complete and request.size <= _READ:
                    request.body.clear()
                    await self.read()
            except (Gone, Refused):
                return
            request.keep_alive = request.complete

    async def refuse(self, request: Exchange, refused: Refused) -> None:
        """Answer *request* that it is refused, if it is not too late for that, and end the connection afterwards."""
        self.server.count_cut(refused.cut)
        if not request.started:
            await self._answer(request, refused.status, close=True)
        request.answered = True
        request.keep_alive = False

    async def _answer(
        self, request: Exchange, status: int, headers: Headers | None = None, *, close: bool = False
    ) -> None:
        """Answer *request* in place of the application, with problem details."""
        request.keep_alive = request.keep_alive and not close
        body = self.server.refusals[status]
        with suppress(Disconnected):
            await respond(request.send, status, body, content_type=wire.PROBLEM, headers=headers)

    async def _close(self) -> None:
        """Say the end of the connection, so that what was sent last is not lost, and do not wait long for the other's."""
        self.read_deadline = self._until(_LINGER)
        self.is_idle = True
        try:
            if isinstance(self._stream, TcpStream):
                await self._read_out(self._stream)
            else:
                await self._stream.aclose()
        except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError):
            pass

    @staticmethod
    async def _read_out(stream: TcpStream) -> None:
        await stream.send_eof()
        while await stream.receive_some(_READ):
            pass

    def _describe(self, request: Exchange) -> Scope:
        path, _, query = request.url.partition(b"?")
        raw = path
        if not path.startswith(b"/") and path != b"*":
            try:
                parsed = httptools.parse_url(request.url)
            except httptools.HttpParserInvalidURLError as exc:
                raise Refused(400, Cut.MALFORMED) from exc
            raw, query = parsed.path or b"/", parsed.query or b""
        try:
            text = (unquote_to_bytes(raw) if b"%" in raw else raw).decode()
        except UnicodeDecodeError as exc:
            raise Refused(400, Cut.MALFORMED) from exc
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
            Gone: There is nothing more to come.
            Refused: It is not to be read any further.
        """
        if self._refused is not None:
            raise self._refused
        try:
            data = await self._stream.receive_some(_READ)
        except (trio.BrokenResourceError, ssl.SSLError) as exc:
            raise Gone from exc
        if not data:
            raise Gone
        if self.is_idle:
            self.is_idle = False
            self.read_deadline = self._until(self.server.limits.head_time)
        if self._in_head:
            self._head_read += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            context = exc.__context__
            self._refused = context if isinstance(context, Refused) else Refused(400, Cut.MALFORMED)
        if self._in_head and self._head_read > self.server.limits.head:
            self._refused = self._refused or Refused(431, Cut.HEAD)
        if self._refused is not None and not self._ready:
            raise self._refused

    async def write(self, data: bytes, *, stays: bool = False) -> None:
        """Send *data*. With *stays* nobody else gets a turn where it can be sent at once.

        Raises:
            Gone: Nobody will read it.
        """
        stream = self._stream
        if stays and isinstance(stream, TcpStream) and len(data) <= _PIECE:
            data = data[stream.send_nowait(data) :]
            if not data:
                return
        self._write_deadline = self._until(self.server.limits.send_time)
        try:
            if len(data) <= _PIECE:
                await stream.send_all(data)
            else:
                whole = memoryview(data)
                for at in range(0, len(data), _PIECE):
                    await stream.send_all(whole[at : at + _PIECE])
        except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError) as exc:
            raise Gone from exc
        finally:
            self._write_deadline = math.inf

    def _until(self, seconds: float) -> float:
        # The server's time may be a tick old.
        return self.server.now + seconds + self.server.tick

    # -- what the parser calls ---------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request begins."""
        self._incoming = Exchange(self)
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
                raise Refused(431, Cut.HEAD)

    def on_headers_complete(self) -> None:
        """It can be handed to the application."""
        request, parser = self._incoming, self._parser
        assert request is not None
        self._in_head = False
        if parser.should_upgrade():
            raise Refused(501, Cut.UPGRADE)
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

    def _grow(self, request: Exchange, size: int) -> None:
        request.head_size += size
        if request.head_size > self.server.limits.head:
            raise Refused(431, Cut.HEAD)


def _address(ask: object) -> tuple[str, int]:
    """Host and port of a socket's end; unknown when the other side has gone already, or speaks no IP."""
    assert callable(ask)
    try:
        address = ask()
    except OSError:
        return ("", 0)
    return (str(address[0]), int(address[1])) if isinstance(address, tuple) else ("", 0)

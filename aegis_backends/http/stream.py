"""One request over a connection of its own, whose body and response may both be endless.

httpx reads responses through generators that do not survive being cancelled and resumed; a stream of ours is read by a
plain method, which may be cancelled at any time without losing more than what was on its way.
"""

from __future__ import annotations

import socket
import ssl
from typing import Final
from urllib.parse import urlsplit

import httptools
import trio

__all__ = ["BROKEN", "HttpStream", "open_stream", "watch_peer"]

BROKEN: Final = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError, httptools.HttpParserError)
"""What a stream raises that cannot be made, or is of no use any more."""

_READ: Final = 1 << 16
# A peer whose machine vanished is noticed after some 20 seconds, where the system lets us say so.
_KEEPALIVE: Final = (
    ("SO_KEEPALIVE", 1),
    ("TCP_KEEPIDLE", 10),
    ("TCP_KEEPINTVL", 5),
    ("TCP_KEEPCNT", 2),
    ("TCP_USER_TIMEOUT", 20_000),
)


class HttpStream:
    """Made by `open_stream`; also what its HTTP parser calls.

    `status` is 0 until the response begins.
    """

    def __init__(self, stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]) -> None:
        self.status = 0
        self._stream = stream
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._over = False

    def __repr__(self) -> str:
        return f"<HttpStream with status {self.status}{', over' if self._over else ''}>"

    async def send(self, data: bytes) -> None:
        """Send *data*, one chunk of the request's body or its head.

        Raises:
            BROKEN: The connection is.
        """
        await self._stream.send_all(data)

    async def receive(self) -> bytes:
        """The next part of the response's body; nothing once that is over. Cancelled, nothing is lost.

        Raises:
            BROKEN: The connection is, or what comes is not HTTP.
        """
        while not self._parts:
            if self._over:
                return b""
            data = await self._stream.receive_some(_READ)
            if not data:
                self._over = True
                return b""
            self._parser.feed_data(data)
        part = b"".join(self._parts)
        self._parts.clear()
        return part

    async def aclose(self) -> None:
        """Drop the connection; not cancellable, and does not wait for the other side."""
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(self._stream)

    def on_headers_complete(self) -> None:
        """The response begins."""
        self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        """A part of its body."""
        self._parts.append(body)

    def on_message_complete(self) -> None:
        """It is whole."""
        self._over = True


async def open_stream(
    base: str, method: str, path: str, headers: dict[str, str], *, tls: ssl.SSLContext | None, timeout: float
) -> HttpStream:
    """Connect to the server at *base*, and send the head of a request.

    Args:
        base: Scheme, host and port.
        method: The request's.
        path: With its query.
        headers: Beside ``Host``.
        tls: For ``https``; None for the system's certificates.
        timeout: Seconds for all of it.

    Raises:
        BROKEN: There is no connection (an OSError also when there is none in time).
    """
    parts = urlsplit(base)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    lines = [f"{method} {path} HTTP/1.1", f"Host: {parts.netloc}", *(f"{k}: {v}" for k, v in headers.items()), "", ""]
    with trio.move_on_after(timeout):
        plain = await trio.open_tcp_stream(host, port)
        stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] = plain
        try:
            watch_peer(plain)
            if parts.scheme == "https":
                context = tls or ssl.create_default_context()
                stream = trio.SSLStream(plain, context, server_hostname=host, https_compatible=True)
                await stream.do_handshake()
            await stream.send_all("\r\n".join(lines).encode("latin-1"))
        except BaseException:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)
            raise
        return HttpStream(stream)
    raise TimeoutError(f"no connection within {timeout:g} s")


def watch_peer(stream: trio.SocketStream) -> None:
    """Let the system notice a peer that vanished; the connection breaks then."""
    for name, value in _KEEPALIVE:
        option = getattr(socket, name, None)
        if option is not None:
            level = socket.SOL_SOCKET if name.startswith("SO_") else socket.IPPROTO_TCP
            stream.setsockopt(level, option, value)

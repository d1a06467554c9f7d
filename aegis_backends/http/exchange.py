"""One request of a connection, and its response: what an application calls as ``receive`` and ``send``."""

from __future__ import annotations

import enum
import http
import math
from typing import TYPE_CHECKING, Final

import trio

from aegis_backends.http.asgi import Disconnected, Headers, Message

if TYPE_CHECKING:
    from aegis_backends.http.connection import Connection

__all__ = ["Cut", "Exchange", "Gone", "Refused"]

_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in http.HTTPStatus
}
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_BODILESS: Final = frozenset({204, 304})
_END_OF_CHUNKS: Final = b"0\r\n\r\n"
# A body that is longer is sent apart from what goes before it.
_COPIED: Final = 1 << 16


class Cut(enum.StrEnum):
    """Why a client was cut off, or a request of its refused."""

    CONNECTIONS = "too_many_connections"
    ADDRESS = "too_many_connections_of_one_address"
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


class Refused(Exception):
    """What the client sends is not to be read any further; `status` is the answer, where one is still possible."""

    def __init__(self, status: int, cut: Cut) -> None:
        self.status = status
        self.cut = cut


class Gone(Exception):
    """The client has closed its end, or the connection broke."""


class Exchange:
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
            Refused: They are not acceptable.
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
            raise Refused(400, Cut.MALFORMED)

    def lift_limits(self) -> None:
        """Take the body as a stream: of any length, for any time, as long as the client gives signs of life."""
        self.streaming = True

    # -- what the application calls ----------------------------------------------------------------

    async def receive(self) -> Message:
        """The next part of the body; once it is whole, wait until the client is gone, or all is answered."""
        connection = self._connection
        try:
            self._check_size()
            if not self.complete and not self.body:
                # Not into a response that has begun, which says as much, and may be written by another task just now.
                if self._continues and not self.started:
                    self._continues = False
                    await connection.write(_CONTINUE)
                connection.read_deadline = connection.stream_deadline if self.streaming else connection.body_deadline
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
        except Gone:
            if not self.complete:
                connection.server.count_cut(Cut.LEFT)
            self.left = True
        except Refused as refused:
            await connection.refuse(self, refused)
        return {"type": "http.disconnect"}

    def _check_size(self) -> None:
        if max(self.declared, self.size) > self._connection.most_body and not self.streaming:
            raise Refused(413, Cut.BODY)

    async def send(self, message: Message) -> None:
        """Take a part of the response; it is on its way when this returns. What comes after the end is ignored.

        Raises:
            Disconnected: The client is gone.
        """
        if self.left:
            raise Disconnected
        if self.answered:
            await trio.lowlevel.checkpoint()
            return
        kind = message["type"]
        if kind == "http.response.start":
            self._head = (message.get("status", 500), list(message.get("headers", ())))
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        parts = self._frame(body, more=more)
        if not more:
            self.answered = True
            if self._bytes_left not in (0, math.inf) and not self._is_head:
                self.keep_alive = False
        try:
            if len(body) > _COPIED:
                for part in parts:
                    await self._connection.write(part)
            else:
                await self._connection.write(b"".join(parts), stays=not more)
        except Gone as exc:
            self.left = True
            raise Disconnected from exc

    def _frame(self, body: bytes, *, more: bool) -> list[bytes]:
        """What is sent of the response, now that *body* is the next part of it."""
        parts: list[bytes] = []
        if not self.started:
            parts.append(self._begin(body, more=more))
            self.started = True
        if self._is_head:
            return parts
        if self._chunked:
            if body:
                parts += (b"%x\r\n" % len(body), body, b"\r\n")
            if not more:
                parts.append(_END_OF_CHUNKS)
        else:
            if len(body) > self._bytes_left:
                raise RuntimeError("the application sends more than it said")
            self._bytes_left -= len(body)
            parts.append(body)
        return parts

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

"""The ASGI messages that our server and applications exchange, typed, and what every application does with them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Required, TypedDict

__all__ = [
    "Application",
    "BodyTooLarge",
    "Disconnected",
    "Headers",
    "Message",
    "Receive",
    "Scope",
    "Send",
    "header",
    "read_body",
    "respond",
]

Headers = list[tuple[bytes, bytes]]
"""Names in lower case, in the order in which they came."""


class Scope(TypedDict):
    """One request, as ASGI 3 describes it.

    ``extensions["aegis.stream"]`` is a function: called, it lifts the limits on size and time of this request's body, for
    a body that is a stream of its own.
    """

    type: str
    asgi: dict[str, str]
    http_version: str
    method: str
    scheme: str
    path: str
    raw_path: bytes
    query_string: bytes
    root_path: str
    headers: Headers
    client: tuple[str, int] | None
    server: tuple[str, int] | None
    state: dict[str, object]
    extensions: dict[str, Callable[[], None]]


class Message(TypedDict, total=False):
    """One event: a part of the request's body, or of the response."""

    type: Required[str]
    body: bytes
    more_body: bool
    status: int
    headers: Iterable[tuple[bytes, bytes]]


Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class Disconnected(Exception):
    """The client went away before its request was whole; there is nobody to answer."""


class BodyTooLarge(Exception):
    """The request's body is larger than the application takes."""


def header(scope: Scope, name: bytes) -> bytes:
    """The value of the header *name* (in lower case), empty when it is not there; of several the first."""
    for found, value in scope["headers"]:
        if found == name:
            return value
    return b""


async def read_body(receive: Receive, *, most: int) -> bytes:
    """The whole body of a request.

    Raises:
        BodyTooLarge: It has more than *most* bytes.
        Disconnected: The client left before it was whole.
    """
    message = await receive()
    parts: list[bytes] = []
    size = 0
    while True:
        if message["type"] != "http.request":
            raise Disconnected
        part = message.get("body", b"")
        size += len(part)
        if size > most:
            raise BodyTooLarge
        if not message.get("more_body", False):
            return b"".join([*parts, part]) if parts else part
        parts.append(part)
        message = await receive()


async def respond(send: Send, status: int, body: bytes, *, content_type: bytes, headers: Headers | None = None) -> None:
    """Send a whole response."""
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(b"content-type", content_type), *(headers or ())],
        }
    )
    await send({"type": "http.response.body", "body": body})

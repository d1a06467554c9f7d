"""Requests of ASGI made by hand, and what applications answer to them."""

from __future__ import annotations

import trio

from aegis_backends.http.asgi import Headers, Message, Scope
from aegis_backends.http.routing import Request
from aegis_core.hookspecs import Principal


def make_scope(method: str = "GET", path: str = "/", query: bytes = b"", headers: Headers | None = None) -> Scope:
    """A request as a server describes it."""
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "root_path": "",
        "headers": headers or [],
        "client": None,
        "server": None,
        "state": {},
        "extensions": {"aegis.stream": lambda: None},
    }


class Answers:
    """What an application sends."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    async def __call__(self, message: Message) -> None:
        """Take a message."""
        await trio.lowlevel.checkpoint()
        self.messages.append(message)

    @property
    def status(self) -> int:
        """The status."""
        return self.messages[0]["status"]

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers."""
        return list(self.messages[0]["headers"])

    @property
    def body(self) -> bytes:
        """The whole body."""
        return b"".join(message.get("body", b"") for message in self.messages[1:])


async def nothing() -> Message:
    """An empty body."""
    await trio.lowlevel.checkpoint()
    return {"type": "http.request", "body": b"", "more_body": False}


def make_request(answers: Answers, *, query: bytes = b"", headers: Headers | None = None) -> Request:
    """A request that has been let in."""
    scope = make_scope(query=query, headers=headers)
    return Request(scope, nothing, answers, Principal("token", "tester"), {})

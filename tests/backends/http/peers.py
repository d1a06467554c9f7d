"""A server on a loopback port, and clients of it that keep to no protocol."""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import attrs
import trio
import trustme

from aegis_backends.http.asgi import Application, Receive, Scope, Send, read_body, respond
from aegis_backends.http.server import HttpServer, Limits
from aegis_core.hookspecs import Principal, Target

PATIENCE = 20.0
SHORT = 0.2


@attrs.frozen
class Served:
    """A server that is serving, and where."""

    server: HttpServer
    port: int

    async def connect(self) -> trio.SocketStream:
        """A bare connection to it."""
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    async def say(self, data: bytes, *, source: str | None = None) -> bytes:
        """Send *data* over a connection of its own; everything that comes back until the server closes it."""
        with trio.fail_after(PATIENCE):
            async with await trio.open_tcp_stream("127.0.0.1", self.port, local_address=source) as stream:
                try:
                    await stream.send_all(data)
                    return await read_all(stream)
                except trio.BrokenResourceError:
                    return b""

    async def get(self, path: str = "/", *, source: str | None = None) -> bytes:
        """A proper request, from the address *source*, and its whole response."""
        request = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        return await self.say(request.encode(), source=source)

    async def wait_cut(self, reason: str) -> None:
        """Wait until a client has been cut off for *reason*."""
        await eventually(lambda: self.server.statistics.cut.get(reason))

    async def wait_connections(self, number: int) -> None:
        """Wait until *number* connections are open."""
        await eventually(lambda: self.server.statistics.connections == number)


def permit_all(_principal: Principal, _operation: str, _target: Target) -> None:
    """What a router asks that lets everybody do everything."""


async def eventually(condition: Callable[[], object]) -> None:
    """Wait until *condition* holds, of which nobody else tells."""
    with trio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 - what other processes do, or the kernel, sets no event
            await trio.sleep(0.01)


async def read_all(stream: trio.SocketStream) -> bytes:
    """What comes until the other side closes."""
    found = b""
    try:
        async for part in stream:
            found += part
    except trio.BrokenResourceError:
        pass
    return found


def problem_of(response: bytes) -> dict[str, object]:
    """The problem details that the last response in *response* is."""
    *_, last = re.finditer(b"HTTP/1.1 [0-9]", response)
    head, _, body = response[last.start() :].partition(b"\r\n\r\n")
    assert b"\r\ncontent-type: application/problem+json\r\n" in head + b"\r\n"
    assert b"\r\ncontent-length: %d\r\n" % len(body) in head + b"\r\n"
    found: dict[str, object] = json.loads(body)
    assert head.startswith(b"HTTP/1.1 %d " % found["status"])
    return found


async def read_until(stream: trio.SocketStream, end: bytes) -> bytes:
    """What comes until *end* has come."""
    found = b""
    with trio.fail_after(PATIENCE):
        while end not in found:
            part = await stream.receive_some()
            assert part, f"closed after {found!r}"
            found += part
    return found


@asynccontextmanager
async def open_server(
    app: Application, limits: Limits | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Served]:
    """Serve *app* on a loopback port while the block runs."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server = HttpServer(app, limits=limits, tls=tls)
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(server.serve, [listener]))
        yield Served(server, listener.socket.getsockname()[1])
        nursery.cancel_scope.cancel()


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with what was sent, or with the path where that is nothing."""
    body = await read_body(receive, most=1 << 20)
    await respond(send, 200, body or scope["path"].encode(), content_type=b"text/plain")


@attrs.frozen
class Identities:
    """Certificates of a server and of a client, of one authority."""

    server: ssl.SSLContext
    client: ssl.SSLContext
    stranger: ssl.SSLContext


def make_identities(*, mutual: bool = False) -> Identities:
    """Fresh certificates; *mutual*: the server asks for the client's. The stranger trusts the server, and shows none."""
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(server)
    contexts = [ssl.create_default_context() for _ in range(2)]
    for context in contexts:
        authority.configure_trust(context)
    if mutual:
        server.verify_mode = ssl.CERT_REQUIRED
        authority.configure_trust(server)
        authority.issue_cert("caller@example.com").configure_cert(contexts[0])
    return Identities(server, *contexts)

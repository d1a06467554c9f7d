"""Parts of the benchmark of calls over HTTP: a router, FastAPI asked by httpx, and the least that httptools needs on Trio.

All echo bytes. Ours (`tests.benchmarks.parts.echoes`) and FastAPI take and answer them as a parameter: in MessagePack and in
JSON. What is bare sends nothing but the bytes themselves, and checks nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import httptools
import httpx  # noqa: ASYNC127 - what people use, as a peer
import trio

from aegis_backends.http.app import RouterApp, serve_router
from aegis_core import open_node
from aegis_core.router.gate import Gate
from tests.benchmarks.parts.commands import Commands, Taken, at_once, obey, rounds
from tests.benchmarks.parts.echoes import PATIENCE

__all__ = ["ask_bare", "ask_httpx", "be_router", "serve_bare", "serve_fastapi"]

_LET_IN: Final = 8
"""With its pool contended by more, httpx is several times slower."""
_CHUNK: Final = 1 << 16


async def _obey_at(commands: Commands, port: int) -> None:
    """Tell the *port* that is served, and nothing else."""

    async def tell() -> int:
        await trio.lowlevel.checkpoint()
        return port

    await obey(commands, {"port": tell})


def be_router(commands: Commands) -> None:
    """Offer a registry in memory over HTTP."""

    async def main() -> None:
        async with open_node("memory://bench") as node, trio.open_nursery() as nursery:
            app = RouterApp(node.runtime.store, Gate(node).commit, node.runtime.plugins.authorize)
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            port: int = listeners[0].socket.getsockname()[1]
            await nursery.start(serve_router, app, listeners)
            await _obey_at(commands, port)
            nursery.cancel_scope.cancel()

    trio.run(main)


# --- FastAPI, asked by httpx ---------------------------------------------------------------------


def serve_fastapi(commands: Commands) -> None:
    """Serve the echo with FastAPI on uvicorn, whose parser is httptools'."""
    from tests.benchmarks.on_http import on_uvicorn, peer_app

    on_uvicorn.serve(commands, peer_app.app, {})


def ask_httpx(commands: Commands, url: str) -> None:
    """Ask that echo with httpx, whose pool is at its best: it is asked by as many callers at once as it serves well."""

    async def main() -> None:
        limits = httpx.Limits(max_connections=_LET_IN, max_keepalive_connections=_LET_IN)
        async with httpx.AsyncClient(base_url=url, limits=limits, timeout=PATIENCE, trust_env=False) as client:

            async def measure(count: int, together: int, size: int) -> Taken:
                asked, let_in = {"data": "x" * size}, trio.CapacityLimiter(_LET_IN)

                async def operation() -> None:
                    async with let_in:
                        answer = await client.post("/echo", json=asked)
                    assert answer.json() == asked

                return await rounds(count, together, operation)

            await obey(commands, {"measure": measure})

    trio.run(main)


# --- httptools, bare -----------------------------------------------------------------------------


class _Body:
    """What a parser of httptools tells: the body, and whether it is whole."""

    def __init__(self) -> None:
        self.body = b""
        self.is_whole = False

    def on_body(self, body: bytes) -> None:
        """A part of it."""
        self.body += body

    def on_message_complete(self) -> None:
        """That was all of it."""
        self.is_whole = True

    def take(self) -> bytes:
        """The whole body; the next message begins."""
        body, self.body, self.is_whole = self.body, b"", False
        return body


def serve_bare(commands: Commands) -> None:
    """Serve the echo: a task for each connection, and no limits, timeouts, routes or answers but the one."""

    async def answer(stream: trio.SocketStream) -> None:
        told = _Body()
        parser = httptools.HttpRequestParser(told)
        while data := await stream.receive_some(_CHUNK):
            parser.feed_data(data)
            if told.is_whole:
                body = told.take()
                await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            port: int = listeners[0].socket.getsockname()[1]
            nursery.start_soon(trio.serve_listeners, answer, listeners)
            await _obey_at(commands, port)
            nursery.cancel_scope.cancel()

    trio.run(main)


def ask_bare(commands: Commands, port: int, most: int) -> None:
    """Ask that echo, each caller on a connection of its own; *most* callers."""

    async def main() -> None:
        streams = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(most)]

        def asking(stream: trio.SocketStream, data: bytes) -> Callable[[], Awaitable[object]]:
            told = _Body()
            parser = httptools.HttpResponseParser(told)
            request = b"POST /echo HTTP/1.1\r\nhost: bench\r\ncontent-length: %d\r\n\r\n%b" % (len(data), data)

            async def operation() -> None:
                await stream.send_all(request)
                while not told.is_whole:
                    parser.feed_data(await stream.receive_some(_CHUNK))
                assert told.take() == data

            return operation

        async def measure(count: int, together: int, size: int) -> Taken:
            operations = [asking(stream, b"x" * size) for stream in streams[:together]]
            return await (rounds(count, 1, operations[0]) if together == 1 else at_once(count, operations))

        await obey(commands, {"measure": measure})
        for stream in streams:
            await stream.aclose()

    trio.run(main)

"""Parts of the benchmark of the HTTP server: ours and uvicorn with one plain application, and who asks them over bare sockets.

Who asks is a program of its own and not one of the system's tools, so that it is there wherever Python is. It does less for a
request than a server can: it looks for the end of the first response alone, and counts bytes from then on.
"""

from __future__ import annotations

import resource
import selectors
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Final

import trio

from aegis_backends.http.asgi import Receive, Scope, Send
from aegis_backends.http.server import HttpServer, Limits
from tests.benchmarks.parts.commands import Commands, Taken, obey

__all__ = ["load", "serve_ours", "serve_uvicorn"]

_BODY: Final = b"Hello, world!"
_HEADERS: Final = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(_BODY))]
_REQUEST: Final = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
_END_OF_HEAD: Final = b"\r\n\r\n"
_CHUNK: Final = 1 << 16
_FILES: Final = 4096
_PATIENCE: Final = 30.0


def _allow_files() -> None:
    """Let this process have a connection to each of its many peers."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(_FILES, most) if most > 0 else _FILES, most))


def _resident() -> int | None:
    """Bytes of memory that this process has; None where the system does not tell."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return None
    return int(pages) * resource.getpagesize()


async def plain(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Answer everything with the same few bytes."""
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": _BODY})


def serve_ours(commands: Commands) -> None:
    """Serve the plain application with our server."""
    _allow_files()

    async def main() -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port: int = listeners[0].socket.getsockname()[1]
        server = HttpServer(plain, limits=Limits(connections=_FILES, idle_time=600.0))

        async def tell() -> int:
            await trio.lowlevel.checkpoint()
            return port

        async def resident() -> int | None:
            await trio.lowlevel.checkpoint()
            return _resident()

        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve, listeners)
            await obey(commands, {"port": tell, "resident": resident})
            nursery.cancel_scope.cancel()

    trio.run(main)


def serve_uvicorn(commands: Commands) -> None:
    """Serve the plain application with uvicorn, whose parser is httptools'."""
    from tests.benchmarks.on_http import on_uvicorn

    async def resident() -> int | None:
        return _resident()

    _allow_files()
    on_uvicorn.serve(commands, plain, {"resident": resident})


class _Clients:
    """Connections that ask one request at a time each, all from one thread."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._sockets: list[socket.socket] = []
        self._selector = selectors.DefaultSelector()
        self._length = 0

    def connect(self, many: int) -> None:
        """Have *many* connections, each of which has been used."""
        while len(self._sockets) < many:
            client = socket.create_connection(("127.0.0.1", self._port), _PATIENCE)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets.append(client)
            client.sendall(_REQUEST)
            answer = b""
            while _END_OF_HEAD + _BODY not in answer:
                answer += client.recv(_CHUNK)
            self._length = len(answer)

    def close(self) -> None:
        """Close all connections."""
        for client in self._sockets:
            client.close()
        self._sockets.clear()

    def measure(self, count: int) -> Taken:
        """Ask *count* times, on all connections at once."""
        taken, length, selector = Taken(), self._length, self._selector
        for client in self._sockets:
            selector.register(client, selectors.EVENT_READ, [0, 0.0])
        with taken.all():
            unsent = count - len(self._sockets)
            for key in selector.get_map().values():
                key.data[1] = perf_counter()
                assert isinstance(key.fileobj, socket.socket)
                key.fileobj.sendall(_REQUEST)
            while len(taken.seconds) < count:
                for key, _ in selector.select(_PATIENCE):
                    asking, state = key.fileobj, key.data
                    assert isinstance(asking, socket.socket)
                    state[0] += len(asking.recv(_CHUNK))
                    if state[0] < length:
                        continue
                    assert state[0] == length
                    now = perf_counter()
                    taken.seconds.append(now - state[1])
                    state[0] = 0
                    if unsent > 0:
                        unsent -= 1
                        state[1] = now
                        asking.sendall(_REQUEST)
        for client in self._sockets:
            selector.unregister(client)
        return taken


def load(commands: Commands, port: int) -> None:
    """Ask the server on *port*."""
    _allow_files()
    clients = _Clients(port)

    async def connect(many: int) -> None:
        clients.connect(many)

    async def measure(count: int) -> Taken:
        return clients.measure(count)

    acts: dict[str, Callable[..., Awaitable[object]]] = {"connect": connect, "measure": measure}
    while (command := commands.read()) is not None:
        trio.run(commands.carry_out, command, acts)
    clients.close()

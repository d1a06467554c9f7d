"""A router's REST interface over loopback: long lists, pages of few and of many resources, and events to many listeners."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final

import attrs
import trio
import trio.testing

from aegis_backends.http.app import RouterApp, serve_router
from aegis_backends.http.rest import ADMIN, Rest
from aegis_core import open_node
from aegis_core.node.node import Node
from aegis_core.router.gate import Gate
from aegis_core.router.management import Management
from aegis_core.router.router import Router
from tests.benchmarks.looking_up import fill
from tests.benchmarks.measuring import Arena, Contestant, Watch, at_most

__all__ = ["MEASURED", "measure"]

MEASURED: Final = ("rest-list", "rest-list-renewed", "rest-page-few", "rest-page-many", "rest-events")

_INSTANCES: Final = 1000
_RENEWED: Final = 100
_LISTENERS: Final = 100
_CONNECTIONS: Final = 32 * _LISTENERS  # so that one principal's share of streams is enough
_MANY: Final = 100_000
_FEW: Final = 100
_END_OF_HEAD: Final = b"\r\n\r\n"


@attrs.frozen
class Served:
    """A node whose registry is offered, and one connection to it."""

    node: Node
    port: int
    stream: trio.SocketStream

    async def get(self, path: str) -> int:
        """Ask for *path*, and read the whole answer; how many bytes it had."""
        await self.stream.send_all(_request(path))
        data = bytearray()
        while (end := data.find(_END_OF_HEAD)) < 0:
            data += await self.stream.receive_some(1 << 20)
        head = bytes(data[:end])
        assert head.startswith(b"HTTP/1.1 200"), head
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        left = end + len(_END_OF_HEAD) + length - len(data)
        while left > 0:
            left -= len(await self.stream.receive_some(1 << 20))
        return length


def _request(path: str) -> bytes:
    return f"GET {ADMIN}{path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


@asynccontextmanager
async def _serve(name: str) -> AsyncIterator[Served]:
    async with open_node(f"memory://{name}") as node, trio.open_nursery() as nursery:
        permit = node.runtime.plugins.authorize
        app = RouterApp(node.runtime.store, Gate(node).commit, permit, connections=_CONNECTIONS)
        Rest(Management(Router(node)), app)
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port: int = listener.socket.getsockname()[1]
        await nursery.start(partial(serve_router, app, [listener]))
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            yield Served(node, port, stream)
        nursery.cancel_scope.cancel()


async def _ask(operations: int, watch: Watch, *, served: Served, path: str, name: str) -> None:
    for _ in range(operations):
        watch.start(name)
        length = await served.get(path)
        watch.stop()
        assert length > 1000


async def _ask_renewed(operations: int, watch: Watch, *, served: Served) -> None:
    """The list, of which a tenth is new each time: so many instances send heartbeats in a second."""
    turn = 0
    for _ in range(operations):
        for _ in range(_RENEWED):
            await served.node.registry.heartbeat("listed", f"listed-{turn % _INSTANCES}")
            turn += 1
        await _ask(1, watch, served=served, path="/services", name="rest-list-renewed")


async def _tell(operations: int, watch: Watch, *, served: Served, listeners: list[trio.SocketStream]) -> None:
    """One event after the other to all listeners, who read them when the clock stands still."""
    await trio.testing.wait_all_tasks_blocked()
    for number in range(operations):
        operation = served.node.registry.release if number % 2 else served.node.registry.claim
        watch.start("rest-events")
        await operation("svc", "one", "told")
        await trio.testing.wait_all_tasks_blocked()
        watch.stop(len(listeners))
        for listener in listeners:
            await _hear(listener, b"event: resource_")
    if operations % 2:
        await served.node.registry.release("svc", "one", "told")
        for listener in listeners:
            await _hear(listener, b"event: resource_")


async def _hear(listener: trio.SocketStream, text: bytes) -> None:
    """Read up to the end of the chunk that has *text*: it may come in pieces, and after a comment that keeps the connection alive."""
    heard = b""
    while text not in heard or not heard.endswith(b"\n\n\r\n"):
        piece = await listener.receive_some(1 << 16)
        assert piece, f"the router closed the stream after {heard!r}"
        heard += piece


async def _measure_lists(arena: Arena) -> None:
    async with _serve("rest-lists") as served:
        for number in range(_INSTANCES):
            await served.node.registry.register("listed", f"listed-{number}", ttl=3600)
        found = await arena.compete(
            Contestant(partial(_ask, served=served, path="/services", name="rest-list"), 20),
            Contestant(partial(_ask_renewed, served=served), 5),
        )
    same, renewed = found["rest-list"], found["rest-list-renewed"]
    arena.line(
        f"REST list of {_INSTANCES:,} instances",
        same,
        at_most(same.p50 * 1e3, 5.0, "{:.2f} ms, ceiling 5", ceiling=True),
    )
    arena.line("the same, a tenth of them renewed since", renewed, at_most(renewed.p50 * 1e3, 5.0, "{:.2f} ms, goal 5"))


async def _measure_pages(arena: Arena) -> None:
    path = "/resources?limit=100"
    async with AsyncExitStack() as stack:
        contestants = []
        for name, many in (("rest-page-few", _FEW), ("rest-page-many", _MANY)):
            served = await stack.enter_async_context(_serve(name))
            await fill(served.node.runtime.store, many)
            contestants.append(Contestant(partial(_ask, served=served, path=path, name=name), 50))
        found = await arena.compete(*contestants)
    few, many_found = found["rest-page-few"], found["rest-page-many"]
    arena.line(f"REST page of 100 among {_FEW:,} resources", few)
    ratio = at_most(many_found.p50 / few.p50, 1.2, "{:.2f} x among few, ceiling 1.2", ceiling=True)
    arena.line(f"REST page of 100 among {_MANY:,} resources", many_found, ratio)


async def _measure_events(arena: Arena) -> None:
    async with _serve("rest-events") as served, AsyncExitStack() as stack:
        await served.node.registry.register("svc", "one", ttl=3600)
        listeners = []
        for _ in range(_LISTENERS):
            listener = await trio.open_tcp_stream("127.0.0.1", served.port)
            listeners.append(await stack.enter_async_context(listener))
            await listener.send_all(_request("/events"))
            await _hear(listener, b"retry: ")
        found = await arena.compete(Contestant(partial(_tell, served=served, listeners=listeners), 40))
    each = found["rest-events"]
    ceiling = at_most(each.p50 * 1e6, 100.0, "{:.0f} us per event and listener, ceiling 100", ceiling=True)
    arena.line(f"an event to each of {_LISTENERS} listeners", each, ceiling)


async def measure(arena: Arena) -> None:
    """All of it."""
    await _measure_lists(arena)
    await _measure_pages(arena)
    await _measure_events(arena)

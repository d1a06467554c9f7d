"""A router with a node of its own in this process, and clients of its REST interface."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import attrs
import httpx  # noqa: ASYNC127 - the fork has its interface, and may be put in its place
import trio

from aegis_backends.http.app import RouterApp, serve_router
from aegis_backends.http.rest import ADMIN, Rest
from aegis_backends.http.server import HttpServer
from aegis_backends.http.tokens import Tokens
from aegis_core import Node, open_node
from aegis_core.router.gate import Gate
from aegis_core.router.management import Management
from aegis_core.router.router import Router
from tests.backends.http.peers import PATIENCE

_numbers = itertools.count(1)


@attrs.frozen
class Managed:
    """One that serves."""

    node: Node
    app: RouterApp
    rest: Rest
    server: HttpServer
    stop: trio.Event
    port: int
    client: httpx.AsyncClient

    async def get(self, path: str, **parameters: object) -> httpx.Response:
        """GET *path* below the base of the interface."""
        return await self.client.get(ADMIN + path, params=parameters or None)  # type: ignore[arg-type]


@asynccontextmanager
async def open_managed(
    tokens: Tokens | None = None, *, plugins: tuple[object, ...] = (), ping: float = 5.0, connections: int = 1024
) -> AsyncIterator[Managed]:
    """Serve the registry of a node in memory on loopback while the block runs."""
    async with open_node(f"memory://managed-{next(_numbers)}", plugins=plugins) as node, trio.open_nursery() as nursery:
        app = RouterApp(
            node.runtime.store,
            Gate(node).commit,
            node.runtime.plugins.authorize,
            tokens=tokens,
            connections=connections,
        )
        rest = Rest(Management(Router(node)), app, ping=ping)
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port, stop = listener.socket.getsockname()[1], trio.Event()
        server = await nursery.start(partial(serve_router, app, [listener], stop=stop))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as client:
            yield Managed(node, app, rest, server, stop, port, client)
        nursery.cancel_scope.cancel()

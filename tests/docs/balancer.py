"""A balancer as operators put it before routers: it asks whether they are ready, and tries the next one that can be reached."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from urllib.parse import urlsplit

import httpx  # noqa: ASYNC127 - the fork has its interface, and may be put in its place
import trio

__all__ = ["open_balancer"]

_CHECKED_EVERY = 0.1


@asynccontextmanager
async def open_balancer(*urls: str) -> AsyncIterator[str]:
    """Pass connections on to the routers at *urls* while the block runs; the balancer's own URL."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    ready = list(urls)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_check, urls, ready)
        await nursery.start(trio.serve_listeners, partial(_pass_on, ready), [listener])
        port = listener.socket.getsockname()[1]
        yield f"http://127.0.0.1:{port}"
        nursery.cancel_scope.cancel()


async def _check(urls: Sequence[str], ready: list[str]) -> None:
    """Keep in *ready* those of *urls* that say so of themselves."""
    async with httpx.AsyncClient(timeout=5) as client:
        while True:
            for url in urls:
                try:
                    well = (await client.get(f"{url}/health/ready")).status_code == 200
                except httpx.TransportError:
                    well = False
                if well != (url in ready):
                    (ready.append if well else ready.remove)(url)
            await trio.sleep(_CHECKED_EVERY)


async def _pass_on(ready: list[str], client: trio.SocketStream) -> None:
    for url in tuple(ready):
        parts = urlsplit(url)
        try:
            router = await trio.open_tcp_stream(parts.hostname or "", parts.port or 0)
        except OSError:
            continue
        async with client, router, trio.open_nursery() as nursery:
            nursery.start_soon(_copy, client, router, nursery.cancel_scope)
            nursery.start_soon(_copy, router, client, nursery.cancel_scope)
        return
    await client.aclose()


async def _copy(source: trio.SocketStream, target: trio.SocketStream, ended: trio.CancelScope) -> None:
    try:
        async for part in source:
            await target.send_all(part)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    ended.cancel()

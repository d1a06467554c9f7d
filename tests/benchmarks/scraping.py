"""How long a router is held up at a time by who fetches its metrics: 1,000 instances live, and every family is full."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from time import thread_time
from typing import TYPE_CHECKING, Final

import trio

from aegis_backends.http.app import RouterApp, serve_router
from aegis_backends.http.rest import Rest
from aegis_backends.http.serving import add_metrics
from aegis_core import Node, open_node
from aegis_core.router.gate import Gate
from aegis_core.router.management import Management
from aegis_core.router.router import open_router
from tests.benchmarks.measuring import Arena, Contestant, Watch, at_most

if TYPE_CHECKING:
    from aegis_core.observe.metrics import Metrics

__all__ = ["MEASURED", "Steps", "measure"]

MEASURED: Final = ("scrape",)

_INSTANCES: Final = 1000
_SERVICES: Final = 10
_REQUEST: Final = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
_CHUNK: Final = 1 << 20
_PATIENCE: Final = 60.0


class Steps(trio.abc.Instrument):
    """The longest step of any task, in seconds of the processor, which others use too."""

    def __init__(self) -> None:
        self.longest = self._began = 0.0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """It begins."""
        self._began = thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """It has ended."""
        if self._began:
            self.longest = max(self.longest, thread_time() - self._began)


def _fill(metrics: Metrics) -> int:
    """Count in all families until each has all the series that it may have; how many they are."""
    from aegis_core.observe.series import MOST_SERIES, Counts

    series = 0
    for family in metrics.counted:
        for number in range(MOST_SERIES if family.labels else 1):
            labels = [f"{label}-{number}" for label in family.labels]
            if isinstance(family, Counts):
                family.add(*labels)
            else:
                family.observe(0.001, *labels)
            series += 1
    return series


def _fetch(port: int) -> int:
    """Fetch the page, in a thread of its own; how many bytes it has."""
    page, size = memoryview(bytearray(_CHUNK)), 0
    with socket.create_connection(("127.0.0.1", port), _PATIENCE) as client:
        client.sendall(_REQUEST)
        begin = client.recv(_CHUNK)
        assert begin.startswith(b"HTTP/1.1 200"), begin[:200]
        size = len(begin)
        while got := client.recv_into(page):
            size += got
    return size


@asynccontextmanager
async def _serve(node: Node) -> AsyncIterator[int]:
    """Be a router, whose page of metrics is served over HTTP; the port."""
    from aegis_core.observe.metrics import CONTENT_TYPE, exposition_in_parts

    async def metrics() -> tuple[str, Sequence[bytes]]:
        return CONTENT_TYPE, await exposition_in_parts(node)

    async with open_router(node) as router, trio.open_nursery() as nursery:
        app = RouterApp(node.runtime.store, Gate(node).commit, node.runtime.plugins.authorize)
        Rest(Management(router), app)
        add_metrics(app, metrics)
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port: int = listeners[0].socket.getsockname()[1]
        await nursery.start(serve_router, app, listeners)
        yield port
        nursery.cancel_scope.cancel()


async def measure(arena: Arena) -> None:
    """Fetch ``/metrics`` of a router, and look how long its longest step took meanwhile."""
    from aegis_core.observe.metrics import Metrics

    longest: list[float] = []
    sizes: list[int] = []
    async with open_node("memory://scraped", config={"metrics": {"enabled": True}}) as node, _serve(node) as port:
        for number in range(_INSTANCES):
            await node.registry.register(f"scraped-{number % _SERVICES}", f"scraped-{number}", ttl=3600)
        assert node.runtime.instruments is not None
        (metrics,) = (one for one in node.runtime.instruments.all if isinstance(one, Metrics))
        series = _fill(metrics)

        async def scrape(operations: int, watch: Watch) -> None:
            for _ in range(operations):
                steps = Steps()
                trio.lowlevel.add_instrument(steps)
                watch.start("scrape")
                sizes.append(await trio.to_thread.run_sync(_fetch, port))
                watch.stop()
                trio.lowlevel.remove_instrument(steps)
                longest.append(steps.longest)

        found = await arena.compete(Contestant(scrape, 1), rounds=3)
    check = at_most(1000 * max(longest[1:]), 10.0, "{:.1f} ms at a time, ceiling 10", ceiling=True)
    title = f"/metrics of a router, {_INSTANCES:,} instances, {series:,} series, {sizes[-1] / 1e6:.0f} MB"
    arena.line(title, found["scrape"], check)

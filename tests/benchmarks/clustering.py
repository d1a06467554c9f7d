"""A test's cluster: three nodes, started and stopped as the fixture does it."""

from __future__ import annotations

from functools import partial
from typing import Final

import trio
from trio.testing import MockClock

from aegis_core import Service
from aegis_pytest.cluster import open_cluster
from tests.benchmarks.floors import floor
from tests.benchmarks.measuring import Arena, Contestant, Watch, at_most

__all__ = ["MEASURED", "measure"]

MEASURED: Final = ("cluster", "cluster-serving")

carts = Service("cart-service", version="1.0.0")


async def _start_and_stop(operations: int, watch: Watch, *, serving: bool) -> None:
    for _ in range(operations):
        watch.start("cluster-serving" if serving else "cluster")
        async with open_cluster() as cluster:
            for name in ("a", "b", "c"):
                await cluster.node(name)
                if serving:
                    await cluster.serve(name, carts)
        watch.stop()


async def _on_virtual_time(operations: int, watch: Watch, *, serving: bool) -> None:
    def run() -> None:
        test = partial(_start_and_stop, operations, watch, serving=serving)
        trio.run(test, clock=MockClock(autojump_threshold=0))

    await trio.to_thread.run_sync(run)


async def measure(arena: Arena) -> None:
    """Three nodes, and three nodes that serve an instance each."""
    found = await arena.compete(
        floor(200),
        Contestant(partial(_on_virtual_time, serving=False), 5),
        Contestant(partial(_on_virtual_time, serving=True), 5),
    )
    for name, title in (("cluster", "three nodes"), ("cluster-serving", "three nodes serving")):
        times = found[name]
        arena.line(f"{title}: start and stop", times, at_most(times.p50 * 1e3, 20.0, "{:.1f} ms, goal 20"))

"""A test's cluster: three nodes, started and stopped as the fixture does it; a test that does no more; and their idle time."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import trio
from trio.testing import MockClock

from aegis_core import Service
from aegis_pytest.cluster import Cluster, open_cluster
from tests.benchmarks.floors import floor
from tests.benchmarks.measuring import Arena, Contestant, Watch, at_most
from tests.benchmarks.waiting import SCHEDULE

__all__ = ["MEASURED", "measure"]

MEASURED: Final = ("cluster", "cluster-serving", "cluster-idle")

_IDLE: Final = 1000.0
"""Virtual seconds."""

_TESTS: Final = """
import pytest

@pytest.mark.parametrize("number", range({count}))
async def test_three_nodes(aegis_cluster, number):
    for name in ("a", "b", "c"):
        await aegis_cluster.node(name)
"""

# Runs the tests of a file as their author would, and prints what each took, from the start of its set-up to the end of its
# tear-down, without the time in which another program had the core.
_PROGRAM: Final = f"""
import contextlib, json, sys
from time import perf_counter
import pytest

def waited():
    try:
        with open({SCHEDULE!r}) as file:
            return int(file.read().split()[1]) / 1e9
    except OSError:
        return 0.0

class Timer:
    def __init__(self):
        self.taken = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        before, began = waited(), perf_counter()
        result = yield
        elapsed = perf_counter() - began
        self.taken.append(elapsed - min(elapsed, waited() - before))
        return result

timer = Timer()
with contextlib.redirect_stdout(sys.stderr):
    status = pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:xdist", sys.argv[1]], plugins=[timer])
if status:
    sys.exit(status)
print(json.dumps(timer.taken))
"""

carts = Service("cart-service", version="1.0.0")


async def _open_nodes(cluster: Cluster, *, serving: bool) -> None:
    for name in ("a", "b", "c"):
        await cluster.node(name)
        if serving:
            await cluster.serve(name, carts)


async def _start_and_stop(operations: int, watch: Watch, *, serving: bool) -> None:
    for _ in range(operations):
        watch.start("cluster-serving" if serving else "cluster")
        async with open_cluster() as cluster:
            await _open_nodes(cluster, serving=serving)
        watch.stop()


async def _idle(operations: int, watch: Watch) -> None:
    async with open_cluster() as cluster:
        await _open_nodes(cluster, serving=True)
        for _ in range(operations):
            watch.start("cluster-idle")
            await trio.sleep(_IDLE)
            watch.stop()


async def _on_virtual_time(operations: int, watch: Watch, *, serving: bool) -> None:
    await _run(partial(_start_and_stop, operations, watch, serving=serving))


async def _run(test: Callable[[], Awaitable[None]]) -> None:
    await trio.to_thread.run_sync(partial(trio.run, test, clock=MockClock(autojump_threshold=0)))


async def _idle_on_virtual_time(operations: int, watch: Watch) -> None:
    await _run(partial(_idle, operations, watch))


async def _test(operations: int, watch: Watch) -> None:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "test_nodes.py"
        file.write_text(_TESTS.format(count=operations + 1), encoding="utf-8")
        done = await trio.run_process(
            [sys.executable, "-c", _PROGRAM, str(file)], capture_stdout=True, capture_stderr=True, cwd=folder
        )
    # The first one imports what it needs.
    for seconds in json.loads(done.stdout)[1:]:
        watch.file("test", seconds)


async def measure(arena: Arena) -> None:
    """Three nodes, three nodes that serve an instance each, a whole test with three nodes, and idle time."""
    found = await arena.compete(
        floor(200),
        Contestant(partial(_on_virtual_time, serving=False), 5),
        Contestant(partial(_on_virtual_time, serving=True), 5),
        Contestant(_test, 20),
        Contestant(_idle_on_virtual_time, 1),
    )
    for name, title in (
        ("cluster", "three nodes: start and stop"),
        ("cluster-serving", "three nodes serving: start and stop"),
        ("test", "an empty test with three nodes, as pytest runs it"),
    ):
        times = found[name]
        arena.line(title, times, at_most(times.p50 * 1e3, 20.0, "{:.1f} ms, goal 20"))
    idle = found["cluster-idle"]
    arena.line(
        f"three nodes serving, idle for {_IDLE:.0f} virtual seconds", idle, at_most(idle.p50, 1.0, "{:.2f} s, goal 1")
    )

"""Parts of the benchmarks of fail-over: who owns or waits in line, and who calls without a pause."""

from __future__ import annotations

import itertools
import math
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial

import attrs
import trio

from aegis_core import AegisError, Call, Instance, Node, Role, Service, open_node
from tests.benchmarks.parts.commands import Commands, obey

__all__ = ["be_caller", "be_contender", "book"]

_PATIENCE = 5.0
_LOOK = 0.02

engines = Service("matching-engine", version="1.0.0")


@engines.method
async def match(call: Call, number: int) -> int:
    """Answer what was sent."""
    return number


def book(number: int) -> str:
    """The resource that the contenders' instances of that number contend for."""
    return f"book:{number}"


@attrs.define(eq=False)
class _Contender:
    """One instance, and when it came to own its resource, by the clock that all processes share."""

    node: Node
    number: int
    ttl: float
    interval: float
    instance: Instance | None = None
    owned_at: float = math.nan
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    owns: trio.Event = attrs.field(factory=trio.Event)
    leave: trio.Event = attrs.field(factory=trio.Event)
    left: trio.Event = attrs.field(factory=trio.Event)

    async def live(self) -> None:
        """Wait in line, own, and leave in order when told to."""
        serving = self.node.serve(engines, ttl=self.ttl, heartbeat_interval=self.interval)
        async with serving as self.instance, self.instance.own(book(self.number), role=Role.STANDBY):
            self.owned_at = time.monotonic()
            self.owns.set()
            await self.leave.wait()
        self.left.set()

    async def wait_in_line(self) -> None:
        while self.instance is None or self.instance.instance_id not in await self._line():  # noqa: ASYNC110 - it is the store's
            await trio.sleep(_LOOK)

    async def _line(self) -> tuple[str, ...]:
        return tuple((await self.node.explain(book(self.number))).standbys)


def be_contender(commands: Commands, url: str, many: int, ttl: float) -> None:
    """Serve *many* instances, each of which wants a resource of its own."""

    async def main() -> None:
        async with open_node(url) as node, trio.open_nursery() as nursery:
            contenders: list[_Contender] = []

            async def begin() -> None:
                interval = ttl / 3
                contenders[:] = [_Contender(node, number, ttl, interval) for number in range(many)]
                for contender in contenders:
                    nursery.start_soon(contender.live)
                    if many > 1:
                        # Not all together: their leases are to be at different points when the process is killed.
                        await trio.sleep(random.uniform(0.0, 2 * interval / many))

            async def wait_in_line() -> None:
                for contender in contenders:
                    await contender.wait_in_line()

            async def wait_owning() -> list[float]:
                for contender in contenders:
                    await contender.owns.wait()
                return [contender.owned_at for contender in contenders]

            async def leave() -> None:
                for contender in contenders:
                    contender.leave.set()
                for contender in contenders:
                    await contender.left.wait()

            acts: dict[str, Callable[..., Awaitable[object]]] = {
                "start": begin,
                "wait_in_line": wait_in_line,
                "wait_owning": wait_owning,
                "leave": leave,
            }
            await obey(commands, acts)
            nursery.cancel_scope.cancel()

    trio.run(main)


@attrs.define(eq=False)
class _Caller:
    """Calls without a pause."""

    node: Node
    answered_at: list[float] = attrs.field(factory=list)
    failed: Counter[str] = attrs.field(factory=Counter)
    stop: trio.Event = attrs.field(factory=trio.Event)
    done: trio.Event = attrs.field(factory=trio.Event)

    async def call(self, number: int) -> None:
        try:
            await self.node.call("matching-engine", "match", {"number": number}, resource_id=book(0), timeout=_PATIENCE)
        except AegisError as exc:
            self.failed[exc.code] += 1
        else:
            self.answered_at.append(time.perf_counter())

    async def go_on(self, rate: float) -> None:
        """Begin *rate* calls a second, whether those before them are answered or not."""
        due, number = trio.current_time(), 0
        async with trio.open_nursery() as nursery:
            while not self.stop.is_set():
                nursery.start_soon(partial(self.call, number))
                number += 1
                due += 1 / rate
                await trio.sleep_until(due)
        self.done.set()


def be_caller(commands: Commands, url: str) -> None:
    """Call the owner of the first resource at a steady rate; tell the calls that failed and the longest time without an answer."""

    async def main() -> None:
        async with open_node(url) as node, trio.open_nursery() as nursery:
            caller = _Caller(node)

            async def begin(rate: float) -> None:
                nonlocal caller
                caller = _Caller(node)
                nursery.start_soon(caller.go_on, rate)

            async def end() -> dict[str, object]:
                caller.stop.set()
                await caller.done.wait()
                at = caller.answered_at
                gaps = [later - earlier for earlier, later in itertools.pairwise(at)]
                return {"answered": len(at), "failed": caller.failed, "gap": max(gaps, default=math.inf)}

            await obey(commands, {"start": begin, "stop": end})
            nursery.cancel_scope.cancel()

    trio.run(main)

"""A call that is cancelled leaves nothing behind, at whichever checkpoint that happens.

Each scene is played again and again: the first time the call is cancelled at its first checkpoint, then at its second,
and so on, until it ends by itself. After each, everything must be as if there had been no call.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from aegis_core.errors import AegisError, Misdirected, NoInstance, Overloaded, TransportUnavailable
from aegis_core.models import Outcome, Role
from aegis_core.node.breaker import CircuitState
from aegis_core.node.call import Call
from aegis_core.node.instance import Instance
from aegis_core.node.node import Node, open_node
from aegis_core.node.service import Service
from tests.node.wires import Wire, answer, lose_request, refuse

LAST = 60


class CancelAfter(trio.abc.Instrument):
    """Cancels a scope when the task that entered it has been resumed *steps* times."""

    def __init__(self, steps: int) -> None:
        self.scope = trio.CancelScope()
        self.task: trio.lowlevel.Task | None = None
        self._left = steps

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """One step is done."""
        if task is self.task:
            self._left -= 1
            if self._left == 0:
                self.scope.cancel()


@contextmanager
def cancelled_after(steps: int) -> Iterator[trio.CancelScope]:
    """The block is cancelled at its *steps*-th checkpoint, if it has so many."""
    instrument = CancelAfter(steps)
    trio.lowlevel.add_instrument(instrument)
    try:
        with instrument.scope:
            instrument.task = trio.lowlevel.current_task()
            yield instrument.scope
    finally:
        trio.lowlevel.remove_instrument(instrument)


@attrs.define(eq=False)
class Stage:
    """What a scene has to play with."""

    wire: Wire
    caller: Node
    host: Node
    instance: Instance


Scene = Callable[[Stage], Awaitable[object]]


@asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    """A caller, and an instance that owns a resource and takes others on demand."""
    service = Service("work", on_demand=("new:",))

    @service.method(idempotent=True)
    async def ping(call: Call) -> str:
        await trio.lowlevel.checkpoint()
        return "pong"

    @service.method
    async def once(call: Call) -> str:
        await trio.lowlevel.checkpoint()
        return "pong"

    wire = Wire()
    config = {"circuit": {"failures": 3, "cooldown": 5}}
    async with (
        wire.node(**config) as caller,
        open_node("memory://") as host,
        host.serve(service, instance_id="a") as instance,
    ):
        await instance.claim("r")
        await caller.runtime.directory.sync()
        yield Stage(wire, caller, host, instance)


async def by_service(it: Stage) -> object:
    """The plainest call."""
    return await it.caller.call("work", "ping")


async def by_resource(it: Stage) -> object:
    """To an owner."""
    return await it.caller.call("work", "ping", resource_id="r")


async def watched(it: Stage) -> object:
    """One that would notice the end of the callee's lease."""
    return await it.caller.call("work", "ping", timeout=3600)


async def on_demand(it: Stage) -> object:
    """To a resource that comes into being."""
    return await it.caller.call("work", "ping", resource_id="new:1")


async def refused(it: Stage) -> object:
    """Tried again after pauses."""
    overloaded = answer(Overloaded(limit=1, asked=2))
    rejected = answer(NoInstance(service_name="work", outcome=Outcome.REJECTED))
    it.wire.faults[:] = [refuse, overloaded, rejected]
    return await it.caller.call("work", "ping", resource_id="r")


async def tried_everywhere(it: Stage) -> object:
    """Tried again at the only instance there is."""
    it.wire.faults[:] = [refuse, lose_request]
    return await it.caller.call("work", "ping")


async def repeated_with_a_key(it: Stage) -> object:
    """Repeated at the same incarnation."""
    it.wire.faults[:] = [lose_request]
    return await it.caller.call("work", "once", idempotency_key="k")


async def misdirected(it: Stage) -> object:
    """Waits for the view, then pauses."""
    ahead = it.caller.runtime.directory.snapshot.revision + 1
    behind = answer(Misdirected(resource_id="r"))
    it.wire.faults[:] = [answer(Misdirected(resource_id="r", epoch=ahead)), behind]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(it.instance.claim, "s")
        result = await it.caller.call("work", "ping", resource_id="r")
        nursery.cancel_scope.cancel()
    await it.instance.release("s")
    return result


async def missing(it: Stage) -> object:
    """Looks again, then fails."""
    with pytest.raises(AegisError):
        await it.caller.call("work", "ping", resource_id="gone")
    return "pong"


async def trial(it: Stage) -> object:
    """The request that decides whether an open circuit closes."""
    it.wire.faults[:] = [lose_request] * 3
    for _ in range(3):
        with pytest.raises(TransportUnavailable):
            await it.caller.call("work", "once")
    await trio.sleep(5)
    return await it.caller.call("work", "ping")


async def promotion(it: Stage) -> object:
    """Waits for somebody to become active."""
    service = Service("roles")

    @service.method
    async def ping(call: Call) -> str:
        return "pong"

    async with trio.open_nursery() as nursery:

        async def serve(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            async with it.host.serve(service, role=Role.STANDBY):
                task_status.started()
                await trio.sleep_forever()

        await nursery.start(serve)
        result = await it.caller.call("roles", "ping")
        nursery.cancel_scope.cancel()
    return result


@pytest.mark.parametrize(
    "scene",
    [
        by_service,
        by_resource,
        watched,
        on_demand,
        refused,
        tried_everywhere,
        repeated_with_a_key,
        misdirected,
        missing,
        trial,
        promotion,
    ],
)
async def test_cancelled_call_leaves_nothing_behind(scene: Scene, autojump_clock: MockClock) -> None:
    """Nothing pending, no slot of a limit or circuit taken, no handler running, and the next call works."""
    ended = False
    for steps in range(1, LAST):
        async with stage() as it:
            tasks = len(it.caller.runtime.nursery.child_tasks)
            with cancelled_after(steps) as scope:
                ended = await scene(it) == "pong"
            assert ended != scope.cancelled_caught
            await wait_all_tasks_blocked()
            assert it.wire.under_way == 0
            (record,) = it.caller.runtime.directory.snapshot.live("work")
            assert it.caller.client.pending(record) == 0
            assert len(it.caller.runtime.nursery.child_tasks) == tasks
            for peer in it.caller.client._peers.known.values():
                assert not peer._watching
                if peer.breaker.state is CircuitState.HALF_OPEN:
                    assert peer.breaker.allow(), "the trial's place is free again"
                    peer.breaker.withdraw()
            await trio.sleep(10)
            incarnation = it.instance.incarnation
            assert incarnation is not None
            assert incarnation.server.running == 0
            it.wire.faults.clear()
            assert await it.caller.call("work", "ping", resource_id="r") == "pong"
        if ended:
            break
    assert ended
    assert steps > 1

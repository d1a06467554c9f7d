"""How many handlers run at once, what becomes of the others, and how serving ends."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from aegis_core.errors import (
    AegisError,
    CallTimeout,
    NoInstance,
    Overloaded,
    TransportUnavailable,
)
from aegis_core.models import Outcome
from aegis_core.node.call import Call
from aegis_core.node.node import open_node
from aegis_core.node.service import Service
from tests.node.served import served, work

# --- How many ----------------------------------------------------------------------------------


async def test_more_than_the_limit_wait_their_turn(autojump_clock: MockClock) -> None:
    """In the order in which they came."""
    order: list[int] = []
    service = Service("work")

    @service.method
    async def take(call: Call, number: int) -> None:
        order.append(number)
        await trio.sleep(1)

    async with served(service, limits={"handlers": 2}) as it, trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(lambda n=number: it.ask("take", params={"number": n}))
            await wait_all_tasks_blocked()
        assert repr(it.server).endswith("2 running, 4 queued>")
    assert [set(order[at : at + 2]) for at in (0, 2, 4)] == [{0, 1}, {2, 3}, {4, 5}]
    assert trio.current_time() == pytest.approx(3)


async def test_full_queue_refuses(autojump_clock: MockClock) -> None:
    """Beyond handlers and queue, a request is answered at once as not executed."""
    async with served(work(), limits={"handlers": 2, "queue": 3}) as it, trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(lambda: it.ask("wait", params={"seconds": 1.0}))
        await wait_all_tasks_blocked()
        with pytest.raises(Overloaded) as caught:
            await it.ask("ping")
        assert (caught.value.limit, caught.value.asked) == (5, 6)
        await trio.sleep(1.5)
        assert await it.ask("ping") == "pong"


async def test_request_that_ran_out_of_time_in_the_queue_is_not_executed(autojump_clock: MockClock) -> None:
    """Its answer says so."""
    executed: list[str] = []
    service = work()

    @service.method
    async def late(call: Call) -> None:
        executed.append("late")

    async with served(service, limits={"handlers": 1}) as it, trio.open_nursery() as nursery:
        nursery.start_soon(lambda: it.ask("wait", params={"seconds": 3.0}))
        await wait_all_tasks_blocked()
        with pytest.raises(CallTimeout) as caught:
            await it.ask("late", timeout=1)
        assert caught.value.outcome is Outcome.REJECTED
        with pytest.raises(CallTimeout) as caught:
            await it.ask("late", timeout=0.0)
        assert caught.value.outcome is Outcome.REJECTED
    assert executed == []


async def test_worker_that_was_cancelled_is_replaced(autojump_clock: MockClock) -> None:
    """A queue goes on after a handler ran out of time."""
    async with served(work(), limits={"handlers": 1}) as it, trio.open_nursery() as nursery:
        results: list[object] = []

        async def ask(seconds: float, timeout: float) -> None:
            try:
                results.append(await it.ask("wait", params={"seconds": seconds}, timeout=timeout))
            except AegisError as exc:
                results.append(exc.code)

        for seconds, timeout in ((1000.0, 1.0), (1.0, 10.0), (1000.0, 5.0), (1.0, 20.0)):
            nursery.start_soon(ask, seconds, timeout)
            await wait_all_tasks_blocked()
    assert results == ["TIMEOUT", "waited", "TIMEOUT", "waited"]


# --- How it ends -------------------------------------------------------------------------------


async def test_draining_lets_calls_finish_and_refuses_new_ones(autojump_clock: MockClock) -> None:
    """What runs ends, what is queued runs, what comes goes elsewhere."""
    async with served(work(), limits={"handlers": 1}) as it, trio.open_nursery() as nursery:
        results: list[object] = []
        ends: list[float] = []

        async def ask() -> None:
            results.append(await it.ask("wait", params={"seconds": 1.0}))

        async def drained() -> None:
            await it.server.drained()
            ends.append(trio.current_time())

        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        it.server.stop_accepting()
        nursery.start_soon(drained)
        nursery.start_soon(drained)
        await wait_all_tasks_blocked()
        with pytest.raises(NoInstance) as caught:
            await it.ask("ping")
        assert caught.value.outcome is Outcome.REJECTED
        await trio.sleep(5)
        assert results == ["waited", "waited"]
        assert ends == [pytest.approx(2)] * 2
        await it.server.drained()


async def test_cancelling_all_answers_everybody(autojump_clock: MockClock) -> None:
    """What runs may have been executed, what is queued was not."""
    async with served(work(), limits={"handlers": 1}) as it, trio.open_nursery() as nursery:
        outcomes: list[tuple[type[AegisError], Outcome]] = []

        async def ask() -> None:
            with pytest.raises((TransportUnavailable, NoInstance)) as caught:
                await it.ask("wait")
            outcomes.append((type(caught.value), caught.value.outcome))

        for _ in range(3):
            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
        it.server.cancel_all()
        await it.server.drained()
        await wait_all_tasks_blocked()
        assert sorted(outcomes, key=str) == sorted(
            [
                (TransportUnavailable, Outcome.MAYBE_EXECUTED),
                (NoInstance, Outcome.REJECTED),
                (NoInstance, Outcome.REJECTED),
            ],
            key=str,
        )


async def test_node_that_closes_answers_those_who_wait(autojump_clock: MockClock) -> None:
    """A caller on another node is not left to its timeout."""
    async with open_node("memory://") as caller, trio.open_nursery() as nursery:
        ended: list[float] = []

        async def ask() -> None:
            with pytest.raises(TransportUnavailable) as caught:
                await caller.call("work", "wait", timeout=5)
            assert caught.value.outcome is Outcome.MAYBE_EXECUTED
            ended.append(trio.current_time())

        with trio.CancelScope() as life:
            async with open_node("memory://") as host, host.serve(work()):
                await caller.runtime.directory.sync()
                nursery.start_soon(ask)
                await trio.sleep(1)
                life.cancel()
                await trio.sleep_forever()
        await wait_all_tasks_blocked()
        assert ended == [pytest.approx(1)]

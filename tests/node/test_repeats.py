"""Calls with an idempotency key: executed once by an incarnation, however often they come."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from aegis_core.errors import CallTimeout, InvalidRequest, LeaseLost, NoInstance, RemoteError, ResourceNotFound
from aegis_core.models import Outcome
from aegis_core.node.call import Call
from aegis_core.node.node import open_node
from aegis_core.node.service import Service


def payments(executed: list[str]) -> Service:
    """A service that counts what it does."""
    service = Service("payments")

    @service.method
    async def pay(call: Call, seconds: float = 0.0) -> int:
        assert call.idempotency_key is not None
        executed.append(call.idempotency_key)
        await trio.sleep(seconds)
        return len(executed)

    @service.method(idempotent=True)
    async def refresh(call: Call, seconds: float = 0.0) -> int:
        return await pay(call, seconds)

    @service.method
    async def fail(call: Call) -> None:
        executed.append("failed")
        raise ValueError("broke")

    return service


async def test_repeat_gets_the_first_answer(autojump_clock: MockClock) -> None:
    """Results and errors alike; another key, method or resource is another call."""
    executed: list[str] = []
    async with open_node("memory://") as node, node.serve(payments(executed)) as instance:
        await instance.claim("a", "b")
        for _ in range(3):
            assert await node.call("payments", "pay", idempotency_key="k1") == 1
        assert await node.call("payments", "pay", idempotency_key="k2") == 2
        assert await node.call("payments", "refresh", idempotency_key="k1") == 3
        assert await node.call("payments", "pay", idempotency_key="k1", resource_id="a") == 4
        assert await node.call("payments", "pay", idempotency_key="k1", resource_id="b") == 5
        assert await node.call("payments", "pay", idempotency_key="k1", resource_id="a") == 4
        for _ in range(2):
            with pytest.raises(RemoteError, match="broke"):
                await node.call("payments", "fail", idempotency_key="k1")
    assert executed == ["k1", "k2", "k1", "k1", "k1", "failed"]


async def test_repeat_that_comes_meanwhile_waits_for_the_first(autojump_clock: MockClock) -> None:
    """All get one answer of one execution."""
    executed: list[str] = []
    results: list[int] = []
    async with open_node("memory://") as node, node.serve(payments(executed)):

        async def ask() -> None:
            results.append(await node.call("payments", "pay", {"seconds": 2.0}, idempotency_key="k1"))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask)
    assert executed == ["k1"]
    assert results == [1] * 5


async def test_repeat_that_comes_while_the_first_is_admitted_is_executed_once(autojump_clock: MockClock) -> None:
    """Both wait until the resource is ready; one runs, the other gets its answer."""
    executed: list[str] = []
    service = payments(executed)
    results: list[int] = []

    @service.on_acquire
    async def load(claim: object) -> None:
        await trio.sleep(1)

    async with open_node("memory://") as node, node.serve(service) as instance, trio.open_nursery() as nursery:

        async def ask() -> None:
            results.append(await node.call("payments", "pay", {"seconds": 1.0}, idempotency_key="k1", resource_id="a"))

        nursery.start_soon(instance.claim, "a")
        await wait_all_tasks_blocked()
        nursery.start_soon(ask)
        nursery.start_soon(ask)
    assert executed == ["k1"]
    assert results == [1, 1]


async def test_refused_attempt_is_not_remembered() -> None:
    """What was not executed may be tried again with the same key."""
    executed: list[str] = []
    async with open_node("memory://") as node, node.serve(payments(executed)) as instance:
        with pytest.raises(InvalidRequest):
            await node.call("payments", "pay", {"seconds": "long"}, idempotency_key="k1")
        with pytest.raises(ResourceNotFound):
            await node.call("payments", "pay", idempotency_key="k1", resource_id="a")
        await instance.claim("a")
        assert await node.call("payments", "pay", idempotency_key="k1") == 1
        assert await node.call("payments", "pay", idempotency_key="k1", resource_id="a") == 2


async def test_interrupted_attempt_is_not_executed_again(autojump_clock: MockClock) -> None:
    """It may have been executed in part: its repeats are told so, unless the method is idempotent."""
    executed: list[str] = []
    async with open_node("memory://") as node, node.serve(payments(executed)):
        for _ in range(2):
            with pytest.raises(CallTimeout) as caught:
                await node.call("payments", "pay", {"seconds": 60.0}, idempotency_key="k1", timeout=1)
            assert caught.value.outcome is Outcome.MAYBE_EXECUTED
            await trio.sleep(1)
        assert executed == ["k1"]
        with pytest.raises(CallTimeout):
            await node.call("payments", "refresh", {"seconds": 60.0}, idempotency_key="k2", timeout=1)
        await trio.sleep(1)
        assert await node.call("payments", "refresh", idempotency_key="k2") == 3


async def test_repeat_is_executed_when_the_first_left_nothing(autojump_clock: MockClock) -> None:
    """A repeat of an idempotent call that waits for an attempt which is interrupted executes it itself."""
    executed: list[str] = []
    async with open_node("memory://") as node, node.serve(payments(executed)), trio.open_nursery() as nursery:

        async def first() -> None:
            with pytest.raises(CallTimeout):
                await node.call("payments", "refresh", {"seconds": 4.0}, idempotency_key="k1", timeout=1)

        nursery.start_soon(first)
        await wait_all_tasks_blocked()
        assert await node.call("payments", "refresh", {"seconds": 4.0}, idempotency_key="k1", timeout=30) == 2
        assert trio.current_time() == pytest.approx(5, rel=0.01)


async def test_lost_claim_is_remembered_as_an_open_outcome(autojump_clock: MockClock) -> None:
    """The resource was taken away in the middle: the repeat is not executed by the same incarnation."""
    executed: list[str] = []
    async with (
        open_node("memory://", config={"drain": 1}) as node,
        node.serve(payments(executed), instance_id="a") as instance,
        trio.open_nursery() as nursery,
    ):
        await instance.claim("r")

        async def ask() -> None:
            with pytest.raises(LeaseLost):
                await node.call("payments", "pay", {"seconds": 60.0}, idempotency_key="k1", resource_id="r", timeout=30)

        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        await instance.release("r")
        await instance.claim("r")
        with pytest.raises(LeaseLost):
            await node.call("payments", "pay", idempotency_key="k1", resource_id="r")
    assert executed == ["k1"]


async def test_draining_instance_answers_what_it_remembers(autojump_clock: MockClock) -> None:
    """New calls are refused, repeats are not."""
    executed: list[str] = []
    async with open_node("memory://") as node, node.serve(payments(executed), instance_id="a") as instance:
        assert await node.call("payments", "pay", idempotency_key="k1", instance_id="a") == 1
        instance.membership.draining = True
        assert await node.call("payments", "pay", idempotency_key="k1", instance_id="a") == 1
        with pytest.raises(NoInstance, match="draining"):
            await node.call("payments", "pay", idempotency_key="k2", instance_id="a", timeout=1)
    assert executed == ["k1"]

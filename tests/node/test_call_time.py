"""Deadlines of calls: who gives up when, and what travels."""

from __future__ import annotations

import math

import pytest
import trio
from trio.testing import MockClock

from aegis_core.errors import CallTimeout
from aegis_core.models import Outcome
from aegis_core.node.call import Call
from aegis_core.node.node import open_node
from aegis_core.node.service import Service
from tests.node.accounts import accounts


async def test_timeout_is_the_callers_own_error(autojump_clock: MockClock) -> None:
    """It is a `trio.TooSlowError`, at the time that was given, and says that nobody knows."""
    async with open_node("memory://") as node, node.serve(accounts()):
        start = trio.current_time()
        with pytest.raises(trio.TooSlowError) as caught:
            await node.call("account-service", "sleep", {"seconds": 10.0}, timeout=2)
        assert isinstance(caught.value, CallTimeout)
        assert (caught.value.outcome, caught.value.timeout) == (Outcome.MAYBE_EXECUTED, 2)
        assert trio.current_time() - start == pytest.approx(2)


async def test_call_without_time_is_not_sent() -> None:
    """A timeout of 0 is over before anything happens."""
    calls: list[Call] = []
    async with open_node("memory://") as node, node.serve(accounts(calls)):
        with pytest.raises(CallTimeout) as caught:
            await node.call("account-service", "who", timeout=0)
        assert caught.value.outcome is Outcome.NOT_SENT
    assert calls == []


async def test_call_without_limit_waits(autojump_clock: MockClock) -> None:
    """With ``math.inf`` neither side gives up."""
    calls: list[Call] = []
    async with open_node("memory://") as node, node.serve(accounts(calls)):
        assert await node.call("account-service", "sleep", {"seconds": 900.0}, timeout=math.inf) == "slept"
    assert calls[0].deadline == math.inf


async def test_outer_deadline_stays_a_cancellation_and_travels(autojump_clock: MockClock) -> None:
    """The earlier deadline of the caller's scope ends the call as Cancelled, and the handler with it."""
    calls: list[Call] = []
    ended: list[float] = []
    service = accounts(calls)

    @service.method
    async def work(call: Call) -> None:
        calls.append(call)
        try:
            await trio.sleep(60)
        finally:
            ended.append(trio.current_time())

    async with open_node("memory://") as node, node.serve(service):
        with trio.move_on_after(1) as scope:
            await node.call("account-service", "work", timeout=30)
        assert scope.cancelled_caught
        assert trio.current_time() == pytest.approx(1)
        await trio.sleep(0.1)
    assert calls[0].deadline == pytest.approx(1)
    assert ended == [pytest.approx(1, abs=0.01)]


async def test_nested_call_inherits_deadline_and_trace(autojump_clock: MockClock) -> None:
    """What a handler calls has no more time than it has itself, shielded or not, and belongs to the same trace."""
    inner: list[Call] = []
    outer: list[Call] = []
    front = Service("front")
    async with open_node("memory://") as node:

        @front.method
        async def ask(call: Call) -> None:
            outer.append(call)
            await node.call("account-service", "who", timeout=60)
            with trio.CancelScope(shield=True):
                await node.call("account-service", "who", timeout=60)
            async with trio.open_nursery() as nursery:  # noqa: ASYNC112 - the nursery is the test's
                nursery.start_soon(node.call, "account-service", "who")

        async with node.serve(front), node.serve(accounts(inner)):
            await node.call("front", "ask", timeout=3.001)
            await node.call("front", "ask", timeout=3.001)
    first, second = inner[:3], inner[3:]
    assert {call.trace_id for call in first} == {outer[0].trace_id}
    assert {call.trace_id for call in second} == {outer[1].trace_id} != {outer[0].trace_id}
    assert [call.deadline for call in first] == pytest.approx([3.001, 3.001, 3.001])
    assert len({call.message_id for call in (*inner, *outer)}) == 8
    assert outer[0].message_id == outer[0].trace_id


async def test_cancelled_caller_does_not_cancel_the_callee(autojump_clock: MockClock) -> None:
    """The handler runs on until its own deadline."""
    done = trio.Event()
    service = accounts()

    @service.method
    async def work(call: Call) -> None:
        await trio.sleep(1)
        done.set()

    async with open_node("memory://") as node, node.serve(service):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.call, "account-service", "work")
            await trio.sleep(0.5)
            nursery.cancel_scope.cancel()
        with trio.fail_after(1):
            await done.wait()

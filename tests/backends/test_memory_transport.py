"""The memory transport beyond its contract: what does not cross, and what is not left behind."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextvars import ContextVar

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from aegis_backends.memory import MemoryCluster, MemoryTransport
from aegis_core.backend import Inbound, TransportUnavailable

whoami: ContextVar[str] = ContextVar("whoami", default="nobody")


@pytest.fixture
async def transport() -> AsyncIterator[MemoryTransport]:
    """The transport of a cluster that is open."""
    async with MemoryCluster().open() as backend:
        (transport,) = backend.transports
        assert isinstance(transport, MemoryTransport)
        yield transport


def echo(request: Inbound) -> None:
    """Answer with what was asked."""
    request.respond(request.payload)


def ignore(request: Inbound) -> None:
    """Leave the caller waiting."""


async def test_context_variables_do_not_cross(transport: MemoryTransport) -> None:
    """The callee runs in the context of its listener, as it would in another process."""
    seen: list[str] = []

    def receive(request: Inbound) -> None:
        seen.append(whoami.get())
        request.respond(b"")

    whoami.set("callee")
    async with transport.listen("i", "t", receive) as endpoint:
        whoami.set("caller")
        await transport.request(endpoint, b"", timeout=1)
    assert seen == ["callee"]


async def test_request_that_is_cancelled_already_is_not_sent(transport: MemoryTransport) -> None:
    """Who has no time left does not start anything."""
    arrived: list[Inbound] = []
    async with transport.listen("i", "t", arrived.append) as endpoint:
        with trio.CancelScope() as scope:
            scope.cancel()
            await transport.request(endpoint, b"", timeout=1)
    assert scope.cancelled_caught
    assert arrived == []


async def test_each_request_is_a_checkpoint(transport: MemoryTransport) -> None:
    """An answer that is there at once, or nobody to give one, still lets other tasks run."""
    async with transport.listen("i", "t", echo) as endpoint:
        with trio.testing.assert_checkpoints():
            await transport.request(endpoint, b"", timeout=1)
    with trio.testing.assert_checkpoints(), pytest.raises(TransportUnavailable):
        await transport.request(endpoint, b"", timeout=1)


async def test_no_timeout_is_a_timeout_too(transport: MemoryTransport, autojump_clock: MockClock) -> None:
    """Infinity waits for as long as it takes, zero for nothing; less is a mistake."""
    late: list[Inbound] = []
    async with transport.listen("i", "t", late.append) as endpoint, trio.open_nursery() as nursery:

        async def ask() -> None:
            assert await transport.request(endpoint, b"", timeout=math.inf) == b"at last"

        nursery.start_soon(ask)
        with pytest.raises(trio.TooSlowError):
            await transport.request(endpoint, b"", timeout=0)
        assert trio.current_time() == 0
        for wrong in (-1, math.nan):
            with pytest.raises(ValueError, match="timeout"):
                await transport.request(endpoint, b"", timeout=wrong)
        await trio.sleep(50_000)
        assert len(late) == 2
        for request in late:
            request.respond(b"at last")


async def test_timeout_error_names_the_endpoint(transport: MemoryTransport, autojump_clock: MockClock) -> None:
    """Whoever reads a log knows where the silence was."""
    async with transport.listen("i", "t", ignore) as endpoint:
        with pytest.raises(trio.TooSlowError, match=r"memory:default/i/t within 2\.5 s"):
            await transport.request(endpoint, b"", timeout=2.5)


async def test_answered_requests_leave_nothing_behind(transport: MemoryTransport, autojump_clock: MockClock) -> None:
    """Neither requests nor deadlines pile up, and the clock does not have to run through the latter."""
    async with transport.listen("i", "t", echo) as endpoint:
        for _ in range(1000):
            await transport.request(endpoint, b"x" * 1000, timeout=1000)
    assert "0 requests under way" in repr(transport)
    assert len(transport._deadlines) <= 65
    await trio.sleep(3000)
    assert transport._deadlines == []


async def test_idle_cluster_does_not_move_a_mock_clock(transport: MemoryTransport, autojump_clock: MockClock) -> None:
    """With nothing to wait for, neither timeouts nor TTLs have a deadline."""
    async with transport.listen("i", "t", echo) as endpoint:
        await transport.request(endpoint, b"", timeout=5)
    await trio.sleep(10)
    await trio.testing.wait_all_tasks_blocked()
    assert trio.lowlevel.current_statistics().seconds_to_next_deadline == math.inf


async def test_endpoint_is_served_once_at_a_time(transport: MemoryTransport) -> None:
    """Two listeners for one incarnation are a mistake, and the first keeps serving."""
    async with transport.listen("i", "t", echo) as endpoint:
        with pytest.raises(ValueError, match="already"):
            async with transport.listen("i", "t", ignore):
                raise AssertionError("not reached")
        assert await transport.request(endpoint, b"1", timeout=1) == b"1"


async def test_answer_is_a_copy(transport: MemoryTransport) -> None:
    """Neither side can change the other's bytes afterwards."""
    arrived: list[Inbound] = []
    answer = bytearray(b"a")

    def receive(request: Inbound) -> None:
        arrived.append(request)
        request.respond(answer)  # type: ignore[arg-type]

    question = bytearray(b"q")
    async with transport.listen("i", "t", receive) as endpoint:
        answered = await transport.request(endpoint, question, timeout=1)  # type: ignore[arg-type]
    question[0] = answer[0] = 0
    assert (arrived[0].payload, answered) == (b"q", b"a")

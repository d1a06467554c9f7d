"""A call without an answer that its caller repeats: the answer to the repeat is the answer that was missing."""

from __future__ import annotations

import pytest
import trio

from aegis_core import Call, CallTimeout, Node, Service
from aegis_pytest.call_log import CallLog
from aegis_pytest.cluster import Cluster
from aegis_pytest.faults import Faults

rooms = Service("rooms")


@rooms.on_acquire
async def open_book(_claim: object) -> None:
    """Take it over."""


@rooms.method
async def book(call: Call, seconds: float = 0.0) -> None:
    """Book a room."""
    await trio.sleep(seconds)


async def ask(caller: Node, key: str | None, resource_id: str = "room:7", method: str = "book") -> None:
    """Book, waiting for at most a second."""
    await caller.call("rooms", method, resource_id=resource_id, idempotency_key=key, timeout=1)


async def ask_in_vain(caller: Node, faults: Faults, lost: tuple[str, str], *keys: str | None) -> None:
    """Book with each of *keys*, while what goes the way *lost* is lost."""
    with faults.drop(lost, times=len(keys)):
        for key in keys:
            with pytest.raises(CallTimeout):
                await ask(caller, key)


@pytest.mark.parametrize("lost", [("b", "a"), ("a", "b")], ids=["request", "answer"])
async def test_call_is_answered_when_its_repeat_is(
    aegis_cluster: Cluster, aegis_calls: CallLog, aegis_faults: Faults, lost: tuple[str, str]
) -> None:
    """All of its attempts are."""
    await (await aegis_cluster.serve("a", rooms)).claim("room:7")
    caller = await aegis_cluster.node("b")
    await ask_in_vain(caller, aegis_faults, lost, "k", "k")
    with pytest.raises(AssertionError, match=r"^2 of the 2 calls that were sent are lost:"):
        await aegis_calls.expect_none_lost("rooms", "book", within=0)
    await ask(caller, "k")
    await aegis_calls.expect_none_lost("rooms", "book", within=0)


async def test_call_that_only_looks_alike_is_no_repeat(
    aegis_cluster: Cluster, aegis_calls: CallLog, aegis_faults: Faults
) -> None:
    """It has another key, or none; is of another resource or method; or is somebody else's."""
    cancelling = Service("rooms")
    for method in ("book", "cancel"):
        cancelling.method(name=method)(book)
    await (await aegis_cluster.serve("a", cancelling)).claim("room:7", "room:8")
    caller, other = [await aegis_cluster.node(name) for name in "bc"]
    await ask_in_vain(caller, aegis_faults, ("a", "b"), "k", None)
    await ask(caller, "another key")
    await ask(caller, None)
    await ask(caller, "k", "room:8")
    await ask(caller, "k", method="cancel")
    await ask(other, "k")
    with pytest.raises(AssertionError, match=r"^2 of the 7 calls that were sent are lost:"):
        await aegis_calls.expect_none_lost(within=0)


async def test_call_beside_another_with_its_key_is_no_repeat(
    aegis_cluster: Cluster, aegis_calls: CallLog, aegis_faults: Faults
) -> None:
    """Each of the two waits for an answer, and the first has none."""
    await aegis_cluster.serve("a", rooms)
    caller = await aegis_cluster.node("b")
    with aegis_faults.drop(("b", "a"), times=1):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def ask_first() -> None:
                with pytest.raises(CallTimeout):
                    await caller.call("rooms", "book", idempotency_key="k", timeout=3)

            await trio.sleep(1)
            await caller.call("rooms", "book", {"seconds": 1.0}, idempotency_key="k", timeout=3)
    with pytest.raises(AssertionError, match=r"^1 of the 2 calls that were sent is lost:"):
        await aegis_calls.expect_none_lost(within=0)

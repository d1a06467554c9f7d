"""A call without an answer that its caller repeats: the answer to the repeat is the answer that was missing."""

from __future__ import annotations

import pytest
import trio

from aegis_core import Call, CallTimeout, Instance, Node, Service
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
    """It has another key, or none; is of another resource or method; has other parameters; or is somebody else's."""
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
    await caller.call("rooms", "book", {"seconds": 0.5}, resource_id="room:7", idempotency_key="k")
    with pytest.raises(AssertionError, match=r"^2 of the 8 calls that were sent are lost:"):
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


async def test_call_of_another_instance_is_no_repeat_while_both_live(
    aegis_cluster: Cluster, aegis_calls: CallLog, aegis_faults: Faults
) -> None:
    """Who tells each of two something meant both."""
    first, second = [await aegis_cluster.serve(name, rooms) for name in "ab"]
    caller = await aegis_cluster.node("c")

    async def tell(instance: Instance) -> None:
        await caller.call("rooms", "book", instance_id=instance.instance_id, idempotency_key="k", timeout=1)

    with aegis_faults.drop(("c", "a"), times=1), pytest.raises(CallTimeout):
        await tell(first)
    await tell(second)
    with pytest.raises(AssertionError, match=r"^1 of the 2 calls that were sent is lost:"):
        await aegis_calls.expect_none_lost(within=0)
    await tell(first)
    await aegis_calls.expect_none_lost(within=0)


async def test_owner_of_a_resource_answers_for_the_one_before(
    aegis_cluster: Cluster, aegis_calls: CallLog, aegis_faults: Faults
) -> None:
    """Who asks for the resource means whoever has it."""
    source, target = [await aegis_cluster.serve(name, rooms) for name in "ab"]
    await source.claim("room:7")
    caller = await aegis_cluster.node("c")
    await ask_in_vain(caller, aegis_faults, ("c", "a"), "k")
    await source.transfer("room:7", to=target.instance_id)
    await ask(caller, "k")
    await aegis_calls.expect_none_lost(within=0)


async def test_another_instance_answers_for_one_that_is_gone(
    aegis_cluster: Cluster, aegis_calls: CallLog, aegis_faults: Faults
) -> None:
    """Nobody else could."""
    await aegis_cluster.serve("a", rooms)
    caller = await aegis_cluster.node("c")
    with aegis_faults.drop(("c", "a"), times=1), pytest.raises(CallTimeout):
        await caller.call("rooms", "book", idempotency_key="k", timeout=1)
    await aegis_cluster.kill("a")
    await aegis_cluster.serve("b", rooms)
    await caller.call("rooms", "book", idempotency_key="k", timeout=30)
    await aegis_calls.expect_none_lost(within=0)

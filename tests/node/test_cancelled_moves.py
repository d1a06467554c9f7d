"""A program that is cancelled while a move is under way: what the node still does for what was being moved."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from aegis_core import AegisError, Call, Claim, Instance, Service, open_node
from aegis_core.models import EndReason
from tests.node.faulty import Faults, names_key


async def wait(_instance: Instance) -> None:
    """Move nothing."""
    await trio.sleep_forever()


MOVES: dict[str, Callable[[Instance], Awaitable[object]]] = {
    "nothing": wait,
    "transfer": lambda instance: instance.transfer("r1", to="other"),
    "release": lambda instance: instance.release("r1"),
    "claim release": lambda instance: instance.claims["r1"].release(),
    "bulk release": lambda instance: instance.bulk_release(["r1"]),
    "drain": lambda instance: instance.drain(),
}


@pytest.mark.parametrize("move", MOVES)
async def test_what_was_being_moved_is_released_with_the_rest(move: str, autojump_clock: MockClock) -> None:
    """``on_release`` runs for all while the lease holds, the records are gone, and nothing is waited for in vain."""
    service, released, cut = Service("s"), list[str](), list[str]()

    @service.on_release
    async def release(claim: Claim) -> None:
        await trio.lowlevel.checkpoint()
        assert claim.held
        released.append(claim.resource_id)

    @service.on_acquire
    async def acquire(_claim: Claim) -> None:
        await trio.lowlevel.checkpoint()

    @service.method
    async def work(call: Call) -> None:
        assert call.resource_id is not None
        try:
            await trio.sleep(5)
        finally:
            cut.append(call.resource_id)

    claims: list[Claim] = []
    scope = trio.CancelScope()

    async def call_r1() -> None:
        with pytest.raises(AegisError):
            await there.call("s", "work", resource_id="r1", timeout=60)

    async def program() -> None:
        with scope:
            async with open_node("memory://test") as here, here.serve(service, instance_id="one") as instance:
                claims.extend(await instance.claim("r1", "r2"))
                nursery.start_soon(call_r1)
                await trio.sleep(1)
                await MOVES[move](instance)

    async with (
        open_node("memory://test") as there,
        there.serve(service, instance_id="other"),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(program)
        await trio.sleep(2)
        began = trio.current_time()
        assert claims[0].leaving == (move != "nothing")
        assert released == []
        scope.cancel()
        while not all(claim.ended for claim in claims):  # noqa: ASYNC110 - virtual time
            await trio.sleep(0.001)
        assert trio.current_time() - began < 0.1
        await trio.sleep(0.1)
        assert sorted(released) == ["r1", "r2"]
        assert cut == ["r1"]
        assert there.owner_of("r1") is there.owner_of("r2") is None
    assert scope.cancelled_caught
    assert claims[0].ended is EndReason.CLOSED


async def test_on_release_that_has_run_is_not_run_again(autojump_clock: MockClock) -> None:
    """Only that which was cut off with the move is."""
    service, begun, done = Service("s"), list[str](), list[str]()

    @service.on_acquire
    async def acquire(_claim: Claim) -> None:
        await trio.lowlevel.checkpoint()

    @service.on_release
    async def release(claim: Claim) -> None:
        begun.append(claim.resource_id)
        if claim.resource_id == "slow":
            await trio.sleep(0.5)
        done.append(claim.resource_id)

    async with open_node("memory://test") as there, there.serve(service, instance_id="other"):
        with trio.move_on_after(1):
            async with open_node("memory://test") as here, here.serve(service) as instance:
                await instance.claim("quick", "slow", "third")
                await trio.sleep(0.7)
                await instance.transfer("quick", "slow", to="other")
        assert trio.current_time() < 1.6
        assert sorted(begun) == ["quick", "slow", "slow", "third"]
        assert sorted(done) == ["quick", "slow", "third"]


async def test_transfer_that_is_cancelled_at_its_commit_holds_nothing_up(autojump_clock: MockClock) -> None:
    """It was committed, and only the acknowledgement is missing: the rest is released at once."""
    service, faults, released = Service("s"), Faults(), list[str]()

    @service.on_acquire
    async def acquire(_claim: Claim) -> None:
        await trio.lowlevel.checkpoint()

    @service.on_release
    async def release(claim: Claim) -> None:
        released.append(claim.resource_id)

    async with open_node("memory://test") as there, there.serve(service, instance_id="other"):
        with trio.move_on_after(1):
            async with faults.node("test") as here, here.serve(service) as instance:
                claims = await instance.claim("r1", "r2")
                faults.slow(10, names_key("transfers"))
                await instance.transfer("r1", to="other")
        assert trio.current_time() < 1.1
        assert sorted(released) == ["r1", "r2"]
        assert [claim.ended for claim in claims] == [EndReason.RELEASED, EndReason.CLOSED]
        await trio.sleep(0.1)
        owner = there.owner_of("r1")
        assert owner is not None
        assert owner.owner_instance_id == "other"
        assert there.owner_of("r2") is None

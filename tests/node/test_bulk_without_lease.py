"""Bulk operations whose instance loses its lease meanwhile: what was reported done stays so, the rest is LEASE_LOST."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from aegis_core.errors import LeaseLost
from aegis_core.events import BulkProgress
from tests.node.bulk_world import bulk_world, ids, writes


async def test_a_bulk_that_goes_on_after_errors_goes_on_under_the_next_lease(autojump_clock: MockClock) -> None:
    """What was claimed before is claimed again, as ever."""
    async with bulk_world() as world:

        async def disconnect(event: BulkProgress) -> None:
            if event.done == 2:
                await world.there.registry.disconnect("svc", "a")
                await world.here.runtime.directory.sync()

        tag = world.a.lease_tag
        reply = await world.a.bulk_claim(
            ids(6), batch_size=2, continue_on_error=True, concurrency=1, on_progress=disconnect
        )
        assert reply.success
        await trio.sleep(1)
        assert world.a.lease_tag != tag
        assert set(world.a.claims) == set(ids(6))
        assert set(await world.owners(ids(6))) == set(ids(6))
        world.check_tables()


async def test_a_bulk_that_was_planned_for_a_lease_ends_with_it(autojump_clock: MockClock) -> None:
    """All or nothing: what it claimed for that lease is not claimed again, and the rest not at all."""
    async with bulk_world() as world:
        await world.a.claim("kept")

        async def disconnect(event: BulkProgress) -> None:
            if event.done == 4:
                await world.there.registry.disconnect("svc", "a")
                await world.here.runtime.directory.sync()

        reply = await world.a.bulk_claim(ids(12), batch_size=4, on_progress=disconnect)
        assert reply.done == ()
        assert {f.error_code for f in reply.failed} == {"LEASE_LOST"}
        assert reply.failed[0].reason == "the claim of 'r:4' ended: ERASED (MAYBE_EXECUTED)"
        await trio.sleep(3)
        assert set(await world.owners(["kept", *ids(12)])) == {"kept"}
        world.check_tables()


@pytest.mark.parametrize("late", [True, False], ids=["after it was claimed again", "before"])
async def test_what_is_claimed_again_survives_the_next_loss_too(*, late: bool, autojump_clock: MockClock) -> None:
    """The lease goes with the very commit that claims it again: under the lease after that it comes back."""
    async with bulk_world() as world:
        await world.a.claim("kept")
        sent = trio.Event()
        rule = world.faults.hold(sent, writes("kept"))
        await world.there.registry.disconnect("svc", "a")
        await rule.met.wait()
        if late:
            sent.set()
            while world.there.owner_of("kept") is None:
                await world.there.runtime.directory.sync()
        await world.there.registry.disconnect("svc", "a")
        sent.set()
        await trio.sleep(3)
        assert set(world.a.claims) == {"kept"}
        assert await world.owners(["kept"]) == {"kept": "a"}
        world.check_tables()


@pytest.mark.parametrize("goes_on", [True, False], ids=["goes on", "all or nothing"])
async def test_a_batch_whose_lease_goes_with_its_commit_says_so(*, goes_on: bool, autojump_clock: MockClock) -> None:
    """It had been decided before the lease was lost, and is refused on the evidence of what came between."""
    async with bulk_world() as world:
        sent = trio.Event()
        rule = world.faults.hold(sent, writes("r:0"))

        async def disconnect() -> None:
            await rule.met.wait()
            await world.there.registry.disconnect("svc", "a")
            await world.there.registry.claim("svc", "b", "r:0")
            sent.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(disconnect)
            reply = await world.a.bulk_claim(ids(2), continue_on_error=goes_on)
        assert {f.error_code for f in reply.failed} == {"LEASE_LOST"}
        await trio.sleep(3)
        assert await world.owners(ids(2)) == {"r:0": "b"}
        world.check_tables()


@pytest.mark.parametrize("unwinding", [0.0, 0.9], ids=["before it registers anew", "afterwards"])
@pytest.mark.parametrize("taken", [True, False], ids=["taken by another", "free"])
@pytest.mark.parametrize("goes_on", [True, False], ids=["goes on", "all or nothing"])
async def test_a_release_whose_lease_is_lost_says_so(
    *, goes_on: bool, taken: bool, unwinding: float, autojump_clock: MockClock
) -> None:
    """While calls finish: nobody is told that another owns what he held, or that there never was anything."""
    async with bulk_world() as world, trio.open_nursery() as nursery:
        await world.a.bulk_claim(ids(2))

        async def work() -> None:
            with pytest.raises(LeaseLost):
                await world.there.call("svc", "work", {"seconds": 2, "unwinding": unwinding}, resource_id="r:0")

        nursery.start_soon(work)
        await trio.sleep(0.5)

        async def disconnect() -> None:
            await trio.sleep(0.5)
            await world.there.registry.disconnect("svc", "a")
            if taken:
                await world.there.registry.claim("svc", "b", *ids(2))

        nursery.start_soon(disconnect)
        reply = await world.a.bulk_release(ids(2), continue_on_error=goes_on)
        assert reply.done == ()
        assert {f.resource_id: f.error_code for f in reply.failed} == dict.fromkeys(ids(2), "LEASE_LOST")
        await trio.sleep(3)
        assert await world.owners(ids(2)) == (dict.fromkeys(ids(2), "b") if taken else {})
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("bulk", ["bulk", "claim"])
async def test_who_is_told_that_a_claim_failed_owns_nothing_later_either(bulk: str, autojump_clock: MockClock) -> None:
    """The lease is lost while ``on_acquire`` runs: what was claimed before that comes back, this does not."""
    async with bulk_world() as world:
        await world.a.claim("kept")
        world.hooks.seconds = 1

        async def disconnect() -> None:
            await trio.sleep(0.5)
            await world.there.registry.disconnect("svc", "a")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(disconnect)
            if bulk == "bulk":
                reply = await world.a.bulk_claim(ids(2))
                assert {f.error_code for f in reply.failed} == {"LEASE_LOST"}
            else:
                with pytest.raises(LeaseLost):
                    await world.a.claim(*ids(2))
        await trio.sleep(5)
        assert await world.owners(["kept", *ids(2)]) == {"kept": "a"}
        world.check_tables()

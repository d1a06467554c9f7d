"""Strays: what attempts leave behind that were given up while their fate was open."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from aegis_core.errors import (
    LeaseLost,
    StoreUnavailable,
)
from aegis_core.models import Outcome
from aegis_core.node.claims import Claim
from aegis_core.node.node import open_node
from aegis_core.node.service import Service
from tests.node.faulty import Faults, names_key

RESOURCES = names_key("resources")


def make_service() -> Service:
    """A service without anything."""
    return Service("svc", version="1.0.0")


async def test_an_abandoned_claim_that_was_applied_is_released_again(autojump_clock: MockClock) -> None:
    """The caller was told MAYBE_EXECUTED, or cancelled; whatever became of the commit, nothing stays behind."""
    faults = Faults()
    async with faults.node(request_timeout=1) as node, open_node("memory://test") as other:
        async with node.serve(make_service()) as instance:
            faults.slow(3, RESOURCES)
            with pytest.raises(StoreUnavailable) as caught:
                await instance.claim("a")
            assert caught.value.outcome is Outcome.MAYBE_EXECUTED
            await trio.sleep(2)
            assert other.owner_of("a") is None
            assert not instance.claims

            faults.slow(3, RESOURCES)
            with trio.move_on_after(0.5):
                await instance.claim("b")
            await trio.sleep(2)
            assert other.owner_of("b") is None
            assert not instance.claims


async def test_an_abandoned_claim_that_lands_later_is_released_again(autojump_clock: MockClock) -> None:
    """A commit that was reported lost, and applied long after the caller had given up."""
    faults = Faults()
    async with faults.node(request_timeout=1) as node, open_node("memory://test") as other:
        async with node.serve(make_service()) as instance:
            faults.late(14, RESOURCES)
            faults.lose(RESOURCES, times=1000)
            with pytest.raises(StoreUnavailable):
                await instance.claim("a")
            faults.heal_commits()
            async with other.events(resource_id="a") as events:
                await trio.sleep(20)
                told = [type(await events.receive()).__name__ for _ in range(2)]
            assert told == ["ResourceRegistered", "ResourceReleased"]
            assert other.owner_of("a") is None
            assert not instance.claims
            assert trio.current_time() < 25


async def test_deleting_a_stray_goes_on_until_it_succeeds(autojump_clock: MockClock) -> None:
    """As long as the lease lives, the resource would be blocked."""
    faults = Faults()
    async with faults.node(request_timeout=1) as node, open_node("memory://test") as other:
        async with node.serve(make_service()) as instance:
            faults.slow(3, RESOURCES)
            with pytest.raises(StoreUnavailable):
                await instance.claim("a")
            faults.lose(RESOURCES, times=1000)
            await trio.sleep(5)
            assert other.owner_of("a") is not None
            faults.heal_commits()
            await trio.sleep(10)
            assert other.owner_of("a") is None


async def test_a_claim_made_while_a_stray_is_deleted_stands(autojump_clock: MockClock) -> None:
    """The deletion decides anew, and finds that somebody wants it."""
    faults = Faults()
    async with faults.node() as node, open_node("memory://test") as other, node.serve(make_service()) as instance:
        faults.slow(3, RESOURCES)
        with trio.move_on_after(0.5):
            await instance.claim("a")
        slow = faults.hold(late := trio.Event(), RESOURCES)
        await slow.met.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(instance.claim, "a")
            await trio.sleep(1)
            late.set()
        await trio.sleep(30)
        assert instance.claims["a"].held
        owner = other.owner_of("a")
        assert owner is not None
        assert owner.epoch == instance.claims["a"].epoch


async def test_a_release_that_failed_is_not_taken_back(autojump_clock: MockClock) -> None:
    """The claim has ended, and its record goes when the store answers; also of one that came by transfer."""
    faults = Faults()
    service = make_service()

    @service.on_acquire
    async def load(claim: Claim) -> None:
        await trio.lowlevel.checkpoint()

    async with faults.node(drain=1, request_timeout=1) as node, open_node("memory://test") as other:
        async with node.serve(service) as instance, other.serve(service) as giver:
            await giver.claim("given")
            await giver.transfer("given", to=instance.instance_id)
            await instance.claim("claimed")
            await trio.sleep(1)
            assert set(instance.claims) == {"given", "claimed"}
            faults.lose(RESOURCES, times=1000)
            await instance.claims["given"].release()
            await instance.claims["claimed"].release()
            assert not instance.claims
            await trio.sleep(1)
            assert not instance.claims
            assert other.owner_of("given") is not None
            faults.heal_commits()
            await trio.sleep(10)
            assert not instance.claims
            assert other.owner_of("given") is None
            assert other.owner_of("claimed") is None


async def test_nobody_believes_while_a_release_is_on_its_way(autojump_clock: MockClock) -> None:
    """The next owner may be there before the answer is."""
    faults = Faults()
    async with faults.node() as node, open_node("memory://test") as other:
        async with node.serve(make_service()) as instance, other.serve(make_service()) as next_owner:
            (claim,) = await instance.claim("a")
            slow = faults.slow(2, RESOURCES)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(claim.release)
                await slow.met.wait()
                assert claim.ended is None
                assert not claim.held
                with pytest.raises(LeaseLost):
                    claim.check()
                (new,) = await next_owner.claim("a")
                assert new.held
                assert not claim.held

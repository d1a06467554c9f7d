"""How claims end, and what became of them."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from aegis_core.errors import (
    Forbidden,
    LeaseLost,
    ResourceConflict,
)
from aegis_core.hookspecs import Principal, hookimpl
from aegis_core.models import EndReason, Outcome, ResourceMetadata
from aegis_core.node.call import Call
from aegis_core.node.claims import Claim
from aegis_core.node.node import open_node
from aegis_core.node.service import Service
from tests.node.faulty import Faults, erase, names_key

RESOURCES = names_key("resources")


class Refused(Exception):
    """What a service's own code raises."""


class ForceAllowed:
    """A plug-in that lets everybody use force."""

    @hookimpl
    def aegis_authorize(self, principal: Principal, operation: str) -> bool | None:
        """Allow it."""
        return True if operation == "force" else None


def make_service() -> Service:
    """A service without anything."""
    return Service("svc", version="1.0.0")


async def test_calls_that_do_not_finish_are_cut_off_at_the_drain_time(autojump_clock: MockClock) -> None:
    """They are answered LEASE_LOST, and the release goes on."""
    service = make_service()

    @service.method
    async def hang(call: Call) -> None:
        await trio.sleep_forever()

    async with open_node("memory://a", config={"drain": 2}) as node, open_node("memory://a") as other:
        async with node.serve(service) as instance:
            (claim,) = await instance.claim("a")
            async with trio.open_nursery() as nursery:

                async def call() -> None:
                    with pytest.raises(LeaseLost) as caught:
                        await other.call("svc", "hang", resource_id="a", timeout=100)
                    assert caught.value.outcome is Outcome.MAYBE_EXECUTED
                    assert caught.value.reason is EndReason.RELEASED

                nursery.start_soon(call)
                await trio.sleep(1)
                await claim.release()
                assert trio.current_time() == 3


async def test_force_takes_from_whoever_holds_it_where_that_is_allowed(autojump_clock: MockClock) -> None:
    """The old owner's claim ends as FORCED; without permission it is refused."""
    async with open_node("memory://a", plugins=[ForceAllowed()]) as node, open_node("memory://a") as other:
        async with node.serve(make_service()) as instance, other.serve(make_service()) as rival:
            (old,) = await rival.claim("a")
            with pytest.raises(Forbidden):
                await rival.claim("b", force=True)
            (new,) = await instance.claim("a", force=True)
            assert new.epoch > old.epoch
            assert await old.wait_ended() is EndReason.FORCED
            assert not rival.claims
            (record,) = node.runtime.directory.snapshot.transfers()
            assert (record.kind, record.from_instance_id) == ("forced", rival.instance_id)


async def test_a_claim_whose_record_was_erased_ends(autojump_clock: MockClock) -> None:
    """Somebody else released it with other tools."""
    async with open_node("memory://a") as node, open_node("memory://a") as other:
        async with node.serve(make_service()) as instance:
            (claim,) = await instance.claim("a")
            await other.registry.claim("svc", instance.instance_id, "b")
            await erase(other, "a")
            assert await claim.wait_ended() is EndReason.ERASED


async def test_the_time_to_live_of_a_resource_ends_its_claim(autojump_clock: MockClock) -> None:
    """Counted from its acquisition, on the node's clock; the record goes too."""
    async with open_node("memory://a") as node, open_node("memory://a") as other:
        async with node.serve(make_service()) as instance:
            (claim,) = await instance.claim("a", metadata=ResourceMetadata(ttl_seconds=40))
            assert await claim.wait_ended() is EndReason.RESOURCE_TTL
            assert trio.current_time() == 40
            await trio.sleep(0.1)
            assert other.owner_of("a") is None


async def test_an_idle_resource_that_came_on_demand_is_released(autojump_clock: MockClock) -> None:
    """Unless it is in use, or was claimed on purpose since."""
    service = Service("svc", version="1.0.0", on_demand=("d:",), idle_release=10)

    @service.method
    async def work(call: Call, seconds: float = 0) -> int:
        await trio.sleep(seconds)
        return call.epoch

    async with open_node("memory://") as node, node.serve(service) as instance:
        await instance.claim("own")
        assert await node.call("svc", "work", resource_id="d:1") > 0
        await node.call("svc", "work", resource_id="d:2")
        await instance.claim("d:2")
        await trio.sleep(6)
        await node.call("svc", "work", {"seconds": 20}, resource_id="d:3", timeout=30)
        assert set(instance.claims) == {"own", "d:2", "d:3"}
        await trio.sleep(10.1)
        assert set(instance.claims) == {"own", "d:2"}


async def test_claiming_what_is_being_released_waits_until_it_is_free(autojump_clock: MockClock) -> None:
    """It is not held any more, and not free yet: the new claim has a new epoch."""
    service = make_service()

    @service.method
    async def work(call: Call) -> None:
        await trio.sleep(3)

    async with open_node("memory://") as node, node.serve(service) as instance, trio.open_nursery() as nursery:
        (old,) = await instance.claim("a")
        nursery.start_soon(lambda: node.call("svc", "work", resource_id="a"))
        await trio.sleep(1)
        nursery.start_soon(old.release)
        await trio.sleep(1)
        assert old.leaving
        assert repr(old) == f"<Claim 'a' epoch {old.epoch} leaving>"
        (new,) = await instance.claim("a")
        assert trio.current_time() == 3
        assert old.ended is EndReason.RELEASED
        assert new.held
        assert new.epoch > old.epoch


async def test_claiming_what_takes_long_to_release_is_refused(autojump_clock: MockClock) -> None:
    """After the request timeout, as a conflict with oneself."""
    service = make_service()

    @service.method
    async def work(call: Call) -> None:
        await trio.sleep(9)

    async with open_node("memory://") as node, node.serve(service) as instance, trio.open_nursery() as nursery:
        (old,) = await instance.claim("a")
        nursery.start_soon(lambda: node.call("svc", "work", resource_id="a", timeout=20))
        await trio.sleep(1)
        nursery.start_soon(old.release)
        await trio.sleep(1)
        with pytest.raises(ResourceConflict) as caught:
            await instance.claim("a")
        assert caught.value.owner == instance.instance_id
        assert trio.current_time() == 7


async def test_one_lost_while_another_is_made_ready_is_no_success(autojump_clock: MockClock) -> None:
    """What was ready first may be gone when the last one is: then all are given up."""
    service = make_service()

    @service.on_acquire
    async def load(claim: Claim) -> None:
        if claim.resource_id == "slow":
            await trio.sleep(2)

    async with open_node("memory://a") as node, open_node("memory://a") as other, node.serve(service) as instance:
        async with trio.open_nursery() as nursery:

            async def lose() -> None:
                await trio.sleep(1)
                await erase(other, "quick")

            nursery.start_soon(lose)
            with pytest.raises(LeaseLost) as caught:
                await instance.claim("quick", "slow")
            assert caught.value.resource_id == "quick"
        assert not instance.claims
        assert node.owner_of("slow") is None


async def test_on_release_does_not_run_for_what_is_lost_meanwhile(autojump_clock: MockClock) -> None:
    """Nothing may be written any more; hooks that wait for their turn look once more."""
    service = make_service()
    began: list[str] = []

    @service.on_release
    async def unload(claim: Claim) -> None:
        began.append(claim.resource_id)
        await trio.sleep(2)

    async with open_node("memory://a") as node, open_node("memory://a") as other, node.serve(service) as instance:
        ids = [f"id{number}" for number in range(40)]
        await instance.claim(*ids)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(instance.release, *ids)
            await trio.sleep(3)
            await other.registry.deregister("svc", instance.instance_id)
        assert len(began) == 32
        assert trio.current_time() == 3


async def test_the_end_of_a_time_to_live_that_cannot_be_recorded_ends_the_claim_all_the_same(
    autojump_clock: MockClock,
) -> None:
    """The record goes when the store answers."""
    faults = Faults()
    async with faults.node(request_timeout=1) as node, open_node("memory://test") as other:
        async with node.serve(make_service()) as instance:
            (claim,) = await instance.claim("a", metadata=ResourceMetadata(ttl_seconds=10))
            faults.lose(RESOURCES, times=1000)
            assert await claim.wait_ended() is EndReason.RESOURCE_TTL
            assert trio.current_time() == 11
            await claim.holdings.expire(claim)
            assert other.owner_of("a") is not None
            faults.heal_commits()
            await trio.sleep(10)
            assert other.owner_of("a") is None


async def test_what_an_instance_holds_is_shown(autojump_clock: MockClock) -> None:
    """For whoever prints it."""
    async with open_node("memory://") as node, node.serve(make_service(), instance_id="one") as instance:
        (claim, _) = await instance.claim("a", "b")
        assert repr(claim.holdings) == "<Holdings of one: 2 claims>"


async def test_an_activation_that_is_lost_before_it_is_ready_is_tried_again(autojump_clock: MockClock) -> None:
    """Nothing was executed, so the call goes on."""
    service = Service("svc", version="1.0.0", on_demand=("d:",))
    epochs: list[int] = []

    @service.on_acquire
    async def load(claim: Claim) -> None:
        epochs.append(claim.epoch)
        if len(epochs) == 1:
            await trio.sleep_forever()

    @service.method
    async def epoch(call: Call) -> int:
        return call.epoch

    async with open_node("memory://a") as node, open_node("memory://a") as other:
        async with node.serve(service) as instance, trio.open_nursery() as nursery:

            async def lose() -> None:
                await trio.sleep(1)
                await other.registry.deregister("svc", instance.instance_id)

            nursery.start_soon(lose)
            answer = await other.call("svc", "epoch", resource_id="d:1", timeout=4)
            assert epochs == [epochs[0], answer]

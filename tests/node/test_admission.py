"""The gate before a handler: an instance serves what it holds, under the epoch that it holds it with, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from aegis_core.errors import AegisError, CallTimeout, InvalidRequest, LeaseLost, Misdirected, NoInstance
from aegis_core.models import EndReason, Outcome, Role
from aegis_core.node.call import Call
from aegis_core.node.claims import Claim
from aegis_core.node.node import open_node
from aegis_core.node.service import Service
from tests.node.faulty import Faults
from tests.node.served import Served, served


def rooms(**options: object) -> Service:
    """A service that says under which epoch it was called, now or after a while."""
    service = Service("rooms", **options)  # type: ignore[arg-type]

    @service.method
    async def epoch(call: Call, seconds: float = 0.0) -> int:
        await trio.sleep(seconds)
        return call.epoch

    @service.method
    async def stubborn(call: Call) -> int:
        with trio.CancelScope(shield=True):
            await trio.sleep(5)
        return call.epoch

    return service


async def misdirected(it: Served, **fields: object) -> Misdirected:
    """The answer to a request that is not served."""
    with pytest.raises(Misdirected) as caught:
        await it.ask("epoch", **fields)
    return caught.value


# --- Epochs ------------------------------------------------------------------------------------


async def test_request_with_the_epoch_of_the_claim_or_none_is_served() -> None:
    """Old clients show none."""
    async with served(rooms()) as it:
        (claim,) = await it.instance.claim("r")
        assert await it.ask("epoch", resource_id="r", epoch=claim.epoch) == claim.epoch
        assert await it.ask("epoch", resource_id="r") == claim.epoch


async def test_older_epoch_is_refused_with_the_one_that_holds() -> None:
    """Even by the instance that had it: whoever shows it has missed something."""
    async with served(rooms()) as it:
        (old,) = await it.instance.claim("r")
        await it.instance.release("r")
        (new,) = await it.instance.claim("r")
        refusal = await misdirected(it, resource_id="r", epoch=old.epoch)
        assert (refusal.epoch, refusal.owner) == (new.epoch, "a")


async def test_resource_of_another_is_refused_with_its_owner() -> None:
    """As far as this node knows."""
    async with served(rooms()) as it, it.node.serve(rooms(), instance_id="b") as other:
        (claim,) = await other.claim("r")
        for epoch in (0, claim.epoch):
            refusal = await misdirected(it, resource_id="r", epoch=epoch)
            assert (refusal.epoch, refusal.owner) == (claim.epoch, "b")
        refusal = await misdirected(it, resource_id="unknown")
        assert (refusal.epoch, refusal.owner) == (0, "")


@asynccontextmanager
async def behind() -> AsyncIterator[tuple[Served, Faults, Claim]]:
    """Instance ``a`` on a node that has not heard that ``b`` claimed the resource."""
    faults = Faults()
    async with (
        faults.node() as node,
        open_node("memory://test") as elsewhere,
        node.serve(rooms(), instance_id="a") as a,
        elsewhere.serve(rooms(), instance_id="b") as b,
    ):
        it = Served(elsewhere, a)
        await node.runtime.directory.sync()
        faults.deaf = True
        (claim,) = await b.claim("r")
        yield it, faults, claim
        faults.resync()


async def test_newer_epoch_makes_the_callee_look_again(autojump_clock: MockClock) -> None:
    """It learns that it is behind, catches up, and tells what it learnt."""
    async with behind() as (it, faults, claim), trio.open_nursery() as nursery:

        async def hear() -> None:
            await trio.sleep(1)
            faults.resync()

        nursery.start_soon(hear)
        with pytest.raises(Misdirected) as caught:
            await it.ask("epoch", resource_id="r", epoch=claim.epoch)
        assert (caught.value.epoch, caught.value.owner) == (claim.epoch, "b")
        assert trio.current_time() >= 1


async def test_looking_again_is_bounded_by_the_callers_time(autojump_clock: MockClock) -> None:
    """Nothing was executed when it did not come to that."""
    async with behind() as (it, _, claim):
        with pytest.raises(CallTimeout) as caught:
            await it.ask("epoch", resource_id="r", epoch=claim.epoch, timeout=2)
        assert caught.value.outcome is Outcome.REJECTED


async def test_callee_that_cannot_look_says_what_it_knows(autojump_clock: MockClock) -> None:
    """Without a store it answers at once; the caller tries again."""
    async with behind() as (it, faults, claim):
        faults.sync_refused = True
        with pytest.raises(Misdirected) as caught:
            await it.ask("epoch", resource_id="r", epoch=claim.epoch)
        assert (caught.value.epoch, caught.value.owner) == (0, "")
        faults.sync_refused = False


# --- Readiness ---------------------------------------------------------------------------------


async def test_calls_wait_until_the_resource_is_ready(autojump_clock: MockClock) -> None:
    """``on_acquire`` comes first; whoever has no time for it was not served."""
    service = rooms()

    @service.on_acquire
    async def load(claim: Claim) -> None:
        await trio.sleep(3)

    async with served(service) as it, trio.open_nursery() as nursery:
        nursery.start_soon(it.instance.claim, "r")
        await trio.sleep(1)
        with pytest.raises(CallTimeout) as caught:
            await it.ask("epoch", resource_id="r", timeout=1)
        assert caught.value.outcome is Outcome.REJECTED
        assert await it.ask("epoch", resource_id="r") == it.instance.claims["r"].epoch
        assert trio.current_time() == pytest.approx(3)


async def test_calls_wait_for_set_ready(autojump_clock: MockClock) -> None:
    """An ``own`` block may let calls in when it likes."""
    async with served(rooms()) as it, trio.open_nursery() as nursery:

        async def own() -> None:
            async with it.instance.own("r", ready=False) as claim:
                await trio.sleep(2)
                claim.set_ready("state")
                await trio.sleep(2)

        nursery.start_soon(own)
        await trio.sleep(1)
        await it.ask("epoch", resource_id="r")
        assert trio.current_time() == pytest.approx(2)


async def test_claim_that_ends_before_it_is_ready_sends_its_callers_away(autojump_clock: MockClock) -> None:
    """They look for another owner."""
    async with served(rooms()) as it, trio.open_nursery() as nursery:
        refusals: list[Misdirected] = []

        async def ask() -> None:
            refusals.append(await misdirected(it, resource_id="r"))

        async with it.instance.own("r", ready=False):
            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            assert refusals == []
        await wait_all_tasks_blocked()
        assert len(refusals) == 1


# --- Claims that end ---------------------------------------------------------------------------


async def test_resource_that_is_leaving_is_not_served_any_more(autojump_clock: MockClock) -> None:
    """What runs may finish; what comes is sent away at once."""
    async with served(rooms()) as it, trio.open_nursery() as nursery:
        results: list[object] = []
        (claim,) = await it.instance.claim("r")

        async def ask() -> None:
            results.append(await it.ask("epoch", resource_id="r", params={"seconds": 3.0}))

        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        nursery.start_soon(it.instance.release, "r")
        await wait_all_tasks_blocked()
        await misdirected(it, resource_id="r", epoch=claim.epoch)
        assert trio.current_time() == 0
        await trio.sleep(4)
        assert results == [claim.epoch]


async def test_handler_is_cancelled_when_its_claim_ends(autojump_clock: MockClock) -> None:
    """The caller learns that the outcome is open, and why."""
    async with served(rooms(), drain=1) as it, trio.open_nursery() as nursery:
        (claim,) = await it.instance.claim("r")
        nursery.start_soon(it.instance.release, "r")
        with pytest.raises(LeaseLost) as caught:
            await it.ask("epoch", resource_id="r", params={"seconds": 60.0}, timeout=60, epoch=claim.epoch)
        lost = caught.value
        assert (lost.outcome, lost.epoch, lost.reason) == (
            Outcome.MAYBE_EXECUTED,
            claim.epoch,
            EndReason.RELEASED,
        )
        assert trio.current_time() == pytest.approx(1)


async def test_result_that_comes_after_the_claim_ended_is_thrown_away(autojump_clock: MockClock) -> None:
    """A handler that cannot be stopped does not answer for a resource that is another's."""
    async with served(rooms(), drain=1) as it, trio.open_nursery() as nursery:
        (claim,) = await it.instance.claim("r")
        nursery.start_soon(it.instance.release, "r")
        with pytest.raises(LeaseLost):
            await it.ask("stubborn", resource_id="r", timeout=60, epoch=claim.epoch)


async def test_error_that_comes_after_the_claim_ended_is_thrown_away(autojump_clock: MockClock) -> None:
    """So is `LeaseLost` of `Claim.check`, which says the same."""
    service = rooms()

    @service.method
    async def write(call: Call) -> None:
        assert call.claim is not None
        with trio.CancelScope(shield=True):
            await trio.sleep(5)
        call.claim.check()

    async with served(service, drain=1) as it, trio.open_nursery() as nursery:
        (claim,) = await it.instance.claim("r")
        nursery.start_soon(it.instance.release, "r")
        with pytest.raises(LeaseLost) as caught:
            await it.ask("write", resource_id="r", timeout=60)
        assert caught.value.epoch == claim.epoch


async def test_instance_that_stopped_accepting_sends_calls_for_resources_away() -> None:
    """They are told who has the resource, as far as is known."""
    async with served(rooms()) as it, it.node.serve(rooms(), instance_id="b") as other:
        (claim,) = await other.claim("r")
        it.server.stop_accepting()
        refusal = await misdirected(it, resource_id="r")
        assert (refusal.epoch, refusal.owner) == (claim.epoch, "b")


# --- On demand ---------------------------------------------------------------------------------


async def test_only_free_resources_of_its_own_kind_are_activated(autojump_clock: MockClock) -> None:
    """Not those of another prefix, nor those that somebody has."""
    service = rooms(on_demand=("room:",))
    async with served(service) as it, it.node.serve(rooms(on_demand=("room:",)), instance_id="b") as other:
        (claim,) = await other.claim("room:1")
        assert (await misdirected(it, resource_id="room:1", activate=True)).owner == "b"
        assert (await misdirected(it, resource_id="hall:1", activate=True)).owner == ""
        assert (await misdirected(it, resource_id="room:2")).owner == ""
        assert await it.ask("epoch", resource_id="room:2", activate=True) == it.instance.claims["room:2"].epoch
        assert list(it.instance.claims) == ["room:2"]
        assert claim.held


@pytest.mark.parametrize("resource_id", ["%rooms%default", "room:a b", "room:%", ""])
async def test_what_is_no_resource_id_is_neither_served_nor_activated(
    resource_id: str, autojump_clock: MockClock
) -> None:
    """Nor the role that the instance has, whatever way the request comes."""
    service = rooms(on_demand=("room:",))
    async with served(service) as it, it.node.serve(service, instance_id="b", role=Role.ACTIVE) as b:
        for wanted in (
            Served(it.node, b).ask("epoch", resource_id=resource_id),
            it.node.call("rooms", "epoch", resource_id=resource_id),
            it.node.call("rooms", "epoch", resource_id=resource_id, idempotency_key="k"),
            it.ask("epoch", resource_id=resource_id, activate=True),
            it.ask("epoch", resource_id=resource_id, idempotency_key="k"),
        ):
            with pytest.raises(InvalidRequest) as caught:
                await wanted
            assert [problem.path for problem in caught.value.problems] == ["$.resource_id"]
        assert not it.instance.claims
        assert not b.claims


async def test_draining_instance_activates_nothing(autojump_clock: MockClock) -> None:
    """Somebody else may."""
    async with served(rooms(on_demand=("room:",))) as it:
        await it.instance.drain()
        with pytest.raises(AegisError) as caught:
            await it.ask("epoch", resource_id="room:1", activate=True)
        assert isinstance(caught.value, NoInstance | Misdirected)
        assert not it.instance.claims


async def test_loser_of_an_activation_says_who_won(autojump_clock: MockClock) -> None:
    """Both nodes believe that the resource is free; the store decides."""
    faults = Faults()
    service = rooms(on_demand=("room:",))
    async with (
        faults.node() as node,
        open_node("memory://test") as elsewhere,
        node.serve(service, instance_id="a") as a,
        elsewhere.serve(service, instance_id="b") as b,
    ):
        it = Served(elsewhere, a)
        faults.deaf = True
        (claim,) = await b.claim("room:1")

        async def hear() -> None:
            await trio.sleep(1)
            faults.resync()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hear)
            with pytest.raises(Misdirected) as caught:
                await it.ask("epoch", resource_id="room:1", activate=True)
        assert (caught.value.epoch, caught.value.owner) == (claim.epoch, "b")


async def test_activation_that_is_given_up_is_taken_over_by_who_waits(autojump_clock: MockClock) -> None:
    """The first caller runs out of time; the second one's call activates the resource."""
    service = rooms(on_demand=("room:",))
    loads: list[float] = []

    @service.on_acquire
    async def load(claim: Claim) -> None:
        loads.append(trio.current_time())
        await trio.sleep(3)

    async with served(service) as it, trio.open_nursery() as nursery:

        async def first() -> None:
            with pytest.raises(CallTimeout) as caught:
                await it.ask("epoch", resource_id="room:1", activate=True, timeout=1)
            assert caught.value.outcome is Outcome.REJECTED

        nursery.start_soon(first)
        await wait_all_tasks_blocked()
        epoch = await it.ask("epoch", resource_id="room:1", activate=True, timeout=30)
        assert epoch == it.instance.claims["room:1"].epoch

"""Draining: an instance hands over everything, takes no more, and stays registered."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from aegis_core.errors import Forbidden, LeaseLost, NoInstance, ResourceNotFound
from aegis_core.models import EndReason, Role
from aegis_core.node.call import Call
from aegis_core.node.node import open_node
from tests.node.faulty import Faults
from tests.node.working import make_service


async def test_everything_is_handed_over_and_nothing_more_is_taken(autojump_clock: MockClock) -> None:
    """Calls finish, hooks run, the claims are free; the instance is shown as draining, out of the rotation."""
    seen: list[str] = []
    async with open_node("memory://a") as node, open_node("memory://a") as other:
        async with node.serve(make_service(seen), role=Role.ACTIVE, instance_id="one") as one:
            await one.claim("a", "b")
            async with trio.open_nursery() as nursery:

                async def call() -> None:
                    assert await other.call("svc", "work", {"seconds": 2}, resource_id="a") == "one"
                    seen.append("worked")

                async def plain() -> None:
                    assert await other.call("svc", "work", {"seconds": 3}, timeout=30) == "one"

                nursery.start_soon(call)
                nursery.start_soon(plain)
                await trio.sleep(1)
                await one.drain()
                assert trio.current_time() == 3
            assert seen[0] == "worked"
            assert sorted(seen[1:]) == ["released a", "released b"]
            assert not one.claims
            assert one.role is Role.STANDBY
            assert one.ready
            with pytest.raises(NoInstance):
                await other.call("svc", "work", timeout=1)
            with pytest.raises(ResourceNotFound):
                await other.call("svc", "work", resource_id="a", timeout=1)
            view = await other.registry.get_service("svc")
            assert [instance.draining for instance in view.instances] == [True]
            with pytest.raises(Forbidden):
                await one.claim("a")
            await trio.sleep(100)
            assert one.ready
            assert one.role is Role.STANDBY
            await one.drain()


async def test_what_does_not_finish_is_cut_off_at_the_deadline(autojump_clock: MockClock) -> None:
    """Which is given on Trio's clock, or the configured time from now."""
    seen: list[str] = []
    async with open_node("memory://a", config={"drain": 7}) as node, open_node("memory://a") as other:
        for deadline, lasted in ((trio.current_time() + 4, 4.0), (None, 7.0)):
            began = trio.current_time()
            async with node.serve(make_service(seen)) as one:
                (claim,) = await one.claim("a")
                async with trio.open_nursery() as nursery:

                    async def call() -> None:
                        with pytest.raises(LeaseLost) as caught:
                            await other.call("svc", "work", {"seconds": 100}, resource_id="a", timeout=200)
                        assert caught.value.reason is EndReason.RELEASED

                    nursery.start_soon(call)
                    await trio.sleep(0.1)
                    await one.drain(deadline)
                    assert trio.current_time() - began == pytest.approx(lasted, abs=0.2)
                assert claim.ended is EndReason.RELEASED
        assert seen == ["cut off", "released a", "cut off", "released a"]


async def test_a_deadline_in_the_past_ends_everything_now(autojump_clock: MockClock) -> None:
    """Hooks still run."""
    seen: list[str] = []
    async with open_node("memory://a") as node, node.serve(make_service(seen)) as one:
        await one.claim("a")
        await trio.sleep(10)
        await one.drain(5)
        assert trio.current_time() == 10
        assert seen == ["released a"]


async def test_cancelled_it_goes_on(autojump_clock: MockClock) -> None:
    """In the background."""
    async with open_node("memory://a") as node, open_node("memory://a") as other, trio.open_nursery() as nursery:
        async with node.serve(make_service()) as one:
            (claim,) = await one.claim("a")
            nursery.start_soon(lambda: other.call("svc", "work", {"seconds": 3}, resource_id="a"))
            await trio.sleep(1)
            with trio.move_on_after(1) as scope:
                await one.drain()
            assert scope.cancelled_caught
            assert claim.ended is None
            assert claim.leaving
            assert await claim.wait_ended() is EndReason.RELEASED
            assert trio.current_time() == 3


async def test_a_store_that_is_away_does_not_keep_work_from_ending(autojump_clock: MockClock) -> None:
    """Callers are not told then; but calls finish, hooks run, and the claims end."""
    faults = Faults()
    seen: list[str] = []
    async with faults.node(drain=5) as node:
        async with node.serve(make_service(seen)) as one:
            (claim,) = await one.claim("a")
            faults.cut()
            with trio.fail_after(8):
                await one.drain()
            assert seen == ["released a"]
            assert claim.ended is EndReason.RELEASED
            faults.heal()


async def test_another_node_may_ask_for_it(autojump_clock: MockClock) -> None:
    """It answers as soon as everything is handed over."""
    async with open_node("memory://a") as node, open_node("memory://a") as other:
        async with node.serve(make_service(), instance_id="one") as one:
            await one.claim("a")
            await trio.sleep(1)
            await other.registry.drain("svc", "one")
            assert trio.current_time() < 1.1
            assert not one.claims
            assert one.draining


async def test_a_handler_may_drain_its_own_instance(autojump_clock: MockClock) -> None:
    """It does not wait for itself for ever."""
    service = make_service()

    @service.method
    async def stop(call: Call) -> str:
        assert call.instance is not None
        await call.instance.drain()
        return "drained"

    async with open_node("memory://a", config={"drain": 3}) as node, node.serve(service) as one:
        await one.claim("a")
        with pytest.raises(Exception, match="stopped"):
            await node.call("svc", "stop", timeout=30)
        assert trio.current_time() == pytest.approx(3, abs=0.1)
        assert not one.claims


async def test_what_is_lost_while_it_drains_is_not_claimed_again(autojump_clock: MockClock) -> None:
    """It registers anew, and takes nothing."""
    async with open_node("memory://a") as node, open_node("memory://a") as other, trio.open_nursery() as nursery:
        async with node.serve(make_service(), instance_id="one") as one:
            (claim,) = await one.claim("a")
            tag = one.lease_tag

            async def call() -> None:
                with pytest.raises(LeaseLost):
                    await other.call("svc", "work", {"seconds": 5}, resource_id="a")

            nursery.start_soon(call)
            await trio.sleep(0.1)
            nursery.start_soon(one.drain)  # noqa: ASYNC111 - the order of the blocks is what is tested
            await trio.sleep(1)
            await other.registry.deregister("svc", "one")
            assert await claim.wait_ended() is EndReason.ERASED
            await trio.sleep(20)
            assert one.ready
            assert one.lease_tag != tag
            assert not one.claims
            view = await other.registry.get_service("svc")
            assert [instance.draining for instance in view.instances] == [True]

"""What is refused says who stands in the way, for how long, and what to do."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from aegis_core.errors import (
    Forbidden,
    InstanceConflict,
    LeaseLost,
    NoInstance,
    RemoteError,
    ServiceNotFound,
    TransportUnavailable,
)
from aegis_core.models import EndReason, Outcome, Role
from aegis_core.node.call import Call
from aegis_core.node.instance import Instance
from aegis_core.node.node import open_node
from aegis_core.node.service import Service
from tests.node.faulty import Faults
from tests.node.scene import scene
from tests.node.wires import lose_request

# --- Instance ids ------------------------------------------------------------------------------


async def test_id_that_another_node_serves_is_refused_with_the_time_its_lease_has_left(
    autojump_clock: MockClock,
) -> None:
    """Somebody started again after a crash knows how long to wait."""
    async with open_node("memory://") as first, open_node("memory://") as second:
        async with first.serve(Service("rooms"), instance_id="one"):
            await trio.sleep(3)
            with pytest.raises(InstanceConflict) as caught:
                async with second.serve(Service("rooms"), instance_id="one"):
                    raise AssertionError("not reached")
    assert (caught.value.lease_left, caught.value.is_local) == (pytest.approx(27), False)
    assert str(caught.value) == (
        "instance id 'one' of service 'rooms' is in use by a live instance, whose lease ends in 27.0 s unless it is "
        "renewed; if that is this program before it crashed, wait so long, or leave instance_id out: each start has an "
        "id of its own then"
    )


async def test_id_that_the_same_node_serves_is_refused_as_its_own() -> None:
    """Waiting would not help."""
    async with open_node("memory://") as node, node.serve(Service("rooms"), instance_id="one"):
        with pytest.raises(InstanceConflict, match="by this very node: give each instance an id of its own") as caught:
            async with node.serve(Service("rooms"), instance_id="one"):
                raise AssertionError("not reached")
    assert caught.value.is_local


async def test_thin_registration_that_is_refused_says_the_same(autojump_clock: MockClock) -> None:
    """By whichever way an id comes into the registry."""
    async with open_node("memory://") as node:
        await node.registry.register("rooms", "one", ttl=8)
        await trio.sleep(2)
        with pytest.raises(InstanceConflict, match=r"whose lease ends in 6\.0 s"):
            await node.registry.register("rooms", "one")


async def test_id_of_an_unregistered_instance_is_refused_while_it_is_served() -> None:
    """It has no lease, but two could not be told apart."""
    async with open_node("memory://") as node:
        async with node.serve(Service("rooms"), instance_id="one", register=False):
            with pytest.raises(InstanceConflict) as caught:
                async with node.serve(Service("rooms"), instance_id="one", register=False):
                    raise AssertionError("not reached")
        assert str(caught.value) == "instance id 'one' of service 'rooms' is in use by a live instance"
        async with node.serve(Service("rooms"), instance_id="one", register=False) as again:
            assert again.instance_id == "one"


# --- Calls -------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_resource", [True, False])
async def test_call_that_an_open_circuit_refuses_says_for_how_long(
    *, by_resource: bool, autojump_clock: MockClock
) -> None:
    """The way to the owner, and the way to any instance."""
    async with scene() as it:
        it.wire.always["a"] = lose_request
        where = {} if by_resource else {"resource_id": None}
        for _ in range(5):
            with pytest.raises(TransportUnavailable):
                await it.call(**where)
        opened = trio.current_time()
        with pytest.raises(NoInstance) as caught:
            await it.call(timeout=1, **where)
        left = opened + 5 - trio.current_time()
        assert caught.value.retry_after == pytest.approx(left)
        assert str(caught.value) == (
            "no instance of service 'account-service' can take the call: circuit open after repeated failures of a; "
            f"tried again in {left:.1f} s"
        )
        assert caught.value.outcome is Outcome.NOT_SENT


async def test_call_that_nobody_is_active_for_says_so(autojump_clock: MockClock) -> None:
    """In words, not by the router's own term."""
    async with open_node("memory://") as node:
        async with node.serve(Service("rooms"), role=Role.STANDBY, instance_id="one") as instance:
            await instance.wait_role(Role.ACTIVE)
            await instance.drain()
            with pytest.raises(NoInstance, match="can take the call: all of them are draining"):
                await node.call("rooms", "book", timeout=1)


async def test_service_that_is_not_there_is_told_with_the_one_that_may_be_meant() -> None:
    """Wherever a service is named."""
    async with open_node("memory://") as node, node.serve(Service("account-service")):
        for wrong in (
            node.call("acount-service", "balance"),
            node.registry.get_service("acount-service"),
            node.registry.list_roles("acount-service"),
        ):
            with pytest.raises(ServiceNotFound, match="; did you mean 'account-service'") as caught:
                await wrong
            assert caught.value.similar == "account-service"
        with pytest.raises(ServiceNotFound, match=r"no instance of service 'zoo' is registered$"):
            await node.call("zoo", "feed")


async def test_handler_whose_check_fails_answers_that_its_claim_was_lost(autojump_clock: MockClock) -> None:
    """Also when the lease is believed in again by the time the handler has unwound."""
    faults, service = Faults(), Service("rooms")

    @service.method
    async def book(call: Call) -> None:
        assert call.claim is not None
        faults.clock.offset += 100  # the clock jumps, and is set right again
        try:
            call.claim.check()
        finally:
            faults.clock.offset -= 100

    async with faults.node() as node, node.serve(service, instance_id="one") as instance:
        (claim,) = await instance.claim("room")
        with pytest.raises(LeaseLost) as caught:
            await node.call("rooms", "book", resource_id="room")
        assert (caught.value.epoch, caught.value.reason) == (claim.epoch, EndReason.EXPIRED)
        assert (caught.value.outcome, caught.value.answered_by) == (Outcome.MAYBE_EXECUTED, "one")


async def test_handler_that_lost_something_else_has_failed(autojump_clock: MockClock) -> None:
    """The claim of another resource is no business of the caller."""
    service = Service("rooms")

    @service.method
    async def book(call: Call) -> None:
        raise LeaseLost(resource_id="key", epoch=call.epoch)

    async with open_node("memory://") as node, node.serve(service) as instance:
        await instance.claim("room")
        with pytest.raises(RemoteError, match="LeaseLost: the claim of 'key'"):
            await node.call("rooms", "book", resource_id="room")


# --- Roles that never come ---------------------------------------------------------------------


async def wait_in_vain(instance: Instance, why: str) -> None:
    """Wait for the role, as a program does that does not know better."""
    with pytest.raises(Forbidden, match=f"wait_role {instance.instance_id} is not allowed: {why}"):
        await instance.wait_role(Role.ACTIVE)


async def test_waiting_for_a_role_ends_with_the_instance(autojump_clock: MockClock) -> None:
    """Who waited, and who waits only then, is told why it never comes."""
    service = Service("rooms")
    async with open_node("memory://") as node, trio.open_nursery() as nursery:
        async with node.serve(service, role=Role.ACTIVE), node.serve(service, role=Role.STANDBY) as standby:
            nursery.start_soon(wait_in_vain, standby, "it is draining")  # noqa: ASYNC111 - it outlives the block
            await trio.sleep(1)
        await wait_in_vain(standby, "it is closed")
        await standby.wait_role(Role.STANDBY)


async def test_waiting_for_a_role_ends_when_the_block_is_cancelled(autojump_clock: MockClock) -> None:
    """Then nothing drains."""
    service = Service("rooms")
    async with open_node("memory://") as node, trio.open_nursery() as nursery:
        async with node.serve(service, role=Role.ACTIVE):
            with trio.move_on_after(1):
                async with node.serve(service, role=Role.STANDBY) as standby:
                    nursery.start_soon(wait_in_vain, standby, "it is closed")  # noqa: ASYNC111 - it outlives the block
                    await trio.sleep_forever()


async def test_an_instance_that_is_not_registered_waits_for_no_role() -> None:
    """It can have none."""
    async with open_node("memory://") as node, node.serve(Service("rooms"), register=False) as instance:
        await wait_in_vain(instance, "it was served with register=False")

"""Instances that fall silent, are overrun or gone: limits, circuits and leases, as the caller keeps them."""

from __future__ import annotations

import attrs
import pytest
import trio
from trio.testing import MockClock

from aegis_core import events
from aegis_core.errors import (
    CallTimeout,
    InstanceNotFound,
    NoInstance,
    Overloaded,
    RemoteError,
    TransportUnavailable,
)
from aegis_core.models import Outcome
from aegis_core.node.call import Call
from aegis_core.node.node import open_node
from aegis_core.node.service import Service
from tests.node.scene import scene
from tests.node.wires import Wire, answer, lose_request, refuse, silence

# --- Instances that are gone -------------------------------------------------------------------


async def test_long_call_fails_when_the_callees_lease_ends(autojump_clock: MockClock) -> None:
    """It waits a second more for an answer that may be on its way, not for one that cannot come."""
    async with scene() as it:
        it.wire.always["a"] = silence

        async def leave() -> None:
            await trio.sleep(7)
            await it.host.registry.deregister("account-service", "a")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave)
            with pytest.raises(TransportUnavailable, match="lease ended") as caught:
                await it.call(timeout=600)
        assert caught.value.outcome is Outcome.MAYBE_EXECUTED
        assert trio.current_time() == pytest.approx(8)
        assert it.wire.under_way == 0


async def test_long_idempotent_call_goes_to_who_is_left(autojump_clock: MockClock) -> None:
    """The failure, a second after the lease ended, is met at once by another attempt."""
    async with scene(second=True) as it:
        it.wire.always["a"] = silence

        async def leave() -> None:
            await trio.sleep(7)
            await it.host.registry.deregister("account-service", "a")

        async def call() -> None:
            assert await it.call("harmless", resource_id=None, timeout=600) == "b"

        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave)
            for _ in range(2):  # each goes to another first
                nursery.start_soon(call)
        assert trio.current_time() == pytest.approx(8)


async def test_instance_that_is_not_registered_is_found_by_its_id_or_missing(autojump_clock: MockClock) -> None:
    """It answers by its id; when nobody does, it is not found, however often one asks."""
    async with scene() as it:
        service = Service("hidden")

        @service.method
        async def ping(call: Call) -> str:
            return "pong"

        async with it.host.serve(service, instance_id="h", register=False):
            assert await it.caller.call("hidden", "ping", instance_id="h") == "pong"
        for _ in range(10):
            with pytest.raises(InstanceNotFound):
                await it.caller.call("hidden", "ping", instance_id="h")


# --- Limits and circuits -----------------------------------------------------------------------


async def test_requests_to_one_instance_are_limited(autojump_clock: MockClock) -> None:
    """Beyond the limit nothing is sent; the call waits for room, and fails as overloaded when there is none in time."""
    async with scene(limits={"per_instance": 2}) as it:
        it.wire.always["a"] = silence
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                with pytest.raises(CallTimeout):
                    await it.call(timeout=5)

            nursery.start_soon(ask)
            nursery.start_soon(ask)
            await trio.sleep(1)
            (record,) = it.caller.runtime.directory.snapshot.live("account-service")
            assert it.caller.client.pending(record) == 2
            with pytest.raises(Overloaded, match="this node's way") as caught:
                await it.call(timeout=2)
            assert (caught.value.limit, caught.value.answered_by) == (2, "")
            assert len(it.wire.sent) == 2
        assert it.caller.client.pending(record) == 0


async def test_circuit_opens_and_closes_and_says_so(autojump_clock: MockClock) -> None:
    """Five failures in a row open it for five seconds; then one request is let through."""
    async with scene() as it, it.caller.events(events.CircuitStateChanged) as changes:
        it.wire.always["a"] = lose_request
        for _ in range(5):
            with pytest.raises(TransportUnavailable):
                await it.call()
        with pytest.raises(NoInstance, match="circuit open after repeated failures of a;") as caught:
            await it.call(timeout=1)
        assert caught.value.outcome is Outcome.NOT_SENT
        assert len(it.wire.sent) == 5
        it.wire.always.clear()
        assert await it.call(timeout=10) == "a"
        assert trio.current_time() >= 5
        told = [changes.receive_nowait() for _ in range(3)]
        assert [(change.old, change.new) for change in told] == [  # type: ignore[attr-defined]
            ("closed", "open"),
            ("open", "half-open"),
            ("half-open", "closed"),
        ]
        assert {(change.what, change.instance_id) for change in told} == {("a", "a")}  # type: ignore[attr-defined]


async def test_instance_with_an_open_circuit_is_out_of_the_rotation(autojump_clock: MockClock) -> None:
    """Calls by service go to the others, and come back when a trial succeeds."""
    async with scene(second=True, circuit={"failures": 2, "cooldown": 5}) as it:
        it.wire.always["a"] = refuse
        for _ in range(10):
            assert await it.call(resource_id=None) == "b"
        assert it.wire.asked.count("a") == 2
        it.wire.always.clear()
        await trio.sleep(5)
        assert {str(await it.call(resource_id=None)) for _ in range(6)} == {"a", "b"}


async def test_only_silence_opens_a_circuit(autojump_clock: MockClock) -> None:
    """Whoever answers is there, whatever the answer is."""
    async with scene() as it:
        it.wire.always["a"] = answer(RemoteError(kind="ValueError"))
        for _ in range(20):
            with pytest.raises(RemoteError):
                await it.call()
        it.wire.always["a"] = silence
        for _ in range(5):
            with pytest.raises(CallTimeout):
                await it.call(timeout=1)
        with pytest.raises(NoInstance, match="circuit"):
            await it.call(timeout=1)


async def test_answered_timeouts_open_a_circuit_as_well(autojump_clock: MockClock) -> None:
    """Whose clock ends the call first makes no difference."""
    async with scene() as it:
        it.wire.always["a"] = answer(CallTimeout(timeout=1, outcome=Outcome.MAYBE_EXECUTED))
        for _ in range(5):
            with pytest.raises(CallTimeout):
                await it.call()
        with pytest.raises(NoInstance, match="circuit"):
            await it.call(timeout=1)


async def test_new_incarnation_has_a_circuit_of_its_own(autojump_clock: MockClock) -> None:
    """What its predecessor did is forgotten with it."""
    service = Service("account-service")

    @service.method
    async def plain(call: Call) -> str:
        return "answered"

    wire = Wire()
    async with wire.node(circuit={"failures": 1, "cooldown": 1000}) as caller, open_node("memory://") as host:
        async with host.serve(service, instance_id="a"):
            wire.faults[:] = [lose_request]
            with pytest.raises(TransportUnavailable):
                await caller.call("account-service", "plain")
            with pytest.raises(NoInstance):
                await caller.call("account-service", "plain", timeout=1)
        async with host.serve(service, instance_id="a"):
            assert await caller.call("account-service", "plain") == "answered"


async def test_instance_without_a_common_transport_cannot_be_reached(autojump_clock: MockClock) -> None:
    """The call says which ways there are."""
    async with scene() as it:
        (record,) = it.caller.runtime.directory.snapshot.live("account-service")
        far = attrs.evolve(record, instance_id="far", lease="far", endpoints=("carrier-pigeon://loft",))
        with pytest.raises(TransportUnavailable, match="carrier-pigeon") as caught:
            it.caller.client._peers.meet(far)
        assert caught.value.outcome is Outcome.NOT_SENT

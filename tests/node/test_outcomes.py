"""What a failed call says, and when it is tried again: only where that is safe, and never beyond its time."""

from __future__ import annotations

import itertools
from contextlib import AsyncExitStack

import pytest
import trio
from trio.testing import MockClock

from aegis_core.errors import (
    AegisError,
    CallTimeout,
    InvalidRequest,
    LeaseLost,
    Misdirected,
    NoInstance,
    Overloaded,
    RemoteError,
    TransportUnavailable,
    Unavailable,
)
from aegis_core.models import Outcome
from aegis_core.node.call import Call
from aegis_core.node.node import open_node
from aegis_core.node.service import Service
from tests.node.scene import RESOURCE, scene
from tests.node.wires import Wire, answer, lose_answer, lose_request, refuse, silence

REJECTED = NoInstance(service_name="account-service", reason="is draining", outcome=Outcome.REJECTED)


# --- Nothing was executed: tried again ---------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [refuse, answer(REJECTED), answer(Overloaded(limit=1, asked=2)), answer(Misdirected(resource_id=RESOURCE))],
    ids=["not sent", "rejected", "overloaded", "misdirected"],
)
async def test_what_was_not_executed_is_tried_again(fault: object, autojump_clock: MockClock) -> None:
    """After a pause, at the owner."""
    async with scene() as it:
        it.wire.faults[:] = [fault] * 3  # type: ignore[list-item]
        assert await it.call() == "a"
        assert it.executed == ["a"]
        assert len(it.wire.sent) == 4
        assert trio.current_time() > 0.02
        assert len({request.message_id or request.trace_id for _, request in it.wire.sent}) == 1


async def test_pauses_grow_and_are_jittered(autojump_clock: MockClock) -> None:
    """From 20 ms, doubled up to a second, less up to a half."""
    times: list[float] = []

    async def note(_wire: Wire, endpoint: str, _payload: bytes, _timeout: float) -> bytes:
        times.append(trio.current_time())
        raise TransportUnavailable(endpoint=endpoint)

    async with scene(circuit={"failures": 1000}) as it:
        it.wire.always["a"] = note
        with pytest.raises(TransportUnavailable):
            await it.call(timeout=20)
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    expected = [min(1.0, 0.02 * 2**n) for n in range(len(pauses))]
    assert all(most / 2 <= pause <= most for pause, most in zip(pauses, expected, strict=True))
    assert len(set(pauses)) == len(pauses)
    assert times[-1] <= 20


@pytest.mark.parametrize(
    ("error", "kind", "outcome"),
    [
        (REJECTED, NoInstance, Outcome.REJECTED),
        (Misdirected(resource_id=RESOURCE), NoInstance, Outcome.REJECTED),
        (TransportUnavailable(outcome=Outcome.NOT_SENT), TransportUnavailable, Outcome.NOT_SENT),
    ],
    ids=["rejected", "misdirected", "not sent"],
)
async def test_when_time_is_over_the_last_failure_is_raised(
    error: AegisError, kind: type[Unavailable], outcome: Outcome, autojump_clock: MockClock
) -> None:
    """No pause goes beyond the deadline, and the outcome says that nothing happened."""
    async with scene() as it:
        it.wire.always["a"] = answer(error)
        with pytest.raises(kind) as caught:
            await it.call(timeout=3)
        assert caught.value.outcome is outcome
        assert 2 <= trio.current_time() <= 3
    assert it.executed == []


async def test_overload_is_told_when_time_is_over(autojump_clock: MockClock) -> None:
    """The callee's own error reaches the caller."""
    async with scene() as it:
        it.wire.always["a"] = answer(Overloaded(limit=7, asked=8, what="the instance"))
        with pytest.raises(Overloaded) as caught:
            await it.call(timeout=1)
        assert (caught.value.limit, caught.value.answered_by) == (7, "a")


async def test_call_by_service_goes_elsewhere_at_once(autojump_clock: MockClock) -> None:
    """Where there is somebody else, nobody waits."""
    async with scene(second=True) as it:
        it.wire.always["a"] = refuse
        for _ in range(4):
            assert await it.call(resource_id=None) == "b"
        assert trio.current_time() == 0
        assert "a" in it.wire.asked


async def test_call_by_service_comes_back_to_those_who_refused(autojump_clock: MockClock) -> None:
    """When everybody was tried, all are tried again after a pause."""
    async with scene(second=True) as it:
        it.wire.faults[:] = [refuse] * 4
        assert await it.call(resource_id=None) in {"a", "b"}
        assert sorted(it.wire.asked[:2]) == sorted(it.wire.asked[2:4]) == ["a", "b"]
        assert trio.current_time() > 0


async def test_call_by_instance_stays_with_it(autojump_clock: MockClock) -> None:
    """No other instance is asked instead."""
    async with scene(second=True) as it:
        it.wire.faults[:] = [refuse] * 2
        assert await it.call(instance_id="b") == "b"
        assert it.wire.asked == ["b", "b", "b"]


async def test_caller_waits_for_its_view_when_the_callee_knows_more(autojump_clock: MockClock) -> None:
    """A newer epoch than one's own is waited for, not polled for."""
    async with scene() as it:
        await it.caller.runtime.directory.sync()
        ahead = it.caller.runtime.directory.snapshot.revision + 2

        async def claim_more() -> None:
            await trio.sleep(1)
            await it.a.claim("account:2", "account:3")

        it.wire.faults[:] = [answer(Misdirected(resource_id=RESOURCE, epoch=ahead, owner="a"))]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(claim_more)
            assert await it.call() == "a"
        assert len(it.wire.sent) == 2
        assert trio.current_time() == pytest.approx(1)


async def test_epoch_that_never_comes_ends_with_the_calls_time(autojump_clock: MockClock) -> None:
    """Waiting for the view is bounded, too."""
    async with scene() as it:
        it.wire.always["a"] = answer(Misdirected(resource_id=RESOURCE, epoch=1 << 60, owner="b"))
        with pytest.raises(NoInstance, match="on the move") as caught:
            await it.call(timeout=2)
        assert caught.value.outcome is Outcome.REJECTED
        assert trio.current_time() == pytest.approx(2)
        assert len(it.wire.sent) == 1


async def test_change_of_the_owner_ends_a_pause(autojump_clock: MockClock) -> None:
    """The caller need not sleep on when its view shows a new owner."""
    async with scene(second=True, retry={"initial": 50, "maximum": 50}) as it:
        it.wire.always["a"] = answer(Misdirected(resource_id=RESOURCE))

        async def move() -> None:
            await trio.sleep(1)
            assert it.b is not None
            await it.a.transfer(RESOURCE, to="b")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(move)
            assert await it.call(timeout=100) == "b"
            assert trio.current_time() == pytest.approx(1)


def idempotent_service() -> Service:
    """A service whose only method may be repeated."""
    service = Service("harmless-service")

    @service.method(idempotent=True)
    async def harmless(call: Call) -> str:
        return call.method

    return service


# --- Nobody knows: tried again only where that is harmless -------------------------------------


@pytest.mark.parametrize("fault", [lose_request, lose_answer], ids=["request lost", "answer lost"])
async def test_what_may_have_been_executed_is_not_tried_again(fault: object, autojump_clock: MockClock) -> None:
    """The caller is told, at once."""
    async with scene() as it:
        it.wire.faults[:] = [fault]  # type: ignore[list-item]
        with pytest.raises(TransportUnavailable) as caught:
            await it.call()
        assert caught.value.outcome is Outcome.MAYBE_EXECUTED
        assert len(it.wire.sent) == 1
        assert trio.current_time() == 0


@pytest.mark.parametrize("fault", [lose_request, lose_answer], ids=["request lost", "answer lost"])
async def test_idempotent_method_is_tried_again(fault: object, autojump_clock: MockClock) -> None:
    """The callee's record says that it is, to whoever calls by name."""
    async with scene() as it:
        it.wire.faults[:] = [fault]  # type: ignore[list-item]
        assert await it.call("harmless") == "a"
        assert len(it.wire.sent) == 2


async def test_idempotent_method_is_tried_elsewhere() -> None:
    """Bound or by name, another instance will do."""
    async with scene(second=True) as it:
        it.wire.always["a"] = lose_request
        for _ in range(2):
            assert await it.caller.call("account-service", "harmless") == "b"
            assert await it.caller.bind(it.harmless)() == "b"  # type: ignore[arg-type]


async def test_idempotency_key_makes_it_safe_at_the_same_incarnation(autojump_clock: MockClock) -> None:
    """The callee answers the repeat from its cache: executed once, answered at last."""
    async with scene(second=True) as it:
        it.wire.faults[:] = [lose_answer, lose_request, refuse]
        assert await it.call(resource_id=None, idempotency_key="k1") == it.executed[0]
        assert len(it.executed) == 1
        assert len(it.wire.sent) == 4
        assert len(set(it.wire.asked)) == 1


async def test_idempotency_key_does_not_help_elsewhere(autojump_clock: MockClock) -> None:
    """When that incarnation is gone, nobody else may execute it: the caller is told."""
    async with scene(second=True) as it:

        async def leave(wire: Wire, endpoint: str, payload: bytes, timeout: float) -> bytes:
            await it.host.registry.deregister("account-service", wire.asked[-1])
            return await lose_request(wire, endpoint, payload, timeout)

        it.wire.faults[:] = [leave]
        with pytest.raises(TransportUnavailable) as caught:
            await it.call(resource_id=None, idempotency_key="k1")
        assert caught.value.outcome is Outcome.MAYBE_EXECUTED
        assert len(set(it.wire.asked)) == 1
    assert it.executed == []


async def test_repeat_with_a_key_ends_when_the_resource_has_moved(autojump_clock: MockClock) -> None:
    """An incarnation that neither remembers nor owns cannot tell: the first failure is raised."""
    async with scene() as it:
        it.wire.faults[:] = [lose_request, answer(Misdirected(resource_id=RESOURCE))]
        with pytest.raises(TransportUnavailable) as caught:
            await it.call(idempotency_key="k1")
        assert caught.value.outcome is Outcome.MAYBE_EXECUTED
        assert len(it.wire.sent) == 2


async def test_doubt_is_never_forgotten(autojump_clock: MockClock) -> None:
    """Once an attempt may have been executed, no later failure says that nothing was."""
    async with scene(circuit={"failures": 1000}) as it:
        it.wire.faults[:] = [lose_request, *[refuse] * 100]
        with pytest.raises(TransportUnavailable) as caught:
            await it.call("harmless", timeout=2)
        assert caught.value.outcome is Outcome.MAYBE_EXECUTED
        assert len(it.wire.sent) > 2
        it.wire.faults[:] = [lose_request, *[answer(Misdirected(resource_id=RESOURCE))] * 100]
        with pytest.raises(TransportUnavailable) as caught:
            await it.call("harmless", timeout=2)
        assert caught.value.outcome is Outcome.MAYBE_EXECUTED


async def test_doubt_is_never_forgotten_when_nobody_is_left(autojump_clock: MockClock) -> None:
    """Not even when the service is gone meanwhile."""
    wire = Wire()
    async with wire.node() as caller, open_node("memory://") as host, AsyncExitStack() as serving:
        await serving.enter_async_context(host.serve(idempotent_service()))

        async def leave(_wire: Wire, endpoint: str, payload: bytes, timeout: float) -> bytes:
            await serving.aclose()
            return await lose_request(_wire, endpoint, payload, timeout)

        wire.faults[:] = [leave]
        with pytest.raises(TransportUnavailable) as caught:
            await caller.call("harmless-service", "harmless", timeout=2)
        assert caught.value.outcome is Outcome.MAYBE_EXECUTED
        assert caller.runtime.directory.snapshot.live("harmless-service") == ()


async def test_lost_lease_of_the_callee_is_an_open_outcome(autojump_clock: MockClock) -> None:
    """LEASE_LOST is raised, and tried again only for idempotent methods; a key cannot help, for it was answered."""
    lost = answer(LeaseLost(resource_id=RESOURCE))
    async with scene() as it:
        for options in ({}, {"idempotency_key": "k1"}):
            it.wire.faults[:] = [lost]
            with pytest.raises(LeaseLost) as caught:
                await it.call(**options)
            assert caught.value.outcome is Outcome.MAYBE_EXECUTED
        it.wire.faults[:] = [lost]
        assert await it.call("harmless") == "a"


async def test_error_of_the_handler_is_final() -> None:
    """What the callee decided is not asked again."""
    async with scene() as it:
        for error in (RemoteError(kind="ValueError"), InvalidRequest.at("$", "no")):
            it.wire.faults[:] = [answer(error)]
            it.wire.sent.clear()
            with pytest.raises(type(error)):
                await it.call("harmless")
            assert len(it.wire.sent) == 1


async def test_time_that_runs_out_is_an_open_outcome(autojump_clock: MockClock) -> None:
    """Also for idempotent methods there is no time for another attempt."""
    async with scene() as it:
        it.wire.always["a"] = silence
        with pytest.raises(CallTimeout) as caught:
            await it.call("harmless", timeout=3)
        assert caught.value.outcome is Outcome.MAYBE_EXECUTED
        assert trio.current_time() == pytest.approx(3)


async def test_callee_that_ran_out_of_an_outer_scopes_time_does_not_hide_it(autojump_clock: MockClock) -> None:
    """The callee says TIMEOUT a moment early; the scope is what ends the call."""
    async with scene() as it:
        it.wire.always["a"] = answer(CallTimeout(timeout=1, outcome=Outcome.MAYBE_EXECUTED))
        with trio.move_on_after(1) as scope:
            await it.call(timeout=30)
        assert scope.cancelled_caught
        assert trio.current_time() == pytest.approx(1)


# --- The instance is gone ----------------------------------------------------------------------


@pytest.mark.parametrize("answered", [True, False], ids=["answer on its way", "no answer"])
async def test_long_call_ends_soon_after_its_instance_left(answered: bool, autojump_clock: MockClock) -> None:  # noqa: FBT001
    """The news of its leaving may be faster than its last answer, which is waited for; not longer than a second."""
    service, wire = Service("short-lived"), Wire()
    executed, ended = trio.Event(), []

    @service.method
    async def last(call: Call) -> str:
        return "done"

    async def late(wire: Wire, endpoint: str, payload: bytes, timeout: float) -> bytes:
        result = await wire.inner.request(endpoint, payload, timeout=timeout)
        executed.set()
        await trio.sleep(0.9 if answered else timeout)
        return result

    async def call() -> None:
        try:
            ended.append(await caller.call("short-lived", "last", timeout=1000))
        except TransportUnavailable as exc:
            ended.append(exc.outcome)

    async with wire.node() as caller, open_node("memory://") as host, trio.open_nursery() as nursery:
        wire.faults[:] = [late]
        async with host.serve(service, instance_id="a"):
            await caller.runtime.directory.sync()
            nursery.start_soon(call)
            await executed.wait()
        await caller.runtime.directory.sync()
        assert caller.runtime.directory.snapshot.instance("short-lived", "a") is None
        assert ended == []
        await trio.sleep(1.1)
        assert ended == ["done" if answered else Outcome.MAYBE_EXECUTED]

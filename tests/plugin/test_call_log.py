"""Calls that instances of a cluster handled, waited for, and none of them lost."""

from __future__ import annotations

from functools import partial

import pytest
import trio
import trio.lowlevel
import trio.testing
from trio.abc import Instrument
from trio.lowlevel import Task
from trio.testing import MockClock

from aegis_core import (
    Call,
    CallTimeout,
    InvalidRequest,
    LeaseLost,
    Node,
    RemoteError,
    ResourceNotFound,
    Service,
    TransportUnavailable,
    codec,
)
from aegis_core.backend import Inbound
from aegis_core.envelopes import AnswerEnvelope, RequestEnvelope
from aegis_pytest.call_log import CallLog
from aegis_pytest.cluster import Cluster
from aegis_pytest.faults import Faults
from aegis_pytest.tapped_transport import TappedTransport

rooms = Service("rooms")


@rooms.on_acquire
async def open_book(_claim: object) -> None:
    """Take it over."""


@rooms.method
async def book(call: Call, guest: str, nights: int = 1) -> str:
    """Answer after a second for each night; nobody may stay for none."""
    if not nights:
        raise ValueError("not even one night")
    await trio.sleep(nights)
    return guest.upper()


async def ask(node: Node, guest: str, nights: int = 1, *, resource_id: str | None = None, timeout: float = 5) -> object:
    """Book."""
    params = {"guest": guest, "nights": nights}
    answer: object = await node.call("rooms", "book", params, resource_id=resource_id, timeout=timeout)
    return answer


async def test_call_is_seen_as_it_was_handled(aegis_cluster: Cluster, aegis_calls: CallLog) -> None:
    """By whom, with what, under which epoch, and what was answered."""
    instance = await aegis_cluster.serve("a", rooms, instance_id="rooms-1")
    (claim,) = await instance.claim("room:7")
    caller = await aegis_cluster.node("b")
    await ask(caller, "Ada", resource_id="room:7")
    (call,) = aegis_calls
    assert (call.node, call.instance_id, call.service_name, call.method) == ("a", "rooms-1", "rooms", "book")
    assert (call.params, call.resource_id, call.epoch) == ({"guest": "Ada", "nights": 1}, "room:7", claim.epoch)
    assert (call.answered, call.result, call.error, call.refused) == (True, "ADA", None, False)
    assert (call.message_id, call.idempotency_key) == (call.trace_id, None)
    assert repr(call) == "<HandledCall rooms.book(guest='Ada', nights=1) of room:7, by rooms-1 on node a: 'ADA'>"
    assert repr(aegis_calls) == "<CallLog of 1 calls>"


async def test_error_of_a_handler_is_its_answer(aegis_cluster: Cluster, aegis_calls: CallLog) -> None:
    """So is that of parameters that do not fit."""
    await aegis_cluster.serve("a", rooms)
    caller = await aegis_cluster.node("b")
    with pytest.raises(RemoteError):
        await ask(caller, "Ada", 0)
    with pytest.raises(InvalidRequest):
        await caller.call("rooms", "book", {"nights": 1})
    await aegis_calls.expect("rooms", error=InvalidRequest, within=0)
    crashed = await aegis_calls.expect("rooms", params={"guest": "Ada"}, error=RemoteError, within=0)
    assert "ValueError: not even one night" in str(crashed)
    await aegis_calls.expect_none_lost(within=0)


async def test_call_is_waited_for_until_it_is_answered(aegis_cluster: Cluster, aegis_calls: CallLog) -> None:
    """Also by several, of whom each takes one."""
    await aegis_cluster.serve("a", rooms)
    caller = await aegis_cluster.node("b")
    took: list[tuple[object, float]] = []

    async def wait() -> None:
        call = await aegis_calls.expect("rooms", "book")
        took.append((call.result, trio.current_time()))

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        nursery.start_soon(wait)
        nursery.start_soon(partial(ask, caller, "Ada", 2))
        nursery.start_soon(partial(ask, caller, "Eve", 3))
        await trio.sleep(1)
        assert [call.answered for call in aegis_calls.of("rooms")] == [False, False]
        assert "no answer" in str(aegis_calls.of("rooms", params={"guest": "Ada"})[0])
    assert took == [("ADA", began + 2), ("EVE", began + 3)]
    with pytest.raises(AssertionError, match=r"no call was handled within 1 s(.|\n)*not expected yet:\n  nothing"):
        await aegis_calls.expect(within=1)
    assert len(aegis_calls.of("rooms", "book", result="EVE")) == 1
    aegis_calls.clear()
    assert len(aegis_calls) == 2


async def test_many_calls_are_told_in_a_few_lines(aegis_cluster: Cluster, aegis_calls: CallLog) -> None:
    """The last twelve; the others are counted."""
    await aegis_cluster.serve("a", rooms)
    caller = await aegis_cluster.node("b")
    for number in range(30):
        await ask(caller, f"guest {number}")
    with pytest.raises(AssertionError) as caught:
        await aegis_calls.expect("rooms", "cancel", within=1)
    lines = str(caught.value).splitlines()
    assert (len(lines), lines[1]) == (14, "  (18 before)")


async def test_field_that_does_not_exist_is_an_error_at_once(aegis_calls: CallLog) -> None:
    """Not a call that never comes."""
    with pytest.raises(TypeError, match="a call has no field 'guest'; it has node, instance_id, "):
        await aegis_calls.expect("rooms", "book", guest="Ada")
    with pytest.raises(TypeError, match="a call has no field 'at'"):
        aegis_calls.of(at=1)


async def test_expecting_is_a_checkpoint(aegis_cluster: Cluster, aegis_calls: CallLog) -> None:
    """Cancelled, it takes nothing even if the call is there."""
    await aegis_cluster.serve("a", rooms)
    await ask(await aegis_cluster.node("b"), "Ada")
    with trio.CancelScope() as scope:
        scope.cancel()
        await aegis_calls.expect("rooms")
    assert scope.cancelled_caught
    await aegis_calls.expect("rooms", within=0)


def handled(log: CallLog, *, before: bool = False) -> None:
    """An instance answers a call; *before*: of which it had heard before `CallLog.clear`."""
    call = log.received("a", "rooms-1", RequestEnvelope("book", {"guest": "Ada"}, service_name="rooms"))
    if before:
        log.clear()
    log.answered(call, codec.encode_answer(AnswerEnvelope("ADA")))


async def test_call_is_taken_by_one_who_expects_it(autojump_clock: MockClock) -> None:
    """Who waited for it has it, also if somebody else asks before that task runs."""
    log = CallLog()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.expect, "rooms")
        await trio.testing.wait_all_tasks_blocked()
        handled(log)
        with pytest.raises(AssertionError, match="was handled within 0 s"):
            await log.expect("rooms", within=0)


class AnswerAtLast(Instrument):
    """An instance answers when the time *at* has come, just before the task goes on that is told so."""

    def __init__(self, log: CallLog, at: float) -> None:
        self._log, self._at = log, at

    def before_task_step(self, task: Task) -> None:
        """Answer once."""
        if trio.current_time() >= self._at and not len(self._log):
            handled(self._log)


async def test_call_that_comes_as_the_time_is_over_is_taken(autojump_clock: MockClock) -> None:
    """Who has been woken for the time, and has not run yet, has it."""
    log = CallLog()
    trio.lowlevel.add_instrument(AnswerAtLast(log, trio.current_time() + 1))
    call = await log.expect("rooms", within=1)
    assert [call] == list(log)


async def handled_as_its_taker_is_cancelled(log: CallLog, *, others: int = 0, clear: bool = False) -> None:
    """A call comes in the step in which the first is cancelled who waits for it; *others* wait a second each."""
    scope = trio.CancelScope()

    async def wait() -> None:
        with scope:
            await log.expect("rooms")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(others):
            nursery.start_soon(partial(log.expect, "rooms", within=1))
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        handled(log)
        if clear:
            log.clear()
    assert scope.cancelled_caught


async def test_who_is_cancelled_as_the_call_comes_has_taken_nothing(autojump_clock: MockClock) -> None:
    """Another who waits has it, or who asks later; but not what was cleared meanwhile."""
    log = CallLog()
    await handled_as_its_taker_is_cancelled(log)
    call = await log.expect("rooms", within=0)
    assert [call] == list(log)
    await handled_as_its_taker_is_cancelled(log, others=1)
    await handled_as_its_taker_is_cancelled(log, clear=True)
    with pytest.raises(AssertionError, match="was handled within 0 s"):
        await log.expect("rooms", within=0)


async def test_what_was_under_way_is_cleared_too(autojump_clock: MockClock) -> None:
    """It is not expected any more, whether somebody waits already when its answer comes or asks later."""
    log = CallLog()
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(AssertionError, match="was handled within 1 s"):
                await log.expect("rooms", within=1)

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        handled(log, before=True)
    with pytest.raises(AssertionError, match="was handled within 0 s"):
        await log.expect("rooms", within=0)


async def test_nothing_is_lost_while_a_resource_moves(aegis_cluster: Cluster, aegis_calls: CallLog) -> None:
    """Calls that are refused where it was are handled where it is; those that are under way are waited for."""
    first = await aegis_cluster.serve("a", rooms)
    second = await aegis_cluster.serve("b", rooms)
    caller = await aegis_cluster.node("c")
    await first.claim("room:7")
    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(partial(ask, caller, f"guest {number}", resource_id="room:7"))
        await trio.sleep(0.1)
        nursery.start_soon(partial(first.transfer, "room:7", to=second.instance_id))
        await trio.sleep(0.1)
        for number in range(10, 20):
            nursery.start_soon(partial(ask, caller, f"guest {number}", resource_id="room:7"))
        await trio.lowlevel.checkpoint()
        began = trio.current_time()
        await aegis_calls.expect_none_lost("rooms", "book")
        assert trio.current_time() > began
    assert [call.instance_id for call in aegis_calls] == [first.instance_id] * 10 + [second.instance_id] * 10
    assert {call.result for call in aegis_calls} == {f"GUEST {number}" for number in range(20)}


async def test_call_that_its_instance_did_not_survive_is_lost(aegis_cluster: Cluster, aegis_calls: CallLog) -> None:
    """Its caller is told so when the lease ends, and the list of what is lost says who had begun it."""
    await aegis_cluster.serve("a", rooms, instance_id="rooms-1")
    caller = await aegis_cluster.node("b")

    async def give_up() -> None:
        with pytest.raises(TransportUnavailable):
            await ask(caller, "Ada", 100, timeout=50)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(give_up)
        await trio.sleep(1)
        await aegis_cluster.kill("a")
    with pytest.raises(AssertionError) as caught:
        await aegis_calls.expect_none_lost(within=60)
    assert str(caught.value).splitlines() == [
        "1 of the 1 calls that were sent is lost:",
        "  rooms.book(guest='Ada', nights=100), sent by node b at 0 s: rooms-1 on node a has not answered it",
    ]


async def test_call_that_lost_its_lease_is_lost(
    aegis_cluster: Cluster, aegis_calls: CallLog, aegis_faults: Faults
) -> None:
    """Its handler was interrupted, so that nobody knows what it did."""
    instance = await aegis_cluster.serve("a", rooms, instance_id="rooms-1")
    caller = await aegis_cluster.node("b")
    await instance.claim("room:7")

    async def give_up() -> None:
        with pytest.raises(LeaseLost):
            await ask(caller, "Ada", 100, resource_id="room:7", timeout=50)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(give_up)
        await trio.sleep(1)
        with aegis_faults.lose_lease("rooms-1"):
            await trio.sleep(1)
    with pytest.raises(AssertionError, match="rooms-1 on node a was interrupted in it, and its answer did not reach"):
        await aegis_calls.expect_none_lost()


async def test_who_stops_waiting_has_lost_nothing_that_is_done(aegis_cluster: Cluster, aegis_calls: CallLog) -> None:
    """The handler ends its work all the same."""
    await aegis_cluster.serve("a", rooms)
    caller = await aegis_cluster.node("b")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(ask, caller, "Ada", 3))
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    began = trio.current_time()
    await aegis_calls.expect_none_lost()
    assert trio.current_time() == began + 2
    assert [call.result for call in aegis_calls] == ["ADA"]


async def test_call_that_nobody_took_is_lost(
    aegis_cluster: Cluster, aegis_calls: CallLog, aegis_faults: Faults
) -> None:
    """Whether it did not arrive, or was refused; what the caller's node took with it is not."""
    instance = await aegis_cluster.serve("a", rooms)
    caller = await aegis_cluster.node("b")
    await instance.claim("room:7")
    with aegis_faults.partition({"b"}, {"a"}), pytest.raises(CallTimeout):
        await ask(caller, "Ada", resource_id="room:7")
    with pytest.raises(AssertionError, match=r"no instance has handled it \(no answer within 5 s\)"):
        await aegis_calls.expect_none_lost()
    await aegis_cluster.serve("a", Service("another-service"))
    await aegis_calls.expect_none_lost("another-service", within=0)
    await aegis_cluster.kill("b")
    await aegis_calls.expect_none_lost(within=0)


async def test_reason_of_a_loss_is_never_cut_off(
    aegis_cluster: Cluster, aegis_calls: CallLog, aegis_faults: Faults
) -> None:
    """However long the request is, and the names of who is concerned."""
    instance = await aegis_cluster.serve("a" * 60, rooms, instance_id="i" * 60)
    resource_id = "r" * 250
    await instance.claim(resource_id)
    caller = await aegis_cluster.node("b" * 60)
    with aegis_faults.drop(("a" * 60, "b" * 60)), pytest.raises(CallTimeout):
        await ask(caller, "Ada" * 100, resource_id=resource_id, timeout=2)
    with pytest.raises(AssertionError) as caught:
        await aegis_calls.expect_none_lost(within=0)
    line = str(caught.value).splitlines()[1]
    assert line.startswith("  rooms.book(guest='AdaAdaAda")
    assert ", sent by node bbb" in line
    assert line.endswith("and its answer did not reach the caller (no answer within 2 s)")
    assert len(line) < 400


async def test_refusal_is_no_handling(aegis_cluster: Cluster, aegis_calls: CallLog) -> None:
    """Who asks an instance for a resource that it does not own is sent on; a draining one takes nothing."""
    instance = await aegis_cluster.serve("a", rooms)
    caller = await aegis_cluster.node("b")
    with pytest.raises(ResourceNotFound):
        await ask(caller, "Ada", resource_id="room:7")
    (claim,) = await instance.claim("room:7")
    await ask(caller, "Eve", resource_id="room:7")
    await claim.release()
    with pytest.raises(ResourceNotFound):
        await ask(caller, "Ada", resource_id="room:7")
    assert [call.params["guest"] for call in aegis_calls] == ["Eve"]


async def test_what_is_no_call_passes_unseen(aegis_cluster: Cluster, aegis_calls: CallLog) -> None:
    """Bytes that are no request, and the library's own requests."""
    node = await aegis_cluster.node("a")
    instance = await aegis_cluster.serve("a", rooms)
    other = await aegis_cluster.serve("b", rooms)
    await instance.claim("room:7")
    await instance.transfer("room:7", to=other.instance_id)
    (transport,) = node.runtime.transports.values()
    assert isinstance(transport, TappedTransport)
    received: list[bytes] = []

    def answer(inbound: Inbound) -> None:
        received.append(inbound.payload)
        inbound.respond(b"!")

    async with transport.listen("x", "", answer) as endpoint:
        assert await transport.request(endpoint, b"?", timeout=1) == b"!"
    assert received == [b"?"]
    assert "TappedTransport of 'a'" in repr(transport)
    assert len(aegis_calls) == 0
    await aegis_calls.expect_none_lost()

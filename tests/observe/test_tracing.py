"""Traces: one for all that a piece of work leads to, wherever it goes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from aegis_core import Call, Claim, Instance, Node, Role, Service, open_node
from aegis_core.errors import (
    Conflict,
    Misdirected,
    RemoteError,
    ResourceConflict,
    ServiceNotFound,
    TransportUnavailable,
)
from aegis_core.observe.tracing import Tracing
from tests.node.faulty import Faults, names_key
from tests.node.scene import RESOURCE, scene
from tests.node.wires import answer, lose_request
from tests.observe.spans import ON, Spans, events_of, id_of, parent_of, recorded, trace_of, traceparent

METHOD = "account-service/who"


def service() -> Service:
    """A service whose instances take over what they are given."""
    made = Service("account-service", version="1.0.0")

    @made.method
    async def who(call: Call) -> str:
        return f"{call.trace_id}"

    @made.method
    async def fail(call: Call) -> str:
        raise ValueError("a secret of the program")

    @made.method
    async def wait(call: Call) -> None:
        await trio.sleep(60)

    @made.on_acquire
    async def take(claim: Claim) -> None:
        await trio.lowlevel.checkpoint()

    return made


@attrs.frozen
class Three:
    """A requester without instances, and two nodes with one each."""

    requester: Node
    a: Instance
    b: Instance


@asynccontextmanager
async def three() -> AsyncIterator[Three]:
    """They trace."""
    made = service()
    async with (
        open_node("memory://", config=ON) as requester,
        open_node("memory://", config=ON) as of_a,
        open_node("memory://", config=ON) as of_b,
        of_a.serve(made, instance_id="a") as a,
        of_b.serve(made, instance_id="b") as b,
    ):
        await requester.runtime.directory.sync()
        yield Three(requester, a, b)


# --- On and off --------------------------------------------------------------------------------


# --- Calls -------------------------------------------------------------------------------------


async def test_call_and_handler_are_in_the_trace_of_the_caller(autojump_clock: trio.testing.MockClock) -> None:
    """The caller's own span, the call, the handler: each the parent of the next; and logs go by the same trace id."""
    with recorded() as spans:
        async with three() as made:
            with trace.get_tracer("test").start_as_current_span("work"):
                told = await made.requester.call("account-service", "who", instance_id="a")
    work, call, handler = spans.one("work"), spans.one(METHOD, SpanKind.CLIENT), spans.one(METHOD, SpanKind.SERVER)
    assert parent_of(call) == id_of(work)
    assert parent_of(handler) == id_of(call)
    assert told == f"{trace_of(work):032x}"
    assert call.attributes is not None
    assert call.attributes["aegis.instance_id"] == "a"
    assert call.attributes["rpc.system.name"] == "aegis"
    assert call.status.status_code is StatusCode.UNSET


async def test_nested_calls_stay_in_the_trace(autojump_clock: trio.testing.MockClock) -> None:
    """A handler that calls somebody is the parent of that call."""
    outer = Service("front-service")

    @outer.method
    async def ask(call: Call) -> str:
        assert call.instance is not None
        found: str = await node.call("account-service", "who")
        return found

    with recorded() as spans:
        async with open_node("memory://", config=ON) as node, node.serve(outer), node.serve(service()):
            await node.call("front-service", "ask")
    call, handler = spans.one("front-service/ask", SpanKind.CLIENT), spans.one("front-service/ask", SpanKind.SERVER)
    assert parent_of(spans.one(METHOD, SpanKind.CLIENT)) == id_of(handler)
    assert {trace_of(span) for span in spans.all if span.name in {METHOD, "front-service/ask"}} == {trace_of(call)}


async def test_failed_attempts_and_retries_are_events_of_the_call(autojump_clock: trio.testing.MockClock) -> None:
    """One span however often it is tried; each failure says what it was."""
    with recorded() as spans:
        async with scene(second=True, **ON) as made:
            made.wire.faults = [answer(Misdirected(resource_id=RESOURCE, epoch=0))]
            await made.call()
    call = spans.one("account-service/plain", SpanKind.CLIENT)
    assert events_of(call) == ["aegis.attempt_failed", "aegis.retry"]
    assert call.events[0].attributes is not None
    assert call.events[0].attributes["error.type"] == "MISDIRECTED"


async def test_errors_are_told_without_what_they_may_hold(autojump_clock: trio.testing.MockClock) -> None:
    """The handler's span knows the type of its exception, and neither its text nor a stack; the call's the code."""
    with recorded() as spans:
        async with three() as made:
            with pytest.raises(RemoteError):
                await made.requester.call("account-service", "fail")
            with pytest.raises(ServiceNotFound):
                await made.requester.call("no-such-service", "fail")
    handler = spans.one("account-service/fail", SpanKind.SERVER)
    assert handler.attributes is not None
    assert handler.attributes["error.type"] == "ValueError"
    assert handler.status.status_code is StatusCode.ERROR
    assert "secret" not in handler.to_json()
    nowhere = spans.one("no-such-service/fail")
    assert nowhere.attributes is not None
    assert nowhere.attributes["error.type"] == "SERVICE_NOT_FOUND"


async def test_outcome_and_cancellation_are_attributes(autojump_clock: trio.testing.MockClock) -> None:
    """A call whose fate nobody knows says so; one that its caller gave up is no error."""
    with recorded() as spans:
        async with scene(**ON) as made:
            made.wire.faults = [lose_request]
            with pytest.raises(TransportUnavailable):
                await made.call()
        async with three() as others:
            with trio.move_on_after(1):
                await others.requester.call("account-service", "wait")
    lost = spans.one("account-service/plain", SpanKind.CLIENT)
    assert lost.attributes is not None
    assert lost.attributes["aegis.outcome"] == "MAYBE_EXECUTED"
    given_up = spans.one("account-service/wait", SpanKind.CLIENT)
    assert given_up.attributes is not None
    assert given_up.attributes["aegis.cancelled"] is True
    assert given_up.status.status_code is StatusCode.UNSET


async def test_handler_begins_a_trace_where_the_caller_has_none(autojump_clock: trio.testing.MockClock) -> None:
    """Not in the span in which its instance was served, which is long over."""
    with recorded() as spans:
        async with open_node("memory://") as caller, open_node("memory://", config=ON) as node:
            with trace.get_tracer("test").start_as_current_span("start"):
                serving = node.serve(service(), instance_id="a")
                await serving.__aenter__()
            await caller.runtime.directory.sync()
            await caller.call("account-service", "who")
            await trio.sleep(15)
            await serving.__aexit__(None, None, None)
    assert spans.one(METHOD).parent is None
    assert [span.parent for span in spans.named("aegis heartbeat")][:1] == [None]
    assert parent_of(spans.one("aegis register")) == id_of(spans.one("start"))


# --- Claims ------------------------------------------------------------------------------------


async def links_to(spans: Spans, made: Three, resource_id: str) -> list[int]:
    """The spans that the handler of a call for *resource_id* is linked to."""
    before = len(spans.named(METHOD))
    await made.requester.runtime.directory.sync()
    await made.requester.call("account-service", "who", resource_id=resource_id)
    (handler,) = (span for span in spans.named(METHOD)[before:] if span.kind is SpanKind.SERVER)
    return [link.context.span_id for link in handler.links]


async def test_call_is_linked_to_the_span_of_the_claim(autojump_clock: trio.testing.MockClock) -> None:
    """However it was claimed: by name, in a block, in bulk, in line."""
    with recorded() as spans:
        async with three() as made:
            await made.a.claim("r:1")
            assert await links_to(spans, made, "r:1") == [id_of(spans.one("aegis claim"))]
            async with made.a.own("r:2"):
                assert await links_to(spans, made, "r:2") == [id_of(spans.named("aegis claim")[-1])]
            await made.a.bulk_claim(["r:3"])
            assert await links_to(spans, made, "r:3") == [id_of(spans.one("aegis bulk_batch"))]
            async with made.a.own("r:4", role=Role.STANDBY):
                assert await links_to(spans, made, "r:4") == [id_of(spans.one("aegis promote"))]
            assert "4 claims" in repr(_tracing(made.a))


def _tracing(instance: Instance) -> Tracing:
    instruments = instance._runtime.instruments
    assert instruments is not None
    (found,) = instruments.all
    assert isinstance(found, Tracing)
    return found


async def test_claims_that_are_long_gone_are_forgotten(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest are remembered, so many and no more."""
    monkeypatch.setattr("aegis_core.observe.tracing._MOST_CLAIMS", 3)
    with recorded() as spans:
        async with three() as made:
            await made.a.claim("r:0")
            await made.a.bulk_claim([f"r:{at}" for at in range(1, 4)])
            assert "3 claims" in repr(_tracing(made.a))
            assert await links_to(spans, made, "r:0") == []
            assert await links_to(spans, made, "r:3") != []


async def test_operation_says_what_it_was_about(autojump_clock: trio.testing.MockClock) -> None:
    """One resource by its id, several by the first of them and how many."""
    with recorded() as spans:
        async with three() as made:
            await made.a.claim("r:1")
            with pytest.raises(ResourceConflict):
                await made.b.claim(*(f"r:{at}" for at in range(1, 13)))
            await made.a.release("r:1")
    one, many = spans.named("aegis claim")
    assert one.attributes is not None
    assert dict(one.attributes) == {
        "aegis.operation": "claim",
        "aegis.service_name": "account-service",
        "aegis.instance_id": "a",
        "aegis.resource_id": "r:1",
    }
    assert many.attributes is not None
    assert many.attributes["aegis.resource_count"] == 12
    assert many.attributes["aegis.resource_ids"] == tuple(f"r:{at}" for at in range(1, 11))
    assert many.attributes["error.type"] == "RESOURCE_CONFLICT"
    assert spans.one("aegis release").attributes is not None


async def test_conflicts_and_retries_of_commits_are_events(autojump_clock: trio.testing.MockClock) -> None:
    """Of the operation's span."""
    faults = Faults()
    with recorded() as spans:
        async with faults.node(**ON) as node, node.serve(service(), instance_id="a") as a:
            faults.break_down(Conflict(), names_key("resources."))
            faults.unanswered(names_key("resources."))
            await a.claim("r:1")
    assert events_of(spans.one("aegis claim")) == [
        "aegis.commit_conflict",
        "aegis.retry",
        "aegis.commit_indeterminate",
        "aegis.retry",
    ]


async def test_bulk_has_a_child_span_for_each_batch(autojump_clock: trio.testing.MockClock) -> None:
    """Batches that run side by side are children of the one bulk."""
    with recorded() as spans:
        async with three() as made:
            await made.a.bulk_claim([f"r:{at}" for at in range(10)], batch_size=4, continue_on_error=True)
    bulk, batches = spans.one("aegis bulk_register"), spans.named("aegis bulk_batch")
    assert [parent_of(span) for span in batches] == [id_of(bulk)] * 3
    sizes = [span.attributes["aegis.resource_count"] for span in batches if span.attributes is not None]
    assert sorted(sizes) == [2, 4, 4]  # type: ignore[type-var]  # numbers


# --- Transfers ---------------------------------------------------------------------------------


async def test_transfer_is_one_trace_over_requester_old_owner_and_target(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Who asks, who hands over, who takes over: on three nodes; and calls at the new owner are linked to it."""
    with recorded() as spans:
        async with three() as made:
            await made.a.claim("r:1")
            with trace.get_tracer("test").start_as_current_span("work"):
                await made.requester.registry.transfer("account-service", ["r:1"], "a", "b")
            linked = await links_to(spans, made, "r:1")
    work = spans.one("work")
    asked, handed, taken = spans.one("aegis transfer"), spans.one("aegis aegis.transfer"), spans.one("aegis adopt")
    assert parent_of(asked) == id_of(work)
    assert parent_of(handed) == id_of(asked)
    assert parent_of(taken) == id_of(handed)
    assert {trace_of(span) for span in (work, asked, handed, taken)} == {trace_of(work)}
    assert handed.kind is SpanKind.SERVER
    assert taken.attributes is not None
    assert taken.attributes["aegis.instance_id"] == "b"
    assert linked == [id_of(taken)]


async def test_standby_that_is_given_its_resource_goes_on_in_the_trace(autojump_clock: trio.testing.MockClock) -> None:
    """Who waits in line takes over in its block, in the trace of the transfer."""
    with recorded() as spans:
        async with three() as made, trio.open_nursery() as nursery:
            owned = trio.Event()

            async def wait_in_line() -> None:
                async with made.b.own("r:1", role=Role.STANDBY):
                    owned.set()

            await made.a.claim("r:1")
            nursery.start_soon(wait_in_line)
            await trio.sleep(1)
            await made.a.transfer("r:1", to="b")
            await owned.wait()
    promoted, moved = spans.one("aegis promote"), spans.one("aegis transfer")
    assert parent_of(promoted) == id_of(moved)


async def test_record_of_a_transfer_tells_its_trace(autojump_clock: trio.testing.MockClock) -> None:
    """It goes with the transfer into the store; where nobody traces, there is none."""
    with recorded() as spans:
        async with three() as made:
            await made.a.claim("r:1")
            await made.a.transfer("r:1", to="b")
            view = made.a._runtime.directory.snapshot
            (record,) = view.transfers()
            assert record.traceparent.startswith(traceparent(spans.one("aegis transfer")))
            assert view.trace_of("r:1", "a") == ""
    async with (
        open_node("memory://") as node,
        node.serve(service(), instance_id="a") as a,
        node.serve(service(), instance_id="b"),
    ):
        await a.claim("r:1")
        await a.transfer("r:1", to="b")
        (record,) = node.runtime.directory.snapshot.transfers()
        assert record.traceparent == ""

"""What nodes log of their work: conflicts, failed heartbeats, unknown resources, routes; each with its fields."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio
import trio.testing
from opentelemetry import trace

from aegis_core import Call, ResourceMetadata, Service, open_node
from aegis_core.errors import AegisError, Conflict, InstanceConflict, ResourceConflict, ResourceNotFound
from aegis_core.observe.logs import JsonFormatter
from tests.node.faulty import Faults, names_key
from tests.observe.spans import ON, recorded

Line = dict[str, object]


@contextmanager
def logged(level: int = logging.WARNING) -> Iterator[list[Line]]:
    """The lines that the library logs in the block, as JSON; there when it has been left."""
    lines: list[Line] = []
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(JsonFormatter())
    library = logging.getLogger("aegis")
    before = library.level
    library.addHandler(handler)
    library.setLevel(level)
    try:
        yield lines
    finally:
        library.removeHandler(handler)
        library.setLevel(before)
        lines += map(json.loads, text.getvalue().splitlines())


def of(lines: list[Line], logger: str) -> list[Line]:
    """The lines of one logger."""
    return [line for line in lines if line["logger"] == logger]


def service(made: list[str] | None = None) -> Service:
    """A service with one method, which logs."""
    accounts = Service("account-service", version="1.0.0")

    @accounts.method
    async def who(call: Call) -> str:
        logging.getLogger("aegis.test").warning("within the handler")
        return call.trace_id

    return accounts


async def test_conflict_says_who_has_it_who_asked_and_why(autojump_clock: trio.testing.MockClock) -> None:
    """All or nothing, in part, and for a name that is taken; a promotion that came second is none."""
    with logged() as lines:
        async with open_node("memory://") as node, node.serve(service(), instance_id="a") as a:
            await a.claim("r:1", "r:2")
            await node.registry.register("account-service", "b")
            with pytest.raises(InstanceConflict):
                await node.registry.register("account-service", "b")
            await node.registry.claim("account-service", "b", "r:1", "r:3")
            async with node.serve(service(), instance_id="c") as c:
                with pytest.raises(ResourceConflict):
                    await c.claim("r:2")
    found = of(lines, "aegis.refusals")
    assert [(line["level"], line["instance_id"], line["error_code"]) for line in found] == [
        ("WARNING", "b", "DUPLICATE_INSTANCE"),
        ("WARNING", "b", "RESOURCE_CONFLICT"),
        ("WARNING", "c", "RESOURCE_CONFLICT"),
    ]
    assert found[1]["resource_id"] == "r:1"
    assert found[1]["message"] == "the claim by b is refused, a has it: resource 'r:1' is held by instance 'a'"


async def test_failures_of_a_bulk_are_one_line(autojump_clock: trio.testing.MockClock) -> None:
    """How many, the first of them with the reason, and whose they are; where nothing failed, none."""
    with logged() as lines:
        async with (
            open_node("memory://") as node,
            node.serve(service(), instance_id="a") as a,
            node.serve(service(), instance_id="b") as b,
        ):
            await a.bulk_claim([f"r:{at}" for at in range(12)])
            await b.bulk_claim([f"r:{at}" for at in range(13)], continue_on_error=True)
    (found,) = of(lines, "aegis.refusals")
    message = str(found["message"])
    assert message.startswith("bulk_claim by b: 12 of 13 failed: r:0 (RESOURCE_CONFLICT, a has it); ")
    assert message.endswith(" and 2 more")


async def test_unknown_resources_are_told(autojump_clock: trio.testing.MockClock) -> None:
    """Whether they are called, looked up or released."""
    with logged() as lines:
        async with open_node("memory://") as node, node.serve(service(), instance_id="a") as a:
            with pytest.raises(ResourceNotFound):
                await node.call("account-service", "who", resource_id="r:1")
            with pytest.raises(ResourceNotFound):
                await node.registry.get_owner("r:2")
            with pytest.raises(ResourceNotFound):
                await a.release("r:3")
    found = of(lines, "aegis.refusals")
    assert [line["resource_id"] for line in found] == ["r:1", "r:2", "r:3"]
    assert {line["error_code"] for line in found} == {"RESOURCE_NOT_FOUND"}
    assert {line["level"] for line in found} == {"WARNING"}
    assert found[0]["operation"] == "account-service.who"
    assert found[0]["trace_id"]


async def test_failed_heartbeat_is_told_once(autojump_clock: trio.testing.MockClock) -> None:
    """However often it is tried again; and those of others that are not known here."""
    faults, renewals = Faults(), names_key("service-instances.")
    with logged() as lines:
        async with faults.node() as node, node.serve(service(), instance_id="a", ttl=10):
            await trio.sleep(1)
            faults.unanswered(renewals, times=3)
            await trio.sleep(4)
            faults.break_down(Conflict(), renewals, times=2)
            await trio.sleep(4)
            with pytest.raises(AegisError):
                await node.registry.heartbeat("account-service", "nobody")
    found = of(lines, "aegis.refusals")
    assert [(line["instance_id"], line["error_code"]) for line in found] == [
        ("a", "STORE_INDETERMINATE"),
        ("a", "STORE_CONFLICT"),
        ("nobody", "INSTANCE_NOT_FOUND"),
    ]
    assert found[0]["operation"] == "heartbeat"


async def test_routes_are_told_at_debug(autojump_clock: trio.testing.MockClock) -> None:
    """Target, reason, and which attempt it is."""
    with logged(logging.DEBUG) as lines:
        async with open_node("memory://") as node, node.serve(service(), instance_id="a"):
            await node.call("account-service", "who")
    (found,) = of(lines, "aegis.client")
    assert found["message"] == "account-service.who goes to a (balanced, attempt 1)"
    assert found["level"] == "DEBUG"
    assert found["instance_id"] == "a"
    assert found["operation"] == "who"


async def test_operations_and_calls_are_told_at_debug_with_how_long_they_took(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """With the resource and the size of its metadata, and with the code of the error that it ended in."""
    with logged(logging.DEBUG) as lines:
        async with open_node("memory://") as node, node.serve(service(), instance_id="a") as a:
            await a.claim("r:1", metadata=ResourceMetadata(tags=("premium",)))
            await a.claim("r:2", "r:3")
            with pytest.raises(ResourceNotFound):
                await a.release("r:9")
            await node.call("account-service", "who", resource_id="r:1")
            await node.registry.list_services()
            assert node.runtime.instruments is not None
            assert repr(node.runtime.instruments.all) == "(<OperationLog to aegis.operations>,)"
    found = [line for line in of(lines, "aegis.operations") if line["operation"] != "heartbeat"]
    assert [(line["operation"], line["message"]) for line in found] == [
        ("register", "register of a: success after 0 s"),
        ("claim", "claim of r:1: success after 0 s"),
        ("claim", "claim of 2 resources: success after 0 s"),
        ("release", "release of r:9: refused after 0 s"),
        ("account-service.who", "account-service.who of r:1: success after 0 s"),
        ("list_services", "list_services of all: success after 0 s"),
        ("deregister", "deregister of a: success after 0 s"),
    ]
    assert found[0]["duration_ms"] == 0
    assert found[1]["resource_id"] == "r:1"
    assert isinstance(found[1]["metadata_size_bytes"], int)
    assert found[3]["error_code"] == "RESOURCE_NOT_FOUND"


async def test_lines_of_a_handler_have_its_trace(autojump_clock: trio.testing.MockClock) -> None:
    """Without being told: the id that the call has; and, where spans are made, the span."""
    with logged() as plain:
        async with open_node("memory://") as node, node.serve(service()):
            expected = await node.call("account-service", "who")
    (line,) = of(plain, "aegis.test")
    assert line["trace_id"] == expected
    with recorded() as spans, logged() as traced:
        async with open_node("memory://", config=ON) as node, node.serve(service()):
            await node.call("account-service", "who")
    (line,) = of(traced, "aegis.test")
    handler = spans.one("account-service/who", trace.SpanKind.SERVER)
    assert handler.context is not None
    assert line["trace_id"] == trace.format_trace_id(handler.context.trace_id)
    assert line["span_id"] == trace.format_span_id(handler.context.span_id)

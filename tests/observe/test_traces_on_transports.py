"""One trace over real transports: from the caller over a router to the handler, and with a transfer over three nodes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from secrets import token_hex

import httpx  # noqa: ASYNC127 - the fork has its interface, and may be put in its place
import pytest
import trio
from opentelemetry import trace
from opentelemetry.trace import SpanKind

from aegis_backends.http.app import RouterApp, serve_router
from aegis_backends.http.rest import ADMIN, Rest
from aegis_backends.nats.server import NatsServers
from aegis_core import Node, open_node
from aegis_core.router.gate import Gate
from aegis_core.router.management import Management
from aegis_core.router.router import Router, open_router
from aegis_core.router.wire import serve_subjects
from aegis_pytest.nats import running_servers
from tests.observe.spans import ON, id_of, parent_of, recorded, trace_of
from tests.observe.test_tracing import METHOD, service
from tests.router.wired import Client, packed

PATIENCE = 60


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServers]:
    """One server of NATS."""
    with running_servers(1) as servers:
        yield servers


@asynccontextmanager
async def routing(node: Node) -> AsyncIterator[str]:
    """A router over HTTP on *node*: its URL."""
    app = RouterApp(node.runtime.store, Gate(node).commit, node.runtime.plugins.authorize)
    Rest(Management(Router(node)), app)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_router, app, listeners))
        yield f"http://127.0.0.1:{port}"
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def nodes(backend: str, servers: NatsServers) -> AsyncIterator[list[Node]]:
    """Three nodes that trace, on NATS or, through a router, on HTTP."""
    async with AsyncExitStack() as stack:
        if backend == "nats":
            url = f"{servers.url}?storage=memory&bucket=b{token_hex(4)}"
        else:
            of_router = await stack.enter_async_context(open_node("memory://", config=ON))
            url = await stack.enter_async_context(routing(of_router))
        yield [await stack.enter_async_context(open_node(url, config=ON)) for _ in range(3)]


@pytest.mark.parametrize("backend", ["nats", "http"])
async def test_call_and_handler_are_one_trace(backend: str, server: NatsServers) -> None:
    """The trace context travels with the request, whatever carries it."""
    with recorded() as spans, trio.fail_after(PATIENCE):
        async with nodes(backend, server) as (caller, host, _), host.serve(service(), instance_id="a") as a:
            await a.claim("r:1")
            await caller.runtime.directory.sync()
            told = await caller.call("account-service", "who", resource_id="r:1")
    call, handler = spans.one(METHOD, SpanKind.CLIENT), spans.one(METHOD, SpanKind.SERVER)
    assert parent_of(handler) == id_of(call)
    assert told == f"{trace_of(call):032x}"
    assert [link.context.span_id for link in handler.links] == [id_of(spans.one("aegis claim"))]


@pytest.mark.parametrize("backend", ["nats", "http"])
async def test_transfer_is_one_trace_over_three_nodes(backend: str, server: NatsServers) -> None:
    """Who asks, who hands over, and who takes over when the store tells it so."""
    with recorded() as spans, trio.fail_after(PATIENCE):
        async with nodes(backend, server) as (requester, of_a, of_b):
            made = service()
            async with of_a.serve(made, instance_id="a") as a, of_b.serve(made, instance_id="b"):
                await a.claim("r:1")
                await requester.registry.transfer("account-service", ["r:1"], "a", "b")
                await requester.runtime.directory.sync()
                await requester.call("account-service", "who", resource_id="r:1")
    asked, handed, taken = spans.one("aegis transfer"), spans.one("aegis aegis.transfer"), spans.one("aegis adopt")
    assert parent_of(handed) == id_of(asked)
    assert parent_of(taken) == id_of(handed)
    handler = spans.one(METHOD, SpanKind.SERVER)
    assert [link.context.span_id for link in handler.links] == [id_of(taken)]


@pytest.mark.parametrize("backend", ["nats", "memory"])
async def test_routed_call_is_one_trace_from_caller_over_router_to_handler(backend: str, server: NatsServers) -> None:
    """A program with nothing but HTTP sends its traceparent; the router and the handler go on with it."""
    url = "memory://" if backend == "memory" else f"{server.url}?storage=memory&bucket=b{token_hex(4)}"
    with recorded() as spans, trio.fail_after(PATIENCE):
        async with (
            open_node(url, config=ON) as of_router,
            open_node(url, config=ON) as host,
            host.serve(service(), instance_id="a"),
            routing(of_router) as base,
            httpx.AsyncClient() as client,
        ):
            await of_router.runtime.directory.sync()
            with trace.get_tracer("test").start_as_current_span("caller") as caller:
                inside = caller.get_span_context()
                header = f"00-{inside.trace_id:032x}-{inside.span_id:016x}-01"
                answer = await client.post(
                    f"{base}{ADMIN}/calls",
                    content=json.dumps({"service_name": "account-service", "method": "who"}),
                    headers={"content-type": "application/json", "traceparent": header},
                )
    assert answer.status_code == 200
    routed, call, handler = (
        spans.one("aegis route.request"),
        spans.one(METHOD, SpanKind.CLIENT),
        spans.one(METHOD, SpanKind.SERVER),
    )
    assert parent_of(routed) == inside.span_id
    assert parent_of(call) == id_of(routed)
    assert parent_of(handler) == id_of(call)
    assert {trace_of(span) for span in (routed, call, handler)} == {inside.trace_id}


@pytest.mark.parametrize("backend", ["nats", "memory"])
async def test_message_of_a_client_is_routed_in_its_trace(backend: str, server: NatsServers) -> None:
    """On ``ipc.route.request``, with the trace context as a header of the message, as other programs send it."""
    url = "memory://" if backend == "memory" else f"{server.url}?storage=memory&bucket=b{token_hex(4)}"
    with recorded() as spans, trio.fail_after(PATIENCE):
        async with (
            open_node(url, config=ON) as of_router,
            open_node(url, config=ON) as host,
            host.serve(service(), instance_id="a"),
            open_router(of_router) as router,
        ):
            assert router.bus is not None
            await of_router.runtime.directory.sync()
            request = packed({"service_name": "account-service", "method": "who"})
            headers = {"traceparent": f"00-{17:032x}-{4:016x}-01"}
            async with serve_subjects(router, router.bus):
                answer = await Client(router.bus).ask_raw("route.request", request, headers)
    assert answer["success"] is True
    routed, call = spans.one("aegis route.request"), spans.one(METHOD, SpanKind.CLIENT)
    assert (trace_of(routed), parent_of(routed)) == (17, 4)
    assert parent_of(call) == id_of(routed)
    assert parent_of(spans.one(METHOD, SpanKind.SERVER)) == id_of(call)

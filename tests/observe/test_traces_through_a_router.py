"""One trace over processes: from a node over a router's process to the handler of a node elsewhere."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex

import attrs
import httpx  # noqa: ASYNC127 - the fork has its interface, and may be put in its place
import pytest
import trio
from opentelemetry import propagate
from opentelemetry.trace import SpanKind

from aegis_backends.nats.server import NatsServers
from aegis_core import Call, Service, open_node
from aegis_pytest.nats import running_servers
from tests.observe.spans import ON, id_of, parent_of, recorded, trace_of
from tests.observe.test_tracing import METHOD, service
from tests.router.processes import PATIENCE, open_router

PLUGIN = """
import json
import os

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from aegis_core.hookspecs import hookimpl


def line(span):
    parent = span.parent.span_id if span.parent else 0
    told = {"name": span.name, "kind": span.kind.name, "parent": parent}
    return json.dumps({**told, "id": span.context.span_id, "trace": span.context.trace_id}) + chr(10)


provider = TracerProvider()
out = open(os.environ["SPANS"], "a")
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=out, formatter=line)))
trace.set_tracer_provider(provider)


@hookimpl
def aegis_register_observers(register):
    pass
"""


@attrs.frozen
class Told:
    """A span of another process, as that has written it down."""

    name: str
    kind: str
    parent: int
    id: int
    trace: int


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServers]:
    """One server of NATS."""
    with running_servers(1) as servers:
        yield servers


def asking(router: str) -> Service:
    """A service whose method asks the router's REST interface, as any program with an HTTP client does."""
    front = Service("front-service", version="1.0.0")

    @front.method
    async def ask(_call: Call) -> object:
        headers: dict[str, str] = {}
        propagate.inject(headers)
        async with httpx.AsyncClient(base_url=router, headers=headers, timeout=PATIENCE) as client:
            asked = {"service_name": "account-service", "method": "who"}
            return (await client.post("/api/v1/admin/calls", json=asked)).json()["result"]

    return front


@pytest.mark.parametrize("host", ["http", "nats"])
async def test_trace_goes_from_a_node_over_a_router_to_a_handler(
    host: str, server: NatsServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the handler's node is connected to the router, or to the same server as that."""
    (tmp_path / "spans_plugin.py").write_text(PLUGIN)
    nats = f"nats://{server.location}?storage=memory&bucket=b{token_hex(4)}"
    for name, value in {
        "PYTHONPATH": os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH")))),
        "AEGIS_PLUGINS_ENABLED": "spans_plugin",
        "AEGIS_TRACING_ENABLED": "true",
        "SPANS": str(tmp_path / "spans"),
    }.items():
        monkeypatch.setenv(name, value)
    async with open_router("--backend", nats, "--http", "127.0.0.1:0") as router:
        monkeypatch.undo()  # what was set is for the router alone
        with recorded() as spans, trio.fail_after(PATIENCE):
            async with (
                open_node(nats, config=ON) as caller,
                open_node(router.url if host == "http" else nats, config=ON) as of_host,
                of_host.serve(service(), instance_id="a"),
                caller.serve(asking(router.url)),
            ):
                trace_id = await caller.call("front-service", "ask", timeout=PATIENCE)
            router.process.terminate()
            assert await router.process.wait() == 0
    told = [Told(**json.loads(line)) for line in (tmp_path / "spans").read_text().splitlines()]
    called, asked = spans.one("front-service/ask", SpanKind.CLIENT), spans.one("front-service/ask", SpanKind.SERVER)
    (routed,) = (span for span in told if span.name == "aegis route.request")
    (passed_on,) = (span for span in told if span.name == METHOD)
    handler = spans.one(METHOD, SpanKind.SERVER)
    assert parent_of(asked) == id_of(called)
    assert (routed.kind, routed.parent) == ("SERVER", id_of(asked))
    assert (passed_on.kind, passed_on.parent) == ("CLIENT", routed.id)
    assert parent_of(handler) == passed_on.id
    assert {trace_of(called), trace_of(asked), routed.trace, passed_on.trace, trace_of(handler)} == {
        int(str(trace_id), 16)
    }

"""The page of metrics, fetched over a real connection as Prometheus does."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import httpx  # noqa: ASYNC127 - the fork has its interface, and may be put in its place
import trio

from aegis_backends.http.app import RouterApp, serve_router
from aegis_backends.http.serving import add_metrics
from aegis_core import Service, open_node
from aegis_core.observe.metrics import CONTENT_TYPE, exposition, exposition_in_parts
from aegis_core.router.gate import Gate
from tests.observe.scraping import parse


async def test_page_of_metrics_is_fetched_from_a_router() -> None:
    """What comes over the socket is what the official parser reads, and names what lives."""
    async with open_node("memory://", config={"metrics": {"enabled": True}}) as node:

        async def metrics() -> tuple[str, Sequence[bytes]]:
            return CONTENT_TYPE, await exposition_in_parts(node)

        app = RouterApp(node.runtime.store, Gate(node).commit, node.runtime.plugins.authorize)
        add_metrics(app, metrics)
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with (
            trio.open_nursery() as nursery,
            node.serve(Service("account-service")),
            httpx.AsyncClient() as client,
        ):
            await nursery.start(partial(serve_router, app, listeners))
            port = listeners[0].socket.getsockname()[1]
            found = await client.get(f"http://127.0.0.1:{port}/metrics")
            head = await client.head(f"http://127.0.0.1:{port}/metrics")
            whole = await exposition(node)
            nursery.cancel_scope.cancel()
    assert found.status_code == 200
    assert found.headers["content-type"] == CONTENT_TYPE
    assert (head.status_code, head.content) == (200, b"")
    assert whole.count(b"\n") == found.text.count("\n")
    page = parse(found.text)
    assert page.value("ipc_instances", service_name="account-service", health="ONLINE") == 1
    assert page.value("ipc_registrations_total", service_name="account-service", status="success") == 1

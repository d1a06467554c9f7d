"""The page of metrics of a router, fetched over a real connection as Prometheus does."""

from __future__ import annotations

import httpx  # noqa: ASYNC127 - the fork has its interface, and may be put in its place
import pytest

from aegis_core import Service, open_node
from aegis_core.observe.metrics import CONTENT_TYPE
from tests.observe.scraping import parse
from tests.router.processes import PATIENCE, open_router


async def test_page_of_metrics_is_fetched_from_a_router(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes over the socket is what the official parser reads, and tells who lives."""
    monkeypatch.setenv("AEGIS_METRICS_ENABLED", "true")
    async with (
        open_router("--backend", "memory://", "--http", "127.0.0.1:0") as router,
        open_node(router.url) as node,
        node.serve(Service("account-service"), instance_id="a") as a,
        httpx.AsyncClient(base_url=router.url, timeout=PATIENCE) as client,
    ):
        await a.claim("r:1")
        found = await client.get("/metrics")
    assert found.status_code == 200
    assert found.headers["content-type"] == CONTENT_TYPE
    page = parse(found.text)
    assert page.value("ipc_instances", service_name="account-service", health="ONLINE") == 1
    assert page.value("ipc_resources_per_instance", service_name="account-service", instance_id="a") == 1

"""Two routers side by side, as processes: what is done through one is seen through the other, and survives it."""

from __future__ import annotations

import json

import httpx  # noqa: ASYNC127 - the fork has its interface, and may be put in its place
import trio

from aegis_backends.http.stream import HttpStream, open_stream
from aegis_backends.nats.server import NatsServers
from aegis_core.models import ResourceMetadata
from aegis_core.node.node import Node, open_node
from tests.conformance.test_nats import one_server
from tests.router.processes import PATIENCE, open_router

__all__ = ["one_server"]

ADMIN = "/api/v1/admin"


async def told(stream: HttpStream, kind: str) -> dict[str, object]:
    """The next event of *kind* on an open stream of them."""
    data = b""
    with trio.fail_after(PATIENCE):
        while True:
            data += await stream.receive()
            *blocks, data = data.split(b"\n\n")
            for block in blocks:
                fields = dict(line.split(": ", 1) for line in block.decode().splitlines() if line[0] != ":")
                if fields.get("event") == kind:
                    found: dict[str, object] = json.loads(fields["data"])
                    return found


async def populate(node: Node) -> None:
    """Two instances, and a resource."""
    for name in ("one", "two"):
        await node.registry.register("svc", name, ttl=3600)
    await node.registry.claim("svc", "one", "a/b", metadata=ResourceMetadata(tags=("gold",)))


async def test_routers_tell_the_same_and_act_for_each_other(one_server: NatsServers) -> None:
    """The same bytes with the same tag; a change through one is an event of the other; one alone is enough."""
    url = f"{one_server.url}?bucket=managed&replicas=1"
    arguments = ("--backend", url, "--http", "127.0.0.1:0")
    async with (
        open_node(url) as node,
        open_router(*arguments) as first,
        open_router(*arguments) as second,
        httpx.AsyncClient(base_url=first.url, timeout=PATIENCE) as here,
        httpx.AsyncClient(base_url=second.url, timeout=PATIENCE) as there,
    ):
        await populate(node)
        for path in ("/services", "/resources", "/resources/a%2Fb", "/services/svc/roles", "/transfers"):
            one, other = await here.get(ADMIN + path), await there.get(ADMIN + path)
            assert one.status_code == 200
            assert (one.content, one.headers["etag"]) == (other.content, other.headers["etag"])
        events = await open_stream(second.url, "GET", f"{ADMIN}/events", {}, tls=None, timeout=PATIENCE)
        assert (await events.receive()).startswith(b"retry")
        move = {"service_name": "svc", "from_instance_id": "one", "to_instance_id": "two", "resource_ids": ["a/b"]}
        moved = (await here.post(f"{ADMIN}/resources/transfer", json=move)).json()
        assert moved["transferred"] == ["a/b"]
        event = await told(events, "resource_transferred")
        assert [event["resource_id"], event["old"], event["instance_id"]] == ["a/b", "one", "two"]
        await events.aclose()
        await first.kill()
        (record,) = (await there.get(f"{ADMIN}/transfers")).json()["transfers"]
        assert record["transfer_id"] == moved["transfer_id"]
        assert (await there.get(f"{ADMIN}/resources/a%2Fb")).json()["owner_instance_id"] == "two"


async def test_router_has_pages_for_people_and_none_for_what_it_does_not_count() -> None:
    """The dashboard, the description; no metrics unless they are configured."""
    async with (
        open_router("--backend", "memory://", "--http", "127.0.0.1:0") as router,
        httpx.AsyncClient(base_url=router.url, timeout=PATIENCE) as client,
    ):
        for path in ("/", "/docs"):
            answer = await client.get(path)
            assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
            assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert (await client.get("/openapi.json")).json()["openapi"] == "3.1.0"
        missing = await client.get("/metrics")
        assert missing.status_code == 404
        assert missing.headers["content-type"] == "application/problem+json"

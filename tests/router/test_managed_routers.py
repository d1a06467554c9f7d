"""Two routers side by side, as processes: what is done through one is seen through the other, and survives it."""

from __future__ import annotations

import json

import httpx  # noqa: ASYNC127 - the fork has its interface, and may be put in its place
import pytest
import trio

from aegis_backends.http.stream import BROKEN, HttpStream, open_stream
from aegis_backends.nats.server import NatsServers
from aegis_core.models import ResourceMetadata
from aegis_core.node.node import Node, open_node
from tests.conformance.test_nats import one_server
from tests.router.processes import PATIENCE, RouterProcess, eventually, open_router

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


class Listener:
    """A program that keeps a table of owners by the events of a router, as server-sent events are meant to be used.

    Where it is told that it missed something, it reads the table anew.
    """

    def __init__(self) -> None:
        self.owners: dict[str, str] = {}
        self.last_id = ""
        self.resyncs = 0

    async def listen(self, url: str, begun: trio.Event) -> None:
        """Listen to the router at *url* until it is gone; *begun* is set once whatever comes will be told."""
        shown = {"Last-Event-ID": self.last_id} if self.last_id else {}
        stream = await open_stream(url, "GET", f"{ADMIN}/events?service_name=svc", shown, tls=None, timeout=PATIENCE)
        data, is_known = b"", bool(self.last_id)
        try:
            while part := await stream.receive():
                *blocks, data = (data + part).split(b"\n\n")
                for block in blocks:
                    await self._take(dict(line.split(": ", 1) for line in block.decode().splitlines()), url)
                if not is_known:
                    is_known = True
                    await self._read(url)
                begun.set()
        except BROKEN:
            pass
        finally:
            await stream.aclose()

    async def _take(self, fields: dict[str, str], url: str) -> None:
        event = json.loads(fields.get("data", "{}"))
        match fields.get("event"):
            case "resync":
                self.resyncs += 1
                await self._read(url)
            case "resource_registered":
                self.owners[event["resource_id"]] = event["instance_id"]
            case "resource_released":
                self.owners.pop(event["resource_id"], None)
        self.last_id = fields.get("id", self.last_id)

    async def _read(self, url: str) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE) as client:
            told = (await client.get(f"{ADMIN}/resources", params={"service_name": "svc"})).json()
        self.owners = {one["resource_id"]: one["owner_instance_id"] for one in told["resources"]}


@pytest.mark.parametrize("meanwhile", [0, 5], ids=["nothing", "changes"])
async def test_listener_goes_on_at_another_router(one_server: NatsServers, meanwhile: int) -> None:
    """By the last id that it saw: what happened while it had no router it is told, or that it missed something."""
    url = f"{one_server.url}?bucket=listened-{meanwhile}&replicas=1"
    arguments = ("--backend", url, "--http", "127.0.0.1:0")
    listener, expected = Listener(), dict[str, str]()
    async with (
        open_node(url) as node,
        open_router(*arguments) as first,
        open_router(*arguments) as second,
        trio.open_nursery() as nursery,
    ):

        async def change(*numbers: int) -> None:
            for number in numbers:
                await node.registry.claim("svc", "one", f"r{number}")
                expected[f"r{number}"] = "one"
            await node.registry.release("svc", "one", f"r{numbers[0]}")
            del expected[f"r{numbers[0]}"]

        async def listen(at: RouterProcess, ended: trio.Event, begun: trio.Event) -> None:
            await listener.listen(at.url, begun)
            ended.set()

        await node.registry.register("svc", "one", ttl=3600)
        await change(1, 2, 3)
        begun, ended = trio.Event(), trio.Event()
        nursery.start_soon(listen, first, ended, begun)
        with trio.fail_after(PATIENCE):
            await begun.wait()
            assert listener.owners == expected
            await change(4, 5, 6)
            await eventually(lambda: listener.owners == expected)
            await first.kill()
            await ended.wait()
            assert (listener.resyncs, int(listener.last_id) > 0) == (0, True)
            if meanwhile:
                await change(*range(10, 10 + meanwhile))
                async with httpx.AsyncClient(base_url=second.url, timeout=PATIENCE) as client:
                    await client.get(f"{ADMIN}/resources")  # of a view that is level with the store
            begun = trio.Event()
            nursery.start_soon(listen, second, ended, begun)
            await begun.wait()
            assert listener.owners == expected
            assert listener.resyncs >= (1 if meanwhile else 0)
            told = listener.resyncs
            await change(20, 21, 22)
            await eventually(lambda: listener.owners == expected)
            assert listener.resyncs == told
        nursery.cancel_scope.cancel()


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

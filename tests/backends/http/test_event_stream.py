"""Events over HTTP: in order, with ids, filtered, and never endless beyond the router's life."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from aegis_backends.http.asgi import Message
from aegis_backends.http.event_stream import PING
from aegis_backends.http.rest import ADMIN
from aegis_backends.http.stream import HttpStream, open_stream
from aegis_core import Service
from tests.backends.http.managed import Managed, open_managed
from tests.backends.http.peers import PATIENCE, eventually, read_all, read_until
from tests.backends.http.scopes import Answers, make_request

SERVICE = Service("svc", version="1.0.0")


@attrs.frozen
class Told:
    """One event, as it came."""

    kind: str
    id: str
    data: dict[str, object]


class Listener:
    """Reads a response as server-sent events."""

    def __init__(self, stream: HttpStream, data: bytes) -> None:
        self.stream = stream
        self._data = data

    async def next(self) -> Told:
        """The next event; comments are none."""
        with trio.fail_after(PATIENCE):
            while True:
                block, found, rest = self._data.partition(b"\n\n")
                if not found:
                    part = await self.stream.receive()
                    assert part, "the stream has ended"
                    self._data += part
                    continue
                self._data = rest
                fields = dict(line.split(": ", 1) for line in block.decode().splitlines() if line[0] != ":")
                if "event" in fields:
                    return Told(fields["event"], fields.get("id", ""), json.loads(fields["data"]))


@asynccontextmanager
async def listening(router: Managed, query: str = "", last_seen: str = "") -> AsyncIterator[Listener]:
    """Listen while the block runs; it has begun."""
    headers = {"Last-Event-ID": last_seen} if last_seen else {}
    base = f"http://127.0.0.1:{router.port}"
    stream = await open_stream(base, "GET", f"{ADMIN}/events{query}", headers, tls=None, timeout=PATIENCE)
    try:
        with trio.fail_after(PATIENCE):
            begun = await stream.receive()
        assert begun.startswith(b"retry: 1000\n\n")
        yield Listener(stream, begun)
    finally:
        await stream.aclose()


async def test_events_come_in_order_with_their_revision_as_id() -> None:
    """All of them, as JSON with their kind."""
    async with open_managed() as router, listening(router) as listener:
        assert listener.stream.status == 200
        async with router.node.serve(SERVICE, instance_id="one") as instance:
            (claim,) = await instance.claim("r1")
            first, second = await listener.next(), await listener.next()
            assert [first.kind, first.data["instance_id"]] == ["instance_registered", "one"]
            assert [second.kind, second.data["resource_id"]] == ["resource_registered", "r1"]
            assert second.id == str(second.data["revision"]) == str(claim.epoch)
            assert int(first.id) < int(second.id)


async def test_filters_leave_the_rest_out() -> None:
    """Kinds, service, resource."""
    async with (
        open_managed() as router,
        router.node.serve(SERVICE, instance_id="one") as instance,
        listening(router, "?kind=resource_released&kind=role_changed&service_name=svc") as by_kind,
        listening(router, "?resource_id=r2") as by_id,
    ):
        await instance.claim("r1", "r2")
        await instance.release("r1")
        await instance.release("r2")
        assert [(await by_kind.next()).data["resource_id"] for _ in range(2)] == ["r1", "r2"]
        assert [(await by_id.next()).kind for _ in range(2)] == ["resource_registered", "resource_released"]


@pytest.mark.parametrize(("behind", "kind"), [(1, "resync"), (0, "instance_registered")])
async def test_who_comes_back_is_told_when_something_was_missed(behind: int, kind: str) -> None:
    """By the id of the last event that it saw."""
    async with open_managed() as router:
        await router.node.registry.register("svc", "one")
        await router.node.runtime.directory.sync()
        seen = router.node.runtime.directory.snapshot.revision - behind
        async with listening(router, last_seen=str(seen)) as listener:
            await router.node.registry.register("svc", "two")
            assert (await listener.next()).kind == kind


async def test_id_that_is_none_was_never_told() -> None:
    """So something was missed."""
    async with open_managed() as router:
        await router.node.registry.register("svc", "one")
        await router.node.runtime.directory.sync()
        async with listening(router, last_seen="nonsense") as listener:
            assert (await listener.next()).kind == "resync"


async def test_stream_shows_that_it_is_alive_and_ends_with_the_router() -> None:
    """By comments; and whoever asks afterwards gets a stream that has ended."""
    async with open_managed(ping=0.05) as router:
        async with await trio.open_tcp_stream("127.0.0.1", router.port) as stream:
            await stream.send_all(f"GET {ADMIN}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            ping = b"%x\r\n" % len(PING) + PING + b"\r\n"
            await read_until(stream, ping + ping)
            assert "1 listeners" in repr(router.rest.streams)
            router.stop.set()
            with trio.fail_after(PATIENCE):
                assert (await read_all(stream)).endswith(b"0\r\n\r\n")
        router.rest.streams.close()


async def test_stream_of_a_stopping_router_ends_at_once() -> None:
    """It began, and that is all."""
    async with open_managed() as router:
        router.app.close()
        answer = await router.client.get(f"{ADMIN}/events")
        assert (answer.headers["content-type"], answer.content) == ("text/event-stream", b"retry: 1000\n\n")
        head = await router.client.head(f"{ADMIN}/events")
        assert head.headers["content-type"] == "text/event-stream"


async def test_listener_that_left_is_forgotten() -> None:
    """At the latest when it is to be told something."""
    async with open_managed(ping=0.05) as router:
        async with listening(router):
            await eventually(lambda: "1 listeners" in repr(router.rest.streams))
        await eventually(lambda: "0 listeners" in repr(router.rest.streams))


class SlowListener(Answers):
    """Takes the beginning of a response, and what follows only when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = trio.Event()
        self.has_begun = trio.Event()

    async def __call__(self, message: Message) -> None:
        """As an ASGI server's."""
        if self.has_begun.is_set():
            await self.reads.wait()
        await super().__call__(message)
        if len(self.messages) == 2:
            self.has_begun.set()


async def test_listener_that_reads_nothing_loses_events_and_is_told() -> None:
    """The router keeps a thousand for it, and no more; others get theirs."""
    slow = SlowListener()
    async with open_managed() as router, listening(router) as other, trio.open_nursery() as nursery:
        nursery.start_soon(router.rest.streams, make_request(slow))
        await slow.has_begun.wait()
        await router.node.registry.register("svc", "one")
        ids = [f"r{number}" for number in range(600)]
        for _ in range(3):
            await router.node.registry.claim("svc", "one", *ids)
            await router.node.registry.release("svc", "one", *ids)
        assert (await other.next()).kind == "instance_registered"
        slow.reads.set()
        await eventually(lambda: b"fell more than 1000 events behind" in slow.body)
        assert slow.body.count(b"event: resource_") < 2000
        nursery.cancel_scope.cancel()

"""Events over HTTP: in order, with ids, filtered, and never endless beyond the router's life."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import attrs
import pytest
import trio
from trio.testing import MockClock

from aegis_backends.http.asgi import Message
from aegis_backends.http.event_stream import PING, EventStreams
from aegis_backends.http.rest import ADMIN
from aegis_backends.http.stream import HttpStream, open_stream
from aegis_core import Service, StoreUnavailable
from aegis_core.engine.decision import Write
from aegis_core.events import Event, InstanceRegistered
from aegis_core.router.management import Management
from aegis_core.router.router import Router
from tests.backends.http.managed import Managed, open_managed
from tests.backends.http.peers import PATIENCE, SHORT, eventually, read_all, read_until
from tests.backends.http.scopes import Answers, make_request

SERVICE = Service("svc", version="1.0.0")


@attrs.frozen
class Told:
    """One event, as it came."""

    kind: str
    data: dict[str, object]


class Listener:
    """Reads a response as server-sent events."""

    def __init__(self, stream: HttpStream, data: bytes) -> None:
        self.stream = stream
        self.last_id = -1
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
                self.last_id = int(fields.get("id", self.last_id))
                if "event" in fields:
                    return Told(fields["event"], json.loads(fields["data"]))

    async def wait_id(self, revision: int) -> None:
        """Wait until it has been told everything up to *revision*."""
        while self.last_id < revision:
            with trio.move_on_after(SHORT):
                await self.next()


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


async def test_events_come_in_order_with_ids() -> None:
    """All of them, as JSON with their kind; an id says up to which revision they are whole."""
    async with open_managed(ping=0.05) as router, listening(router) as listener:
        assert listener.stream.status == 200
        async with router.node.serve(SERVICE, instance_id="one") as instance:
            (claim,) = await instance.claim("r1")
            first, second = await listener.next(), await listener.next()
            assert [first.kind, first.data["instance_id"]] == ["instance_registered", "one"]
            assert [second.kind, second.data["resource_id"]] == ["resource_registered", "r1"]
            assert first.data["revision"] < second.data["revision"] == claim.epoch
            await listener.wait_id(claim.epoch)


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


@attrs.define
class Scripted:
    """Tells what a test says, all at once; then no more. By a `sync` it comes to `level`, or (0) does not in time."""

    revision: int
    newest: int
    told: list[Event]
    level: int = 20

    async def sync(self) -> None:
        """Come to the store's level."""
        if not self.level:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        if self.level < self.revision:
            raise StoreUnavailable(reason="the store was set back")
        self.revision = self.newest = self.level

    @asynccontextmanager
    async def events(self, *_: object, **__: object) -> AsyncIterator[Scripted]:
        """Itself."""
        yield self

    async def receive(self) -> Event:
        """The next one."""
        await trio.lowlevel.checkpoint()
        if not self.told:
            raise trio.EndOfChannel
        return self.receive_nowait()

    def receive_nowait(self) -> Event:
        """The next one, too."""
        if not self.told:
            raise trio.WouldBlock
        return self.told.pop(0)


def registered(revision: int) -> Event:
    """An event of *revision*."""
    return InstanceRegistered(at=datetime.now(UTC), revision=revision, service_name="s", instance_id="i")


async def tell(source: Scripted, *, last_seen: int) -> str:
    """What is told of *source* to who has seen so much."""
    answers = Answers()
    streams = EventStreams(source, lambda event: type(event).__name__, ping=PATIENCE)
    with pytest.raises(trio.EndOfChannel):
        await streams(make_request(answers, headers=[(b"last-event-id", b"%d" % last_seen)]))
    return answers.body.decode()


async def test_id_stands_where_everything_up_to_it_has_been_told() -> None:
    """Behind all events of a revision, and not at one that was told ahead of others."""
    told: list[Event] = [registered(revision) for revision in (9, 7, 7)]
    body = await tell(Scripted(revision=7, newest=9, told=[*told]), last_seen=9)
    event = "event: instance_registered\ndata: InstanceRegistered\n\n"
    assert body == f"retry: 1000\n\nid: 7\n\n{event}{event}id: 7\n{event}"


class WhileOpening(Scripted):
    """Something happens between the subscription and its block."""

    @asynccontextmanager
    async def events(self, *_: object, **__: object) -> AsyncIterator[Scripted]:
        """Itself."""
        self.told.append(registered(8))
        self.revision = self.newest = 8
        yield self


class WhileSilent(Scripted):
    """Something happens at the moment when the silence has lasted too long."""

    async def receive(self) -> Event:
        """Nothing in time, once."""
        if self.revision == 8:
            raise trio.EndOfChannel
        try:
            await trio.sleep_forever()
        finally:
            self.told.append(registered(8))
            self.revision = self.newest = 8


@pytest.mark.parametrize("source", [WhileOpening, WhileSilent])
async def test_id_leaves_out_what_waits_to_be_told(source: type[Scripted], autojump_clock: MockClock) -> None:
    """Whoever is cut off before it is told is not to seem to know it."""
    began = autojump_clock.current_time()
    body = await tell(source(revision=7, newest=7, told=[]), last_seen=8)
    event = "event: instance_registered\ndata: InstanceRegistered\n\n"
    assert body == f"retry: 1000\n\nid: 7\n\nid: 8\n{event}"
    assert autojump_clock.current_time() - began == (PATIENCE if source is WhileSilent else 0)


async def test_what_was_told_ahead_is_missed_by_who_comes_later() -> None:
    """Although the view has not come to it."""
    for seen, missed in ((6, True), (7, True), (8, True), (9, False), (10, False)):
        body = await tell(Scripted(revision=7, newest=9, told=[]), last_seen=seen)
        assert ("event: resync" in body) is missed


@pytest.mark.parametrize(("level", "missed"), [(15, False), (10, False), (9, True), (5, True), (0, True)])
async def test_who_has_seen_more_than_the_store_knows_has_missed_that_it_was_set_back(
    level: int,
    missed: bool,  # noqa: FBT001
    autojump_clock: MockClock,
) -> None:
    """But not who comes from a router that was ahead of this one; where that cannot be found out, it looks again."""
    body = await tell(Scripted(revision=7, newest=7, told=[], level=level), last_seen=10)
    assert ("event: resync" in body) is missed


async def test_router_comes_to_its_stores_level_for_who_has_seen_more() -> None:
    """A listener that comes back with what nobody can have told is told to look again, at once."""
    async with open_managed() as router:
        await router.node.registry.register("svc", "one")
        seen = router.node.runtime.directory.snapshot.revision + 10**9
        async with listening(router, last_seen=str(seen)) as listener:
            assert (await listener.next()).kind == "resync"


async def test_router_knows_what_it_told_ahead_of_its_watch() -> None:
    """Its own commits; the view's revision stays where it is until then."""
    async with open_managed() as router:
        await router.node.registry.register("svc", "one")
        await router.node.registry.claim("svc", "one", "a")
        directory, source = router.node.runtime.directory, Management(Router(router.node))
        await directory.sync()
        level, record = source.revision, directory.snapshot.held("a")
        assert record is not None
        assert source.newest == level
        directory.fold([Write.no_owner("a", record.revision)], [level + 2])
        assert (source.revision, source.newest) == (level, level + 2)


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
            assert PING in await read_until(stream, PING)
            await read_until(stream, PING)
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
        assert answer.headers["content-type"] == "text/event-stream"
        assert re.fullmatch("retry: 1000\n\nid: [0-9]+\n\n", answer.text)
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

"""The subjects in trouble: too much at once, answers that cannot be sent, connections that are gone, and our own bugs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from aegis_core.backend import Bus, Message, TransportUnavailable
from aegis_core.errors import AegisError
from aegis_core.node.node import open_node
from aegis_core.router import wire as wire_module
from aegis_core.router.inboxes import open_inboxes
from aegis_core.router.router import Router, open_router
from aegis_core.router.wire import serve_subjects
from tests.router.test_operations import do
from tests.router.wired import Client, OldInstance, open_wire, packed

A = {"service_name": "rooms", "instance_id": "a"}


@attrs.define(eq=False)
class Cut:
    """A bus on which nothing can be published for a while."""

    bus: Bus
    is_cut: bool = False

    @property
    def max_payload(self) -> int:
        """As ever."""
        return self.bus.max_payload

    def subscribe(
        self, subject: str, receive: Callable[[Message], None], *, queue: str = ""
    ) -> AbstractAsyncContextManager[None]:
        """As ever."""
        return self.bus.subscribe(subject, receive, queue=queue)

    def publish(self, subject: str, payload: bytes, reply: str = "", headers: Mapping[str, str] | None = None) -> None:
        """Or not."""
        if self.is_cut:
            raise TransportUnavailable(reason="cut by the test")
        self.bus.publish(subject, payload, reply, headers)


async def test_more_than_a_router_takes_at_once_is_refused(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the shape of the subject, at once; what is asked on subjects of another queue group is answered."""
    monkeypatch.setattr(wire_module, "MOST_AT_ONCE", 2)
    async with open_wire() as wire, trio.open_nursery() as nursery:
        await wire.client.ask("service.register", **A)
        async with OldInstance(wire.bus, "a", answers=False).listen():
            for _ in range(2):
                nursery.start_soon(lambda: call(wire.client, timeout=9))
            await trio.sleep(1)
            refused = await call(wire.client)
            assert (refused["error"]["type"], refused["error"]["code"]) == ("OverloadedError", 429)
            assert (await wire.client.ask("message.status", message_id="m"))["error"]["code"] == "OVERLOADED"
            assert "resources" in await wire.client.ask("resource.query")
            await trio.sleep(9)
            assert (await call(wire.client))["error"]["type"] == "InstanceTimeoutError"


async def test_heartbeats_are_taken_by_a_router_that_is_full_of_mute_calls(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that nobody loses what it holds because somebody else does not answer."""
    monkeypatch.setattr(wire_module, "MOST_AT_ONCE", 3)
    async with open_wire() as wire, trio.open_nursery() as nursery:
        for name in ("a", "b"):
            await wire.client.ask("service.register", service_name="rooms", instance_id=name)
        assert (await wire.client.ask("resource.register", **A, resource_ids=["hall"]))["success"]
        async with OldInstance(wire.bus, "a", answers=False).listen():
            for _ in range(3):
                nursery.start_soon(lambda: call(wire.client, resource_id="hall", timeout=300))
            for _ in range(10):
                await trio.sleep(10)
                assert (await call(wire.client))["error"]["type"] == "OverloadedError"
                beat = {"service_name": "rooms", "instance_id": "a", "status": "healthy"}
                wire.bus.publish("ipc.service.heartbeat", packed(beat))
            owned = wire.node.owner_of("hall")
            assert owned is not None
            assert owned.owner_instance_id == "a"
            assert wire.node.runtime.directory.snapshot.instance("rooms", "b") is None
            assert (await wire.client.ask("service.register", service_name="rooms", instance_id="c"))["success"]
            nursery.cancel_scope.cancel()


async def test_what_a_router_holds_is_limited_by_its_size(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few large calls are as much as many small ones; one alone is taken whatever its size."""
    monkeypatch.setattr(wire_module, "MOST_BYTES", 1000)
    async with open_wire() as wire, trio.open_nursery() as nursery:
        await wire.client.ask("service.register", **A)
        async with OldInstance(wire.bus, "a", answers=False).listen():
            nursery.start_soon(lambda: call(wire.client, params={"text": "x" * 2000}, timeout=9))
            await trio.sleep(1)
            refused = await call(wire.client, params={})
            assert refused["error"]["type"] == "OverloadedError"
            assert "bytes" in refused["error"]["message"]
            await trio.sleep(9)
            for _ in range(2):
                nursery.start_soon(lambda: call(wire.client, params={"text": "x" * 100}, timeout=9))
            await trio.sleep(1)
            assert (await call(wire.client, timeout=1))["error"]["type"] == "InstanceTimeoutError"


async def call(client: Client, **fields: object) -> Any:  # noqa: ANN401 - whatever is answered
    """The answer to a call of the service ``rooms``."""
    return await client.ask("route.request", service_name="rooms", method="x", **fields)


async def test_an_error_of_ours_is_answered(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And logged, and the router goes on."""
    async with open_wire() as wire:

        async def fail(*_args: object, **_options: object) -> None:
            raise KeyError("a bug")

        monkeypatch.setattr(wire.node.registry, "query_resources", fail)
        answer = await wire.client.ask("resource.query", trace_id="t")
        assert (answer["error"]["code"], answer["error"]["message"], answer["trace_id"]) == ("REMOTE_ERROR", "", "t")
        assert "ipc.resource.query failed" in caplog.text
        assert (await wire.client.ask("service.register", **A))["success"]


async def test_an_answer_that_is_too_large_is_an_error(autojump_clock: MockClock) -> None:
    """What was done is done, and whoever asked is told."""
    async with open_wire() as wire:
        await wire.client.ask("service.register", **A)
        attributes = {"text": "x" * 200_000}
        for number in range(6):
            metadata = {f"r-{number}": {"attributes": attributes}}
            claimed = await wire.client.ask("resource.register", **A, resource_ids=[*metadata], metadata=metadata)
            assert claimed["success"]
        answer = await wire.client.ask("resource.query")
        assert (answer["success"], answer["error"]["code"]) == (False, "REMOTE_ERROR")
        assert len((await wire.client.ask("resource.query", limit=3))["resources"]) == 3


async def test_a_refusal_that_is_too_large_is_told_shortly(autojump_clock: MockClock) -> None:
    """Without what the client had said."""
    async with open_wire() as wire:
        ids = [f"{number}-{'x' * 90}" for number in range(9_000)]
        answer = await wire.client.ask("resource.release", **A, resource_ids=ids)
        assert (answer["success"], list(answer["errors"]), answer["error_code"]) == (False, [""], "REMOTE_ERROR")
        assert "'a'" in answer["errors"][""]


async def test_an_answer_to_nowhere_is_dropped(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """It disturbs nobody."""
    caplog.set_level(logging.DEBUG, "aegis.router")
    async with open_node("memory://cut") as node, open_router(node) as router:
        assert router.bus is not None
        cut = Cut(router.bus)
        async with serve_subjects(router, cut):
            client = Client(router.bus)
            assert (await client.ask("service.register", **A))["success"]
            cut.is_cut = True
            router.bus.publish("ipc.resource.query", packed({}), "answers.x")
            await trio.sleep(1)
            assert "is not answered" in caplog.text
            cut.is_cut = False
            assert "resources" in await client.ask("resource.query")


async def test_what_is_told_without_a_connection_is_not_heard(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the ends of calls nor events; that is logged."""
    async with open_node("memory://cut") as node:
        assert node.runtime.bus is not None
        cut = node.runtime.bus = Cut(node.runtime.bus)
        async with open_router(node) as router:
            await trio.sleep(1)
            cut.is_cut = True
            await node.registry.register("rooms", "a")
            call = {"service_name": "rooms", "method": "x", "timeout": 0.2, "require_ack": True, "message_id": "m"}
            await refuse(router, **call)
            assert "ipc.events.instance_registered.rooms is not told" in caplog.text
            assert "the end of message m is not told" in caplog.text


async def test_nobody_hears_of_ends_where_there_is_no_bus(autojump_clock: MockClock) -> None:
    """Nor is there a place for messages; calls are made all the same."""
    async with open_node("memory://cut") as node:
        node.runtime.bus = node.runtime.open_messages = None
        async with open_router(node) as router:
            assert (router.token, await router.lives(router.tag, "")) == ("", True)
            await refuse(router, service_name="rooms", method="x", require_ack=True, message_id="m")


async def refuse(router: Router, **fields: object) -> None:
    """A call that fails."""
    with pytest.raises(AegisError):
        await do(router, "route.request", **fields)


async def test_late_answers_are_dropped(autojump_clock: MockClock) -> None:
    """Nobody waits for them any more; so are those that nobody ever waited for."""
    async with open_wire() as wire, open_inboxes(wire.bus, "mine") as inboxes:
        old = OldInstance(wire.bus, "a", answers=False)
        async with old.listen():
            with pytest.raises(trio.TooSlowError):
                await inboxes.request("inbox:a", packed({"method": "x"}), timeout=1)
            correlation_id = old.asked[0]["correlation_id"]
            wire.bus.publish(f"ipc.response.{correlation_id}", b"late")
            wire.bus.publish("ipc.response.mine.other", b"never")
        assert repr(inboxes) == "<Inboxes of mine: 0 requests waiting>"
        with pytest.raises(TransportUnavailable, match="nobody listens"):
            await inboxes.request("inbox:a", packed({"method": "x"}), timeout=1)


async def test_a_router_is_heard_while_it_listens(autojump_clock: MockClock) -> None:
    """It says so itself; of one that is slow to say, nothing else is known."""
    async with open_wire() as wire, open_inboxes(wire.bus, "mine") as inboxes:
        assert await inboxes.hears(wire.router.token)
        assert not await inboxes.hears("dead")
        async with wire.bus.subscribe("ipc.response.slow.*", lambda _: None):
            assert await inboxes.hears("slow")

"""Events on the subjects: told by one router at a time, for whoever subscribes."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from aegis_core.backend import Message
from aegis_core.errors import Forbidden
from aegis_core.events import Event
from aegis_core.router import router as router_module
from aegis_core.router.broadcast import RESOURCE, Broadcast
from aegis_core.router.reserved import SERVICE
from aegis_core.router.router import open_router
from aegis_pytest.cluster import Cluster
from tests.router.test_operations import do
from tests.router.wired import open_wire, unpacked


class Listener:
    """Keeps what is told of a service."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []

    def receive(self, message: Message) -> None:
        """One event."""
        event = unpacked(message.payload)
        assert message.subject == f"ipc.events.{event['kind']}.{event['service_name'] or '_'}"
        if event["service_name"] == "rooms":
            self.heard.append(event)

    def kinds(self) -> list[str]:
        """What was told, in order."""
        return [event["kind"] for event in self.heard]


async def test_events_are_told_once_however_many_routers_there_are(autojump_clock: MockClock) -> None:
    """With what was, what is, why, and the store's revision."""
    listener = Listener()
    async with open_wire("told") as one, open_wire("told"), one.bus.subscribe("ipc.events.>", listener.receive):
        await trio.sleep(1)
        for name in ("a", "b"):
            await one.client.ask("service.register", service_name="rooms", instance_id=name)
        a = {"service_name": "rooms", "instance_id": "a"}
        await one.client.ask("resource.register", **a, resource_ids=["lobby"])
        await one.client.ask("service.heartbeat", **a, status="unhealthy")
        await one.client.ask(
            "resource.transfer",
            service_name="rooms", resource_ids=["lobby"], from_instance_id="a", to_instance_id="b", reason="tired",
        )  # fmt: skip
        await one.client.ask("service.unregister", service_name="rooms", instance_id="b")
        await trio.sleep(31)
    assert listener.kinds() == [
        "instance_registered", "instance_registered", "resource_registered", "instance_health_changed",
        "resource_transferred", "instance_deregistered", "resource_released", "instance_lost",
    ]  # fmt: skip
    moved = listener.heard[4]
    told = {name: moved[name] for name in ("instance_id", "resource_id", "old", "new", "reason")}
    assert told == {"instance_id": "b", "resource_id": "lobby", "old": "a", "new": "b", "reason": "transferred"}
    changed = listener.heard[3]
    assert (changed["old"], changed["new"]) == ("ONLINE", "UNHEALTHY")
    revisions = [event["revision"] for event in listener.heard]
    assert revisions == sorted(revisions)
    assert all({"kind", "reason", "at"} <= event.keys() for event in listener.heard)


async def test_events_that_come_together_are_all_told(autojump_clock: MockClock) -> None:
    """Hundreds of them, in the order of their revisions."""
    listener, ids = Listener(), [f"room-{number}" for number in range(250)]
    async with open_wire() as wire, wire.bus.subscribe("ipc.events.>", listener.receive):
        await trio.sleep(1)
        a = {"service_name": "rooms", "instance_id": "a"}
        await wire.client.ask("service.register", **a)
        await wire.client.ask("resource.bulk_register", **a, resources=[{"resource_id": each} for each in ids])
        await trio.sleep(1)
    assert listener.kinds() == ["instance_registered"] + ["resource_registered"] * len(ids)
    assert [event["resource_id"] for event in listener.heard[1:]] == ids


async def test_when_the_router_that_tells_dies_another_one_goes_on(aegis_cluster: Cluster) -> None:
    """Once its lease has ended."""

    async def be_router() -> None:
        async with open_router(await aegis_cluster.node("doomed")):
            await trio.sleep_forever()

    await aegis_cluster.run("doomed", be_router)
    await trio.sleep(1)
    listener = Listener()
    async with open_router(await aegis_cluster.node("other")) as other:
        bus = other.bus
        assert bus is not None
        async with bus.subscribe("ipc.events.>", listener.receive):
            await trio.sleep(1)
            owner = other.node.owner_of(RESOURCE)
            assert owner is not None
            assert other.instance is not None
            assert owner.owner_instance_id != other.instance.instance_id
            await aegis_cluster.kill("doomed")
            await trio.sleep(aegis_cluster.ttl + 2)
            await do(other, "service.register", service_name="rooms", instance_id="a")
            await trio.sleep(0.1)
            assert listener.kinds() == ["instance_registered"]


async def test_a_router_that_lost_its_lease_tells_again(autojump_clock: MockClock) -> None:
    """It registers anew, and waits for its turn."""
    listener = Listener()
    async with open_wire("told") as wire, wire.bus.subscribe("ipc.events.>", listener.receive):
        await trio.sleep(1)
        assert wire.router.instance is not None
        await wire.node.registry.disconnect(SERVICE, wire.router.instance.instance_id)
        await trio.sleep(5)
        await wire.client.ask("service.register", service_name="rooms", instance_id="a")
        assert listener.kinds() == ["instance_registered"]
        assert repr(Broadcast(wire.node, wire.router.instance, wire.bus)).startswith("<Broadcast of <Instance")


async def test_a_router_that_may_not_tell_tries_again(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever keeps it from that."""
    listener = Listener()
    refusals = [Forbidden(operation="claim", target=RESOURCE)] * 3

    class Reluctant(Broadcast):
        """Its instance may not own the resource at first."""

        def _tell(self, event: Event) -> None:
            if refusals:
                raise refusals.pop()
            super()._tell(event)

    monkeypatch.setattr(router_module, "Broadcast", Reluctant)
    async with open_wire("told") as wire, wire.bus.subscribe("ipc.events.>", listener.receive):
        for name in ("a", "b", "c", "d"):
            await trio.sleep(5)
            await wire.client.ask("service.register", service_name="rooms", instance_id=name, ttl=1000)
        assert not refusals
        assert [event["instance_id"] for event in listener.heard] == ["d"]

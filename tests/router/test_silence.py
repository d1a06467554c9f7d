"""Instances of old clients, which neither read answers nor register again: silent for a while, and back."""

from __future__ import annotations

from datetime import timedelta

import pytest
import trio
from trio.testing import MockClock

from aegis_core.backend import ANY, Indeterminate, Operation, Put, Transaction
from aegis_core.errors import InstanceNotFound, StoreUnavailable
from aegis_core.models import ServiceInstance
from aegis_core.node.node import open_node
from aegis_core.router.operations import OPERATIONS
from aegis_core.router.router import Router
from aegis_core.router.silence import Silence
from tests.router.wired import OldInstance, Wire, open_wire, packed

A = {"service_name": "rooms", "instance_id": "a"}


def known(wire: Wire, name: str = "a") -> ServiceInstance | None:
    """The live instance of that name."""
    return wire.node.runtime.directory.snapshot.instance("rooms", name)


async def beat(wire: Wire, name: str = "a", **fields: object) -> str:
    """Send a heartbeat; the error code, or ""."""
    answer = await wire.client.ask("service.heartbeat", service_name="rooms", instance_id=name, **fields)
    return str(answer["envelope"].get("error_code", ""))


async def test_a_silent_instance_comes_back_with_its_next_heartbeat(autojump_clock: MockClock) -> None:
    """As it registered, with a new lease, and without what it held."""
    async with open_wire() as wire:
        await wire.client.ask("service.register", **A, version="1.2.3", metadata={"floor": 2}, priority=7, ttl=20)
        await wire.client.ask("resource.register", **A, resource_ids=["lobby"])
        before = known(wire)
        await trio.sleep(3500)
        assert known(wire) is None
        old = OldInstance(wire.bus, "a")
        async with old.listen():
            failed = await wire.client.ask("route.request", service_name="rooms", method="x", timeout=1)
            assert failed["error"]["type"] == "ServiceNotFoundError"
            assert await beat(wire) == ""
            assert (await wire.client.ask("route.request", service_name="rooms", method="x"))["instance_id"] == "a"
        after = known(wire)
        assert before is not None
        assert after is not None
        assert (after.version, dict(after.metadata), after.priority, after.ttl) == ("1.2.3", {"floor": 2}, 7, 20.0)
        assert after.lease != before.lease
        assert wire.node.owner_of("lobby") is None


async def test_a_silent_instance_is_forgotten_after_an_hour(autojump_clock: MockClock) -> None:
    """However long it lived before."""
    async with open_wire() as wire:
        await wire.client.ask("service.register", **A)
        for _ in range(1000):
            await trio.sleep(10)
            assert await beat(wire) == ""
        await trio.sleep(30 + 3500)
        assert await beat(wire) == ""
        await trio.sleep(30 + 600 + 3700)
        assert await beat(wire) == "NOT_FOUND"


async def test_who_shows_a_lease_registers_anew_by_itself(autojump_clock: MockClock) -> None:
    """It reads answers, and is told."""
    async with open_wire() as wire:
        await wire.client.ask("service.register", **A, lease_id="secret")
        assert await beat(wire, lease_id="secret") == ""
        await trio.sleep(31)
        assert await beat(wire, lease_id="secret") == "NOT_FOUND"
        assert await beat(wire) == "NOT_FOUND"


class Hasty(Silence):
    """That of a router which is about to forget an instance when that one's last heartbeat comes to another router."""

    other: Router
    came_back: bool

    async def left(self, service_name: str, instance_id: str) -> None:
        """As it is, after the heartbeat."""
        registry = self.other.node.registry
        try:
            await registry.heartbeat(service_name, instance_id)
        except InstanceNotFound:
            self.came_back = await self.other.silence.returned(service_name, instance_id)
        else:
            await self.other.silence.heard(service_name, instance_id)
        await super().left(service_name, instance_id)


class Tardy(Silence):
    """That of a router which is about to keep what it heard when the instance deregisters by another router."""

    other: Router

    async def _commit(self, operation: Operation) -> int | None:
        if isinstance(operation, Put) and operation.key.startswith("silent."):
            await unregister(self.other)
        return await super()._commit(operation)


async def unavailable(*args: object, **options: object) -> None:
    """What is done where the store does not answer."""
    await trio.lowlevel.checkpoint()
    raise StoreUnavailable(reason="by the test")


async def unregister(router: Router) -> None:
    """End the registration of a by *router*."""
    operation = OPERATIONS["service.unregister"]
    await operation.carry_out(router, operation.read(A), None)


async def test_heartbeat_at_another_router_does_not_undo_that_one_left(autojump_clock: MockClock) -> None:
    """Neither while it leaves, nor afterwards."""
    async with open_wire() as wire, open_node(wire.node.runtime.settings.backend) as node:
        await wire.client.ask("service.register", **A)
        await node.runtime.directory.sync()
        router, other = Router(wire.node), Router(node)
        hasty = Hasty(wire.node)
        hasty.other, hasty.came_back = other, False
        router.silence = hasty  # type: ignore[misc] - instead of its own
        await unregister(router)
        await node.runtime.directory.sync()
        assert not hasty.came_back
        assert node.runtime.directory.snapshot.instance("rooms", "a") is None
        assert await beat(wire) == "NOT_FOUND"


async def test_what_was_heard_of_who_has_left_is_not_kept(autojump_clock: MockClock) -> None:
    """Its heartbeat was renewed just before, and is noted late."""
    async with open_wire() as wire, open_node(wire.node.runtime.settings.backend) as node:
        await wire.node.registry.register("rooms", "a")
        tardy = Tardy(wire.node)
        tardy.other = Router(node)
        await tardy.heard("rooms", "a")
        assert known(wire) is None
        assert await beat(wire) == "NOT_FOUND"


async def test_what_was_heard_is_kept_where_nobody_can_say_whether_it_left(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A store whose changes do not come is no reason to forget it."""
    async with open_wire() as wire:

        async def wait_for_ever(revision: int) -> None:
            await trio.sleep_forever()

        with monkeypatch.context() as patch:
            patch.setattr(wire.node.runtime.directory, "wait_revision", wait_for_ever)
            assert (await wire.client.ask("service.register", **A))["success"]
        assert "whether a has left is not known" in caplog.text
        await trio.sleep(31)
        assert await beat(wire) == ""


async def test_who_leaves_while_it_is_silent_does_not_come_back(autojump_clock: MockClock) -> None:
    """Although there is no registration any more that could be ended; once more, there is nothing."""
    async with open_wire() as wire:
        await wire.client.ask("service.register", **A)
        await trio.sleep(60)
        assert known(wire) is None
        assert (await wire.client.ask("service.unregister", **A))["success"]
        assert await beat(wire) == "NOT_FOUND"
        assert not (await wire.client.ask("service.unregister", **A))["success"]


@pytest.mark.parametrize("seconds", [1, 60], ids=["lives", "is silent"])
async def test_who_could_not_be_unregistered_comes_back_as_before(
    seconds: int, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever router its heartbeats come to, and although that one kept it lately."""
    async with open_wire() as wire:
        await wire.client.ask("service.register", **A, version="1.2.3")
        await trio.sleep(seconds)

        with monkeypatch.context() as patch:
            patch.setattr(type(wire.node.registry), "deregister", unavailable)
            with pytest.raises(StoreUnavailable):
                await unregister(wire.router)
        assert await beat(wire) == ""
        await trio.sleep(60)
        assert known(wire) is None
        assert await beat(wire) == ""
        back = known(wire)
        assert back is not None
        assert back.version == "1.2.3"


async def test_who_was_never_kept_is_not_kept_for_being_refused(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It shows its lease, and registers anew by itself."""
    async with open_wire() as wire:
        await wire.client.ask("service.register", **A, lease_id="secret")

        with monkeypatch.context() as patch:
            patch.setattr(type(wire.node.registry), "deregister", unavailable)
            assert not (await wire.client.ask("service.unregister", **A, lease_id="secret"))["success"]
        await trio.sleep(60)
        assert await beat(wire) == "NOT_FOUND"


async def test_who_has_left_does_not_come_back_by_a_late_heartbeat(autojump_clock: MockClock) -> None:
    """It left of its own will."""
    async with open_wire() as wire:
        await wire.client.ask("service.register", **A)
        await wire.client.ask("service.unregister", **A)
        assert await beat(wire) == "NOT_FOUND"


async def test_a_new_registration_takes_the_place_of_a_silent_one(autojump_clock: MockClock) -> None:
    """The id is free; a live one is a duplicate."""
    async with open_wire() as wire:
        await wire.client.ask("service.register", **A, version="1.0.0")
        assert not (await wire.client.ask("service.register", **A, version="2.0.0"))["success"]
        await trio.sleep(31)
        assert (await wire.client.ask("service.register", **A, version="2.0.0"))["success"]
        await trio.sleep(31)
        assert await beat(wire) == ""
        back = known(wire)
        assert back is not None
        assert back.version == "2.0.0"


@pytest.mark.parametrize(
    ("role", "waits"), [("active", True), ("standby", True), (None, False)], ids=["active", "standby", "neither"]
)
async def test_a_role_is_waited_for_again(role: str | None, waits: bool, autojump_clock: MockClock) -> None:  # noqa: FBT001
    """At the end of the line: somebody else has it by now."""
    async with open_wire() as wire:
        named = {"metadata": {"resource_id": "hall"}}
        await wire.client.ask("service.register", **A, **named, role=role)
        await trio.sleep(31)
        other = {"service_name": "rooms", "instance_id": "b", "ttl": 1000}
        assert (await wire.client.ask("service.register", **other, **named, role="active"))["role"] == "ACTIVE"
        assert await beat(wire) == ""
        line = [place.instance_id for place in wire.node.runtime.directory.snapshot.line("hall")]
        assert line == (["a"] if waits else [])


async def test_a_shown_role_is_shown_again(autojump_clock: MockClock) -> None:
    """It is about nothing in particular."""
    async with open_wire() as wire:
        await wire.client.ask("service.register", **A, role="active")
        await trio.sleep(31)
        assert await beat(wire, status="unhealthy") == ""
        back = known(wire)
        assert back is not None
        assert (back.is_active, back.is_healthy) == (True, False)


async def test_two_heartbeats_at_once_bring_one_back(autojump_clock: MockClock) -> None:
    """Whoever is second renews it."""
    async with open_wire("silence") as one, open_wire("silence") as other, trio.open_nursery() as nursery:
        await one.client.ask("service.register", **A)
        await trio.sleep(31)
        errors: list[str] = []

        async def send(wire: Wire) -> None:
            errors.append(await beat(wire))

        for wire in (one, other, one, other):
            nursery.start_soon(send, wire)
        await trio.sleep(5)
        assert errors == [""] * 4


@pytest.mark.parametrize("value", [b"\xc1", packed({"version": 1})], ids=["no record", "half a record"])
async def test_what_is_known_and_cannot_be_read_brings_nobody_back(value: bytes, autojump_clock: MockClock) -> None:
    """Nor do names that are none."""
    async with open_wire() as wire:
        await wire.node.runtime.store.commit(Transaction("t", (Put("silent.rooms.a", value, ANY, ttl=100.0),)))
        assert await beat(wire) == "NOT_FOUND"
        for name in ("", "a.b", "*"):
            assert await beat(wire, name) in {"NOT_FOUND", "VALIDATION_ERROR"}


async def test_times_are_those_of_the_registration(autojump_clock: MockClock) -> None:
    """It comes back later than it was there at first."""
    async with open_wire() as wire:
        await wire.client.ask("service.register", **A)
        first = known(wire)
        await trio.sleep(31)
        await beat(wire)
        back = known(wire)
        assert first is not None
        assert back is not None
        assert back.registered_at - first.registered_at >= timedelta(0)


async def test_what_the_store_does_not_take_is_written_with_the_next_heartbeat(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The registration stands all the same."""
    async with open_wire() as wire:
        store = wire.node.runtime.store
        commit = store.commit

        async def fail(transaction: Transaction) -> tuple[int, ...]:
            if transaction.operations[0].key.startswith("silent."):
                raise Indeterminate(reason="by the test")
            return await commit(transaction)

        monkeypatch.setattr(store, "commit", fail)
        assert (await wire.client.ask("service.register", **A))["success"]
        assert "silent.rooms.a is not written" in caplog.text
        monkeypatch.setattr(store, "commit", commit)
        assert await beat(wire) == ""
        await trio.sleep(31)
        assert await beat(wire) == ""
        assert repr(wire.router.silence) == "<Silence: 2 instances of old clients>"


async def test_instances_that_were_heard_long_ago_are_not_kept_in_mind(autojump_clock: MockClock) -> None:
    """Only in the store."""
    async with open_wire() as wire:
        for number in range(192):
            await wire.client.ask("service.register", service_name="rooms", instance_id=f"n{number}")
        await trio.sleep(700)
        await wire.client.ask("service.register", **A)
        assert repr(wire.router.silence) == "<Silence: 1 instances of old clients>"

"""The chores of nodes: who sweeps what the dead left, when and when not, how long audits are kept, and what ends by its own TTL."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Final

import attrs
import pytest
import trio
from trio.testing import MockClock

from aegis_core.backend import Capabilities
from aegis_core.errors import LeaseLost
from aegis_core.events import InstanceHealthChanged, InstanceLost, OrphanSwept, ResourceExpired, ResourceReleased
from aegis_core.models import EndReason, Health, ResourceMetadata, Role, TransferRecord
from aegis_core.names import target_key
from aegis_core.node.instance import Instance
from aegis_core.node.node import Node, open_node
from aegis_core.node.service import Service
from aegis_core.node.subscription import EventStream
from tests.node.faulty import Faults, names_key

SWEEP: Final = names_key("transfers")
"""What a sweep of resources writes."""


def make_service() -> Service:
    """A service without anything."""
    return Service("svc", version="1.0.0")


def drained(stream: EventStream[OrphanSwept]) -> list[OrphanSwept]:
    """What waits in *stream*."""
    found: list[OrphanSwept] = []
    with suppress(trio.WouldBlock):
        while True:
            event = stream.receive_nowait()
            if isinstance(event, OrphanSwept):  # else the view was made anew
                found.append(event)
    return found


@attrs.frozen(eq=False)
class House:
    """A node whose process can be stopped, with the instance ``z``, and others with what they swept."""

    dying: Faults
    mortal: Node
    z: Instance
    nodes: dict[str, Node]
    faults: dict[str, Faults]
    streams: dict[str, EventStream[OrphanSwept]]

    @property
    def swept(self) -> dict[str, list[OrphanSwept]]:
        """What each node told that it swept, since this was last asked."""
        return {name: drained(stream) for name, stream in self.streams.items()}

    async def die(self, seconds: float = 35) -> None:
        """The node of ``z`` is cut off for good; *seconds* pass."""
        self.dying.cut()
        await trio.sleep(seconds)

    async def is_stored(self, resource_id: str) -> bool:
        """Whether the store has a record of *resource_id*."""
        (node, *_) = self.nodes.values()
        return await node.runtime.store.get(target_key(resource_id)) is not None

    def audits(self) -> list[TransferRecord]:
        """The audit records of sweeps, which are the same in every view."""
        found = [
            {r.transfer_id: r for r in node.runtime.directory.snapshot.transfers() if r.kind == "sweep"}
            for node in self.nodes.values()
        ]
        assert all(records == found[0] for records in found)
        return list(found[0].values())


@asynccontextmanager
async def house(*names: str, most: int = 1000, **config: object) -> AsyncIterator[House]:
    """A node for each of *names*, with an instance of that id (none for a name in capitals)."""
    dying, service = Faults(), make_service()
    nodes: dict[str, Node] = {}
    faults: dict[str, Faults] = {}
    streams: dict[str, EventStream[OrphanSwept]] = {}
    async with AsyncExitStack() as stack:
        for seed, name in enumerate(names, 1):  # nodes with one seed would draw the same ids
            faults[name] = Faults(capabilities=Capabilities(min_ttl=0.001, max_transaction=most), seed=seed)
            nodes[name] = await stack.enter_async_context(faults[name].node("test", **config))
            if name.islower():
                await stack.enter_async_context(nodes[name].serve(service, instance_id=name))
            streams[name] = await stack.enter_async_context(nodes[name].events(OrphanSwept))
        async with dying.node("test", **config) as mortal, mortal.serve(service, instance_id="z") as z:
            yield House(dying, mortal, z, nodes, faults, streams)
            dying.heal()


async def hold_in_line(instance: Instance, resource_id: str) -> None:
    """Wait for *resource_id* until the lease is lost."""
    while True:
        try:
            async with instance.own(resource_id, role=Role.STANDBY):
                await trio.sleep_forever()
        except LeaseLost:
            continue


# -- who sweeps, and what it leaves ---------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("b", "c", "d"), ("d", "c", "b")])
async def test_the_node_of_the_lowest_instance_id_sweeps(names: Sequence[str], autojump_clock: MockClock) -> None:
    """Alone, when the lease has ended: one event, one audit record, and no record is left."""
    async with house(*names) as there:
        await there.z.claim("x", "y")
        await there.die()
        swept = there.swept
        assert [name for name, events in swept.items() if events] == ["b"]
        assert [name for name in names if there.faults[name].times_of("transfers")] == ["b"]
        (event,) = swept["b"]
        assert (event.service_name, event.instance_id, set(event.resource_ids)) == ("svc", "z", {"x", "y"})
        assert event.reason
        (record,) = there.audits()
        assert (record.kind, record.from_instance_id, record.to_instance_id) == ("sweep", "z", "")
        assert set(record.resource_ids) == {"x", "y"}
        assert (record.reason, record.requested_by) == (event.reason, "janitor")
        assert not await there.is_stored("x")
        assert not await there.is_stored("y")


async def test_who_left_by_itself_leaves_nothing_to_tell_twice(autojump_clock: MockClock) -> None:
    """What a deregistration freed is swept as well, with a record of its own; the release was told before."""
    async with house("b", "c") as there, there.nodes["c"].events(ResourceReleased) as released:
        await there.z.claim("x")
        await there.mortal.registry.deregister("svc", "z")
        await trio.sleep(0.5)
        assert [name for name, events in there.swept.items() if events] == ["b"]
        (record,) = there.audits()
        assert (record.from_instance_id, record.resource_ids) == ("z", ("x",))
        events = [released.receive_nowait()]
        with pytest.raises(trio.WouldBlock):
            released.receive_nowait()
        assert [(e.resource_id, e.reason) for e in events if isinstance(e, ResourceReleased)] == [("x", "deregistered")]


async def test_each_lost_instance_has_its_own_audit_record(autojump_clock: MockClock) -> None:
    """However many were lost at the same moment, and each once."""
    async with house("b", "c") as there, there.mortal.serve(make_service(), instance_id="y") as second:
        await there.z.claim("z:1", "z:2")
        await second.claim("y:1")
        await there.die()
        assert {r.from_instance_id: set(r.resource_ids) for r in there.audits()} == {
            "z": {"z:1", "z:2"},
            "y": {"y:1"},
        }
        swept = there.swept
        assert sorted(event.instance_id for event in swept["b"]) == ["y", "z"]
        assert swept["c"] == []


async def test_more_than_a_transaction_is_swept_in_parts(autojump_clock: MockClock) -> None:
    """Each part is told; the audit record lists everything."""
    async with house("b", most=4) as there:
        ids = {f"id{number}" for number in range(10)}
        await there.z.claim(*ids)
        await there.die()
        assert not [i for i in ids if await there.is_stored(i)]
        told = [i for event in there.swept["b"] for i in event.resource_ids]
        assert len(told) == len(set(told)) == 10
        (record,) = there.audits()
        assert set(record.resource_ids) == ids


async def test_places_in_lines_are_swept_without_an_audit_record(autojump_clock: MockClock) -> None:
    """Nothing was owned."""
    async with house("b") as there, trio.open_nursery() as nursery:
        (node,) = there.nodes.values()
        async with node.serve(make_service(), instance_id="c") as owner:
            await owner.claim("x")
            nursery.start_soon(hold_in_line, there.z, "x")
            await trio.sleep(1)
            assert len(node.runtime.directory.snapshot.places_of(there.z.lease_tag)) == 1
            tag = there.z.lease_tag
            await there.die()
            assert node.runtime.directory.snapshot.places_of(tag) == ()
            assert there.audits() == []
            assert there.swept["b"] == []
            nursery.cancel_scope.cancel()
            there.dying.heal()


async def test_role_groups_are_swept_and_not_told_as_resources(autojump_clock: MockClock) -> None:
    """Who is told of `OrphanSwept` asks for resources."""
    async with house("b") as there, there.mortal.serve(make_service(), instance_id="y", role=Role.ACTIVE):
        (node,) = there.nodes.values()
        await there.die()
        assert node.runtime.directory.snapshot.held("%svc%default") is None
        assert there.swept["b"] == []


# -- when somebody else does it ------------------------------------------------------------------------------------


async def test_a_node_without_an_instance_sweeps_nothing(autojump_clock: MockClock) -> None:
    """It is no member; who comes later sweeps what is left then, and meanwhile it is free all the same."""
    async with house("OBSERVER") as there:
        (node,) = there.nodes.values()
        await there.z.claim("x")
        await there.die()
        assert node.owner_of("x") is None
        assert await there.is_stored("x")
        await node.registry.register("svc", "thin", ttl=100)
        await trio.sleep(1)
        assert await there.is_stored("x")
        async with node.serve(make_service(), instance_id="late"):
            await trio.sleep(1)
            assert not await there.is_stored("x")
        assert [e.instance_id for e in there.swept["OBSERVER"]] == ["z"]


async def test_the_next_one_sweeps_when_the_first_is_gone_too(autojump_clock: MockClock) -> None:
    """Also what the first left."""
    async with house("b", "c") as there:
        await there.z.claim("x")
        there.faults["b"].cut()
        await there.die(50)
        assert [name for name, events in there.swept.items() if events] == ["c"]
        there.faults["b"].heal()
        await trio.sleep(1)
        assert {r.from_instance_id for r in there.audits()} == {"z"}


async def test_an_instance_that_says_it_is_unhealthy_lets_others_sweep(autojump_clock: MockClock) -> None:
    """As long as there is a healthy one."""
    async with house("b", "c") as there:
        await there.z.claim("x")
        await there.nodes["b"].registry.set_health("svc", "b", Health.UNHEALTHY)
        await there.die()
        assert [name for name, events in there.swept.items() if events] == ["c"]


async def test_a_sweep_that_fails_is_tried_until_it_succeeds(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """And said once, and at DEBUG for each time after that."""
    caplog.set_level(logging.DEBUG, "aegis.janitor")
    async with house("b", request_timeout=1) as there:
        await there.z.claim("x")
        rule = there.faults["b"].hold(trio.Event(), SWEEP, times=3)
        await there.die(40)
        assert rule.seen == 3
        levels = [record.levelname for record in caplog.records if "is swept later" in record.getMessage()]
        assert levels == ["WARNING", "DEBUG", "DEBUG"]
        assert not await there.is_stored("x")
        assert len(there.audits()) == 1
        assert len(there.swept["b"]) == 1


# -- never too early -----------------------------------------------------------------------------------------------


async def test_nothing_is_swept_while_the_lease_lives(autojump_clock: MockClock) -> None:
    """Silent and UNHEALTHY as it may be, until its TTL has ended."""
    async with house("b") as there:
        (node,) = there.nodes.values()
        async with node.events(InstanceHealthChanged, InstanceLost) as told:
            (claim,) = await there.z.claim("x")
            await trio.sleep(60)
            last = there.dying.times_of("service-instances.svc.z")[-1]
            await there.die(last + 25.5 - trio.current_time())
            event = told.receive_nowait()
            assert isinstance(event, InstanceHealthChanged)
            assert event.new is Health.UNHEALTHY
            assert await there.is_stored("x")
            there.dying.heal()
            await trio.sleep(60)
            assert claim.held
            assert there.swept["b"] == []
            assert there.audits() == []


async def test_what_was_claimed_meanwhile_is_not_swept(autojump_clock: MockClock) -> None:
    """The sweep was decided before, and arrives after: it changes nothing, and only the rest is swept."""
    async with house("b", "c") as there:
        await there.z.claim("x", "y")
        arrive = trio.Event()
        there.faults["b"].hold(arrive, SWEEP)
        await there.die(31)
        claimed = await there.nodes["c"].registry.claim("svc", "c", "x")
        arrive.set()
        await trio.sleep(1)
        owner = await there.nodes["b"].registry.get_owner("x")
        assert (owner.owner_instance_id, owner.epoch) == ("c", claimed.epochs["x"])
        assert not await there.is_stored("y")
        assert [event.resource_ids for event in there.swept["b"]] == [("y",)]
        (record,) = there.audits()
        assert record.resource_ids == ("y",)


async def test_nothing_is_swept_by_a_view_that_is_behind(autojump_clock: MockClock) -> None:
    """The records of an instance that came while the view stood still, by a lease that it does not know of."""
    async with house("b", "c") as there:
        sweeper = there.nodes["b"]
        await there.z.claim("x")
        there.faults["b"].deaf = True
        async with there.nodes["c"].serve(make_service(), instance_id="new") as new:
            await new.claim("a")
            await trio.sleep(1)
            there.faults["b"].resync()
            await trio.sleep(2)
            assert there.swept["b"] == []
            assert sweeper.owner_of("a") is not None
            assert sweeper.owner_of("x") is not None
            assert await there.is_stored("a")
            assert there.audits() == []


# -- how long audits are kept --------------------------------------------------------------------------------------


async def test_audit_records_are_kept_as_long_as_configured(autojump_clock: MockClock) -> None:
    """Of sweeps, transfers and changes of role alike; then every view forgets them."""
    async with house("b", "c", audit_retention=100) as there:
        node = there.nodes["b"]
        await there.z.claim("x")
        await there.die(40)
        swept = trio.current_time()
        (record,) = there.audits()
        await trio.sleep(50)
        await node.registry.claim("svc", "b", "y")
        async with node.serve(make_service(), instance_id="active", role=Role.ACTIVE):
            await node.registry.set_role("svc", Role.STANDBY, "active")
            kinds = {r.kind for r in node.runtime.directory.snapshot.transfers()}
            assert kinds == {"sweep", "role"}
            await trio.sleep_until(swept + 101)
            kept = node.runtime.directory.snapshot.transfers()
            assert [r.kind for r in kept] == ["role"]
            assert node.runtime.directory.snapshot.transfer(record.transfer_id) is None
            await trio.sleep(51)
            assert node.runtime.directory.snapshot.transfers() == ()
        assert there.audits() == []


# -- what ends by a time to live of its own ------------------------------------------------------------------------


@pytest.mark.parametrize("later", [30.0, None])
async def test_a_time_to_live_can_be_prolonged(later: float | None, autojump_clock: MockClock) -> None:
    """Counted from the acquisition, by the metadata as they are then; or there is none any more."""
    async with open_node("memory://") as node, node.serve(make_service()) as instance:
        (claim,) = await instance.claim("x", metadata=ResourceMetadata(ttl_seconds=10))
        await trio.sleep(5)
        changed = ResourceMetadata(ttl_seconds=later, version=claim.metadata.version)
        await instance.claim("x", metadata=changed)
        await trio.sleep(24.5)
        assert claim.held
        await trio.sleep(100)
        assert claim.ended is (EndReason.RESOURCE_TTL if later else None)


async def test_a_time_to_live_can_be_shortened(autojump_clock: MockClock) -> None:
    """By another node, too; what has passed already ends at once."""
    async with (
        open_node("memory://a") as node,
        open_node("memory://a") as other,
        node.serve(make_service()) as instance,
    ):
        (claim,) = await instance.claim("x", metadata=ResourceMetadata(ttl_seconds=1000))
        await trio.sleep(20)
        changed = ResourceMetadata(ttl_seconds=5, version=claim.metadata.version)
        await other.registry.claim("svc", instance.instance_id, "x", metadata=changed)
        assert await claim.wait_ended() is EndReason.RESOURCE_TTL
        assert trio.current_time() == 20


async def test_many_times_to_live_end_each_at_its_own_time(autojump_clock: MockClock) -> None:
    """In their order, whatever the order in which they were claimed."""
    ended: list[tuple[str, float]] = []
    async with open_node("memory://") as node, node.serve(make_service()) as instance:
        async with node.events(ResourceExpired, ResourceReleased) as told:
            for seconds in (9, 3, 6, 3):
                name = f"of {seconds} s no {len(instance.claims)}".replace(" ", "-")
                await instance.claim(name, metadata=ResourceMetadata(ttl_seconds=seconds))
            await instance.claim("for-ever")
            for _ in range(4):
                event = await told.receive()
                assert isinstance(event, ResourceExpired)
                ended.append((event.resource_id, trio.current_time()))
            assert [at for _, at in ended] == pytest.approx([3, 3, 6, 9], abs=0.01)
            assert len({name for name, _ in ended}) == 4
            assert list(instance.claims) == ["for-ever"]
            with pytest.raises(trio.WouldBlock):
                told.receive_nowait()


async def test_what_is_being_released_when_its_time_is_over_ends_as_released(autojump_clock: MockClock) -> None:
    """Who moves it says how it ends."""
    service = make_service()

    @service.on_release
    async def unload(_claim: object) -> None:
        await trio.sleep(3)

    async with open_node("memory://") as node, node.serve(service) as instance:
        (claim,) = await instance.claim("x", metadata=ResourceMetadata(ttl_seconds=10))
        await trio.sleep(8)
        await claim.release()
        assert claim.ended is EndReason.RELEASED
        assert trio.current_time() == 11
        assert node.owner_of("x") is None

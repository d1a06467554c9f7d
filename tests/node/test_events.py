"""Events: what each thing that happens is told as, once by every node, and what only the node knows where it happens.

The file is long, because half of it is the list of the things that happen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Final

import attrs
import pytest
import trio
from trio.testing import MockClock

from aegis_core.errors import StoreUnavailable
from aegis_core.events import (
    BulkProgress,
    CircuitStateChanged,
    Event,
    InstanceDeregistered,
    InstanceHealthChanged,
    InstanceLost,
    InstanceRegistered,
    LeaseEnded,
    OrphanSwept,
    ResourceExpired,
    ResourceRegistered,
    ResourceReleased,
    ResourceTransferred,
    Resync,
    RoleChanged,
    ScopeOverran,
)
from aegis_core.hookspecs import Principal, hookimpl
from aegis_core.models import Health, ResourceMetadata, Role
from aegis_core.node.call import Call
from aegis_core.node.claims import Claim
from aegis_core.node.instance import Instance
from aegis_core.node.node import Node, open_node
from aegis_core.node.service import Service
from aegis_core.node.subscription import CAPACITY, EventStream
from tests.node.faulty import Faults, erase

LOCAL: Final = (BulkProgress, CircuitStateChanged, LeaseEnded, OrphanSwept, Resync, ScopeOverran)
"""What only the node tells where it happens."""

ANY_TIME: Final = datetime(2000, 1, 1, tzinfo=UTC)


class ForceAllowed:
    """A plug-in that lets everybody do everything."""

    @hookimpl
    def aegis_authorize(self, principal: Principal, operation: str) -> bool:
        """Yes."""
        return True


def make_service(name: str = "svc") -> Service:
    """A service that adopts what it is given, and works."""
    service = Service(name, version="1.0.0", on_demand=("d:",))

    @service.on_acquire
    async def load(claim: Claim) -> None:
        await trio.lowlevel.checkpoint()

    @service.method
    async def work(call: Call) -> str:
        return "done"

    return service


def drain(stream: EventStream[Event]) -> list[Event]:
    """What waits in *stream*."""
    found: list[Event] = []
    with suppress(trio.WouldBlock):
        while True:
            found.append(stream.receive_nowait())
    return found


@attrs.frozen(eq=False)
class Town:
    """Three nodes: ``a`` is served by the first, behind `faults`, ``b`` by the second; the third only looks on."""

    faults: Faults
    nodes: Mapping[str, Node]
    a: Instance
    b: Instance
    streams: Mapping[str, EventStream[Event]]

    @property
    def first(self) -> Node:
        """The node of ``a``."""
        return self.nodes["first"]

    @property
    def second(self) -> Node:
        """The node of ``b``."""
        return self.nodes["second"]

    async def told(self) -> dict[str, list[Event]]:
        """What each node told since this was last asked, once it has settled."""
        await trio.sleep(1)
        return {name: drain(stream) for name, stream in self.streams.items()}


@asynccontextmanager
async def town(**config: object) -> AsyncIterator[Town]:
    """Nodes with everything told that they had to tell so far."""
    faults, allowed = Faults(seed=1), ForceAllowed()
    async with AsyncExitStack() as stack:
        names = {"first": "faulty://test", "second": "memory://test", "third": "memory://test"}
        nodes = {
            name: await stack.enter_async_context(open_node(url, plugins=[faults, allowed], config=config))
            for name, url in names.items()
        }
        a = await stack.enter_async_context(nodes["first"].serve(make_service(), instance_id="a", role=Role.ACTIVE))
        b = await stack.enter_async_context(nodes["second"].serve(make_service(), instance_id="b", role=Role.STANDBY))
        streams = {name: await stack.enter_async_context(node.events()) for name, node in nodes.items()}
        found = Town(faults, nodes, a, b, streams)
        await found.told()
        yield found


def shared(events: list[Event]) -> list[Event]:
    """Those of *events* that every node tells, without what each says at its own time."""
    return [attrs.evolve(event, at=ANY_TIME) for event in events if not isinstance(event, LOCAL)]


def shown(event: Event) -> tuple[object, ...]:
    """What of *event* matters here."""
    extra = {
        ResourceTransferred: ("old", "reason"),
        ResourceReleased: ("reason",),
        ResourceRegistered: ("reason",),
        RoleChanged: ("group", "old", "new"),
        InstanceHealthChanged: ("new", "reason"),
        InstanceLost: ("released",),
        InstanceDeregistered: ("released",),
    }.get(type(event), ())
    return (type(event), event.instance_id, event.resource_id, *(getattr(event, name) for name in extra))


# -- what is told of each thing that happens -----------------------------------------------------------------------

Deed = Callable[[Town], Awaitable[object]]
"""What is done. Between two changes of one key it waits: a watch may merge what comes at the same moment."""

DEEDS: dict[str, tuple[Deed, list[tuple[object, ...]]]] = {}


def told_as(*events: tuple[object, ...]) -> Callable[[Deed], Deed]:
    """Every node tells of the deed by exactly *events*."""

    def add(deed: Deed) -> Deed:
        DEEDS[deed.__name__] = (deed, list(events))
        return deed

    return add


@told_as((ResourceRegistered, "a", "x", "claimed"))
async def claiming(town: Town) -> None:
    """A new owner; claimed again, and with other metadata, it is no news."""
    (claim,) = await town.a.claim("x", metadata=ResourceMetadata(tags=("one",)))
    await trio.sleep(0.1)
    await town.a.claim("x")
    await trio.sleep(0.1)
    await town.a.claim("x", metadata=ResourceMetadata(tags=("two",), version=claim.metadata.version))


@told_as((ResourceRegistered, "a", "x", "claimed"), (ResourceReleased, "a", "x", "released"))
async def releasing(town: Town) -> None:
    """Nobody owns it."""
    (claim,) = await town.a.claim("x")
    await trio.sleep(0.1)
    await claim.release()


@told_as(
    (ResourceRegistered, "a", "x", "claimed"),
    (ResourceRegistered, "a", "y", "claimed"),
    (ResourceTransferred, "b", "x", "a", "transferred"),
    (ResourceTransferred, "b", "y", "a", "transferred"),
)
async def transferring(town: Town) -> None:
    """One event for each resource, and no release."""
    await town.a.claim("x", "y")
    await trio.sleep(0.1)
    await town.a.transfer("x", "y", to="b", reason="why not")


@told_as((ResourceRegistered, "a", "x", "claimed"), (ResourceTransferred, "b", "x", "a", "forced"))
async def forcing(town: Town) -> None:
    """Taken from a live owner."""
    await town.a.claim("x")
    await trio.sleep(0.1)
    await town.b.claim("x", force=True)


@told_as((ResourceRegistered, "a", "x", "claimed"), (ResourceExpired, "a", "x"))
async def outliving(town: Town) -> None:
    """Its own time to live is over: that is no release."""
    (claim,) = await town.a.claim("x", metadata=ResourceMetadata(ttl_seconds=5))
    await claim.wait_ended()


@told_as((ResourceRegistered, "a", "x", "claimed"), (ResourceReleased, "a", "x", "released"))
async def erasing(town: Town) -> None:
    """With other tools."""
    await town.a.claim("x")
    await trio.sleep(0.1)
    await erase(town.second, "x")


@told_as(
    (InstanceHealthChanged, "a", "", Health.UNHEALTHY, "said"), (InstanceHealthChanged, "a", "", Health.ONLINE, "said")
)
async def falling_ill(town: Town) -> None:
    """By its own word, each change once, however many renewals repeat it."""
    await town.a.set_health(Health.UNHEALTHY)
    await trio.sleep(0.1)
    await trio.sleep(50)
    await town.a.set_health(Health.UNHEALTHY)
    await trio.sleep(0.1)
    await town.a.set_health(Health.ONLINE)


@told_as(
    (RoleChanged, "a", "", "default", Role.ACTIVE, Role.STANDBY),
    (RoleChanged, "b", "", "default", Role.STANDBY, Role.ACTIVE),
)
async def changing_roles(town: Town) -> None:
    """One for each instance whose role changed, who loses it first."""
    await town.second.registry.set_role("svc", Role.ACTIVE, "b")


@told_as(
    (ResourceRegistered, "b", "x", "claimed"),
    (RoleChanged, "a", "x", None, None, Role.STANDBY),
    (ResourceReleased, "b", "x", "released"),
    (RoleChanged, "b", "x", None, Role.ACTIVE, None),
    (ResourceRegistered, "a", "x", "promoted"),
    (RoleChanged, "a", "x", None, Role.STANDBY, Role.ACTIVE),
    (ResourceReleased, "a", "x", "released"),
)
async def waiting_in_line(town: Town) -> None:
    """A resource with a line has roles; without one it has an owner only."""
    await town.b.claim("x")

    async def release() -> None:
        await trio.sleep(1)
        await town.b.release("x")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(release)
        async with town.a.own("x", role=Role.STANDBY):
            await trio.sleep(1)


@told_as((InstanceRegistered, "old", ""), (InstanceDeregistered, "old", "", ()))
async def coming_and_going(town: Town) -> None:
    """Of an instance that holds nothing and has no role."""
    registered = await town.second.registry.register("svc", "old")
    await trio.sleep(0.1)
    await town.second.registry.register("svc", "old", lease_id=registered.lease_id)
    await trio.sleep(0.1)
    await town.second.registry.heartbeat("svc", "old")
    await trio.sleep(0.1)
    await town.first.registry.deregister("svc", "old")


@told_as(
    (InstanceRegistered, "old", ""),
    (ResourceRegistered, "old", "x", "claimed"),
    (InstanceHealthChanged, "old", "", Health.UNHEALTHY, "silent"),
    (InstanceLost, "old", "", ("x",)),
    (ResourceReleased, "old", "x", "lease_expired"),
)
async def dying(town: Town) -> None:
    """Silence first; then it is lost, and what it held is free. That the rest is swept is no release."""
    await town.second.registry.register("svc", "old", ttl=30)
    await town.second.registry.claim("svc", "old", "x")
    await trio.sleep(0.1)
    await trio.sleep(32)


@told_as(
    (InstanceRegistered, "old", ""),
    (ResourceRegistered, "old", "x", "claimed"),
    (InstanceDeregistered, "old", "", ("x",)),
    (ResourceReleased, "old", "x", "deregistered"),
)
async def leaving(town: Town) -> None:
    """With what it held."""
    await town.second.registry.register("svc", "old")
    await trio.sleep(0.1)
    await town.second.registry.claim("svc", "old", "x")
    await trio.sleep(0.1)
    await town.first.registry.deregister("svc", "old")


@told_as((InstanceHealthChanged, "a", "", Health.UNHEALTHY, "said"), (ResourceRegistered, "b", "d:1", "activated"))
async def activating(town: Town) -> None:
    """By a call, at a healthy instance."""
    await town.a.set_health(Health.UNHEALTHY)
    await trio.sleep(0.1)
    assert await town.nodes["third"].call("svc", "work", resource_id="d:1") == "done"


@pytest.mark.parametrize("name", DEEDS)
async def test_each_thing_is_told_once_by_every_node(name: str, autojump_clock: MockClock) -> None:
    """By the one where it was done, which knew before, as by the others; and with the revision of the change."""
    deed, expected = DEEDS[name]
    async with town() as there:
        await deed(there)
        told = await there.told()
        for events in told.values():
            assert Counter(map(shown, shared(events))) == Counter(expected)
        for kind in {type(event) for event in told["third"]} - {InstanceHealthChanged, *LOCAL}:
            changes = [[e for e in shared(events) if type(e) is kind] for events in told.values()]
            assert changes[0] == changes[1] == changes[2]
            assert all(event.revision > 0 for event in changes[0])


# -- what only one node tells --------------------------------------------------------------------------------------


async def test_what_concerns_one_node_is_told_by_that_one(autojump_clock: MockClock) -> None:
    """The loss of its lease, its circuits, its bulk operations."""
    async with town(request_timeout=1) as there:
        await there.a.bulk_claim(["x"])
        there.faults.cut()
        with pytest.raises(StoreUnavailable):
            while True:
                await there.first.registry.claim("svc", "a", "y")
        await trio.sleep(50)
        there.faults.heal()
        await trio.sleep(10)
        told = await there.told()
        kinds = Counter(type(event) for event in told["first"] if isinstance(event, LOCAL))
        assert (kinds[BulkProgress], kinds[LeaseEnded]) == (1, 1)
        states = [event.new for event in told["first"] if isinstance(event, CircuitStateChanged)]
        assert states[0] == "open"
        assert states[-1] == "closed"
        assert not [e for e in told["third"] if isinstance(e, LOCAL)]
        assert [type(e) for e in told["second"] if isinstance(e, LOCAL)] == [OrphanSwept]


async def test_silence_is_told_once_by_each_node_as_it_sees_it(autojump_clock: MockClock) -> None:
    """However long it lasts; and its end, too."""
    async with town(ttl=90, heartbeat_interval=10) as there:
        there.faults.cut()
        await trio.sleep(60)
        there.faults.heal()
        told = await there.told()
        for name in ("second", "third"):
            events = [event for event in told[name] if isinstance(event, InstanceHealthChanged)]
            assert [(e.instance_id, e.new, e.reason) for e in events] == [
                ("a", Health.UNHEALTHY, "silent"),
                ("a", Health.ONLINE, "heartbeat"),
            ]


# -- gaps ----------------------------------------------------------------------------------------------------------


async def test_a_view_that_is_made_anew_repeats_nothing(autojump_clock: MockClock) -> None:
    """What was told before is no news; what came and what went in the gap is told once, after a `Resync`."""
    async with town() as there:
        await there.b.claim("stays", "goes")
        await there.told()
        there.faults.deaf = True
        await there.b.claim("comes")
        await there.b.release("goes")
        await there.b.claim("came-and-went")
        await there.b.release("came-and-went")
        await trio.sleep(1)
        there.faults.resync()
        told = (await there.told())["first"]
        assert isinstance(told[0], Resync)
        assert told[0].reason == "by the test"
        found = [(type(event), event.resource_id) for event in told[1:]]
        assert sorted(found, key=str) == [(ResourceRegistered, "comes"), (ResourceReleased, "goes")]
        there.faults.resync()
        assert [type(event) for event in (await there.told())["first"]] == [Resync]


async def test_every_reader_is_told_of_a_gap(autojump_clock: MockClock) -> None:
    """Whatever it asked for."""
    async with town() as there, there.first.events(LeaseEnded, service="other", resource_id="y") as told:
        there.faults.resync()
        await trio.sleep(1)
        assert [type(event) for event in drain(told)] == [Resync]


# -- readers -------------------------------------------------------------------------------------------------------


async def test_a_reader_hears_what_happens_while_its_block_runs(autojump_clock: MockClock) -> None:
    """Nothing of before, and each block on its own."""
    async with town() as there:
        await there.a.claim("x")
        async with there.first.events(ResourceRegistered, ResourceReleased) as one:
            await there.a.release("x")
            async with there.first.events(ResourceRegistered) as two:
                await there.a.claim("y")
                await trio.sleep(1)
                assert [event.resource_id for event in drain(one)] == ["x", "y"]
                assert [event.resource_id for event in drain(two)] == ["y"]
                assert drain(one) == []
            await there.a.claim("z")
            await trio.sleep(1)
            assert [event.resource_id for event in drain(one)] == ["z"]
            with pytest.raises(trio.ClosedResourceError):
                two.receive_nowait()


@pytest.mark.parametrize(
    ("types", "service", "resource_id", "expected"),
    [
        ((), None, None, ["x", "y", "", "z", "x", ""]),
        ((Event,), None, None, ["x", "y", "", "z", "x", ""]),
        ((ResourceRegistered,), None, None, ["x", "y", "z"]),
        ((ResourceRegistered, ResourceReleased), "svc", None, ["x", "y", "x"]),
        ((), "other", None, ["", "z", ""]),
        ((), None, "x", ["x", "x"]),
        ((ResourceReleased,), None, "x", ["x"]),
        ((ResourceReleased,), "other", "x", []),
    ],
)
async def test_filters_hold_together(
    types: tuple[type[Event], ...],
    service: str | None,
    resource_id: str | None,
    expected: list[str],
    autojump_clock: MockClock,
) -> None:
    """Any of the types, and the service, and the resource."""
    async with town() as there, AsyncExitStack() as stack:
        filtered: EventStream[Event] = await stack.enter_async_context(
            there.nodes["third"].events(*types, service=service, resource_id=resource_id)
        )
        await there.a.claim("x")
        await there.a.claim("y")
        registered = await there.second.registry.register("other", "o")
        await there.second.registry.claim("other", "o", "z")
        await there.a.release("x")
        await there.second.registry.set_health("other", registered.instance_id, Health.UNHEALTHY)
        await trio.sleep(1)
        assert [event.resource_id for event in drain(filtered)] == expected


async def test_a_slow_reader_holds_nobody_up(autojump_clock: MockClock) -> None:
    """It loses what it did not take, as often as that happens, and others lose nothing."""
    async with town() as there, there.second.events(ResourceRegistered) as slow:
        taken: list[str] = []

        async def read() -> None:
            async with there.second.events(ResourceRegistered) as quick:
                async for event in quick:
                    taken.append(event.resource_id)  # noqa: PERF401 - it is cancelled in the end

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.sleep(1)
            for number in range(2 * CAPACITY):
                await there.b.claim("x")
                await there.b.release("x")
                if number == CAPACITY + 2:
                    got = drain(slow)
                    assert [type(event) for event in got[:1]] == [Resync]
                    assert len(got) == 1 + 3
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
        assert taken == ["x"] * 2 * CAPACITY
        assert len(drain(slow)) == CAPACITY - 3

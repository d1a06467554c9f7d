"""Roles by request: several groups, stepping up and down, who may ask for it, and what everybody is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import attrs
import pytest
import trio
from trio.testing import MockClock

from aegis_core.errors import AegisError, Forbidden, InstanceNotFound, InvalidRequest
from aegis_core.events import Event, InstanceDeregistered, RoleChanged
from aegis_core.hookspecs import Principal, Target, hookimpl
from aegis_core.models import Health, Role, TransferRecord
from aegis_core.node.call import Call
from aegis_core.node.instance import Instance
from aegis_core.node.node import Node, open_node
from aegis_core.node.service import Service
from aegis_core.node.subscription import EventStream
from tests.node.wires import Wire, lose_answer, refuse


def make_service() -> Service:
    """A service that says who answers."""
    service = Service("svc", version="1")

    @service.method
    async def who(call: Call) -> str:
        assert call.instance is not None
        return call.instance.instance_id

    return service


@attrs.define(eq=False)
class Policy:
    """A plug-in that notes who asks to change whose role, and refuses some of it."""

    refused: set[str] = attrs.field(factory=set)
    asked: list[tuple[str, str]] = attrs.field(factory=list)

    @hookimpl
    def aegis_authorize(self, principal: Principal, operation: str, target: Target) -> bool | None:
        """Refuse changes of the roles of `refused`."""
        if operation != "set_role":
            return None
        self.asked.append((str(principal), target.instance_id))
        return False if target.instance_id in self.refused else None


@attrs.frozen(eq=False)
class Stage:
    """The nodes here and there, and the instances of group ``red`` (a, c here, b there) and ``blue`` (d there, e here)."""

    here: Node
    there: Node
    by_id: dict[str, Instance]
    policy: Policy

    @property
    def actives(self) -> set[str]:
        """Who says that it is ACTIVE."""
        return {name for name, instance in self.by_id.items() if instance.role is Role.ACTIVE}

    async def groups(self) -> dict[str, tuple[str | None, tuple[str, ...]]]:
        """Who is active and who waits, by group."""
        table = await self.there.registry.list_roles("svc")
        return {name: (group.active, group.standbys) for name, group in table.groups.items()}

    def audits(self) -> list[TransferRecord]:
        """The audit records of changes of role."""
        return [r for r in self.here.runtime.directory.snapshot.transfers() if r.kind == "role"]


@asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    """A and d are active; b, then c, and e wait."""
    policy = Policy()
    async with (
        open_node("memory://test", plugins=[policy]) as here,
        open_node("memory://test", plugins=[policy]) as there,
        AsyncExitStack() as stack,
    ):
        by_id: dict[str, Instance] = {}
        for name, node, group, role in (
            ("a", here, "red", Role.ACTIVE),
            ("b", there, "red", Role.STANDBY),
            ("c", here, "red", Role.STANDBY),
            ("d", there, "blue", Role.ACTIVE),
            ("e", here, "blue", Role.STANDBY),
        ):
            serving = node.serve(make_service(), instance_id=name, role=role, group=group)
            by_id[name] = await stack.enter_async_context(serving)
            await trio.sleep(0.5)
        yield Stage(here, there, by_id, policy)


def changes(stream: EventStream[RoleChanged]) -> list[tuple[str, str | None, Role | None, Role | None]]:
    """What was told in *stream*."""
    found = []
    with suppress(trio.WouldBlock):
        while True:
            event = stream.receive_nowait()
            assert isinstance(event, RoleChanged)
            found.append((event.instance_id, event.group, event.old, event.new))
    return found


# -- several groups ------------------------------------------------------------------------------------------------


async def test_each_group_has_an_active_and_a_line_of_its_own(autojump_clock: MockClock) -> None:
    """Calls by service name go to the actives, in turn; who waits gets none."""
    async with stage() as scene:
        assert await scene.groups() == {"blue": ("d", ("e",)), "red": ("a", ("b", "c"))}
        assert scene.actives == {"a", "d"}
        answers = Counter([await scene.there.call("svc", "who") for _ in range(10)])
        assert answers == {"a": 5, "d": 5}
        await scene.here.registry.set_role("svc", Role.STANDBY, "d")
        await scene.by_id["e"].wait_role(Role.ACTIVE)
        await scene.there.runtime.directory.sync()
        answers = Counter([await scene.there.call("svc", "who") for _ in range(10)])
        assert answers == {"a": 5, "e": 5}


async def test_a_group_may_be_led_by_a_guest(autojump_clock: MockClock) -> None:
    """With a group named, an instance of another one leads it too, and says ACTIVE as long as it leads any."""
    async with stage() as scene:
        e = scene.by_id["e"]
        assert await scene.there.registry.set_role("svc", Role.ACTIVE, "e", group="red") == ("e",)
        await e.wait_role(Role.ACTIVE)
        assert await scene.groups() == {"blue": ("d", ("e",)), "red": ("e", ("b", "c", "a"))}
        assert await scene.there.registry.set_role("svc", Role.ACTIVE, "e") == ("e",)
        assert scene.actives == {"e"}
        assert await scene.there.registry.set_role("svc", Role.STANDBY, "e", group="red") == ("e",)
        await scene.by_id["b"].wait_role(Role.ACTIVE)
        assert scene.actives == {"b", "e"}


async def test_of_a_group_the_next_in_line_follows_each_that_leaves(autojump_clock: MockClock) -> None:
    """In order, to the last; the other group is left alone."""
    async with stage() as scene:
        for leaver, follower in (("a", "b"), ("b", "c")):
            await scene.by_id[leaver].drain()
            await scene.by_id[follower].wait_role(Role.ACTIVE)
            assert scene.actives == {follower, "d"}
        await scene.by_id["c"].drain()
        await trio.sleep(5)
        assert scene.actives == {"d"}
        assert (await scene.groups())["red"] == (None, ())


# -- up and down ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked_at", ["here", "there"])
async def test_stepping_up_and_down_is_told_once(asked_at: str, autojump_clock: MockClock) -> None:
    """Each change by each node, who loses the role first; with one audit record for each transaction."""
    async with stage() as scene, scene.here.events(RoleChanged) as one, scene.there.events(RoleChanged) as two:
        registry = getattr(scene, asked_at).registry
        assert await registry.set_role("svc", Role.ACTIVE, "c", reason="up") == ("c",)
        await trio.sleep(1)
        up = [("a", "red", Role.ACTIVE, Role.STANDBY), ("c", "red", Role.STANDBY, Role.ACTIVE)]
        assert changes(one) == changes(two) == up
        assert await registry.set_role("svc", Role.STANDBY, "c", reason="down") == ("c",)
        await trio.sleep(1)
        down = [("c", "red", Role.ACTIVE, Role.STANDBY), ("b", "red", Role.STANDBY, Role.ACTIVE)]
        assert changes(one) == changes(two) == down
        assert [(r.from_instance_id, r.to_instance_id, r.reason) for r in scene.audits()] == [
            ("a", "c", "up"),
            ("c", "b", "down"),
        ]
        assert (await scene.groups())["red"] == ("b", ("a", "c"))


async def test_several_change_at_once(autojump_clock: MockClock) -> None:
    """Those whose role is as wanted already are left out of the answer, and nothing is told of them."""
    async with stage() as scene, scene.there.events(RoleChanged) as told:
        assert await scene.here.registry.set_role("svc", Role.ACTIVE, "e", "a") == ("e",)
        assert await scene.here.registry.set_role("svc", Role.STANDBY, "b", "c", "d") == ()
        assert await scene.here.registry.set_role("svc", Role.STANDBY, "a", "e") == ("a", "e")
        await trio.sleep(1)
        assert scene.actives == {"b", "d"}
        assert Counter(name for name, *_ in changes(told)) == {"a": 1, "b": 1, "d": 2, "e": 2}


async def test_who_steps_down_with_all_others_leaves_the_group_to_nobody(autojump_clock: MockClock) -> None:
    """None of them was to be ACTIVE; the group falls to whoever comes."""
    async with stage() as scene:
        assert await scene.here.registry.set_role("svc", Role.STANDBY, "d", "e") == ("d",)
        with trio.move_on_after(0.01):
            await scene.by_id["d"].wait_role(Role.ACTIVE)
            pytest.fail("it has just stepped down")
        await scene.by_id["e"].wait_role(Role.ACTIVE)


async def test_wait_role_returns_when_the_role_is_had(autojump_clock: MockClock) -> None:
    """At once where it is; a role that comes and goes is waited for again; cancelled, it leaves nothing."""
    async with stage() as scene, trio.open_nursery() as nursery:
        a, c = scene.by_id["a"], scene.by_id["c"]
        began = trio.current_time()
        await a.wait_role(Role.ACTIVE)
        await c.wait_role(Role.STANDBY)
        assert trio.current_time() == began
        seen: list[tuple[Role, float]] = []

        async def follow() -> None:
            for role in (Role.ACTIVE, Role.STANDBY, Role.ACTIVE):
                await c.wait_role(role)
                seen.append((role, trio.current_time() - began))

        nursery.start_soon(follow)
        for at, role in ((1, Role.ACTIVE), (2, Role.STANDBY), (3, Role.ACTIVE)):
            await trio.sleep_until(began + at)
            await scene.there.registry.set_role("svc", role, "c")
        await c.wait_role(Role.ACTIVE)
        with trio.move_on_after(1) as scope:
            await c.wait_role(Role.STANDBY)
        assert scope.cancelled_caught
        assert [role for role, _ in seen] == [Role.ACTIVE, Role.STANDBY, Role.ACTIVE]
        assert [at for _, at in seen] == pytest.approx([1, 2, 3], abs=0.01)


async def test_an_instance_may_do_it_to_itself_in_its_own_block(autojump_clock: MockClock) -> None:
    """A handler that finds itself unfit steps down and still answers."""
    service = Service("svc", version="1")

    @service.method
    async def step_down(call: Call) -> str:
        assert call.instance is not None
        await node.registry.set_role("svc", Role.STANDBY, call.instance.instance_id)
        return call.instance.instance_id

    async with open_node("memory://") as node, node.serve(service, instance_id="a", role=Role.ACTIVE):
        async with node.serve(service, instance_id="b", role=Role.STANDBY) as b:
            await trio.sleep(1)
            assert await node.call("svc", "step_down") == "a"
            await b.wait_role(Role.ACTIVE)
            assert await node.call("svc", "step_down") == "b"


# -- who may, and what cannot be -----------------------------------------------------------------------------------


async def test_whose_role_changes_is_what_a_policy_decides_on(autojump_clock: MockClock) -> None:
    """For each of them, in its own name; refused for one, nothing changes for any."""
    async with stage() as scene:
        scene.policy.refused.add("e")
        with pytest.raises(Forbidden, match="set_role"):
            await scene.here.registry.set_role("svc", Role.ACTIVE, "c", "e")
        assert scene.policy.asked == [("instance:c", "c"), ("instance:e", "e")]
        await trio.sleep(1)
        assert scene.actives == {"a", "d"}
        assert scene.audits() == []


async def test_the_node_of_the_holder_asks_its_policy_too(autojump_clock: MockClock) -> None:
    """It carries the change out, in the name of whoever holds the role."""
    async with stage() as scene:
        scene.policy.refused.add("d")
        with pytest.raises(Forbidden):
            await scene.here.registry.set_role("svc", Role.ACTIVE, "e")
        await trio.sleep(1)
        assert scene.actives == {"a", "d"}


@pytest.mark.parametrize(
    ("role", "ids", "group", "error"),
    [
        (Role.ACTIVE, (), None, InvalidRequest),
        (Role.ACTIVE, ("b", "c"), None, InvalidRequest),
        (Role.ACTIVE, ("plain",), None, InvalidRequest),
        (Role.ACTIVE, ("b", "nobody"), None, InstanceNotFound),
        (Role.ACTIVE, ("e", "ill"), None, Forbidden),
        (Role.STANDBY, ("a", "nobody"), None, InstanceNotFound),
        (Role.ACTIVE, ("b",), "no group", InvalidRequest),
    ],
)
async def test_what_cannot_be_changes_nothing(
    role: Role, ids: tuple[str, ...], group: str | None, error: type[AegisError], autojump_clock: MockClock
) -> None:
    """None of those that could change, either; nobody's belief was interrupted."""
    async with (
        stage() as scene,
        scene.here.serve(make_service(), instance_id="plain"),
        scene.here.serve(make_service(), instance_id="ill", group="red") as ill,
    ):
        await ill.set_health(Health.UNHEALTHY)
        claims = [c for i in scene.by_id.values() for c in i.claims_table.values()]
        await trio.sleep(1)
        async with scene.there.events(RoleChanged) as told:
            with pytest.raises(error):
                await scene.here.registry.set_role("svc", role, *ids, group=group)
            assert all(claim.held and not claim.leaving for claim in claims)
            await trio.sleep(1)
            assert changes(told) == []
        assert scene.audits() == []


# -- nodes that do not answer --------------------------------------------------------------------------------------


async def test_a_holder_whose_node_is_out_of_reach_keeps_the_role(autojump_clock: MockClock) -> None:
    """Nobody else can end its belief in time."""
    wire, config = Wire(), {"request_timeout": 1}
    async with wire.node(**config) as here, open_node("memory://", config=config) as there:
        async with here.serve(make_service(), instance_id="a", group="g"):
            async with there.serve(make_service(), instance_id="b", group="g", role=Role.STANDBY) as b:
                await here.registry.set_role("svc", Role.ACTIVE, "b")
                await b.wait_role(Role.ACTIVE)
                wire.always["b"] = refuse
                with pytest.raises(AegisError, match="refused by the test"):
                    await here.registry.set_role("svc", Role.ACTIVE, "a")
                assert b.role is Role.ACTIVE
                del wire.always["b"]
                wire.faults.append(lose_answer)
                with pytest.raises(AegisError, match="broken by the test"):
                    await here.registry.set_role("svc", Role.ACTIVE, "a")
                await b.wait_role(Role.STANDBY)
                assert await here.registry.set_role("svc", Role.ACTIVE, "a") == ()


async def test_a_role_ends_with_its_instance(autojump_clock: MockClock) -> None:
    """Told once, as nothing any more, with the event that it left."""
    async with stage() as scene, scene.there.events(RoleChanged, InstanceDeregistered) as told:
        await scene.here.registry.deregister("svc", "b", lease_id=None)
        await trio.sleep(0.01)
        events: list[Event] = []
        with suppress(trio.WouldBlock):
            while True:
                events.append(told.receive_nowait())
        first = [event for event in events if event.instance_id == "b"][:2]
        assert isinstance(first[0], InstanceDeregistered)
        assert isinstance(first[1], RoleChanged)
        assert (first[1].group, first[1].old, first[1].new) == ("red", Role.STANDBY, None)

"""The registry operations, for instances of this node, of another node, and for those that were merely registered."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from trio.testing import MockClock

from aegis_core import (
    Call,
    Claim,
    Forbidden,
    Health,
    InstanceConflict,
    InstanceNotFound,
    InvalidRequest,
    NotOwner,
    RemoteError,
    ResourceMetadata,
    ResourceNotFound,
    Role,
    RoleConflict,
    Service,
    ServiceNotFound,
    open_node,
)
from aegis_core.hookspecs import Principal, Target, hookimpl
from aegis_core.node.instance import Instance
from aegis_core.node.moves import transfer_reply
from aegis_core.node.node import Node

THIN = "old-client"


class ForceAllowed:
    """A plug-in that lets everybody do everything."""

    @hookimpl
    def aegis_authorize(self, principal: Principal, operation: str, target: Target) -> bool:
        """Yes."""
        return True


class NoPlan:
    """A plug-in that plans one move, and one of what nobody owns."""

    @hookimpl
    def aegis_plan_rebalance(self, service_name: str) -> dict[str, str]:
        """To instance b."""
        return {"r:0": "b", "nobody's": "b", "r:1": "a"}


@attrs.frozen
class Three:
    """Two nodes with an instance each, and a third instance that was registered by its own word."""

    here: Node
    there: Node
    a: Instance
    b: Instance


def make_service() -> Service:
    """Resources can be handed over, and answer."""
    service = Service("svc", version="1")

    @service.on_acquire
    async def load(claim: Claim) -> str:
        return claim.resource_id

    @service.method
    async def ping(call: Call) -> str:
        return "pong"

    return service


@asynccontextmanager
async def three(*plugins: object) -> AsyncIterator[Three]:
    """The instances a (here), b (there), and `THIN`, registered through here."""
    service = make_service()
    async with (
        open_node("memory://test", plugins=plugins) as here,
        open_node("memory://test", plugins=plugins) as there,
        here.serve(service, instance_id="a") as a,
        there.serve(service, instance_id="b") as b,
    ):
        await here.registry.register("svc", THIN, {"note": "it beats by itself"}, ttl=60)
        yield Three(here, there, a, b)


async def test_registering_says_who_when_and_under_which_secret(autojump_clock: MockClock) -> None:
    """Each registration has a lease id, which its representation does not show; a live id is not given twice."""
    async with open_node("memory://") as node:
        reply = await node.registry.register("svc", "one", role=Role.ACTIVE, ttl=9, version="2")
        assert (reply.service_name, reply.instance_id, reply.role) == ("svc", "one", Role.ACTIVE)
        assert (reply.ttl, reply.heartbeat_interval) == (9, 3)
        assert reply.lease_id not in repr(reply)
        assert "test" not in repr(node.registry)
        with pytest.raises(InstanceConflict):
            await node.registry.register("svc", "one")
        assert (await node.registry.register("svc", "two", heartbeat_interval=2)).heartbeat_interval == 2
        await node.registry.deregister("svc", "two")
        (view,) = await node.registry.list_services()
        assert [i.version for i in view.instances] == ["2"]


async def test_a_role_named_by_its_resource_is_ownership_of_it(autojump_clock: MockClock) -> None:
    """A second ACTIVE is refused as a whole; a STANDBY waits; a bad resource id is named with its path."""
    async with open_node("memory://") as node:
        first = await node.registry.register("svc", "one", {"resource_id": "r"}, role=Role.ACTIVE)
        assert first.epoch > 0
        with pytest.raises(RoleConflict):
            await node.registry.register("svc", "two", {"resource_id": "r"}, role=Role.ACTIVE)
        await node.registry.register("svc", "two", {"resource_id": "r"}, role=Role.STANDBY)
        roles = await node.registry.list_roles("svc")
        assert (roles.resources["r"].active, roles.resources["r"].standbys) == ("one", ("two",))
        with pytest.raises(InvalidRequest, match=r"\$\.metadata\.resource_id"):
            await node.registry.register("svc", "three", {"resource_id": "a b"}, role=Role.ACTIVE)


async def test_heartbeats_keep_a_registration_and_need_its_secret(autojump_clock: MockClock) -> None:
    """Without them it ends, and a later one is told that it is unknown."""
    async with open_node("memory://") as node:
        reply = await node.registry.register("svc", "one", ttl=10)
        for _ in range(3):
            await trio.sleep(6)
            await node.registry.heartbeat("svc", "one", lease_id=reply.lease_id, metadata={"load": 3})
        with pytest.raises(NotOwner):
            await node.registry.heartbeat("svc", "one", lease_id="guessed")
        with pytest.raises(NotOwner):
            await node.registry.deregister("svc", "one", lease_id="guessed")
        await node.registry.heartbeat("svc", "one", status="degraded")
        (instance,) = (await node.registry.get_service("svc")).instances
        assert (instance.health, instance.metadata["load"]) == (Health.UNHEALTHY, 3)
        await trio.sleep(11)
        with pytest.raises(InstanceNotFound):
            await node.registry.heartbeat("svc", "one")
        with pytest.raises(ServiceNotFound):
            await node.registry.get_service("svc")


async def test_deregistering_frees_and_names_what_was_held(autojump_clock: MockClock) -> None:
    """Of an instance of ours, from outside, it is a disconnection: it comes back."""
    async with three() as t:
        await t.here.registry.claim("svc", THIN, "x")
        assert await t.here.registry.deregister("svc", THIN) == ("x",)
        await t.b.claim("y")
        assert await t.here.registry.disconnect("svc", "b") == ("y",)
        await trio.sleep(1)
        assert t.b.ready
        assert "y" in t.b.claims


@pytest.mark.parametrize("name", ["a", "b", THIN])
async def test_health_is_set_for_every_kind_of_instance(autojump_clock: MockClock, name: str) -> None:
    """And shows in the registry."""
    async with three() as t:
        await t.here.registry.set_health("svc", name, Health.UNHEALTHY, "maintenance")
        shown = {i.instance_id: i.health for i in (await t.here.registry.get_service("svc")).instances}
        assert shown[name] is Health.UNHEALTHY
        assert list(shown.values()).count(Health.ONLINE) == 2


@pytest.mark.parametrize("name", ["a", "b", THIN])
async def test_every_kind_of_instance_can_be_drained(autojump_clock: MockClock, name: str) -> None:
    """It stays registered, and takes no more claims; one of ours has handed over what it held."""
    async with three() as t:
        await t.here.registry.claim("svc", name, "x")
        await trio.sleep(1)
        await t.here.registry.drain("svc", name)
        shown = {i.instance_id: i.draining for i in (await t.here.registry.get_service("svc")).instances}
        assert shown[name]
        with pytest.raises(Forbidden):
            await t.here.registry.claim("svc", name, "y")
        assert (t.here.owner_of("x") is None) is (name != THIN)


@pytest.mark.parametrize("name", ["a", "b", THIN])
async def test_claiming_takes_what_is_free_and_lists_the_rest(autojump_clock: MockClock, name: str) -> None:
    """For every kind of instance; one of ours then serves it."""
    async with three() as t:
        rival = "b" if name == "a" else "a"
        await t.here.registry.claim("svc", rival, "held")
        await trio.sleep(1)
        reply = await t.here.registry.claim("svc", name, "free", "held", metadata=ResourceMetadata(tags=("t",)))
        assert (reply.success, reply.registered, dict(reply.conflicts)) == (False, ("free",), {"held": rival})
        await trio.sleep(1)
        found = await t.here.registry.query_resources(tags=["t"])
        assert [(r.resource_id, r.owner_instance_id) for r in found.resources] == [("free", name)]
        assert (await t.here.registry.get_owner("free")).epoch == reply.epochs["free"]
        if name != THIN:
            assert await t.here.call("svc", "ping", resource_id="free") == "pong"


@pytest.mark.parametrize("name", ["a", "b", THIN])
async def test_releasing_is_for_the_owner_alone(autojump_clock: MockClock, name: str) -> None:
    """All or nothing; who asks in another's name is told whose it is."""
    async with three() as t:
        rival = "b" if name == "a" else "a"
        await t.here.registry.claim("svc", name, "x", "y")
        await trio.sleep(1)
        with pytest.raises(NotOwner) as caught:
            await t.here.registry.release("svc", rival, "x")
        assert caught.value.owner == name
        with pytest.raises(ResourceNotFound):
            await t.here.registry.release("svc", name, "x", "unknown")
        assert (await t.here.registry.release("svc", name, "x", "x")).released == ("x",)
        await t.here.committer.sync()
        assert t.here.owner_of("x") is None
        assert (await t.here.registry.get_owner("y")).owner_instance_id == name


@pytest.mark.parametrize(("source", "to"), [("a", "b"), ("b", "a"), (THIN, "a"), ("a", THIN)])
async def test_transfers_go_from_and_to_every_kind_of_instance(autojump_clock: MockClock, source: str, to: str) -> None:
    """With an audit record, and a new epoch."""
    async with three() as t:
        epochs = (await t.here.registry.claim("svc", source, "x")).epochs
        await trio.sleep(1)
        reply = await t.here.registry.transfer("svc", ["x"], source, to, reason="test")
        assert (reply.success, reply.transferred, reply.forced) == (True, ("x",), False)
        assert reply.epochs["x"] > epochs["x"]
        assert (await t.here.registry.get_owner("x")).owner_instance_id == to
        audit = t.here.runtime.directory.snapshot.transfer(reply.transfer_id)
        assert audit is not None
        assert (audit.reason, audit.to_instance_id) == ("test", to)


async def test_force_needs_a_permission(autojump_clock: MockClock) -> None:
    """For claims and for transfers without the owner's consent."""
    async with three() as t:
        await t.a.claim("x")
        with pytest.raises(Forbidden):
            await t.here.registry.claim("svc", THIN, "x", force=True)
        with pytest.raises(Forbidden):
            await t.here.registry.transfer("svc", ["x"], "a", "b", verify_ownership=False)
    async with three(ForceAllowed()) as t:
        await t.a.claim("x")
        assert (await t.here.registry.claim("svc", THIN, "x", force=True)).registered == ("x",)
        reply = await t.here.registry.transfer("svc", ["x"], "a", "b", verify_ownership=False)
        assert (reply.forced, reply.transferred) == (True, ("x",))
        await trio.sleep(1)
        assert "x" in t.b.claims


@pytest.mark.parametrize("source", ["a", THIN], ids=["forced", "merely registered"])
async def test_a_transfer_that_no_owner_carries_out_moves_as_a_whole(source: str, autojump_clock: MockClock) -> None:
    """There is nothing that could go wrong between the check and the commit; so nothing is listed as failed."""
    async with three(ForceAllowed()) as t:
        await t.here.registry.claim("svc", source, "x", "y")
        before = await t.here.registry.get_owner("x")
        forced = source == "a"
        with pytest.raises(ResourceNotFound):
            await t.here.registry.transfer("svc", ["x", "nobody's"], source, "b", verify_ownership=not forced)
        assert await t.here.registry.get_owner("x") == before
        reply = await t.here.registry.transfer("svc", ["x", "y"], source, "b", verify_ownership=not forced)
        assert (reply.transferred, reply.failed, reply.forced) == (("x", "y"), (), forced)


async def test_rebalancing_evens_counts_out(autojump_clock: MockClock) -> None:
    """Three instances over three nodes, 100 ids, one of them overloaded; nothing is called in vain meanwhile."""
    service = make_service()
    async with (
        open_node("memory://test") as one,
        open_node("memory://test") as two,
        open_node("memory://test") as three_,
        one.serve(service, instance_id="a") as a,
        two.serve(service, instance_id="b") as b,
        three_.serve(service, instance_id="c") as c,
    ):
        await a.bulk_claim([f"r:{i}" for i in range(90)])
        await b.bulk_claim([f"s:{i}" for i in range(10)])
        await trio.sleep(1)
        moved = await three_.registry.rebalance("svc", max_moves=100)
        assert all(reply.success for reply in moved)
        await trio.sleep(1)
        assert sorted(len(i.claims) for i in (a, b, c)) == [33, 33, 34]
        assert await one.registry.rebalance("svc") == ()


async def test_a_plan_of_a_plug_in_is_carried_out_as_far_as_it_goes(autojump_clock: MockClock) -> None:
    """What nobody owns, and what is there already, is left out."""
    async with three(NoPlan()) as t:
        await t.a.claim("r:0", "r:1")
        (reply,) = await t.here.registry.rebalance("svc")
        assert reply.transferred == ("r:0",)


class PlanForNobody:
    """A plug-in that plans a move to an instance that does not live, and one to one that does."""

    @hookimpl
    def aegis_plan_rebalance(self) -> dict[str, str]:
        """To instances z and b."""
        return {"r:0": "z", "r:1": "b"}


async def test_a_move_that_is_refused_keeps_no_other_from_being_made(autojump_clock: MockClock) -> None:
    """It is told why; what it would have moved stays where it is, held."""
    async with three(PlanForNobody()) as t:
        kept, _ = await t.a.claim("r:0", "r:1")
        refused, moved = await t.here.registry.rebalance("svc")
        assert (refused.transfer_id, refused.transferred) == ("", ())
        (failure,) = refused.failed
        assert (failure.resource_id, failure.error_code) == ("r:0", InstanceNotFound.code)
        assert "'z'" in failure.reason
        assert moved.transferred == ("r:1",)
        assert kept.held
        with pytest.raises(InvalidRequest, match=r"\$\.max_moves"):
            await t.here.registry.rebalance("svc", max_moves=0)


async def test_explaining_asks_the_owner_for_its_calls(autojump_clock: MockClock) -> None:
    """Who was merely registered is not asked; nor is anybody for what nobody owns."""
    async with three() as t:
        await t.b.claim("x")
        await t.here.registry.claim("svc", THIN, "y")
        await trio.sleep(1)
        before = await t.here.explain("x")
        assert (before.calls, before.last_call_at) == (0, None)
        await t.here.call("svc", "ping", resource_id="x")
        after = await t.here.explain("x")
        assert after.calls == 1
        assert after.last_call_at is not None
        assert (await t.here.explain("y")).calls is None
        assert (await t.here.explain("z")).owner is None


async def test_explaining_does_without_an_owner_that_says_nothing(autojump_clock: MockClock) -> None:
    """The view knows it for the owner; it does not know of the resource any more."""
    async with three() as t:
        await t.b.claim("x")
        await trio.sleep(1)
        claim = t.b.claims_table.pop("x")
        known = await t.here.explain("x")
        assert known.owner is not None
        assert known.calls is None
        t.b.claims_table["x"] = claim


def test_an_answer_that_is_no_transfer_is_the_other_sides_error() -> None:
    """It is not taken for one."""
    with pytest.raises(RemoteError):
        transfer_reply({"transferred": 3})


@pytest.mark.parametrize("name", ["a", THIN])
async def test_bulk_operations_report_every_failure(autojump_clock: MockClock, name: str) -> None:
    """With continue_on_error what can be done is done; without it everything is undone, or nothing begun."""
    told: list[int] = []
    async with three() as t:
        await t.here.registry.claim("svc", "b", "r:3")
        await trio.sleep(1)
        ids = [f"r:{i}" for i in range(6)]
        refused = await t.here.registry.bulk_register("svc", name, ids)
        assert (refused.success, refused.done, refused.failed[0].current_owner) == (False, (), "b")
        reply = await t.here.registry.bulk_register(
            "svc", name, ids, batch_size=2, continue_on_error=True, on_progress=lambda event: told.append(event.done)
        )
        assert len(reply.done) == 5
        assert [(f.resource_id, f.error_code, f.current_owner) for f in reply.failed] == [
            ("r:3", "RESOURCE_CONFLICT", "b")
        ]
        assert [batch.batch_number for batch in reply.batch_results] == [1, 2, 3]
        assert max(told) == 5
        gone = await t.here.registry.bulk_release("svc", name, ids, continue_on_error=True)
        assert set(gone.done) == set(reply.done)
        assert [f.error_code for f in gone.failed] == ["NOT_OWNER"]


async def test_set_role_moves_a_role_between_nodes(autojump_clock: MockClock) -> None:
    """Up and down; who held it waits in line from then on, and each change is told once."""
    service = make_service()
    async with (
        open_node("memory://test") as here,
        open_node("memory://test") as there,
        here.serve(service, instance_id="a", role=Role.ACTIVE) as a,
        there.serve(service, instance_id="b", role=Role.STANDBY) as b,
    ):
        assert await here.registry.set_role("svc", Role.ACTIVE, "b") == ("b",)
        await b.wait_role(Role.ACTIVE)
        assert a.role is Role.STANDBY
        assert await here.registry.set_role("svc", Role.STANDBY, "b") == ("b",)
        await a.wait_role(Role.ACTIVE)
        assert await there.registry.set_role("svc", Role.ACTIVE, "a") == ()
        roles = await here.registry.list_roles("svc")
        assert (roles.groups["default"].active, roles.groups["default"].standbys) == ("a", ("b",))

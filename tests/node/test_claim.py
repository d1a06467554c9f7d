"""Claims: all or nothing, idempotent, ready when on_acquire has run, and gone without a trace when given up.

The file is long, because each promise of `claim` and `release` is a sentence of its own.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from aegis_core.errors import (
    Forbidden,
    InvalidRequest,
    LeaseLost,
    NotOwner,
    ResourceConflict,
    ResourceLimitExceeded,
    ResourceNotFound,
    VersionConflict,
)
from aegis_core.hookspecs import Principal, hookimpl
from aegis_core.models import EndReason, Health, ResourceMetadata, Role
from aegis_core.node.asking import asking
from aegis_core.node.call import Call
from aegis_core.node.claims import Claim
from aegis_core.node.node import open_node
from aegis_core.node.service import Service
from tests.node.faulty import Faults, SlantedClock, names_key

RESOURCES = names_key("resources")


class Refused(Exception):
    """What a service's own code raises."""


class ForceAllowed:
    """A plug-in that lets everybody use force."""

    @hookimpl
    def aegis_authorize(self, principal: Principal, operation: str) -> bool | None:
        """Allow it."""
        return True if operation == "force" else None


def make_service() -> Service:
    """A service without anything."""
    return Service("svc", version="1.0.0")


async def test_what_is_claimed_is_held_and_known_to_all(autojump_clock: MockClock) -> None:
    """With an epoch, metadata, and a deadline that is the lease's."""
    async with open_node("memory://a") as node, open_node("memory://a") as other:
        async with node.serve(make_service()) as instance:
            metadata = {"a": ResourceMetadata(tags=("x",)), "b": ResourceMetadata(priority=3)}
            first, second = await instance.claim("a", "b", metadata=metadata)
            assert (first.resource_id, second.resource_id) == ("a", "b")
            assert first.held
            assert first.is_ready
            assert first.state is None
            assert first.instance is instance
            assert first.deadline == instance.deadline
            assert first.remaining == 27.0
            assert first.metadata.tags == ("x",)
            assert second.metadata.priority == 3
            assert second.epoch > first.epoch > 0
            first.check()
            await trio.testing.wait_all_tasks_blocked()
            owner = other.owner_of("a")
            assert owner is not None
            assert (owner.owner_instance_id, owner.epoch) == (instance.instance_id, first.epoch)
            assert repr(first) == f"<Claim 'a' epoch {first.epoch} ready>"
            assert set(instance.claims) == {"a", "b"}
            assert other.owner_of("c") is None


async def test_deadlines_are_on_trios_clock(autojump_clock: MockClock) -> None:
    """Whatever the node's own clock shows, so that one can sleep until they come; they move along with each renewal."""
    faults = Faults(clock=SlantedClock(rate=1.01, offset=1000.0))
    async with faults.node() as node, node.serve(make_service()) as instance:
        (claim,) = await instance.claim("a")
        assert claim.deadline == instance.deadline == pytest.approx(27 / 1.01)
        await trio.sleep(25)
        assert claim.deadline == instance.deadline > 40
        faults.cut()
        await trio.sleep_until(claim.deadline - 0.01)
        assert claim.held
        await trio.sleep(0.02)
        assert not claim.held
        faults.heal()


async def test_claiming_again_returns_the_same_claim(autojump_clock: MockClock) -> None:
    """The epoch stays."""
    async with open_node("memory://") as node, node.serve(make_service()) as instance:
        (first,) = await instance.claim("a")
        again, other = await instance.claim("a", "b")
        assert again is first
        assert other.resource_id == "b"


async def test_one_held_by_another_refuses_all_and_names_every_conflict(autojump_clock: MockClock) -> None:
    """Nothing was claimed."""
    async with open_node("memory://a") as node, open_node("memory://a") as other:
        async with node.serve(make_service()) as instance, other.serve(make_service()) as rival:
            await rival.claim("a", "c")
            with pytest.raises(ResourceConflict) as caught:
                await instance.claim("a", "b", "c")
            assert caught.value.conflicts == {"a": rival.instance_id, "c": rival.instance_id}
            assert not instance.claims
            with pytest.raises(ResourceNotFound):
                await other.registry.get_owner("b")


async def test_metadata_is_changed_only_from_its_current_version(autojump_clock: MockClock) -> None:
    """An optimistic lock: the version grows with each change."""
    async with open_node("memory://") as node, node.serve(make_service()) as instance:
        (claim,) = await instance.claim("a", metadata=ResourceMetadata(priority=1))
        epoch = claim.epoch
        await instance.claim("a", metadata=ResourceMetadata(priority=2, version=1))
        assert (claim.metadata.priority, claim.metadata.version) == (2, 2)
        with pytest.raises(VersionConflict) as caught:
            await instance.claim("a", metadata=ResourceMetadata(priority=3, version=1))
        assert (caught.value.expected, caught.value.actual) == (1, 2)
        assert claim.metadata.priority == 2
        assert claim.epoch == epoch


async def test_too_many_are_refused_as_a_whole(autojump_clock: MockClock) -> None:
    """Also those of a claim that is under way count."""
    faults = Faults()
    async with faults.node(max_resources_per_instance=3) as node, node.serve(make_service()) as instance:
        await instance.claim("a")
        with pytest.raises(ResourceLimitExceeded) as caught:
            await instance.claim("b", "c", "d")
        assert (caught.value.limit, caught.value.held, caught.value.asked) == (3, 1, 3)
        assert list(instance.claims) == ["a"]
        held = trio.Event()
        rule = faults.hold(held, RESOURCES)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(instance.claim, "b", "c")
            await rule.met.wait()
            nursery.start_soon(held_after, held, 1.0)
            with pytest.raises(ResourceLimitExceeded):
                await instance.claim("d")
        assert sorted(instance.claims) == ["a", "b", "c"]


async def held_after(event: trio.Event, seconds: float) -> None:
    """Set *event* later."""
    await trio.sleep(seconds)
    event.set()


@pytest.mark.parametrize("ids", [(), ("a b",), ("",), ("%svc%default",)])
async def test_bad_ids_are_refused(autojump_clock: MockClock, ids: tuple[str, ...]) -> None:
    """With the path of each; role groups are none of them."""
    async with open_node("memory://") as node, node.serve(make_service()) as instance:
        with pytest.raises(InvalidRequest):
            await instance.claim(*ids)


async def test_what_cannot_be_stored_is_refused(autojump_clock: MockClock) -> None:
    """Nothing was claimed, and the store's circuit is none the worse."""
    async with open_node("memory://") as node, node.serve(make_service()) as instance:
        with pytest.raises(InvalidRequest):
            await instance.claim("a", metadata=ResourceMetadata(attributes={"x": object()}))
        with pytest.raises(InvalidRequest):
            await instance.claim("a", metadata=ResourceMetadata(attributes={"x": "y" * (1 << 21)}))
        await instance.claim("a")


async def test_an_instance_that_is_not_well_claims_nothing(autojump_clock: MockClock) -> None:
    """Nor one that is not registered, drains, or is closed."""
    async with open_node("memory://") as node:
        async with node.serve(make_service()) as instance:
            await instance.set_health(Health.UNHEALTHY)
            with pytest.raises(Forbidden):
                await instance.claim("a")
            await instance.set_health(Health.ONLINE)
            await instance.claim("a")
            await instance.drain()
            assert instance.draining
            with pytest.raises(Forbidden):
                await instance.claim("b")
            with pytest.raises(Forbidden):
                async with instance.own("b"):
                    pytest.fail("a draining instance owns nothing")
            with pytest.raises(Forbidden):
                async with instance.own("b", role=Role.STANDBY):
                    pytest.fail("a draining instance waits in no line")
        with pytest.raises(Forbidden):
            await instance.claim("a")
        async with node.serve(make_service(), register=False) as thin:
            with pytest.raises(Forbidden):
                await thin.claim("a")


async def test_on_acquire_has_run_before_a_claim_is_ready(autojump_clock: MockClock) -> None:
    """Its result is the claim's state; calls wait for it; it counts as no call."""
    service = make_service()
    running = 0
    most = 0

    @service.on_acquire
    async def load(claim: Claim) -> Mapping[str, object]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        assert claim.held
        assert not claim.is_ready
        await trio.sleep(1)
        running -= 1
        return {"id": claim.resource_id}

    @service.method
    async def state(call: Call) -> object:
        assert call.claim is not None
        assert call.claim.is_ready
        return call.state

    async with open_node("memory://") as node, node.serve(service) as instance:
        async with trio.open_nursery() as nursery:

            async def call() -> None:
                assert await node.call("svc", "state", resource_id="id0") == {"id": "id0"}
                assert trio.current_time() > 0.5

            ids = [f"id{number}" for number in range(40)]
            claims_done = trio.Event()

            async def claim() -> None:
                claims = await instance.claim(*reversed(ids))
                assert all(claim.is_ready for claim in claims)
                claims_done.set()

            nursery.start_soon(claim)
            await trio.sleep(0.5)
            nursery.start_soon(call)
            (same,) = await instance.claim("id39")
            assert same.is_ready
            await claims_done.wait()
        assert most == 16
        assert instance.claims["id0"].calls == 1
        assert instance.claims["id1"].calls == 0


@pytest.mark.parametrize("count", [1, 3])
async def test_a_failing_on_acquire_is_the_callers_and_releases_all(autojump_clock: MockClock, count: int) -> None:
    """Its own exception, and what this call acquired is free again when it is raised; what was held before stays."""
    service = make_service()
    released: list[str] = []
    broken = True

    @service.on_acquire
    async def load(claim: Claim) -> None:
        if claim.resource_id == "id0" and broken:
            await trio.sleep(1)
            raise Refused(claim.resource_id)

    @service.on_release
    async def unload(claim: Claim) -> None:
        assert claim.held
        released.append(claim.resource_id)

    async with open_node("memory://") as node, node.serve(service) as instance:
        (kept,) = await instance.claim("kept")
        with pytest.raises(Refused):
            await instance.claim("kept", *[f"id{number}" for number in range(count)])
        assert list(instance.claims) == ["kept"]
        assert node.owner_of("id0") is None
        assert "id0" not in released
        assert len(released) == count - 1
        assert kept.held
        broken = False
        await instance.claim("id0")


async def test_who_waits_for_a_claim_that_is_made_ready_hears_when_that_fails(autojump_clock: MockClock) -> None:
    """The second claim of the same resource is no success either."""
    service = make_service()

    @service.on_acquire
    async def load(claim: Claim) -> None:
        await trio.sleep(1)
        raise Refused

    async with open_node("memory://") as node, node.serve(service) as instance, trio.open_nursery() as nursery:

        async def first() -> None:
            with pytest.raises(Refused):
                await instance.claim("a")

        nursery.start_soon(first)
        await trio.sleep(0.5)
        with pytest.raises(LeaseLost) as caught:
            await instance.claim("a")
        assert caught.value.reason is EndReason.RELEASED


async def test_a_claim_lost_while_it_is_made_ready_is_no_success(autojump_clock: MockClock) -> None:
    """on_acquire is cancelled, and the claim raises how it ended."""
    service = make_service()
    cancelled = False

    @service.on_acquire
    async def load(claim: Claim) -> None:
        nonlocal cancelled
        try:
            await trio.sleep(10)
        except trio.Cancelled:
            cancelled = True
            raise

    async with open_node("memory://a") as node, open_node("memory://a") as other, node.serve(service) as instance:
        async with trio.open_nursery() as nursery:

            async def erase() -> None:
                await trio.sleep(1)
                await other.registry.deregister("svc", instance.instance_id)

            nursery.start_soon(erase)
            with pytest.raises(LeaseLost) as caught:
                await instance.claim("a")
            assert caught.value.reason is EndReason.ERASED
        assert cancelled


async def test_releasing_lets_calls_finish_and_runs_on_release_while_it_is_held(autojump_clock: MockClock) -> None:
    """New requests are turned away at once; then the record is gone."""
    service = make_service()
    seen: list[str] = []

    @service.method
    async def work(call: Call, seconds: float) -> str:
        await trio.sleep(seconds)
        seen.append("worked")
        return "done"

    @service.on_release
    async def unload(claim: Claim) -> None:
        assert claim.held
        assert claim.leaving
        await trio.sleep(1)
        assert claim.held
        seen.append("released")

    async with open_node("memory://a") as node, open_node("memory://a") as other, node.serve(service) as instance:
        (claim,) = await instance.claim("a")
        async with trio.open_nursery() as nursery:

            async def call() -> None:
                assert await other.call("svc", "work", {"seconds": 3}, resource_id="a") == "done"

            nursery.start_soon(call)
            await trio.sleep(1)
            assert claim.running == 1
            nursery.start_soon(claim.wait_leaving)
            async with trio.open_nursery() as releases:
                releases.start_soon(claim.release)
                releases.start_soon(claim.release)
                releases.start_soon(instance.release, "a")
            assert trio.current_time() == 4
            assert seen == ["worked", "released"]
            assert claim.ended is EndReason.RELEASED
            assert claim.remaining == 0
            assert repr(claim) == f"<Claim 'a' epoch {claim.epoch} released>"
            assert not instance.claims
        await claim.release()
        with pytest.raises(LeaseLost) as caught:
            claim.check()
        assert caught.value.reason is EndReason.RELEASED
        with pytest.raises(ResourceNotFound):
            await instance.release("a")


@pytest.mark.parametrize("ids", [("a",), ("a", "b")], ids=["the same", "and another"])
async def test_releases_of_one_resource_at_the_same_time_are_one(
    ids: tuple[str, ...], autojump_clock: MockClock
) -> None:
    """Whenever the second is asked for, also while the first is being committed: both return when it is free."""
    for after in (0.0, 1.0, 2.5, 3.5):
        released: list[str] = []
        service = make_service()

        @service.on_release
        async def unload(claim: Claim, released: list[str] = released) -> None:
            released.append(claim.resource_id)
            await trio.sleep(2)

        faults = Faults()
        async with faults.node() as node, node.serve(service) as instance:
            claims = await instance.claim(*ids)
            faults.latency = 1
            async with trio.open_nursery() as releases:
                releases.start_soon(instance.release, "a")
                await trio.sleep(after)
                assert claims[0].ended is None
                await instance.release(*ids)
            faults.latency = 0
            assert sorted(released) == sorted(ids)
            with pytest.raises(ResourceNotFound):
                await instance.release("a")


async def test_a_release_of_what_is_being_transferred_is_told_who_has_it(autojump_clock: MockClock) -> None:
    """Nothing else that it asked for has ended then."""
    service = make_service()

    @service.on_acquire
    async def load(claim: Claim) -> None:
        await trio.lowlevel.checkpoint()

    @service.on_release
    async def unload(claim: Claim) -> None:
        await trio.sleep(2)

    async with open_node("memory://") as node:
        async with node.serve(service) as one, node.serve(service, instance_id="two"):
            _, kept = await one.claim("a", "b")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: one.transfer("a", to="two"))
                await trio.sleep(1)
                with pytest.raises(NotOwner) as caught:
                    await one.release("a", "b")
            assert (caught.value.target, caught.value.owner) == ("a", "two")
            assert (kept.held, kept.leaving) == (True, False)


async def test_a_handler_may_release_what_it_works_on(autojump_clock: MockClock) -> None:
    """The release follows its end."""
    service = make_service()

    @service.method
    async def by_claim(call: Call) -> bool:
        assert call.claim is not None
        await call.claim.release()
        await trio.sleep(1)
        return call.claim.held

    @service.method
    async def by_instance(call: Call) -> bool:
        assert call.instance is not None
        assert call.claim is not None
        await call.instance.release("b")
        await trio.sleep(1)
        return call.claim.held

    async with open_node("memory://") as node, node.serve(service) as instance:
        first, second = await instance.claim("a", "b")
        assert await node.call("svc", "by_claim", resource_id="a") is True
        await first.wait_ended()
        assert trio.current_time() == 1
        assert await node.call("svc", "by_instance", resource_id="b") is True
        await second.wait_ended()
        assert trio.current_time() == 2


async def test_what_is_not_ones_own_is_not_released(autojump_clock: MockClock) -> None:
    """The true owner is named."""
    async with open_node("memory://a") as node, open_node("memory://a") as other:
        async with node.serve(make_service()) as instance, other.serve(make_service()) as rival:
            (claim,) = await rival.claim("a")
            with pytest.raises(NotOwner) as caught:
                await instance.release("a")
            assert caught.value.owner == rival.instance_id
            assert claim.held


async def test_what_was_taken_a_moment_ago_is_not_released(autojump_clock: MockClock) -> None:
    """Even though this node has not heard of it yet, and would have released it otherwise."""
    async with open_node("memory://a", plugins=[ForceAllowed()]) as node, open_node("memory://a") as other:
        async with node.serve(make_service()) as instance, other.serve(make_service()) as rival:
            (old,) = await rival.claim("a")
            await instance.claim("a", force=True)
            assert old.held
            with pytest.raises(NotOwner) as caught:
                await rival.release("a")
            assert caught.value.owner == instance.instance_id
            assert old.ended is not None
            assert instance.claims["a"].held


@pytest.mark.parametrize("where", ["own node", "elsewhere"])
async def test_audit_of_force_names_who_asked(autojump_clock: MockClock, where: str) -> None:
    """Whether the node that is asked serves the claimant or not: not the claimant, where somebody asks for it."""
    plugins = [ForceAllowed()]
    async with open_node("memory://a", plugins=plugins) as node, open_node("memory://a", plugins=plugins) as other:
        async with node.serve(make_service(), instance_id="one"), node.serve(make_service()) as rival:
            await rival.claim("a")
            asked = node if where == "own node" else other
            await asked.runtime.directory.sync()
            with asking(Principal("token", "ops")):
                await asked.registry.claim("svc", "one", "a", force=True)
            await node.runtime.directory.sync()
            (audit,) = node.runtime.directory.snapshot.transfers()
            assert (audit.reason, audit.requested_by) == ("claimed by force", "token:ops")


async def test_a_failing_on_release_releases_all_the_same(autojump_clock: MockClock) -> None:
    """It is logged; one that hangs is cancelled a second after the drain time."""
    service = make_service()

    @service.on_release
    async def unload(claim: Claim) -> None:
        if claim.resource_id == "bad":
            raise Refused
        await trio.sleep_forever()

    async with open_node("memory://", config={"drain": 2}) as node, node.serve(service) as instance:
        await instance.claim("bad", "slow")
        await instance.release("bad")
        assert trio.current_time() == 0
        await instance.release("slow")
        assert trio.current_time() == 2
        assert not instance.claims

"""Standbys: who waits for what, in which order, and how soon one is promoted.

The file is long, because each rule of the line is a sentence of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

from aegis_core.backend import Conflict
from aegis_core.errors import ConfigError, Forbidden, LeaseLost, ResourceConflict, RoleConflict
from aegis_core.events import RoleChanged
from aegis_core.hookspecs import hookimpl
from aegis_core.models import Health, ResourceMetadata, Role, Standby
from aegis_core.node.claims import Claim
from aegis_core.node.instance import Instance
from aegis_core.node.node import open_node
from aegis_core.node.service import Service
from tests.node.faulty import Faults, erase, names_key

STEP = 0.03
LINE = names_key("standbys")


def make_service() -> Service:
    """A service that adopts what it is given."""
    service = Service("svc", version="1.0.0")

    @service.on_acquire
    async def load(claim: Claim) -> None:
        await trio.lowlevel.checkpoint()

    return service


class Owners:
    """Tasks that own one resource in turn, and when they did."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, float]] = []

    async def own(self, name: str, instance: Instance, seconds: float = 1e9, priority: int = 0) -> None:
        """Wait for the resource, hold it for *seconds*."""
        with suppress(LeaseLost):
            async with instance.own("a", role=Role.STANDBY, priority=priority):
                self.seen.append((name, trio.current_time()))
                await trio.sleep(seconds)

    @property
    def names(self) -> list[str]:
        """Who had it, in order."""
        return [name for name, _ in self.seen]


async def test_a_standby_is_promoted_at_once_when_nobody_is_active(autojump_clock: MockClock) -> None:
    """There is nothing to wait for."""
    async with open_node("memory://") as node, node.serve(make_service()) as instance:
        async with instance.own("a", role=Role.STANDBY) as claim:
            assert trio.current_time() == 0
            assert claim.held
            assert claim.is_ready


async def test_standbys_take_turns_by_priority_and_then_by_arrival(autojump_clock: MockClock) -> None:
    """Each is promoted when the one before leaves."""
    owners = Owners()
    async with open_node("memory://a") as node, open_node("memory://a") as other, trio.open_nursery() as nursery:
        async with node.serve(make_service()) as one, other.serve(make_service()) as two:
            async with node.serve(make_service()) as three, other.serve(make_service()) as four:
                async with trio.open_nursery() as tasks:
                    tasks.start_soon(owners.own, "first", one, 10)
                    await trio.sleep(1)
                    tasks.start_soon(owners.own, "late", two, 10)
                    await trio.sleep(1)
                    tasks.start_soon(owners.own, "later", three, 10)
                    await trio.sleep(1)
                    tasks.start_soon(owners.own, "preferred", four, 10, 5)
                    await trio.sleep(1)
                    table = await node.registry.list_roles("svc")
                    ids = [i.instance_id for i in (four, two, three)]
                    assert table.resources["a"].active == one.instance_id
                    assert list(table.resources["a"].standbys) == ids
        nursery.cancel_scope.cancel()
    assert owners.names == ["first", "preferred", "late", "later"]
    assert [at for _, at in owners.seen] == pytest.approx([0, 10, 20, 30], abs=0.01)


async def test_the_place_in_the_line_is_left_after_the_promotion(autojump_clock: MockClock) -> None:
    """And when the wait is given up."""
    async with open_node("memory://a") as node, open_node("memory://a") as other:
        async with node.serve(make_service()) as one, other.serve(make_service()) as two:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(Owners().own, "one", one, 5)
                await trio.sleep(1)
                nursery.start_soon(Owners().own, "two", two, 5)
                with trio.move_on_after(1):
                    async with one.own("b", role=Role.STANDBY):
                        pass
                await trio.sleep(1)
                assert [p.instance_id for p in node.runtime.directory.snapshot.line("a")] == [two.instance_id]
                await trio.sleep(5)
                assert node.owner_of("a") is not None
                assert node.runtime.directory.snapshot.line("a") == ()
                assert other.runtime.directory.snapshot.places_of(two.lease_tag) == ()
            with trio.move_on_after(1):
                async with two.own("c"), one.own("c", role=Role.STANDBY):
                    pytest.fail("it was not free")
            await trio.sleep(0.1)
            assert other.runtime.directory.snapshot.places_of(one.lease_tag) == ()


async def test_promotion_follows_a_death_within_the_limit(autojump_clock: MockClock) -> None:
    """TTL after the last renewal, and 30 ms for each rank, if the first ones do not come."""
    faults, owners = Faults(), Owners()
    async with faults.node() as node, open_node("memory://test") as other:
        async with node.serve(make_service()) as dying, other.serve(make_service()) as next_one:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(owners.own, "dying", dying)
                await trio.sleep(1)
                nursery.start_soon(owners.own, "next", next_one)
                await trio.sleep(50)
                last = faults.times_of("service-instances")[-1]
                faults.cut()
                await trio.sleep(40)
                assert owners.names == ["dying", "next"]
                assert owners.seen[1][1] == pytest.approx(last + 30, abs=0.1)
                nursery.cancel_scope.cancel()
        faults.heal()


async def test_the_second_in_line_is_promoted_when_the_first_does_not_act(autojump_clock: MockClock) -> None:
    """30 ms later."""
    faults, owners = Faults(), Owners()
    async with open_node("memory://test") as node, faults.node() as stuck, open_node("memory://test") as other:
        async with node.serve(make_service()) as one, stuck.serve(make_service()) as two:
            async with other.serve(make_service()) as three, trio.open_nursery() as nursery:
                nursery.start_soon(owners.own, "one", one, 5)
                await trio.sleep(1)
                nursery.start_soon(owners.own, "two", two)
                await trio.sleep(1)
                nursery.start_soon(owners.own, "three", three)
                await trio.sleep(1)
                faults.cut()
                await trio.sleep(5)
                assert owners.seen == [("one", 0.0), ("three", pytest.approx(5 + STEP, abs=0.005))]
                nursery.cancel_scope.cancel()
        faults.heal()


async def test_the_ranking_of_a_plug_in_says_who_is_first(autojump_clock: MockClock) -> None:
    """It comes before the line's own order."""

    class Reverse:
        @hookimpl
        def aegis_promote(self, target: str, standbys: Sequence[Standby]) -> Sequence[str]:
            """The last first."""
            return [standby.instance_id for standby in reversed(standbys)]

    owners = Owners()
    plugins = [Reverse()]
    async with open_node("memory://a", plugins=plugins) as node, open_node("memory://a", plugins=plugins) as other:
        async with node.serve(make_service()) as one, other.serve(make_service()) as two:
            async with node.serve(make_service()) as three, trio.open_nursery() as nursery:
                for name, instance in (("one", one), ("two", two), ("three", three)):
                    nursery.start_soon(owners.own, name, instance, 5)
                    await trio.sleep(1)
    assert owners.names == ["one", "three", "two"]


async def test_who_says_that_it_is_unhealthy_lets_others_go_first(autojump_clock: MockClock) -> None:
    """And takes its turn once it is well."""
    owners = Owners()
    async with open_node("memory://a") as node, open_node("memory://a") as other:
        async with node.serve(make_service()) as one, other.serve(make_service()) as two:
            async with node.serve(make_service()) as three, trio.open_nursery() as nursery:
                for name, instance in (("one", one), ("two", two), ("three", three)):
                    nursery.start_soon(owners.own, name, instance, 5)
                    await trio.sleep(1)
                await two.set_health(Health.UNHEALTHY)
                await trio.sleep(10)
                assert owners.names == ["one", "three"]
                assert node.owner_of("a") is None
                await two.set_health(Health.ONLINE)
                await trio.sleep(2)
                assert owners.names == ["one", "three", "two"]


async def test_waiting_ends_after_the_time_that_was_given(autojump_clock: MockClock) -> None:
    """As a conflict that names the holder."""
    async with open_node("memory://a") as node, open_node("memory://a") as other:
        async with node.serve(make_service()) as one, other.serve(make_service()) as two:
            async with one.own("a"):
                with pytest.raises(ResourceConflict) as caught:
                    async with two.own("a", role=Role.STANDBY, wait=7):
                        pytest.fail("it was not free")
                assert caught.value.owner == one.instance_id
                assert trio.current_time() == pytest.approx(7)
                with pytest.raises(ResourceConflict):
                    async with two.own("a", role=Role.STANDBY, wait=0):
                        pytest.fail("it was not free")
            async with two.own("a", role=Role.STANDBY, wait=7) as claim:
                assert claim.held


async def test_a_promotion_at_the_end_of_the_wait_counts_or_leaves_nothing(autojump_clock: MockClock) -> None:
    """Whichever comes first, there is never an owner without a block."""
    for wait in (4.9, 4.99, 5.0, 5.001, 5.02, 5.04):
        async with open_node("memory://a") as node, open_node("memory://a") as other:
            async with node.serve(make_service()) as one, other.serve(make_service()) as two:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(Owners().own, "one", one, 5)
                    await trio.lowlevel.checkpoint()
                    try:
                        async with two.own("a", role=Role.STANDBY, wait=wait) as claim:
                            assert claim.held
                    except ResourceConflict:
                        assert not two.claims
                await trio.sleep(1)
                assert node.owner_of("a") is None


async def test_a_standby_waits_on_through_the_loss_of_its_own_lease(autojump_clock: MockClock) -> None:
    """It stands in line again under the next one, however long that takes."""
    faults, owners = Faults(), Owners()
    async with open_node("memory://test") as node, faults.node() as other:
        async with node.serve(make_service()) as one, other.serve(make_service()) as two:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(owners.own, "one", one, 200)
                await trio.sleep(1)
                nursery.start_soon(owners.own, "two", two)
                await trio.sleep(1)
                tag = two.lease_tag
                faults.cut()
                await trio.sleep(100)
                faults.heal()
                await trio.sleep(10)
                assert two.lease_tag != tag
                assert [p.lease for p in node.runtime.directory.snapshot.line("a")] == [two.lease_tag]
                await trio.sleep(100)
                assert owners.names == ["one", "two"]
                nursery.cancel_scope.cancel()


async def test_a_standby_that_drains_is_promoted_no_more(autojump_clock: MockClock) -> None:
    """It leaves the line; the wait ends with its time."""
    async with open_node("memory://a") as node, open_node("memory://a") as other:
        async with node.serve(make_service()) as one, other.serve(make_service()) as two:
            async with trio.open_nursery() as nursery:

                async def wait() -> None:
                    with pytest.raises(ResourceConflict):
                        async with two.own("a", role=Role.STANDBY, wait=60):
                            pytest.fail("it was promoted")

                async with one.own("a"):
                    nursery.start_soon(wait)
                    await trio.sleep(1)
                    await two.drain()
                    await trio.sleep(0.1)
                    assert node.runtime.directory.snapshot.line("a") == ()
            assert node.owner_of("a") is None
            assert trio.current_time() == pytest.approx(60)


async def test_joining_the_line_and_promotion_are_tried_until_they_succeed(autojump_clock: MockClock) -> None:
    """Whatever the store says meanwhile."""
    faults, owners = Faults(), Owners()
    async with open_node("memory://test") as node, faults.node(request_timeout=1) as other:
        async with node.serve(make_service()) as one, other.serve(make_service()) as two:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(owners.own, "one", one, 30)
                await trio.sleep(1)
                faults.lose(LINE, times=1000)
                nursery.start_soon(owners.own, "two", two, 30)
                await trio.sleep(5)
                assert node.runtime.directory.snapshot.line("a") == ()
                faults.heal_commits()
                await trio.sleep(10)
                assert len(node.runtime.directory.snapshot.line("a")) == 1
                faults.lose(names_key("resources"), times=1000)
                await trio.sleep(20)
                assert owners.names == ["one"]
                faults.heal_commits()
                await trio.sleep(10)
                assert owners.names == ["one", "two"]


async def test_a_promotion_whose_answer_was_lost_counts(autojump_clock: MockClock) -> None:
    """The record names this lease: it is taken, after it was written once more."""
    faults = Faults()
    async with faults.node(request_timeout=1) as node, node.serve(make_service()) as instance:
        faults.slow(3, names_key("resources"))
        async with instance.own("a", role=Role.STANDBY) as claim:
            assert claim.held
            assert 1 < trio.current_time() < 3
            await trio.sleep(20)
            assert claim.held


async def test_a_place_of_which_nobody_was_told_is_left_too(autojump_clock: MockClock) -> None:
    """The answer to joining the line was lost, and the wait given up."""
    faults = Faults()
    async with open_node("memory://test") as node, faults.node(request_timeout=1) as other:
        async with node.serve(make_service()) as one, other.serve(make_service()) as two:
            async with one.own("a"):
                faults.slow(3, LINE)
                with trio.move_on_after(0.5):
                    async with two.own("a", role=Role.STANDBY):
                        pytest.fail("it was not free")
                await trio.sleep(1)
                assert node.runtime.directory.snapshot.line("a") == ()


async def test_the_metadata_of_the_dead_are_kept(autojump_clock: MockClock) -> None:
    """Unless the next one brings its own."""
    faults, blind = Faults(), Faults()
    async with faults.node() as node, open_node("memory://test") as other, blind.node() as sweeper:
        # The one who should sweep what the dead leave hears of no death.
        async with sweeper.serve(make_service(), instance_id="a"):
            blind.deaf = True
            async with node.serve(make_service()) as one, other.serve(make_service()) as two:
                await one.claim("a", "b", metadata=ResourceMetadata(resource_type="book"))
                faults.cut()
                mine = ResourceMetadata(resource_type="mine")
                async with two.own("a", role=Role.STANDBY) as a, two.own("b", role=Role.STANDBY, metadata=mine) as b:
                    assert trio.current_time() == pytest.approx(30, abs=0.1)
                    assert a.metadata.resource_type == "book"
                    assert b.metadata.resource_type == "mine"
            faults.heal()
            blind.resync()


# -- role groups ---------------------------------------------------------------------------------------------------


async def test_the_active_of_a_group_is_active_from_the_start(autojump_clock: MockClock) -> None:
    """A second one is refused, and a standby waits."""
    async with open_node("memory://a") as node, open_node("memory://a") as other:
        async with node.serve(make_service(), role=Role.ACTIVE) as one:
            assert one.role is Role.ACTIVE
            assert not one.claims
            with pytest.raises(RoleConflict) as caught:
                async with other.serve(make_service(), role=Role.ACTIVE):
                    pytest.fail("there is one already")
            assert caught.value.owner == one.instance_id
            async with other.serve(make_service(), role=Role.ACTIVE, group="other") as independent:
                assert independent.role is Role.ACTIVE
            async with other.serve(make_service(), role=Role.STANDBY) as two:
                assert two.role is Role.STANDBY
                await trio.sleep(1)
                table = await node.registry.list_roles("svc")
                assert table.groups["default"].active == one.instance_id
                assert table.groups["default"].standbys == (two.instance_id,)


async def test_a_group_without_an_active_promotes_a_standby(autojump_clock: MockClock) -> None:
    """At once; a group without a role means STANDBY."""
    async with open_node("memory://") as node, node.serve(make_service(), group="g") as instance:
        await instance.wait_role(Role.ACTIVE)
        assert trio.current_time() < 0.1


async def test_without_role_and_group_an_instance_waits_in_no_line(autojump_clock: MockClock) -> None:
    """It is shown as STANDBY."""
    async with open_node("memory://") as node, node.serve(make_service()) as instance:
        await trio.sleep(100)
        assert instance.role is Role.STANDBY
        table = await node.registry.list_roles("svc")
        assert not table.groups
        assert not table.resources


async def test_a_standby_of_a_group_takes_over_when_the_active_leaves_or_dies(autojump_clock: MockClock) -> None:
    """At once when it leaves, after its TTL when it dies; and every node hears of it."""
    faults = Faults()
    async with faults.node() as node, open_node("memory://test") as other:
        async with other.serve(make_service(), role=Role.STANDBY) as two, other.events(RoleChanged) as changes:
            await two.wait_role(Role.ACTIVE)
            async with node.serve(make_service(), role=Role.STANDBY) as one:
                await trio.sleep(1)
                assert one.role is Role.STANDBY
                await two.drain()
                await one.wait_role(Role.ACTIVE)
                assert trio.current_time() < 1.2
                async with other.serve(make_service(), role=Role.STANDBY) as three:
                    await trio.sleep(60)
                    faults.cut()
                    last = faults.times_of("service-instances")[-1]
                    await three.wait_role(Role.ACTIVE)
                    assert trio.current_time() == pytest.approx(last + 30, abs=0.2)
                    assert one.role is Role.STANDBY
                    faults.heal()
                    await trio.sleep(60)
                    assert one.ready
                    assert (one.role, three.role) == (Role.STANDBY, Role.ACTIVE)
                    roles = await other.registry.list_roles("svc")
                    assert roles.groups["default"].standbys == (one.instance_id,)
            told = []
            with trio.move_on_after(1):
                async for change in changes:
                    assert isinstance(change, RoleChanged)
                    told.append((change.instance_id, change.new))
    actives = [who for who, new in told if new is Role.ACTIVE]
    assert actives[:3] == [two.instance_id, one.instance_id, three.instance_id]


async def test_set_role_hands_over_and_back(autojump_clock: MockClock) -> None:
    """The one that steps down waits in line; nobody overlaps, and no task is left spinning."""
    async with open_node("memory://a") as node, open_node("memory://a") as other:
        async with node.serve(make_service(), role=Role.ACTIVE, instance_id="one") as one:
            async with other.serve(make_service(), role=Role.STANDBY, instance_id="two") as two:
                await trio.sleep(1)
                for active, standby in ((two, one), (one, two), (two, one)):
                    assert standby.role is Role.ACTIVE
                    await node.registry.set_role("svc", Role.ACTIVE, active.instance_id)
                    await active.wait_role(Role.ACTIVE)
                    await standby.wait_role(Role.STANDBY)
                    await trio.sleep(5)
                    assert (active.role, standby.role) == (Role.ACTIVE, Role.STANDBY)
                    table = await node.registry.list_roles("svc")
                    assert table.groups["default"].active == active.instance_id
                    assert table.groups["default"].standbys == (standby.instance_id,)
                assert await node.registry.set_role("svc", Role.STANDBY, "two") == ("two",)
                await one.wait_role(Role.ACTIVE)


async def test_a_change_of_role_that_is_refused_changes_nothing(autojump_clock: MockClock) -> None:
    """Who holds the role keeps it, and believes in it again."""
    async with open_node("memory://a") as node, open_node("memory://a") as other:
        async with node.serve(make_service(), role=Role.ACTIVE, instance_id="one") as one:
            async with other.serve(make_service(), role=Role.STANDBY, instance_id="two") as two:
                await two.set_health(Health.UNHEALTHY)
                with pytest.raises(Forbidden):
                    await node.registry.set_role("svc", Role.ACTIVE, "two")
                assert one.role is Role.ACTIVE
                assert one.claims_table["%svc%default"].held
                await trio.sleep(30)
                assert one.role is Role.ACTIVE


async def test_a_change_of_role_that_is_refused_at_last_leaves_the_role_where_it_was(autojump_clock: MockClock) -> None:
    """The target fell ill between the check and the commit: who holds the role believes in it again."""
    faults = Faults()
    async with faults.node() as node, open_node("memory://test") as other:
        async with node.serve(make_service(), role=Role.ACTIVE, instance_id="one") as one:
            async with other.serve(make_service(), role=Role.STANDBY, instance_id="two") as two:
                await trio.sleep(1)
                claim = one.claims_table["%svc%default"]
                broken = faults.break_down(Conflict(key=None), names_key("transfers"))
                faults.latency = 1
                async with trio.open_nursery() as nursery:

                    async def fall_ill() -> None:
                        await trio.sleep(1.5)
                        assert not claim.held
                        assert claim.leaving
                        await two.set_health(Health.UNHEALTHY)

                    nursery.start_soon(fall_ill)
                    with pytest.raises(Forbidden):
                        await node.registry.set_role("svc", Role.ACTIVE, "two")
                assert broken.seen == 1
                faults.latency = 0
                assert claim.held
                assert not claim.leaving
                assert claim.interrupted is None
                assert one.role is Role.ACTIVE


async def test_who_steps_down_alone_waits_for_somebody_else(autojump_clock: MockClock) -> None:
    """The group has no active then; after the next one has had it, the first may have it again."""
    async with open_node("memory://a") as node, open_node("memory://a") as other:
        async with node.serve(make_service(), role=Role.ACTIVE, instance_id="one") as one:
            await node.registry.set_role("svc", Role.STANDBY, "one")
            await trio.sleep(100)
            assert one.role is Role.STANDBY
            async with other.serve(make_service(), role=Role.STANDBY, instance_id="two") as two:
                await two.wait_role(Role.ACTIVE)
                await trio.sleep(1)
            await one.wait_role(Role.ACTIVE)


async def test_a_role_whose_record_was_erased_is_taken_again(autojump_clock: MockClock) -> None:
    """Nobody stepped down, so nobody has to be let first."""
    async with open_node("memory://a") as node, open_node("memory://a") as other:
        async with node.serve(make_service(), role=Role.ACTIVE) as one:
            await erase(other, "%svc%default")
            await trio.sleep(1)
            assert one.role is Role.ACTIVE


async def test_a_role_that_was_lost_with_the_lease_does_not_disturb_other_claims(autojump_clock: MockClock) -> None:
    """Also when it had been given by somebody else: what claim() held is claimed again."""
    async with open_node("memory://a") as node, open_node("memory://a") as other:
        async with other.serve(make_service(), role=Role.ACTIVE, instance_id="two"):
            async with node.serve(make_service(), role=Role.STANDBY, instance_id="one") as one:
                await one.claim("a")
                await trio.sleep(1)
                await other.registry.set_role("svc", Role.ACTIVE, "one")
                await one.wait_role(Role.ACTIVE)
                await other.registry.deregister("svc", "one")
                await trio.sleep(1)
                assert list(one.claims) == ["a"]


async def test_a_role_needs_a_registration(autojump_clock: MockClock) -> None:
    """And its group a proper name."""
    async with open_node("memory://") as node:
        with pytest.raises(ConfigError):
            async with node.serve(make_service(), role=Role.ACTIVE, register=False):
                pytest.fail("it cannot have a role")


async def test_the_record_shows_the_role(autojump_clock: MockClock) -> None:
    """For readers that know nothing but the record; soon after it changed, not at the next renewal."""
    async with open_node("memory://a") as node, open_node("memory://a") as other:
        async with node.serve(make_service(), instance_id="one") as one:

            def shown() -> Role:
                record = other.runtime.directory.snapshot.instance("svc", "one")
                assert record is not None
                return record.role

            await trio.sleep(0.1)
            assert shown() is Role.STANDBY
            async with one.own("a"):
                await trio.sleep(0.1)
                assert shown() is Role.ACTIVE
            await trio.sleep(0.1)
            assert shown() is Role.STANDBY


async def test_a_lost_race_for_the_promotion_waits_for_the_next_turn(autojump_clock: MockClock) -> None:
    """Two that think themselves first: the compare-and-set decides."""

    class Me:
        def __init__(self) -> None:
            self.me = ""

        @hookimpl
        def aegis_promote(self, standbys: Sequence[Standby]) -> Sequence[str]:
            """Always oneself."""
            return [self.me]

    owners = Owners()
    first, second = Me(), Me()
    async with open_node("memory://a") as node, open_node("memory://a", plugins=[first]) as left:
        async with open_node("memory://a", plugins=[second]) as right:
            async with node.serve(make_service()) as one, left.serve(make_service()) as two:
                async with right.serve(make_service()) as three, trio.open_nursery() as nursery:
                    first.me, second.me = two.instance_id, three.instance_id
                    nursery.start_soon(owners.own, "one", one, 5)
                    await trio.sleep(1)
                    nursery.start_soon(owners.own, "two", two, 5)
                    nursery.start_soon(owners.own, "three", three, 5)
    assert owners.names[0] == "one"
    assert sorted(owners.names[1:]) == ["three", "two"]
    assert [at for _, at in owners.seen] == pytest.approx([0, 5, 10], abs=0.1)


async def test_who_waits_takes_over_what_it_was_given_although_that_failed_at_first(autojump_clock: MockClock) -> None:
    """Nothing changes any more: it is tried again all the same."""
    faults, owners = Faults(), Owners()
    async with open_node("memory://test") as node, faults.node() as other:
        async with node.serve(make_service()) as giver, other.serve(make_service()) as waiting:
            (claim,) = await giver.claim("a")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(owners.own, "waiting", waiting)
                await trio.sleep(1)
                refused = faults.break_down(
                    Forbidden(operation="commit", target="a", reason="once"), names_key("resources.a")
                )
                faults.cut()  # it hears of all that the transfer changed at once
                await giver.transfer("a", to=waiting.instance_id)
                faults.heal()
                await trio.sleep(3)
                assert refused.seen == 1
                assert owners.names == ["waiting"]
                nursery.cancel_scope.cancel()
    assert claim.ended is not None

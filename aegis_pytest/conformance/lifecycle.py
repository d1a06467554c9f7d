"""The suite for what nodes do on a backend: serve, own, wait in line, lose, hand over, die and come back.

One file of this length, because it is one life, told from its beginning to its end.
"""

from __future__ import annotations

from typing import Final

import pytest
import trio

from aegis_core.errors import Forbidden, InstanceConflict, LeaseLost, ResourceConflict, RoleConflict, ServiceNotFound
from aegis_core.events import LeaseEnded, ResourceTransferred, RoleChanged
from aegis_core.models import EndReason, ResourceMetadata, Role
from aegis_core.node.call import Call
from aegis_core.node.claims import Claim
from aegis_core.node.instance import Instance
from aegis_core.node.node import open_node
from aegis_core.node.service import Service
from aegis_pytest.cluster import Cluster, open_cluster
from aegis_pytest.conformance.suite import Suite
from aegis_pytest.faults import Faults
from aegis_pytest.harness import Harness

__all__ = ["LifecycleConformance"]

_SHORTEST: Final = 2.0
# What may pass beyond the TTL: a second to notice, and the pauses of the first two in line.
_NOTICE: Final = 1.0
_PROMOTION: Final = 0.1


class Rooms:
    """A service that says who answers, and writes down what happens to it."""

    def __init__(self) -> None:
        self.diary: list[tuple[str, str, str]] = []
        self.service = Service("rooms", version="1.0.0", on_demand=["demand:"])

        @self.service.method
        async def enter(call: Call, seconds: float = 0.0) -> list[object]:
            assert call.instance is not None
            await trio.sleep(seconds)
            return [call.instance.instance_id, call.epoch, call.state]

        @self.service.on_acquire
        async def open_up(claim: Claim) -> str:
            self.diary.append(("acquired", claim.resource_id, claim.instance.instance_id))
            return f"state of {claim.resource_id}"

        @self.service.on_release
        async def close_down(claim: Claim) -> None:
            claim.check()
            self.diary.append(("released", claim.resource_id, claim.instance.instance_id))


async def _hold(
    instance: Instance,
    resource_id: str,
    priority: int,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Own *resource_id* whenever it is one's turn; started as soon as one's place in the line is being taken."""
    task_status.started()
    while True:
        try:
            async with instance.own(resource_id, role=Role.STANDBY, priority=priority):
                await trio.sleep_forever()
        except LeaseLost:
            continue
        except Forbidden:
            return  # It is draining: it waits for nothing any more.


class LifecycleConformance(Suite):
    """What the public interface promises, on nodes over the harness's backend. Subclass it as `StoreConformance` is subclassed.

    Leases are short, because time may be real: twice `Harness.ttl`'s worth is the patience of most tests.
    """

    # --- Serving ---

    async def test_served_instance_is_found_and_called(self, harness: Harness, clock: object) -> None:
        """By any node, from when `serve` has begun."""
        rooms = Rooms()
        async with open_cluster(harness) as cluster:
            instance = await cluster.serve("a", rooms.service, ttl=_ttl(harness))
            for name in "ab":
                node = await cluster.node(name)
                assert await node.call("rooms", "enter") == [instance.instance_id, 0, None]
                (view,) = await node.registry.list_services()
                assert [found.instance_id for found in view.instances] == [instance.instance_id]

    async def test_instance_that_left_is_gone_at_once(self, harness: Harness, clock: object) -> None:
        """With everything that it held: nobody waits for its lease."""
        rooms = Rooms()
        async with open_cluster(harness) as cluster:
            node, other = await cluster.node("a"), await cluster.node("b")
            began = trio.current_time()
            async with node.serve(rooms.service, ttl=_ttl(harness) * 10) as instance:
                await instance.claim("lobby")
            with pytest.raises(ServiceNotFound):
                await other.call("rooms", "enter", timeout=harness.patience)
            successor = await cluster.serve("b", rooms.service, ttl=_ttl(harness))
            await successor.claim("lobby")
            assert trio.current_time() - began < _ttl(harness) * 10

    async def test_program_that_is_cancelled_is_gone_at_once(self, harness: Harness, clock: object) -> None:
        """With what it claimed, what it owns and its registration, while the backend's own tasks go on for that."""
        rooms, ttl = Rooms(), _ttl(harness)

        async def main(task_status: trio.TaskStatus[None]) -> None:
            async with open_node() as node, node.serve(rooms.service, ttl=ttl * 10) as instance:
                await instance.claim("lobby")
                async with instance.own("hall"):
                    task_status.started()
                    await trio.sleep_forever()

        async with open_cluster(harness) as cluster:
            successor = await cluster.serve("b", rooms.service, ttl=ttl)
            await cluster.start("a", main)
            await cluster.stop("a")
            assert [resource_id for what, resource_id, _ in rooms.diary if what == "released"] == ["hall", "lobby"]
            await successor.claim("lobby", "hall")
            (view,) = await (await cluster.node("b")).registry.list_services()
            assert [found.instance_id for found in view.instances] == [successor.instance_id]

    async def test_id_of_a_live_instance_is_taken(self, harness: Harness, clock: object) -> None:
        """By whomever, until its lease has expired."""
        rooms, ttl = Rooms(), _ttl(harness)
        async with open_cluster(harness) as cluster:
            await cluster.serve("a", rooms.service, instance_id="room-1", ttl=ttl)
            with pytest.raises(InstanceConflict) as caught:
                await cluster.serve("b", rooms.service, instance_id="room-1", ttl=ttl)
            assert caught.value.owner == "room-1"
            await cluster.kill("a")
            await harness.advance(ttl + harness.expiry_lateness + _NOTICE)
            await cluster.serve("b", rooms.service, instance_id="room-1", ttl=ttl)

    async def test_lease_is_renewed(self, harness: Harness, clock: object) -> None:
        """An instance that can reach the store keeps its lease, and its claims their epoch."""
        rooms, ttl = Rooms(), _ttl(harness)
        async with open_cluster(harness) as cluster:
            instance = await cluster.serve("a", rooms.service, ttl=ttl)
            (claim,) = await instance.claim("lobby")
            await harness.advance(3 * ttl)
            assert instance.ready
            assert claim.held
            owner = await (await cluster.node("b")).registry.get_owner("lobby")
            assert (owner.owner_instance_id, owner.epoch) == (instance.instance_id, claim.epoch)

    # --- Owning ---

    async def test_resource_has_one_owner(self, harness: Harness, clock: object) -> None:
        """Who comes too late is told whose it is; the next owner has a higher epoch."""
        rooms = Rooms()
        async with open_cluster(harness) as cluster:
            first = await cluster.serve("a", rooms.service, ttl=_ttl(harness))
            second = await cluster.serve("b", rooms.service, ttl=_ttl(harness))
            async with first.own("lobby") as claim:
                with pytest.raises(ResourceConflict) as caught:
                    await second.claim("lobby")
                assert caught.value.owner == first.instance_id
            async with second.own("lobby") as later:
                assert later.epoch > claim.epoch

    async def test_one_of_many_wins(self, harness: Harness, clock: object) -> None:
        """All ask at once, and all but one are refused."""
        rooms = Rooms()
        async with open_cluster(harness) as cluster:
            instances = [await cluster.serve(name, rooms.service, ttl=_ttl(harness)) for name in "abc"]
            won: list[str] = []
            lost: list[str] = []

            async def try_it(instance: Instance) -> None:
                try:
                    await instance.claim("lobby", "hall")
                    won.append(instance.instance_id)
                except ResourceConflict as error:
                    lost.append(error.owner)

            async with trio.open_nursery() as nursery:
                for instance in instances:
                    nursery.start_soon(try_it, instance)
            assert len(won) == 1
            assert lost == won * 2

    async def test_resource_ends_with_its_time_to_live(self, harness: Harness, clock: object) -> None:
        """The owner's block is interrupted, and the resource is free."""
        rooms, ttl = Rooms(), _ttl(harness)
        async with open_cluster(harness) as cluster:
            instance = await cluster.serve("a", rooms.service, ttl=ttl)
            other = await cluster.serve("b", rooms.service, ttl=ttl)

            async def outlive() -> None:
                async with instance.own("lobby", metadata=ResourceMetadata(ttl_seconds=ttl / 2)):
                    await trio.sleep(harness.patience)

            with pytest.raises(LeaseLost) as caught:
                await outlive()
            assert caught.value.reason is EndReason.RESOURCE_TTL
            await other.claim("lobby")

    # --- Waiting in line ---

    async def test_standbys_are_promoted_in_order(self, harness: Harness, clock: object) -> None:
        """Higher priority first, then earlier; each as soon as the one before leaves."""
        rooms, ttl = Rooms(), _ttl(harness)
        async with open_cluster(harness) as cluster:
            for name, priority in (("a", 0), ("b", 0), ("c", 0), ("d", 5)):
                await self._wait_in_line(cluster, rooms, name, priority, ttl)
            for name in "adbc":
                await cluster.wait_owner("lobby", name, within=harness.patience)
                (instance,) = cluster.instances(name)
                await instance.drain()

    async def test_standby_takes_over_from_the_dead(self, harness: Harness, clock: object) -> None:
        """No sooner than the dead may believe that it owns, and soon after its lease has expired."""
        rooms, ttl = Rooms(), _ttl(harness)
        async with open_cluster(harness) as cluster:
            for name in "ab":
                await self._wait_in_line(cluster, rooms, name, 0, ttl)
            before = await cluster.wait_owner("lobby", "a", within=harness.patience)
            believed_until = before.deadline
            died = trio.current_time()
            await cluster.kill("a")
            limit = ttl + harness.expiry_lateness + _NOTICE + _PROMOTION
            after = await cluster.wait_owner("lobby", "b", within=limit)
            assert believed_until <= trio.current_time() <= died + limit
            assert after.epoch > before.epoch

    async def test_body_ends_before_anybody_else_owns(self, harness: Harness, clock: object) -> None:
        """An owner that is cut off from the store stops in time, by its own clock."""
        rooms, ttl = Rooms(), _ttl(harness)
        ended: list[float] = []
        reasons: list[EndReason] = []
        async with open_cluster(harness) as cluster:
            instance = await cluster.serve("a", rooms.service, ttl=ttl)

            async def body() -> None:
                try:
                    await trio.sleep_forever()
                finally:
                    ended.append(trio.current_time())

            async def own() -> None:
                try:
                    async with instance.own("lobby"):
                        await body()
                except LeaseLost as error:
                    reasons.append(error.reason)

            await cluster.run("a", own)
            await cluster.wait_owner("lobby", "a", within=harness.patience)
            await self._wait_in_line(cluster, rooms, "b", 0, ttl)
            with Faults(cluster.plane).partition({"a"}, {"store"}):
                await cluster.wait_owner("lobby", "b", within=harness.patience)
                assert len(ended) == 1
                assert ended[0] < trio.current_time()
            await harness.advance(ttl)
            assert reasons == [EndReason.EXPIRED]

    async def test_role_of_a_group_has_one_active(self, harness: Harness, clock: object) -> None:
        """A second is refused, a standby is promoted when the first leaves, and calls go to the active."""
        rooms, ttl = Rooms(), _ttl(harness)
        async with open_cluster(harness) as cluster:
            active = await cluster.serve("a", rooms.service, role=Role.ACTIVE, ttl=ttl)
            standby = await cluster.serve("b", rooms.service, role=Role.STANDBY, ttl=ttl)
            with pytest.raises(RoleConflict) as caught:
                await cluster.serve("c", rooms.service, role=Role.ACTIVE, ttl=ttl)
            assert caught.value.owner == active.instance_id
            caller = await cluster.node("c")
            for _ in range(3):
                assert (await caller.call("rooms", "enter", timeout=harness.patience))[0] == active.instance_id
            await active.drain()
            with trio.fail_after(harness.patience):
                await standby.wait_role(Role.ACTIVE)
            await cluster.events.expect(
                RoleChanged, instance_id=standby.instance_id, new=Role.ACTIVE, within=harness.patience
            )
            assert (await caller.call("rooms", "enter", timeout=harness.patience))[0] == standby.instance_id

    # --- Losing ---

    async def test_claims_come_back_under_a_new_lease(self, harness: Harness, clock: object) -> None:
        """An instance whose lease was lost registers anew and claims again; a block of ``own`` does not come back."""
        rooms, ttl = Rooms(), _ttl(harness)
        async with open_cluster(harness) as cluster:
            instance = await cluster.serve("a", rooms.service, ttl=ttl)
            (before,) = await instance.claim("lobby")

            async def lose_it() -> None:
                async with instance.own("hall"):
                    with Faults(cluster.plane).lose_lease(instance.instance_id):
                        await cluster.events.expect(LeaseEnded, within=harness.patience)
                    await trio.sleep(harness.patience)

            with pytest.raises(LeaseLost):
                await lose_it()
            assert before.ended is not None
            after = await cluster.wait_owner("lobby", "a", within=harness.patience)
            assert after.epoch > before.epoch
            assert set(instance.claims) == {"lobby"}

    async def test_killed_node_comes_back(self, harness: Harness, clock: object) -> None:
        """As another incarnation, with a higher epoch on what it owns again."""
        rooms, ttl = Rooms(), _ttl(harness)
        async with open_cluster(harness) as cluster:
            await self._wait_in_line(cluster, rooms, "a", 0, ttl)
            before = await cluster.wait_owner("lobby", "a", within=harness.patience)
            await cluster.restart("a")
            after = await cluster.wait_owner("lobby", "a", within=harness.patience)
            assert after.epoch > before.epoch

    # --- Handing over ---

    async def test_transfer_overlaps_nowhere(self, harness: Harness, clock: object) -> None:
        """Released there before it is acquired here, with a higher epoch, and told to everybody."""
        rooms, ttl = Rooms(), _ttl(harness)
        async with open_cluster(harness) as cluster:
            source = await cluster.serve("a", rooms.service, ttl=ttl)
            target = await cluster.serve("b", rooms.service, ttl=ttl)
            caller = await cluster.node("c")
            claims = await source.claim("lobby", "hall")
            reply = await source.transfer("lobby", "hall", to=target.instance_id, reason="moving")
            assert reply.success
            assert set(reply.transferred) == {"lobby", "hall"}
            for claim in claims:
                assert claim.ended is EndReason.TRANSFERRED
                answer = await caller.call("rooms", "enter", resource_id=claim.resource_id, timeout=harness.patience)
                assert answer == [target.instance_id, reply.epochs[claim.resource_id], f"state of {claim.resource_id}"]
                assert reply.epochs[claim.resource_id] > claim.epoch
                happened = [(what, who) for what, resource_id, who in rooms.diary if resource_id == claim.resource_id]
                assert happened == [
                    ("acquired", source.instance_id),
                    ("released", source.instance_id),
                    ("acquired", target.instance_id),
                ]
                await cluster.events.expect(
                    ResourceTransferred, resource_id=claim.resource_id, old=source.instance_id, within=harness.patience
                )

    async def test_no_call_is_lost_while_its_resource_moves(self, harness: Harness, clock: object) -> None:
        """Whoever calls while the resource goes back and forth gets an answer from an owner, never an error."""
        rooms, ttl = Rooms(), _ttl(harness)
        answered: list[str] = []
        async with open_cluster(harness) as cluster:
            one = await cluster.serve("a", rooms.service, ttl=ttl)
            other = await cluster.serve("b", rooms.service, ttl=ttl)
            caller = await cluster.node("c")
            await one.claim("lobby")
            moving = True

            async def keep_calling() -> None:
                while moving:
                    who, *_ = await caller.call(
                        "rooms", "enter", {"seconds": 0.01}, resource_id="lobby", timeout=harness.patience
                    )
                    answered.append(who)

            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(keep_calling)
                for source, target in ((one, other), (other, one), (one, other)):
                    await trio.sleep(0.05)
                    assert (await source.transfer("lobby", to=target.instance_id)).success
                await trio.sleep(0.05)
                moving = False
            assert set(answered) == {one.instance_id, other.instance_id}
            assert answered[-1] == other.instance_id

    async def test_drain_finishes_calls_and_frees_resources(self, harness: Harness, clock: object) -> None:
        """What runs is answered, what is held is free, and new calls go elsewhere."""
        rooms, ttl = Rooms(), _ttl(harness)
        async with open_cluster(harness) as cluster:
            instance = await cluster.serve("a", rooms.service, ttl=ttl)
            other = await cluster.serve("b", rooms.service, ttl=ttl)
            caller = await cluster.node("c")
            await instance.claim("lobby")
            answers: list[str] = []

            async def call() -> None:
                params = {"seconds": 0.2}
                answers.extend(
                    (await caller.call("rooms", "enter", params, resource_id="lobby", timeout=harness.patience))[:1]
                )

            async with trio.open_nursery() as nursery:
                nursery.start_soon(call)
                await trio.sleep(0.1)
                await instance.drain()
            assert answers == [instance.instance_id]
            await other.claim("lobby")
            for _ in range(3):
                assert (await caller.call("rooms", "enter", timeout=harness.patience))[0] == other.instance_id

    # --- On demand ---

    async def test_resource_on_demand_comes_to_be_once(self, harness: Harness, clock: object) -> None:
        """The first calls for it, from two nodes at once, end at one owner."""
        rooms, ttl = Rooms(), _ttl(harness)
        async with open_cluster(harness) as cluster:
            for name in "ab":
                await cluster.serve(name, rooms.service, ttl=ttl)
            answers: list[list[object]] = []

            async def call(name: str) -> None:
                node = await cluster.node(name)
                answers.append(await node.call("rooms", "enter", resource_id="demand:1", timeout=harness.patience))

            async with trio.open_nursery() as nursery:
                for name in "abab":
                    nursery.start_soon(call, name)
            assert len(answers) == 4
            assert all(answer == answers[0] for answer in answers)
            assert [what for what, resource_id, _ in rooms.diary if resource_id == "demand:1"].count("acquired") == 1

    # --- Steps ---

    async def _wait_in_line(self, cluster: Cluster, rooms: Rooms, name: str, priority: int, ttl: float) -> None:
        """Serve an instance on node *name* that owns ``lobby`` or waits for it; returns when it has its place."""
        instance = await cluster.serve(name, rooms.service, ttl=ttl)
        await cluster.run(name, _hold, instance, "lobby", priority)
        node = await cluster.node(name)
        while True:
            explained = await node.registry.explain("lobby")
            owner = None if explained.owner is None else explained.owner.instance_id
            if instance.instance_id in (owner, *explained.standbys):
                return
            await trio.sleep(0.01)


def _ttl(harness: Harness) -> float:
    """A lease of some heartbeats, that the store keeps as it is."""
    return max(_SHORTEST, harness.ttl)

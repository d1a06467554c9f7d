"""The suite for the registry's operations, decided on one node and read on another."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import attrs
import pytest
import trio

from aegis_core.errors import (
    Forbidden,
    InstanceConflict,
    InstanceNotFound,
    InvalidRequest,
    NotOwner,
    ResourceConflict,
    ResourceLimitExceeded,
    ResourceNotFound,
    RoleConflict,
    ServiceNotFound,
    VersionConflict,
)
from aegis_core.models import Health, ResourceMetadata, Role
from aegis_core.node.claims import Claim
from aegis_core.node.registry import Registry
from aegis_core.node.service import Service
from aegis_pytest.cluster import Cluster, open_cluster
from aegis_pytest.conformance.suite import Suite
from aegis_pytest.harness import Harness

__all__ = ["RegistryConformance"]

_SHORTEST: Final = 2.0
_NOTICE: Final = 1.0
_DEFAULT_TTL: Final = 30.0
_LIMIT: Final = 1000


@attrs.frozen
class _Scene:
    """Two nodes: one whose registry is asked to do things, one whose registry must know of it at once."""

    cluster: Cluster
    registry: Registry
    other: Registry

    async def register(self, *instance_ids: str) -> None:
        """Register instances of the service ``rooms``, as clients do that no node serves."""
        for instance_id in instance_ids:
            await self.registry.register("rooms", instance_id)


@asynccontextmanager
async def _open_scene(harness: Harness) -> AsyncIterator[_Scene]:
    async with open_cluster(harness) as cluster:
        yield _Scene(cluster, (await cluster.node("a")).registry, (await cluster.node("b")).registry)


class RegistryConformance(Suite):
    """What the operations answer and refuse, on nodes over the harness's backend. Subclass it as `StoreConformance` is subclassed.

    What one node has acknowledged, the other knows when it is asked next: mutations and reads are linearizable.
    """

    # --- Registration ---

    async def test_registration_has_defaults(self, harness: Harness, clock: object) -> None:
        """A STANDBY with a TTL of 30 s, who renews every 10 s, and is shown so to everybody."""
        async with _open_scene(harness) as scene:
            reply = await scene.registry.register("rooms", "room-1", {"floor": 2})
            assert (reply.service_name, reply.instance_id, reply.role) == ("rooms", "room-1", Role.STANDBY)
            assert (reply.ttl, reply.heartbeat_interval) == (_DEFAULT_TTL, _DEFAULT_TTL / 3)
            assert reply.lease_id
            assert reply.lease_id not in repr(reply)
            view = await scene.other.get_service("rooms")
            (instance,) = view.instances
            assert (instance.instance_id, instance.role, instance.health) == ("room-1", Role.STANDBY, Health.ONLINE)
            assert (instance.version, instance.metadata["floor"]) == ("0.0.0", 2)

    async def test_live_instance_is_not_registered_twice(self, harness: Harness, clock: object) -> None:
        """On no node; the same id of another service is another instance."""
        async with _open_scene(harness) as scene:
            await scene.register("room-1")
            for registry in (scene.registry, scene.other):
                with pytest.raises(InstanceConflict):
                    await registry.register("rooms", "room-1")
            await scene.other.register("halls", "room-1")
            assert [view.service_name for view in await scene.registry.list_services()] == ["halls", "rooms"]

    async def test_invalid_registration_names_every_bad_field(self, harness: Harness, clock: object) -> None:
        """With its path, and nothing is registered."""
        async with _open_scene(harness) as scene:
            with pytest.raises(InvalidRequest) as caught:
                await scene.registry.register("No Service", "no instance", ttl=-1.0)
            paths = {problem.path for problem in caught.value.problems}
            assert {"$.service_name", "$.instance_id", "$.ttl"} <= paths
            assert await scene.other.list_services() == ()

    async def test_heartbeat_renews(self, harness: Harness, clock: object) -> None:
        """And without it the registration ends, and everything that it held is free."""
        ttl = max(_SHORTEST, harness.ttl)
        async with _open_scene(harness) as scene:
            await scene.register("room-2")
            reply = await scene.registry.register("rooms", "room-1", ttl=ttl)
            await scene.registry.claim("rooms", "room-1", "lobby")
            for _ in range(3):
                await harness.advance(ttl / 2)
                beat = await scene.other.heartbeat("rooms", "room-1", lease_id=reply.lease_id)
                assert beat.instance_id == "room-1"
            assert (await scene.other.get_owner("lobby")).owner_instance_id == "room-1"
            await harness.advance(ttl + harness.expiry_lateness + _NOTICE)
            with pytest.raises(InstanceNotFound):
                await scene.registry.heartbeat("rooms", "room-1")
            with pytest.raises(ResourceNotFound):
                await scene.other.get_owner("lobby")
            assert (await scene.other.claim("rooms", "room-2", "lobby")).registered == ("lobby",)

    async def test_heartbeat_needs_the_right_lease_and_a_known_instance(self, harness: Harness, clock: object) -> None:
        """Who shows another's lease is refused, and who is not there is told so."""
        async with _open_scene(harness) as scene:
            await scene.register("room-1")
            with pytest.raises(NotOwner):
                await scene.other.heartbeat("rooms", "room-1", lease_id="another")
            with pytest.raises(NotOwner):
                await scene.other.deregister("rooms", "room-1", lease_id="another")
            with pytest.raises(InstanceNotFound):
                await scene.other.heartbeat("rooms", "room-2")

    async def test_deregistration_frees_everything_at_once(self, harness: Harness, clock: object) -> None:
        """It answers what that was."""
        async with _open_scene(harness) as scene:
            reply = await scene.registry.register("rooms", "room-1")
            await scene.registry.claim("rooms", "room-1", "lobby", "hall")
            held = await scene.registry.deregister("rooms", "room-1", lease_id=reply.lease_id)
            assert sorted(held) == ["hall", "lobby"]
            with pytest.raises(ResourceNotFound):
                await scene.other.get_owner("lobby")
            with pytest.raises(ServiceNotFound):
                await scene.other.get_service("rooms")
            with pytest.raises(InstanceNotFound):
                await scene.other.deregister("rooms", "room-1")

    # --- Health and roles ---

    async def test_unhealthy_instance_is_shown_and_claims_nothing(self, harness: Harness, clock: object) -> None:
        """By its own heartbeat, or by somebody's word; what it owns it keeps."""
        async with _open_scene(harness) as scene:
            await scene.register("room-1")
            await scene.registry.claim("rooms", "room-1", "lobby")
            await scene.registry.heartbeat("rooms", "room-1", status="degraded")
            (instance,) = (await scene.other.get_service("rooms")).instances
            assert instance.health is Health.UNHEALTHY
            with pytest.raises(Forbidden):
                await scene.other.claim("rooms", "room-1", "hall")
            assert (await scene.other.get_owner("lobby")).is_healthy is False
            await scene.other.set_health("rooms", "room-1", Health.ONLINE)
            assert (await scene.registry.claim("rooms", "room-1", "hall")).success
            with pytest.raises(InvalidRequest):
                await scene.registry.set_health("rooms", "room-1", Health.OFFLINE)

    async def test_role_of_a_resource_has_one_active(self, harness: Harness, clock: object) -> None:
        """A registration that asks for a role that is taken is refused as a whole; standbys are listed in order."""
        async with _open_scene(harness) as scene:
            lobby = {"resource_id": "lobby"}
            active = await scene.registry.register("rooms", "room-1", lobby, role=Role.ACTIVE)
            assert active.role is Role.ACTIVE
            assert active.epoch > 0
            with pytest.raises(RoleConflict) as caught:
                await scene.other.register("rooms", "room-2", lobby, role=Role.ACTIVE)
            assert caught.value.owner == "room-1"
            await scene.other.register("rooms", "room-2", lobby, role=Role.STANDBY)
            await scene.other.register("rooms", "room-3", lobby, role=Role.STANDBY, priority=1)
            table = await scene.registry.list_roles("rooms")
            assert table.resources["lobby"].active == "room-1"
            assert table.resources["lobby"].standbys == ("room-3", "room-2")

    async def test_role_of_a_group_can_be_set(self, harness: Harness, clock: object) -> None:
        """Who steps down waits in line, who steps up is active, and everybody sees it."""
        service = Service("rooms")
        async with _open_scene(harness) as scene:
            one = await scene.cluster.serve("a", service, role=Role.ACTIVE)
            other = await scene.cluster.serve("b", service, role=Role.STANDBY)
            assert await scene.registry.set_role("rooms", Role.STANDBY, one.instance_id) == (one.instance_id,)
            with trio.fail_after(harness.patience):
                await other.wait_role(Role.ACTIVE)
            table = await scene.registry.list_roles("rooms")
            assert table.groups["default"].active == other.instance_id
            assert one.instance_id in table.groups["default"].standbys

    # --- Claiming and releasing ---

    async def test_claim_takes_what_is_free(self, harness: Harness, clock: object) -> None:
        """And names the owners of the rest; claimed again, it is still one's own under the same epoch."""
        async with _open_scene(harness) as scene:
            await scene.register("room-1", "room-2")
            first = await scene.registry.claim("rooms", "room-1", "lobby")
            assert (first.registered, first.success) == (("lobby",), True)
            second = await scene.other.claim("rooms", "room-2", "hall", "lobby")
            assert second.registered == ("hall",)
            assert second.conflicts == {"lobby": "room-1"}
            assert not second.success
            assert second.epochs["hall"] > first.epochs["lobby"] > 0
            again = await scene.other.claim("rooms", "room-1", "lobby")
            assert again.epochs == first.epochs

    async def test_claim_of_nobody_is_refused(self, harness: Harness, clock: object) -> None:
        """Nor are bad ids claimed, nor is force used without permission."""
        async with _open_scene(harness) as scene:
            await scene.register("room-1", "room-2")
            with pytest.raises(InstanceNotFound):
                await scene.registry.claim("rooms", "room-3", "lobby")
            with pytest.raises(InvalidRequest):
                await scene.registry.claim("rooms", "room-1", "no room")
            await scene.registry.claim("rooms", "room-1", "lobby")
            with pytest.raises(Forbidden):
                await scene.other.claim("rooms", "room-2", "lobby", force=True)
            assert (await scene.other.get_owner("lobby")).owner_instance_id == "room-1"

    async def test_limit_is_judged_up_front(self, harness: Harness, clock: object) -> None:
        """More than an instance may hold is refused as a whole, and says how much there would be."""
        async with _open_scene(harness) as scene:
            await scene.register("room-1")
            await scene.registry.claim("rooms", "room-1", "lobby")
            ids = [f"desk-{n}" for n in range(_LIMIT)]
            with pytest.raises(ResourceLimitExceeded) as caught:
                await scene.registry.claim("rooms", "room-1", *ids)
            assert (caught.value.limit, caught.value.held, caught.value.asked) == (_LIMIT, 1, _LIMIT)
            assert (await scene.other.query_resources(service_name="rooms")).total_count == 1

    async def test_metadata_is_changed_from_its_current_version(self, harness: Harness, clock: object) -> None:
        """A change that was made from an older version is refused, and names both."""
        async with _open_scene(harness) as scene:
            await scene.register("room-1")
            metadata = ResourceMetadata(resource_type="desk", tags=("window",), attributes={"floor": 2})
            await scene.registry.claim("rooms", "room-1", "lobby", metadata=metadata)
            known = (await scene.other.get_owner("lobby")).metadata
            assert (known.version, known.tags, known.attributes) == (1, ("window",), {"floor": 2})
            await scene.other.claim("rooms", "room-1", "lobby", metadata=attrs.evolve(known, tags=("door",)))
            assert (await scene.registry.get_owner("lobby")).metadata.version == 2
            with pytest.raises(VersionConflict) as caught:
                await scene.registry.claim("rooms", "room-1", "lobby", metadata=attrs.evolve(known, tags=("stairs",)))
            assert (caught.value.expected, caught.value.actual) == (1, 2)

    async def test_release_is_the_owners(self, harness: Harness, clock: object) -> None:
        """All of what is named, or nothing."""
        async with _open_scene(harness) as scene:
            await scene.register("room-1", "room-2")
            await scene.registry.claim("rooms", "room-1", "lobby", "hall")
            with pytest.raises(NotOwner) as caught:
                await scene.other.release("rooms", "room-2", "lobby")
            assert caught.value.owner == "room-1"
            with pytest.raises(ResourceNotFound):
                await scene.other.release("rooms", "room-1", "lobby", "nowhere")
            assert (await scene.other.get_owner("lobby")).owner_instance_id == "room-1"
            assert (await scene.other.release("rooms", "room-1", "lobby", "hall")).released == ("lobby", "hall")
            with pytest.raises(ResourceNotFound):
                await scene.registry.get_owner("hall")

    # --- In bulk ---

    async def test_bulk_is_all_or_nothing_unless_told(self, harness: Harness, clock: object) -> None:
        """One id that is taken spoils it all; with ``continue_on_error`` it is listed, with its owner."""
        async with _open_scene(harness) as scene:
            await scene.register("room-1", "room-2")
            await scene.registry.claim("rooms", "room-2", "desk-7")
            ids = [f"desk-{n}" for n in range(250)]
            spoilt = await scene.registry.bulk_register("rooms", "room-1", ids)
            assert spoilt.done == ()
            assert not spoilt.success
            assert (await scene.other.query_resources(instance_id="room-1")).total_count == 0
            reply = await scene.registry.bulk_register("rooms", "room-1", ids, continue_on_error=True)
            assert len(reply.done) == 249
            (failure,) = reply.failed
            assert (failure.resource_id, failure.current_owner) == ("desk-7", "room-2")
            assert failure.error_code == ResourceConflict.code
            assert [batch.batch_number for batch in reply.batch_results] == [1, 2, 3]
            released = await scene.other.bulk_release("rooms", "room-1", reply.done)
            assert set(released.done) == set(reply.done)
            assert (await scene.registry.query_resources(instance_id="room-1")).total_count == 0

    # --- Asking ---

    async def test_query_matches_everything_that_is_given(self, harness: Harness, clock: object) -> None:
        """Owner, ids, type, all tags; in pages that together are the whole."""
        async with _open_scene(harness) as scene:
            await scene.register("room-1", "room-2")
            for n in range(6):
                metadata = ResourceMetadata(
                    resource_type="desk" if n % 2 else "chair", tags=("all", f"third-{n % 3}"), priority=n
                )
                owner = "room-1" if n < 4 else "room-2"
                await scene.registry.claim("rooms", owner, f"thing-{n}", metadata=metadata)
            ask = scene.other.query_resources

            async def found(**given: object) -> list[str]:
                reply = await ask(**given)  # type: ignore[arg-type]  # as given below
                assert reply.total_count == len(reply.resources)
                return sorted(resource.resource_id for resource in reply.resources)

            assert await found(instance_id="room-2") == ["thing-4", "thing-5"]
            assert await found(resource_type="desk") == ["thing-1", "thing-3", "thing-5"]
            assert await found(tags=["all", "third-0"]) == ["thing-0", "thing-3"]
            assert await found(resource_ids=["thing-1", "nothing"]) == ["thing-1"]
            assert await found(service_name="halls") == []
            pages = [await ask(limit=4, offset=offset) for offset in (0, 4)]
            assert [page.has_more for page in pages] == [True, False]
            assert {page.total_count for page in pages} == {6}
            everything = [resource.resource_id for page in pages for resource in page.resources]
            assert sorted(everything) == [f"thing-{n}" for n in range(6)]
            assert [r.metadata.tags for r in (await ask(include_metadata=False, limit=1)).resources] == [()]
            with pytest.raises(InvalidRequest):
                await ask(limit=1001)

    async def test_owner_is_explained(self, harness: Harness, clock: object) -> None:
        """Who has it and since which epoch; or that nobody has."""
        async with _open_scene(harness) as scene:
            await scene.register("room-1")
            reply = await scene.registry.claim("rooms", "room-1", "lobby")
            explained = await scene.other.explain("lobby")
            assert explained.owner is not None
            assert (explained.owner.instance_id, explained.epoch) == ("room-1", reply.epochs["lobby"])
            assert explained.lease_left is not None
            assert explained.summary
            assert (await scene.other.explain("nowhere")).owner is None

    # --- Moving ---

    async def test_transfer_moves_and_is_fenced(self, harness: Harness, clock: object) -> None:
        """To a live instance, in the owner's name, with a higher epoch; anything else moves nothing."""
        async with _open_scene(harness) as scene:
            await scene.register("room-1", "room-2", "room-3")
            before = await scene.registry.claim("rooms", "room-1", "lobby")
            with pytest.raises(InstanceNotFound):
                await scene.other.transfer("rooms", ["lobby"], "room-1", "nobody")
            with pytest.raises(NotOwner):
                await scene.other.transfer("rooms", ["lobby"], "room-2", "room-3")
            with pytest.raises(ResourceNotFound):
                await scene.other.transfer("rooms", ["lobby", "nowhere"], "room-1", "room-3")
            with pytest.raises(Forbidden):
                await scene.other.transfer("rooms", ["lobby"], "room-2", "room-2", verify_ownership=False)
            assert (await scene.other.get_owner("lobby")).owner_instance_id == "room-1"
            reply = await scene.other.transfer("rooms", ["lobby"], "room-1", "room-2", reason="moving")
            assert (reply.transferred, reply.failed) == (("lobby",), ())
            assert reply.transfer_id.startswith("transfer_")
            owner = await scene.registry.get_owner("lobby")
            assert owner.owner_instance_id == "room-2"
            assert owner.epoch > before.epochs["lobby"]

    async def test_rebalancing_evens_out(self, harness: Harness, clock: object) -> None:
        """By transfers, which the owners carry out; as many as allowed."""
        service = Service("rooms")

        @service.on_acquire
        async def take_over(claim: Claim) -> None:
            claim.check()

        async with _open_scene(harness) as scene:
            one = await scene.cluster.serve("a", service)
            other = await scene.cluster.serve("b", service)
            await one.claim(*(f"desk-{n}" for n in range(10)))
            replies = await scene.other.rebalance("rooms", 3)
            assert sum(len(reply.transferred) for reply in replies) == 3
            await scene.other.rebalance("rooms")
            moved = (await scene.registry.query_resources(instance_id=other.instance_id)).resources
            assert len(moved) == len(one.claims) == 5
            for resource in moved:
                await scene.cluster.wait_owner(resource.resource_id, "b", within=harness.patience)

    async def test_instance_of_another_node_drains_when_asked(self, harness: Harness, clock: object) -> None:
        """It hands over what it holds, and claims nothing more."""
        async with _open_scene(harness) as scene:
            instance = await scene.cluster.serve("a", Service("rooms"))
            await instance.claim("lobby")
            await scene.other.drain("rooms", instance.instance_id)
            with pytest.raises(ResourceNotFound):
                await scene.other.get_owner("lobby")
            with pytest.raises(Forbidden):
                await instance.claim("hall")

"""Instances that no node serves: routers promote them, and end what has its own time to live."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from aegis_core.errors import StoreUnavailable
from aegis_core.models import Role
from aegis_core.node.service import Service
from aegis_core.router.router import open_router
from aegis_core.router.wards import Wards
from aegis_pytest.cluster import Cluster
from tests.router.test_operations import do
from tests.router.wired import Wire, open_wire


async def register(wire: Wire, *names: str, **fields: object) -> None:
    """Register instances of the service ``rooms`` for a long time."""
    for name in names:
        done = await wire.client.ask("service.register", service_name="rooms", instance_id=name, ttl=10_000, **fields)
        assert done["success"], done


async def claim(wire: Wire, name: str, *ids: str, **fields: object) -> dict[str, object]:
    """Claim resources for an instance."""
    answer: dict[str, object] = await wire.client.ask(
        "resource.register", service_name="rooms", instance_id=name, resource_ids=list(ids), **fields
    )
    return answer


def owner(wire: Wire, resource_id: str) -> str:
    """Who owns it."""
    found = wire.node.owner_of(resource_id)
    return "" if found is None else found.owner_instance_id


async def test_standbys_are_promoted_in_their_order(autojump_clock: MockClock) -> None:
    """One after the other, a moment after the one before has gone."""
    async with open_wire() as wire:
        await register(wire, "a", "b", "c")
        await claim(wire, "a", "hall")
        await claim(wire, "b", "hall", role="standby")
        await claim(wire, "c", "hall", role="standby", priority=5)
        for gone, follows in (("a", "c"), ("c", "b")):
            await wire.client.ask("service.unregister", service_name="rooms", instance_id=gone)
            await trio.sleep(0.1)
            assert owner(wire, "hall") == follows
        assert wire.node.runtime.directory.snapshot.place("hall", "b") is None
        await wire.client.ask("resource.release", service_name="rooms", instance_id="b", resource_ids=["hall"])
        await trio.sleep(5)
        assert owner(wire, "hall") == ""


async def test_a_registered_standby_is_promoted(autojump_clock: MockClock) -> None:
    """At once where nobody is active, and calls by the service's name go to it."""
    async with open_wire() as wire:
        await register(wire, "a", "b", role="standby", metadata={"resource_id": "hall"})
        await trio.sleep(0.2)
        assert owner(wire, "hall") == "a"
        await wire.client.ask("service.unregister", service_name="rooms", instance_id="a")
        await trio.sleep(0.2)
        assert owner(wire, "hall") == "b"
        instance = wire.node.runtime.directory.snapshot.instance("rooms", "b")
        assert instance is not None
        assert wire.node.runtime.directory.snapshot.role(instance) is Role.ACTIVE


async def test_lines_of_before_are_known_to_a_new_router(autojump_clock: MockClock) -> None:
    """All that they need stands in the store."""
    async with open_wire("wards") as keeper:
        await register(keeper, "a", "b")
        await claim(keeper, "a", "hall", "attic", metadata={"attic": {"ttl_seconds": 50}})
        await claim(keeper, "b", "hall", role="standby")
        async with open_wire("wards") as late:
            assert repr(Wards(late.node, "x")) == "<Wards: 0 lines, 0 limits>"
            await late.client.ask("service.unregister", service_name="rooms", instance_id="a")
            await trio.sleep(0.2)
            assert owner(late, "hall") == "b"


async def test_one_that_is_unhealthy_is_promoted_when_it_is_well(autojump_clock: MockClock) -> None:
    """There is nobody else."""
    async with open_wire() as wire:
        await register(wire, "a", "b")
        await claim(wire, "a", "hall")
        await claim(wire, "b", "hall", role="standby")
        beat = {"service_name": "rooms", "instance_id": "b"}
        await wire.client.ask("service.heartbeat", **beat, status="unhealthy")
        await wire.client.ask("service.unregister", service_name="rooms", instance_id="a")
        await trio.sleep(5)
        assert owner(wire, "hall") == ""
        await wire.client.ask("service.heartbeat", **beat)
        await trio.sleep(2)
        assert owner(wire, "hall") == "b"


async def test_an_instance_of_a_node_promotes_itself(autojump_clock: MockClock) -> None:
    """Routers leave it alone: it has work to begin."""
    async with open_wire() as wire, wire.node.serve(Service("rooms", version="1"), instance_id="own") as instance:
        await register(wire, "a")
        await claim(wire, "a", "hall")
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def wait() -> None:
                async with instance.own("hall", role=Role.STANDBY) as claim_of_own:
                    assert claim_of_own.held
                    nursery.cancel_scope.cancel()

            await trio.sleep(1)
            await wire.client.ask("service.unregister", service_name="rooms", instance_id="a")


async def test_a_resource_with_a_time_to_live_is_released(autojump_clock: MockClock) -> None:
    """With an audit record; one that was claimed anew, or for longer, lasts."""
    async with open_wire() as wire:
        await register(wire, "a")
        for_ten = {"ttl_seconds": 10}
        await claim(
            wire, "a", "short", "again", "longer", metadata=dict.fromkeys(("short", "again", "longer"), for_ten)
        )
        await wire.client.ask("resource.release", service_name="rooms", instance_id="a", resource_ids=["again"])
        await trio.sleep(5)
        await claim(wire, "a", "again", metadata={"again": for_ten})
        await claim(wire, "a", "longer", metadata={"longer": {"ttl_seconds": 100}})
        await trio.sleep(6)
        owners = {name: owner(wire, name) for name in ("short", "again", "longer")}
        assert owners == {"short": "", "again": "a", "longer": "a"}
        kinds = [record.kind for record in wire.node.runtime.directory.snapshot.transfers()]
        assert kinds == ["expired"]
        await trio.sleep(6)
        assert owner(wire, "again") == ""


async def test_times_to_live_of_what_was_released_are_forgotten(autojump_clock: MockClock) -> None:
    """However far away their ends are, a router keeps about as many as there are resources that have one."""
    async with open_wire() as wire, trio.open_nursery() as nursery:
        await register(wire, "a")
        wards = Wards(wire.node, "x")
        nursery.start_soon(wards.run)
        a_year = {"ttl_seconds": 31_536_000}
        await claim(wire, "a", "kept", metadata={"kept": a_year})
        for number in range(300):
            name = f"r-{number % 3}"
            await claim(wire, "a", name, metadata={name: a_year})
            await wire.client.ask("resource.release", service_name="rooms", instance_id="a", resource_ids=[name])
            assert int(repr(wards).split()[3]) < 70
        await claim(wire, "a", "short", metadata={"short": {"ttl_seconds": 10}})
        await trio.sleep(11)
        assert (owner(wire, "kept"), owner(wire, "short")) == ("a", "")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("seconds", [0.0, 3.0], ids=["at once", "a moment later"])
async def test_when_a_router_dies_another_one_does_its_chores(seconds: float, aegis_cluster: Cluster) -> None:
    """Nothing of them is known to it alone."""

    async def be_router() -> None:
        async with open_router(await aegis_cluster.node("doomed")):
            await trio.sleep_forever()

    async with open_router(await aegis_cluster.node("other")) as other:
        await aegis_cluster.run("doomed", be_router)
        await trio.sleep(1)
        for name in ("a", "b"):
            await do(other, "service.register", service_name="rooms", instance_id=name, ttl=1000)
        a, b = ({"service_name": "rooms", "instance_id": name} for name in ("a", "b"))
        await do(
            other, "resource.register", **a, resource_ids=["hall", "short"], metadata={"short": {"ttl_seconds": 9}}
        )
        await do(other, "resource.register", **b, resource_ids=["hall"], role="standby")
        await aegis_cluster.kill("doomed")
        await trio.sleep(seconds)
        await do(other, "resource.release", **a, resource_ids=["hall"])
        await trio.sleep(0.2)
        found = other.node.owner_of("hall")
        assert found is not None
        assert found.owner_instance_id == "b"
        await trio.sleep(12)
        assert other.node.owner_of("short") is None


async def test_what_a_store_does_not_take_is_done_later(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promotions, and ends of times to live."""
    async with open_wire() as wire:
        await register(wire, "a", "b")
        await claim(wire, "a", "hall", "short", metadata={"short": {"ttl_seconds": 5}})
        await claim(wire, "b", "hall", role="standby")
        decide, failures = wire.node.committer.decide, [2, 2]

        async def fail(*args: object, what: str, **options: object) -> object:
            kind = 0 if "promotion" in what else 1 if "the end of" in what else None
            if kind is not None and failures[kind]:
                failures[kind] -= 1
                raise StoreUnavailable(reason="by the test")
            return await decide(*args, what=what, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(wire.node.committer, "decide", fail)
        await wire.client.ask("resource.release", service_name="rooms", instance_id="a", resource_ids=["hall"])
        await trio.sleep(10)
        assert (failures, owner(wire, "hall"), owner(wire, "short")) == ([0, 0], "b", "")

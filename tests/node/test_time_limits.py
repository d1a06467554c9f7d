"""Every operation answers or raises within its time, also when nobody answers it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from trio.testing import MockClock

from aegis_core.errors import CallTimeout, ResourceConflict, StoreUnavailable
from aegis_core.models import Health, Role
from aegis_core.node.instance import Instance
from aegis_core.node.node import Node, open_node
from aegis_core.node.service import Service
from tests.node.faulty import Faults

TIMEOUT = 5.0
DRAIN = 2.0
SLACK = 0.01
LEAVING = 1.0
"""Seconds in which a place in a line, or a registration, is withdrawn that nobody knows to stand."""


@attrs.frozen(eq=False)
class World:
    """A node whose way to the store is about to be cut, and an instance on it; two more instances on another node."""

    node: Node
    one: Instance
    two: Instance


@asynccontextmanager
async def cut_off() -> AsyncIterator[World]:
    """Nothing that the node asks the store is answered; it has 30 s of its lease left."""
    faults = Faults()
    service = Service("svc", version="1.0.0")

    @service.on_acquire
    async def load(claim: object) -> None: ...

    async with faults.node(drain=DRAIN, request_timeout=TIMEOUT) as node, open_node("memory://test") as other:
        async with node.serve(service, instance_id="one") as one, other.serve(service, instance_id="two") as two:
            await one.claim("mine", "also")
            await two.claim("theirs")
            await node.registry.get_owner("theirs")
            faults.cut()
            yield World(node, one, two)
            faults.heal()
            await trio.sleep(40)


Operation = Callable[[World], Awaitable[object]]


async def own(world: World, **options: object) -> None:
    """A block that does not begin."""
    async with world.one.own("a", **options):  # type: ignore[arg-type]
        raise AssertionError("nobody owns it")


async def serve(world: World) -> None:
    """Another block that does not begin."""
    async with world.node.serve(Service("other"), instance_id="three"):
        raise AssertionError("it is not registered")


UNANSWERED: dict[str, tuple[Operation, float]] = {
    "registry.register": (lambda w: w.node.registry.register("svc", "x"), TIMEOUT),
    "registry.heartbeat": (lambda w: w.node.registry.heartbeat("svc", "two"), TIMEOUT),
    "registry.deregister": (lambda w: w.node.registry.deregister("svc", "two"), TIMEOUT),
    "registry.disconnect": (lambda w: w.node.registry.disconnect("svc", "two"), TIMEOUT),
    "registry.list_services": (lambda w: w.node.registry.list_services(), TIMEOUT),
    "registry.get_service": (lambda w: w.node.registry.get_service("svc"), TIMEOUT),
    "registry.list_roles": (lambda w: w.node.registry.list_roles("svc"), TIMEOUT),
    "registry.query_resources": (lambda w: w.node.registry.query_resources(), TIMEOUT),
    "registry.get_owner": (lambda w: w.node.registry.get_owner("mine"), TIMEOUT),
    "registry.explain": (lambda w: w.node.registry.explain("mine"), TIMEOUT),
    "registry.claim, of its own": (lambda w: w.node.registry.claim("svc", "one", "a"), TIMEOUT),
    "registry.claim, of another": (lambda w: w.node.registry.claim("svc", "two", "a"), TIMEOUT),
    "registry.release, of another": (lambda w: w.node.registry.release("svc", "two", "theirs"), TIMEOUT),
    "registry.transfer, of another": (lambda w: w.node.registry.transfer("svc", ["theirs"], "two", "one"), TIMEOUT),
    "registry.transfer": (lambda w: w.node.registry.transfer("svc", ["mine"], "one", "two"), TIMEOUT),
    "registry.rebalance": (lambda w: w.node.registry.rebalance("svc"), TIMEOUT),
    "registry.drain, of another": (lambda w: w.node.registry.drain("svc", "two"), TIMEOUT),
    "registry.set_health": (lambda w: w.node.registry.set_health("svc", "one", Health.UNHEALTHY), TIMEOUT),
    "registry.set_health, of another": (lambda w: w.node.registry.set_health("svc", "two", Health.UNHEALTHY), TIMEOUT),
    "registry.set_role": (lambda w: w.node.registry.set_role("svc", Role.ACTIVE, "one", group="g"), TIMEOUT),
    "node.explain": (lambda w: w.node.explain("mine"), TIMEOUT),
    "instance.claim": (lambda w: w.one.claim("a", "b"), TIMEOUT),
    "instance.release": (lambda w: w.one.release("mine"), TIMEOUT),
    "instance.release, of several": (lambda w: w.one.release("mine", "also"), TIMEOUT + DRAIN),
    "instance.transfer": (lambda w: w.one.transfer("mine", to="two"), TIMEOUT),
    "instance.set_health": (lambda w: w.one.set_health(Health.UNHEALTHY), TIMEOUT),
    "instance.own": (own, TIMEOUT),
    "node.serve": (serve, TIMEOUT + LEAVING),
    "node.call of nobody": (lambda w: w.node.call("nobody", "ping"), TIMEOUT),
    "node.call of what nobody owns": (lambda w: w.node.call("svc", "ping", resource_id="nobody's", timeout=2), 2.0),
}


@pytest.mark.parametrize("name", UNANSWERED)
async def test_what_the_store_does_not_answer_says_so_in_time(autojump_clock: MockClock, name: str) -> None:
    """No operation waits for ever, and none says that something is not there."""
    operation, limit = UNANSWERED[name]
    async with cut_off() as world:
        began = trio.current_time()
        with pytest.raises((StoreUnavailable, CallTimeout)):
            await operation(world)
        assert trio.current_time() - began <= limit + SLACK


ANSWERED: dict[str, tuple[Operation, float]] = {
    "claim.release": (lambda w: w.one.claims["mine"].release(), TIMEOUT + DRAIN),
    "instance.drain": (lambda w: w.one.drain(), TIMEOUT + DRAIN),
    "instance.bulk_claim": (lambda w: w.one.bulk_claim(["a"], continue_on_error=True, retries=1), 2 * TIMEOUT + 1),
    "instance.bulk_release": (
        lambda w: w.one.bulk_release(["mine"], continue_on_error=True, retries=1),
        2 * (TIMEOUT + DRAIN) + 1,
    ),
}


@pytest.mark.parametrize("name", ANSWERED)
async def test_what_ends_work_or_reports_does_not_wait_for_the_store(autojump_clock: MockClock, name: str) -> None:
    """It returns in its time; what the store does not know yet is in the report, or told to it later."""
    operation, limit = ANSWERED[name]
    async with cut_off() as world:
        began = trio.current_time()
        try:
            await operation(world)
        except StoreUnavailable:
            assert name.startswith("instance.bulk")
        assert trio.current_time() - began <= limit + SLACK


async def test_waiting_in_line_ends_in_its_time(autojump_clock: MockClock) -> None:
    """Also when the store knows nothing of it."""
    async with cut_off() as world:
        began = trio.current_time()
        with pytest.raises(ResourceConflict):
            await own(world, role=Role.STANDBY, wait=3)
        assert trio.current_time() - began <= 3 + LEAVING + SLACK

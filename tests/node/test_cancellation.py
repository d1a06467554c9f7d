"""Cancelling any public coroutine at any of its steps leaves nothing dirty.

Each operation is run again and again in a fresh world, and cancelled at its first, second, third ... step, until it
completes. After each time, once everything has settled: what an instance has in its claim table is exactly what the store
says it owns, nobody stands in a line without waiting, no call is pending, other claims are untouched, and the same
operation can be done again. Once with a store that answers at once, once with one that takes its time, so that a
cancellation falls between a commit and its acknowledgement.

It is one long file because it is a list: every public coroutine has an entry of a few lines.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress

import attrs
import pytest
import trio
from trio.testing import MockClock

from aegis_core.errors import AegisError, Held, NotFound, NotOwner
from aegis_core.hookspecs import Principal, hookimpl
from aegis_core.models import Health, Role
from aegis_core.node.call import Call
from aegis_core.node.claims import Claim
from aegis_core.node.instance import Instance
from aegis_core.node.node import Node, open_node
from aegis_core.node.service import Service
from tests.house.source import CHECKOUT
from tests.node.faulty import Faults

MOST_STEPS = 400


class CancelAtStep(trio.abc.Instrument):
    """Cancels *scope* right before the current task's step number *step* from now."""

    def __init__(self, scope: trio.CancelScope, step: int) -> None:
        self._task = trio.lowlevel.current_task()
        self._scope = scope
        self._left = step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count, and cancel."""
        if task is self._task:
            self._left -= 1
            if self._left == 0:
                self._scope.cancel()

    @property
    def is_over(self) -> bool:
        """Whether it came to that step."""
        return self._left <= 0


async def cancel_at(step: int, operation: Callable[[], Awaitable[object]]) -> bool:
    """Run *operation*, cancelled at its step number *step*; whether it had as many."""
    with trio.CancelScope() as scope:
        instrument = CancelAtStep(scope, step)
        trio.lowlevel.add_instrument(instrument)
        try:
            with suppress(AegisError):
                await operation()
        finally:
            trio.lowlevel.remove_instrument(instrument)
    return instrument.is_over


class ForceAllowed:
    """A plug-in that lets everybody do everything."""

    @hookimpl
    def aegis_authorize(self, principal: Principal, operation: str) -> bool:
        """Allow it."""
        return True


def make_service() -> Service:
    """A service with hooks that take a step or two."""
    service = Service("svc", version="1.0.0", on_demand=("d:",))

    @service.on_acquire
    async def load(claim: Claim) -> str:
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        return "state"

    @service.on_release
    async def unload(claim: Claim) -> None:
        await trio.lowlevel.checkpoint()

    @service.method
    async def work(call: Call) -> str:
        await trio.lowlevel.checkpoint()
        return "done"

    return service


@attrs.frozen(eq=False)
class World:
    """Two nodes, with an instance each that holds something."""

    node: Node
    other: Node
    one: Instance
    two: Instance
    faults: Faults


@asynccontextmanager
async def open_world(latency: float) -> AsyncIterator[World]:
    """A fresh world. "kept" and "mine" are held by one, "theirs" by two; two waits in line for "mine" no more."""
    faults = Faults()
    async with faults.node(drain=1) as node:
        async with open_node("memory://test", plugins=[ForceAllowed()]) as other:
            async with node.serve(make_service(), instance_id="one", role=Role.ACTIVE) as one:
                async with other.serve(make_service(), instance_id="two", role=Role.STANDBY) as two:
                    await one.claim("kept", "mine")
                    await two.claim("theirs")
                    await trio.sleep(0.5)
                    faults.latency = latency
                    yield World(node, other, one, two, faults)
                    faults.latency = 0


def check_tables(world: World) -> None:
    """What an instance has in its table is what the store says that it owns, and the other way round."""
    for instance in (world.one, world.two):
        table = {target: claim.epoch for target, claim in instance.claims_table.items()}
        for node in (world.node, world.other):
            held = node.runtime.directory.snapshot.held_by(instance.lease_tag)
            assert {target: record.epoch for target, record in held.items()} == table
        for claim in instance.claims_table.values():
            assert claim.held
            assert claim.is_ready or claim.body is not None
            assert not claim.moving
            assert not claim.leaving
            assert not claim.running


def check_nodes(world: World) -> None:
    """No node remembers a claim that none of its instances has."""
    for node in (world.node, world.other):
        assert set(node.claimed) == {target for instance in node.hosted.values() for target in instance.claims_table}


def check_lines(world: World) -> None:
    """Nobody waits but the standby of the role group."""
    for node in (world.node, world.other):
        places = [p for i in (world.one, world.two) for p in node.runtime.directory.snapshot.places_of(i.lease_tag)]
        assert {place.target for place in places} <= {"%svc%default"}


def check_calls(world: World) -> None:
    """No call is pending, no handler runs."""
    for node in (world.node, world.other):
        for instance in node.runtime.directory.snapshot.live("svc"):
            assert node.client.pending(instance) == 0
    for instance in (world.one, world.two):
        assert instance.incarnation is not None
        assert instance.incarnation.server.running == 0


Operation = Callable[[World], Awaitable[object]]
OPERATIONS: dict[str, Operation] = {}
CANCELLED: set[str] = set()


def operation(*cancelled: str) -> Callable[[Operation], Operation]:
    """Let the decorated function be tested; *cancelled* are the public coroutines that it awaits."""

    def keep(function: Operation) -> Operation:
        OPERATIONS[function.__name__] = function
        CANCELLED.update(cancelled)
        return function

    return keep


@operation("Instance.claim")
async def claim_one(world: World) -> None:
    """`Instance.claim` of one resource."""
    await world.one.claim("a")


@operation("Instance.claim")
async def claim_several(world: World) -> None:
    """`Instance.claim` of several, one of which is held already."""
    await world.one.claim("a", "b", "mine", "c")


@operation("Instance.own")
async def own_now(world: World) -> None:
    """`Instance.own`, in and out."""
    async with world.one.own("a"):
        await trio.lowlevel.checkpoint()


@operation("Instance.own")
async def own_in_turn(world: World) -> None:
    """`Instance.own` as a standby that has to wait."""

    async def release() -> None:
        with suppress(NotFound, NotOwner):
            await world.two.release("theirs")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(release)
        async with world.one.own("theirs", role=Role.STANDBY, wait=20):
            await trio.lowlevel.checkpoint()
    await world.two.claim("theirs")


@operation("Instance.release")
async def release_one(world: World) -> None:
    """`Instance.release`."""
    await world.one.release("mine")


@operation("Claim.release")
async def release_claim(world: World) -> None:
    """`Claim.release`."""
    for claim in world.one.claims.values():
        if claim.resource_id == "mine":
            await claim.release()


@operation("Instance.transfer")
async def transfer(world: World) -> None:
    """`Instance.transfer`."""
    await world.one.transfer("mine", to="two")


@operation("Instance.drain")
async def drain(world: World) -> None:
    """`Instance.drain`, of the other one."""
    await world.two.drain()


@operation("Instance.set_health")
async def say_unhealthy(world: World) -> None:
    """`Instance.set_health`, there and back."""
    await world.one.set_health(Health.UNHEALTHY)
    await world.one.set_health(Health.ONLINE)


@operation("Instance.bulk_claim")
async def bulk_claim(world: World) -> None:
    """`Instance.bulk_claim` in batches."""
    await world.one.bulk_claim(["a", "b", "c", "d"], batch_size=2, continue_on_error=True)


@operation("Instance.bulk_claim")
async def bulk_claim_all(world: World) -> None:
    """`Instance.bulk_claim` as one transaction."""
    await world.one.bulk_claim(["a", "b", "c", "d"])


@operation("Instance.bulk_release")
async def bulk_release(world: World) -> None:
    """`Instance.bulk_release`."""
    await world.one.bulk_release(["mine", "nobody's"], continue_on_error=True)


@operation("Node.call")
async def call_service(world: World) -> None:
    """`Node.call` of any instance."""
    await world.node.call("svc", "work")


@operation("Node.call")
async def call_resource(world: World) -> None:
    """`Node.call` of the owner of a resource, on another node."""
    await world.node.call("svc", "work", resource_id="theirs", idempotency_key="k")


@operation("Node.call")
async def call_on_demand(world: World) -> None:
    """`Node.call` that makes somebody claim the resource."""
    await world.node.call("svc", "work", resource_id="d:1")


@operation("Node.events", "EventStream.receive")
async def read_events(world: World) -> None:
    """`Node.events`."""
    async with world.node.events() as events:
        await world.one.claim("a")
        with trio.move_on_after(1):
            await events.receive()


@operation("Node.serve")
async def serve(world: World) -> None:
    """`Node.serve`, in and out."""
    async with world.node.serve(make_service(), instance_id="three", group="third") as instance:
        await instance.claim("a")


@operation("open_node")
async def open_and_close(world: World) -> None:
    """`open_node`, in and out."""
    async with open_node("memory://test") as node, node.serve(make_service(), instance_id="three") as instance:
        await instance.claim("a")


@operation("Registry.claim")
async def registry_claim(world: World) -> None:
    """`Registry.claim` for an instance of another node, and of one's own."""
    await world.node.registry.claim("svc", "two", "a")
    await world.node.registry.claim("svc", "one", "b")


@operation("Registry.release")
async def registry_release(world: World) -> None:
    """`Registry.release` for an instance of another node."""
    await world.node.registry.release("svc", "two", "theirs")


@operation("Registry.transfer")
async def registry_transfer(world: World) -> None:
    """`Registry.transfer` from an instance of another node."""
    await world.node.registry.transfer("svc", ["theirs"], "two", "one")


@operation("Registry.transfer")
async def registry_force(world: World) -> None:
    """`Registry.transfer` without consent."""
    await world.other.registry.transfer("svc", ["mine"], "two", "two", verify_ownership=False)


@operation("Registry.set_role")
async def registry_set_role(world: World) -> None:
    """`Registry.set_role`, from one node to the other and back."""
    await world.other.registry.set_role("svc", Role.ACTIVE, "two")
    await world.other.registry.set_role("svc", Role.ACTIVE, "one")


@operation("Registry.drain")
async def registry_drain(world: World) -> None:
    """`Registry.drain` of an instance of another node."""
    await world.node.registry.drain("svc", "two")


@operation("Registry.set_health")
async def registry_health(world: World) -> None:
    """`Registry.set_health` of an instance of another node."""
    await world.node.registry.set_health("svc", "two", Health.UNHEALTHY)


@operation("Registry.rebalance")
async def registry_rebalance(world: World) -> None:
    """`Registry.rebalance`."""
    await world.one.claim("a", "b", "c", "d")
    await world.node.registry.rebalance("svc")


@operation("Registry.register", "Registry.heartbeat", "Registry.deregister")
async def registry_thin(world: World) -> None:
    """Registering, renewing and deregistering an instance that no node serves."""
    thin = await world.node.registry.register("svc", "thin", role=Role.STANDBY, metadata={"resource_id": "mine"})
    await world.node.registry.heartbeat("svc", "thin", lease_id=thin.lease_id)
    await world.node.registry.deregister("svc", "thin", lease_id=thin.lease_id)


@operation(
    "Registry.list_services",
    "Registry.get_service",
    "Registry.list_roles",
    "Registry.query_resources",
    "Registry.get_owner",
    "Registry.explain",
    "Node.explain",
)
async def registry_reads(world: World) -> None:
    """Everything that only reads."""
    registry = world.node.registry
    await registry.list_services()
    await registry.get_service("svc")
    await registry.list_roles("svc")
    await registry.query_resources(service_name="svc")
    await registry.get_owner("mine")
    await registry.explain("theirs")
    await world.node.explain("mine")


@operation("Registry.bulk_register", "Registry.bulk_release")
async def registry_bulk(world: World) -> None:
    """Bulk operations on an instance of another node."""
    await world.node.registry.bulk_register("svc", "two", ["a", "b", "c"], batch_size=2, continue_on_error=True)
    await world.node.registry.bulk_release("svc", "two", ["a", "b", "c"])


@operation("Registry.disconnect")
async def registry_disconnect(world: World) -> None:
    """`Registry.disconnect` of an instance of another node, which registers anew."""
    await world.node.registry.disconnect("svc", "two")


@operation("BoundMethod.__call__")
async def call_bound(world: World) -> None:
    """`Node.bind` of a method, and its call."""
    await world.node.bind(world.two.service.methods["work"].function, resource_id="theirs")()


@operation("Instance.wait_role")
async def wait_role(world: World) -> None:
    """`Instance.wait_role`, while another task sees to it."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.node.registry.set_role, "svc", Role.STANDBY, "one")
        await world.two.wait_role(Role.ACTIVE)


@operation("Claim.wait_ready", "Claim.wait_leaving", "Claim.wait_ended")
async def wait_for_claim(world: World) -> None:
    """What can be waited for on a claim, while another task sees to it."""
    (claim,) = await world.one.claim("a")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.one.release, "a")
        await claim.wait_ready()
        await claim.wait_leaving()
        await claim.wait_ended()


def unheard(_number: int, _frame: object) -> None:
    """A signal that came while nobody listened any more."""


@pytest.fixture
def signals_end_nothing() -> Iterator[None]:
    """SIGUSR1 does not end the process when nobody listens: who is cancelled before it was heard hands it on."""
    before = signal.signal(signal.SIGUSR1, unheard)
    yield
    signal.signal(signal.SIGUSR1, before)


@operation("Instance.run_until_signal")
async def run_until_signal(world: World) -> None:
    """`Instance.run_until_signal`: one signal for it, and one after which nobody listens any more."""
    if signal.getsignal(signal.SIGUSR1) is not unheard:
        return  # cancelled when the signal had come: it stays caught until the second
    returned = trio.Event()

    async def until_caught(*, caught: bool) -> None:
        while True:
            if (signal.getsignal(signal.SIGUSR1) is not unheard) is caught:
                return
            await trio.lowlevel.checkpoint()

    async def send() -> None:
        await until_caught(caught=True)
        signal.raise_signal(signal.SIGUSR1)
        await returned.wait()
        signal.raise_signal(signal.SIGUSR1)
        await until_caught(caught=False)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await world.one.run_until_signal(signal.SIGUSR1)
        returned.set()


@pytest.mark.parametrize("latency", [0.0, 0.01], ids=["at once", "slowly"])
@pytest.mark.parametrize("name", OPERATIONS)
async def test_nothing_is_left_behind(
    autojump_clock: MockClock, signals_end_nothing: None, name: str, latency: float
) -> None:
    """Whatever the step."""
    run = OPERATIONS[name]
    for step in itertools.count(1):
        assert step < MOST_STEPS
        async with open_world(latency) as world:
            had_it = await cancel_at(step, lambda: run(world))
            await trio.sleep(8)
            check_tables(world)
            check_nodes(world)
            check_lines(world)
            check_calls(world)
            assert world.one.claims["kept"].held
            assert {i.instance_id for i in world.other.runtime.directory.snapshot.live("svc")} - {"thin"} == {
                "one",
                "two",
            }
            if not (world.two.draining or world.two.health is not Health.ONLINE):
                with suppress(Held, NotFound, NotOwner):  # what was done already
                    await run(world)
                await trio.sleep(8)
                check_tables(world)
            began = trio.current_time()
        assert trio.current_time() - began < 3
        assert signal.getsignal(signal.SIGUSR1) is unheard
        if not had_it:
            break


def waits(function: object) -> bool:
    """Whether *function* is one to await, or makes something to await or to enter."""
    made = getattr(function, "__annotations__", {}).get("return", "")
    return inspect.iscoroutinefunction(function) or str(made).startswith(("Coroutine[", "Awaitable[", "AsyncIterator["))


def public_coroutines() -> set[str]:
    """What the reference of the program interface offers to await or to enter, by class."""
    page = (CHECKOUT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    found: set[str] = set()
    directives = r"(?m)^\.\. auto(class|function|method):: ([\w.]+).*(?:\n +:members: (.+))?"
    for kind, name, members in re.findall(directives, page):
        if kind == "method":
            name, _, members = name.rpartition(".")  # noqa: PLW2901 - of its class
        module, _, attribute = name.rpartition(".")
        documented = getattr(importlib.import_module(module), attribute)
        if kind == "function":
            found |= {attribute} if waits(documented) else set()
        else:
            asked = members.split(", ") if members else ()
            found |= {f"{attribute}.{m}" for m in asked if waits(inspect.getattr_static(documented, m))}
    return found


def test_every_public_coroutine_is_cancelled_here() -> None:
    """A coroutine or block that comes into the reference comes into this table, and nothing else stands there."""
    documented = public_coroutines()
    assert len(documented) > 30
    assert documented == CANCELLED

"""At no instant do two instances believe that they hold one resource, each by its own clock.

A probe looks at every step of every task. The clocks drift by up to 1 %; ways to the store are cut, slow, lossy and
late; processes are stopped; owners release and transfer.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress

import pytest
import trio
from trio.testing import MockClock

from aegis_core.errors import AegisError, LeaseLost
from aegis_core.models import Role
from aegis_core.node.claims import Claim
from aegis_core.node.instance import Instance
from aegis_core.node.service import Service
from tests.node.faulty import Faults, SlantedClock, names_key

IDS = ("a", "b", "c")
LONG = 100_000


class Believers(trio.abc.Instrument):
    """Looks after each step of each task who believes to hold what."""

    def __init__(self, instances: list[Instance]) -> None:
        self._instances = instances
        self.epochs: dict[str, list[int]] = {}
        self.overlaps: list[tuple[float, str, list[str]]] = []

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Note who holds what, and what two hold."""
        self.look()

    def look(self) -> None:
        """Note who holds what now."""
        for resource_id in IDS:
            holders = []
            for instance in self._instances:
                claim = instance.claims_table.get(resource_id)
                if claim is not None and claim.held:
                    holders.append(instance.instance_id)
                    known = self.epochs.setdefault(resource_id, [])
                    if not known or known[-1] != claim.epoch:
                        known.append(claim.epoch)
            if len(holders) > 1:
                self.overlaps.append((trio.current_time(), resource_id, holders))


@contextmanager
def watched(instances: list[Instance]) -> Iterator[Believers]:
    """Look at *instances* after every step while the block runs."""
    probe = Believers(instances)
    trio.lowlevel.add_instrument(probe)
    try:
        yield probe
    finally:
        trio.lowlevel.remove_instrument(probe)


def make_service() -> Service:
    """A service that adopts what it is given."""
    service = Service("svc", version="1.0.0")

    @service.on_acquire
    async def load(claim: Claim) -> None:
        await trio.sleep(0.01)

    return service


async def own_for_ever(instance: Instance, resource_id: str, chance: random.Random) -> None:
    """Own it, again and again; give it up now and then."""
    while True:
        with suppress(LeaseLost):
            async with instance.own(resource_id, role=Role.STANDBY, grace=chance.choice((0.0, 1.0))):
                await trio.sleep(chance.uniform(1, 60))


async def claim_now_and_then(instance: Instance, resource_id: str, chance: random.Random) -> None:
    """Claim it, or release it."""
    while True:
        await trio.sleep(chance.uniform(0.1, 20))
        with suppress(AegisError):
            if resource_id in instance.claims:
                await instance.release(resource_id)
            else:
                await instance.claim(resource_id)


async def transfer_now_and_then(instances: list[Instance], chance: random.Random) -> None:
    """Give something to another one."""
    while True:
        await trio.sleep(chance.uniform(1, 40))
        source, target = chance.sample(instances, 2)
        ids = [i for i in IDS if i in source.claims]
        with suppress(AegisError):
            if ids:
                await source.transfer(*ids, to=target.instance_id)


async def harm(faults: Faults, chance: random.Random) -> None:
    """Put one fault after the other on a node's way to the store, each for a while."""
    kinds = names_key(chance.choice(("resources", "service-instances", "transfers", "standbys", "")))
    acts: list[Callable[[], object]] = [
        faults.cut,
        faults.stop,
        faults.resync,
        lambda: setattr(faults, "deaf", True),
        lambda: setattr(faults, "refusing", True),
        lambda: setattr(faults, "sync_refused", True),
        lambda: faults.lose(kinds, times=LONG),
        lambda: faults.unanswered(kinds, times=3),
        lambda: faults.slow(chance.uniform(0.1, 20), kinds, times=3),
        lambda: faults.late(chance.uniform(0.1, 20), kinds, times=3),
    ]
    while True:
        await trio.sleep(chance.uniform(0.1, 40))
        chance.choice(acts)()
        await trio.sleep(chance.choice((0.5, 5, 15, 28, 35, 60)))
        faults.deaf = faults.refusing = faults.sync_refused = False
        faults.heal_commits()
        faults.resync()
        faults.go_on()


@pytest.mark.parametrize(
    "seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.thorough) for seed in range(4, 12))]
)
async def test_nobody_overlaps_whatever_happens(autojump_clock: MockClock, seed: int) -> None:
    """Five virtual minutes of faults; epochs only grow, and afterwards everything can be owned again."""
    chance = random.Random(seed)
    ttl = chance.choice((2.0, 10.0, 30.0))
    rates = [chance.uniform(0.99, 1.01) for _ in range(3)]
    all_faults = [
        Faults(clock=SlantedClock(rate, chance.uniform(0, 1e6)), seed=seed * 10 + number)
        for number, rate in enumerate(rates)
    ]
    instances: list[Instance] = []
    async with AsyncExitStack() as stack:
        for number, faults in enumerate(all_faults):
            node = await stack.enter_async_context(faults.node(drain=2, ttl=ttl, request_timeout=2))
            serving = node.serve(make_service(), instance_id=f"i{number}")
            instances.append(await stack.enter_async_context(serving))
        with watched(instances) as probe:
            async with trio.open_nursery() as nursery:
                for instance in instances:
                    nursery.start_soon(own_for_ever, instance, "a", random.Random(chance.random()))
                    nursery.start_soon(claim_now_and_then, instance, "b", random.Random(chance.random()))
                nursery.start_soon(own_for_ever, instances[0], "c", random.Random(chance.random()))
                nursery.start_soon(transfer_now_and_then, instances, random.Random(chance.random()))
                for faults in all_faults:
                    nursery.start_soon(harm, faults, random.Random(chance.random()))
                await trio.sleep(300)
                nursery.cancel_scope.cancel()
            assert not probe.overlaps
            for faults in all_faults:
                faults.deaf = faults.refusing = faults.sync_refused = False
                faults.heal_commits()
                faults.resync()
                faults.go_on()
            await trio.sleep(2 * ttl + 10)
            assert all(instance.ready for instance in instances)
            for resource_id in IDS:
                owners = [i for i in instances if resource_id in i.claims]
                for instance in instances:
                    seen = instance._node.owner_of(resource_id)
                    assert (seen is not None) == bool(owners)
                if not owners:
                    with suppress(AegisError):
                        await instances[0].claim(resource_id)
                    assert resource_id in instances[0].claims
        assert not probe.overlaps
        for epochs in probe.epochs.values():
            assert epochs == sorted(epochs)
        assert len(probe.epochs["a"]) > 1

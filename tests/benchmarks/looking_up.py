"""Who owns a resource, among few and among many; what a resource takes in the view, and how long the view takes to load."""

from __future__ import annotations

import gc
import random
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from time import perf_counter
from typing import Final

import attrs

from aegis_backends.memory import open_memory
from aegis_core import ServiceInstance, open_node
from aegis_core.backend import ABSENT, BackendAddress, Put, Store, Transaction
from aegis_core.codec import encode_record
from aegis_core.models import Ownership
from aegis_core.names import instance_key, target_key
from tests.benchmarks.measuring import Arena, Contestant, Times, Watch, at_most

__all__ = ["MEASURED", "fill", "measure", "resource"]

MEASURED: Final = ("look-up", "owner-of")

_PER_INSTANCE: Final = 1000
_SAMPLE: Final = 20_000
_AT_A_TIME: Final = 100


def resource(number: int) -> str:
    """The id of a resource, as a program would write it."""
    return f"account:{number:07}"


@attrs.frozen
class Owner:
    """What the bare look-up finds; as little as would do."""

    instance_id: str
    lease: str
    epoch: int


class Bare:
    """The floor: a dict of owners, and one of leases that are checked."""

    def __init__(self, many: int) -> None:
        self._leases = {f"lease-{number}": 1e9 for number in range(max(1, many // _PER_INSTANCE))}
        leases = list(self._leases)
        self._owners = {
            resource(number): Owner(f"instance-{number % len(leases)}", leases[number % len(leases)], number)
            for number in range(many)
        }

    def owner(self, resource_id: str) -> Owner | None:
        """The owner of *resource_id* while its lease holds."""
        found = self._owners.get(resource_id)
        if found is None or self._leases[found.lease] < 0.0:
            return None
        return found


async def fill(store: Store, many: int) -> None:
    """Write *many* ownership records, of a thousand resources per instance, as the instances would have."""
    at = datetime.now(UTC)
    leases = [f"{number:016x}" for number in range(max(1, many // _PER_INSTANCE))]
    for number, lease in enumerate(leases):
        instance = ServiceInstance(
            service_name="account-service",
            instance_id=f"account-service-{number:08x}",
            lease=lease,
            registered_at=at,
            last_heartbeat=at,
        )
        key = instance_key(instance.service_name, instance.instance_id)
        await store.commit(Transaction(lease, (Put(key, encode_record(instance), ABSENT, 3600.0),)))
    for first in range(0, many, _PER_INSTANCE):
        puts = []
        for number in range(first, min(many, first + _PER_INSTANCE)):
            owner = number % len(leases)
            record = Ownership(
                target=resource(number),
                service_name="account-service",
                instance_id=f"account-service-{owner:08x}",
                lease=leases[owner],
                registered_at=at,
            )
            puts.append(Put(target_key(record.target), encode_record(record), ABSENT))
        await store.commit(Transaction(f"fill-{first}", puts))


def _time_look_ups(ids: Sequence[str], watch: Watch, *, look_up: Callable[[str], object], name: str, one: str) -> None:
    """A hundred at a time, because a clock takes as long as a look-up; then some one by one, for the tail."""
    for first in range(0, len(ids), _AT_A_TIME):
        some = ids[first : first + _AT_A_TIME]
        watch.start(name)
        for resource_id in some:
            look_up(resource_id)
        watch.stop(_AT_A_TIME)
    for resource_id in ids[: len(ids) // 10]:
        watch.start(one)
        look_up(resource_id)
        watch.stop()


async def _look_up(
    operations: int, watch: Watch, *, ids: Sequence[str], look_up: Callable[[str], object], name: str
) -> None:
    _time_look_ups(ids[:operations], watch, look_up=look_up, name=name, one=f"{name} one by one")


@attrs.frozen
class Size:
    """What was found among `many` resources; `loading` in seconds for all of them."""

    many: int
    loading: float
    times: Mapping[str, Times]


async def _measure_size(arena: Arena, many: int) -> Size:
    ids = [resource(number) for number in random.Random(1).choices(range(many), k=_SAMPLE)]
    async with open_memory(_address(many)) as backend:
        assert backend.store is not None
        await fill(backend.store, many)
        bare = Bare(many)
        began = perf_counter()
        async with open_node(_address(many).url) as node:
            loading = perf_counter() - began
            seen = node.runtime.directory.snapshot.owner
            found = await arena.compete(
                *(
                    Contestant(partial(_look_up, ids=ids, look_up=look_up, name=name), _SAMPLE)
                    for name, look_up in {"bare": bare.owner, "look-up": seen, "owner-of": node.owner_of}.items()
                ),
                rounds=5,
            )
    return Size(many, loading, found)


async def _bytes_per_resource(many: int) -> float:
    """What the view takes, without what the store keeps: all that is allocated by opening a node, and not freed again."""
    async with open_memory(_address(many)) as backend:
        assert backend.store is not None
        await fill(backend.store, many)
        tracemalloc.start()
        try:
            async with open_node(_address(many).url):
                gc.collect()
                taken, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    return taken / many


def _address(many: int) -> BackendAddress:
    return BackendAddress(f"memory://{many}", "memory", str(many))


async def measure(arena: Arena) -> None:
    """Among 1,000, 100,000 and 1,000,000 resources."""
    for many in (1000, 100_000) if arena.quick else (1000, 100_000, 1_000_000):
        size = await _measure_size(arena, many)
        bare = size.times["bare"]
        arena.line(f"bare look-up with a lease check in {many:,}", bare)
        for name, title in (("look-up", "look-up in the view"), ("owner-of", "node.owner_of")):
            times, singly = size.times[name], size.times[f"{name} one by one"]
            tail = at_most(singly.p99 * 1e3, 1.0, "p99 of one {:.4f} ms, ceiling 1", ceiling=True)
            goal = at_most(times.p50 / bare.p50, 2.0, "{:.2f} x bare, goal 2")
            arena.line(f"{title} of {many:,}", times, *((goal, tail) if name == "look-up" else (tail,)))
        arena.line(f"load of a view of {many:,}", note=f"{size.loading:.2f} s, {size.loading / many * 1e6:.1f} us each")
    taken = await _bytes_per_resource(100_000)
    arena.line("a resource in the view of 100,000", None, at_most(taken, 700, "{:.0f} bytes, goal 700"))

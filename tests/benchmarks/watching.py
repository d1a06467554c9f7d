"""From a commit to the event that a node's reader gets."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Final

from aegis_backends.memory import open_memory
from aegis_core import ResourceRegistered, open_node
from aegis_core.backend import ABSENT, ANY, BackendAddress, Delete, Put, Store, Transaction
from aegis_core.codec import encode_record
from aegis_core.models import Ownership, ServiceInstance
from aegis_core.names import target_key
from aegis_core.node.subscription import EventStream
from tests.benchmarks.floors import floor
from tests.benchmarks.measuring import Arena, Contestant, Watch, at_most

__all__ = ["MEASURED", "measure"]

MEASURED: Final = ("event",)

_ids: Final = map(str, itertools.count())


async def _watch(
    operations: int, watch: Watch, *, store: Store, stream: EventStream[ResourceRegistered], owner: ServiceInstance
) -> None:
    for number in range(operations):
        record = Ownership(
            target=f"order:{number}",
            service_name=owner.service_name,
            instance_id=owner.instance_id,
            lease=owner.lease,
            registered_at=owner.registered_at,
        )
        key = target_key(record.target)
        claim = Transaction(next(_ids), (Put(key, encode_record(record), ABSENT),))
        watch.start("event")
        await store.commit(claim)
        await stream.receive()
        watch.stop()
        await store.commit(Transaction(next(_ids), (Delete(key, ANY),)))


async def measure(arena: Arena) -> None:
    """From the moment before the commit itself, by somebody who has no view of his own to keep."""
    async with open_memory(BackendAddress("memory://", "memory", "")) as writer, open_node("memory://") as node:
        assert writer.store is not None
        # An instance that no node serves, so that no node tidies up after the records that are written here.
        await node.registry.register("book-service", "book-1", ttl=3600)
        owner = node.runtime.directory.snapshot.instance("book-service", "book-1")
        assert owner is not None
        async with node.events(ResourceRegistered) as stream:
            found = await arena.compete(
                floor(),
                Contestant(partial(_watch, store=writer.store, stream=stream, owner=owner), 300),
            )
    lowest, event = found["floor"], found["event"]
    arena.line("floor", lowest)
    arena.line("commit to a node's event", event, at_most(event.p50 / lowest.p50, 4.0, "{:.1f} x floor, goal 4"))

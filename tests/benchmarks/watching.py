"""From a commit on one node to the event that another node's reader gets."""

from __future__ import annotations

from functools import partial
from typing import Final

from aegis_core import Node, ResourceRegistered, open_node
from aegis_core.backend import ABSENT, ANY, Delete, Put, Transaction
from aegis_core.codec import encode_record
from aegis_core.models import Ownership
from aegis_core.names import target_key
from aegis_core.node.subscription import EventStream
from tests.benchmarks.floors import floor
from tests.benchmarks.measuring import Arena, Contestant, Watch, at_most

__all__ = ["MEASURED", "measure"]

MEASURED: Final = ("event",)


async def _watch(operations: int, watch: Watch, *, writer: Node, stream: EventStream, lease: str) -> None:
    runtime = writer.runtime
    for number in range(operations):
        record = Ownership(
            target=f"order:{number}",
            service_name="book-service",
            instance_id="book-1",
            lease=lease,
            registered_at=runtime.wall(),
        )
        key = target_key(record.target)
        claim = Transaction(runtime.new_id(16), (Put(key, encode_record(record), ABSENT),))
        watch.start("event")
        await runtime.store.commit(claim)
        await stream.receive()
        watch.stop()
        await runtime.store.commit(Transaction(runtime.new_id(16), (Delete(key, ANY),)))


async def measure(arena: Arena) -> None:
    """Begins with the commit itself, so that it is what a watcher waits after a writer has decided."""
    async with open_node("memory://") as writer, open_node("memory://") as reader:
        # An instance that no node serves, so that no node tidies up after the records that are written here.
        await writer.registry.register("book-service", "book-1", ttl=3600)
        known = writer.runtime.directory.snapshot.instance("book-service", "book-1")
        assert known is not None
        async with reader.events(ResourceRegistered) as stream:
            found = await arena.compete(
                floor(),
                Contestant(partial(_watch, writer=writer, stream=stream, lease=known.lease), 300),
            )
    lowest, event = found["floor"], found["event"]
    arena.line("floor", lowest)
    arena.line("commit to another node's event", event, at_most(event.p50 / lowest.p50, 4.0, "{:.1f} x floor, goal 4"))

"""A plug-in with an observer: how often each resource changed hands, and who has it.

An observer is told every event of its node: each registration, each change of owner, each lost lease in the cluster.
Run me: ``python observer_plugin.py``.
"""

from __future__ import annotations

from collections import Counter

import trio

from aegis_core import Event, ResourceRegistered, ResourceReleased, ResourceTransferred, Service, open_node
from aegis_core.hookspecs import ObserverRegistrar, hookimpl


class Ledger:
    """Counts the owners that each resource has had. It is also the plug-in: an object with hook methods will do."""

    def __init__(self) -> None:
        self.owner: dict[str, str] = {}
        self.changes: Counter[str] = Counter()

    @hookimpl
    def aegis_register_observers(self, register: ObserverRegistrar) -> None:
        """Called once, when the node opens."""
        register(self)

    def on_event(self, event: Event) -> None:
        """Called in the node's own task: take note, and return at once."""
        match event:
            case ResourceRegistered() | ResourceTransferred():
                self.owner[event.resource_id] = event.instance_id
                self.changes[event.resource_id] += 1
            case ResourceReleased():
                self.owner.pop(event.resource_id, None)


rooms = Service("room-service")


@rooms.on_acquire
async def open_room(_claim: object) -> None:
    """With this, a room may be handed to an instance that did not ask for it."""


async def main() -> None:
    """Hand a room from one instance to another, and see the ledger follow."""
    ledger = Ledger()
    async with (
        open_node("memory://", plugins=[ledger]) as node,
        node.serve(rooms, instance_id="first") as first,
        node.serve(rooms, instance_id="second") as second,
    ):
        await first.claim("room:1", "room:2")
        await first.transfer("room:1", to=second.instance_id, reason="first is busy")
        await first.release("room:2")
        print("owners:", ledger.owner)
        print("changes:", dict(ledger.changes))


if __name__ == "__main__":
    trio.run(main)

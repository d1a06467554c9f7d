"""Who is active: asked of the instance itself, and of the registry."""

from __future__ import annotations

from functools import partial
from typing import Final

from aegis_core import Instance, Node, Role, Service, open_node
from tests.benchmarks.floors import floor
from tests.benchmarks.measuring import Arena, Contestant, Watch, at_most

__all__ = ["MEASURED", "measure"]

MEASURED: Final = ("role", "roles")

engines = Service("matching-engine", version="1.0.0")


async def _ask_instance(operations: int, watch: Watch, *, instance: Instance) -> None:
    for _ in range(operations):
        watch.start("role")
        role = instance.role
        watch.stop()
        assert role is Role.STANDBY


async def _ask_registry(operations: int, watch: Watch, *, node: Node) -> None:
    for _ in range(operations):
        watch.start("roles")
        table = await node.registry.list_roles(engines.name)
        watch.stop()
        assert table.service_name == engines.name


async def measure(arena: Arena) -> None:
    """With the worst instance to ask: a standby that holds as many resources as it may."""
    async with (
        open_node("memory://") as node,
        node.serve(engines, role=Role.ACTIVE),
        node.serve(engines, role=Role.STANDBY) as standby,
    ):
        await standby.bulk_claim([f"order:{number}" for number in range(1000)], batch_size=1000)
        found = await arena.compete(
            floor(),
            Contestant(partial(_ask_instance, instance=standby), 500),
            Contestant(partial(_ask_registry, node=node), 200),
        )
    for name, title in (("role", "an instance's own role"), ("roles", "list of roles, from the registry")):
        ceiling = at_most(found[name].p99 * 1e3, 1.0, "p99 {:.4f} ms, ceiling 1", ceiling=True)
        arena.line(title, found[name], ceiling)

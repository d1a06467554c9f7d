"""Registration and deregistration of served instances: one at a time, with a role, and many at once."""

from __future__ import annotations

from functools import partial
from typing import Final

import trio

from aegis_core import Node, Role, Service, open_node
from tests.benchmarks.floors import floor
from tests.benchmarks.measuring import Arena, Contestant, Watch, at_least, at_most
from tests.benchmarks.owning import HELD, Member, empty_and_full, not_slower

__all__ = ["MEASURED", "measure"]

MEASURED: Final = (
    *("register", "register-full", "deregister", "deregister-full"),
    *("register-active", "deregister-active", "register-at-once"),
)

carts = Service("cart-service", version="1.0.0")


async def _serve(operations: int, watch: Watch, *, node: Node, role: Role | None, suffix: str) -> None:
    for _ in range(operations):
        serving = node.serve(carts, role=role)
        watch.start(f"register{suffix}")
        await serving.__aenter__()
        watch.stop()
        watch.start(f"deregister{suffix}")
        await serving.__aexit__(None, None, None)
        watch.stop()


async def _at_once(operations: int, watch: Watch, *, node: Node) -> None:
    leave = trio.Event()
    registered = 0
    all_there = trio.Event()

    async def serve() -> None:
        nonlocal registered
        async with node.serve(carts):
            registered += 1
            if registered == operations:
                all_there.set()
            await leave.wait()

    async with trio.open_nursery() as nursery:
        watch.start("register-at-once")
        for _ in range(operations):
            nursery.start_soon(serve)
        await all_there.wait()
        watch.stop(operations)
        leave.set()


async def measure(arena: Arena) -> None:
    """Register, with and without a role, and how many registrations a node takes in a second."""
    async with empty_and_full(carts, quick=arena.quick) as members:

        def contestant(member: Member, role: Role | None, suffix: str, operations: int) -> Contestant:
            return Contestant(partial(_serve, node=member.node, role=role, suffix=suffix), operations)

        empty, full = members
        found = await arena.compete(
            floor(),
            contestant(empty, None, "", 100),
            contestant(full, None, full.suffix, 100),
            contestant(empty, Role.ACTIVE, "-active", 100),
        )
    async with open_node("memory://many") as node:
        found |= await arena.compete(Contestant(partial(_at_once, node=node), 1000), rounds=3)
    lowest = found["floor"]
    arena.line("floor", lowest)
    for what in ("register", "deregister"):
        alone, much = found[what], found[f"{what}-full"]
        goals = [at_most(alone.p50 / lowest.p50, 8.0, "{:.1f} x floor, goal 8")] if what == "register" else []
        arena.line(what, alone, *goals)
        arena.line(f"{what}, {HELD:,} held", much, not_slower(much, alone))
    active = found["register-active"]
    ceiling = at_most(active.p99 * 1e3, 5.0, "p99 {:.2f} ms, ceiling 5", ceiling=True)
    arena.line("register with a role", active, ceiling)
    many = found["register-at-once"]
    arena.line("register, 1000 at once", many, at_least(1 / many.each, 1000.0, "{:.0f}/s, at least 1000", ceiling=True))

"""Calls on memory, by service and by resource, one at a time and 64 at once."""

from __future__ import annotations

from functools import partial
from time import perf_counter
from typing import Final

import trio

from aegis_core import Call, Node, Service, open_node
from tests.benchmarks.floors import AT_ONCE, PARAMS, floor, floor_at_once, peer, peer_is_here
from tests.benchmarks.measuring import Arena, Check, Contestant, Times, Watch, at_least, at_most

__all__ = ["MEASURED", "measure"]

MEASURED: Final = ("call-by-service", "call-by-resource", "call-by-service-64", "call-by-resource-64")

accounts = Service("account-service", version="1.0.0")


@accounts.method
async def balance(
    call: Call,
    currency: str,
    as_of: str,
    branch: str,
    limit: int,
) -> dict[str, object]:
    """Answer what was asked."""
    return {"currency": currency, "as_of": as_of, "branch": branch, "limit": limit}


async def _one_by_one(operations: int, watch: Watch, *, node: Node, resource: str | None, name: str) -> None:
    for _ in range(operations):
        watch.start(name)
        await node.call("account-service", "balance", PARAMS, resource_id=resource)
        watch.stop()


async def _at_once(operations: int, watch: Watch, *, node: Node, resource: str | None, name: str) -> None:
    seconds: list[float] = []

    async def work() -> None:
        for _ in range(operations // AT_ONCE):
            began = perf_counter()
            await node.call("account-service", "balance", PARAMS, resource_id=resource)
            seconds.append(perf_counter() - began)

    watch.start(name)
    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(work)
    watch.stop(seconds=seconds)


async def measure(arena: Arena) -> None:
    """Calls beside the floor, and beside FastStream's in-memory test broker."""
    async with open_node("memory://") as node, node.serve(accounts) as instance:
        await instance.claim("account:42")
        found = await arena.compete(
            floor(),
            Contestant(partial(_one_by_one, node=node, resource=None, name="call-by-service"), 500),
            Contestant(partial(_one_by_one, node=node, resource="account:42", name="call-by-resource"), 500),
            floor_at_once(),
            Contestant(partial(_at_once, node=node, resource=None, name="call-by-service-64"), 1280),
            Contestant(partial(_at_once, node=node, resource="account:42", name="call-by-resource-64"), 1280),
            *(peer() if peer_is_here() else ()),
        )
    arena.line("floor: spawn, no-op, wake, msgpack both ways", found["floor"])
    _peer_line(arena, found, "peer", "FastStream's in-memory test broker")
    arena.line("call by service", found["call-by-service"], *_checks(found, "call-by-service", ""))
    arena.line("call by resource", found["call-by-resource"], *_checks(found, "call-by-resource", ""))
    arena.line("floor, 64 at once", found["floor-64"])
    _peer_line(arena, found, "peer-64", "FastStream's in-memory test broker, 64 at once")
    arena.line("call by service, 64 at once", found["call-by-service-64"], *_checks(found, "call-by-service-64", "-64"))
    arena.line(
        "call by resource, 64 at once", found["call-by-resource-64"], *_checks(found, "call-by-resource-64", "-64")
    )


def _peer_line(arena: Arena, found: dict[str, Times], name: str, title: str) -> None:
    if name in found:
        arena.line(title, found[name])
    else:
        arena.line(title, note="not installed: pip install 'faststream[nats]'")


def _checks(found: dict[str, Times], name: str, suffix: str) -> list[Check]:
    times, lowest = found[name], found[f"floor{suffix}"]
    ratio = times.each / lowest.each if suffix else times.p50 / lowest.p50
    checks = [at_most(ratio, 1.6, "{:.2f} x floor, goal 1.6")]
    if f"peer{suffix}" in found:
        checks.append(at_least(found[f"peer{suffix}"].each / times.each, 4.0, "{:.1f} x FastStream's rate, goal 4"))
    return checks

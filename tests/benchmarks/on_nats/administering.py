"""Registrations, claims, bulk operations and transfers through a router, on a bucket in memory."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Final

from aegis_backends.nats.server import open_servers
from tests.benchmarks.measuring import Arena, at_most
from tests.benchmarks.parts.contests import contestant
from tests.benchmarks.parts.processes import open_process

__all__ = ["MEASURED", "measure"]

_BATCH: Final = 100
# Title, what is asked for, how often in a round, and the milliseconds that p99 may take.
_OPERATIONS: Final[dict[str, tuple[str, str, dict[str, object], int, float]]] = {
    "nats-router-register": ("register", "register", {}, 100, 5.0),
    "nats-router-claim": ("claim", "claim", {}, 150, 5.0),
    "nats-router-release": ("release", "release", {}, 150, 5.0),
    "nats-router-bulk": (f"bulk claim of {_BATCH}", "bulk", {"size": _BATCH}, 20, 50.0),
    "nats-router-transfer": ("transfer", "transfer", {"size": 1}, 100, 10.0),
    "nats-router-transfer-100": (f"transfer of {_BATCH}", "transfer", {"size": _BATCH}, 20, 10.0),
}

MEASURED: Final = tuple(_OPERATIONS)


async def measure(arena: Arena) -> None:
    """Each operation over ``ipc.*``, one at a time; what the router uses is told of it and of what undoes it."""
    async with AsyncExitStack() as stack:
        servers, profiled = await stack.enter_async_context(open_servers()), arena.watch.profiled
        node = f"{servers.url}?storage=memory"
        router = await stack.enter_async_context(
            open_process("on_nats.routing_parts:be_router", profiled=profiled, url=node)
        )
        client = await stack.enter_async_context(
            open_process("on_nats.administering_parts:administer", profiled=profiled, url=servers.url)
        )
        await client.ask("be_there")
        found = await arena.compete(
            *(
                contestant(name, many, client, arguments, do=do, servers={"router": router})
                for name, (_, do, arguments, many, _) in _OPERATIONS.items()
            ),
            rounds=7,
        )
    for name, (title, _, _, _, ceiling) in _OPERATIONS.items():
        times = found[name]
        check = at_most(times.p99 * 1e3, ceiling, f"p99 {{:.2f}} ms, ceiling {ceiling:g}", ceiling=True)
        arena.line(f"{title}, through a router", times, check)
    for name, (title, _, _, _, _) in _OPERATIONS.items():
        arena.line(f"  cpu of the router: {title}", found[f"{name} cpu of router"])

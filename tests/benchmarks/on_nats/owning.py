"""Registrations, claims, bulk operations and transfers on a bucket in memory, beside bare writes to the same server.

A bare write is one by our client without a store and a node; the goals are judged by it. What the same write takes over a
blocking socket stands beside it. Bare writes go to a stream of their own that is configured as the bucket is.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import attrs

from aegis_backends.nats.bucket import BucketSettings, new_config
from aegis_backends.nats.connection import open_connection
from aegis_backends.nats.server import open_servers
from tests.benchmarks.measuring import Arena, Contestant, Times, Watch, at_least, at_most
from tests.benchmarks.parts.contests import AT_ONCE, contestant
from tests.benchmarks.parts.processes import Process, file_taken, open_process

__all__ = ["MEASURED_CLAIMS", "MEASURED_MANY", "measure_claims", "measure_many"]

MEASURED_CLAIMS: Final = ("nats-record", "nats-register", "nats-register-active", "nats-claim", "nats-release")
MEASURED_MANY: Final = ("nats-claim-64", "nats-register-1000", "nats-bulk", "nats-transfer")

_SIZE: Final = 200
"""Bytes of a bare write: about those of the record of who owns a resource."""
_BATCH: Final = 100
_BARE: Final = BucketSettings(name="bare", storage="memory")


@attrs.frozen
class _Scene:
    one: Process
    other: Process
    bare: Process
    socket: Process


@asynccontextmanager
async def _scene(arena: Arena) -> AsyncIterator[_Scene]:
    profiled = arena.watch.profiled
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(open_servers())
        async with open_connection([servers.url]) as connection:
            config = json.dumps(new_config(_BARE, 1)).encode()
            await connection.request(f"$JS.API.STREAM.CREATE.{_BARE.stream}", config, timeout=10.0)

        async def start(part: str, url: str, **settings: object) -> Process:
            return await stack.enter_async_context(open_process(part, profiled=profiled, url=url, **settings))

        node = f"{servers.url}?storage=memory"
        yield _Scene(
            one=await start("on_nats.owning_parts:be_member", node, instance_id="one"),
            other=await start("on_nats.owning_parts:be_member", node, instance_id="other"),
            bare=await start("on_nats.owning_parts:write_bare", servers.url),
            socket=await start("on_nats.bare_socket:ask", servers.url),
        )


async def measure_claims(arena: Arena) -> None:
    """Register, claim and release, one at a time."""
    bare = {"together": 1, "size": _SIZE, "prefix": _BARE.prefix}
    async with _scene(arena) as scene:
        found = await arena.compete(
            contestant("socket", 200, scene.socket, bare, do="put"),
            contestant("put", 200, scene.bare, bare, do="put"),
            contestant("nats-record", 100, scene.one, do="record"),
            contestant("nats-register", 100, scene.one, {"role": False}, do="register"),
            contestant("nats-register-active", 100, scene.one, {"role": True}, do="register"),
            contestant("nats-claim", 150, scene.one, do="claim"),
            contestant("nats-release", 150, scene.one, do="release"),
        )
    put = found["put"]
    arena.line("floor: a put over a blocking socket", found["socket"])
    arena.line("a bare put", put)
    for name, title, has_goal, has_ceiling in (
        ("nats-record", "register a record, by the registry", True, False),
        ("nats-register", "register: serve an instance", True, False),
        ("nats-register-active", "register with a role", False, True),
        ("nats-claim", "claim", True, True),
        ("nats-release", "release", True, True),
    ):
        times = found[name]
        goals = [at_most(times.p50 / put.p50, 2.0, "p50 {:.2f} x a bare put, goal 2")] if has_goal else []
        ceilings = [at_most(times.p99 * 1e3, 5.0, "p99 {:.2f} ms, ceiling 5", ceiling=True)] if has_ceiling else []
        arena.line(title, times, *goals, *ceilings)


async def _transfer(operations: int, watch: Watch, *, scene: _Scene) -> None:
    """There and back, each by who has them."""
    for _ in range(operations):
        for source, to in ((scene.one, "other"), (scene.other, "one")):
            taken = await source.ask("transfer", name="nats-transfer", count=1, size=_BATCH, to=to)
            file_taken(watch, "nats-transfer", taken)


async def measure_many(arena: Arena) -> None:
    """64 claims at once, bulk claims and transfers of 100, and how many registrations a node takes in a second."""
    bare = {"size": _SIZE, "prefix": _BARE.prefix}
    async with _scene(arena) as scene:
        await scene.one.ask("own", size=_BATCH)
        found = await arena.compete(
            contestant("socket-64", 640, scene.socket, {**bare, "together": AT_ONCE}, do="put"),
            contestant("put-64", 640, scene.bare, {**bare, "together": AT_ONCE}, do="put"),
            contestant("nats-claim-64", 640, scene.one, {"together": AT_ONCE}, do="claim_at_once"),
            contestant("socket-batch", 20, scene.socket, {**bare, "together": _BATCH}, do="batch"),
            contestant("batch", 20, scene.bare, {**bare, "together": _BATCH}, do="batch"),
            contestant("nats-bulk", 20, scene.one, {"size": _BATCH}, do="bulk"),
            Contestant(lambda operations, watch: _transfer(operations, watch, scene=scene), 8),
        )
        found |= await arena.compete(contestant("nats-register-1000", 1000, scene.one, do="register_at_once"), rounds=3)
    _many_lines(arena, found)


def _many_lines(arena: Arena, found: dict[str, Times]) -> None:
    puts, claims = found["put-64"], found["nats-claim-64"]
    arena.line("floor: puts over a blocking socket, 64 in flight", found["socket-64"])
    arena.line("bare puts, 64 in flight", puts)
    arena.line("claims, 64 at once", claims, at_least(puts.each / claims.each, 0.5, "{:.2f} x bare puts, goal 0.5"))
    batch = found["batch"]
    arena.line(f"floor: a batch of {_BATCH} over a blocking socket", found["socket-batch"])
    arena.line(f"a bare batch of {_BATCH}", batch)
    for name, title, ceiling in (("nats-bulk", "bulk claim", 50.0), ("nats-transfer", "transfer", 10.0)):
        times = found[name]
        arena.line(
            f"{title} of {_BATCH}",
            times,
            at_most(times.p50 / batch.p50, 3.0, "p50 {:.2f} x a bare batch, goal 3"),
            at_most(times.p99 * 1e3, ceiling, f"p99 {{:.2f}} ms, ceiling {ceiling:g}", ceiling=True),
        )
    rate = 1 / found["nats-register-1000"].each
    enough = at_least(rate, 1000.0, "{:.0f}/s, at least 1000", ceiling=True)
    arena.line("register, 1000 at once", found["nats-register-1000"], enough)

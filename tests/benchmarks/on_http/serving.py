"""Our HTTP server beside uvicorn: the rate at which they answer 64 connections, and the memory that idle ones take."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial
from typing import Final

from tests.benchmarks.measuring import Arena, at_least, at_most
from tests.benchmarks.parts.contests import AT_ONCE, contestant
from tests.benchmarks.parts.processes import Process, number, open_process

__all__ = ["MEASURED", "measure"]

_TITLES: Final = {"uvicorn": "peer: uvicorn with httptools", "ours": "our server"}
_OPERATIONS: Final = 6400
_IDLE: Final = 1000
_WARM: Final = 10

MEASURED: Final = ("http-server-ours",)


async def measure(arena: Arena) -> None:
    """A plain application, asked by 64 connections at once; and connections that ask nothing any more."""
    async with AsyncExitStack() as stack:
        start = partial(_start, stack, arena.watch.profiled)
        servers = {name: await start(f"on_http.serving_parts:serve_{name}") for name in _TITLES}
        clients = {}
        for name, server in servers.items():
            clients[name] = await start("on_http.serving_parts:load", port=number(await server.ask("port")))
            await clients[name].ask("connect", many=AT_ONCE)
        found = await arena.compete(
            *(
                contestant(f"http-server-{name}", _OPERATIONS, clients[name], servers={"server": server})
                for name, server in servers.items()
            ),
            rounds=7,
        )
    peer = found["http-server-uvicorn"]
    for name, title in _TITLES.items():
        times = found[f"http-server-{name}"]
        checks = [at_least(peer.each / times.each, 0.8, "{:.2f} x uvicorn's rate, goal 0.8")] if name == "ours" else []
        arena.line(f"{title}, {AT_ONCE} at once", times, *checks)
    for name, title in _TITLES.items():
        arena.line(f"  its cpu: {title}", found[f"http-server-{name} cpu of server"])
        arena.line(f"  cpu of who asks: {title}", found[f"http-server-{name} cpu"])
    for name, title in _TITLES.items():
        await _measure_idle(arena, name, title)


async def _start(stack: AsyncExitStack, profiled: str, part: str, **settings: object) -> Process:
    return await stack.enter_async_context(open_process(part, profiled=profiled, **settings))


async def _measure_idle(arena: Arena, name: str, title: str) -> None:
    """The memory of a new server before and after it has many connections that have been used once."""
    async with open_process(f"on_http.serving_parts:serve_{name}") as server:
        port = number(await server.ask("port"))
        async with open_process("on_http.serving_parts:load", port=port) as client:
            await client.ask("connect", many=_WARM)
            before = await server.ask("resident")
            await client.ask("connect", many=_WARM + _IDLE)
            after = await server.ask("resident")
    line = f"memory of each of {_IDLE:,} idle connections: {title}"
    if before is None:
        arena.line(line, note="not measured: this system does not tell a process's memory under /proc")
        return
    each = (number(after) - number(before)) / _IDLE / 1024
    if name == "ours":
        arena.line(line, None, at_most(each, 20.0, "{:.1f} KiB, goal 20"))
    else:
        arena.line(line, note=f"{each:.1f} KiB")

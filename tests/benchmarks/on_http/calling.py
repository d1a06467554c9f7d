"""Calls from instance to instance over HTTP, beside FastAPI asked by httpx, and the least that httptools needs on Trio.

The registry is a router's, in a process of its own; the calls themselves go from one node to the other. See `calls_parts` for
the peers.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial
from typing import Final

from tests.benchmarks.measuring import Arena, Check, Contestant, Times, at_least, at_most
from tests.benchmarks.parts.contests import AT_ONCE, contestant
from tests.benchmarks.parts.echoes import RESOURCE
from tests.benchmarks.parts.processes import Process, number, open_process

__all__ = ["MEASURED", "measure"]

_SIZE: Final = 64
_OURS: Final = ("service", "resource")
_TITLES: Final = {
    "bare": "floor: bare httptools on Trio",
    "fastapi": "peer: httpx asking FastAPI on uvicorn",
    "service": "call by service",
    "resource": "call by resource",
}
# Per round, one at a time and 64 at once. httpx is slow.
_OPERATIONS: Final = {"fastapi": (60, 640)}
_MANY: Final = (200, 1920)

MEASURED: Final = tuple(f"http-call-{name}-{together}" for name in _OURS for together in (1, AT_ONCE))


async def measure(arena: Arena) -> None:
    """64 B, one at a time and 64 at once."""
    async with AsyncExitStack() as stack:
        start = partial(_start, stack, arena.watch.profiled)
        bare, fastapi = await start("on_http.calls_parts:serve_bare"), await start("on_http.calls_parts:serve_fastapi")
        url = await _url(await start("on_http.calls_parts:be_router"))
        server = await start("parts.echoes:serve", url=url)
        caller = await start("parts.echoes:call", url=url)
        bare_port = number(await bare.ask("port"))
        pairs: dict[str, tuple[Process, Process, dict[str, object]]] = {
            "bare": (await start("on_http.calls_parts:ask_bare", port=bare_port, most=AT_ONCE), bare, {}),
            "fastapi": (await start("on_http.calls_parts:ask_httpx", url=await _url(fastapi)), fastapi, {}),
            "service": (caller, server, {"resource": None}),
            "resource": (caller, server, {"resource": RESOURCE}),
        }
        found = await arena.compete(
            *(_contestant(name, *pair, together) for together in (1, AT_ONCE) for name, pair in pairs.items()), rounds=7
        )
    for together in (1, AT_ONCE):
        _lines(arena, found, together)


async def _start(stack: AsyncExitStack, profiled: str, part: str, **settings: object) -> Process:
    return await stack.enter_async_context(open_process(part, profiled=profiled, **settings))


async def _url(server: Process) -> str:
    port = number(await server.ask("port"))
    return f"http://127.0.0.1:{port:.0f}"


def _contestant(name: str, client: Process, server: Process, settings: dict[str, object], together: int) -> Contestant:
    operations = _OPERATIONS.get(name, _MANY)[together != 1]
    arguments = {"together": together, "size": _SIZE, **settings}
    return contestant(f"http-call-{name}-{together}", operations, client, arguments, servers={"server": server})


def _lines(arena: Arena, found: dict[str, Times], together: int) -> None:
    times = {name: found[f"http-call-{name}-{together}"] for name in _TITLES}
    suffix = f", {together} at once" if together != 1 else ""
    for name, title in _TITLES.items():
        checks = _checks(times[name], times, together) if name in _OURS else []
        arena.line(f"{title}{suffix}", times[name], *checks)
    for end, where in (("cpu", "client"), ("cpu of server", "server")):
        for name, title in _TITLES.items():
            arena.line(f"  cpu of the {where}: {title}{suffix}", found[f"http-call-{name}-{together} {end}"])


def _checks(ours: Times, times: dict[str, Times], together: int) -> list[Check]:
    bare, fastapi = times["bare"], times["fastapi"]
    if together == 1:
        return [at_most(ours.p50 / fastapi.p50, 0.7, "p50 {:.2f} x FastAPI's, goal 0.7")]
    return [
        at_least(fastapi.each / ours.each, 4.0, "{:.1f} x FastAPI's rate, goal 4"),
        at_least(bare.each / ours.each, 0.4, "{:.2f} x bare httptools', goal 0.4"),
    ]

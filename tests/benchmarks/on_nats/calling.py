"""Calls on NATS by service and by resource, beside nats-py's micro framework, nats-py bridged into Trio, and bare sockets.

All peers echo bytes; see `tests.benchmarks.on_nats.calls_parts` for what each does besides.
"""

from __future__ import annotations

import importlib.util
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

import attrs

from aegis_backends.nats.server import open_servers
from tests.benchmarks.measuring import Arena, Check, Contestant, Times, at_least, at_most
from tests.benchmarks.parts.contests import AT_ONCE, contestant
from tests.benchmarks.parts.echoes import RESOURCE
from tests.benchmarks.parts.processes import Process, open_process

__all__ = ["MEASURED", "measure"]

_SIZES: Final = {64: "64 B", 1024: "1 KiB"}

_OURS: Final = ("call-service", "call-resource")
_TITLES: Final = {
    "floor": "floor: blocking sockets",
    "micro": "peer: nats-py micro",
    "packed": "peer: nats-py micro, with MessagePack",
    "bridged": "peer: nats-py bridged by trio-asyncio",
    "call-service": "call by service",
    "call-resource": "call by resource",
}
# Per round, one at a time and 64 at once. The bridged peer is slow.
_OPERATIONS: Final = {"bridged": (60, 640)}
_MANY: Final = (200, 1920)

MEASURED: Final = tuple(
    f"nats-{name}-{size}-{together}" for name in _OURS for size in _SIZES for together in (1, AT_ONCE)
)


@attrs.frozen
class _Pair:
    client: Process
    server: Process
    arguments: dict[str, object] = attrs.field(factory=dict)


async def measure(arena: Arena) -> None:
    """64 B and 1 KiB, one at a time and 64 at once."""
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(open_servers())
        start = partial(_start, stack, arena.watch.profiled, servers.url)
        pairs = {
            "floor": _Pair(
                server=await start("on_nats.bare_socket:respond"), client=await start("on_nats.bare_socket:ask")
            ),
            "micro": _Pair(
                server=await start("on_nats.calls_parts:serve_micro"),
                client=await start("on_nats.calls_parts:ask_micro"),
            ),
        }
        pairs["packed"] = attrs.evolve(pairs["micro"], arguments={"packed": True})
        if importlib.util.find_spec("trio_asyncio") is not None:
            server = await start("on_nats.calls_parts:serve_bridged")
            pairs["bridged"] = _Pair(server=server, client=await start("on_nats.calls_parts:ask_bridged"))
        node = f"{servers.url}?storage=memory"
        server = await _start(stack, arena.watch.profiled, node, "parts.echoes:serve")
        client = await _start(stack, arena.watch.profiled, node, "parts.echoes:call")
        pairs["call-service"] = _Pair(client, server, {"resource": None})
        pairs["call-resource"] = _Pair(client, server, {"resource": RESOURCE})
        found = await arena.compete(
            *(
                _contestant(name, pair, size, together)
                for size in _SIZES
                for together in (1, AT_ONCE)
                for name, pair in pairs.items()
            ),
            rounds=7,
        )
    for size in _SIZES:
        for together in (1, AT_ONCE):
            _lines(arena, found, size, together)


async def _start(stack: AsyncExitStack, profiled: str, url: str, part: str) -> Process:
    return await stack.enter_async_context(open_process(part, profiled=profiled, url=url))


def _contestant(name: str, pair: _Pair, size: int, together: int) -> Contestant:
    operations = _OPERATIONS.get(name, _MANY)[together != 1]
    filed = f"nats-{name}-{size}-{together}"
    arguments = {"together": together, "size": size, **pair.arguments}
    return contestant(filed, operations, pair.client, arguments, servers={"server": pair.server})


def _lines(arena: Arena, found: dict[str, Times], size: int, together: int) -> None:
    times = {name: found.get(f"nats-{name}-{size}-{together}") for name in _TITLES}
    suffix = f", {_SIZES[size]}" + (f", {together} at once" if together != 1 else "")
    for name, title in _TITLES.items():
        if (each := times[name]) is None:
            arena.line(f"{title}{suffix}", note="not installed: pip install trio-asyncio")
            continue
        checks = _checks(each, times, name, together) if name in _OURS else []
        arena.line(f"{title}{suffix}", each, *checks)
    for where, end in {"client": "cpu", "server": "cpu of server"}.items():
        peer, packed = (found[f"nats-{name}-{size}-{together} {end}"] for name in ("micro", "packed"))
        arena.line(f"  cpu of the {where}: nats-py micro{suffix}", peer)
        arena.line(f"  cpu of the {where}: nats-py micro, with MessagePack{suffix}", packed)
        for name in _OURS:
            used = found[f"nats-{name}-{size}-{together} {end}"]
            goal = at_most(used.p50 / peer.p50, 1.0, "{:.2f} x nats-py micro's, goal 1")
            arena.line(f"  cpu of the {where}: {_TITLES[name]}{suffix}", used, goal)


def _checks(ours: Times, times: dict[str, Times | None], name: str, together: int) -> list[Check]:
    micro, bridged, service = times["micro"], times["bridged"], times["call-service"]
    assert micro is not None
    assert service is not None
    checks = []
    if together == 1:
        checks.append(at_most(ours.p50 / micro.p50, 0.9, "p50 {:.2f} x nats-py micro's, goal 0.9"))
        slower = ours.p50 / service.p50
    else:
        checks.append(at_least(micro.each / ours.each, 1.2, "{:.2f} x nats-py micro's rate, goal 1.2"))
        if bridged is not None:
            checks.append(at_least(bridged.each / ours.each, 6.0, "{:.1f} x nats-py bridged, goal 6"))
        slower = ours.each / service.each
    if name == "call-resource":
        checks.append(at_most(slower, 1.05, "{:.2f} x the time by service, goal 1.05"))
    return checks

"""Calls through a router over ``ipc.route.request``, beside direct ones and a router that handles one request at a time.

Who asks a router has no node of its own, but a connection and MessagePack; see `routing_parts`. What a call costs is the
processor time of all its processes but the NATS server's.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial
from typing import Final

import attrs

from aegis_backends.nats.server import open_servers
from tests.benchmarks.measuring import Arena, Contestant, Times, Watch, at_least, at_most
from tests.benchmarks.on_nats.routing_parts import ONE_BY_ONE, ROUTE
from tests.benchmarks.parts.contests import AT_ONCE, contestant
from tests.benchmarks.parts.processes import Process, open_process

__all__ = ["MEASURED", "measure"]

MEASURED: Final = ("nats-direct", "nats-routed", "nats-routed-late", "nats-routed-beside-mute")

_SIZE: Final = 64
_LATE: Final = 0.005
_MANY: Final = 1920
_FEW: Final = 128
_ARGUMENTS: Final = {"together": AT_ONCE, "size": _SIZE}
_TITLES: Final = {
    "nats-direct": "call without a router",
    "nats-one-by-one": "peer: a router on nats-py, one request at a time",
    "nats-routed": "call through a router",
    "nats-one-by-one-late": "peer: the same, of an instance that waits 5 ms",
    "nats-routed-late": "call through a router, of an instance that waits 5 ms",
}


@attrs.frozen
class _Scene:
    instance: Process
    router: Process
    one_by_one: Process
    asking: Process
    calling: Process


async def measure(arena: Arena) -> None:
    """64 B, 64 at once; then beside as many requests to an instance that does not answer."""
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(open_servers())
        start, node = partial(_start, stack, arena.watch.profiled), f"{servers.url}?storage=memory"
        scene = _Scene(
            instance=await start("on_nats.routing_parts:serve", node),
            router=await start("on_nats.routing_parts:be_router", node),
            one_by_one=await start("on_nats.routing_parts:be_router_one_by_one", servers.url),
            asking=await start("on_nats.routing_parts:ask_router", servers.url),
            calling=await start("parts.echoes:call", node),
        )
        found = await arena.compete(*_contestants(scene), rounds=7)
        beside = await arena.compete(
            _routed("nats-routed-alone", scene, _MANY),
            Contestant(partial(_beside_mute, scene=scene), _MANY),
            rounds=5,
        )
    _lines(arena, found)
    alone, mute = beside["nats-routed-alone"], beside["nats-routed-beside-mute"]
    arena.line("call through a router, again", alone)
    note = f"{mute.each / alone.each:.2f} x the time, p50 {mute.p50 / alone.p50:.2f} x"
    arena.line(f"the same, beside {AT_ONCE} calls of a mute instance", mute, note=note)


async def _start(stack: AsyncExitStack, profiled: str, part: str, url: str) -> Process:
    return await stack.enter_async_context(open_process(part, profiled=profiled, url=url))


def _routed(name: str, scene: _Scene, many: int, *, one_by_one: bool = False, **more: object) -> Contestant:
    arguments = {**_ARGUMENTS, "subject": ONE_BY_ONE if one_by_one else ROUTE, **more}
    servers = {"router": scene.one_by_one if one_by_one else scene.router, "instance": scene.instance}
    return contestant(name, many, scene.asking, arguments, servers=servers)


def _contestants(scene: _Scene) -> list[Contestant]:
    direct = {**_ARGUMENTS, "resource": None}
    return [
        contestant("nats-direct", _MANY, scene.calling, direct, servers={"instance": scene.instance}),
        _routed("nats-one-by-one", scene, _MANY, one_by_one=True),
        _routed("nats-routed", scene, _MANY),
        _routed("nats-one-by-one-late", scene, _FEW, one_by_one=True, seconds=_LATE),
        _routed("nats-routed-late", scene, _MANY, seconds=_LATE),
    ]


async def _beside_mute(operations: int, watch: Watch, *, scene: _Scene) -> None:
    """While so many requests are under way that are not answered before this is done."""
    await scene.asking.ask("ask_mute", together=AT_ONCE)
    await _routed("nats-routed-beside-mute", scene, operations).run(operations, watch)
    await scene.instance.ask("answer")


def _lines(arena: Arena, found: dict[str, Times]) -> None:
    direct = _cpu(found, "nats-direct", "", " of instance")
    for name, title in _TITLES.items():
        times, checks = found[name], []
        if name.startswith("nats-routed"):
            peer = found[name.replace("routed", "one-by-one")]
            checks.append(at_least(peer.each / times.each, 8.0, "{:.1f} x one at a time, goal 8"))
        arena.line(f"{title}, {AT_ONCE} at once", times, *checks)
    arena.line("  cpu: call without a router", note=f"{direct * 1e6:.1f} us")
    routed = _cpu(found, "nats-routed", "", " of instance", " of router")
    goal = at_most(routed / direct, 2.6, "{:.2f} x without a router, goal 2.6")
    arena.line("  cpu: call through a router", None, goal)
    for end, what in (("", "who asks"), (" of router", "the router"), (" of instance", "the instance")):
        arena.line(f"    cpu of {what}", found[f"nats-routed cpu{end}"])


def _cpu(found: dict[str, Times], name: str, *ends: str) -> float:
    """Seconds of processor time of one call, in all of its processes."""
    return sum(found[f"{name} cpu{end}"].p50 for end in ends)

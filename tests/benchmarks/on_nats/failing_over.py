"""How long a resource is without an owner: when the owner's process is killed, and when it leaves in order."""

from __future__ import annotations

import statistics
import time
from contextlib import AsyncExitStack
from typing import Final

import trio

from aegis_backends.nats.server import open_servers
from tests.benchmarks.measuring import Arena, Line, at_most
from tests.benchmarks.parts.processes import Process, number, numbers, open_process

__all__ = ["MEASURED_HAND_OVERS", "measure_hand_overs", "measure_kills"]

MEASURED_HAND_OVERS: Final = ("nats-hand-over",)

_TTL: Final = 3.0
_LATE: Final = 0.4
_PAIRS: Final = 8
_KILLS: Final = 13
_HAND_OVERS: Final = 8
_RATE: Final = 1000.0
_BEFORE: Final = 0.4
_AFTER: Final = 0.6


async def measure_kills(arena: Arena) -> None:
    """``kill -9`` of a process whose instances own, while another's stand by; the standby process is the next to be killed."""
    late: list[float] = []
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(open_servers())
        url = f"{servers.url}?storage=memory"

        async def start() -> Process:
            process = await stack.enter_async_context(
                open_process("on_nats.failover_parts:be_contender", url=url, many=_PAIRS, ttl=_TTL)
            )
            await process.ask("start")
            return process

        active = await start()
        await active.ask("wait_owning")
        for _ in range(2 if arena.quick else _KILLS):
            standby = await start()
            await standby.ask("wait_in_line")
            killed_at = time.monotonic()
            active.kill()
            late.extend(at - killed_at for at in numbers(await standby.ask("wait_owning")))
            active = standby
    p50, p99 = statistics.median(late), sorted(late)[int(0.99 * len(late))]
    text = f"p99 {{:.2f}} s, goal TTL + {_LATE:g} = {_TTL + _LATE:g}"
    arena.lines.append(
        Line(f"kill -9, TTL {_TTL:g} s: standby active", p50, p99, None, (at_most(p99, _TTL + _LATE, text),))
    )


async def measure_hand_overs(arena: Arena) -> None:
    """An owner leaves its block of `serve` under 1,000 calls a second, and comes back as the standby of who took over."""
    for count, title, settings in ((1, "one server, in memory", "storage=memory"), (3, "three servers", "replicas=3")):
        await _hand_over(arena, count, title, settings)


async def _hand_over(arena: Arena, count: int, title: str, settings: str) -> None:
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(open_servers(count))
        url = f"{servers.url}?{settings}"

        async def start(part: str, **more: object) -> Process:
            profiled = arena.watch.profiled
            return await stack.enter_async_context(
                open_process(f"on_nats.failover_parts:{part}", profiled=profiled, url=url, **more)
            )

        active = await start("be_contender", many=1, ttl=30.0)
        await active.ask("start")
        await active.ask("wait_owning")
        standby = await start("be_contender", many=1, ttl=30.0)
        caller = await start("be_caller")
        await _call(caller, None)  # to warm up
        undisturbed: list[float] = []
        gaps: list[float] = []
        answered, failed = 0.0, dict[str, int]()
        for _ in range(2 if arena.quick else _HAND_OVERS):
            await standby.ask("start")
            await standby.ask("wait_in_line")
            undisturbed.append(number((await _call(caller, None))["gap"]))
            found = await _call(caller, active)
            await standby.ask("wait_owning")
            gaps.append(number(found["gap"]))
            answered += number(found["answered"])
            assert isinstance(found["failed"], dict)
            for code, times in found["failed"].items():
                failed[code] = failed.get(code, 0) + times
            active, standby = standby, active
    arena.line(
        f"hand-over at {_RATE:,.0f} calls/s, {title}",
        None,
        at_most(sum(failed.values()), 0, f"{{}} failed calls of {answered:,.0f}{_named(failed)}, goal 0"),
        at_most(
            max(gaps) * 1e3, 20.0, f"no answer for {{:.1f}} ms (median {statistics.median(gaps) * 1e3:.1f}), goal 20"
        ),
    )
    median, longest = statistics.median(undisturbed) * 1e3, max(undisturbed) * 1e3
    arena.line("  beside it, without a hand-over", note=f"no answer for {longest:.1f} ms (median {median:.1f})")


def _named(failed: dict[str, int]) -> str:
    return f" ({', '.join(f'{times} {code}' for code, times in failed.items())})" if failed else ""


async def _call(caller: Process, leaving: Process | None) -> dict[str, object]:
    """Let *caller* call for a second or so while *leaving* leaves; what it told."""
    await caller.ask("start", rate=_RATE)
    await trio.sleep(_BEFORE)
    if leaving is not None:
        await leaving.ask("leave", name=MEASURED_HAND_OVERS[0])
    await trio.sleep(_AFTER)
    found = await caller.ask("stop")
    assert isinstance(found, dict)
    return found

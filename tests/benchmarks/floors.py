"""What everything is compared with: the least that Trio and MessagePack cost, and a library that does a like job."""

from __future__ import annotations

import asyncio  # noqa: TID251 - the peer's loop, in a thread of its own
import importlib.util
from functools import partial
from time import perf_counter
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]
import trio

from tests.benchmarks.measuring import Contestant, Watch

__all__ = ["PARAMS", "floor", "floor_at_once", "peer", "peer_is_here"]

PARAMS: Final[dict[str, Any]] = {"currency": "EUR", "as_of": "2024-05-01", "branch": "north", "limit": 100}
"""What is sent and what comes back, 51 bytes packed."""

AT_ONCE: Final = 64


async def echo(params: dict[str, object]) -> dict[str, object]:
    """The no-op: it answers what it got."""
    return params


async def call(nursery: trio.Nursery) -> object:
    """The floor of a call: spawn a task, let it run a no-op, be woken by it; MessagePack both ways."""
    request = msgpack.packb(PARAMS)
    done = trio.Event()
    answer = b""

    async def handle() -> None:
        nonlocal answer
        answer = msgpack.packb(await echo(msgpack.unpackb(request)))
        done.set()

    nursery.start_soon(handle)
    await done.wait()
    return msgpack.unpackb(answer)


async def _floor(operations: int, watch: Watch) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(operations):
            watch.start("floor")
            await call(nursery)
            watch.stop()


async def _floor_at_once(operations: int, watch: Watch) -> None:
    seconds: list[float] = []

    async def work(nursery: trio.Nursery) -> None:
        for _ in range(operations // AT_ONCE):
            began = perf_counter()
            await call(nursery)
            seconds.append(perf_counter() - began)

    async with trio.open_nursery() as handlers:
        watch.start("floor-64")
        async with trio.open_nursery() as callers:
            for _ in range(AT_ONCE):
                callers.start_soon(work, handlers)
        watch.stop(seconds=seconds)


def floor(operations: int = 500) -> Contestant:
    """The floor, one call at a time; filed as ``floor``."""
    return Contestant(_floor, operations)


def floor_at_once(operations: int = 1280) -> Contestant:
    """The floor with 64 callers; filed as ``floor-64``."""
    return Contestant(_floor_at_once, operations)


def peer_is_here() -> bool:
    """Whether FastStream and the client of its NATS broker are installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("faststream", "nats"))


def _run_peer(operations: int, watch: Watch, *, at_once: int, name: str) -> None:
    """Requests to FastStream's in-memory test broker, which calls the subscriber and hands back its answer."""
    from faststream.nats import NatsBroker, TestNatsBroker

    broker = NatsBroker()

    @broker.subscriber("balance")
    async def balance(message: dict[str, object]) -> dict[str, object]:
        return message

    async def main() -> None:
        seconds: list[float] = []

        async def work() -> None:
            for _ in range(max(1, operations // at_once)):
                began = perf_counter()
                answer = await fake.request(PARAMS, "balance")
                await answer.decode()
                seconds.append(perf_counter() - began)

        async with TestNatsBroker(broker) as fake:
            await work()
            seconds.clear()
            watch.start(name)
            await asyncio.gather(*(work() for _ in range(at_once)))
            watch.stop(seconds=seconds)

    asyncio.run(main())


async def _peer(operations: int, watch: Watch, *, at_once: int, name: str) -> None:
    await trio.to_thread.run_sync(partial(_run_peer, operations, watch, at_once=at_once, name=name))


def peer(operations: int = 128) -> tuple[Contestant, Contestant]:
    """FastStream's test broker, one request at a time (``peer``) and 64 at once (``peer-64``)."""
    return (
        Contestant(partial(_peer, at_once=1, name="peer"), operations),
        Contestant(partial(_peer, at_once=AT_ONCE, name="peer-64"), operations),
    )

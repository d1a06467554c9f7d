"""How long a node takes to load its view of a bucket, and what it takes in memory, beside a bare consumer of the same bucket.

Each load is one by a fresh process. The bare consumer is our client's, which drops what it reads; the floor is a blocking
socket that does the same.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import attrs

from aegis_backends.nats.server import NatsServers, open_servers
from tests.benchmarks.looking_up import resource
from tests.benchmarks.measuring import Arena, Contestant, Times, Watch, at_most
from tests.benchmarks.parts.processes import file_taken, number, open_process

__all__ = ["MEASURED", "MEASURED_MILLION", "measure", "measure_million"]

MEASURED: Final = ("nats-view",)
MEASURED_MILLION: Final = ("nats-view-of-a-million",)

_MANY: Final = 100_000
_MILLION: Final = 1_000_000


@attrs.frozen
class _Bucket:
    servers: NatsServers
    name: str
    many: int

    @property
    def url(self) -> str:
        return f"{self.servers.url}?storage=memory&bucket={self.name}"


@asynccontextmanager
async def _filled(*sizes: int) -> AsyncIterator[list[_Bucket]]:
    async with open_servers() as servers:
        buckets = [_Bucket(servers, f"of-{many}", many) for many in sizes]
        for bucket in buckets:
            part = partial(open_process, "on_nats.view_parts:fill_bucket", url=bucket.url, location=servers.location)
            async with part(bucket=bucket.name) as filler:
                await filler.ask("write", many=bucket.many)
        yield buckets


async def _read(operations: int, watch: Watch, *, bucket: _Bucket, part: str, name: str) -> None:
    for _ in range(operations):
        settings = {"url": bucket.servers.url, "stream": f"KV_{bucket.name}", "many": bucket.many}
        async with open_process(f"on_nats.view_parts:{part}", profiled=watch.profiled, **settings) as reader:
            file_taken(watch, name, await reader.ask("load", name=name))


async def _load(operations: int, watch: Watch, *, bucket: _Bucket, name: str) -> None:
    for _ in range(operations):
        async with open_process("on_nats.view_parts:load_view", profiled=watch.profiled, url=bucket.url) as loader:
            found = await loader.ask("load", name=name, resource_id=resource(bucket.many - 1))
        assert isinstance(found, dict)
        file_taken(watch, name, found["taken"])
        for what in ("kept", "most"):
            watch.file(f"{name} {what}", number(found[what]))


def _contestant(bucket: _Bucket, name: str) -> Contestant:
    return Contestant(partial(_load, bucket=bucket, name=name), 1)


async def measure(arena: Arena) -> None:
    """100,000 resources; a tenth of it to try."""
    async with _filled(_MANY // 10 if arena.quick else _MANY) as (bucket,):
        found = await arena.compete(
            Contestant(partial(_read, bucket=bucket, part="read_socket", name="socket"), 1),
            Contestant(partial(_read, bucket=bucket, part="read_bare", name="bare"), 1),
            _contestant(bucket, *MEASURED),
            rounds=5,
        )
    bare, view = found["bare"], found[MEASURED[0]]
    arena.line(f"floor: {bucket.many:,} records over a blocking socket", found["socket"])
    arena.line(f"a bare consumer of {bucket.many:,}", bare)
    goal = at_most(view.p50 / bare.p50, 2.5, "{:.2f} x a bare consumer, goal 2.5")
    arena.line(f"load of a view of {bucket.many:,}", view, goal)
    arena.line("  its cpu", found[f"{MEASURED[0]} cpu"])
    arena.line("  its memory", note=_memory(found, MEASURED[0], bucket.many))


async def measure_million(arena: Arena) -> None:
    """1,000,000 resources beside 100,000; a tenth of both to try."""
    sizes = (_MANY // 10, _MILLION // 10) if arena.quick else (_MANY, _MILLION)
    name = MEASURED_MILLION[0]
    async with _filled(*sizes) as (fewer, more):
        found = await arena.compete(_contestant(fewer, "fewer"), _contestant(more, name), rounds=1)
    few, many = found["fewer"], found[name]
    arena.line(f"load of a view of {fewer.many:,}", few)
    arena.line("  its memory", note=_memory(found, "fewer", fewer.many))
    arena.line(f"load of a view of {more.many:,}", many, at_most(many.p50 / few.p50, 12.0, "{:.1f} x, goal 12"))
    for what, title in {"kept": "its memory", "most": "its memory at most, while loading"}.items():
        ratio = found[f"{name} {what}"].p50 / found[f"fewer {what}"].p50
        arena.line(f"  {title}", None, at_most(ratio, 12.0, "{:.1f} x, goal 12"))


def _memory(found: dict[str, Times], name: str, many: int) -> str:
    kept, most = found[f"{name} kept"].p50, found[f"{name} most"].p50
    return f"{kept / many:.0f} bytes a resource, {most / many:.0f} at most while loading"

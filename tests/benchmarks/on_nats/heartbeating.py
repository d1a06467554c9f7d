"""What the heartbeats of many instances cost a process that does nothing else."""

from __future__ import annotations

from typing import Final

from aegis_backends.nats.server import open_servers
from tests.benchmarks.measuring import Arena, at_most
from tests.benchmarks.parts.processes import number, open_process

__all__ = ["MEASURED", "measure"]

MEASURED: Final = ("nats-heartbeats",)

_INSTANCES: Final = 1000
_SETTLING: Final = 2.0


async def measure(arena: Arena) -> None:
    """1,000 instances with the default lease of 30 s, which is renewed every 10 s, over two such intervals."""
    many, seconds = (_INSTANCES // 10, 10.0) if arena.quick else (_INSTANCES, 20.0)
    async with (
        open_servers() as servers,
        open_process(
            "on_nats.view_parts:beat", profiled=arena.watch.profiled, url=f"{servers.url}?storage=memory", many=many
        ) as process,
    ):
        await process.ask("use", seconds=_SETTLING)
        share = number(await process.ask("use", name=MEASURED[0], seconds=seconds))
    arena.line(f"heartbeats of {many:,} instances", None, at_most(share * 100, 10.0, "{:.1f} % of a core, goal 10"))

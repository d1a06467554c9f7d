"""What contends in a scenario on NATS: one process that measures, and perhaps one that answers it."""

from __future__ import annotations

from functools import partial
from typing import Final

from tests.benchmarks.measuring import Contestant, Watch
from tests.benchmarks.on_nats.processes import Process, file_taken, number

__all__ = ["AT_ONCE", "contestant"]

AT_ONCE: Final = 64


async def _run(
    operations: int,
    watch: Watch,
    *,
    name: str,
    client: Process,
    server: Process | None,
    do: str,
    arguments: dict[str, object],
) -> None:
    used = 0.0 if server is None else number(await server.ask("begin", name=name))
    taken = await client.ask(do, name=name, count=operations, **arguments)
    many = file_taken(watch, name, taken)
    if server is not None:
        used = number(await server.ask("end", name=name)) - used
        watch.file(f"{name} cpu of server", used / many)


def contestant(
    name: str,
    operations: int,
    client: Process,
    *,
    server: Process | None = None,
    do: str = "measure",
    **arguments: object,
) -> Contestant:
    """Let *client* carry *operations* out in each round, by its act *do*, and file them as *name*.

    The processor time per operation is filed, too, as "*name* cpu" and "*name* cpu of server".
    """
    run = partial(_run, name=name, client=client, server=server, do=do, arguments=arguments)
    return Contestant(run, operations)

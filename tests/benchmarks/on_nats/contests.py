"""What contends in a scenario on NATS: one process that measures, and perhaps one that answers it."""

from __future__ import annotations

from collections.abc import Mapping
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
    arguments: Mapping[str, object],
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
    arguments: Mapping[str, object] | None = None,
    *,
    do: str = "measure",
    server: Process | None = None,
) -> Contestant:
    """Let *client* carry *operations* out in each round, and file them as *name*.

    The processor time per operation is filed, too, as "*name* cpu" and "*name* cpu of server".

    Args:
        name: What is measured.
        operations: How many in each round.
        client: The process that measures.
        arguments: Of its act.
        do: The name of its act.
        server: The process whose processor time is of interest as well.
    """
    run = partial(_run, name=name, client=client, server=server, do=do, arguments=arguments or {})
    return Contestant(run, operations)

"""What contends in a scenario of several processes: one that measures, and those that answer it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final

from tests.benchmarks.measuring import Contestant, Watch
from tests.benchmarks.parts.processes import Process, file_taken, number

__all__ = ["AT_ONCE", "contestant"]

AT_ONCE: Final = 64


async def _run(
    operations: int,
    watch: Watch,
    *,
    name: str,
    client: Process,
    servers: Mapping[str, Process],
    do: str,
    arguments: Mapping[str, object],
) -> None:
    used = {who: number(await server.ask("begin", name=name)) for who, server in servers.items()}
    taken = await client.ask(do, name=name, count=operations, **arguments)
    many = file_taken(watch, name, taken)
    for who, server in servers.items():
        watch.file(f"{name} cpu of {who}", (number(await server.ask("end", name=name)) - used[who]) / many)


def contestant(
    name: str,
    operations: int,
    client: Process,
    arguments: Mapping[str, object] | None = None,
    *,
    do: str = "measure",
    servers: Mapping[str, Process] | None = None,
) -> Contestant:
    """Let *client* carry *operations* out in each round, and file them as *name*.

    The processor time per operation is filed, too, as "*name* cpu", and "*name* cpu of ..." for each of *servers*.

    Args:
        name: What is measured.
        operations: How many in each round.
        client: The process that measures.
        arguments: Of its act.
        do: The name of its act.
        servers: The processes whose processor time is of interest as well, by what they are called.
    """
    run = partial(_run, name=name, client=client, servers=servers or {}, do=do, arguments=arguments or {})
    return Contestant(run, operations)

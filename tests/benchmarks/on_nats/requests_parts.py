"""Parts of the benchmark of requests: our client, and the minimal one. Both ask the bare responder."""

from __future__ import annotations

from functools import partial

import trio

from aegis_backends.nats.connection import open_connection
from tests.benchmarks.on_nats.bare_socket import RESPONDER
from tests.benchmarks.on_nats.minimal import open_minimal
from tests.benchmarks.parts.commands import Commands, Taken, obey, rounds

__all__ = ["ask_minimal", "ask_ours"]

_PATIENCE = 10.0


def ask_ours(commands: Commands, url: str) -> None:
    """Ask with our client."""

    async def main() -> None:
        async with open_connection([url]) as connection:

            async def measure(count: int, together: int, size: int) -> Taken:
                operation = partial(connection.request, RESPONDER, b"x" * size, timeout=_PATIENCE)
                return await rounds(count, together, operation)

            await obey(commands, {"measure": measure})

    trio.run(main)


def ask_minimal(commands: Commands, url: str, *, with_timeout: bool) -> None:
    """Ask with the minimal client."""

    async def main() -> None:
        async with open_minimal(url) as minimal:

            async def measure(count: int, together: int, size: int) -> Taken:
                subject, payload = RESPONDER.encode(), b"x" * size
                if with_timeout:
                    operation = partial(minimal.request_within, subject, payload, _PATIENCE)
                else:
                    operation = partial(minimal.request, subject, payload)
                return await rounds(count, together, operation)

            await obey(commands, {"measure": measure})

    trio.run(main)

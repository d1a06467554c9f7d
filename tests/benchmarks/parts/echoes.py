"""Our node on either side of a call that echoes bytes, by service or by resource; on any backend."""

from __future__ import annotations

from typing import Final

import trio

from aegis_core import Call, Service, open_node
from tests.benchmarks.parts.commands import Commands, Taken, obey, rounds

__all__ = ["PATIENCE", "RESOURCE", "call", "serve"]

RESOURCE: Final = "account:42"
PATIENCE: Final = 10.0

echoes = Service("echo-service", version="1.0.0")


@echoes.method
async def echo(call: Call, data: bytes) -> bytes:
    """Answer what was sent."""
    return data


def serve(commands: Commands, url: str) -> None:
    """Serve the echo, and own the resource."""

    async def main() -> None:
        async with open_node(url) as node, node.serve(echoes) as instance:
            await instance.claim(RESOURCE)
            await obey(commands, {})

    trio.run(main)


def call(commands: Commands, url: str) -> None:
    """Call the echo through a node."""

    async def main() -> None:
        async with open_node(url) as node:

            async def measure(count: int, together: int, size: int, resource: str | None) -> Taken:
                params = {"data": b"x" * size}

                async def operation() -> None:
                    await node.call("echo-service", "echo", params, resource_id=resource, timeout=PATIENCE)

                return await rounds(count, together, operation)

            await obey(commands, {"measure": measure})

    trio.run(main)

"""uvicorn with httptools' parser, as a part of a benchmark."""

from __future__ import annotations

import asyncio  # noqa: TID251 - uvicorn's loop, in a process of its own
from collections.abc import Mapping
from typing import Any, Final

import uvicorn

from tests.benchmarks.parts import on_asyncio
from tests.benchmarks.parts.commands import Act, Commands

__all__ = ["serve"]

_KEPT_ALIVE: Final = 600


def serve(commands: Commands, app: Any, acts: Mapping[str, Act]) -> None:  # noqa: ANN401 - FastAPI's types are its own
    """Serve *app*, and tell the port, until the commands end; connections may be idle for ten minutes."""
    config = uvicorn.Config(
        app,
        port=0,
        http="httptools",
        loop="asyncio",
        lifespan="off",
        access_log=False,
        log_level="warning",
        timeout_keep_alive=_KEPT_ALIVE,
    )

    async def main() -> None:
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 - it offers nothing to wait for
            await asyncio.sleep(0.01)
        port: int = server.servers[0].sockets[0].getsockname()[1]

        async def tell() -> int:
            return port

        await on_asyncio.obey(commands, {"port": tell, **acts})
        server.should_exit = True
        await serving

    asyncio.run(main())

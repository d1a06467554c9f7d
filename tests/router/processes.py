"""Routers in processes of their own, as ``aegis serve`` starts them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

PATIENCE = 60.0
_PROGRAM = "import sys; from aegis_core.cli import main; sys.exit(main())"


class RouterProcess:
    """One router.

    Args:
        arguments: Of ``aegis serve``.
    """

    def __init__(self, *arguments: str) -> None:
        self._command = [sys.executable, "-c", _PROGRAM, "serve", *arguments]
        self._process: trio.Process | None = None
        self.url = ""

    @property
    def process(self) -> trio.Process:
        """The process; it has been started."""
        assert self._process is not None
        return self._process

    async def start(self) -> None:
        """Start it, and wait until it says where it serves."""
        self._process = await trio.lowlevel.open_process(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self._process.stdout is not None
        said, awaited = b"", b"serving http" if "--http" in self._command else b"serving ipc"
        with trio.fail_after(PATIENCE):
            while not said.endswith(b"\n") or awaited not in said:
                part = await self._process.stdout.receive_some()
                assert part, f"it ended with status {await self._process.wait()}"
                said += part
        self.url = said.decode().split()[-1]

    async def kill(self) -> None:
        """As ``kill -9`` does it."""
        self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def open_router(*arguments: str) -> AsyncIterator[RouterProcess]:
    """A router while the block runs; afterwards none, however it went."""
    router = RouterProcess(*arguments)
    await router.start()
    try:
        yield router
    finally:
        with trio.CancelScope(shield=True):
            if router.process.returncode is None:
                await router.kill()


async def eventually(condition: Callable[[], object]) -> None:
    """Wait until *condition* holds, which another process brings about."""
    with trio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 - another process sets no event
            await trio.sleep(0.02)


async def free_port() -> int:
    """A port of loopback that nobody listens on."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        port: int = listener.socket.getsockname()[1]
    return port

"""Programs of the tests in processes of their own, and what they say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

__all__ = ["PATIENCE", "ROUTER", "WORKER", "Program", "eventually", "free_port", "open_programs"]

PATIENCE: Final = 60.0
"""Seconds within which whatever must happen has happened."""

WORKER: Final = (sys.executable, str(Path(__file__).with_name("worker.py")))
"""How the worker is started."""

ROUTER: Final = (sys.executable, "-c", "import sys; from aegis_core.cli import main; sys.exit(main())", "serve")
"""How ``aegis serve`` is started, wherever its script lies."""


class Program:
    """One process. `lines` is what it has said so far, `has_ended` whether that was all.

    Args:
        *command: What to run.
    """

    def __init__(self, *command: str) -> None:
        self.lines: list[str] = []
        self.has_ended = False
        self._command = command
        self._process: trio.Process | None = None

    async def run(self) -> None:
        """Start it, and read what it says until it ends."""
        self._process = await trio.lowlevel.open_process(list(self._command), stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        rest = b""
        try:
            async with self._process.stdout as said:
                async for part in said:
                    *whole, rest = (rest + part).split(b"\n")
                    self.lines += [line.decode() for line in whole]
        finally:
            self._process.kill()
            with trio.CancelScope(shield=True):
                await self._process.wait()
            self.has_ended = True

    async def said(self, word: str) -> str:
        """The rest of the first line that begins with *word*, once it was said."""
        await eventually(lambda: self.saying(word) or self.has_ended)
        assert self.saying(word), f"it ended, and had said {self.lines}"
        return self.saying(word)[0]

    def saying(self, word: str) -> list[str]:
        """The rests of all lines that begin with *word*."""
        return [line.removeprefix(word).strip() for line in self.lines if line.split()[:1] == [word]]

    async def kill(self) -> None:
        """As ``kill -9`` does it."""
        assert self._process is not None
        self._process.kill()
        await self._process.wait()


@asynccontextmanager
async def open_programs() -> AsyncIterator[Callable[..., Program]]:
    """Yields what starts a program, given its command; when the block is left none runs any more, however it went."""
    async with trio.open_nursery() as nursery:

        def start(*command: str) -> Program:
            program = Program(*command)
            nursery.start_soon(program.run)
            return program

        yield start
        nursery.cancel_scope.cancel()


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

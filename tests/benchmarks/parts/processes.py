"""The processes of a benchmark as the one sees them that tells them what to do."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from tests.benchmarks.measuring import Watch

__all__ = ["Process", "file_taken", "number", "numbers", "open_process"]

_PROGRAM: Final = Path(__file__).with_name("program.py")
_PATIENCE: Final = 300.0
_GOODBYE: Final = 15.0


class Process:
    """A process that plays a part, and does what it is asked. Made by `open_process`.

    Args:
        part: Which.
        process: As it was started.
    """

    def __init__(self, part: str, process: trio.Process) -> None:
        self._part: Final = part
        self._process: Final = process
        self._heard = b""

    def __repr__(self) -> str:
        return f"<Process {self._process.pid} that plays {self._part}>"

    async def ask(self, do: str, **arguments: object) -> object:
        """Let it do *do*; the result.

        Raises:
            RuntimeError: It ended, or did not answer within five minutes.
        """
        await self.tell(do, **arguments)
        return await self.answer()

    async def tell(self, do: str, **arguments: object) -> None:
        """Let it do *do*, and do not wait for the `answer`."""
        assert self._process.stdin is not None
        try:
            await self._process.stdin.send_all(f"{json.dumps({'do': do, **arguments})}\n".encode())
        except trio.BrokenResourceError:
            raise RuntimeError(f"{self!r} ended") from None

    async def answer(self) -> object:
        """What became of what it was told."""
        assert self._process.stdout is not None
        with trio.move_on_after(_PATIENCE):
            while b"\n" not in self._heard:
                more = await self._process.stdout.receive_some()
                if not more:
                    raise RuntimeError(f"{self!r} ended")
                self._heard += more
            line, _, self._heard = self._heard.partition(b"\n")
            return json.loads(line)
        raise RuntimeError(f"{self!r} did not answer within {_PATIENCE:g} s")

    def kill(self) -> None:
        """``kill -9``."""
        self._process.send_signal(signal.SIGKILL)

    async def end(self) -> None:
        """Let it end: its commands do, and by force when that does not help."""
        assert self._process.stdin is not None
        await self._process.stdin.aclose()
        with trio.move_on_after(_GOODBYE):
            await self._process.wait()
        if self._process.returncode is None:
            self.kill()
            await self._process.wait()


@asynccontextmanager
async def open_process(part: str, *, profiled: str = "", **settings: object) -> AsyncIterator[Process]:
    """Start a process that plays *part* (``package.module:function`` of the benchmarks), ready when this yields; ended with the block.

    Args:
        part: Which.
        profiled: What it is to profile.
        settings: Arguments of the part.
    """
    started = await trio.lowlevel.open_process(
        [sys.executable, "-P", str(_PROGRAM), part, json.dumps(settings), "--profile", profiled],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    process = Process(part, started)
    try:
        await process.ask("begin")
        yield process
    finally:
        with trio.CancelScope(shield=True):
            await process.end()


def file_taken(watch: Watch, name: str, taken: object) -> float:
    """File under *name* what a process told that it took, its processor time under "… cpu"; how many operations they were."""
    assert isinstance(taken, dict)
    seconds = numbers(taken["seconds"])
    watch.file_all(name, seconds, number(taken["elapsed"]) / len(seconds))
    watch.file(f"{name} cpu", number(taken["cpu"]) / len(seconds))
    return len(seconds)


def number(told: object) -> float:
    """What a process told, which must be a number."""
    assert isinstance(told, int | float)
    return told


def numbers(told: object) -> Sequence[float]:
    """What a process told, which must be numbers."""
    assert isinstance(told, list)
    return [number(each) for each in told]

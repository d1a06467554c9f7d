"""Processes that belong to this one: told what to do in lines of JSON, and gone when this one is.

A process that is killed with -9 can tell nobody. But the system closes its pipes, and a child whose standard input has
come to its end knows that its parent is no more. So both sides here are a pipe: `open_child` is the parent's, `Parent`
the child's.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio

_FOLDER = Path(__file__).parents[1]
_CHUNK = 65536

Message = dict[str, Any]


class ChildFailed(Exception):
    """A process of the demo could not do its work, or ended before its time; the message says why."""


class Child:
    """A process, from its parent's side. Made by `open_child`."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._heard = b""

    def __repr__(self) -> str:
        """Show the process id."""
        return f"<Child: process {self.pid}>"

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def stdin(self) -> int:
        """The descriptor of the pipe to its standard input."""
        assert isinstance(self._process.stdin, trio.lowlevel.FdStream)
        return self._process.stdin.fileno()

    async def tell(self, message: Message) -> None:
        """Send it one message; one that is gone does not hear it."""
        assert self._process.stdin is not None
        with contextlib.suppress(trio.BrokenResourceError):
            await self._process.stdin.send_all(_line(message))

    async def hear(self) -> Message | None:
        """Wait for its next message; None when it has ended.

        Raises:
            ChildFailed: It says that it failed, and why.
        """
        assert self._process.stdout is not None
        while b"\n" not in self._heard:
            more = await self._process.stdout.receive_some(_CHUNK)
            if not more:
                return None
            self._heard += more
        line, _, self._heard = self._heard.partition(b"\n")
        message: Message = json.loads(line)
        if "failed" in message:
            raise ChildFailed(message["failed"])
        return message

    async def wait(self) -> int:
        """Wait until it has ended; returns its exit status, negative for the signal that killed it."""
        return await self._process.wait()

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._process.kill()


@asynccontextmanager
async def open_child(
    module: str,
    *,
    end: Callable[[trio.Process], Awaitable[None]] | None = None,
    lifelines: Sequence[int] = (),
) -> AsyncIterator[Child]:
    """Run ``python -m`` *module* while the block runs.

    Args:
        module: Found beside this package, or installed.
        end: Ends the process when the block is left before it has ended; it is killed by default. Whatever this does,
            the block is not left before the process is gone.
        lifelines: Descriptors that the process holds open as long as it lives.
    """
    path = os.pathsep.join(filter(None, (str(_FOLDER), os.environ.get("PYTHONPATH"))))
    run = partial(
        trio.run_process,
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        check=False,
        deliver_cancel=end or _kill,
        pass_fds=lifelines,
        env={**os.environ, "PYTHONPATH": path},
        # Ctrl-C at a terminal is for the program in front, which then ends its children itself.
        start_new_session=True,
    )
    async with trio.open_nursery() as nursery:
        yield Child(await nursery.start(run))
        nursery.cancel_scope.cancel()


async def close_stdin(process: trio.Process) -> None:
    """Let a process know that it is time to go, for `open_child`."""
    assert process.stdin is not None
    await process.stdin.aclose()


async def _kill(process: trio.Process) -> None:
    process.kill()
    await trio.lowlevel.checkpoint()


class Parent:
    """The process that started this one, from the child's side: made once, by the child's program."""

    def __init__(self) -> None:
        self._heard = b""

    def tell(self, message: Message) -> None:
        """Send it one message, if it still hears. Blocks for as long as a write to a pipe does."""
        with contextlib.suppress(BrokenPipeError):
            os.write(sys.stdout.fileno(), _line(message))

    async def hear(self) -> Message | None:
        """Wait for its next message; None when it is no more, or wants this process to end."""
        while b"\n" not in self._heard:
            # In a thread, because not every system can wait for a pipe otherwise. No lock is held meanwhile, so that
            # the process can end while it waits.
            more = await trio.to_thread.run_sync(os.read, sys.stdin.fileno(), _CHUNK, abandon_on_cancel=True)
            if not more:
                return None
            self._heard += more
        line, _, self._heard = self._heard.partition(b"\n")
        message: Message = json.loads(line)
        return message


def _line(message: Message) -> bytes:
    return json.dumps(message).encode() + b"\n"

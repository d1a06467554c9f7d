"""Another client as a process beside the test: nats-py, which shares no code with ours."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio

PROGRAM = Path(__file__).with_name("nats_py.py")


@attrs.define(eq=False)
class Peer:
    """What the process is told, and tells."""

    process: trio.Process
    messages: list[dict[str, Any]] = attrs.field(factory=list)
    _held: bytes = b""

    async def do(self, command: str, subject: str = "", **more: object) -> dict[str, Any]:
        """Have *command* carried out, and return what is told of it; messages that come meanwhile are kept."""
        assert self.process.stdin is not None
        line = json.dumps({"do": command, "subject": subject, **more}) + "\n"
        await self.process.stdin.send_all(line.encode())
        return await self.done(command)

    async def done(self, command: str) -> dict[str, Any]:
        """What is told of *command*."""
        while True:
            told = await self._told()
            if told.get("done") == command:
                return told
            self.messages.append(told["message"])

    async def message(self) -> dict[str, Any]:
        """The next message that the peer got."""
        while not self.messages:
            self.messages.append((await self._told())["message"])
        return self.messages.pop(0)

    async def _told(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        with trio.fail_after(60):
            while b"\n" not in self._held:
                more = await self.process.stdout.receive_some()
                assert more, "the peer has ended"
                self._held += more
        line, _, self._held = self._held.partition(b"\n")
        told: dict[str, Any] = json.loads(line)
        return told


@asynccontextmanager
async def open_peer(url: str) -> AsyncIterator[Peer]:
    """nats-py connected to the server at *url*, within the block."""
    run = partial(trio.run_process, [sys.executable, PROGRAM, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    async with trio.open_nursery() as nursery:
        peer = Peer(await nursery.start(run))
        await peer.done("connect")
        yield peer
        nursery.cancel_scope.cancel()

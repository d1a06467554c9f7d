"""Routers in processes, killed one after the other under load: whatever a client asks for comes to be, and just once."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import attrs
import trio

from aegis_backends.nats.server import NatsServers
from aegis_core.node.call import Call
from aegis_core.node.node import open_node
from aegis_core.node.service import Service
from tests.conformance.test_nats import one_server
from tests.router.processes import PATIENCE, RouterProcess, open_router

__all__ = ["one_server"]

MORE = 60
OPERATIONS = (
    "service.register",
    "service.heartbeat",
    "service.unregister",
    "resource.register",
    "resource.bulk_register",
    "resource.query",
    "resource.transfer",
    "resource.release",
    "resource.bulk_release",
)
"""What each life of the client's instances asks for at least once, besides the calls."""


@attrs.define(eq=False)
class Counting:
    """A service that counts the calls that it carries out."""

    number: int = 0

    @property
    def service(self) -> Service:
        """It."""
        service = Service("counter", version="1")

        @service.method
        async def count(call: Call) -> int:
            self.number += 1
            number = self.number
            await trio.sleep(0.01)
            return number

        @service.method(idempotent=True)
        async def echo(call: Call, said: str) -> str:
            await trio.sleep(0.01)
            return said

        return service


class Program:
    """The client in its process.

    Args:
        process: It has been started.
    """

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._said = b""

    async def line(self) -> dict[str, Any]:
        """What it says next."""
        assert self._process.stdout is not None
        with trio.fail_after(PATIENCE):
            while b"\n" not in self._said:
                part = await self._process.stdout.receive_some()
                assert part, "it ended"
                self._said += part
        first, _, self._said = self._said.partition(b"\n")
        said: dict[str, Any] = json.loads(first)
        return said

    async def wait_more(self) -> None:
        """Wait until it has done more of everything."""
        before = await self.line()
        wanted = {"calls": MORE, "echoes": MORE // 3, "claims": MORE // 3, "beats": 1, "lives": 2}
        while True:
            now = await self.line()
            if all(now[what] >= before[what] + more for what, more in wanted.items()):
                return

    async def end(self) -> dict[str, Any]:
        """Let it end; what it did."""
        assert self._process.stdin is not None
        await self._process.stdin.aclose()
        while "failures" not in (said := await self.line()):
            pass
        return said


async def test_no_call_fails_when_routers_are_killed_and_stopped(one_server: NatsServers) -> None:
    """Of three routers each is killed and started anew, one after the other; and then one is stopped."""
    backend = f"nats://{one_server.location}?bucket=under-load&storage=memory&replicas=1"
    counting = Counting()
    program = str(Path(__file__).with_name("plain_client.py"))
    async with AsyncExitStack() as stack:
        routers = [await stack.enter_async_context(open_router("--backend", backend)) for _ in range(3)]
        node = await stack.enter_async_context(open_node(backend))
        await stack.enter_async_context(node.serve(counting.service))
        process = await trio.lowlevel.open_process(
            [sys.executable, program, one_server.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            client = Program(process)
            await client.wait_more()
            for router in routers:
                await router.kill()
                await client.wait_more()
                await router.start()
            await stop(routers[0])
            await client.wait_more()
            done = await client.end()
        finally:
            with trio.CancelScope(shield=True):
                process.kill()
                await process.wait()
        assert done["failures"] == []
        assert min(done[operation] for operation in OPERATIONS) >= done["lives"]
        results = done["results"]
        assert len(results) == done["calls"] >= 5 * MORE
        # Each was carried out once, and answered with what that returned.
        assert sorted(results) == list(range(1, counting.number + 1))


async def stop(router: RouterProcess) -> None:
    """As an upgrade stops it: with SIGTERM, and it ends in order."""
    router.process.terminate()
    with trio.fail_after(PATIENCE):
        assert await router.process.wait() == 0

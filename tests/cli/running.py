"""Commands of ``aegis``: in the test's own Trio run, beside the nodes that they look at, and as processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

from aegis_core import Call, Claim, Instance, Node, ResourceMetadata, Role, Service, open_node
from aegis_core.cli.app import build_app

__all__ = ["BACKEND", "PATIENCE", "PROGRAM", "Town", "rooms", "run_command", "run_program", "town"]

BACKEND = "memory://town"
PATIENCE = 60.0
PROGRAM = (str(Path(sys.executable).with_name("aegis")),)
"""The program as it is installed."""

rooms = Service("rooms", version="1.2.0")


@rooms.method
async def paint(call: Call, colour: str, coats: int = 1) -> dict[str, object]:
    """Say who paints what."""
    assert call.instance is not None
    return {"by": call.instance.instance_id, "room": call.resource_id, "colour": colour, "coats": coats}


@rooms.method
async def nap(call: Call, seconds: float) -> None:
    """Take so long."""
    await trio.sleep(seconds)


@rooms.on_acquire
async def enter(claim: Claim) -> str:
    """Whatever is handed over can be taken over."""
    return claim.resource_id


async def run_command(*arguments: str, backend: str | None = BACKEND) -> int:
    """Run a command with the line that a user would type; its exit status, or its error as it is raised."""
    line = [*arguments] if backend is None else [arguments[0], "--backend", backend, *arguments[1:]]
    command, bound, _ = build_app(*line[:1]).parse_args(line)
    return await command(*bound.args, **bound.kwargs) or 0


@attrs.frozen(eq=False)
class Town:
    """A node with two instances: ``a`` is active and owns two rooms, ``b`` stands by."""

    node: Node
    a: Instance
    b: Instance


@asynccontextmanager
async def town(backend: str = BACKEND) -> AsyncIterator[Town]:
    """What commands are tried on."""
    async with (
        open_node(backend) as node,
        node.serve(rooms, instance_id="a", role=Role.ACTIVE, metadata={"zone": "north"}) as a,
        node.serve(rooms, instance_id="b", role=Role.STANDBY) as b,
    ):
        await a.claim("room:1", metadata=ResourceMetadata(resource_type="room", tags=("blue", "big")))
        await a.claim("room:2")
        yield Town(node, a, b)


async def run_program(*arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run ``aegis`` as a process of its own, with what it printed."""
    with trio.fail_after(PATIENCE):
        return await trio.run_process(
            [*PROGRAM, *arguments],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env={**os.environ, **(env or {})},
        )

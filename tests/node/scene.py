"""A caller on a faulty wire, and the instances that it calls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs

from aegis_core.node.call import Call
from aegis_core.node.claims import Claim
from aegis_core.node.instance import Instance
from aegis_core.node.node import Node, open_node
from aegis_core.node.service import Service
from tests.node.wires import Wire

__all__ = ["RESOURCE", "Scene", "scene"]

RESOURCE = "account:1"


@attrs.define(eq=False)
class Scene:
    """A caller on a wire, one or two instances, and how often their methods were executed."""

    wire: Wire
    caller: Node
    host: Node
    a: Instance
    b: Instance | None
    executed: list[str]
    plain: object
    harmless: object

    async def call(self, method: str = "plain", **options: object) -> object:
        """Call, by resource if nothing else is said."""
        if "instance_id" not in options:
            options.setdefault("resource_id", RESOURCE)
        return await self.caller.call("account-service", method, **options)  # type: ignore[call-overload]


@asynccontextmanager
async def scene(*, second: bool = False, **config: object) -> AsyncIterator[Scene]:
    """Instance ``a`` owns the resource; with *second* there is a ``b``, too."""
    executed: list[str] = []
    service = Service("account-service")

    @service.method
    async def plain(call: Call) -> str:
        assert call.instance is not None
        executed.append(call.instance.instance_id)
        return call.instance.instance_id

    @service.method(idempotent=True)
    async def harmless(call: Call) -> str:
        return await plain(call)

    @service.on_acquire
    async def load(claim: Claim) -> str:
        return claim.resource_id

    wire = Wire()
    async with (
        wire.node(**config) as caller,
        open_node("memory://") as host,
        host.serve(service, instance_id="a") as a,
    ):
        await a.claim(RESOURCE)
        made = Scene(wire, caller, host, a, None, executed, plain, harmless)
        if not second:
            await caller.runtime.directory.sync()
            yield made
            return
        async with host.serve(service, instance_id="b") as made.b:
            await caller.runtime.directory.sync()
            yield made

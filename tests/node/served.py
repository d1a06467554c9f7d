"""One served instance, asked directly."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import attrs
import trio

from aegis_core import codec
from aegis_core.envelopes import RequestEnvelope
from aegis_core.node.call import Call
from aegis_core.node.instance import Instance
from aegis_core.node.node import Node, open_node
from aegis_core.node.server import Server
from aegis_core.node.service import Service

__all__ = ["Served", "served", "work"]


@attrs.define(eq=False)
class Served:
    """One served instance, and a way to send it requests that no client would."""

    node: Node
    instance: Instance

    @property
    def server(self) -> Server:
        """What serves it."""
        assert self.instance.incarnation is not None
        return self.instance.incarnation.server

    async def ask(self, method: str, *, timeout: float | None = 5.0, **fields: object) -> object:
        """Send one request; the result, or raise the error that was answered."""
        params = fields.pop("params", {})
        request = RequestEnvelope(method, params, timeout=timeout, **fields)  # type: ignore[arg-type]
        return codec.decode_result(await self.send(codec.encode_request(request)))

    async def send(self, payload: bytes) -> bytes:
        """Send *payload* as it is."""
        (transport,) = self.node.runtime.transports.values()
        endpoint = transport.endpoint(self.instance.instance_id, self.instance.lease_tag)
        return await transport.request(endpoint, payload, timeout=1000)


@asynccontextmanager
async def served(service: Service, *, plugins: Sequence[object] = (), **config: object) -> AsyncIterator[Served]:
    """*service* as instance ``a``."""
    async with (
        open_node("memory://", config=config, plugins=plugins) as node,
        node.serve(service, instance_id="a") as instance,
    ):
        yield Served(node, instance)


def work() -> Service:
    """A service with methods that wait, crash and answer."""
    service = Service("work")

    @service.method
    async def wait(call: Call, seconds: float = 1000.0) -> str:
        await trio.sleep(seconds)
        return "waited"

    @service.method
    async def crash(call: Call) -> None:
        raise ZeroDivisionError("by zero")

    @service.method
    async def ping(call: Call) -> str:
        return "pong"

    return service

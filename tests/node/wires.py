"""A node's way to the instances that it calls, on which a test can put any fault: a plug-in for URLs ``wired://name``.

The node joins the cluster ``memory://name``; its requests go over a `Wire`, which fails those that the test says.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import attrs
import trio

from aegis_backends.memory import open_memory
from aegis_core import codec
from aegis_core.backend import Backend, BackendAddress, Inbound, Transport, TransportUnavailable
from aegis_core.envelopes import AnswerEnvelope, RequestEnvelope
from aegis_core.errors import AegisError
from aegis_core.hookspecs import BackendRegistrar, hookimpl
from aegis_core.models import Outcome
from aegis_core.node.node import Node, open_node

__all__ = ["Fault", "Wire", "answer", "lose_answer", "lose_request", "refuse", "silence"]

Fault = Callable[["Wire", str, bytes, float], Awaitable[bytes]]


async def refuse(_wire: Wire, endpoint: str, _payload: bytes, _timeout: float) -> bytes:
    """Nobody listens: NOT_SENT."""
    await trio.lowlevel.checkpoint()
    raise TransportUnavailable(reason="refused by the test", endpoint=endpoint, outcome=Outcome.NOT_SENT)


async def lose_request(_wire: Wire, endpoint: str, _payload: bytes, _timeout: float) -> bytes:
    """The connection breaks before the request arrives, which the sender cannot know: MAYBE_EXECUTED."""
    await trio.lowlevel.checkpoint()
    raise TransportUnavailable(reason="broken by the test", endpoint=endpoint, outcome=Outcome.MAYBE_EXECUTED)


async def lose_answer(wire: Wire, endpoint: str, payload: bytes, timeout: float) -> bytes:
    """The request is carried out, then the connection breaks: MAYBE_EXECUTED."""
    await wire.inner.request(endpoint, payload, timeout=timeout)
    raise TransportUnavailable(reason="broken by the test", endpoint=endpoint, outcome=Outcome.MAYBE_EXECUTED)


async def silence(_wire: Wire, _endpoint: str, _payload: bytes, timeout: float) -> bytes:
    """Nothing comes back."""
    await trio.sleep(timeout)
    raise trio.TooSlowError


def answer(error: AegisError) -> Fault:
    """The instance answers with *error*."""

    async def fault(_wire: Wire, _endpoint: str, _payload: bytes, _timeout: float) -> bytes:
        await trio.lowlevel.checkpoint()
        return codec.encode_answer(AnswerEnvelope(None, error))

    return fault


@attrs.define(eq=False)
class Wire:
    """The transport of one node: the cluster's own, with the faults that a test puts on the next requests.

    Args:
        faults: What happens to the next requests, in turn; then all is well.
        always: What happens to every request to an instance, by its id, whatever `faults` say.
        sent: The requests that were made, with the ids of the instances.
    """

    faults: list[Fault] = attrs.field(factory=list)
    always: dict[str, Fault] = attrs.field(factory=dict)
    sent: list[tuple[str, RequestEnvelope]] = attrs.field(factory=list)
    under_way: int = 0
    inner: Transport = attrs.field(init=False)

    @hookimpl
    def aegis_register_backends(self, register: BackendRegistrar) -> None:
        """Offer ``wired://``."""
        register("wired", self._open)

    @asynccontextmanager
    async def _open(self, address: BackendAddress) -> AsyncIterator[Backend]:
        inner = attrs.evolve(address, url=f"memory://{address.location}", scheme="memory")
        async with open_memory(inner) as opened:
            (self.inner,) = opened.transports
            yield attrs.evolve(opened, transports=(self,))

    @asynccontextmanager
    async def node(self, **config: object) -> AsyncIterator[Node]:
        """A node whose calls go over this wire."""
        async with open_node("wired://", plugins=[self], config=config) as node:
            yield node

    @property
    def asked(self) -> list[str]:
        """The ids of the instances that were asked, in turn."""
        return [instance_id for instance_id, _ in self.sent]

    @property
    def scheme(self) -> str:
        """The cluster's."""
        return self.inner.scheme

    @property
    def max_payload(self) -> int:
        """The cluster's."""
        return self.inner.max_payload

    def endpoint(self, instance_id: str, tag: str) -> str:
        """The cluster's."""
        return self.inner.endpoint(instance_id, tag)

    def listen(
        self, instance_id: str, tag: str, receive: Callable[[Inbound], None]
    ) -> AbstractAsyncContextManager[str]:
        """As the cluster's."""
        return self.inner.listen(instance_id, tag, receive)

    async def request(self, endpoint: str, payload: bytes, *, timeout: float) -> bytes:
        """As the cluster's, but for faults."""
        instance_id = endpoint.split("/")[1]
        self.sent.append((instance_id, codec.decode_request(payload)))
        self.under_way += 1
        try:
            if instance_id in self.always:
                return await self.always[instance_id](self, endpoint, payload, timeout)
            if self.faults:
                return await self.faults.pop(0)(self, endpoint, payload, timeout)
            return await self.inner.request(endpoint, payload, timeout=timeout)
        finally:
            self.under_way -= 1

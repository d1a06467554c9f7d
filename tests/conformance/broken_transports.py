"""Transports that break the contract, each in one way."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress

import attrs
import trio

from aegis_core.backend import Inbound, Transport, TransportUnavailable


class Passing(Transport):
    """Nothing is broken: what the others break, this passes on."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    @property
    def scheme(self) -> str:
        """As it is."""
        return self.transport.scheme

    @property
    def max_payload(self) -> int:
        """As it is."""
        return self.transport.max_payload

    def endpoint(self, instance_id: str, tag: str) -> str:
        """As it is."""
        return self.transport.endpoint(instance_id, tag)

    def listen(
        self, instance_id: str, tag: str, receive: Callable[[Inbound], None]
    ) -> AbstractAsyncContextManager[str]:
        """As it is."""
        return self.transport.listen(instance_id, tag, receive)

    async def request(self, endpoint: str, payload: bytes, *, timeout: float) -> bytes:
        """As it is."""
        return await self.transport.request(endpoint, payload, timeout=timeout)


class DeafToTags(Passing):
    """All incarnations of an instance are one."""

    def listen(
        self, instance_id: str, tag: str, receive: Callable[[Inbound], None]
    ) -> AbstractAsyncContextManager[str]:
        """Under no tag."""
        return self.transport.listen(instance_id, "", receive)


class WaitsForNobody(Passing):
    """Nobody at the other end is noticed only when time is over."""

    async def request(self, endpoint: str, payload: bytes, *, timeout: float) -> bytes:
        """As if it were sent."""
        with suppress(TransportUnavailable):
            return await self.transport.request(endpoint, payload, timeout=timeout)
        await trio.sleep(timeout)
        raise trio.TooSlowError


class NeverTooSlow(Passing):
    """A timeout is none."""

    async def request(self, endpoint: str, payload: bytes, *, timeout: float) -> bytes:
        """Wait for ever."""
        return await self.transport.request(endpoint, payload, timeout=1e9)


class TooPatient(Passing):
    """A timeout is taken for twice as long."""

    async def request(self, endpoint: str, payload: bytes, *, timeout: float) -> bytes:
        """Wait for too long."""
        return await self.transport.request(endpoint, payload, timeout=2 * timeout)


class CrossedAnswers(Passing):
    """The answer goes to whoever asked first."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport)
        self.asked: list[Inbound] = []

    def listen(
        self, instance_id: str, tag: str, receive: Callable[[Inbound], None]
    ) -> AbstractAsyncContextManager[str]:
        """Remember who asked."""

        def crossed(request: Inbound) -> None:
            self.asked.append(request)
            receive(Crossed(request.payload, self.asked))

        return self.transport.listen(instance_id, tag, crossed)


@attrs.frozen(eq=False)
class Crossed:
    """A request whose answer goes astray."""

    payload: bytes
    asked: list[Inbound]

    def respond(self, payload: bytes) -> None:
        """Answer the first who asked."""
        if self.asked:
            self.asked.pop(0).respond(payload)

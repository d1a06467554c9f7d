"""A transport that passes everything on: what test doubles that change a part of it begin with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aegis_core.backend import Inbound, Transport

__all__ = ["WrappedTransport"]


class WrappedTransport:
    """*transport*, as it is.

    Args:
        transport: Who does the work.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @property
    def scheme(self) -> str:
        """The transport's."""
        return self._transport.scheme

    @property
    def max_payload(self) -> int:
        """The transport's."""
        return self._transport.max_payload

    def endpoint(self, instance_id: str, tag: str) -> str:
        """The transport's."""
        return self._transport.endpoint(instance_id, tag)

    @asynccontextmanager
    async def listen(self, instance_id: str, tag: str, receive: Callable[[Inbound], None]) -> AsyncIterator[str]:
        """As the transport."""
        async with self._transport.listen(instance_id, tag, receive) as endpoint:
            yield endpoint

    async def request(self, endpoint: str, payload: bytes, *, timeout: float) -> bytes:
        """As the transport."""
        return await self._transport.request(endpoint, payload, timeout=timeout)

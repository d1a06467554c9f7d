"""Networks where who listens is known to all only a moment later: ends that wait for that moment.

What is told to a network spreads in the order in which it was told: a listener that came later, and is reached, proves
that all before it are known, and that those that left before it are known to be gone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from itertools import count
from typing import Final

import trio

from aegis_core.backend import Bus, Inbound, Message, Transport, TransportUnavailable
from aegis_pytest.wrapped_transport import WrappedTransport

__all__ = ["SpreadBus", "SpreadTransport"]

_PAUSE: Final = 0.01
_ANSWER_WITHIN: Final = 1.0

_numbers = count(1)


class SpreadBus:
    """*bus*, whose subscriptions are entered once they count for the publisher *other*, too."""

    def __init__(self, bus: Bus, other: Bus) -> None:
        self._bus = bus
        self._other = other

    @property
    def max_payload(self) -> int:
        """The bus's."""
        return self._bus.max_payload

    @asynccontextmanager
    async def subscribe(
        self, subject: str, receive: Callable[[Message], None], *, queue: str = ""
    ) -> AsyncIterator[None]:
        """As the bus, and wait."""
        heard = trio.Event()
        async with self._bus.subscribe(subject, receive, queue=queue):
            probe = f"ipc.conformance.{next(_numbers)}"
            async with self._bus.subscribe(probe, lambda _: heard.set()):
                while not heard.is_set():
                    self._other.publish(probe, b"")
                    with trio.move_on_after(_PAUSE):
                        await heard.wait()
            yield

    def publish(self, subject: str, payload: bytes, reply: str = "", headers: Mapping[str, str] | None = None) -> None:
        """As the bus."""
        self._bus.publish(subject, payload, reply=reply, headers=headers)


class SpreadTransport(WrappedTransport):
    """*transport*, whose listeners are entered, and left, once the requester *other* knows it, too."""

    def __init__(self, transport: Transport, other: Transport) -> None:
        super().__init__(transport)
        self._other = other

    @asynccontextmanager
    async def listen(self, instance_id: str, tag: str, receive: Callable[[Inbound], None]) -> AsyncIterator[str]:
        """As the transport, and wait."""
        async with self._transport.listen(instance_id, tag, receive) as endpoint:
            await self._wait_spread()
            yield endpoint
        await self._wait_spread()

    async def _wait_spread(self) -> None:
        async with self._transport.listen(
            f"conformance-{next(_numbers)}", "probe", lambda it: it.respond(b"")
        ) as probe:
            while True:
                try:
                    await self._other.request(probe, b"", timeout=_ANSWER_WITHIN)
                except (TransportUnavailable, trio.TooSlowError):
                    await trio.sleep(_PAUSE)
                else:
                    return

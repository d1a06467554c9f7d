"""What a router uses besides, as one node of a faulty cluster has it: the bus, and the store of messages."""

from __future__ import annotations

import contextvars
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

from aegis_core.backend import Bus, Message, Store, TransportUnavailable
from aegis_core.models import Outcome
from aegis_pytest.faults.member import Member
from aegis_pytest.faults.store import FaultyStore

if TYPE_CHECKING:
    from aegis_pytest.faults.plane import FaultPlane

__all__ = ["FaultyBus", "faulty_messages"]

OpenStore = Callable[[], AbstractAsyncContextManager[Store]]


class FaultyBus:
    """*bus*, for a node that can be stopped or dead. Ways are not cut: who publishes for whom, a bus does not know."""

    def __init__(self, bus: Bus, member: Member) -> None:
        self._bus = bus
        self._member = member

    def __repr__(self) -> str:
        return f"<FaultyBus of {self._member.name!r} on {self._bus!r}>"

    @property
    def max_payload(self) -> int:
        """The bus's."""
        return self._bus.max_payload

    @asynccontextmanager
    async def subscribe(
        self, subject: str, receive: Callable[[Message], None], *, queue: str = ""
    ) -> AsyncIterator[None]:
        """As the bus. Messages for a stopped node wait for it, in order; those for a dead one are lost."""
        member = self._member
        context = contextvars.copy_context()

        def arrive(message: Message) -> None:
            member.when_running(lambda: context.run(receive, message))

        async with self._bus.subscribe(subject, arrive, queue=queue):
            yield

    def publish(self, subject: str, payload: bytes, reply: str = "", headers: Mapping[str, str] | None = None) -> None:
        """As the bus: now, or when a stopped node goes on.

        Raises:
            TransportUnavailable: The node is dead.
            ValueError: As the bus says.
        """
        member = self._member
        if member.is_dead:
            raise TransportUnavailable(reason=f"node {member.name!r} is dead", outcome=Outcome.NOT_SENT)
        member.when_running(lambda: self._bus.publish(subject, payload, reply=reply, headers=headers))


def faulty_messages(open_messages: OpenStore | None, plane: FaultPlane, member: Member) -> OpenStore | None:
    """The opener of the store of messages, reached as the other store is."""
    if open_messages is None:
        return None

    @asynccontextmanager
    async def opened() -> AsyncIterator[Store]:
        async with open_messages() as store:
            yield FaultyStore(store, plane, member)

    return opened

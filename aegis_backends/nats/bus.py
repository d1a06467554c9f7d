"""Publish and subscribe for routers: the subjects of the server, as they are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from types import MappingProxyType
from typing import Final

from aegis_backends.nats.connection import Connection, ConnectionState
from aegis_backends.nats.errors import LocalProtocolError, NatsError
from aegis_backends.nats.headers import Headers
from aegis_backends.nats.protocol import Message as Delivered
from aegis_backends.nats.subjects import is_reserved
from aegis_core.backend import Message, TransportUnavailable

__all__ = ["NatsBus"]

_UNHEARD: Final = 503
# What the server takes is headers and payload together; these many bytes of it are for headers.
_HEADERS: Final = 1024
_GOODBYE: Final = 1.0


class NatsBus:
    """See `aegis_core.backend.Bus`.

    A subscription comes back by itself when another server has to be connected to; what is published in between is lost.

    Args:
        connection: The client.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __repr__(self) -> str:
        return f"<NatsBus over {self._connection!r}>"

    @property
    def max_payload(self) -> int:
        """What the server takes, less 1 KiB for headers."""
        return max(1, self._connection.max_payload - _HEADERS)

    @asynccontextmanager
    async def subscribe(
        self, subject: str, receive: Callable[[Message], None], *, queue: str = ""
    ) -> AsyncIterator[None]:
        """Hand what is published on *subject* to *receive*.

        In a cluster, servers learn of each other's subscriptions a moment later. When the block ends, *receive* still gets
        what was on the way: of a queue, nobody else would. A reply that names a subject of the system's (``$...``) is left out.

        Raises:
            ValueError: *subject* is none, or *queue*.
            TransportUnavailable: The connection is closed, or the server does not allow it.
        """

        def arrived(message: Delivered) -> None:
            receive(_told(message))

        async with AsyncExitStack() as subscribed:
            try:
                await subscribed.enter_async_context(
                    self._connection.listen(subject, arrived, queue=queue, goodbye=_GOODBYE)
                )
            except LocalProtocolError:
                raise
            except NatsError as exc:
                raise TransportUnavailable(reason=exc.message) from exc
            yield

    def publish(self, subject: str, payload: bytes, reply: str = "", headers: Mapping[str, str] | None = None) -> None:
        """Send with the next piece that is sent.

        Raises:
            ValueError: No subject, no headers, or a larger payload than `max_payload`.
            TransportUnavailable: There is no server now, or too much waits to be sent.
        """
        if len(payload) > self.max_payload:
            raise ValueError(f"a message has at most {self.max_payload} bytes, this one {len(payload)}")
        if self._connection.state is ConnectionState.RECONNECTING:
            # The connection would keep it for the next server; whoever waits for an answer should rather know.
            raise TransportUnavailable(reason="there is no connection to a NATS server now")
        try:
            self._connection.publish(subject, payload, reply=reply, headers=Headers(headers) if headers else None)
        except LocalProtocolError:
            raise
        except NatsError as exc:
            raise TransportUnavailable(reason=exc.message) from exc


def _told(message: Delivered) -> Message:
    reply = "" if is_reserved(message.reply) else message.reply
    if not message.head:
        return Message(subject=message.subject, payload=message.payload, reply=reply)
    if message.status == _UNHEARD and not message.payload:
        return Message(subject=message.subject, payload=b"", unheard=True)
    headers = MappingProxyType(dict(Headers.parse(message.head).pairs))
    return Message(subject=message.subject, payload=message.payload, reply=reply, headers=headers)

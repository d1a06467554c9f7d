"""Calls over NATS: a request to an instance's own subject, and the answer to the subject that came with it.

An instance listens on ``ipc.instance.{id}.inbox.{tag}`` for those who know its lease, and on ``ipc.instance.{id}.inbox``
for those who know no leases. Both are queue groups: on the latter incarnations of one id share one, lest two answer; on
the former there is one member, but when its server is about to stop, the group is on the next server before it leaves
the old one, so that no request finds nobody.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import attrs

from aegis_backends.nats.connection import Connection
from aegis_backends.nats.errors import Disconnected, NatsError, PayloadTooLarge
from aegis_backends.nats.protocol import Message
from aegis_backends.nats.subjects import is_reserved
from aegis_core.backend import Inbound, TransportUnavailable
from aegis_core.models import Outcome

__all__ = ["QUEUE", "NatsTransport", "subject_of"]

_SCHEME: Final = "nats"
QUEUE: Final = "instance"
"""The queue group of each endpoint."""

# Nothing else is ever published to: endpoints come from records that anybody may have written.
_ENDPOINT: Final = re.compile(rf"{_SCHEME}:(ipc\.instance\.[A-Za-z0-9_-]{{1,128}}\.inbox(?:\.[A-Za-z0-9_-]{{1,128}})?)")
_MOST_KNOWN: Final = 10_000
_GOODBYE: Final = 1.0


@attrs.define(eq=False)
class _Request:
    """A request that arrived; see `aegis_core.backend.Inbound`."""

    payload: bytes
    reply: str
    connection: Connection

    def respond(self, payload: bytes) -> None:
        """Publish the answer, once. Dropped: a second one, one too large, one that nobody asked for, one without a server.

        Nor is one published where only the system is to: see `is_reserved`.
        """
        reply, self.reply = self.reply, ""
        if reply and not is_reserved(reply):
            try:
                self.connection.publish(reply, payload)
            except NatsError:
                return


class NatsTransport:
    """See the module, and `aegis_core.backend.Transport`.

    Args:
        connection: The client.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._subjects: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<NatsTransport over {self._connection!r}>"

    @property
    def scheme(self) -> str:
        """``"nats"``."""
        return _SCHEME

    @property
    def max_payload(self) -> int:
        """What the server takes; 1 MiB unless it was told otherwise."""
        return self._connection.max_payload

    def endpoint(self, instance_id: str, tag: str) -> str:
        """``nats:ipc.instance.{instance_id}.inbox.{tag}``; without a tag, without its part."""
        endpoint = f"{_SCHEME}:ipc.instance.{instance_id}.inbox"
        return f"{endpoint}.{tag}" if tag else endpoint

    @asynccontextmanager
    async def listen(self, instance_id: str, tag: str, receive: Callable[[Inbound], None]) -> AsyncIterator[str]:
        """Serve both of the instance's subjects while the block runs.

        When it ends, *receive* still gets what was on the way; who asks later learns at once that nobody is there. What is
        unanswered then stays so: its callers wait for their time-outs.

        Raises:
            ValueError: *instance_id* or *tag* cannot be part of a subject.
            TransportUnavailable: The connection is closed, or the server does not allow it.
        """
        endpoint = self.endpoint(instance_id, tag)
        subject = self._subject(endpoint)

        def arrived(message: Message) -> None:
            receive(_Request(message.payload, message.reply, self._connection))

        async with AsyncExitStack() as listening:
            subjects = (subject, self._subject(self.endpoint(instance_id, ""))) if tag else (subject,)
            listen = self._connection.listen(subjects, arrived, queue=QUEUE, goodbye=_GOODBYE)
            try:
                await listening.enter_async_context(listen)
            except NatsError as exc:
                raise TransportUnavailable(reason=exc.message, endpoint=endpoint, outcome=Outcome.NOT_SENT) from exc
            yield endpoint

    async def request(self, endpoint: str, payload: bytes, *, timeout: float) -> bytes:
        """Publish *payload* to *endpoint* and wait for its answer.

        Raises:
            TransportUnavailable: NOT_SENT: nobody listens there, or there was no server in time. MAYBE_EXECUTED: the
                connection broke.
            trio.TooSlowError: No answer within *timeout* seconds.
            ValueError: *payload* is too large, *timeout* negative, or *endpoint* not of this transport.
        """
        subject = self._subjects.get(endpoint) or self._subject(endpoint)
        try:
            answer = await self._connection.request(subject, payload, timeout=timeout)
        except PayloadTooLarge:
            raise
        except Disconnected as exc:
            outcome = Outcome.MAYBE_EXECUTED if exc.sent else Outcome.NOT_SENT
            raise TransportUnavailable(reason=exc.message, endpoint=endpoint, outcome=outcome) from exc
        except NatsError as exc:
            raise TransportUnavailable(reason=exc.message, endpoint=endpoint, outcome=Outcome.NOT_SENT) from exc
        return answer.payload

    def _subject(self, endpoint: str) -> str:
        subject = subject_of(endpoint)
        if subject is None:
            raise ValueError(f"{endpoint[:200]!r} is no endpoint of an instance on NATS")
        if len(self._subjects) >= _MOST_KNOWN:
            self._subjects.clear()
        self._subjects[endpoint] = subject
        return subject


def subject_of(endpoint: str) -> str | None:
    """The subject of *endpoint*; None if it is not one of this transport's."""
    found = _ENDPOINT.fullmatch(endpoint)
    return None if found is None else found[1]

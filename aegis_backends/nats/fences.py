"""Fences: messages that change nothing and have a revision, which is above that of all that was acknowledged before.

Whoever wants a read barrier may share a fence that has not been sent yet, and no other.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

import attrs
import trio

from aegis_backends.nats.batch import fence
from aegis_backends.nats.connection import Connection
from aegis_backends.nats.errors import NatsError
from aegis_backends.nats.jetstream import parse_acknowledgement
from aegis_backends.nats.mirror import Mirror
from aegis_core.backend import Clock
from aegis_core.errors import StoreUnavailable

__all__ = ["Fences"]

_ANSWER_WITHIN: Final = 3.0
_LEFT: Final = "the NATS backend has been left"


@attrs.define(eq=False)
class _Fence:
    """A fence that is still to be sent, for all who come until then."""

    done: trio.Event = attrs.field(factory=trio.Event)
    revision: int = 0
    error: str = ""
    cause: BaseException | None = None


class Fences:
    """Sends fences, one after the other.

    Args:
        connection: The client.
        mirror: The view, which a fence can show to be level.
        prefix: What the subjects of the bucket begin with.
        stored: Called when one was stored, which may have made the view level, with its revision and when it was sent.
        clock: What that is told by.
        random: Where names come from.
    """

    def __init__(
        self,
        connection: Connection,
        mirror: Mirror,
        *,
        prefix: str,
        stored: Callable[[int, float], None],
        clock: Clock,
        random: random.Random,
    ) -> None:
        self._connection = connection
        self._mirror = mirror
        self._prefix = prefix
        self._stored = stored
        self._clock = clock
        self._nonce = f"{random.getrandbits(64):016x}"
        self._count = 0
        self._next: _Fence | None = None
        self._asked = trio.Event()
        self._sending: _Fence | None = None
        self._left = False

    def __repr__(self) -> str:
        return f"<Fences, {self._count} sent>"

    async def barrier(self) -> int:
        """The revision of a fence that is sent after this call. Cancelled, the fence is sent all the same.

        Raises:
            StoreUnavailable: It could not be stored, there was no answer, or nobody sends fences any more.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._left:
            raise StoreUnavailable(reason=_LEFT)
        joined = self._next
        if joined is None:
            joined = self._next = _Fence()
            self._asked.set()
        await joined.done.wait()
        if joined.error:
            raise StoreUnavailable(reason=joined.error) from joined.cause
        return joined.revision

    async def run(self) -> None:
        """Send what is asked for, until cancelled; whoever waits then gets an error."""
        try:
            while True:
                await self._asked.wait()
                self._asked = trio.Event()
                sending = self._sending = self._next
                self._next = None
                assert sending is not None
                try:
                    sending.revision = await self._send()
                except StoreUnavailable as exc:
                    sending.error, sending.cause = exc.reason, exc.__cause__
                self._sending = None
                sending.done.set()
        finally:
            self._left = True
            for unsent in (self._sending, self._next):
                if unsent is not None:
                    unsent.error = _LEFT
                    unsent.done.set()

    async def _send(self) -> int:
        self._count += 1
        message = fence(self._prefix, f"{self._nonce}-{self._count}")
        sent, sent_at = self._mirror.fence_sent(), self._clock.now()
        try:
            answer = await self._connection.request(
                message.subject, message.payload, headers=message.head, timeout=_ANSWER_WITHIN
            )
            revision = parse_acknowledgement(answer.payload).sequence
        except trio.TooSlowError:
            raise StoreUnavailable(reason=f"no answer within {_ANSWER_WITHIN:g} s") from None
        except NatsError as exc:
            raise StoreUnavailable(reason=exc.message) from exc
        self._mirror.fence_stored(sent, revision)
        self._stored(revision, sent_at)
        return revision

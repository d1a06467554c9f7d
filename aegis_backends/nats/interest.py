"""What is subscribed to, on whichever server."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Final

import attrs

from aegis_backends.nats.errors import PermissionDenied
from aegis_backends.nats.protocol import Message, Subscribe, Unsubscribe, encode
from aegis_backends.nats.subscription import Subscription

__all__ = ["Interest", "Interests"]


@attrs.define(eq=False)
class Interest:
    """One subscription as servers see it. `denied` is set once one refuses it."""

    sid: int
    subject: str
    queue: str
    subscription: Subscription | None = None
    denied: PermissionDenied | None = None

    def subscribing(self) -> bytes:
        """What tells a server of it, with the number of messages that are still wanted."""
        lines = encode(Subscribe(self.subject, self.sid, self.queue))
        if self.subscription is not None and self.subscription.remaining:
            lines += encode(Unsubscribe(self.sid, self.subscription.remaining))
        return lines

    def deny(self) -> None:
        """A server does not allow it: end its reader with that."""
        self.denied = PermissionDenied("subscribe", self.subject)
        if self.subscription is not None:
            self.subscription.end(self.denied)


class Interests:
    """All subscriptions of a connection, and by number who gets the messages.

    `receivers` is what links look messages up in; a subscription that a server was told to end keeps its place there until
    what is on the way has come. `afterwards` is what they call after each piece that they have read, whatever was in it.
    """

    def __init__(self) -> None:
        self.receivers: Final[dict[int, Callable[[Message], None]]] = {}
        self.afterwards: Final[dict[int, Callable[[], None]]] = {}
        self._by_sid: Final[dict[int, Interest]] = {}
        self._sids = count(1)

    def __len__(self) -> int:
        return len(self._by_sid)

    def add(
        self,
        subject: str,
        queue: str,
        receive: Callable[[Message], None],
        afterwards: Callable[[], None] | None = None,
    ) -> Interest:
        """A new one, with the next number."""
        interest = Interest(next(self._sids), subject, queue)
        self._by_sid[interest.sid] = interest
        self.receivers[interest.sid] = receive
        if afterwards is not None:
            self.afterwards[interest.sid] = afterwards
        return interest

    def all(self) -> tuple[Interest, ...]:
        """Those that a server should know of."""
        return tuple(self._by_sid.values())

    def has(self, interest: Interest) -> bool:
        """Whether a server should know of it."""
        return interest.sid in self._by_sid

    def withdraw(self, interest: Interest) -> None:
        """No server should know of it any more; what is on the way still gets to its receiver."""
        self._by_sid.pop(interest.sid, None)

    def remove(self, interest: Interest) -> None:
        """Forget it; what is on the way is dropped."""
        self._by_sid.pop(interest.sid, None)
        self.receivers.pop(interest.sid, None)
        self.afterwards.pop(interest.sid, None)

    def to(self, subject: str, queue: str | None) -> tuple[Interest, ...]:
        """Those to *subject*, of *queue* if that is told."""
        return tuple(i for i in self._by_sid.values() if i.subject == subject and queue in {None, i.queue})

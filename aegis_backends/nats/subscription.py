"""A subscription that is read: a bounded queue between the connection's reader and its user's task."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import attrs
import trio

from aegis_backends.nats.errors import NatsError
from aegis_backends.nats.protocol import Message
from aegis_backends.nats.statistics import Counters

__all__ = ["Subscription"]


class Subscription:
    """Messages of one subject or pattern, in the order in which the server sent them. Iterate it, or `receive`.

    A reader that is too slow loses messages, the newest first, and nothing else suffers: `dropped` counts them. It ends,
    as an iteration does, after `drain` or the number of messages that `auto_unsubscribe` set, once all is read.

    Made by `Connection.subscribe`.
    """

    def __init__(
        self,
        subject: str,
        queue: str,
        *,
        max_messages: int,
        max_bytes: int,
        counters: Counters,
        unsubscribe: Callable[[int], None],
        flush: Callable[[], Awaitable[None]],
    ) -> None:
        self.subject: Final = subject
        self.queue: Final = queue
        self._max_messages: Final = max_messages
        self._max_bytes: Final = max_bytes
        self._counters: Final = counters
        self._unsubscribe: Final = unsubscribe
        self._flush: Final = flush
        self._messages: deque[Message] = deque()
        self._bytes = 0
        self._received = 0
        self._maximum = 0
        self._dropped = 0
        # How it ends once all is read.
        self._end: Exception | None = None
        self._all_read = trio.Event()
        self._readers: Final = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        return f"<Subscription to {self.subject!r}: {len(self._messages)} pending, {self._dropped} dropped>"

    @property
    def pending(self) -> int:
        """Messages that wait to be read."""
        return len(self._messages)

    @property
    def dropped(self) -> int:
        """Messages that were dropped because too many, or too many bytes, waited to be read."""
        return self._dropped

    @property
    def remaining(self) -> int:
        """Messages that are still to come until `auto_unsubscribe` ends it; 0 where nothing does."""
        return self._maximum - self._received if self._maximum else 0

    def offer(self, message: Message) -> None:
        """Add *message* for the reader; called by the connection."""
        if self._end is not None:
            return
        self._received += 1
        size = len(message.payload) + len(message.head)
        if len(self._messages) >= self._max_messages or self._bytes + size > self._max_bytes:
            self._dropped += 1
            self._counters.dropped += 1
        else:
            self._messages.append(message)
            self._bytes += size
            if self._readers:
                self._readers.unpark()
        if self._received == self._maximum:
            self._unsubscribe(-1)
            self.end(trio.EndOfChannel())

    def end(self, why: Exception) -> None:
        """Let readers end with *why* once all is read; called by the connection. The first reason counts."""
        if self._end is None:
            self._end = why
            self._readers.unpark_all()
            if not self._messages:
                self._all_read.set()

    def discard(self) -> None:
        """End it, and drop what was not read: its block has been left; called by the connection."""
        self._messages.clear()
        self.end(trio.ClosedResourceError("the subscription's block was left"))
        self._all_read.set()

    async def wait_read(self) -> None:
        """Wait until it has ended and all is read, or its block was left."""
        await self._all_read.wait()

    def receive_nowait(self) -> Message:
        """The next message.

        Raises:
            trio.WouldBlock: There is none now.
            trio.EndOfChannel: There will be none: drained, or its number is reached.
            trio.ClosedResourceError: The block of the subscription was left.
            PermissionDenied: The server does not allow it any more.
            ConnectionClosed: The connection was closed, or is lost for good.
        """
        if self._messages:
            message = self._messages.popleft()
            self._bytes -= len(message.payload) + len(message.head)
            if self._end is not None and not self._messages:
                self._all_read.set()
            return message
        if self._end is not None:
            # A new one each time: an exception that is raised twice collects the tracebacks of both.
            end = self._end
            raise (attrs.evolve(end) if isinstance(end, NatsError) else type(end)(*end.args)) from end.__cause__
        raise trio.WouldBlock

    async def receive(self) -> Message:
        """The next message; waits for it. Cancelled, no message is lost.

        Raises:
            trio.EndOfChannel: There will be none: drained, or its number is reached.
            trio.ClosedResourceError: The block of the subscription was left.
            PermissionDenied: The server does not allow it any more.
            ConnectionClosed: The connection was closed, or is lost for good.
        """
        await trio.lowlevel.checkpoint()
        while True:
            try:
                return self.receive_nowait()
            except trio.WouldBlock:
                await self._readers.park()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Message:
        try:
            return await self.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    def auto_unsubscribe(self, maximum: int) -> None:
        """End after *maximum* messages in all, those received already among them; holds over reconnects.

        Raises:
            ValueError: *maximum* is not positive.
        """
        if maximum < 1:
            raise ValueError(f"a subscription ends after at least one message, not {maximum}")
        if self._end is None:
            self._maximum = maximum
            if self._received >= maximum:
                self._unsubscribe(0)
                self.end(trio.EndOfChannel())
            else:
                self._unsubscribe(maximum)

    async def drain(self) -> None:
        """Unsubscribe, and wait until no more can come. What has come can still be read; then it ends."""
        if self._end is None:
            self._unsubscribe(0)
        await self._flush()
        self.end(trio.EndOfChannel())

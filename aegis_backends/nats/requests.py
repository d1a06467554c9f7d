"""Requests that wait for their answers, all of which come to one inbox.

The inbox is one subscription, ``prefix.*``; each request has a subject of its own under it, which its answer is found by.
A waiting task is parked and woken by the answer itself; one alarm wakes those whose time is over. Neither a nursery nor a
cancel scope is made per request: that would double its cost.
"""

from __future__ import annotations

import heapq
import math
import secrets
from collections.abc import Awaitable, Iterable
from itertools import count
from typing import Final

import attrs
import trio

from aegis_backends.alarm import Alarm
from aegis_backends.nats.errors import ConnectionClosed, Disconnected, NatsError
from aegis_backends.nats.link import Link
from aegis_backends.nats.protocol import Message

__all__ = ["Exchange", "Requests"]


@attrs.define(eq=False)
class Exchange:
    """A request under way. At its end exactly one of `answer`, `error`, `timed_out`, `unsent` says how it went.

    Attributes:
        subject: Where it was sent to.
        inbox: Where the answer comes to.
        link: What carries it, as piece `number` of what was written.
        unsent: The link ended before it got the request: try another.
    """

    subject: str
    inbox: str
    link: Link
    task: trio.lowlevel.Task
    requests: Requests
    number: int = 0
    answer: Message | None = None
    error: NatsError | None = None
    timed_out: bool = False
    unsent: bool = False

    def abandon(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        """Its task was cancelled: take back what the socket was not given yet."""
        self.requests.forget(self)
        return trio.lowlevel.Abort.SUCCEEDED

    def carried_by(self, link: Link) -> None:
        """The answer may come through *link*, too; the request has left."""
        self.link = link
        self.number = -1


class Requests:
    """The table of requests under way.

    Args:
        inbox_prefix: First tokens of the inbox.
    """

    def __init__(self, inbox_prefix: str) -> None:
        self._inbox: Final = f"{inbox_prefix}.{secrets.token_urlsafe(12)}."
        self._under_way: dict[str, Exchange] = {}
        self._numbers = count()
        self._deadlines: list[tuple[float, str]] = []
        # Who waits for the end of some requests: which have not ended, and what to set.
        self._awaited: list[tuple[set[str], trio.Event]] = []
        self.alarm: Final = Alarm(trio.sleep_until, self._ring)

    def __len__(self) -> int:
        return len(self._under_way)

    @property
    def pattern(self) -> str:
        """What to subscribe to."""
        return f"{self._inbox}*"

    def receive(self, message: Message) -> None:
        """Wake the task whose answer *message* is; an answer that nobody waits for is dropped."""
        exchange = self._under_way.pop(message.subject, None)
        if exchange is not None:
            exchange.answer = message
            trio.lowlevel.reschedule(exchange.task)
            if self._awaited:
                self._note_end(exchange)

    def begin(self, subject: str, link: Link) -> Exchange:
        """A new request to *subject* over *link*, which its caller now writes and waits for."""
        inbox = f"{self._inbox}{next(self._numbers)}"
        return Exchange(subject, inbox, link, trio.lowlevel.current_task(), self)

    def wait(self, exchange: Exchange, deadline: float) -> Awaitable[object]:
        """Park until the request has ended. Cancelled, one that the socket was not given yet is taken back.

        A plain function, for a coroutine more would be resumed with each answer.
        """
        under_way, deadlines, inbox = self._under_way, self._deadlines, exchange.inbox
        under_way[inbox] = exchange
        if deadline != math.inf:
            if len(deadlines) > 2 * len(under_way) + 64:
                deadlines = self._deadlines = [entry for entry in deadlines if entry[1] in under_way]
                heapq.heapify(deadlines)
            heapq.heappush(deadlines, (deadline, inbox))
            if deadlines[0][1] is inbox:  # else the alarm rings early enough
                self.alarm.set(deadline)
        return trio.lowlevel.wait_task_rescheduled(exchange.abandon)  # noqa: ASYNC105 - awaited by the caller

    def forget(self, exchange: Exchange) -> None:
        """Nobody waits for its answer any more."""
        del self._under_way[exchange.inbox]
        exchange.link.retract(exchange.number)
        self._note_end(exchange)

    def of(self, link: Link) -> tuple[Exchange, ...]:
        """The requests that *link* carries."""
        return tuple(exchange for exchange in self._under_way.values() if exchange.link is link)

    async def wait_ended(self, exchanges: Iterable[Exchange] | None = None) -> None:
        """Wait until none of *exchanges*, or of all that are under way now, is waiting any more."""
        await trio.lowlevel.checkpoint()
        asked = self._under_way.values() if exchanges is None else exchanges
        awaited = {exchange.inbox for exchange in asked if exchange.inbox in self._under_way}
        if awaited:
            self._awaited.append((awaited, ended := trio.Event()))
            await ended.wait()

    def link_ended(self, link: Link, reason: str) -> None:
        """Fail the requests that *link* was given; those that it was not may be sent over another."""
        for exchange in self.of(link):
            if link.retract(exchange.number):
                exchange.unsent = True
            else:
                exchange.error = Disconnected(reason, sent=True)
            self._finish(exchange)

    def fail_first(self, subject: str, link: Link, error: NatsError) -> bool:
        """Fail the oldest request to *subject* over *link*; False if there is none."""
        for exchange in self._under_way.values():
            if exchange.link is link and exchange.subject == subject:
                exchange.error = error
                self._finish(exchange)
                return True
        return False

    def fail_all(self, link: Link, error: NatsError) -> None:
        """Fail all requests over *link*, whose answers cannot come: with *error* those that it was not given yet.

        The others may have been executed, so they fail as if the link had ended.
        """
        for exchange in self.of(link):
            exchange.error = error if link.retract(exchange.number) else Disconnected(error.message, sent=True)
            self._finish(exchange)

    def close(self, reason: str) -> None:
        """Fail all requests: there will be no more servers."""
        for exchange in tuple(self._under_way.values()):
            exchange.error = ConnectionClosed(reason, sent=not exchange.link.retract(exchange.number))
            self._finish(exchange)

    def _finish(self, exchange: Exchange) -> None:
        del self._under_way[exchange.inbox]
        trio.lowlevel.reschedule(exchange.task)
        self._note_end(exchange)

    def _note_end(self, exchange: Exchange) -> None:
        for awaited, ended in self._awaited:
            awaited.discard(exchange.inbox)
            if not awaited:
                ended.set()
        self._awaited = [entry for entry in self._awaited if entry[0]]

    def _ring(self) -> float:
        now = trio.current_time()
        deadlines = self._deadlines
        while deadlines and (deadlines[0][0] <= now or deadlines[0][1] not in self._under_way):
            exchange = self._under_way.get(heapq.heappop(deadlines)[1])
            if exchange is not None:
                exchange.timed_out = True
                exchange.unsent = exchange.link.retract(exchange.number)
                self._finish(exchange)
        return deadlines[0][0] if deadlines else math.inf

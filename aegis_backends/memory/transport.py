"""Requests within one process, at the price of one task switch each way.

The caller is parked in `trio.lowlevel.wait_task_rescheduled` and woken by the answer itself. Neither a nursery nor
a cancel scope is made per request (a deadline of its own would double the cost of a call): one `Alarm` for all
requests wakes those whose time is over. Answered requests leave a number in its heap, no more, and those are swept out.

What crosses is bytes alone: `receive` runs in the context variables of the listener, not in those of the caller.
"""

from __future__ import annotations

import contextvars
import heapq
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Final

import attrs
import trio

from aegis_backends.alarm import Alarm
from aegis_core.backend import Inbound, TransportUnavailable
from aegis_core.models import Outcome

__all__ = ["MAX_PAYLOAD", "MemoryTransport"]

MAX_PAYLOAD: Final = 1 << 20
"""One MiB, as on a NATS server that was not told otherwise."""


@attrs.define(eq=False)
class _Listener:
    receive: Callable[[Inbound], None]
    context: contextvars.Context


@attrs.define(eq=False)
class _Exchange:
    """A request under way; to its receiver, an `Inbound`."""

    payload: bytes
    number: int
    listener: _Listener
    task: trio.lowlevel.Task
    under_way: dict[int, _Exchange]
    parked: bool = False
    answer: bytes | None = None
    timed_out: bool = False

    def respond(self, payload: bytes) -> None:
        """Wake the caller with the answer. Dropped: a second one, a late one, one too large to be sent."""
        if self.number in self.under_way and len(payload) <= MAX_PAYLOAD:
            self.answer = bytes(payload)
            self.finish()

    def finish(self) -> None:
        """Take the request off the list and let the caller see how it went."""
        del self.under_way[self.number]
        if self.parked:
            trio.lowlevel.reschedule(self.task)

    def abandon(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        """The caller was cancelled: take the request off the list."""
        del self.under_way[self.number]
        return trio.lowlevel.Abort.SUCCEEDED


class MemoryTransport:
    """The network of one memory cluster, used by all of its nodes; see `aegis_core.backend.Transport`.

    Args:
        cluster: The cluster's name, which its endpoints carry.
    """

    def __init__(self, cluster: str) -> None:
        self.alarm: Final = Alarm(trio.sleep_until, self._ring)
        self._cluster = cluster
        self._listeners: dict[str, _Listener] = {}
        self._under_way: dict[int, _Exchange] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._numbers = count()

    def __repr__(self) -> str:
        return (
            f"<MemoryTransport of {self._cluster!r}: {len(self._listeners)} listeners, "
            f"{len(self._under_way)} requests under way>"
        )

    @property
    def scheme(self) -> str:
        """``"memory"``."""
        return "memory"

    @property
    def max_payload(self) -> int:
        """`MAX_PAYLOAD`."""
        return MAX_PAYLOAD

    def endpoint(self, instance_id: str, tag: str) -> str:
        """``memory:{cluster}/{instance_id}/{tag}``."""
        return f"memory:{self._cluster}/{instance_id}/{tag}"

    @asynccontextmanager
    async def listen(self, instance_id: str, tag: str, receive: Callable[[Inbound], None]) -> AsyncIterator[str]:
        """Serve ``memory:{cluster}/{instance_id}/{tag}``.

        Requests that are unanswered when the block ends fail as MAYBE_EXECUTED at once.

        Raises:
            ValueError: Somebody listens there already.
        """
        await trio.lowlevel.checkpoint()
        endpoint = self.endpoint(instance_id, tag)
        if endpoint in self._listeners:
            raise ValueError(f"{endpoint} is being listened to already")
        listener = _Listener(receive, contextvars.copy_context())
        self._listeners[endpoint] = listener
        try:
            yield endpoint
        finally:
            del self._listeners[endpoint]
            for exchange in tuple(self._under_way.values()):
                if exchange.listener is listener:
                    exchange.finish()

    async def request(self, endpoint: str, payload: bytes, *, timeout: float) -> bytes:
        """Hand *payload* to the listener at *endpoint* and wait for its answer.

        Raises:
            TransportUnavailable: NOT_SENT: nobody listens there. MAYBE_EXECUTED: the listener left without an answer.
            trio.TooSlowError: No answer within *timeout* seconds.
            ValueError: *payload* is too large, *timeout* negative, or *endpoint* not of this scheme.
        """
        if len(payload) > MAX_PAYLOAD:
            raise ValueError(f"a request has at most {MAX_PAYLOAD} bytes, this one {len(payload)}")
        if not timeout >= 0:
            raise ValueError(f"timeout must not be negative, got {timeout}")
        await trio.lowlevel.checkpoint_if_cancelled()
        listener = self._listeners.get(endpoint)
        if listener is None:
            if not endpoint.startswith("memory:"):
                raise ValueError(f"{endpoint!r} is no memory endpoint")
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise TransportUnavailable(reason="nobody listens there", endpoint=endpoint, outcome=Outcome.NOT_SENT)
        number = next(self._numbers)
        task = trio.lowlevel.current_task()
        exchange = _Exchange(bytes(payload), number, listener, task, self._under_way)
        self._under_way[number] = exchange
        listener.context.run(listener.receive, exchange)
        if number in self._under_way:
            if timeout != math.inf:
                self._time_out_at(trio.current_time() + timeout, number)
            exchange.parked = True
            await trio.lowlevel.wait_task_rescheduled(exchange.abandon)
        else:
            await trio.lowlevel.cancel_shielded_checkpoint()
        if exchange.answer is not None:
            return exchange.answer
        if exchange.timed_out:
            raise trio.TooSlowError(f"no answer from {endpoint} within {timeout:g} s")
        raise TransportUnavailable(
            reason="the instance stopped listening before it answered",
            endpoint=endpoint,
            outcome=Outcome.MAYBE_EXECUTED,
        )

    def _time_out_at(self, deadline: float, number: int) -> None:
        if len(self._deadlines) > 2 * len(self._under_way) + 64:
            self._deadlines = [entry for entry in self._deadlines if entry[1] in self._under_way]
            heapq.heapify(self._deadlines)
        heapq.heappush(self._deadlines, (deadline, number))
        self.alarm.set(deadline)

    def _ring(self) -> float:
        now = trio.current_time()
        deadlines = self._deadlines
        while deadlines and (deadlines[0][0] <= now or deadlines[0][1] not in self._under_way):
            exchange = self._under_way.get(heapq.heappop(deadlines)[1])
            if exchange is not None:
                exchange.timed_out = True
                exchange.finish()
        return deadlines[0][0] if deadlines else math.inf

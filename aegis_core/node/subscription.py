"""Readers of a node's events: bounded, filtered, and told when they missed some."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final, Generic, TypeVar, cast

import trio

from aegis_core.events import Event, Resync

__all__ = ["EventStream", "Subscriptions"]

CAPACITY: Final = 1000

E_co = TypeVar("E_co", bound=Event, covariant=True)
E = TypeVar("E", bound=Event)


class EventStream(Generic[E_co]):
    """The events one reader asked for, in order; iterate over it.

    It holds up to 1,000 events that were not taken yet. When more come, all of them are dropped and a `Resync` is
    put in their place: the reader should look at the registry again. A `Resync` comes whatever was asked for, also when
    the node's own view had a gap.
    """

    def __init__(self, types: tuple[type[Event], ...], service: str | None, resource_id: str | None) -> None:
        self._types = types
        self._service = service
        self._resource_id = resource_id
        self._events: deque[Event] = deque()
        self._closed = False
        self._waiting = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        return f"<EventStream {len(self._events)} waiting>"

    def __aiter__(self) -> AsyncIterator[E_co | Resync]:
        return self

    async def __anext__(self) -> E_co | Resync:
        return await self.receive()

    async def receive(self) -> E_co | Resync:
        """The next event; waits for one. Cancelled, it has taken none.

        Raises:
            trio.ClosedResourceError: The block of `Node.events` has been left.
        """
        if self._events or self._closed:
            await trio.lowlevel.checkpoint()
        while not self._events and not self._closed:
            await self._waiting.park()
        return self.receive_nowait()

    def receive_nowait(self) -> E_co | Resync:
        """The next event.

        Raises:
            trio.WouldBlock: There is none yet.
            trio.ClosedResourceError: The block of `Node.events` has been left.
        """
        if self._closed:
            raise trio.ClosedResourceError("the block of node.events() has been left")
        if not self._events:
            raise trio.WouldBlock
        return cast("E_co | Resync", self._events.popleft())  # nothing else was put there

    def _close(self) -> None:
        self._closed = True
        self._waiting.unpark_all()

    def _wants(self, event: Event) -> bool:
        if isinstance(event, Resync):
            return True
        if self._types and not isinstance(event, self._types):
            return False
        if self._service is not None and event.service_name != self._service:
            return False
        return self._resource_id is None or event.resource_id == self._resource_id

    def _put(self, event: Event) -> None:
        if not self._wants(event):
            return
        if len(self._events) >= CAPACITY:
            self._events.clear()
            reason = f"the reader fell more than {CAPACITY} events behind"
            self._events.append(Resync(at=datetime.now(UTC), reason=reason))
        self._events.append(event)
        self._waiting.unpark()


class Subscriptions:
    """All readers of one node."""

    def __init__(self) -> None:
        self._streams: list[EventStream[Event]] = []

    @contextmanager
    def open(
        self, *types: type[E], service: str | None = None, resource_id: str | None = None
    ) -> Iterator[EventStream[E]]:
        """A stream of the events from now on of any of *types* (none: all), until the block is left."""
        stream: EventStream[E] = EventStream(types, service, resource_id)
        self._streams.append(stream)
        try:
            yield stream
        finally:
            self._streams.remove(stream)
            stream._close()

    def publish(self, event: Event) -> None:
        """Hand *event* to every stream that wants it."""
        for stream in self._streams:
            stream._put(event)

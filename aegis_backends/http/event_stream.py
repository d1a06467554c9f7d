"""Events for whoever listens over HTTP, as a stream of server-sent events.

The last of those that are told at once has an id, and so has every comment: the revision of the store up to which the
listener has now been told everything. Not each event its own: several may be of one revision, and a router tells what it did itself
ahead of what others did before, so who is cut off between two of them must not seem to know both. A listener that comes back,
to this router or to another, says the last id that it saw; where more has happened since, it is told by a ``resync`` that
it has missed some, because what happened is kept nowhere: it looks at the registry again. So is a listener that has seen
more than the store knows, which was set back since.

A listener that does not keep up loses what waits for it, and is told that, too (`aegis_core.node.subscription`). A comment
is sent every few seconds in which nothing happens, so that both sides notice when the other is gone.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from datetime import UTC, datetime
from typing import Final, Protocol

import trio

from aegis_backends.http.asgi import Message
from aegis_backends.http.asked import read_query
from aegis_backends.http.routing import Request, Response
from aegis_core import events
from aegis_core.errors import InvalidRequest, Problem, StoreUnavailable
from aegis_core.events import Event
from aegis_core.hookspecs import Principal

__all__ = ["EVENT_STREAM", "KINDS", "EventFeed", "EventStreams"]

EVENT_STREAM: Final = b"text/event-stream"
PING: Final = b": still here\n\n"
KINDS: Final = tuple(sorted(kind.kind for name in events.__all__ if (kind := getattr(events, name)) is not Event))
"""The kinds of events, as they are named on the wire."""

_RENDERED: Final = 1024
_LEVEL_WITHIN: Final = 2.0


class EventFeed(Protocol):
    """The events of a node, as its ``node.events()`` gives them."""

    async def receive(self) -> Event:
        """The next one."""
        ...

    def receive_nowait(self) -> Event:
        """The next one, or `trio.WouldBlock`."""
        ...


class Source(Protocol):
    """Where events come from."""

    @property
    def revision(self) -> int:
        """Up to where everything has been told to those who listen."""
        ...

    @property
    def newest(self) -> int:
        """The newest revision of which anything has been told."""
        ...

    async def sync(self) -> None:
        """Wait until `newest` is as far as anybody has come.

        Raises:
            StoreUnavailable: That cannot be found out.
        """
        ...

    def events(
        self, principal: Principal, *, service: str | None, resource_id: str | None
    ) -> AbstractAsyncContextManager[EventFeed]:
        """The events from now on."""
        ...


class EventStreams:
    """Answers requests for events.

    Args:
        source: Where they come from.
        render: Writes one as JSON.
        ping: Seconds of silence after which a comment is sent.
    """

    def __init__(self, source: Source, render: Callable[[object], str], *, ping: float) -> None:
        self._source = source
        self._render = render
        self._ping = ping
        # What all listeners are told is written once. The event is kept with it, so that its identity stays its own.
        self._rendered: dict[int, tuple[Event, bytes]] = {}
        self._open: dict[trio.CancelScope, None] = {}
        self._closed = False

    def __repr__(self) -> str:
        return f"<EventStreams to {len(self._open)} listeners>"

    def close(self) -> None:
        """End all streams, also those that are asked for later."""
        self._closed = True
        for scope in self._open:
            scope.cancel()

    async def __call__(self, request: Request) -> Response | None:
        """Tell events until the listener leaves, or the router stops.

        Raises:
            InvalidRequest: The request asks for what cannot be.
            Forbidden: The listener may not.
        """
        wanted, service, resource_id = _filters(request.scope["query_string"])
        headers = [(b"content-type", EVENT_STREAM), (b"cache-control", b"no-store")]
        if request.scope["method"] == "HEAD":
            return Response(content_type=EVENT_STREAM, headers=headers[1:])
        seen = _last_seen(request.header(b"last-event-id"))
        scope = trio.CancelScope()
        told = self._source.revision  # not of later, when some of it may wait to be told
        async with self._source.events(request.principal, service=service, resource_id=resource_id) as feed:
            begin = b"retry: 1000\n\n"
            if seen is not None and (seen < self._source.newest or await self._is_of_another_history(seen)):
                begin += self._frame(_missed(seen))
            begin += b"id: %d\n\n" % told
            await request.send({"type": "http.response.start", "status": 200, "headers": headers})
            await request.send(_part(begin))
            self._open[scope] = None
            if self._closed:
                scope.cancel()
            try:
                with scope:
                    await self._tell(feed, wanted, request)
            finally:
                del self._open[scope]
            await request.send({"type": "http.response.body", "body": b""})
        return None

    async def _is_of_another_history(self, seen: int) -> bool:
        """Whether the store has not come to *seen*, as far as can be found out; this router alone may well be behind."""
        if seen > self._source.newest:
            with trio.move_on_after(_LEVEL_WITHIN), suppress(StoreUnavailable):
                await self._source.sync()
        return seen > self._source.newest

    async def _tell(self, feed: EventFeed, wanted: frozenset[str], request: Request) -> None:
        while True:
            waiting: list[Event] = []
            with trio.move_on_after(self._ping) as silence:
                waiting.append(await feed.receive())
            with suppress(trio.WouldBlock):
                while True:
                    waiting.append(feed.receive_nowait())
            frames = [self._frame(event) for event in waiting if event.kind in wanted]
            if silence.cancelled_caught and not frames:
                frames.append(PING)
            if frames:
                # Nothing more is waiting, so everything up to here is in these frames, or was in others before.
                frames[-1] = b"id: %d\n%b" % (self._source.revision, frames[-1])
                await request.send(_part(b"".join(frames)))

    def _frame(self, event: Event) -> bytes:
        known = self._rendered.get(id(event))
        if known is None:
            frame = f"event: {event.kind}\ndata: {self._render(event)}\n\n".encode(errors="replace")
            if len(self._rendered) >= _RENDERED:
                self._rendered.clear()
            known = self._rendered[id(event)] = (event, frame)
        return known[1]


def _part(data: bytes) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": True}


def _missed(after: int) -> events.Resync:
    reason = f"what happened after revision {after} is not told again"
    return events.Resync(at=datetime.now(UTC), reason=reason)


def _last_seen(text: bytes) -> int | None:
    """The revision in a ``Last-Event-ID``; 0, after which something is always missed, for what is none."""
    if not text:
        return None
    return int(text) if text.isdigit() and len(text) < 20 else 0


def _filters(query: bytes) -> tuple[frozenset[str], str | None, str | None]:
    """Kinds, service and resource that are listened to.

    Raises:
        InvalidRequest: There is no such filter, or no such kind.
    """
    kinds: set[str] = set()
    one: dict[str, str] = {}
    problems: list[Problem] = []
    for name, text in read_query(query):
        if name == "kind" and text in KINDS:
            kinds.add(text)
        elif name == "kind":
            problems.append(Problem("$.kind", f"there is no such kind; there are {', '.join(KINDS)}"))
        elif name in ("service_name", "resource_id") and name not in one:
            one[name] = text
        else:
            problems.append(Problem(f"$.{name}", "expected kind, service_name once, resource_id once"))
    if problems:
        raise InvalidRequest(problems=tuple(problems[:20]))
    return frozenset(kinds or KINDS) | {events.Resync.kind}, one.get("service_name"), one.get("resource_id")

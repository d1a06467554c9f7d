"""A router's store over HTTP.

A commit whose answer was lost is `Indeterminate`, and is settled by repeating it, wherever that goes: the store knows its
transactions. A watch that breaks is resumed at the revision up to which it was told everything, and of that history of the store.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, TypeVar
from urllib.parse import quote

import trio

from aegis_backends.http import wire
from aegis_backends.http.routers import Routers
from aegis_backends.http.stream import BROKEN, HttpStream
from aegis_core.backend import Capabilities, Change, Entry, Feed, Indeterminate, StoreUnavailable, Synced, Transaction
from aegis_core.errors import AegisError, InvalidRequest
from aegis_core.validation import validate_transaction

__all__ = ["HttpFeed", "HttpStore"]

_log = logging.getLogger("aegis.http")

T = TypeVar("T")

_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 1.0
_MISSED_BEATS: Final = 3.0


class HttpStore:
    """See `aegis_core.backend.Store`.

    Args:
        routers: Where it is.
        capabilities: As a router told.
        heartbeat: Seconds after which a router that has nothing to tell says that it is alive.
        most: Bytes of a request that a router takes.
    """

    def __init__(self, routers: Routers, capabilities: Capabilities, *, heartbeat: float, most: int) -> None:
        self._routers = routers
        self._capabilities = capabilities
        self._silence = heartbeat * _MISSED_BEATS
        self._most = most
        self._feeds: dict[HttpFeed, None] = {}
        self._closed = False

    def __repr__(self) -> str:
        return f"<HttpStore at {self._routers!r}>"

    @classmethod
    async def connect(cls, routers: Routers) -> HttpStore:
        """Ask a router what its store can do.

        Raises:
            StoreUnavailable: No router answers, or what answers is none.
        """
        try:
            body = await routers.ask("GET", wire.STORE)
            capabilities = wire.capabilities_from_bytes(body)
            heartbeat, most = wire.router_limits_from_bytes(body)
        except (Indeterminate, ValueError) as exc:
            why = exc.reason if isinstance(exc, Indeterminate) else exc
            raise StoreUnavailable(reason=f"no router answers at {routers.current}: {why}") from exc
        return cls(routers, capabilities, heartbeat=heartbeat, most=most)

    @property
    def capabilities(self) -> Capabilities:
        """As the router told when the store was opened."""
        return self._capabilities

    async def commit(self, transaction: Transaction) -> tuple[int, ...]:
        """Have a router commit *transaction*. Cancelled, its fate is open.

        Raises:
            Conflict: An expectation did not hold; nothing was changed.
            Indeterminate: The answer was lost; repeat.
            StoreUnavailable: Nothing was sent.
            Forbidden, ResourceLimitExceeded: The router refuses it; nothing was changed.
            ValueError: No state of the store could take it.
        """
        validate_transaction(transaction, self._capabilities)
        self._check_open()
        content = wire.transaction_to_bytes(transaction)
        if len(content) > self._most:
            raise ValueError(f"a transaction has at most {self._most} bytes here, this one {len(content)}")
        try:
            answer = await self._routers.ask("POST", wire.COMMIT, content)
        except InvalidRequest as exc:
            raise ValueError(exc.message) from exc
        try:
            return wire.revisions_from_bytes(answer, of=len(transaction.operations))
        except ValueError as exc:
            raise Indeterminate(reason=f"the router's answer is none: {exc}") from exc

    async def sync(self) -> int:
        """The router's read barrier.

        Raises:
            StoreUnavailable: No router answers.
        """
        return await self._read("POST", wire.SYNC, lambda body: wire.revisions_from_bytes(body, of=1)[0])

    async def get(self, key: str) -> Entry | None:
        """What is under *key*, possibly stale.

        Raises:
            StoreUnavailable: No router answers.
        """
        return await self._read("GET", f"{wire.KEYS}/{quote(key, safe='')}", wire.entry_from_bytes)

    async def _read(self, method: str, path: str, understand: Callable[[bytes], T]) -> T:
        self._check_open()
        failure: Exception | None = None
        for _ in range(len(self._routers) + 1):
            try:
                return understand(await self._routers.ask(method, path))
            except (Indeterminate, ValueError) as exc:  # asking twice does no harm
                failure = exc
        raise StoreUnavailable(reason=str(failure))

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[Feed]:
        """A feed of the whole store; its connection is made when it is first read."""
        await trio.lowlevel.checkpoint()
        self._check_open()
        feed = HttpFeed(self._routers, silence=self._silence)
        self._feeds[feed] = None
        try:
            yield feed
        finally:
            self._feeds.pop(feed, None)
            feed.close()
            await feed.disconnect()  # noqa: ASYNC102 - it cannot be cancelled, and waits for nobody

    def close(self) -> None:
        """End this handle: its feeds close, and it answers no more."""
        self._closed = True
        for feed in tuple(self._feeds):
            feed.close()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable(reason="the backend has been left")


class HttpFeed:
    """A watch over a router; see `aegis_core.backend.Feed`.

    There is no task of its own: whoever receives reads the connection, so that a reader that is slow slows the router
    down, which then merges changes.

    Args:
        routers: Where.
        silence: Seconds without a sign of life after which the connection counts as dead.
    """

    def __init__(self, routers: Routers, *, silence: float) -> None:
        self._routers = routers
        self._silence = silence
        self._url = ""
        self._stream: HttpStream | None = None
        self._frames = wire.FrameReader()
        self._batches: list[list[wire.Item]] = []
        # Up to here the reader was told everything; and the newest change that it was told of.
        self._level: int | None = None
        self._told = 0
        # The history of the store that these revisions are of.
        self._generation = ""
        self._closed = False
        self._receiving = trio.CancelScope()

    def __repr__(self) -> str:
        return f"<HttpFeed at revision {self._level}, {len(self._batches)} batches to tell>"

    def close(self) -> None:
        """End the feed: a reader that waits, or comes, gets `trio.ClosedResourceError`."""
        self._closed = True
        self._receiving.cancel()

    async def disconnect(self) -> None:
        """Drop the connection, with what it brought in part; not cancellable."""
        stream, self._stream = self._stream, None
        self._frames = wire.FrameReader()
        if stream is not None:
            await stream.aclose()

    async def receive(self) -> Sequence[wire.Item]:
        """The next batch; connects, and connects anew, as long as it takes. Cancelled, nothing is lost.

        Raises:
            trio.ClosedResourceError: The watch's block has been left.
        """
        pause = _FIRST_PAUSE
        with trio.CancelScope() as self._receiving:
            if self._closed:
                self._receiving.cancel()
            await trio.lowlevel.checkpoint()
            while True:
                while self._batches:
                    batch = self._fresh(self._batches.pop(0))
                    if batch:
                        return batch
                try:
                    await self._read()
                    pause = _FIRST_PAUSE
                except (AegisError, ValueError, *BROKEN) as exc:
                    # Told once, and again by those who want to know more.
                    level = logging.WARNING if pause == _FIRST_PAUSE else logging.INFO
                    _log.log(level, "lost %s, trying on: %s", self._url, exc)
                    self._routers.leave(self._url)
                    await self.disconnect()
                    await trio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
        raise trio.ClosedResourceError("the watch has been left")

    async def _read(self) -> None:
        """Read once, connecting before where that is needed.

        Raises:
            AegisError, ValueError, BROKEN: The connection is of no use any more.
        """
        if self._stream is None:
            self._url = self._routers.current
            query = "?generation="  # none: just that it may be told
            if self._level is not None:
                query = f"?after={self._level}&generation={quote(self._generation, safe='')}"
            self._stream = await self._routers.open_stream(self._url, wire.WATCH + query)
            if self._level is not None:
                self._routers.reconnects += 1
        part: bytes | None = None
        with trio.move_on_after(self._silence):
            part = await self._stream.receive()
        if part is None:
            raise StoreUnavailable(reason=f"the router was silent for {self._silence:g} s")
        if not part:
            raise StoreUnavailable(reason="the router ended the watch")
        if self._stream.status != 200:
            raise wire.error_from_problem(part, self._stream.status)
        self._batches += self._frames.feed(part)

    def _fresh(self, batch: list[wire.Item]) -> list[wire.Item]:
        """*batch* without what the reader was told before the connection was made anew."""
        fresh: list[wire.Item] = []
        for item in batch:
            if isinstance(item, Change):
                if item.revision <= self._told:
                    continue
                self._told = item.revision
            elif isinstance(item, Synced):
                if self._level is not None and item.revision < self._level:
                    continue
                self._level, self._generation = item.revision, item.generation
                self._told = max(self._told, item.revision)
            else:
                self._level, self._told = None, 0
            fresh.append(item)
        return fresh

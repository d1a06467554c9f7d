"""The port on the file: SQLite is called in worker threads, one for each connection at a time, and Trio waits for them.

A thread does one short thing and comes back. Where another connection has the file, Trio waits, and not the thread: so a
cancelled task is gone at once, and a deadline is kept. (A thread that waits for the disk is left alone, and ends by itself; the
connection's next user waits for it.)

One thread looks every five milliseconds whether anybody has changed the file; then a task wakes the feeds, and ends what is due.
Every process that has the file open does so; the lock of the file puts them in order.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, TypeVar, TypeVarTuple

import trio

from aegis_core.backend import (
    Capabilities,
    Change,
    Entry,
    Feed,
    Indeterminate,
    Resync,
    StoreUnavailable,
    Synced,
    Transaction,
)
from aegis_core.validation import validate_transaction
from aegis_sqlite.connection import Locked
from aegis_sqlite.reading import Reader, Sight, Watcher
from aegis_sqlite.writing import SETTLE_FOR, Writer

__all__ = ["CAPABILITIES", "SqliteFeed", "SqliteStore", "in_turn"]

_log = logging.getLogger("aegis.sqlite")

CAPABILITIES: Final = Capabilities(min_ttl=0.001, settle_for=SETTLE_FOR, durable=True)
"""What the store can do."""

_TRY_AGAIN_AFTER: Final = 0.5

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")


async def in_turn(
    turn: trio.CapacityLimiter, patience: float, fn: Callable[[*Arguments], Result], *args: *Arguments
) -> Result:
    """Call ``fn(*args)`` in a thread, and again while the file is locked.

    Cancelled, it leaves the thread to end by itself; *turn* is taken until then.

    Args:
        turn: Lets one thread at a time use a connection.
        patience: Seconds of locks to sit out.
        fn: Does one short thing.
        *args: Its arguments.

    Raises:
        StoreUnavailable: The file was locked for all of *patience*.
    """
    deadline = trio.current_time() + patience
    while True:
        try:
            return await trio.to_thread.run_sync(fn, *args, limiter=turn, abandon_on_cancel=True)
        except Locked as exc:
            if trio.current_time() >= deadline:
                raise StoreUnavailable(reason=f"another connection has locked the file for {patience:g} s") from exc
        await trio.sleep(random.uniform(0.001, 0.01))


class SqliteFeed:
    """One reader of the store; see `aegis_core.backend.Feed`. It remembers how far it has read, and nothing else."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self._level: int | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<SqliteFeed, level at {self._level}>"

    def close(self) -> None:
        """Who receives, now or later, gets `trio.ClosedResourceError`."""
        self._closed = True

    async def receive(self) -> Sequence[Change | Synced | Resync]:
        """What has changed since, the newest change of each key; waits while nothing has.

        Cancelled, it has told nothing: the same comes again.

        Raises:
            trio.ClosedResourceError: The watch's block has been left.
        """
        await trio.lowlevel.checkpoint()
        while not self._closed:
            if self._level == self._store.revision:
                await self._store.wait_news()
                continue
            try:
                told, level = await self._store.read_changes(self._level)
            except StoreUnavailable as exc:
                _log.warning("a watch waits: %s", exc)
                await trio.sleep(_TRY_AGAIN_AFTER)
                continue
            if not self._closed:
                self._level = level
                self._store.see(level)
                return told
        raise trio.ClosedResourceError("the watch has been left")


class SqliteStore:
    """See `aegis_core.backend.Store`.

    Args:
        writer: The connection that changes the file.
        reader: The one that reads it.
        watcher: The one that waits for others.
        patience: Seconds of other people's locks to sit out.
    """

    def __init__(self, writer: Writer, reader: Reader, watcher: Watcher, *, patience: float) -> None:
        self._writer = writer
        self._reader = reader
        self._watcher = watcher
        self._patience = patience
        self._write_turn = trio.CapacityLimiter(1)
        self._read_turn = trio.CapacityLimiter(1)
        self._watch_turn = trio.CapacityLimiter(1)
        self._revision = 0
        self._news = trio.lowlevel.ParkingLot()
        self._feeds: set[SqliteFeed] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"<SqliteStore at revision {self._revision}, {len(self._feeds)} feeds>"

    @property
    def capabilities(self) -> Capabilities:
        """`CAPABILITIES`."""
        return CAPABILITIES

    @property
    def revision(self) -> int:
        """The newest revision that this process knows of."""
        return self._revision

    async def commit(self, transaction: Transaction) -> tuple[int, ...]:
        """Apply *transaction*. It is on the disk when this returns.

        Raises:
            Conflict: An expectation did not hold; nothing was changed.
            Indeterminate: The disk failed as it was to be made permanent.
            StoreUnavailable: The file cannot be written, or others had it for too long; or the backend has been left.
            ValueError: No state of the store could take it.
        """
        validate_transaction(transaction, CAPABILITIES)
        self._insist_on_being_open()
        revisions = await in_turn(self._write_turn, self._patience, self._writer.commit, transaction)
        self.see(max(revisions))
        return revisions

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[Feed]:
        """A feed of the whole store, from a snapshot on."""
        await trio.lowlevel.checkpoint()
        self._insist_on_being_open()
        feed = SqliteFeed(self)
        self._feeds.add(feed)
        try:
            yield feed
        finally:
            feed.close()
            self._feeds.discard(feed)
            self._news.unpark_all()

    async def sync(self) -> int:
        """The file's newest revision: there is but one file, and its commits are in it when they are acknowledged.

        Raises:
            StoreUnavailable: The file cannot be read, or the backend has been left.
        """
        return (await self._look()).revision

    async def get(self, key: str) -> Entry | None:
        """What is under *key*.

        Raises:
            StoreUnavailable: The file cannot be read, or the backend has been left.
        """
        self._insist_on_being_open()
        return await in_turn(self._read_turn, self._patience, self._reader.get, key)

    async def follow(self) -> None:
        """Tell the feeds what others change, and end what is due, until cancelled; whatever happens to the file."""
        was_well = True
        while True:
            try:
                sight = await self._look()
                next_end = math.inf if sight.next_end is None else sight.next_end
                if next_end <= time.monotonic():
                    await in_turn(self._write_turn, self._patience, self._writer.end_due)
                    continue
                if not was_well:
                    _log.warning("the file can be used again")
                was_well = True
                await in_turn(self._watch_turn, self._patience, self._watcher.wait, next_end)
            except (StoreUnavailable, Indeterminate) as exc:
                if was_well:
                    _log.error("nothing expires, and nothing that others change is seen, while this lasts: %s", exc)
                was_well = False
                await trio.sleep(_TRY_AGAIN_AFTER)

    def see(self, revision: int) -> None:
        """Wake the feeds if *revision* is news."""
        if revision > self._revision:
            self._revision = revision
            self._news.unpark_all()

    async def wait_news(self) -> None:
        """Wait until `revision` has moved, or a feed has ended."""
        await self._news.park()

    async def read_changes(self, after: int | None) -> tuple[list[Change | Synced | Resync], int]:
        """As `aegis_sqlite.reading.Reader.changes`.

        Raises:
            StoreUnavailable: The file cannot be read.
        """
        return await in_turn(self._read_turn, self._patience, self._reader.changes, after)

    async def aclose(self) -> None:
        """End the feeds, wait for the threads, and give the file back."""
        self._closed = True
        for feed in self._feeds:
            feed.close()
        self._news.unpark_all()
        self._watcher.leave()
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._watcher.close, limiter=self._watch_turn)
            await trio.to_thread.run_sync(self._reader.close, limiter=self._read_turn)
            await trio.to_thread.run_sync(self._writer.close, limiter=self._write_turn)

    async def _look(self) -> Sight:
        self._insist_on_being_open()
        sight = await in_turn(self._read_turn, self._patience, self._reader.look)
        self.see(sight.revision)
        return sight

    def _insist_on_being_open(self) -> None:
        if self._closed:
            raise StoreUnavailable(reason="the SQLite backend has been left")

"""One watch of the router's store, told to any number of clients.

The relay keeps what the store holds and the changes of late. Neither is more than a copy: a client that comes back, to
this router or to another, says which revision it has seen, and of which of the store's histories, and is told what changed
since if that is still known here, else everything anew. So it does not matter when a router dies.

Each reader's backlog holds at most one change of each key, the newest; one that falls far behind begins anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import trio

from aegis_backends.http.wire import Item
from aegis_core.backend import Change, Resync, Store, Synced

__all__ = ["Relay", "RelayFeed"]

_SET_BACK: Final = "the store was set back"
_REMEMBERED: Final = 20_000
_MOST_GONE: Final = 10_000


class Relay:
    """Watches *store* while `run` does.

    Args:
        store: The router's store.
        remembered: How many changes are kept for clients that come back.
    """

    def __init__(self, store: Store, *, remembered: int = _REMEMBERED) -> None:
        self.level = 0
        self.generation = ""
        self._store = store
        self._remembered = remembered
        # In the order of revisions.
        self._values: dict[str, Change] = {}
        self._recent: deque[Change] = deque()
        # Every change after this revision is in `_recent`.
        self._known_from = 0
        self._staged: dict[str, Change] | None = {}
        self._feeds: dict[RelayFeed, None] = {}
        self._closed = False
        self._loaded = trio.Event()

    def __repr__(self) -> str:
        return f"<Relay at revision {self.level}: {len(self._values)} keys, {len(self._feeds)} readers>"

    @property
    def ready(self) -> bool:
        """Whether it knows the whole store."""
        return self._staged is None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch for ever; started once the whole store is known."""
        async with self._store.watch() as feed:
            while not self.ready:
                self._apply(await feed.receive())
            task_status.started()
            while True:
                self._apply(await feed.receive())

    @contextmanager
    def open(
        self, after: int | None, generation: str = "", *, at_least: float = 0, recounted: bool = False
    ) -> Iterator[RelayFeed]:
        """A feed for one client.

        Args:
            after: The revision up to which it has been told everything; None for a client that knows nothing.
            generation: The history of the store that *after* is a revision of; "" where nobody told that. In another one,
                the client knows nothing.
            at_least: A snapshot waits until this router knows the store up to here.
            recounted: The client knows nothing, because the store counts anew.
        """
        feed = RelayFeed(self, at_least, "" if after is None else generation, knows_before=after is not None)
        if recounted:
            feed.begin_recount(_SET_BACK)
        elif after is None:
            feed.begin_anew("")
        elif self.ready and self._known_from <= after and not self.is_another(generation):
            feed.resume(after)
            feed.offer(self._recent, self.level)
        else:
            feed.begin_anew("what changed meanwhile is not known here any more")
        self._feeds[feed] = None
        if self._closed:
            feed.close()
        try:
            yield feed
        finally:
            del self._feeds[feed]

    def close(self) -> None:
        """End all feeds, also those that are opened later."""
        self._closed = True
        for feed in self._feeds:
            feed.close()

    def is_another(self, generation: str) -> bool:
        """Whether *generation* names another history of the store than this router's; not where either is not told."""
        return bool(generation and self.generation and generation != self.generation)

    def snapshot(self) -> list[Item]:
        """Every key's last change in order, and how far that goes."""
        return [*self._values.values(), Synced(self.level, self.generation)]

    def is_long(self, backlog: int) -> bool:
        """Whether *backlog* changes are so many that a snapshot would be shorter."""
        return backlog > len(self._values) + _MOST_GONE

    def _apply(self, batch: Sequence[Item]) -> None:
        changes: list[Change] = []
        for item in batch:
            if isinstance(item, Change):
                if self._staged is not None:
                    self._staged[item.key] = item
                else:
                    changes.append(item)
                    self._keep(item)
            elif isinstance(item, Resync):
                changes.clear()
                self._staged = {}
                if item.recounted:
                    self._forget_revisions(item.reason)
            elif self._staged is not None:
                self.generation = item.generation
                self._begin_anew(item.revision)
            else:
                self._rename(item.generation)
                self.level = item.revision
        if self.ready:
            for feed in self._feeds:
                feed.offer(changes, self.level)

    def _forget_revisions(self, why: str) -> None:
        # At once: until a client is told everything anew, it must not take what it knows for current.
        self.level = 0
        for feed in self._feeds:
            feed.forget_revisions(why)

    def _rename(self, generation: str) -> None:
        """The history goes on by another name, because somebody had known the one before it."""
        before, self.generation = self.generation, generation
        if generation != before:
            for feed in self._feeds:
                feed.rename(before, generation)

    def _begin_anew(self, level: int) -> None:
        staged, self._staged = self._staged or {}, None
        known = sorted(staged.values(), key=lambda change: change.revision)
        self._values = {change.key: change for change in known if change.value is not None}
        self._recent.clear()
        self._known_from = self.level = level
        for feed in self._feeds:
            feed.begin_anew("the router lost the thread of its store")

    def _keep(self, change: Change) -> None:
        self._values.pop(change.key, None)
        if change.value is not None:
            self._values[change.key] = change
        self._recent.append(change)
        if len(self._recent) > self._remembered:
            self._known_from = self._recent.popleft().revision


class RelayFeed:
    """One client's end of a relay; as `aegis_core.backend.Feed`."""

    def __init__(self, relay: Relay, at_least: float, generation: str, *, knows_before: bool) -> None:
        self._relay = relay
        self._at_least = at_least
        # The history that the client knows; "" where that is not known, or it takes nothing that it knows for current.
        self._generation = generation
        # Whether it takes anything for current that this feed has not told.
        self._knows_before = knows_before
        self._backlog: dict[str, Change] = {}
        self._level = 0
        self._after = self._told = -1
        # Why a snapshot is to be told next; "" for the first, which needs no reason.
        self._snapshot_due: str | None = None
        # Why the client is to be told at once that the store counts anew; None where it is not.
        self._recount_due: str | None = None
        self._closed = False
        self._reader = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        return f"<RelayFeed with {len(self._backlog)} changes to tell>"

    def begin_anew(self, why: str) -> None:
        """Tell everything next, because of *why*."""
        if self._snapshot_due != "":
            self._snapshot_due = why
        self._backlog.clear()
        self._reader.unpark_all()

    def forget_revisions(self, why: str) -> None:
        """The store counts anew, and *why*: no revision of before is waited for."""
        self._at_least = 0
        self._after = -1
        if self._relay.is_another(self._generation):
            return  # It may know the next one already, from another router; if not, it is told when that is known.
        if self._snapshot_due != "":
            self.begin_recount(why)

    def begin_recount(self, why: str) -> None:
        """Tell at once that the store counts anew, because of *why*, and everything when it is known."""
        self._recount_due = why
        self._snapshot_due = ""
        self._generation = ""
        self._knows_before = False
        self._backlog.clear()
        self._reader.unpark_all()

    def rename(self, before: str, after: str) -> None:
        """The history that was called *before* is called *after*; but what the client knew from elsewhere may be of another one."""
        if not self._knows_before:
            self._generation = after
        elif self._generation == before:
            self.begin_recount(_SET_BACK)

    def resume(self, after: int) -> None:
        """The client knows everything up to revision *after*: perhaps from a router that was ahead of this one."""
        self._after = self._told = after

    def offer(self, changes: Iterable[Change], level: int) -> None:
        """Add *changes*, up to *level*, to what is to be told."""
        if self._snapshot_due is None:
            for change in changes:
                if change.revision <= self._after:
                    continue
                # Out and in again, because a dict keeps the place of a key that it has.
                self._backlog.pop(change.key, None)
                self._backlog[change.key] = change
            self._level = max(self._level, level)
            if self._relay.is_long(len(self._backlog)):
                self.begin_anew("the reader fell behind")
        self._reader.unpark_all()

    def close(self) -> None:
        """End it: a reader that waits, or comes, gets `trio.ClosedResourceError`."""
        self._closed = True
        self._reader.unpark_all()

    async def receive(self) -> Sequence[Item]:
        """All that there is to tell; waits while that is nothing.

        Raises:
            trio.ClosedResourceError: The router stops.
        """
        await trio.lowlevel.checkpoint()
        while not self._closed:
            if self._recount_due is not None:
                why, self._recount_due = self._recount_due, None
                return [Resync(why, recounted=True)]
            if self._snapshot_due is not None:
                if self._relay.ready and self._relay.level >= self._at_least:
                    return self._tell_snapshot()
            elif self._relay.ready and (self._backlog or self._level > self._told):
                return self._tell_backlog()
            await self._reader.park()
        raise trio.ClosedResourceError("the router stops")

    def _tell_backlog(self) -> Sequence[Item]:
        changes = list(self._backlog.values())
        self._backlog.clear()
        if changes and changes[-1].revision > self._level:
            return changes  # more belongs to them, which the router's own feed has yet to tell
        self._told = max(self._told, self._level)
        return [*changes, Synced(self._told, self._relay.generation)]

    def _tell_snapshot(self) -> Sequence[Item]:
        batch: list[Item] = []
        if self._relay.is_another(self._generation):
            batch.append(Resync(_SET_BACK, recounted=True))
        elif self._snapshot_due:
            batch.append(Resync(self._snapshot_due))
        batch += self._relay.snapshot()
        self._snapshot_due, self._generation = None, self._relay.generation
        self._level = self._told = self._relay.level
        return batch

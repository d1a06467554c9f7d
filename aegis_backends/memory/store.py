"""The reference store: what the contract of `aegis_core.backend` means, in the fewest moving parts.

All state is in one `StoreState`, and every step on it is synchronous: a task sees the store before a transaction or
after it, never in between, so there is no lock. `MemoryStore` is one opener's handle on it.

**Expiry.** Deadlines lie in a heap that is cleaned lazily: a renewal pushes a new entry, and the old one, whose revision
no longer is the key's, is dropped when it comes up. Every step first expires what is due, so that a key is never
seen past its time, not even by a task that runs at the same instant as the alarm.

**Repeats.** Each record carries the id of the transaction that wrote it; a deleted or expired key leaves a tombstone
with the id, for `settle_for` seconds. Revisions within a transaction are consecutive, so that one key that is
found suffices to tell the revisions of all, even where others were overwritten since.

**Feeds.** A reader's backlog is a dict from key to its newest change, in the order of revisions; a reader that does not read
holds at most one change per key. A batch is the whole backlog, so that the feed is level after each. Where most of a backlog is about keys that are gone, a new snapshot is smaller: the
backlog is dropped and the reader told by `Resync`. The first snapshot, too, is made when it is read, not before.

It is long for what it does because it is the one place where the contract is spelled out as code.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import ClassVar, Final

import attrs
import trio

from aegis_backends.alarm import Alarm
from aegis_core.backend import (
    ABSENT,
    ANY,
    Capabilities,
    Change,
    Clock,
    Conflict,
    Delete,
    DeleteReason,
    Entry,
    Feed,
    Put,
    Resync,
    StoreUnavailable,
    Synced,
    Transaction,
)
from aegis_core.validation import validate_transaction

__all__ = ["CAPABILITIES", "MemoryFeed", "MemoryStore", "StoreState"]

CAPABILITIES: Final = Capabilities(min_ttl=0.001)
"""A millisecond, because a TTL of nothing at all would be a put that is never seen."""

# Changes of keys that are gone, which a backlog may hold before a new snapshot is the cheaper way to tell them.
_MAX_GONE: Final = 10_000


@attrs.define(eq=False)
class _Record:
    """What is under a key. `expires_at` is on the store's clock."""

    change: Change
    transaction: str
    expires_at: float | None


@attrs.define(eq=False)
class _Tombstone:
    """What is remembered of a key that is gone: the transaction last applied to it, and that one's revision for it."""

    transaction: str
    revision: int
    forget_at: float


class StoreState:
    """The map itself, shared by all who opened it.

    Args:
        clock: What TTLs are measured by.
        first_revision: The revision of the first operation. None: the microseconds since 1970, or more if this process
            has used those up, so that numbers which somebody kept from an earlier store never come again.
        capabilities: The limits to keep.
    """

    _highest: ClassVar[int] = 0

    def __init__(
        self,
        clock: Clock,
        *,
        first_revision: int | None = None,
        capabilities: Capabilities = CAPABILITIES,
    ) -> None:
        if first_revision is None:
            first_revision = max(time.time_ns() // 1000, StoreState._highest + 1)
        self.capabilities: Final = capabilities
        self.revision = first_revision - 1
        self.feeds: dict[MemoryFeed, None] = {}
        self.alarm: Final = Alarm(clock.sleep_until, self._ring)
        self._clock = clock
        self._records: dict[str, _Record] = {}
        self._tombstones: OrderedDict[str, _Tombstone] = OrderedDict()
        self._expiries: list[tuple[float, int, str]] = []

    def __repr__(self) -> str:
        return f"<StoreState of {len(self._records)} keys at revision {self.revision}>"

    def retire(self) -> None:
        """Note how far the revisions came: nobody uses this store any more."""
        StoreState._highest = max(StoreState._highest, self.revision)

    def commit(self, transaction: Transaction) -> tuple[int, ...]:
        """Apply a validated *transaction*, or find that it was applied before.

        Raises:
            Conflict: An expectation did not hold; nothing was changed.
        """
        now = self.expire_due()
        failed = None
        for op in transaction.operations:
            record = self._records.get(op.key)
            if record is None:
                actual = ABSENT
                grave = self._tombstones.get(op.key)
                if grave is not None and grave.transaction == transaction.id:
                    return _applied(transaction, op.key, grave.revision)
            else:
                actual = record.change.revision
                if record.transaction == transaction.id:
                    return _applied(transaction, op.key, actual)
            if op.expect not in (actual, ANY) and failed is None:
                failed = op.key
        if failed is not None:
            raise Conflict(key=failed)
        revisions = tuple(_numbered(transaction, self.revision + 1))
        # All changes are made before the first is stored: a value that is no bytes raises here, and tears nothing.
        changes = [
            _change(op, revision)
            for op, revision in zip(transaction.operations, revisions, strict=True)
            if revision != ABSENT
        ]
        ttls = {op.key: op.ttl for op in transaction.operations if isinstance(op, Put)}
        for change in changes:
            if change.value is None:
                self._bury(change.key, transaction.id, change.revision, now)
            else:
                self._keep(change, transaction.id, ttls[change.key], now)
        self._publish(changes)
        return revisions

    def _keep(self, change: Change, transaction: str, ttl: float | None, now: float) -> None:
        key = change.key
        self._tombstones.pop(key, None)
        if ttl is None:
            self._records[key] = _Record(change, transaction, None)
        else:
            self._records[key] = _Record(change, transaction, now + ttl)
            self._expire_later(now + ttl, change.revision, key)

    def _bury(self, key: str, transaction: str, revision: int, now: float) -> None:
        self._records.pop(key, None)
        self._tombstones[key] = _Tombstone(transaction, revision, now + self.capabilities.settle_for)
        self._tombstones.move_to_end(key)

    def _publish(self, changes: Sequence[Change]) -> None:
        if changes:
            self.revision = changes[-1].revision
            for feed in self.feeds:
                feed.offer(changes)

    def _expire_later(self, at: float, revision: int, key: str) -> None:
        if len(self._expiries) > 2 * len(self._records) + 64:
            self._expiries = [entry for entry in self._expiries if self._is_current(entry)]
            heapq.heapify(self._expiries)
        heapq.heappush(self._expiries, (at, revision, key))
        self.alarm.set(at)

    def _is_current(self, entry: tuple[float, int, str]) -> bool:
        _, revision, key = entry
        record = self._records.get(key)
        return record is not None and record.change.revision == revision

    def expire_due(self) -> float:
        """Delete the keys whose time is over, forget tombstones that are past theirs; returns the time."""
        now = self._clock.now()
        while self._tombstones:
            key = next(iter(self._tombstones))
            if self._tombstones[key].forget_at > now:
                break
            del self._tombstones[key]
        if self._expiries and self._expiries[0][0] <= now:
            changes: list[Change] = []
            while self._expiries and self._expiries[0][0] <= now:
                entry = heapq.heappop(self._expiries)
                if self._is_current(entry):
                    key = entry[2]
                    record = self._records[key]
                    revision = self.revision + len(changes) + 1
                    # The grave names the transaction that wrote the key: repeating that one finds it applied.
                    self._bury(key, record.transaction, record.change.revision, now)
                    changes.append(Change(key, None, revision, DeleteReason.EXPIRED))
            self._publish(changes)
        return now

    def _ring(self) -> float:
        self.expire_due()
        while self._expiries and not self._is_current(self._expiries[0]):
            heapq.heappop(self._expiries)
        return self._expiries[0][0] if self._expiries else math.inf

    def get(self, key: str) -> Entry | None:
        """What is under *key* now."""
        now = self.expire_due()
        record = self._records.get(key)
        if record is None or record.change.value is None:
            return None
        left = None if record.expires_at is None else record.expires_at - now
        return Entry(record.change.value, record.change.revision, left)

    def snapshot(self) -> list[Change]:
        """Every key's last change, in the order of their revisions."""
        self.expire_due()
        return sorted((r.change for r in self._records.values()), key=lambda change: change.revision)

    def is_long(self, backlog: int) -> bool:
        """Whether *backlog* changes are so many that a snapshot would be shorter."""
        return backlog > len(self._records) + _MAX_GONE


def _numbered(transaction: Transaction, first: int) -> Sequence[int]:
    """The revision of each operation, `ABSENT` for those that only check."""
    revisions = []
    for op in transaction.operations:
        if isinstance(op, Delete) and op.expect == ABSENT:
            revisions.append(ABSENT)
        else:
            revisions.append(first)
            first += 1
    return revisions


def _change(op: Put | Delete, revision: int) -> Change:
    if isinstance(op, Put):
        return Change(op.key, bytes(op.value), revision)
    return Change(op.key, None, revision, DeleteReason.DELETED)


def _applied(transaction: Transaction, key: str, revision: int) -> tuple[int, ...]:
    """The revisions of a transaction that gave *key* its *revision*."""
    places = _numbered(transaction, 1)
    (place,) = (at for op, at in zip(transaction.operations, places, strict=True) if op.key == key)
    return tuple(at and at + revision - place for at in places)


class MemoryFeed:
    """One reader of a `StoreState`; see `aegis_core.backend.Feed`."""

    def __init__(self, state: StoreState) -> None:
        self._state = state
        self._backlog: dict[str, Change] = {}
        # Why a snapshot is to be told next; "" for the first, which needs no reason.
        self._snapshot_due: str | None = ""
        self._closed = False
        self._reader = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        return f"<MemoryFeed with {len(self._backlog)} changes to tell>"

    def offer(self, changes: Sequence[Change]) -> None:
        """Add what one step of the store changed, and wake the reader."""
        if self._snapshot_due is not None:
            return
        backlog = self._backlog
        for change in changes:
            # Out and in again, because a dict keeps the place of a key that it has.
            backlog.pop(change.key, None)
            backlog[change.key] = change
        if self._state.is_long(len(backlog)):
            self._snapshot_due = "the reader fell behind"
            backlog.clear()
        self._reader.unpark_all()

    def close(self) -> None:
        """End the feed: a reader that waits, or comes, gets `trio.ClosedResourceError`."""
        self._closed = True
        self._reader.unpark_all()

    async def receive(self) -> Sequence[Change | Synced | Resync]:
        """All that there is to tell; waits while that is nothing.

        Raises:
            trio.ClosedResourceError: The watch's block has been left.
        """
        if self._closed or self._backlog or self._snapshot_due is not None:
            await trio.lowlevel.checkpoint()
        while not self._closed:
            if self._snapshot_due is not None:
                return self._tell_snapshot()
            if self._backlog:
                batch: list[Change | Synced | Resync] = list(self._backlog.values())
                batch.append(Synced(self._state.revision))
                self._backlog.clear()
                return batch
            await self._reader.park()
        raise trio.ClosedResourceError("the watch has been left")

    def _tell_snapshot(self) -> Sequence[Change | Synced | Resync]:
        batch: list[Change | Synced | Resync] = []
        if self._snapshot_due:
            batch.append(Resync(self._snapshot_due))
        batch += self._state.snapshot()
        batch.append(Synced(self._state.revision))
        self._snapshot_due = None
        return batch


class MemoryStore:
    """One opener's handle on a `StoreState`; see `aegis_core.backend.Store`."""

    def __init__(self, state: StoreState) -> None:
        self._state = state
        self._feeds: dict[MemoryFeed, None] = {}
        self._closed = False

    def __repr__(self) -> str:
        return f"<MemoryStore on {self._state!r}>"

    @property
    def capabilities(self) -> Capabilities:
        """The limits of the store."""
        return self._state.capabilities

    async def commit(self, transaction: Transaction) -> tuple[int, ...]:
        """Apply *transaction*. Cancelled, it was not applied: the checkpoint comes first.

        Raises:
            Conflict: An expectation did not hold; nothing was changed.
            StoreUnavailable: The backend has been left.
            ValueError: No state of the store could take it.
        """
        validate_transaction(transaction, self._state.capabilities)
        await self._ready()
        return self._state.commit(transaction)

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[Feed]:
        """A feed of the whole store; its snapshot is made when it is first read."""
        await self._ready()
        feed = MemoryFeed(self._state)
        self._feeds[feed] = None
        self._state.feeds[feed] = None
        try:
            yield feed
        finally:
            self._end(feed)

    async def sync(self) -> int:
        """The newest revision: this store is its own authority.

        Raises:
            StoreUnavailable: The backend has been left.
        """
        await self._ready()
        self._state.expire_due()
        return self._state.revision

    async def get(self, key: str) -> Entry | None:
        """What is under *key*, never stale here.

        Raises:
            StoreUnavailable: The backend has been left.
        """
        await self._ready()
        return self._state.get(key)

    def close(self) -> None:
        """End this handle: its feeds close, and it answers no more."""
        self._closed = True
        for feed in tuple(self._feeds):
            self._end(feed)

    def _end(self, feed: MemoryFeed) -> None:
        self._feeds.pop(feed, None)
        self._state.feeds.pop(feed, None)
        feed.close()

    async def _ready(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._closed:
            raise StoreUnavailable(reason="the memory backend has been left")

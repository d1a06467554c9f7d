"""The steps that the suites are made of."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import count
from typing import TypeVar, TypeVarTuple

import attrs
import trio

from aegis_core.backend import (
    ANY,
    Backend,
    Change,
    Feed,
    Operation,
    Put,
    Resync,
    Store,
    Synced,
    Transaction,
)
from aegis_pytest.conformance.harness import Harness

__all__ = [
    "Mirror",
    "abandoned_after",
    "cancelled_everywhere",
    "commit",
    "open_mirror",
    "open_store",
    "open_two",
    "put",
    "transaction",
]

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")

_MOST_TURNS = 1_000_000

_numbers = count(1)


@asynccontextmanager
async def open_store(backend: AbstractAsyncContextManager[Backend]) -> AsyncIterator[Store]:
    """Open *backend* and yield its store."""
    async with backend as opened:
        if opened.store is None:
            raise TypeError("this backend has no store, so that no store's conformance can be tested")
        yield opened.store


def put(key: str, value: bytes = b"v", expect: int = ANY, ttl: float | None = None) -> Put:
    """A put, by default one that always holds."""
    return Put(key, value, expect, ttl)


def transaction(*operations: Operation) -> Transaction:
    """A transaction with an id of its own."""
    return Transaction(f"conformance-{next(_numbers)}", operations)


async def commit(store: Store, *operations: Operation) -> tuple[int, ...]:
    """Commit *operations* as one new transaction."""
    return await store.commit(transaction(*operations))


async def abandoned_after(
    turns: int, fn: Callable[[*Arguments], Awaitable[Result]], *args: *Arguments
) -> tuple[Result, ...]:
    """Run *fn* and cancel it after *turns* of the scheduler; returns its result alone if it was done by then, else nothing."""
    results: list[Result] = []
    done = trio.Event()
    scope = trio.CancelScope()

    async def run() -> None:
        with scope:
            results.append(await fn(*args))
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        for _ in range(turns):
            if done.is_set():
                break
            await trio.lowlevel.checkpoint()
        scope.cancel()
    return tuple(results)


async def cancelled_everywhere(attempt: Callable[[int], Awaitable[Sequence[object]]]) -> None:
    """Run *attempt* with growing numbers of turns, until one was enough for it to succeed.

    Each checkpoint of what is attempted thus comes to be the one that is cancelled; over a network, a sample of them.
    """
    turns = 0
    while not await attempt(turns):
        assert turns < _MOST_TURNS, f"not done after {turns} turns of the scheduler"
        turns += 1 + turns // 4


@asynccontextmanager
async def open_two(harness: Harness) -> AsyncIterator[tuple[Store, Store]]:
    """Open a store over two connections."""
    async with open_store(harness.open_backend()) as one, open_store(harness.open_peer()) as other:
        yield one, other


@attrs.define(eq=False)
class Mirror:
    """A view kept by a feed, with the log of its batches; it insists on the order of revisions."""

    feed: Feed
    values: dict[str, bytes] = attrs.field(factory=dict)
    revisions: dict[str, int] = attrs.field(factory=dict)
    batches: list[tuple[Change | Synced | Resync, ...]] = attrs.field(factory=list)
    revision: int = 0
    synced: bool = False
    _moved: trio.Event = attrs.field(factory=trio.Event)

    @property
    def changes(self) -> list[Change]:
        """All changes that were told, in order."""
        return [item for batch in self.batches for item in batch if isinstance(item, Change)]

    def changes_of(self, key: str) -> list[Change]:
        """The changes of *key* that were told, in order."""
        return [change for change in self.changes if change.key == key]

    async def follow(self) -> None:
        """Fold what the feed tells, until cancelled."""
        while True:
            self.fold(await self.feed.receive())

    def fold(self, batch: object) -> None:
        """Fold one batch of the feed into the view."""
        assert isinstance(batch, list | tuple), f"a batch is a sequence, this is {batch!r}"
        assert batch, "a batch holds one item at least"
        self.batches.append(tuple(batch))
        for item in batch:
            match item:
                case Change():
                    self._fold_change(item)
                case Synced():
                    assert item.revision >= self.revision, f"{item} after revision {self.revision}"
                    self.revision = item.revision
                    self.synced = True
                case Resync():
                    self.values.clear()
                    self.revisions.clear()
                    self.revision = 0
                    self.synced = False
                case _:
                    raise AssertionError(f"a feed does not tell {item!r}")
        self._moved.set()
        self._moved = trio.Event()

    def _fold_change(self, change: Change) -> None:
        assert change.revision > self.revision, f"{change} after revision {self.revision}"
        self.revision = change.revision
        if change.value is None:
            assert change.reason is not None, f"{change} does not say why the key went"
            self.values.pop(change.key, None)
            self.revisions.pop(change.key, None)
        else:
            assert change.reason is None, f"{change} is no deletion, and has a reason"
            self.values[change.key] = change.value
            self.revisions[change.key] = change.revision

    async def wait_for(self, condition: Callable[[Mirror], object]) -> None:
        """Wait until the view is synced and *condition* of it holds."""
        while not (self.synced and condition(self)):
            await self._moved.wait()

    async def wait_revision(self, revision: int) -> None:
        """Wait until the view has reached *revision*."""
        await self.wait_for(lambda mirror: mirror.revision >= revision)

    async def catch_up(self, store: Store) -> None:
        """Make the view a consistent read: *store*'s `sync`, and then what it says."""
        await self.wait_revision(await store.sync())


@asynccontextmanager
async def open_mirror(store: Store) -> AsyncIterator[Mirror]:
    """Watch *store*; yields once the snapshot has been told."""
    async with store.watch() as feed, trio.open_nursery() as nursery:
        mirror = Mirror(feed)
        nursery.start_soon(mirror.follow)
        await mirror.wait_for(lambda _: True)
        yield mirror
        nursery.cancel_scope.cancel()

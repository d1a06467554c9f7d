"""The steps that the suites are made of."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
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
from aegis_pytest.harness import Harness

__all__ = [
    "CancelAfter",
    "Mirror",
    "abandoned_after",
    "cancelled_everywhere",
    "commit",
    "open_mirror",
    "open_peer",
    "open_store",
    "open_two",
    "put",
    "store_of",
    "transaction",
]

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")

_MOST_CHECKPOINTS = 1000

_numbers = count(1)


def store_of(backend: Backend) -> Store:
    """The store of *backend*, which must have one."""
    assert backend.store is not None, "this backend has no store, so that no store can be tested"
    return backend.store


@asynccontextmanager
async def open_store(harness: Harness) -> AsyncIterator[Store]:
    """Open a store; what hangs with it fails, so that no store can break the contract by saying nothing."""
    with trio.fail_after(4 * harness.patience):
        async with harness.open_backend() as backend:
            yield store_of(backend)


@asynccontextmanager
async def open_peer(harness: Harness) -> AsyncIterator[Store]:
    """Open another connection to the store that is open."""
    async with harness.open_peer() as backend:
        yield store_of(backend)


@asynccontextmanager
async def open_two(harness: Harness) -> AsyncIterator[tuple[Store, Store]]:
    """Open a store over two connections."""
    async with open_store(harness) as one, open_peer(harness) as other:
        yield one, other


def put(key: str, value: bytes = b"v", expect: int = ANY, ttl: float | None = None) -> Put:
    """A put, by default one that always holds."""
    return Put(key, value, expect, ttl)


def transaction(*operations: Operation) -> Transaction:
    """A transaction with an id of its own."""
    return Transaction(f"conformance-{next(_numbers)}", operations)


async def commit(store: Store, *operations: Operation) -> tuple[int, ...]:
    """Commit *operations* as one new transaction."""
    return await store.commit(transaction(*operations))


@attrs.define(eq=False)
class CancelAfter(trio.abc.Instrument):
    """Cancels *scope* once *task* has come to its checkpoint number *left*, counted from now."""

    task: trio.lowlevel.Task
    scope: trio.CancelScope
    left: int

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count."""
        if task is self.task:
            self.left -= 1
            if self.left == 0:
                self.scope.cancel()


async def abandoned_after(
    checkpoints: int, fn: Callable[[*Arguments], Awaitable[Result]], *args: *Arguments
) -> tuple[Result, ...]:
    """Run *fn* and cancel it at its checkpoint number *checkpoints* (0: from the start).

    Returns:
        Its result alone if it came to one, else nothing.
    """
    with trio.CancelScope() as scope:
        if checkpoints == 0:
            scope.cancel()
        instrument = CancelAfter(trio.lowlevel.current_task(), scope, checkpoints)
        trio.lowlevel.add_instrument(instrument)
        try:
            return (await fn(*args),)
        finally:
            trio.lowlevel.remove_instrument(instrument)
    return ()


async def cancelled_everywhere(attempt: Callable[[int], Awaitable[Sequence[object]]]) -> None:
    """Run *attempt* with 0, 1, 2, ... checkpoints until that was enough, so that each comes to be the one that is cancelled."""
    checkpoints = 0
    while not await attempt(checkpoints):
        assert checkpoints < _MOST_CHECKPOINTS, f"not done after {checkpoints} checkpoints"
        checkpoints += 1


@attrs.define(eq=False)
class Mirror:
    """A view kept by a feed, with the log of its batches; it insists on the order of revisions.

    `revision` is how far `Synced` has moved the view, `told` the newest change.
    """

    feed: Feed
    values: dict[str, bytes] = attrs.field(factory=dict)
    revisions: dict[str, int] = attrs.field(factory=dict)
    batches: list[tuple[Change | Synced | Resync, ...]] = attrs.field(factory=list)
    told: int = 0
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
                    self.told = self.revision = 0
                    self.synced = False
                case _:
                    raise AssertionError(f"a feed does not tell {item!r}")
        self._moved.set()
        self._moved = trio.Event()

    def _fold_change(self, change: Change) -> None:
        before = max(self.told, self.revision)
        assert change.revision > before, f"{change} after revision {before}"
        self.told = change.revision
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
        """Wait until the feed has said that the view is level at *revision* or above."""
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

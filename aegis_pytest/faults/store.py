"""A store as one node of a faulty cluster reaches it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

import attrs
import trio

from aegis_core.backend import (
    Capabilities,
    Change,
    Conflict,
    Entry,
    Feed,
    Indeterminate,
    Operation,
    Put,
    Resync,
    Store,
    StoreUnavailable,
    Synced,
    Transaction,
)
from aegis_core.errors import AegisError
from aegis_pytest.faults.kinds import STORE, Cut, Doubt
from aegis_pytest.faults.member import Member

if TYPE_CHECKING:
    from aegis_pytest.faults.plane import FaultPlane

__all__ = ["FaultyFeed", "FaultyStore"]

Result = TypeVar("Result")


class _NoAnswer(Exception):
    """The store did not answer in time."""


class FaultyStore:
    """*store*, reached over a way that can be cut, slow or lossy, by a node that can be stopped or dead.

    The first request that gets no answer is indeterminate, after `FaultPlane.store_timeout`; while the same cut lasts, the
    connection is known to be down, and the next ones are refused at once as not sent.

    Args:
        store: As the node is connected to it.
        plane: What is wrong.
        member: The node.
        later: By which connection arrives what the node sent, and may not live to see; None: by its own.
    """

    def __init__(self, store: Store, plane: FaultPlane, member: Member, *, later: Store | None = None) -> None:
        self._store = store
        self._later = later or store
        self._plane = plane
        self._member = member
        # The cuts that were between this node and the store when an answer did not come.
        self._noticed: list[Cut] = []

    def __repr__(self) -> str:
        return f"<FaultyStore of {self._member.name!r} on {self._store!r}>"

    @property
    def capabilities(self) -> Capabilities:
        """The store's."""
        return self._store.capabilities

    async def commit(self, transaction: Transaction) -> tuple[int, ...]:
        """As the store, if the way there and the way back allow.

        Raises:
            Conflict: As the store says.
            Indeterminate: The answer was lost, or the request.
            StoreUnavailable: The node is dead, the connection known to be down, or its lease lost (see `Faults.lose_lease`).
            ValueError: As the store says.
        """
        name = self._member.name
        if self._member.is_dead:
            await trio.lowlevel.checkpoint()
            raise self._dead()
        if any(isinstance(op, Put) and self._plane.is_lost(op.key) for op in transaction.operations):
            await trio.lowlevel.checkpoint()
            raise StoreUnavailable(reason="the store does not take this registration")
        self._member.note(transaction)
        doubt = self._plane.doubt(name, transaction)
        if doubt is not None:
            return await self._doubtful(transaction, doubt)
        doubled = self._plane.doubles(name, STORE)

        async def apply() -> tuple[int, ...]:
            taken = await self._relapsed(transaction)
            if doubled is not None:
                self._plane.send(self._later.commit, taken, after=doubled.after)
            try:
                return await self._store.commit(taken)
            except Conflict:
                self._plane.conflicts += 1
                raise

        try:
            return await self._exchange(apply)
        except _NoAnswer:
            raise Indeterminate(reason=f"the store did not answer node {name!r}") from None

    async def _relapsed(self, transaction: Transaction) -> Transaction:
        """*transaction* with the TTL that is left of those keys whose renewal comes too late."""
        share = self._plane.relapse(self._member.name)
        if not share:
            return transaction
        operations = [await self._shortened(op, share) for op in transaction.operations]
        return attrs.evolve(transaction, operations=tuple(operations))

    async def _shortened(self, op: Operation, share: float) -> Operation:
        if not isinstance(op, Put) or op.ttl is None:
            return op
        entry = await self._store.get(op.key)
        left = None if entry is None else entry.ttl_left
        if left is None or left >= share * op.ttl:
            return op
        return attrs.evolve(op, ttl=max(left, self.capabilities.min_ttl))

    async def _doubtful(self, transaction: Transaction, doubt: Doubt) -> tuple[int, ...]:
        if doubt.applied == "later":
            self._plane.send(self._later.commit, transaction, after=doubt.after)
        elif doubt.applied:
            # A refusal is lost as any other answer would be.
            with suppress(Conflict, _NoAnswer):
                await self._exchange(lambda: self._store.commit(transaction))
        await trio.lowlevel.checkpoint()
        raise Indeterminate(reason="the answer was lost")

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[Feed]:
        """A feed that waits while the way is cut, and then catches up.

        Raises:
            StoreUnavailable: The node is dead.
        """
        if self._member.is_dead:
            await trio.lowlevel.checkpoint()
            raise self._dead()
        async with self._store.watch() as feed:
            yield FaultyFeed(feed, self._plane, self._member)

    async def sync(self) -> int:
        """As the store.

        Raises:
            StoreUnavailable: It does not answer.
        """
        return await self._read(self._store.sync)

    async def get(self, key: str) -> Entry | None:
        """As the store.

        Raises:
            StoreUnavailable: It does not answer.
        """
        return await self._read(lambda: self._store.get(key))

    async def _read(self, read: Callable[[], Awaitable[Result]]) -> Result:
        try:
            return await self._exchange(read)
        except _NoAnswer:
            raise StoreUnavailable(reason=f"the store did not answer node {self._member.name!r}") from None

    async def _exchange(self, operation: Callable[[], Awaitable[Result]]) -> Result:
        """Take a request to the store, have it carried out there, and take the answer back."""
        member, plane = self._member, self._plane
        with member.living():
            await plane.wait_running(member)
            if any(cut in self._noticed for cut in plane.cuts(member.name, STORE)):
                await trio.lowlevel.checkpoint()
                raise StoreUnavailable(reason=f"node {member.name!r} has no connection to the store")
            with trio.move_on_after(plane.store_timeout):
                await plane.carry(member.name, STORE)
                try:
                    result = await operation()
                except (AegisError, ValueError) as error:
                    refusal = error
                else:
                    await self._come_back()
                    return result
                await self._come_back()
                raise refusal
            self._noticed = plane.cuts(member.name, STORE)
            await plane.wait_running(member)
            raise _NoAnswer
        raise self._dead()

    async def _come_back(self) -> None:
        await self._plane.carry(STORE, self._member.name)
        await self._plane.wait_running(self._member)

    def _dead(self) -> StoreUnavailable:
        return StoreUnavailable(reason=f"node {self._member.name!r} is dead")


class FaultyFeed:
    """*feed*, over the same way: late where that is slow, silent while it is cut."""

    def __init__(self, feed: Feed, plane: FaultPlane, member: Member) -> None:
        self._feed = feed
        self._plane = plane
        self._member = member
        # Taken from the feed, and on its way.
        self._batch: Sequence[Change | Synced | Resync] | None = None
        self._arrives_at = 0.0

    def __repr__(self) -> str:
        return f"<FaultyFeed of {self._member.name!r} on {self._feed!r}>"

    async def receive(self) -> Sequence[Change | Synced | Resync]:
        """The next batch, once it has arrived. A dead node waits for ever.

        Raises:
            trio.ClosedResourceError: The watch's block has been left.
        """
        batch: Sequence[Change | Synced | Resync] = ()
        with self._member.living():
            await self._plane.wait_until(self._is_open)
            lag = self._plane.lag(self._member.name)
            if self._batch is None:
                self._batch = await self._feed.receive()
                self._arrives_at = trio.current_time() + self._plane.delay(STORE, self._member.name) + lag
            if self._arrives_at > trio.current_time():
                await trio.sleep_until(self._arrives_at)
            else:
                await trio.lowlevel.checkpoint()
            await self._plane.wait_until(self._is_open)
            lag = self._plane.lag(self._member.name)
            if lag and len(self._batch) > 1:
                batch, self._batch = self._batch[:1], self._batch[1:]
                self._arrives_at = trio.current_time() + lag
            else:
                batch, self._batch = self._batch, None
        if not batch:
            await trio.sleep_forever()
        return batch

    def _is_open(self) -> bool:
        return not self._member.is_stopped and not self._plane.is_cut(self._member.name, STORE)

"""Stores that break the contract, each in one way, and all that is broken by name; the suites must find every one.

One file of this length, because it is a list: each entry is a few lines and a name.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count
from urllib.parse import quote

import attrs
import trio

from aegis_backends.memory import MemoryCluster
from aegis_backends.memory.store import CAPABILITIES, StoreState
from aegis_core.backend import (
    ABSENT,
    ANY,
    Backend,
    Capabilities,
    Change,
    Conflict,
    Delete,
    DeleteReason,
    Entry,
    Feed,
    Put,
    Resync,
    Store,
    Synced,
    Transaction,
    Transport,
    TrioClock,
)
from aegis_pytest.conformance import Harness
from tests.conformance.broken_transports import (
    CrossedAnswers,
    DeafToTags,
    NeverTooSlow,
    Passing,
    TooPatient,
    WaitsForNobody,
)

Batch = Sequence[Change | Synced | Resync]

_FOREIGN = re.compile(r"^\.|\.$|(?<=\.)\.|[^A-Za-z0-9_=/.-]")
_numbers = count()


class Whole(Store):
    """Nothing is broken: what the others break, this passes on."""

    def __init__(self, store: Store) -> None:
        self.store = store

    @property
    def capabilities(self) -> Capabilities:
        """As they are."""
        return self.store.capabilities

    async def commit(self, transaction: Transaction) -> tuple[int, ...]:
        """As it is."""
        return await self.store.commit(transaction)

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[Feed]:
        """A feed that `tell` may spoil."""
        async with self.store.watch() as feed:
            yield SpoiltFeed(feed, self.tell)

    def tell(self, batch: Batch) -> list[Batch]:
        """What of *batch* is told, and in which batches."""
        return [batch]

    async def sync(self) -> int:
        """As it is."""
        return await self.store.sync()

    async def get(self, key: str) -> Entry | None:
        """As it is."""
        return await self.store.get(key)


@attrs.define(eq=False)
class SpoiltFeed(Feed):
    """Tells what *tell* leaves of a feed."""

    feed: Feed
    tell: Callable[[Batch], list[Batch]]
    waiting: list[Batch] = attrs.field(factory=list)

    async def receive(self) -> Batch:
        """The next batch."""
        if self.waiting:
            await trio.lowlevel.checkpoint()
        while not self.waiting:
            self.waiting += [batch for batch in self.tell(await self.feed.receive()) if batch]
        return self.waiting.pop(0)


def renamed(transaction: Transaction) -> Transaction:
    """*transaction* under an id that nobody has seen."""
    return Transaction(f"renamed-{next(_numbers)}", transaction.operations)


# --- Commits ---


class LostCompareAndSet(Whole):
    """Expectations are ignored."""

    async def commit(self, transaction: Transaction) -> tuple[int, ...]:
        """All of it holds always."""
        operations = [attrs.evolve(op, expect=ANY) for op in transaction.operations]
        return await self.store.commit(Transaction(transaction.id, operations))


class TornTransaction(Whole):
    """Operations are carried out one by one, up to the first that fails."""

    async def commit(self, transaction: Transaction) -> tuple[int, ...]:
        """Each on its own."""
        revisions = [
            await self.store.commit(Transaction(f"{transaction.id}/{number}", (op,)))
            for number, op in enumerate(transaction.operations)
        ]
        return tuple(revision for (revision,) in revisions)


class CheckThatDeletes(Whole):
    """A check for absence deletes."""

    async def commit(self, transaction: Transaction) -> tuple[int, ...]:
        """Delete whatever is there."""
        operations = [
            Delete(op.key, ANY) if isinstance(op, Delete) and op.expect == ABSENT else op
            for op in transaction.operations
        ]
        return await self.store.commit(Transaction(transaction.id, operations))


class OneRevisionPerTransaction(Whole):
    """All operations of a transaction are said to have the revision of the last."""

    async def commit(self, transaction: Transaction) -> tuple[int, ...]:
        """The last revision, again and again."""
        revisions = await self.store.commit(transaction)
        return tuple(revision and max(revisions) for revision in revisions)


class CutValues(Whole):
    """Values end at the first NUL."""

    async def commit(self, transaction: Transaction) -> tuple[int, ...]:
        """Cut them."""
        operations = [
            attrs.evolve(op, value=op.value.split(b"\0")[0]) if isinstance(op, Put) else op
            for op in transaction.operations
        ]
        return await self.store.commit(Transaction(transaction.id, operations))


class AnyKey(Whole):
    """Keys outside the alphabet are bent into it."""

    async def commit(self, transaction: Transaction) -> tuple[int, ...]:
        """Keep what is legal of each key."""
        operations = [attrs.evolve(op, key=_FOREIGN.sub("_", op.key) or "_") for op in transaction.operations]
        return await self.store.commit(Transaction(transaction.id, operations))


class AnyId(Whole):
    """Ids outside the alphabet are bent into it."""

    async def commit(self, transaction: Transaction) -> tuple[int, ...]:
        """Quote what is no letter, and cut the rest."""
        return await self.store.commit(Transaction(f"q{quote(transaction.id)}"[:128], transaction.operations))


class Boundless(Whole):
    """Says of itself that it can do half of what it does."""

    @property
    def capabilities(self) -> Capabilities:
        """Half the limits."""
        limits = self.store.capabilities
        return attrs.evolve(limits, max_transaction=limits.max_transaction // 2, max_value=limits.max_value // 2)


class RepeatsAnew(Whole):
    """A repeated transaction is not recognised: one that was reported lost lands twice."""

    async def commit(self, transaction: Transaction) -> tuple[int, ...]:
        """As a new one each time."""
        return await self.store.commit(renamed(transaction))


class RemembersOneKey(Whole):
    """A repeated transaction is recognised by its first key alone."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.done: dict[str, tuple[int, ...]] = {}

    async def commit(self, transaction: Transaction) -> tuple[int, ...]:
        """As a new one if the first key was overwritten."""
        if transaction.id in self.done:
            entry = await self.store.get(transaction.operations[0].key)
            if entry is not None and entry.revision != self.done[transaction.id][0]:
                transaction = renamed(transaction)
        revisions = await self.store.commit(transaction)
        self.done.setdefault(transaction.id, revisions)
        return revisions


class LandsLater(Whole):
    """What was cancelled is applied later, though it has been settled by then."""

    async def commit(self, transaction: Transaction) -> tuple[int, ...]:
        """Leave a copy on the way when cancelled."""
        try:
            return await self.store.commit(transaction)
        except trio.Cancelled:
            trio.lowlevel.spawn_system_task(self.land, renamed(transaction))
            raise

    async def land(self, transaction: Transaction) -> None:
        """Apply the copy."""
        await trio.sleep(0.5)
        try:
            await self.store.commit(transaction)
        except Conflict:
            return


# --- Time ---


class MissedExpiry(Whole):
    """TTLs are ignored."""

    async def commit(self, transaction: Transaction) -> tuple[int, ...]:
        """Permanent, all of it."""
        operations = [attrs.evolve(op, ttl=None) if isinstance(op, Put) else op for op in transaction.operations]
        return await self.store.commit(Transaction(transaction.id, operations))


class EarlyExpiry(Whole):
    """TTLs are cut to whole quarters of a second."""

    async def commit(self, transaction: Transaction) -> tuple[int, ...]:
        """A little less time."""
        operations = [
            attrs.evolve(op, ttl=op.ttl * 4 // 1 / 4) if isinstance(op, Put) and op.ttl else op
            for op in transaction.operations
        ]
        return await self.store.commit(Transaction(transaction.id, operations))


class LateExpiry(Whole):
    """TTLs last half as long again."""

    async def commit(self, transaction: Transaction) -> tuple[int, ...]:
        """A little more time."""
        operations = [
            attrs.evolve(op, ttl=op.ttl * 1.5) if isinstance(op, Put) and op.ttl else op
            for op in transaction.operations
        ]
        return await self.store.commit(Transaction(transaction.id, operations))


class SilentExpiry(Whole):
    """Watches are not told of expiry."""

    def tell(self, batch: Batch) -> list[Batch]:
        """Without what expired."""
        return [[i for i in batch if not (isinstance(i, Change) and i.reason is DeleteReason.EXPIRED)]]


class UnexplainedExpiry(Whole):
    """Expiry is told as if somebody had deleted the key."""

    def tell(self, batch: Batch) -> list[Batch]:
        """With the wrong reason."""
        return [
            [
                attrs.evolve(item, reason=DeleteReason.DELETED)
                if isinstance(item, Change) and item.value is None
                else item
                for item in batch
            ]
        ]


class OldTimersFire(StoreState):
    """Renewing a key does not void the TTL that it had."""

    def _is_current(self, entry: tuple[float, int, str]) -> bool:
        return entry[2] in self._records


# --- Watches and sync ---


class ReorderedWatch(Whole):
    """Changes of one batch are told backwards."""

    def tell(self, batch: Batch) -> list[Batch]:
        """Backwards, but for what says that the view is level."""
        changes = [item for item in batch if isinstance(item, Change)]
        return [[*reversed(changes), *(item for item in batch if not isinstance(item, Change))]]


class SplitBatches(Whole):
    """Each change is told by itself."""

    def tell(self, batch: Batch) -> list[Batch]:
        """One by one."""
        return [[item] for item in batch]


class LostChange(Whole):
    """Every seventh change is not told."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.told = count(1)

    def tell(self, batch: Batch) -> list[Batch]:
        """With gaps."""
        return [[item for item in batch if not isinstance(item, Change) or next(self.told) % 7]]


class ForgottenSnapshot(Whole):
    """A watch tells changes only, not what was there before."""

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[Feed]:
        """A feed whose first batch says that there is nothing."""
        async with self.store.watch() as feed:
            snapshot = await feed.receive()
            level = [item for item in snapshot if isinstance(item, Synced)]
            yield SpoiltFeed(feed, self.tell, [level])


class NeverSynced(Whole):
    """The end of the snapshot is not told."""

    def tell(self, batch: Batch) -> list[Batch]:
        """Changes alone."""
        return [[item for item in batch if not isinstance(item, Synced)]]


class SyncedOnce(Whole):
    """After the snapshot, a feed never again says that it is level."""

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[Feed]:
        """A feed that tells changes alone, but for its first batch."""
        async with self.store.watch() as feed:
            yield SpoiltFeed(feed, self.tell, [await feed.receive()])

    def tell(self, batch: Batch) -> list[Batch]:
        """Changes alone."""
        return [[item for item in batch if not isinstance(item, Synced)]]


class EagerSynced(Whole):
    """A feed says that it is level as soon as there is something to tell."""

    def tell(self, batch: Batch) -> list[Batch]:
        """`Synced` first, and the changes later."""
        level = [item for item in batch if isinstance(item, Synced)]
        return [level, [item for item in batch if not isinstance(item, Synced)], level]


class OwnHistory(Whole):
    """Each handle gives the store's history a name of its own."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.name = f"own-{next(_numbers)}"

    def tell(self, batch: Batch) -> list[Batch]:
        """All of it, named."""
        return [[attrs.evolve(item, generation=self.name) if isinstance(item, Synced) else item for item in batch]]


class WordyHistory(OwnHistory):
    """The name of the store's history is a sentence."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.name = "as it was yesterday"


class StaleSync(Whole):
    """`sync` answers what was true when it was last asked."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.seen = 1

    async def sync(self) -> int:
        """The revision of the time before."""
        before, self.seen = self.seen, await self.store.sync()
        return before


class FarSync(Whole):
    """`sync` answers a revision that no watch has reached."""

    async def sync(self) -> int:
        """One too many."""
        return await self.store.sync() + 1


class SpilledBatch(Whole):
    """A cancelled `receive` takes its batch along."""

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[Feed]:
        """A feed that is not careful."""
        async with self.store.watch() as feed:
            yield SpillingFeed(feed)


@attrs.define(eq=False)
class SpillingFeed(Feed):
    """Takes a batch, and is then cancelled."""

    feed: Feed

    async def receive(self) -> Batch:
        """The next batch, or never again."""
        batch = await self.feed.receive()
        await trio.lowlevel.checkpoint()
        return batch


class EndlessWatch(Whole):
    """A watch that was left says nothing at all."""

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[Feed]:
        """A feed that hides its end."""
        async with self.store.watch() as feed:
            yield EndlessFeed(feed)


@attrs.define(eq=False)
class EndlessFeed(Feed):
    """Waits for ever once it is closed."""

    feed: Feed

    async def receive(self) -> Batch:
        """The next batch, if there ever is one."""
        with suppress(trio.ClosedResourceError):
            return await self.feed.receive()
        await trio.sleep_forever()
        raise AssertionError("for ever is over")


# --- Opening them ---


@attrs.define
class BrokenHarness(Harness):
    """A memory cluster in which *fault* replaces something by what is broken."""

    fault: Fault
    _cluster: MemoryCluster | None = None

    @asynccontextmanager
    async def open_backend(self) -> AsyncIterator[Backend]:
        """A new cluster."""
        fault = self.fault
        self._cluster = MemoryCluster("broken", first_revision=fault.first_revision)
        self._cluster._state = fault.state(
            TrioClock(), first_revision=fault.first_revision, capabilities=fault.capabilities
        )
        async with self.open_peer() as backend:
            yield backend

    @asynccontextmanager
    async def open_peer(self) -> AsyncIterator[Backend]:
        """The cluster that is open."""
        assert self._cluster is not None
        async with self._cluster.open() as backend:
            assert backend.store is not None
            transports = tuple(self.fault.transport(transport) for transport in backend.transports)
            yield attrs.evolve(backend, store=self.fault.store(backend.store), transports=transports)


@attrs.frozen(kw_only=True)
class Fault:
    """What is broken, and the test (without parameters) that is there to find it."""

    caught_by: str
    store: Callable[[Store], Store] = Whole
    transport: Callable[[Transport], Transport] = Passing
    state: type[StoreState] = StoreState
    capabilities: Capabilities = CAPABILITIES
    first_revision: int | None = None


STORES: dict[str, Fault] = {
    "lost compare-and-set": Fault(
        store=LostCompareAndSet, caught_by="test_put_expecting_absence_of_what_is_there_conflicts"
    ),
    "torn transaction": Fault(store=TornTransaction, caught_by="test_failed_expectation_anywhere_changes_nothing"),
    "check that deletes": Fault(store=CheckThatDeletes, caught_by="test_delete_expecting_absence_only_checks"),
    "one revision per transaction": Fault(
        store=OneRevisionPerTransaction, caught_by="test_transaction_changes_all_of_its_keys"
    ),
    "cut values": Fault(store=CutValues, caught_by="test_values_are_bytes_unchanged"),
    "any key": Fault(store=AnyKey, caught_by="test_key_outside_the_alphabet_is_refused"),
    "any id": Fault(store=AnyId, caught_by="test_transaction_with_another_id_is_refused"),
    "boundless": Fault(store=Boundless, caught_by="test_transaction_may_be_as_long_as_said_and_no_longer"),
    "revisions that return": Fault(
        first_revision=1, caught_by="test_revisions_do_not_return_when_the_store_is_made_anew"
    ),
    "repeats not recognised": Fault(store=RepeatsAnew, caught_by="test_repeated_put_is_applied_once"),
    "repeats recognised by one key": Fault(
        store=RemembersOneKey, caught_by="test_repeat_is_recognised_when_one_key_was_overwritten"
    ),
    "deletions forgotten": Fault(
        capabilities=attrs.evolve(CAPABILITIES, settle_for=0.0),
        caught_by="test_repeated_delete_is_applied_once",
    ),
    "lost commit lands later": Fault(store=LandsLater, caught_by="test_cancelled_commit_is_settled_by_repeating_it"),
    "missed expiry": Fault(store=MissedExpiry, caught_by="test_key_goes_when_its_ttl_ends"),
    "early expiry": Fault(store=EarlyExpiry, caught_by="test_ttl_is_never_cut_short"),
    "late expiry": Fault(store=LateExpiry, caught_by="test_key_goes_when_its_ttl_ends"),
    "silent expiry": Fault(store=SilentExpiry, caught_by="test_many_keys_go_each_once"),
    "expiry without reason": Fault(store=UnexplainedExpiry, caught_by="test_key_goes_when_its_ttl_ends"),
    "old timers fire": Fault(state=OldTimersFire, caught_by="test_renewal_voids_the_old_ttl"),
    "reordered watch": Fault(store=ReorderedWatch, caught_by="test_changes_are_told_in_the_order_of_their_revisions"),
    "split batches": Fault(store=SplitBatches, caught_by="test_transaction_is_told_in_one_batch"),
    "lost change": Fault(store=LostChange, caught_by="test_reader_that_is_slow_gets_the_newest_of_each_key"),
    "forgotten snapshot": Fault(store=ForgottenSnapshot, caught_by="test_watch_begins_with_each_key_once"),
    "never synced": Fault(store=NeverSynced, caught_by="test_watch_of_an_empty_store_is_synced_at_once"),
    "synced once": Fault(store=SyncedOnce, caught_by="test_sync_is_reached_though_nothing_changes"),
    "synced too early": Fault(store=EagerSynced, caught_by="test_view_is_whole_whenever_the_feed_is_said_to_be_level"),
    "history of each reader": Fault(store=OwnHistory, caught_by="test_every_reader_is_told_of_the_same_history"),
    "history with a sentence": Fault(store=WordyHistory, caught_by="test_every_reader_is_told_of_the_same_history"),
    "stale sync": Fault(store=StaleSync, caught_by="test_sync_covers_every_commit_acknowledged_before"),
    "sync beyond the feed": Fault(store=FarSync, caught_by="test_sync_is_reached_though_nothing_changes"),
    "spilled batch": Fault(store=SpilledBatch, caught_by="test_cancelled_receive_loses_nothing"),
    "endless watch": Fault(store=EndlessWatch, caught_by="test_watch_ends_with_its_block"),
}

TRANSPORTS: dict[str, Fault] = {
    "deaf to tags": Fault(transport=DeafToTags, caught_by="test_another_incarnation_never_gets_the_request"),
    "waits for nobody": Fault(transport=WaitsForNobody, caught_by="test_request_to_nobody_is_known_at_once"),
    "never too slow": Fault(transport=NeverTooSlow, caught_by="test_request_without_answer_times_out"),
    "too patient": Fault(transport=TooPatient, caught_by="test_request_without_answer_times_out"),
    "crossed answers": Fault(
        transport=CrossedAnswers,
        caught_by="test_requests_under_way_get_each_their_own_answer",
    ),
}

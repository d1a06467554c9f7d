"""The memory store beyond its contract: exact expiry, bounded memory, nothing torn."""

from __future__ import annotations

import random

import attrs
import pytest
import trio
from trio.testing import MockClock

from aegis_backends.alarm import Alarm
from aegis_backends.memory.store import CAPABILITIES, MemoryFeed, StoreState
from aegis_core.backend import ABSENT, ANY, Change, Conflict, Delete, DeleteReason, Put, Resync, Synced, Transaction
from aegis_core.validation import validate_transaction


@attrs.define
class HandClock:
    """A clock that a test sets by hand; nobody may sleep on it."""

    time: float = 0.0

    def now(self) -> float:
        """The time that was set."""
        return self.time

    def trio_time(self, at: float) -> float:
        """As it is."""
        return at

    async def sleep_until(self, at: float) -> None:
        """Not here."""
        await trio.lowlevel.checkpoint()
        raise AssertionError(f"somebody sleeps until {at}")


@pytest.fixture
def hand() -> HandClock:
    """A clock that a test sets by hand."""
    return HandClock()


@pytest.fixture
def state(hand: HandClock) -> StoreState:
    """A store's state whose revisions begin at 1."""
    return StoreState(hand, first_revision=1)


def put(key: str, ttl: float | None = None, expect: int = ANY, value: bytes = b"v") -> Put:
    """A put."""
    return Put(key, value, expect, ttl)


def commit(state: StoreState, transaction_id: str, *operations: Put | Delete) -> tuple[int, ...]:
    """Check and commit."""
    transaction = Transaction(transaction_id, operations)
    validate_transaction(transaction, state.capabilities)
    return state.commit(transaction)


def watch(state: StoreState) -> MemoryFeed:
    """A feed of *state*."""
    feed = MemoryFeed(state)
    state.feeds[feed] = None
    return feed


def test_expiry_is_exact_though_no_alarm_has_rung(hand: HandClock, state: StoreState) -> None:
    """Whoever looks at the very instant of its end does not see the key, and a renewal comes too late."""
    commit(state, "a", put("lease", ttl=10))
    hand.time = 9.999
    assert state.get("lease") is not None
    hand.time = 10.0
    with pytest.raises(Conflict):
        commit(state, "b", put("lease", ttl=10, expect=1))
    assert state.get("lease") is None
    assert state.revision == 2
    assert commit(state, "c", put("lease", expect=ABSENT)) == (3,)


async def test_keys_expire_in_the_order_of_their_ends(hand: HandClock, state: StoreState) -> None:
    """However late the store looks, it tells the ends as they fell."""
    feed = watch(state)
    await feed.receive()
    commit(state, "a", put("third", ttl=30), put("first", ttl=10), put("second", ttl=20))
    hand.time = 99
    state.expire_due()
    told = [item for item in await feed.receive() if isinstance(item, Change)]
    assert [change.key for change in told] == ["first", "second", "third"]
    assert [change.revision for change in told] == [4, 5, 6]
    assert {change.reason for change in told} == {DeleteReason.EXPIRED}


def test_repeat_of_a_put_whose_key_expired_is_recognised(hand: HandClock, state: StoreState) -> None:
    """The commit was applied; that its lease is over since does not make it undone."""
    once = Transaction("once", (put("lease", ttl=10, expect=ABSENT), put("kept")))
    revisions = state.commit(once)
    hand.time = 10
    assert state.commit(once) == revisions == (1, 2)
    alone = Transaction("alone", (put("b", ttl=10, expect=ABSENT),))
    assert state.commit(alone) == (4,)
    hand.time = 20
    assert state.commit(alone) == (4,)
    assert state.get("b") is None


def test_deletion_is_recognised_for_as_long_as_said_and_then_forgotten(hand: HandClock, state: StoreState) -> None:
    """Tombstones last `settle_for` seconds."""
    commit(state, "a", put("k"))
    gone = Transaction("gone", (Delete("k", 1),))
    assert state.commit(gone) == (2,)
    hand.time = CAPABILITIES.settle_for - 1
    assert state.commit(gone) == (2,)
    hand.time = CAPABILITIES.settle_for
    with pytest.raises(Conflict):
        state.commit(gone)


def test_busy_store_does_not_grow(hand: HandClock, state: StoreState) -> None:
    """Renewals, deletions and repeats over many TTLs leave no more behind than a few do."""
    for step in range(20_000):
        hand.time = float(step)
        commit(state, f"renew-{step}", put("lease", ttl=1e6))
        commit(state, f"put-{step}", put(f"k.{step}", ttl=1e6))
        commit(state, f"delete-{step}", Delete(f"k.{step}", ANY))
    assert len(state._expiries) < 100
    assert len(state._tombstones) <= CAPABILITIES.settle_for + 1
    assert len(state._records) == 1


async def test_reader_that_never_reads_holds_one_change_per_key(state: StoreState) -> None:
    """A thousand changes of a key are one in the backlog, and it is the newest."""
    feed = watch(state)
    await feed.receive()
    for step in range(1000):
        commit(state, f"{step}", put("hot", value=b"%d" % step), put(f"k.{step % 3}"))
    batch = await feed.receive()
    assert [item.key for item in batch if isinstance(item, Change)] == ["k.1", "k.2", "hot", "k.0"]
    assert [item.revision for item in batch if not isinstance(item, Resync)] == [1996, 1998, 1999, 2000, 2000]
    assert batch[-1] == Synced(2000)


async def test_reader_that_has_not_begun_holds_nothing(state: StoreState) -> None:
    """The snapshot is made when it is read: it has what was written until then, once."""
    feed = watch(state)
    commit(state, "a", put("k", value=b"1"))
    commit(state, "b", put("k", value=b"2"), put("gone"))
    commit(state, "c", Delete("gone", ANY))
    assert "0 changes" in repr(feed)
    assert list(await feed.receive()) == [Change("k", b"2", 2), Synced(4)]


async def test_reader_that_falls_behind_is_given_a_new_snapshot(state: StoreState) -> None:
    """Where nearly all of a backlog is about keys that are gone, it is dropped, and the reader is told so."""
    feed = watch(state)
    await feed.receive()
    commit(state, "kept", put("kept"))
    for step in range(11_000):
        commit(state, f"put-{step}", put(f"k.{step}"))
        commit(state, f"delete-{step}", Delete(f"k.{step}", ANY))
    batch = await feed.receive()
    assert [type(item) for item in batch] == [Resync, Change, Synced]
    assert batch[1] == Change("kept", b"v", 1)
    assert batch[2] == Synced(22_001)
    commit(state, "after", put("after"))
    assert list(await feed.receive()) == [Change("after", b"v", 22_002), Synced(22_002)]


@pytest.mark.parametrize("wrong", [None, "text", 5])
def test_value_that_is_no_bytes_tears_nothing(state: StoreState, wrong: object) -> None:
    """A mistake of the caller in one operation leaves the others undone too."""
    mistaken = Put("wrong", wrong, ANY)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        commit(state, "a", put("fine"), mistaken)
    assert state.get("fine") is None
    assert state.revision == 0


def test_stored_value_is_a_copy(state: StoreState) -> None:
    """Changing a buffer after the commit does not change the store."""
    buffer = bytearray(b"1")
    commit(state, "a", Put("k", buffer, ANY))  # type: ignore[arg-type]
    buffer[0] = 0
    entry = state.get("k")
    assert entry is not None
    assert entry.value == b"1"


@pytest.mark.parametrize("seed", range(5))
async def test_feed_folds_to_what_is_there(hand: HandClock, state: StoreState, seed: int) -> None:
    """Over any mix of puts, deletions, TTLs and pauses, a view that folds a feed equals the store at each batch."""
    rng = random.Random(seed)
    feed = watch(state)
    view: dict[str, bytes] = {}
    for step in range(400):
        key = f"k.{rng.randrange(6)}"
        operation = rng.choice((Delete(key, ANY), put(key, rng.choice((None, 1.0, 5.0)), value=b"%d" % step)))
        commit(state, f"{step}", operation)
        hand.time += rng.random()
        if rng.random() < 0.3:
            state.expire_due()
            for item in await feed.receive():
                if isinstance(item, Change) and item.value is not None:
                    view[item.key] = item.value
                elif isinstance(item, Change):
                    view.pop(item.key, None)
            assert view == {change.key: change.value for change in state.snapshot()}


async def test_alarm_rings_at_the_earliest_time_only(mock_clock: MockClock) -> None:
    """An earlier time wakes it, a later one does not, and without a time it sleeps for ever."""
    due = [5.0, 7.0]
    rung: list[float] = []

    def ring() -> float:
        rung.append(trio.current_time())
        return due.pop(0) if due else float("inf")

    alarm = Alarm(trio.sleep_until, ring)
    async with trio.open_nursery() as nursery:
        alarm.set(3.0)
        nursery.start_soon(alarm.run)
        await trio.testing.wait_all_tasks_blocked()
        alarm.set(4.0)
        alarm.set(2.0)
        assert repr(alarm) == "<Alarm at 2.0>"
        for _ in range(10):
            mock_clock.jump(1)
            await trio.testing.wait_all_tasks_blocked()
        assert rung == [2.0, 5.0, 7.0]
        assert repr(alarm) == "<Alarm at inf>"
        assert trio.lowlevel.current_statistics().seconds_to_next_deadline == float("inf")
        alarm.set(20.0)
        mock_clock.jump(10)
        await trio.testing.wait_all_tasks_blocked()
        assert rung[3:] == [20.0]
        nursery.cancel_scope.cancel()

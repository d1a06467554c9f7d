"""What a store promises to its readers: a snapshot, every change in order, and a read barrier."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

import pytest
import trio
import trio.testing

from aegis_core.backend import ABSENT, Change, Delete, DeleteReason, Feed, Store, Synced
from aegis_pytest.conformance.steps import (
    Mirror,
    abandoned_after,
    cancelled_everywhere,
    commit,
    open_mirror,
    open_store,
    open_two,
    put,
)
from aegis_pytest.conformance.suite import Suite
from aegis_pytest.harness import Harness

__all__ = ["WatchConformance"]


async def write_at_random(store: Store, name: str, seed: int, rounds: int = 25) -> None:
    """Put and delete a few keys that begin with *name*, over and over."""
    rng = random.Random(seed)
    for number in range(rounds):
        key = f"{name}.{rng.randrange(4)}"
        if rng.random() < 0.3:
            await commit(store, Delete(key, -1))
        else:
            await commit(store, put(key, b"%d" % number), put(f"{name}.twin", b"%d" % number))


class WatchConformance(Suite):
    """Watches and `sync`; part of `StoreConformance`."""

    # --- The snapshot ---

    async def test_watch_of_an_empty_store_is_synced_at_once(self, harness: Harness, clock: object) -> None:
        """With nothing to tell, a feed says that nothing is there."""
        async with open_store(harness) as store:
            async with store.watch() as feed:
                batch = await feed.receive()
            assert [type(item) for item in batch] == [Synced]

    async def test_watch_begins_with_each_key_once(self, harness: Harness, clock: object) -> None:
        """Keys with their newest value, in the order of their revisions, then `Synced`; not what is gone."""
        async with open_store(harness) as store:
            await commit(store, *(put(f"k.{n}", b"old") for n in range(10)))
            (last,) = await commit(store, put("k.3", b"new"))
            (gone,) = await commit(store, Delete("k.5", -1))
            async with open_mirror(store) as mirror:
                told = mirror.changes
                assert mirror.revision >= gone
            values = {f"k.{n}": b"old" for n in range(10) if n != 5} | {"k.3": b"new"}
            assert mirror.values == values
            assert mirror.revisions["k.3"] == last
            assert len({change.key for change in told}) == len(told)

    async def test_every_reader_is_told_of_the_same_history(self, harness: Harness, clock: object) -> None:
        """By a name of a few plain characters, or by none: who comes back over another handle is not to seem set back."""
        async with open_two(harness) as stores:
            told: set[str] = set()
            for number, store in enumerate((*stores, *stores)):
                await commit(stores[number % 2], put(f"k.{number}"))
                async with open_mirror(store) as mirror:
                    told |= {item.generation for batch in mirror.batches for item in batch if isinstance(item, Synced)}
            (generation,) = told
            assert re.fullmatch(r"[!-~]{0,128}", generation)

    async def test_watch_opened_among_writers_misses_nothing(self, harness: Harness, clock: object) -> None:
        """Wherever the snapshot falls among the changes, snapshot and changes make up the whole."""
        async with open_two(harness) as (a, b):
            mirrors: list[Mirror] = []

            async def watch_and_compare(store: Store, delay: int) -> None:
                for _ in range(delay):
                    await trio.lowlevel.checkpoint()
                async with open_mirror(store) as mirror:
                    await written.wait()
                    await mirror.catch_up(store)
                    mirrors.append(mirror)

            written = trio.Event()
            async with trio.open_nursery() as readers:
                for delay in range(0, 120, 6):
                    readers.start_soon(watch_and_compare, (a, b)[delay % 4 // 2], delay)
                async with trio.open_nursery() as writers:
                    writers.start_soon(write_at_random, a, "a", 1)
                    writers.start_soon(write_at_random, b, "b", 2)
                    writers.start_soon(write_at_random, a, "c", 3)
                written.set()
            assert len(mirrors) == 20
            for mirror in mirrors:
                assert mirror.values == mirrors[0].values
                assert mirror.revisions == mirrors[0].revisions

    # --- The changes ---

    async def test_changes_are_told_in_the_order_of_their_revisions(self, harness: Harness, clock: object) -> None:
        """What `commit` returned is what every watch tells, over both connections alike."""
        async with open_two(harness) as (a, b), open_mirror(a) as mine, open_mirror(b) as other:
            revisions: list[int] = []
            for number in range(20):
                writer = (a, b)[number % 2]
                revisions += await commit(writer, put(f"k.{number}"), put(f"l.{number}"))
            for mirror in (mine, other):
                await mirror.wait_revision(revisions[-1])
                assert [change.revision for change in mirror.changes] == revisions
                assert mirror.changes[6:8] == [
                    Change("k.3", b"v", revisions[6]),
                    Change("l.3", b"v", revisions[7]),
                ]

    async def test_deletion_is_told_with_its_reason(self, harness: Harness, clock: object) -> None:
        """A deletion has no value, the revision of the commit, and the reason DELETED."""
        async with open_store(harness) as store, open_mirror(store) as mirror:
            (first,) = await commit(store, put("a", b"1", ABSENT))
            await mirror.wait_revision(first)
            (gone,) = await commit(store, Delete("a", first))
            await mirror.wait_revision(gone)
            assert mirror.changes == [
                Change("a", b"1", first),
                Change("a", None, gone, DeleteReason.DELETED),
            ]

    async def test_transaction_is_told_in_one_batch(self, harness: Harness, clock: object) -> None:
        """A reader that folds batch by batch never sees half of a transaction, where the store can do that."""
        async with open_store(harness) as store, open_mirror(store) as mirror:
            for number in range(10):
                await commit(store, *(put(f"k.{n}", b"%d" % number) for n in range(5)))
            await mirror.catch_up(store)
            assert set(mirror.values.values()) == {b"9"}
            if harness.whole_transactions:
                for batch in mirror.batches[1:]:
                    told = {c.key: c.value for c in batch if isinstance(c, Change)}
                    assert not told or (len(told) == 5 and len(set(told.values())) == 1)

    async def test_reader_that_is_slow_gets_the_newest_of_each_key(self, harness: Harness, clock: object) -> None:
        """Changes may be merged per key, never lost, and stay in the order of revisions."""
        async with open_store(harness) as store, store.watch() as feed:
            mirror = Mirror(feed)
            while not mirror.synced:
                mirror.fold(await feed.receive())
            for number in range(30):
                await commit(store, put("hot", b"%d" % number), put(f"cold.{number % 7}"))
            (gone,) = await commit(store, Delete("cold.0", -1))
            (last,) = await commit(store, put("end"))
            while mirror.revision < last:
                mirror.fold(await feed.receive())
            assert set(mirror.values) == {"hot", "end", *(f"cold.{n}" for n in range(1, 7))}
            assert mirror.values["hot"] == b"29"
            assert gone in {change.revision for change in mirror.changes_of("cold.0")}

    async def test_view_is_whole_whenever_the_feed_is_said_to_be_level(self, harness: Harness, clock: object) -> None:
        """At each `Synced` the view shows every key at least as new as it was at that revision."""
        async with open_two(harness) as (a, b), a.watch() as feed:
            mirror = Mirror(feed)
            written: list[tuple[int, str]] = []
            views: list[tuple[int, dict[str, int]]] = []

            async def write(store: Store, seed: int) -> None:
                rng = random.Random(seed)
                for _ in range(40):
                    keys = [f"k.{n}" for n in rng.sample(range(6), 2)]
                    revisions = await commit(store, *(put(key) for key in keys))
                    written.extend(zip(revisions, keys, strict=True))

            async def read() -> None:
                while True:
                    mirror.fold(await feed.receive())
                    views.append((mirror.revision, dict(mirror.revisions)))

            async with trio.open_nursery() as reading:
                reading.start_soon(read)
                async with trio.open_nursery() as writing:
                    for seed, store in enumerate((a, b, a)):
                        writing.start_soon(write, store, seed)
                # A change may have been told before its writer was.
                await mirror.catch_up(a)
                reading.cancel_scope.cancel()
            assert len(written) == 240
            assert mirror.revision >= max(written)[0]
            for level, view in views:
                for revision, key in written:
                    assert revision > level or view[key] >= revision

    async def test_receive_waits_for_the_next_change(self, harness: Harness, clock: object) -> None:
        """While nothing happens nothing is told, except that the feed is level; a change of anybody wakes the reader."""
        async with open_two(harness) as (a, b), open_mirror(a) as mirror:
            told = len(mirror.batches)
            await harness.advance(harness.ttl)
            assert all(isinstance(i, Synced) for batch in mirror.batches[told:] for i in batch)
            (revision,) = await commit(b, put("a"))
            await mirror.wait_revision(revision)
            assert mirror.values == {"a": b"v"}

    async def test_watch_ends_with_its_block(self, harness: Harness, clock: object) -> None:
        """Who receives then, or was waiting, gets `trio.ClosedResourceError`; other watches go on."""
        feeds: list[Feed] = []
        ended = trio.Event()

        async def wait_for_the_end() -> None:
            try:
                while True:
                    await feeds[0].receive()
            except trio.ClosedResourceError:
                ended.set()

        async with open_store(harness) as store, open_mirror(store) as other:
            async with trio.open_nursery() as nursery, store.watch() as feed:
                feeds.append(feed)
                nursery.start_soon(wait_for_the_end)
                await trio.testing.wait_all_tasks_blocked(0.01)
                assert not ended.is_set()
            with pytest.raises(trio.ClosedResourceError):
                await feed.receive()
            assert ended.is_set()
            await commit(store, put("a"))
            await other.catch_up(store)
            assert other.values == {"a": b"v"}

    # --- The read barrier ---

    async def test_sync_covers_every_commit_acknowledged_before(self, harness: Harness, clock: object) -> None:
        """A view that has reached `sync`'s revision shows what anybody was told is done."""
        async with open_two(harness) as (a, b), open_mirror(a) as mine, open_mirror(b) as other:
            for number in range(20):
                for writer, reader, mirror in ((a, b, other), (b, a, mine), (a, a, mine)):
                    value = b"%d" % number
                    (revision,) = await commit(writer, put("a", value))
                    barrier = await reader.sync()
                    assert barrier >= revision
                    await mirror.wait_revision(barrier)
                    assert mirror.values["a"] == value

    async def test_sync_is_reached_though_nothing_changes(self, harness: Harness, clock: object) -> None:
        """A barrier on an idle store, again and again and by many at once, is one that its watches reach."""
        async with open_store(harness) as store, open_mirror(store) as mirror:
            barriers: list[int] = []

            async def catch_up() -> None:
                barriers.append(await store.sync())
                await mirror.wait_revision(barriers[-1])

            for _ in range(3):
                await catch_up()
            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(catch_up)
            (revision,) = await commit(store, put("a"))
            await catch_up()
            assert barriers[-1] >= revision
            assert mirror.values == {"a": b"v"}

    async def test_sync_does_not_go_back(self, harness: Harness, clock: object) -> None:
        """Barriers taken one after the other, over either connection, never shrink."""
        async with open_two(harness) as (a, b):
            barriers = []
            for number in range(10):
                barriers += [await a.sync(), await b.sync()]
                await commit((a, b)[number % 2], put("a"))
            assert barriers == sorted(barriers)

    # --- Cancellation ---

    async def test_cancelled_receive_loses_nothing(self, harness: Harness, clock: object) -> None:
        """What a cancelled `receive` did not return comes with the next."""
        async with open_store(harness) as store, store.watch() as feed:
            mirror = Mirror(feed)
            rounds = 0

            async def attempt(checkpoints: int) -> Sequence[object]:
                nonlocal rounds
                rounds += 1
                (last,) = await commit(store, put(f"k.{rounds}"))
                done = await abandoned_after(checkpoints, feed.receive)
                for batch in done:
                    mirror.fold(batch)
                while mirror.revision < last:
                    mirror.fold(await feed.receive())
                return done

            await cancelled_everywhere(attempt)
            assert set(mirror.values) == {f"k.{n}" for n in range(1, rounds + 1)}

    async def test_cancelled_watch_leaves_nothing_behind(self, harness: Harness, clock: object) -> None:
        """Wherever opening a watch is cancelled, the next one works."""
        async with open_store(harness) as store:
            (revision,) = await commit(store, put("a"))

            async def open_and_read() -> int:
                async with open_mirror(store) as mirror:
                    return mirror.revision

            async def attempt(checkpoints: int) -> Sequence[object]:
                done = await abandoned_after(checkpoints, open_and_read)
                assert await open_and_read() >= revision
                return done

            await cancelled_everywhere(attempt)

    async def test_cancelled_sync_and_get_leave_nothing_behind(self, harness: Harness, clock: object) -> None:
        """Wherever a read is cancelled, the next one answers."""
        async with open_store(harness) as store:
            (revision,) = await commit(store, put("a"))

            async def read() -> tuple[int, object]:
                return await store.sync(), await store.get("a")

            async def attempt(checkpoints: int) -> Sequence[object]:
                done = await abandoned_after(checkpoints, read)
                barrier, entry = await read()
                assert barrier >= revision
                assert entry is not None
                return done

            await cancelled_everywhere(attempt)

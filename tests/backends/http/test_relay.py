"""One watch told to many readers: from the beginning, from where they were, and anew when that is shorter."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from aegis_backends.http.relay import Relay
from aegis_core.backend import Change, DeleteReason, Resync, Synced
from tests.node.told_store import ToldStore


def put(key: str, revision: int) -> Change:
    """A change that says its revision."""
    return Change(key, b"%d" % revision, revision)


@asynccontextmanager
async def open_relay(store: ToldStore, remembered: int = 20_000) -> AsyncIterator[Relay]:
    """A relay that knows the store with one key."""
    await store.tell.send([put("a", 1)])
    await store.tell.send([put("b", 2), Synced(2)])
    relay = Relay(store, remembered=remembered)
    assert not relay.ready
    async with trio.open_nursery() as nursery:
        await nursery.start(relay.run)
        yield relay
        nursery.cancel_scope.cancel()


async def test_new_reader_is_told_everything(autojump_clock: MockClock) -> None:
    """Each key once, in the order of revisions, and then what changes."""
    store = ToldStore()
    async with open_relay(store) as relay:
        assert "2 keys" in repr(relay)
        with relay.open(None) as feed:
            assert await feed.receive() == [put("a", 1), put("b", 2), Synced(2)]
            await store.tell.send([put("a", 3), Change("b", None, 4, DeleteReason.EXPIRED), Synced(4)])
            assert await feed.receive() == [put("a", 3), Change("b", None, 4, DeleteReason.EXPIRED), Synced(4)]
        with relay.open(None) as feed:
            assert await feed.receive() == [put("a", 3), Synced(4)]


async def test_snapshot_waits_for_what_it_must_show(autojump_clock: MockClock) -> None:
    """The router's own feed may be behind what somebody was told."""
    store = ToldStore()
    async with open_relay(store) as relay:
        with relay.open(None, at_least=4) as feed:
            await store.tell.send([put("a", 3), Synced(3)])
            with trio.move_on_after(1.0):
                raise AssertionError(f"too early: {await feed.receive()}")
            await store.tell.send([put("b", 4), Synced(4)])
            assert await feed.receive() == [put("a", 3), put("b", 4), Synced(4)]


async def test_changes_that_were_not_taken_are_merged(autojump_clock: MockClock) -> None:
    """To the newest of each key, in the order of revisions."""
    store = ToldStore()
    async with open_relay(store) as relay:
        with relay.open(2) as feed:
            await store.tell.send([put("a", 3), put("b", 4), put("a", 5), Synced(5)])
            await wait_all_tasks_blocked()
            assert "2 changes" in repr(feed)
            assert await feed.receive() == [put("b", 4), put("a", 5), Synced(5)]


async def test_reader_that_comes_back_is_told_what_it_missed(autojump_clock: MockClock) -> None:
    """From the revision that it knows, even one that this router has yet to learn of."""
    store = ToldStore()
    async with open_relay(store) as relay:
        await store.tell.send([put("a", 3), put("c", 4), Synced(4)])
        await wait_all_tasks_blocked()
        with relay.open(3) as behind, relay.open(9) as ahead:
            assert await behind.receive() == [put("c", 4), Synced(4)]
            await store.tell.send([put("a", 8), put("b", 10), Synced(10)])
            assert await ahead.receive() == [put("b", 10), Synced(10)]


async def test_reader_that_knows_another_history_begins_anew(autojump_clock: MockClock) -> None:
    """Whatever revision it knows; also where the router is reading that history while the reader comes."""
    store, anew = ToldStore(), Resync("the store was set back", recounted=True)
    async with open_relay(store) as relay:
        await store.tell.send([Resync("set back", recounted=True), put("a", 3), Synced(4, "second")])
        await wait_all_tasks_blocked()
        for after in (1, 4, 9):
            with relay.open(after, "first") as feed:
                assert await feed.receive() == [anew, put("a", 3), Synced(4, "second")]
        with relay.open(4, "second") as feed:
            await store.tell.send([put("b", 5), Synced(5, "second")])
            assert await feed.receive() == [put("b", 5), Synced(5, "second")]
            await store.tell.send([Resync("set back", recounted=True)])
            await wait_all_tasks_blocked()
            with relay.open(5, "second") as late, relay.open(5, "third") as at_home:
                await store.tell.send([put("c", 6), Synced(6, "third")])
                assert await late.receive() == [anew, put("c", 6), Synced(6, "third")]
                first, *rest = await at_home.receive()
                assert isinstance(first, Resync)
                assert not first.recounted
                assert rest == [put("c", 6), Synced(6, "third")]
            assert await feed.receive() == [Resync("set back", recounted=True)]
            assert await feed.receive() == [put("c", 6), Synced(6, "third")]


async def test_reader_that_knows_no_history_is_believed_its_revision(autojump_clock: MockClock) -> None:
    """It is older than histories have names, or comes from a router that is; its leases are worth no less."""
    store = ToldStore()
    async with open_relay(store) as relay:
        await store.tell.send([Resync("anew"), put("a", 3), Synced(4, "second")])
        await wait_all_tasks_blocked()
        with relay.open(4) as feed, relay.open(3) as late:
            first, *_ = await late.receive()
            assert isinstance(first, Resync)
            assert not first.recounted
            await store.tell.send([put("b", 5), Synced(5, "second")])
            assert await feed.receive() == [put("b", 5), Synced(5, "second")]


async def test_reader_that_names_the_history_of_a_router_without_names_is_believed(autojump_clock: MockClock) -> None:
    """That router's store may be one that is older."""
    store = ToldStore()
    async with open_relay(store) as relay:
        await store.tell.send([put("a", 3), put("b", 4), Synced(4)])
        await wait_all_tasks_blocked()
        with relay.open(3, "second") as feed:
            assert await feed.receive() == [put("b", 4), Synced(4)]


async def test_reader_that_was_told_the_next_history_elsewhere_is_not_set_back_again(autojump_clock: MockClock) -> None:
    """By a router that learns of it only then; but by one that then turns out to know yet another."""
    store = ToldStore()
    async with open_relay(store) as relay:
        await store.tell.send([Resync("anew"), put("a", 3), Synced(4, "first")])
        await wait_all_tasks_blocked()
        with relay.open(7, "second", at_least=8) as ahead, relay.open(7, "other", at_least=8) as lost:
            await store.tell.send([Resync("set back", recounted=True)])
            await wait_all_tasks_blocked()
            await store.tell.send([put("c", 6), Synced(9, "second")])
            told = await ahead.receive()
            assert [item.recounted for item in told if isinstance(item, Resync)] == [False]
            assert told[1:] == [put("c", 6), Synced(9, "second")]
            assert await lost.receive() == [Resync("the store was set back", recounted=True), *told[1:]]


async def test_history_that_is_called_otherwise_goes_on_for_who_knows_it_from_here(autojump_clock: MockClock) -> None:
    """Who brought what it knew from elsewhere may know another one."""
    store = ToldStore()
    async with open_relay(store) as relay:
        await store.tell.send([Resync("anew"), put("a", 3), Synced(4, "first")])
        await wait_all_tasks_blocked()
        with (
            relay.open(None) as begun,
            relay.open(4, "first") as resumed,
            relay.open(4) as unnamed,
            relay.open(1, "first") as anew,
        ):
            assert await begun.receive() == [put("a", 3), Synced(4, "first")]
            assert (await anew.receive())[1:] == [put("a", 3), Synced(4, "first")]
            await store.tell.send([put("b", 5), Synced(5, "second")])
            for feed in (begun, unnamed):
                assert await feed.receive() == [put("b", 5), Synced(5, "second")]
            for feed in (resumed, anew):
                assert await feed.receive() == [Resync("the store was set back", recounted=True)]
                assert await feed.receive() == [put("a", 3), put("b", 5), Synced(5, "second")]
            await store.tell.send([Resync("lost"), put("c", 6), Synced(6, "second")])
            for feed in (begun, resumed):
                first, *rest = await feed.receive()
                assert isinstance(first, Resync)
                assert not first.recounted
                assert rest == [put("c", 6), Synced(6, "second")]


async def test_reader_that_was_away_for_long_begins_anew(autojump_clock: MockClock) -> None:
    """Where what changed meanwhile is forgotten."""
    store = ToldStore()
    async with open_relay(store, remembered=1) as relay:
        await store.tell.send([put("a", 3), put("b", 4), Synced(4)])
        await wait_all_tasks_blocked()
        with relay.open(2) as feed:
            first, *rest = await feed.receive()
            assert isinstance(first, Resync)
            assert rest == [put("a", 3), put("b", 4), Synced(4)]


async def test_reader_that_falls_far_behind_begins_anew(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the whole store is shorter than what it has to be told."""
    monkeypatch.setattr("aegis_backends.http.relay._MOST_GONE", 2)
    store = ToldStore()
    async with open_relay(store) as relay:
        with relay.open(2) as feed:
            gone = [Change(f"gone.{n}", None, n) for n in range(3, 9)]
            await store.tell.send([*gone, Synced(8)])
            assert await feed.receive() == [Resync("the reader fell behind"), put("a", 1), put("b", 2), Synced(8)]


async def test_router_that_loses_the_thread_tells_everybody(autojump_clock: MockClock) -> None:
    """Once it knows the whole store again; until then it is not ready, and readers wait."""
    store = ToldStore()
    async with open_relay(store) as relay:
        with relay.open(2) as feed, relay.open(None) as new:
            await store.tell.send([put("x", 3), Resync("gap"), put("a", 7)])
            await wait_all_tasks_blocked()
            assert not relay.ready
            with relay.open(2) as late:
                await store.tell.send([Change("z", None, 8), Synced(9)])
                for reader in (feed, late):
                    first, *rest = await reader.receive()
                    assert isinstance(first, Resync)
                    assert rest == [put("a", 7), Synced(9)]
            assert await new.receive() == [put("a", 7), Synced(9)]


async def test_changes_wait_for_those_that_belong_to_them(autojump_clock: MockClock) -> None:
    """A reader is level only where the router is."""
    store = ToldStore()
    async with open_relay(store) as relay:
        with relay.open(2) as feed:
            await store.tell.send([put("a", 3)])
            assert await feed.receive() == [put("a", 3)]
            await store.tell.send([put("b", 4), Synced(4)])
            assert await feed.receive() == [put("b", 4), Synced(4)]


async def test_readers_of_a_router_that_stops_are_told(autojump_clock: MockClock) -> None:
    """Those that wait, and those that come later."""
    store = ToldStore()
    async with open_relay(store) as relay:
        with relay.open(2) as feed:
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def wait() -> None:
                    with pytest.raises(trio.ClosedResourceError):
                        await feed.receive()

                await wait_all_tasks_blocked()
                relay.close()
        with relay.open(None) as feed, pytest.raises(trio.ClosedResourceError):
            await feed.receive()


async def test_readers_are_told_that_the_store_counts_anew(autojump_clock: MockClock) -> None:
    """At once, and once, before the rest is known; and none of them waits for a revision of before."""
    store = ToldStore()
    async with open_relay(store) as relay:
        await store.tell.send([put("a", 9), Synced(9)])
        await wait_all_tasks_blocked()
        with relay.open(None) as told, relay.open(9) as resumed, relay.open(None, at_least=100) as waiting:
            assert await told.receive() == [put("b", 2), put("a", 9), Synced(9)]
            await store.tell.send([Resync("set back", recounted=True)])
            for feed in (told, resumed):
                assert await feed.receive() == [Resync("set back", recounted=True)]
            assert (relay.ready, relay.level) == (False, 0)
            await store.tell.send([put("c", 3)])
            await store.tell.send([Synced(3)])
            for feed in (told, resumed):
                assert await feed.receive() == [put("c", 3), Synced(3)]
            assert await waiting.receive() == [put("c", 3), Synced(3)]
            await store.tell.send([put("c", 4), Resync("gap"), put("c", 4), Synced(4)])
            first, *rest = await told.receive()
            assert isinstance(first, Resync)
            assert not first.recounted
            assert rest == [put("c", 4), Synced(4)]

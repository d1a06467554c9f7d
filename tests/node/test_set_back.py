"""A store that is set back to an earlier state, or is another one: nothing is known by its revision any more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from aegis_core import codec, events, names
from aegis_core.backend import Change, Resync, Synced, TrioClock
from aegis_core.errors import StoreUnavailable
from aegis_core.models import Ownership, Record, ServiceInstance
from aegis_core.node.directory import Directory
from tests.node.told_store import Item, ToldStore

AT = datetime(2026, 1, 1, tzinfo=UTC)


@attrs.define(eq=False)
class World:
    """A directory, and what it told."""

    store: ToldStore
    directory: Directory
    events: list[events.Event]
    touched: list[names.Key | None]

    async def tell(self, *items: Item) -> None:
        """Let the watch tell *items*."""
        await self.store.tell.send([*items])
        await wait_all_tasks_blocked()


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    """One whose store is at revision 100: instance ``a`` owns ``old`` and ``both``."""
    store, told, touched = ToldStore(), list[events.Event](), list[names.Key | None]()
    directory = Directory(store, TrioClock(), wall=lambda: AT, emit=told.append, touched=touched.append)
    async with trio.open_nursery() as nursery:
        await store.tell.send([instance("a", 90), owned("old", "a", 95), owned("both", "a", 99), Synced(100)])
        await nursery.start(directory.run, trio.CancelScope())
        yield World(store, directory, told, touched)
        nursery.cancel_scope.cancel()


def instance(name: str, revision: int) -> Change:
    """That an instance has registered."""
    record = ServiceInstance(
        service_name="rooms", instance_id=name, version="1", lease=f"{name}-lease", registered_at=AT, last_heartbeat=AT
    )
    return change(names.instance_key("rooms", name), record, revision)


def owned(resource_id: str, name: str, revision: int) -> Change:
    """That an instance has claimed a resource."""
    record = Ownership(
        target=resource_id, service_name="rooms", instance_id=name, lease=f"{name}-lease", registered_at=AT
    )
    return change(names.target_key(resource_id), record, revision)


def change(key: str, record: Record, revision: int) -> Change:
    """That *record* was written."""
    return Change(key, codec.encode_record(record), revision)


def owners(directory: Directory) -> dict[str, str]:
    """Who owns what."""
    found = ((name, directory.snapshot.owner(name)) for name in ("old", "both", "new"))
    return {name: owned[1].instance_id for name, owned in found if owned is not None}


async def test_view_of_a_store_that_was_set_back_is_what_that_holds(autojump_clock: MockClock) -> None:
    """Although all of it has lower revisions than what was known; and it goes on from there."""
    async with world() as it:
        assert owners(it.directory) == {"old": "a", "both": "a"}
        await it.tell(Resync("set back", recounted=True), instance("b", 50), owned("both", "b", 60), Synced(70))
        assert owners(it.directory) == {"both": "b"}
        assert it.directory.snapshot.instance("rooms", "a") is None
        assert it.directory.snapshot.revision == 70
        await it.tell(owned("new", "b", 71), Synced(71))
        assert owners(it.directory) == {"both": "b", "new": "b"}
        await it.tell(owned("old", "b", 95), Synced(95))
        assert owners(it.directory) == {"both": "b", "new": "b", "old": "b"}


async def test_everything_ends_when_the_store_is_set_back(autojump_clock: MockClock) -> None:
    """Also what it still holds: nobody can tell that from what has come back."""
    async with world() as it:
        it.touched.clear()
        changed = it.directory.watch_target("both")
        await it.tell(Resync("set back", recounted=True), instance("a", 50), owned("both", "a", 60), Synced(70))
        assert (it.touched[0], it.touched[-1]) == (None, None)
        assert changed.is_set()
        kinds = [type(event) for event in it.events]
        lost, again = kinds.index(events.InstanceLost), kinds.index(events.InstanceRegistered)
        assert (kinds[0], lost < again) == (events.Resync, True)


async def test_nobody_waits_for_a_revision_of_before(autojump_clock: MockClock) -> None:
    """Neither who waits already, nor who has just asked where the store is."""
    async with world() as it, trio.open_nursery() as nursery:
        refused: list[str] = []

        async def wait(kind: str) -> None:
            with pytest.raises(StoreUnavailable, match="set back"):
                await (it.directory.sync() if kind == "sync" else it.directory.wait_revision(150))
            refused.append(kind)

        it.store.barrier = 120
        for kind in ("sync", "revision"):
            nursery.start_soon(wait, kind)
        await wait_all_tasks_blocked()
        await it.tell(Resync("set back", recounted=True), instance("b", 50), Synced(70))
        assert sorted(refused) == ["revision", "sync"]
        it.store.barrier = 70
        await it.directory.sync()


async def test_who_stops_waiting_is_forgotten(autojump_clock: MockClock) -> None:
    """However many operations run out of time while the view stands still."""
    async with world() as it, trio.open_nursery() as nursery:
        reached: list[int] = []

        async def wait(revision: int) -> None:
            await it.directory.wait_revision(revision)
            reached.append(revision)

        for revision in (101, 102):
            nursery.start_soon(wait, revision)
        for _ in range(500):
            with trio.move_on_after(1):
                await it.directory.wait_revision(102)
            assert len(it.directory._waiters) <= 5
        await it.tell(Synced(101))
        assert reached == [101]
        await it.tell(Synced(102))
        assert reached == [101, 102]
        assert not it.directory._waiters

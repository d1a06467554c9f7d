"""Clusters in memory: who shares one, how long it lives, and what is left of it."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack

import pytest
import trio
from trio.testing import MockClock

from aegis_backends.memory import MemoryCluster, aegis_register_backends, open_memory
from aegis_backends.memory.store import StoreState
from aegis_core.backend import ABSENT, Backend, BackendAddress, OpenBackend, Put, Store, StoreUnavailable, Transaction
from aegis_core.errors import ConfigError


def address(name: str = "", **parameters: str) -> BackendAddress:
    """``memory://name``."""
    return BackendAddress(f"memory://{name}", "memory", name, parameters)


def store_of(backend: Backend) -> Store:
    """The store of *backend*."""
    assert backend.store is not None
    return backend.store


async def write(backend: Backend, key: str, ttl: float | None = None) -> int:
    """Create *key*; returns its revision."""
    (revision,) = await store_of(backend).commit(Transaction(f"tx-{key}", [Put(key, b"v", ABSENT, ttl)]))
    return revision


async def has(backend: Backend, key: str) -> bool:
    """Whether *key* is there."""
    return await store_of(backend).get(key) is not None


async def test_same_name_is_the_same_cluster() -> None:
    """Openers of one name see each other's writes and reach each other; those of another name do not."""
    async with open_memory(address("a")) as one, open_memory(address("a")) as two, open_memory(address("b")) as other:
        await write(one, "k")
        assert await has(two, "k")
        assert not await has(other, "k")
        async with one.transports[0].listen("i", "t", lambda request: request.respond(b"!")) as endpoint:
            assert endpoint == "memory:a/i/t"
            assert await two.transports[0].request(endpoint, b"?", timeout=1) == b"!"


async def test_no_name_means_default() -> None:
    """``memory://``, ``memory:///`` and ``memory://default`` are one cluster."""
    async with AsyncExitStack() as stack:
        names = ("", "/", "default")
        backends = [await stack.enter_async_context(open_memory(address(name))) for name in names]
        await write(backends[0], "k")
        assert [await has(backend, "k") for backend in backends] == [True, True, True]


async def test_cluster_lives_as_long_as_somebody_has_it_open(autojump_clock: MockClock) -> None:
    """The first opener may leave: values stay, leases still end in time. After the last one nothing is left."""
    async with AsyncExitStack() as first:
        one = await first.enter_async_context(open_memory(address()))
        async with open_memory(address()) as two:
            began = trio.current_time()
            await write(one, "kept")
            await write(one, "lease", ttl=5)
            await first.aclose()
            async with store_of(two).watch() as feed:
                await feed.receive()
                (gone, _) = await feed.receive()
            assert trio.current_time() - began == pytest.approx(5)
            assert "lease" in repr(gone)
            assert await has(two, "kept")
    async with open_memory(address()) as anew:
        assert not await has(anew, "kept")


async def test_two_openers_at_once_share_and_a_cancelled_one_spoils_nothing() -> None:
    """Opening is counted before its first checkpoint, so that a name never means two clusters."""
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()
        together = trio.Event()

        async def open_and_give_up() -> None:
            with scope:
                async with open_memory(address()):
                    raise AssertionError("cancelled before it was open")

        async def open_and_write() -> None:
            async with open_memory(address()) as backend:
                await write(backend, "k")
                await together.wait()

        nursery.start_soon(open_and_give_up)
        nursery.start_soon(open_and_write)
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        async with open_memory(address()) as backend:
            assert await has(backend, "k")
            together.set()


async def test_exception_leaves_the_block_as_itself() -> None:
    """No group wraps what a user raises, and the cluster is gone."""

    async def fail() -> None:
        async with open_memory(address()) as backend:
            await write(backend, "k")
            raise KeyError

    with pytest.raises(KeyError):
        await fail()
    async with open_memory(address()) as backend:
        assert not await has(backend, "k")


async def test_no_task_is_left_when_the_last_one_leaves() -> None:
    """The cluster's own task ends with its last user."""
    before = trio.lowlevel.current_statistics().tasks_living
    for _ in range(3):
        async with open_memory(address()), open_memory(address()):
            assert trio.lowlevel.current_statistics().tasks_living > before
        await trio.testing.wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().tasks_living == before


def test_trio_runs_do_not_share() -> None:
    """Each `trio.run` has clusters of its own, even one inside another's thread."""

    async def main() -> bool:
        async with open_memory(address()) as backend:
            there = await has(backend, "k")
            await write(backend, "k")
            return there

    async def nested() -> bool:
        async with open_memory(address()) as backend:
            await write(backend, "k")
            return await trio.to_thread.run_sync(trio.run, main)

    assert [trio.run(main), trio.run(main), trio.run(nested)] == [False, False, False]


@pytest.fixture
def unused_revisions(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no store had been in this process yet."""
    monkeypatch.setattr(StoreState, "_highest", 0)


@pytest.mark.usefixtures("unused_revisions")
def test_revisions_begin_at_the_microseconds_since_1970() -> None:
    """A program that is started again has revisions above those that it kept from before."""

    async def first_revision() -> int:
        async with open_memory(address()) as backend:
            return await write(backend, "k")

    before = time.time_ns() // 1000
    first = trio.run(first_revision)
    assert before <= first
    assert first < trio.run(first_revision) <= time.time_ns() // 1000 + 1


@pytest.mark.usefixtures("unused_revisions")
async def test_revisions_do_not_return_even_where_time_did_not_pass() -> None:
    """A store that used up more numbers than there were microseconds is followed by one that begins above it."""
    ahead = time.time_ns() // 1000 + 10_000_000
    cluster = MemoryCluster(first_revision=ahead)
    async with cluster.open() as backend:
        assert await write(backend, "a") == ahead
    async with open_memory(address()) as backend:
        assert await write(backend, "a") > ahead


async def test_left_backend_answers_no_more() -> None:
    """A handle that was kept too long says so: nothing was sent."""
    async with open_memory(address()) as one, open_memory(address()) as two:
        async with MemoryCluster().open() as left, store_of(left).watch() as feed:
            await feed.receive()
        store = store_of(left)
        for use in (store.sync, lambda: store.get("k"), lambda: write(left, "k")):
            with pytest.raises(StoreUnavailable):
                await use()
        with pytest.raises(StoreUnavailable):
            async with store.watch():
                raise AssertionError("not reached")
        await write(one, "k")
        assert await has(two, "k")


async def test_watch_that_outlives_its_backend_is_closed() -> None:
    """Leaving a backend ends its feeds, so that nobody waits on one for ever."""
    cluster = MemoryCluster()
    async with cluster.open() as other, AsyncExitStack() as watching:
        async with cluster.open() as backend:
            feed = await watching.enter_async_context(store_of(backend).watch())
            await feed.receive()
        with pytest.raises(trio.ClosedResourceError):
            await feed.receive()
        await write(other, "k")


async def test_unknown_parameter_is_refused_by_name() -> None:
    """The backend has no settings, so that one in its URL is a mistake."""
    with pytest.raises(ConfigError) as caught:
        async with open_memory(address("a", bucket="b")):
            raise AssertionError("not reached")
    assert str(caught.value) == (
        "backend URL: bucket: there is no such parameter; memory:// has none of its own, besides the settings"
    )
    with pytest.raises(ConfigError, match=r"heartbeat_intervall: .* did you mean heartbeat_interval"):
        async with open_memory(address("a", heartbeat_intervall="3")):
            raise AssertionError("not reached")


def test_hook_offers_the_scheme() -> None:
    """The backend comes through the same hook as anybody's."""
    offered: dict[str, OpenBackend] = {}

    def register(scheme: str, open_backend: OpenBackend) -> None:
        offered[scheme] = open_backend

    aegis_register_backends(register)
    assert offered == {"memory": open_memory}


async def test_things_show_their_state() -> None:
    """`repr` is for whoever debugs a test."""
    cluster = MemoryCluster("shown", first_revision=7)
    async with cluster.open() as backend, store_of(backend).watch() as feed:
        await write(backend, "k", ttl=5)
        shown = [repr(cluster), repr(backend.store), repr(backend.transports[0]), repr(feed)]
        assert shown == [
            "<MemoryCluster 'shown' of 1 users>",
            "<MemoryStore on <StoreState of 1 keys at revision 7>>",
            "<MemoryTransport of 'shown': 0 listeners, 0 requests under way>",
            "<MemoryFeed with 0 changes to tell>",
        ]

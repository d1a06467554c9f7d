"""Faults that only simulations use: stores that keep their contract in ways that are seldom seen."""

from __future__ import annotations

import random

import trio
from trio.testing import MockClock

from aegis_core.backend import ANY, Change, Inbound, Put, Synced, Transaction
from aegis_pytest.faults import FaultPlane
from aegis_pytest.faults.clock import ElapsedClock, NodeClock
from aegis_pytest.faults.kinds import STORE, Doubling, Jitter, Lag, Relapse
from aegis_pytest.memory import MemoryHarness
from tests.plugin.scene import commit, listening, open_scene, request, store_of, tx, value_of


async def test_lagging_watch_tells_one_piece_after_the_other(autojump_clock: MockClock) -> None:
    """Seconds apart, while requests are quick; healed, it tells the rest as it is."""
    async with open_scene() as scene, store_of(scene.a).watch() as feed:
        await feed.receive()
        lag = Lag("a", 2.0)
        scene.plane.begin(lag)
        await commit(scene.b, "k")
        began = trio.current_time()
        assert await store_of(scene.a).sync() == 1
        assert trio.current_time() == began
        assert await feed.receive() == [Change("k", b"v", 1)]
        assert trio.current_time() == began + 2
        scene.plane.end(lag)
        assert await feed.receive() == [Synced(1)]


async def test_renewal_in_the_last_moments_is_acknowledged_and_does_not_count(autojump_clock: MockClock) -> None:
    """One that comes earlier counts, and so does what has no TTL, or was not there."""
    async with open_scene() as scene:
        scene.plane.begin(Relapse("a", 0.2))
        store = store_of(scene.a)
        await store.commit(tx("kept", b"1"))
        await store.commit(tx("k", b"1", ttl=10.0))
        await trio.sleep(5)
        await store.commit(tx("k", b"2", ttl=10.0))
        await trio.sleep(9)
        await store.commit(tx("k", b"3", ttl=10.0))
        assert await value_of(scene, "k") == b"3"
        await trio.sleep(1.01)
        assert await value_of(scene, "k") is None
        assert await value_of(scene, "kept") == b"1"


async def test_doubled_message_comes_again_after_a_while(autojump_clock: MockClock) -> None:
    """Commits and requests alike; the answer is that of the first."""
    heard: list[float] = []

    def receive(message: Inbound) -> None:
        heard.append(trio.current_time())
        message.respond(b"!")

    async with open_scene() as scene, listening(scene.b, receive) as endpoint:
        scene.plane.begin(Doubling("a", "b", after=3.0))
        scene.plane.begin(Doubling("a", STORE, after=3.0))
        assert await request(scene.a, endpoint) == b"!"
        await commit(scene.a, "k")
        assert trio.current_time() == 0
        await commit(scene.b, "k", b"other")
        await trio.sleep(4)
        assert heard == [0.0, 3.0]
        assert await value_of(scene, "k") == b"v"  # it expected nothing, so that it applies whenever it comes


async def test_what_was_sent_comes_again_although_its_sender_has_died(autojump_clock: MockClock) -> None:
    """On another connection than the one that died with it."""
    harness = MemoryHarness()
    async with harness.open_backend() as backend:
        assert backend.store is not None
        plane = FaultPlane(store=backend.store)
        async with harness.open_peer() as peer:
            node = plane.attach("a", peer)
            assert node.store is not None
            plane.begin(Doubling("a", STORE, after=3.0))
            await node.store.commit(Transaction("1", (Put("k", b"1", ANY),)))
            plane.kill("a")
        await backend.store.commit(Transaction("2", (Put("k", b"2", ANY),)))
        await trio.sleep(4)
        entry = await backend.store.get("k")
    assert entry is not None
    assert entry.value == b"1"


async def test_messages_of_one_way_overtake_each_other(autojump_clock: MockClock) -> None:
    """Each takes its own time, up to a limit; healed, they come in their order."""
    heard: list[bytes] = []

    def receive(message: Inbound) -> None:
        heard.append(message.payload)
        message.respond(b"!")

    async with open_scene() as scene, listening(scene.b, receive) as endpoint:

        async def send_all() -> list[bytes]:
            heard.clear()
            began = trio.current_time()
            async with trio.open_nursery() as nursery:
                for number in range(20):
                    nursery.start_soon(request, scene.a, endpoint, bytes([number]))
                    await trio.sleep(0.01)
            assert trio.current_time() - began <= 20 * 0.01 + 2 * 1.0
            return [*heard]

        jitter = Jitter(frozenset({"a", "b"}), 1.0, random.Random(1))
        assert str(jitter) == "jitter a - b of up to 1 s"
        in_order = await send_all()
        scene.plane.begin(jitter)
        assert sorted(mixed := await send_all()) == in_order == sorted(in_order)
        assert mixed != in_order
        began = trio.current_time()
        await commit(scene.a, "k")  # another way
        assert trio.current_time() == began
        scene.plane.end(jitter)
        assert await send_all() == in_order


async def test_commits_overtake_each_other(autojump_clock: MockClock) -> None:
    """The one that was sent first stands at last."""
    async with open_scene() as scene:
        scene.plane.begin(Jitter(frozenset({"a", STORE}), 1.0, random.Random(1)))
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(commit, scene.a, f"k{number}")
                await trio.sleep(0.01)
        revisions = [entry.revision for n in range(20) if (entry := await scene.bare.get(f"k{n}")) is not None]
        assert sorted(revisions) == [*range(1, 21)]
        assert revisions != sorted(revisions)


async def test_who_tries_for_ever_on_a_dead_clock_comes_to_his_limit(autojump_clock: MockClock) -> None:
    """As that is on Trio's clock, which goes on only when everybody waits."""
    clock = NodeClock(ElapsedClock())
    clock.end()
    with trio.move_on_after(1.0) as limit:
        while True:
            await clock.sleep_until(clock.now() + 1.0)
    assert limit.cancelled_caught
    assert trio.current_time() >= 1.0


async def test_elapsed_clock_is_trios(autojump_clock: MockClock) -> None:
    """And nothing else."""
    clock = ElapsedClock()
    await clock.sleep_until(5.0)
    assert clock.now() == trio.current_time() == 5.0
    assert clock.trio_time(7.0) == 7.0
    assert repr(clock) == "<ElapsedClock>"

"""Faults of one node: it is stopped, dies, or has a clock of its own."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from aegis_backends.memory import MemoryCluster
from aegis_core import LeaseLost, Service
from aegis_core.backend import (
    Change,
    Inbound,
    StoreUnavailable,
    Synced,
    TransportUnavailable,
)
from aegis_core.models import Outcome
from aegis_pytest.cluster import Cluster
from aegis_pytest.faults import Faults
from tests.plugin.scene import (
    commit,
    echo,
    elapses,
    listening,
    open_scene,
    request,
    store_of,
    transport_of,
    value_of,
)

# --- Pause ---


async def test_stopped_node_hears_everything_when_it_goes_on(autojump_clock: MockClock) -> None:
    """Requests to it wait, in order; its own answers and requests wait too, and nothing is refused."""
    arrived: list[Inbound] = []
    answers: list[bytes] = []
    async with open_scene() as scene, listening(scene.a, arrived.append) as endpoint:

        async def ask(payload: bytes) -> None:
            answers.append(await request(scene.b, endpoint, payload, timeout=100))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, b"before")
            await trio.testing.wait_all_tasks_blocked()
            with scene.faults.pause("a"):
                arrived[0].respond(b"answer")
                for payload in (b"1", b"2", b"3"):
                    nursery.start_soon(ask, payload)
                    await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(commit, scene.a, "k")
                await trio.sleep(10)
                assert (len(arrived), answers, await value_of(scene, "k")) == (1, [], None)
            assert [request.payload for request in arrived] == [b"before", b"1", b"2", b"3"]
            await trio.testing.wait_all_tasks_blocked()
            assert answers == [b"answer"]
            assert await value_of(scene, "k") == b"v"
            for waiting in arrived[1:]:
                echo(waiting)
        assert sorted(answers) == [b"1", b"2", b"3", b"answer"]


async def test_stopped_node_learns_of_an_answer_only_when_it_goes_on(autojump_clock: MockClock) -> None:
    """A commit and a request that were under way are done, and it does not know."""
    done: list[object] = []
    async with open_scene() as scene, listening(scene.b) as endpoint, trio.open_nursery() as nursery:

        async def commit_and_note() -> None:
            done.append(await commit(scene.a, "k"))

        async def ask_and_note() -> None:
            done.append(await request(scene.a, endpoint, timeout=100))

        with scene.faults.slow(("a", "store"), 0.5), scene.faults.slow(("a", "b"), 0.5):
            nursery.start_soon(commit_and_note)
            nursery.start_soon(ask_and_note)
            await trio.sleep(0.1)
            with scene.faults.pause("a"):
                await trio.sleep(1.5)
                assert await value_of(scene, "k") == b"v"
                assert done == []
            await trio.testing.wait_all_tasks_blocked()
            assert sorted(done, key=repr) == [1, b"?"]


async def test_watch_of_a_stopped_node_waits(autojump_clock: MockClock) -> None:
    """Changes come when it goes on."""
    async with open_scene() as scene, store_of(scene.a).watch() as feed:
        await feed.receive()
        with scene.faults.pause("a"):
            await commit(scene.b, "k")
            with trio.move_on_after(10) as silence:
                await feed.receive()
            assert silence.cancelled_caught
        assert list(await feed.receive()) == [Change("k", b"v", 1), Synced(1)]


async def test_sleepers_of_a_stopped_node_wake_when_it_goes_on(autojump_clock: MockClock) -> None:
    """Not before; what time it is, its clock shows all the while."""
    woken: list[float] = []
    async with open_scene() as scene, trio.open_nursery() as nursery:
        clock = scene.a.clock
        start = clock.now()

        async def sleep() -> None:
            await clock.sleep_until(start + 3)
            woken.append(clock.now() - start)

        nursery.start_soon(sleep)
        await trio.sleep(1)
        with scene.faults.pause("a"), scene.faults.pause("a"):
            await trio.sleep(9)
            assert clock.now() - start == pytest.approx(10)
            assert woken == []
            assert clock.trio_time(start + 3) == pytest.approx(trio.current_time() - 7)
        assert clock.now() - start == pytest.approx(10)
        await trio.testing.wait_all_tasks_blocked()
        assert woken == pytest.approx([10])


async def test_owner_that_is_stopped_believes_no_longer_than_its_lease(
    aegis_cluster: Cluster, aegis_faults: Faults
) -> None:
    """A task of the application that runs all the same finds its claim over before another has the resource."""
    rooms = Service("rooms")
    first, second = [await aegis_cluster.serve(name, rooms) for name in ("a", "b")]
    (claim,) = await first.claim("room:7")
    with aegis_faults.pause("a"):
        await trio.sleep(5)
        claim.check()
        await trio.sleep_until(claim.deadline)
        assert not claim.held
        await trio.sleep(aegis_cluster.ttl)
        await second.claim("room:7")
        with pytest.raises(LeaseLost):
            claim.check()
    await trio.sleep(1)
    assert claim.ended


# --- Death ---


async def test_dead_node_commits_nothing_more(autojump_clock: MockClock) -> None:
    """Not what it begins, nor what it had begun and was not yet applied, however shielded."""
    async with open_scene() as scene, trio.open_nursery() as nursery:

        async def commit_shielded(key: str) -> None:
            with trio.CancelScope(shield=True), pytest.raises(StoreUnavailable):
                await commit(scene.a, key)

        nursery.start_soon(commit_shielded, "at once")
        with scene.faults.slow(("a", "store"), 1):
            nursery.start_soon(commit_shielded, "under way")
            await trio.sleep(0.5)
            nursery.start_soon(commit_shielded, "begun")
            scene.plane.kill("a")
            async with elapses(0):
                await commit_shielded("late")
                for read in (store_of(scene.a).sync, lambda: store_of(scene.a).get("k")):
                    with pytest.raises(StoreUnavailable):
                        await read()
                with pytest.raises(StoreUnavailable):
                    async with store_of(scene.a).watch():
                        raise AssertionError("not reached")
        await trio.sleep(10)
        assert await scene.bare.sync() == 0


async def test_dead_node_is_not_reached_and_reaches_nobody(autojump_clock: MockClock) -> None:
    """New requests know at once that nobody is there; what it had not answered stays unanswered."""
    arrived: list[Inbound] = []
    async with open_scene() as scene, listening(scene.b) as other, trio.open_nursery() as nursery:

        async def ask_in_vain() -> None:
            with pytest.raises(TransportUnavailable) as caught:
                await request(scene.b, transport_of(scene.b).endpoint("i", "t1"))
            assert caught.value.outcome is Outcome.MAYBE_EXECUTED

        async with listening(scene.a, arrived.append, tag="t1") as endpoint:
            nursery.start_soon(ask_in_vain)
            await trio.testing.wait_all_tasks_blocked()
            scene.plane.kill("a")
            arrived[0].respond(b"from the grave")
            async with elapses(0):
                for node, to in ((scene.b, endpoint), (scene.a, other), (scene.a, endpoint)):
                    with pytest.raises(TransportUnavailable) as caught:
                        await request(node, to)
                    assert caught.value.outcome is Outcome.NOT_SENT
            assert len(arrived) == 1
        with pytest.raises(TransportUnavailable):
            async with listening(scene.a):
                raise AssertionError("not reached")


async def test_request_under_way_from_a_node_that_dies_ends(autojump_clock: MockClock) -> None:
    """Whoever waits for the answer in the dead node is let go."""
    async with open_scene() as scene, listening(scene.b, lambda _: None) as endpoint, trio.open_nursery() as nursery:

        async def ask() -> None:
            with trio.CancelScope(shield=True), pytest.raises(TransportUnavailable, match="dead"):
                await request(scene.a, endpoint, timeout=1000)

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        async with elapses(0):
            scene.plane.kill("a")
            await trio.testing.wait_all_tasks_blocked()
            assert not nursery.child_tasks


async def test_watch_of_a_dead_node_is_silent_until_it_is_cancelled(autojump_clock: MockClock) -> None:
    """Neither a change nor an error disturbs the unwinding."""
    async with open_scene() as scene, store_of(scene.a).watch() as feed:
        await feed.receive()
        scene.plane.kill("a")
        await commit(scene.b, "k")
        with trio.move_on_after(10) as silence:
            await feed.receive()
        assert silence.cancelled_caught


async def test_all_time_has_passed_for_a_dead_node(autojump_clock: MockClock) -> None:
    """Shielded waits on its clock end at once, sleepers wake, deadlines are over."""
    async with open_scene() as scene, trio.open_nursery() as nursery:
        clock = scene.a.clock
        start = clock.now()
        nursery.start_soon(clock.sleep_until, start + 1000)
        await trio.testing.wait_all_tasks_blocked()
        async with elapses(0):
            scene.plane.kill("a")
            await clock.sleep_until(start + 500)
            assert clock.now() >= start + 500
            with trio.move_on_at(clock.trio_time(start + 2000)) as scope:
                await trio.sleep_forever()
            assert scope.cancelled_caught
            await trio.testing.wait_all_tasks_blocked()
            assert not nursery.child_tasks


async def test_killed_node_comes_back_as_another(autojump_clock: MockClock) -> None:
    """The name can be attached again; the dead one stays dead, and what is wrong with the name holds for the new one."""
    async with open_scene() as scene, MemoryCluster().open() as other:
        with pytest.raises(ValueError, match="'a' is taken"):
            scene.plane.attach("a", other)
        with pytest.raises(ValueError, match="'store' is taken"):
            scene.plane.attach("store", other)
        scene.plane.kill("a")
        with scene.faults.partition({"a"}), scene.faults.pause("a"):
            again = scene.plane.attach("a", other)
            with trio.move_on_after(10) as stopped:
                await commit(again, "k")
            assert stopped.cancelled_caught
        assert await commit(again, "k") > 0
        with pytest.raises(StoreUnavailable):
            await commit(scene.a, "k")
        assert "'a': running" in repr(scene.plane)


# --- Clocks ---


async def test_clocks_without_faults_are_the_backends(autojump_clock: MockClock) -> None:
    """Exactly, so that nothing changes by being under test."""
    async with open_scene() as scene:
        for _ in range(5):
            await trio.sleep(0.1)
            assert scene.a.clock.now() == scene.b.clock.now() == trio.current_time()
            assert scene.a.clock.trio_time(1234.5678) == 1234.5678
        with trio.testing.assert_checkpoints():
            await scene.a.clock.sleep_until(0)


async def test_skewed_clock_jumps_and_wakes_who_waited(autojump_clock: MockClock) -> None:
    """Ahead at once; back after the block it stands still, because a clock does not go back."""
    async with open_scene() as scene, trio.open_nursery() as nursery:
        clock = scene.a.clock
        start = clock.now()
        deadline = clock.trio_time(start + 10)
        nursery.start_soon(clock.sleep_until, start + 10)
        await trio.testing.wait_all_tasks_blocked()
        async with elapses(1):
            with scene.faults.skew("a", 30):
                assert clock.now() == pytest.approx(start + 30)
                assert clock.trio_time(start + 40) == pytest.approx(deadline)
                assert scene.b.clock.now() == pytest.approx(start)
                await trio.testing.wait_all_tasks_blocked()
                assert not nursery.child_tasks
                await trio.sleep(1)
        async with elapses(10):
            await trio.sleep(10)
            assert clock.now() == pytest.approx(start + 31)
        async with elapses(24):
            await clock.sleep_until(start + 35)
        assert clock.now() == pytest.approx(trio.current_time())


async def test_drifting_clock_gains_and_keeps_what_it_gained(autojump_clock: MockClock) -> None:
    """Sleepers of before and during the drift wake by it; rates add up."""
    async with open_scene() as scene, trio.open_nursery() as nursery:
        clock = scene.a.clock
        start = clock.now()
        woken: list[float] = []

        async def sleep() -> None:
            began = trio.current_time()
            await clock.sleep_until(start + 110)
            woken.append(trio.current_time() - began)

        nursery.start_soon(sleep)
        await trio.testing.wait_all_tasks_blocked()
        with scene.faults.drift("a", 0.06), scene.faults.drift("a", 0.04):
            async with elapses(100):
                await clock.sleep_until(start + 110)
            assert clock.trio_time(clock.now() + 11) - trio.current_time() == pytest.approx(10)
        await trio.testing.wait_all_tasks_blocked()
        assert woken == pytest.approx([100])
        async with elapses(10):
            await clock.sleep_until(start + 120)
        with scene.faults.drift("a", -0.5):
            async with elapses(20):
                await clock.sleep_until(start + 130)
        with pytest.raises(pytest.UsageError), scene.faults.drift("a", -1.0):
            raise AssertionError("not reached")

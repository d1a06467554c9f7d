"""Faults on the ways between nodes and to the store: what each does, to whom, and that it heals.

One file of this length, so that the faults can be compared.
"""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from aegis_backends.memory import MemoryCluster
from aegis_core.backend import (
    ABSENT,
    ANY,
    Change,
    Conflict,
    Delete,
    DeleteReason,
    Inbound,
    Indeterminate,
    StoreUnavailable,
    Synced,
    Transaction,
)
from aegis_core.models import Outcome
from aegis_core.names import instance_key
from tests.plugin.scene import (
    commit,
    echo,
    elapses,
    listening,
    open_scene,
    request,
    store_of,
    tx,
    value_of,
)

# --- Partition ---


async def test_commit_into_a_cut_is_indeterminate_and_then_the_store_is_known_to_be_away(
    autojump_clock: MockClock,
) -> None:
    """The first gets no answer, the next are refused at once; nothing was applied, and healing mends it."""
    async with open_scene() as scene:
        with scene.faults.partition({"a"}, {"b", "store"}):
            async with elapses(2):
                with pytest.raises(Indeterminate):
                    await commit(scene.a, "k")
            async with elapses(0):
                with pytest.raises(StoreUnavailable) as caught:
                    await commit(scene.a, "k")
                with pytest.raises(StoreUnavailable):
                    await store_of(scene.a).sync()
            assert caught.value.outcome is Outcome.NOT_SENT
            assert await value_of(scene, "k") is None
            await commit(scene.b, "other")
        assert await commit(scene.a, "k") == 2
        assert await store_of(scene.a).sync() == 2


async def test_reads_into_a_cut_say_that_the_store_is_away(autojump_clock: MockClock) -> None:
    """Neither `sync` nor `get` answers with what it does not know."""
    async with open_scene() as scene:
        await commit(scene.a, "k")
        with scene.faults.partition({"a"}, {"store"}):
            async with elapses(2):
                with pytest.raises(StoreUnavailable):
                    await store_of(scene.a).sync()
        with scene.faults.partition({"store"}):
            async with elapses(2):
                with pytest.raises(StoreUnavailable):
                    await store_of(scene.a).get("k")
        entry = await store_of(scene.a).get("k")
        assert entry is not None


async def test_commit_goes_through_if_the_cut_heals_in_time(autojump_clock: MockClock) -> None:
    """What was sent into a short cut arrives when it heals."""
    async with open_scene() as scene, trio.open_nursery() as nursery:
        with scene.faults.partition({"a"}, {"store"}):
            nursery.start_soon(commit, scene.a, "k")
            await trio.sleep(1.5)
            assert await value_of(scene, "k") is None
        await trio.testing.wait_all_tasks_blocked()
        assert await value_of(scene, "k") == b"v"


async def test_answer_that_meets_a_cut_is_lost_though_the_commit_was_applied(autojump_clock: MockClock) -> None:
    """A cut while the answer is on its way leaves the fate open, and repeating settles it."""
    async with open_scene() as scene, trio.open_nursery() as nursery:

        async def commit_in_doubt() -> None:
            with pytest.raises(Indeterminate):
                await commit(scene.a, "k")

        with scene.faults.slow(("a", "store"), 0.5):
            nursery.start_soon(commit_in_doubt)
            await trio.sleep(0.7)
            with scene.faults.partition({"a"}, {"store"}):
                await trio.sleep(5)
            assert await value_of(scene, "k") == b"v"
        assert await commit(scene.a, "k") == 1


async def test_watch_is_silent_while_cut_and_then_catches_up(autojump_clock: MockClock) -> None:
    """It raises nothing, loses nothing, and tells the newest once the cut heals."""
    async with open_scene() as scene, store_of(scene.a).watch() as feed:
        await feed.receive()
        with scene.faults.partition({"a"}, {"store"}):
            with trio.move_on_after(100) as silence:
                await feed.receive()
            assert silence.cancelled_caught
            await commit(scene.b, "k", b"1")
            with trio.move_on_after(100) as silence:
                await feed.receive()
            assert silence.cancelled_caught
            await commit(scene.b, "k", b"2")
        assert [item for item in await feed.receive() if isinstance(item, Change)][-1].value == b"2"


async def test_batch_that_was_under_way_when_the_cut_came_is_told_later(autojump_clock: MockClock) -> None:
    """A reader that waited before the cut gets the change after it, even if it was cancelled meanwhile."""
    async with open_scene() as scene, store_of(scene.a).watch() as feed:
        await feed.receive()
        with scene.faults.slow(("store", "a"), 1):
            await commit(scene.b, "k")
            with trio.move_on_after(0.5) as given_up:
                await feed.receive()
            assert given_up.cancelled_caught
        with scene.faults.partition({"a"}, {"b", "store"}):
            await trio.sleep(10)
        assert list(await feed.receive()) == [Change("k", b"v", 1), Synced(1)]


async def test_requests_wait_in_a_cut_and_arrive_when_it_heals(autojump_clock: MockClock) -> None:
    """Within their timeout; else they time out, and were never received."""
    arrived: list[bytes] = []

    def receive(request: Inbound) -> None:
        arrived.append(request.payload)
        echo(request)

    async with open_scene() as scene, listening(scene.b, receive) as endpoint, trio.open_nursery() as nursery:
        with scene.faults.partition({"a"}, {"b"}):
            async with elapses(1):
                with pytest.raises(trio.TooSlowError):
                    await request(scene.a, endpoint, b"lost", timeout=1)
            nursery.start_soon(request, scene.a, endpoint, b"late")
            await trio.sleep(3)
            assert arrived == []
            assert await request(scene.c, endpoint, b"c") == b"c"
            assert await request(scene.b, endpoint, b"self") == b"self"
        await trio.testing.wait_all_tasks_blocked()
        assert arrived == [b"c", b"self", b"late"]


async def test_group_alone_is_cut_from_everybody(autojump_clock: MockClock) -> None:
    """And from the store; those inside still reach each other."""
    async with open_scene() as scene, listening(scene.b) as endpoint:
        with scene.faults.partition({"a", "b"}):
            assert await request(scene.a, endpoint) == b"?"
            with pytest.raises(trio.TooSlowError):
                await request(scene.c, endpoint)
            with pytest.raises(Indeterminate):
                await commit(scene.b, "k")
            await commit(scene.c, "k")


# --- Ways ---


async def test_slow_way_takes_its_time_in_both_directions(autojump_clock: MockClock) -> None:
    """Requests, commits and reads there and back; what watches tell once; other ways nothing."""
    async with open_scene() as scene, listening(scene.b) as endpoint, store_of(scene.a).watch() as feed:
        await feed.receive()
        with scene.faults.slow(("a", "b"), 0.2), scene.faults.slow(("store", "a"), 0.3):
            async with elapses(0.4):
                await request(scene.a, endpoint)
            async with elapses(0.6):
                await commit(scene.a, "k")
            async with elapses(0.6):
                await store_of(scene.a).sync()
            await feed.receive()
            async with elapses(0.3):
                await commit(scene.c, "l")
                assert list(await feed.receive()) == [Change("l", b"v", 2), Synced(2)]
            async with elapses(0):
                await request(scene.c, endpoint)
                await commit(scene.b, "m")
            async with elapses(0.3):
                with pytest.raises(trio.TooSlowError):
                    await request(scene.a, endpoint, timeout=0.3)


async def test_dropped_request_is_not_received_and_dropped_answer_is(autojump_clock: MockClock) -> None:
    """From whom to whom tells which of the two is lost; so many and no more."""
    arrived: list[bytes] = []

    def receive(request: Inbound) -> None:
        arrived.append(request.payload)
        echo(request)

    async with open_scene() as scene, listening(scene.b, receive) as endpoint:
        for way in (("a", "b"), ("b", "a")):
            with scene.faults.drop(way, times=1):
                assert await request(scene.c, endpoint, b"c") == b"c"
                async with elapses(3):
                    with pytest.raises(trio.TooSlowError):
                        await request(scene.a, endpoint, f"from {way[0]}".encode(), timeout=3)
                assert await request(scene.a, endpoint, b"next") == b"next"
        assert arrived == [b"c", b"next", b"c", b"from b", b"next"]


async def test_dropped_commit_is_not_applied_and_dropped_acknowledgement_is(autojump_clock: MockClock) -> None:
    """Both are indeterminate, and the store is not taken to be away."""
    async with open_scene() as scene:
        with scene.faults.drop(("a", "store")):
            for _ in range(2):
                with pytest.raises(Indeterminate):
                    await commit(scene.a, "lost")
        with scene.faults.drop(("store", "a"), times=1):
            with pytest.raises(Indeterminate):
                await commit(scene.a, "unanswered")
            assert await commit(scene.a, "unanswered") == 1
        assert await value_of(scene, "lost") is None


async def test_duplicated_request_arrives_twice_and_is_answered_once(autojump_clock: MockClock) -> None:
    """The second answer is nobody's."""
    arrived: list[bytes] = []

    def receive(request: Inbound) -> None:
        arrived.append(request.payload)
        request.respond(b"%d" % len(arrived))

    async with open_scene() as scene, listening(scene.b, receive) as endpoint:
        with scene.faults.duplicate(("a", "b"), times=1):
            assert await request(scene.a, endpoint) == b"1"
            await trio.testing.wait_all_tasks_blocked()
            assert len(arrived) == 2
            assert await request(scene.a, endpoint) == b"3"
            assert await request(scene.c, endpoint) == b"4"


async def test_duplicated_commit_is_applied_once(autojump_clock: MockClock) -> None:
    """Because a store recognises what it has applied; a refused one is refused twice."""
    async with open_scene() as scene, scene.bare.watch() as feed:
        await feed.receive()
        with scene.faults.duplicate(("a", "store")):
            await commit(scene.a, "k")
            with pytest.raises(Conflict):
                await store_of(scene.a).commit(tx("k", b"2", expect=ABSENT))
            await trio.testing.wait_all_tasks_blocked()
        assert list(await feed.receive()) == [Change("k", b"v", 1), Synced(1)]
        assert await scene.bare.sync() == 1


# --- Commits in doubt ---


@pytest.mark.parametrize(("applied", "value"), [(True, b"v"), (False, None)])
async def test_indeterminate_commit_was_applied_or_not(
    autojump_clock: MockClock, *, applied: bool, value: bytes | None
) -> None:
    """The caller cannot tell which; repeating settles both alike."""
    async with open_scene() as scene:
        with scene.faults.indeterminate("a", applied=applied):
            await commit(scene.b, "other")
            async with elapses(0):
                with pytest.raises(Indeterminate):
                    await commit(scene.a, "k")
            assert await value_of(scene, "k") == value
            assert await commit(scene.a, "k") == 2
        assert await scene.bare.sync() == 2


async def test_indeterminate_commit_may_land_later(autojump_clock: MockClock) -> None:
    """Long after its time-out, if nobody settled it; not a second time, if somebody did."""
    async with open_scene() as scene:
        with scene.faults.indeterminate("a", applied="later", times=None, after=14):
            for key in ("settled", "forgotten"):
                with pytest.raises(Indeterminate):
                    await commit(scene.a, key)
        await commit(scene.a, "settled")
        await trio.sleep(13)
        assert await value_of(scene, "forgotten") is None
        await trio.sleep(2)
        assert await value_of(scene, "forgotten") == b"v"
        assert await scene.bare.sync() == 2


async def test_indeterminate_commit_may_have_been_refused(autojump_clock: MockClock) -> None:
    """A lost answer tells nothing, not even that it was a conflict."""
    async with open_scene() as scene:
        await commit(scene.b, "k")
        with scene.faults.indeterminate("a", applied=True):
            with pytest.raises(Indeterminate):
                await store_of(scene.a).commit(tx("k", b"2", expect=ABSENT))
            with pytest.raises(Conflict):
                await store_of(scene.a).commit(tx("k", b"2", expect=ABSENT))


async def test_doubt_can_be_cast_on_some_keys_only(autojump_clock: MockClock) -> None:
    """So that a test may choose the claim and not the heartbeat before it."""
    async with open_scene() as scene:
        with scene.faults.indeterminate("a", applied=False, prefix="resources."):
            await commit(scene.a, "service-instances.s.i")
            with pytest.raises(Indeterminate):
                await commit(scene.a, "resources.r")


# --- Leases ---


@pytest.mark.parametrize("who", ["a", "i-1"])
async def test_lost_lease_expires_and_cannot_be_written_until_healed(autojump_clock: MockClock, who: str) -> None:
    """By node or by instance id; others keep theirs, and what else the node commits goes through."""
    mine, other = instance_key("s", "i-1"), instance_key("s", "j-1")
    async with open_scene() as scene, scene.bare.watch() as feed:
        (revision,) = await store_of(scene.a).commit(tx(mine, expect=ABSENT, ttl=30))
        await store_of(scene.b).commit(tx(other, expect=ABSENT, ttl=30))
        await feed.receive()
        with scene.faults.lose_lease(who):
            await trio.sleep(0.01)
            told = [item for item in await feed.receive() if isinstance(item, Change)]
            assert [(item.key, item.reason) for item in told] == [(mine, DeleteReason.EXPIRED)]
            for expect in (revision, ABSENT):
                with pytest.raises(StoreUnavailable):
                    await store_of(scene.a).commit(tx(mine, b"again", expect=expect, ttl=30))
            await commit(scene.a, "k")
            await store_of(scene.b).commit(tx(other, b"renewed", ttl=30))
        await store_of(scene.a).commit(tx(mine, b"again", expect=ABSENT, ttl=30))
        assert await value_of(scene, mine) == b"again"


async def test_lease_that_others_write_too_is_lost_all_the_same(autojump_clock: MockClock) -> None:
    """However often somebody else gets in between, it expires."""
    async with open_scene() as scene, trio.open_nursery() as nursery:

        async def write_on(key: str, revision: int) -> None:
            with suppress(Conflict):
                for number in range(30):
                    (revision,) = await scene.bare.commit(tx(key, b"%d" % number, expect=revision, ttl=30))

        keys = [instance_key("s", f"i-{number}") for number in range(8)]
        for key in keys:
            (revision,) = await store_of(scene.a).commit(tx(key, expect=ABSENT, ttl=30))
            nursery.start_soon(write_on, key, revision)
        with scene.faults.lose_lease("a"):
            await trio.sleep(0.01)
            assert [await value_of(scene, key) for key in keys] == [None] * 8


async def test_lease_that_is_gone_already_cannot_be_written_either(autojump_clock: MockClock) -> None:
    """A node whose registration expired by itself does not get it back in the block."""
    key = instance_key("s", "i-1")
    async with open_scene() as scene:
        await store_of(scene.a).commit(tx(key, expect=ABSENT, ttl=1))
        await trio.sleep(2)
        with scene.faults.lose_lease("i-1"):
            await trio.sleep(1)
            with pytest.raises(StoreUnavailable):
                await store_of(scene.a).commit(tx(key, b"again", expect=ABSENT, ttl=1))
        assert await scene.bare.sync() == 2


async def test_lease_of_nobody_cannot_be_lost(autojump_clock: MockClock) -> None:
    """Neither a name that nobody has, nor a node without instances, nor one that has deregistered."""
    key = instance_key("s", "i-1")
    async with open_scene() as scene:
        await store_of(scene.a).commit(tx(key, expect=ABSENT, ttl=30))
        await store_of(scene.a).commit(Transaction("gone", (Delete(key, ANY),)))
        for who in ("a", "b", "i-1", "nobody"):
            with pytest.raises(pytest.UsageError, match=repr(who)), scene.faults.lose_lease(who):
                raise AssertionError("not reached")


# --- Blocks ---


async def test_fault_that_hit_nobody_is_a_mistake(autojump_clock: MockClock) -> None:
    """A name that was never in the cluster is told at the end of the block; one that came in it is fine."""
    async with open_scene() as scene, MemoryCluster().open() as other:
        with scene.faults.partition({"d"}, {"store"}):
            scene.plane.attach("d", other)
        with pytest.raises(pytest.UsageError, match="no node 'bb'"), scene.faults.partition({"a"}, {"bb"}):
            pass
        with pytest.raises(pytest.UsageError, match="no node 'x'"), scene.faults.skew("x", 1):
            raise AssertionError("not reached")


async def test_exception_in_the_block_leaves_as_itself_and_heals(autojump_clock: MockClock) -> None:
    """A failing test fails for its own reason."""
    async with open_scene() as scene:
        with pytest.raises(KeyError), scene.faults.partition({"a"}, {"nobody"}), scene.faults.pause("a"):
            raise KeyError
        await commit(scene.a, "k")


async def test_everything_can_be_healed_at_once(autojump_clock: MockClock) -> None:
    """As at the end of a test: no fault is left, and nothing is under way any more."""
    async with open_scene() as scene:
        with (
            scene.faults.partition({"a"}),
            scene.faults.pause("a"),
            scene.faults.drift("a", 0.5),
            scene.faults.indeterminate("b", applied="later"),
        ):
            with pytest.raises(Indeterminate):
                await commit(scene.b, "later")
            scene.plane.heal()
            async with elapses(0):
                await commit(scene.a, "k")
            async with elapses(100):
                await scene.a.clock.sleep_until(scene.a.clock.now() + 100)
        assert await value_of(scene, "later") is None


async def test_things_show_what_is_wrong(autojump_clock: MockClock) -> None:
    """`repr` is for whoever reads a failure."""
    async with open_scene() as scene, store_of(scene.a).watch() as feed:
        scene.plane.kill("c")
        with scene.faults.pause("b"), scene.faults.drift("a", 0.01):
            shown = repr(scene.plane)
            assert "[<Member 'a': running>, <Member 'b': stopped>, <Member 'c': dead>]" in shown
            assert "Stop(node='b'), Drift(node='a', rate=0.01)" in shown
            clocks = [repr(node.clock) for node in (scene.a, scene.b, scene.c)]
            assert clocks == ["<NodeClock rate 1.01>", "<NodeClock stopped>", "<NodeClock over>"]
            ports = [repr(scene.a.store), repr(scene.a.transports[0]), repr(feed)]
            assert [" of 'a' on <Memory" in port for port in ports] == [True, True, True]

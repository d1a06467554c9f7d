"""The view of the store and the events that it tells: level with the watch, and honest about gaps."""

from __future__ import annotations

import gc

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from aegis_core.backend import ABSENT, ANY, Delete, Put, Transaction
from aegis_core.errors import StoreUnavailable
from aegis_core.events import (
    Event,
    InstanceDeregistered,
    InstanceHealthChanged,
    InstanceRegistered,
    ResourceRegistered,
    ResourceReleased,
    Resync,
)
from aegis_core.hookspecs import ObserverRegistrar, hookimpl
from aegis_core.models import EndReason, Health
from aegis_core.names import target_key
from aegis_core.node.node import Node, open_node
from aegis_core.node.service import Service
from aegis_core.node.subscription import CAPACITY
from tests.node.faulty import Faults


def make_service() -> Service:
    """A service without anything."""
    return Service("svc", version="1.0.0")


async def write(node: Node, key: str, value: bytes) -> None:
    """Put *value* under *key*, as anybody with other tools might."""
    await node.runtime.store.commit(Transaction(id=node.runtime.new_id(16), operations=(Put(key, value, ANY),)))


# -- the view ------------------------------------------------------------------------------------------------------


async def test_it_is_whole_when_the_node_is_open(autojump_clock: MockClock) -> None:
    """What others did before is there."""
    async with open_node("memory://a") as other, other.serve(make_service()) as instance:
        await instance.claim("a")
        async with open_node("memory://a") as node:
            assert node.runtime.directory.ready
            assert repr(node.runtime.directory).startswith("<Directory synced at revision ")
            owner = node.owner_of("a")
            assert owner is not None
            assert owner.owner_instance_id == instance.instance_id
            assert owner.service_name == "svc"
            assert owner.is_healthy


async def test_after_sync_it_has_every_commit_acknowledged_before(autojump_clock: MockClock) -> None:
    """However far behind the watch was."""
    faults = Faults()
    async with faults.node() as node, open_node("memory://test") as other, other.serve(make_service()) as instance:
        faults.deaf = True
        await instance.claim("a")
        assert node.owner_of("a") is None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.runtime.directory.sync)
            await trio.sleep(1)
            assert node.owner_of("a") is None
            faults.resync()
        assert node.owner_of("a") is not None


async def test_waiting_for_a_revision_that_is_there_returns(autojump_clock: MockClock) -> None:
    """And several who wait are woken in the order of their revisions."""
    faults = Faults()
    async with faults.node() as node, open_node("memory://test") as other, other.serve(make_service()) as instance:
        directory = node.runtime.directory
        await directory.sync()
        revision = directory.snapshot.revision
        await directory.wait_revision(revision)
        woken: list[int] = []

        async def wait(ahead: int) -> None:
            await directory.wait_revision(revision + ahead)
            woken.append(ahead)

        async with trio.open_nursery() as nursery:
            for ahead in (3, 1, 2):
                nursery.start_soon(wait, ahead)
            for number in range(3):
                await trio.sleep(1)
                assert woken == list(range(1, number + 1))
                await instance.claim(f"id{number}")


async def test_ones_own_commits_are_there_at_once(autojump_clock: MockClock) -> None:
    """Ahead of the watch."""
    faults = Faults()
    async with faults.node() as node, node.serve(make_service()) as instance:
        faults.deaf = True
        (claim,) = await instance.claim("a")
        assert node.owner_of("a") is not None
        await claim.release()
        assert node.owner_of("a") is None
        faults.resync()
        await trio.sleep(1)
        assert node.owner_of("a") is None


async def test_who_waits_for_a_change_is_woken(autojump_clock: MockClock) -> None:
    """Of anything, or of one target; also when its owner's lease ends."""
    async with open_node("memory://a") as node, open_node("memory://a") as other:
        directory = node.runtime.directory
        async with other.serve(make_service()) as instance:
            await trio.testing.wait_all_tasks_blocked()
            a, b = directory.watch_target("a"), directory.watch_target("b")
            assert directory.watch_target("a") is a
            async with trio.open_nursery() as nursery:
                nursery.start_soon(directory.wait_change)
                nursery.start_soon(directory.wait_change)
                await trio.testing.wait_all_tasks_blocked()
                await instance.claim("a")
            await a.wait()
            assert not b.is_set()
            a = directory.watch_target("a")
            assert not a.is_set()
            await other.registry.deregister("svc", instance.instance_id)
            await a.wait()


async def test_what_nobody_waits_for_any_more_is_forgotten(autojump_clock: MockClock) -> None:
    """A name that was waited for once costs nothing for ever."""
    async with open_node("memory://a") as node:
        for number in range(1000):
            with trio.move_on_after(0):
                await node.runtime.directory.watch_target(f"id{number}").wait()
        gc.collect()
        assert len(node.runtime.directory._targets) < 10


async def test_a_record_that_cannot_be_read_counts_for_nothing(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, names nobody, and can be overwritten; keys that are none of ours are left alone."""
    async with open_node("memory://a") as node, node.serve(make_service()) as instance:
        await write(node, target_key("a"), b"no record")
        await write(node, "somebody.elses.key", b"anything")
        await node.runtime.directory.sync()
        assert node.owner_of("a") is None
        (claim,) = await instance.claim("a")
        assert claim.held
        await write(node, target_key("a"), b"\xc1 overwritten")
        assert await claim.wait_ended() is EndReason.ERASED
    warnings = [record.getMessage() for record in caplog.records if record.name == "aegis.directory"]
    assert len(warnings) == 2
    assert all(target_key("a") in warning for warning in warnings)


# -- a gap ---------------------------------------------------------------------------------------------------------


async def test_a_gap_is_told_and_what_went_in_it_is_found(autojump_clock: MockClock) -> None:
    """Claims, leases and peers that were lost while nobody told are noticed when the view is whole again."""
    faults = Faults()
    async with faults.node() as node, open_node("memory://test") as other, node.serve(make_service()) as instance:
        async with other.serve(make_service()) as rival, node.events(Resync, ResourceReleased) as told:
            kept, erased, taken = await instance.claim("kept", "erased", "taken")
            await rival.claim("theirs")
            await trio.sleep(1)
            faults.deaf = True
            await rival.release("theirs")
            keys = (target_key("erased"), target_key("taken"))
            await other.runtime.store.commit(
                Transaction(id="erase", operations=tuple(Delete(key, ANY) for key in keys))
            )
            await rival.claim("taken")
            await trio.sleep(1)
            assert erased.held
            assert taken.held
            faults.resync()
            assert await erased.wait_ended() is EndReason.ERASED
            assert await taken.wait_ended() is EndReason.FORCED
            assert kept.held
            first = await told.receive()
            assert isinstance(first, Resync)
            assert first.reason == "by the test"
            released = {event.resource_id for event in [await told.receive(), await told.receive()]}
            assert released == {"theirs", "erased"}
            assert node.owner_of("taken") is not None


async def test_a_lease_that_went_in_a_gap_is_found(autojump_clock: MockClock) -> None:
    """At once, not only at the next renewal."""
    faults = Faults()
    async with faults.node() as node, open_node("memory://test") as other, node.serve(make_service()) as instance:
        (claim,) = await instance.claim("a")
        faults.deaf = True
        await other.registry.deregister("svc", instance.instance_id)
        await trio.sleep(1)
        assert claim.held
        faults.resync()
        assert await claim.wait_ended() is EndReason.ERASED
        assert trio.current_time() == 1


async def test_silence_is_not_judged_while_the_view_is_made_anew(autojump_clock: MockClock) -> None:
    """A view that is half there would take the other half for gone."""
    async with (
        open_node("memory://a") as node,
        open_node("memory://a") as other,
        other.serve(make_service()) as instance,
    ):
        await instance.claim("a")
        directory = node.runtime.directory
        await directory.sync()
        directory.snapshot.resync()
        directory.note_silence()
        assert not directory.ready
        assert node.owner_of("a") is not None


async def test_the_silence_of_others_is_told_and_ends(autojump_clock: MockClock) -> None:
    """Two intervals without a heartbeat, while one's own watch speaks."""
    faults = Faults()
    async with faults.node() as node, open_node("memory://test") as other, node.serve(make_service()) as instance:
        async with other.events(InstanceHealthChanged) as told:
            await trio.sleep(60)
            faults.cut()
            event = await told.receive()
            assert isinstance(event, InstanceHealthChanged)
            assert (event.instance_id, event.new, event.reason) == (instance.instance_id, Health.UNHEALTHY, "silent")
            faults.heal()
            event = await told.receive()
            assert isinstance(event, InstanceHealthChanged)
            assert event.new is Health.ONLINE


async def test_nobody_is_silent_while_the_store_is_away(autojump_clock: MockClock) -> None:
    """It may be oneself who hears nothing."""
    faults = Faults()
    async with faults.node() as node, open_node("memory://test") as other, other.serve(make_service()):
        async with node.events(InstanceHealthChanged) as told:
            await trio.sleep(10)
            faults.refusing = True
            faults.deaf = True
            await trio.sleep(100)
            with pytest.raises(trio.WouldBlock):
                told.receive_nowait()


# -- events --------------------------------------------------------------------------------------------------------


async def test_events_are_told_in_order_and_as_asked_for(autojump_clock: MockClock) -> None:
    """By type, service and resource."""
    async with open_node("memory://a") as node, open_node("memory://a") as other:
        async with (
            node.events() as everything,
            node.events(ResourceRegistered, ResourceReleased) as ownership,
            node.events(service="other") as of_other,
            node.events(resource_id="b") as of_b,
        ):
            async with other.serve(make_service()) as instance:
                await instance.claim("a")
                await instance.claim("b")
                async with other.serve(Service("other", version="1.0.0")) as second:
                    await trio.sleep(1)
            await trio.sleep(1)

            def drain(stream: object) -> list[Event]:
                found = []
                while True:
                    try:
                        found.append(stream.receive_nowait())  # type: ignore[attr-defined]
                    except trio.WouldBlock:
                        return found

            told = drain(everything)
            kinds = [type(event) for event in told if event.service_name == "svc"]
            assert kinds[:3] == [InstanceRegistered, ResourceRegistered, ResourceRegistered]
            assert kinds[-1] is InstanceDeregistered
            assert [event.revision for event in told] == sorted(event.revision for event in told)
            assert all(event.at.tzinfo is not None for event in told)
            assert {type(event) for event in drain(ownership)} == {ResourceRegistered, ResourceReleased}
            assert {event.instance_id for event in drain(of_other)} == {second.instance_id}
            assert [type(event) for event in drain(of_b)] == [ResourceRegistered, ResourceReleased]


async def test_a_reader_that_falls_behind_is_told(autojump_clock: MockClock) -> None:
    """What it did not take is dropped, and a Resync put in its place."""
    async with open_node("memory://a") as node, node.serve(make_service()) as instance:
        async with node.events(ResourceRegistered, ResourceReleased) as told:
            for number in range(CAPACITY // 2):
                await instance.claim(f"id{number}")
                await instance.release(f"id{number}")
            assert repr(told) == f"<EventStream {CAPACITY} waiting>"
            await instance.claim("a")
            first = await told.receive()
            assert isinstance(first, Resync)
            assert "1000" in first.reason
            last = await told.receive()
            assert isinstance(last, ResourceRegistered)
            assert last.resource_id == "a"
            with pytest.raises(trio.WouldBlock):
                told.receive_nowait()


async def test_several_may_read_one_stream(autojump_clock: MockClock) -> None:
    """Each event goes to one; who is cancelled has taken none."""
    taken: list[str] = []
    async with open_node("memory://a") as node, node.serve(make_service()) as instance:
        async with node.events(ResourceRegistered) as told, trio.open_nursery() as nursery:

            async def read() -> None:
                async for event in told:
                    taken.append(event.resource_id)  # noqa: PERF401 - some are lost when it is cancelled

            nursery.start_soon(read)
            nursery.start_soon(read)
            with trio.move_on_after(1):
                await told.receive()
            for number in range(10):
                await instance.claim(f"id{number}")
            await trio.sleep(1)
            assert sorted(taken) == sorted(f"id{number}" for number in range(10))
            nursery.cancel_scope.cancel()


async def test_a_stream_whose_block_was_left_is_closed(autojump_clock: MockClock) -> None:
    """For readers that wait, and for those that come."""
    async with open_node("memory://a") as node, trio.open_nursery() as nursery:

        async def read(stream: object) -> None:
            with pytest.raises(trio.ClosedResourceError):
                await stream.receive()  # type: ignore[attr-defined]

        async with node.events() as told:
            nursery.start_soon(read, told)  # noqa: ASYNC111 - the order of the blocks is what is tested
            await trio.sleep(1)
        with pytest.raises(trio.ClosedResourceError):
            await told.receive()
        with pytest.raises(trio.ClosedResourceError):
            told.receive_nowait()


async def test_observers_hear_everything_and_stop_nothing(autojump_clock: MockClock) -> None:
    """One that raises stops neither the node nor other observers."""
    heard: list[Event] = []

    class Good:
        def on_event(self, event: Event) -> None:
            """Remember."""
            heard.append(event)

    class Bad:
        def on_event(self, event: Event) -> None:
            """Fail."""
            raise ValueError

    class Plugin:
        @hookimpl
        def aegis_register_observers(self, register: ObserverRegistrar) -> None:
            """Both."""
            register(Bad())
            register(Good())

    async with open_node("memory://a", plugins=[Plugin()]) as node, node.serve(make_service()) as instance:
        await instance.claim("a")
        assert {type(event) for event in heard} >= {InstanceRegistered, ResourceRegistered}


async def test_what_is_asked_of_a_node_that_closes_is_told_so(autojump_clock: MockClock) -> None:
    """Work in its background ends with it."""
    async with trio.open_nursery() as nursery:
        async with open_node("memory://a") as node:

            async def wait() -> None:
                with pytest.raises(StoreUnavailable, match="closing"):
                    await node.runtime.shelter(trio.sleep_forever)

            nursery.start_soon(wait)
            await trio.sleep(1)


async def test_a_delete_that_only_checks_is_no_change(autojump_clock: MockClock) -> None:
    """A write without a revision is not folded into the view."""
    from aegis_core.engine.decision import Write

    async with open_node("memory://a") as node:
        assert await node.committer.commit((Write(target_key("a"), None, ABSENT),)) == (0,)
        assert node.owner_of("a") is None

"""Bulk claims and releases: one transaction or batches, what is undone, what is reported, and who is told meanwhile.

The file is long, because the two operations are the same for three kinds of instances, and differ in how they fail.
"""

from __future__ import annotations

import logging
from collections import Counter

import pytest
import trio
from trio.testing import MockClock

from aegis_core.errors import Forbidden, InstanceNotFound, InvalidRequest, ResourceLimitExceeded
from aegis_core.events import BulkProgress
from aegis_core.models import EndReason, Health, ResourceMetadata
from aegis_core.node.bulk import BulkItem, BulkOptions, Claimable
from aegis_core.node.node import open_node
from aegis_core.node.service import Service
from tests.node.bulk_world import FITS, KINDS, THIN, ForceAllowed, bulk_world, ids, writes

# -- one transaction, or batches -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_what_fits_one_transaction_is_one(kind: str, autojump_clock: MockClock) -> None:
    """Whatever the batch size; and so is its release."""
    async with bulk_world() as world:
        wanted = ids(FITS)
        reply = await world.claim(kind, [*wanted, wanted[0]], batch_size=3)
        assert (reply.success, reply.rollback_performed, reply.total_requested) == (True, False, FITS)
        assert reply.done == tuple(wanted)
        assert [(b.batch_number, b.success_count, b.failure_count) for b in reply.batch_results] == [(1, FITS, 0)]
        assert world.transactions(writes(*wanted)) == [FITS]
        assert len(set(reply.epochs.values())) == len(wanted) == len(reply.epochs)
        await trio.sleep(0.1)
        assert await world.owners(wanted) == dict.fromkeys(wanted, kind)
        world.check_tables()
        assert Counter(world.hooks.acquired) == Counter([] if kind == THIN else wanted)
        world.faults.commits.clear()
        reply = await world.release(kind, wanted, batch_size=3)
        assert (reply.success, reply.done, len(reply.batch_results)) == (True, tuple(wanted), 1)
        assert await world.owners(wanted) == {}
        world.check_tables()
        assert Counter(world.hooks.released) == Counter([] if kind == THIN else wanted)
        if kind != "b":  # there, its own node commits
            assert world.transactions(writes(*wanted)) == [FITS]


@pytest.mark.parametrize("kind", KINDS)
async def test_what_does_not_fit_is_done_in_batches_one_after_the_other(kind: str, autojump_clock: MockClock) -> None:
    """Of the size that was asked for; each is told of in turn."""
    async with bulk_world() as world:
        wanted = ids(FITS + 1)
        reply = await world.claim(kind, wanted, batch_size=4)
        assert reply.done == tuple(wanted)
        assert [batch.success_count for batch in reply.batch_results] == [4, 4, 3]
        assert [batch.batch_number for batch in reply.batch_results] == [1, 2, 3]
        assert world.transactions(writes(*wanted)) == [4, 4, 3]
        await trio.sleep(0.1)
        reply = await world.release(kind, wanted, batch_size=1000)
        assert [batch.success_count for batch in reply.batch_results] == [FITS, 1]
        assert await world.owners(wanted) == {}
        world.check_tables()


async def test_claims_of_a_bulk_are_ready_when_it_returns(autojump_clock: MockClock) -> None:
    """``on_acquire`` has run for each, and its state is there; how long a batch took is told."""
    async with bulk_world() as world:
        world.hooks.seconds = 2
        reply = await world.a.bulk_claim(ids(3), batch_size=2, continue_on_error=True, concurrency=1)
        assert trio.current_time() == 4
        assert [batch.duration_ms for batch in reply.batch_results] == [2000, 2000]
        assert {i: c.state for i, c in world.a.claims.items()} == {i: f"state of {i}" for i in ids(3)}
        assert {i: c.epoch for i, c in world.a.claims.items()} == reply.epochs


async def test_metadata_come_with_the_item(autojump_clock: MockClock) -> None:
    """As a pair, or as a whole item."""
    async with bulk_world() as world:
        one, two = ResourceMetadata(tags=("one",)), ResourceMetadata(tags=("two",))
        await world.a.bulk_claim([("x", one), BulkItem(resource_id="y", metadata=two), "z"])
        assert {i: c.metadata.tags for i, c in world.a.claims.items()} == {"x": ("one",), "y": ("two",), "z": ()}


# -- all or nothing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_a_claim_that_fails_undoes_the_batches_before_it(kind: str, autojump_clock: MockClock) -> None:
    """What was held before stays, under its epoch and with the metadata of before; later batches are not begun."""
    async with bulk_world() as world:
        (kept,) = (await world.claim(kind, [("kept", ResourceMetadata(tags=("old",)))])).epochs.values()
        holder = world.a if kind == "b" else world.b
        await holder.claim("r:9")
        await trio.sleep(0.1)
        known = (await world.here.registry.query_resources(resource_ids=["kept"])).resources[0].metadata
        changed = ResourceMetadata(tags=("new",), version=known.version)
        reply = await world.claim(kind, [("kept", changed), *ids(20)], batch_size=4)
        assert (reply.done, reply.epochs, reply.rollback_performed) == ((), {}, True)
        assert [(f.resource_id, f.error_code, f.current_owner) for f in reply.failed] == [
            ("r:9", "RESOURCE_CONFLICT", holder.instance_id)
        ]
        assert [(b.success_count, b.failure_count) for b in reply.batch_results] == [(4, 0), (4, 0), (0, 1)]
        await trio.sleep(0.1)
        assert await world.owners(["kept", *ids(20)]) == {"kept": kind, "r:9": holder.instance_id}
        world.check_tables()
        (found,) = (await world.here.registry.query_resources(resource_ids=["kept"])).resources
        assert (found.epoch, found.metadata.tags) == (kept, ("old",))
        undone = {f"r:{number}" for number in range(7)}
        assert set(world.hooks.released) == (set() if kind == THIN else undone)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_release_that_fails_is_taken_back(kind: str, autojump_clock: MockClock) -> None:
    """Under new epochs and with the same metadata; the instance makes them ready again."""
    async with bulk_world() as world:
        wanted, said = ids(FITS + 1), ResourceMetadata(tags=("mine",))
        before = await world.claim(kind, [(i, said) for i in wanted])
        await trio.sleep(0.1)
        world.hooks.acquired.clear()
        reply = await world.release(kind, [*wanted, "nobody's"], batch_size=4)
        assert (reply.done, reply.rollback_performed) == ((), True)
        assert [(f.resource_id, f.error_code) for f in reply.failed] == [("nobody's", "RESOURCE_NOT_FOUND")]
        await trio.sleep(0.1)
        assert await world.owners(wanted) == dict.fromkeys(wanted, kind)
        world.check_tables()
        found = {r.resource_id: r for r in (await world.here.registry.query_resources(limit=1000)).resources}
        assert {r.metadata.tags for r in found.values()} == {("mine",)}
        again = {i for i in wanted if found[i].epoch > before.epochs[i]}
        assert again == set(wanted[:8])
        assert set(world.hooks.acquired) == (set() if kind == THIN else again)


@pytest.mark.parametrize("kind", KINDS)
async def test_where_the_first_batch_fails_nothing_is_rolled_back(kind: str, autojump_clock: MockClock) -> None:
    """There is nothing to undo, and no work was ended."""
    async with bulk_world() as world:
        await world.claim(kind, ["x", "y"])
        await world.there.registry.claim("svc", THIN if kind == "b" else "b", "theirs")
        await trio.sleep(0.1)
        reply = await world.claim(kind, ["z", "theirs"])
        assert (reply.done, reply.rollback_performed, len(reply.failed)) == ((), False, 1)
        reply = await world.release(kind, ["x", "theirs", "y"])
        assert (reply.done, reply.rollback_performed) == ((), False)
        assert [(f.resource_id, f.error_code) for f in reply.failed] == [("theirs", "NOT_OWNER")]
        assert reply.failed[0].current_owner == (await world.owners(["theirs"]))["theirs"]
        assert await world.owners(["x", "y", "z"]) == {"x": kind, "y": kind}
        assert world.hooks.released == []


@pytest.mark.parametrize("count", [3, 20])
async def test_where_on_acquire_fails_everything_is_given_back(
    count: int, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Also when it was one transaction; the failure tells what was raised, and it is not tried again."""
    async with bulk_world() as world:
        (kept,) = await world.a.claim("kept", metadata=ResourceMetadata(tags=("old",)))
        wanted = ids(count)
        world.hooks.failing[wanted[-1]] = ZeroDivisionError("by zero")
        changed = ResourceMetadata(tags=("new",), version=kept.metadata.version)
        reply = await world.a.bulk_claim([("kept", changed), *wanted], batch_size=7)
        assert (reply.done, reply.rollback_performed) == ((), True)
        assert [(f.resource_id, f.error_code) for f in reply.failed] == [(wanted[-1], "REMOTE_ERROR")]
        assert "by zero" in reply.failed[0].reason
        assert world.hooks.acquired.count(wanted[-1]) == 1
        assert "on_acquire of" in caplog.text
        assert await world.owners(wanted) == {}
        assert list(world.a.claims) == ["kept"]
        assert (kept.held, kept.metadata.tags) == (True, ("old",))
        world.check_tables()


async def test_what_others_changed_since_is_not_undone(autojump_clock: MockClock) -> None:
    """A batch that is undone leaves alone what was taken, or erased, meanwhile."""
    async with bulk_world(ForceAllowed()) as world:
        await world.b.claim("r:12")

        async def meddle(event: BulkProgress) -> None:
            if event.done == 5:
                await world.b.claim("r:1", force=True)
                await world.there.registry.release("svc", "a", "r:2")

        reply = await world.a.bulk_claim(ids(13), batch_size=5, on_progress=meddle)
        assert reply.rollback_performed
        await trio.sleep(0.1)
        assert await world.owners(ids(13)) == {"r:1": "b", "r:12": "b"}
        world.check_tables()


# -- going on after errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_with_continue_on_error_each_failure_has_its_reason(kind: str, autojump_clock: MockClock) -> None:
    """A code, a text, and who owns it; what can be claimed is claimed."""
    async with bulk_world(max_resources_per_instance=4) as world:
        await world.claim(kind, [("mine", ResourceMetadata(tags=("x",)))])
        holder = world.a if kind == "b" else world.b
        await holder.claim("theirs")
        await trio.sleep(0.1)
        stale = ResourceMetadata(tags=("y",), version=7)
        forced = BulkItem(resource_id="forced", force=True)
        items: list[Claimable] = ["theirs", ("mine", stale), "no id", forced, *ids(5)]
        reply = await world.claim(kind, items, batch_size=3, continue_on_error=True, concurrency=1)
        assert (reply.rollback_performed, reply.total_requested) == (False, 9)
        assert reply.done == ("r:0", "r:1", "r:2")
        assert {f.resource_id: (f.error_code, f.current_owner) for f in reply.failed} == {
            "theirs": ("RESOURCE_CONFLICT", holder.instance_id),
            "mine": ("VERSION_CONFLICT", None),
            "no id": ("VALIDATION_ERROR", None),
            "forced": ("FORBIDDEN", None),
            "r:3": ("RESOURCE_LIMIT_EXCEEDED", None),
            "r:4": ("RESOURCE_LIMIT_EXCEEDED", None),
        }
        assert all(failure.reason for failure in reply.failed)
        await trio.sleep(0.1)
        assert await world.owners(ids(5)) == dict.fromkeys(ids(3), kind)
        world.check_tables()
        gone = await world.release(kind, ["theirs", *ids(4), "no id"], batch_size=2, continue_on_error=True)
        assert gone.done == ("r:0", "r:1", "r:2")
        assert {f.resource_id: (f.error_code, f.current_owner) for f in gone.failed} == {
            "theirs": ("NOT_OWNER", holder.instance_id),
            "r:3": ("RESOURCE_NOT_FOUND", None),
            "no id": ("VALIDATION_ERROR", None),
        }
        assert set(await world.owners(["mine", "theirs", *ids(5)])) == {"mine", "theirs"}


async def test_where_on_acquire_fails_only_that_one_is_given_back(autojump_clock: MockClock) -> None:
    """With continue_on_error the others of its batch stay."""
    async with bulk_world() as world:
        world.hooks.failing["r:1"] = ZeroDivisionError("by zero")
        reply = await world.a.bulk_claim(ids(4), batch_size=3, continue_on_error=True)
        assert (reply.done, reply.rollback_performed) == (("r:0", "r:2", "r:3"), False)
        assert [(f.resource_id, f.error_code) for f in reply.failed] == [("r:1", "REMOTE_ERROR")]
        assert set(reply.epochs) == set(reply.done) == set(await world.owners(ids(4)))
        world.check_tables()


async def test_what_is_lost_before_it_is_ready_is_a_failure(autojump_clock: MockClock) -> None:
    """Somebody took it, or erased it, while ``on_acquire`` ran; also of a claim that another task was making."""
    async with bulk_world(ForceAllowed()) as world, trio.open_nursery() as nursery:
        world.hooks.seconds = 3
        nursery.start_soon(world.a.bulk_claim, ["shared"])
        await trio.sleep(1)

        async def take() -> None:
            await trio.sleep(1)
            await world.there.registry.claim("svc", THIN, "r:0", "shared", force=True)

        nursery.start_soon(take)
        reply = await world.a.bulk_claim([*ids(2), "shared"], continue_on_error=True)
        assert reply.done == ("r:1",)
        assert {(f.resource_id, f.error_code) for f in reply.failed} == {
            ("r:0", "LEASE_LOST"),
            ("shared", "LEASE_LOST"),
        }
        assert await world.owners([*ids(2), "shared"]) == {"r:0": THIN, "r:1": "a", "shared": THIN}
        world.check_tables()


@pytest.mark.parametrize("kind", ["a", THIN])
async def test_batches_under_way_together_never_exceed_the_limit(kind: str, autojump_clock: MockClock) -> None:
    """So many fit, exactly; each further one is told so."""
    async with bulk_world(max_resources_per_instance=7) as world:
        world.faults.latency = 0.01
        replies = []

        async def claim(prefix: str) -> None:
            replies.append(await world.claim(kind, ids(6, prefix), batch_size=2, continue_on_error=True))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(claim, "r")
            nursery.start_soon(claim, "s")
        await trio.sleep(1)
        assert len(await world.owners([*ids(6, "r"), *ids(6, "s")])) == sum(len(reply.done) for reply in replies)
        codes = Counter(f.error_code for reply in replies for f in reply.failed)
        assert set(codes) == {"RESOURCE_LIMIT_EXCEEDED"}
        assert codes["RESOURCE_LIMIT_EXCEEDED"] == 12 - 7
        world.check_tables()


async def test_more_than_the_limit_is_refused_as_a_whole(autojump_clock: MockClock) -> None:
    """Without continue_on_error it is judged up front, counting what is held already only once."""
    async with bulk_world(max_resources_per_instance=4) as world:
        await world.a.claim("r:0")
        with pytest.raises(ResourceLimitExceeded) as caught:
            await world.a.bulk_claim(ids(5))
        assert (caught.value.limit, caught.value.held, caught.value.asked) == (4, 1, 4)
        assert list(world.a.claims) == ["r:0"]
        assert (await world.a.bulk_claim(ids(4))).success


# -- what cannot be ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"retries": -1}, "$.retries"),
        ({"retries": 65}, "$.retries"),
        ({"concurrency": 0}, "$.concurrency"),
        ({"concurrency": 65}, "$.concurrency"),
        ({"batch_size": 0}, "$.batch_size"),
        ({"batch_size": 1001}, "$.batch_size"),
    ],
)
async def test_numbers_that_cannot_be_are_refused(options: BulkOptions, path: str, autojump_clock: MockClock) -> None:
    """With their paths, whether or not it goes on after errors."""
    async with bulk_world() as world:
        with pytest.raises(InvalidRequest) as caught:
            await world.claim("a", ["x"], **options)
        assert [problem.path for problem in caught.value.problems] == [path]
        options["continue_on_error"] = True
        with pytest.raises(InvalidRequest):
            await world.release("a", ["x"], **options)
        assert await world.owners(["x"]) == {}


async def test_one_string_is_no_list(autojump_clock: MockClock) -> None:
    """It would be claimed letter by letter; nor is nothing at all a request."""
    async with bulk_world() as world:
        with pytest.raises(InvalidRequest, match="expected a list"):
            await world.a.bulk_claim("abc")
        with pytest.raises(InvalidRequest, match="expected a list"):
            await world.a.bulk_release("abc")
        for operation in (world.a.bulk_claim, world.a.bulk_release):
            with pytest.raises(InvalidRequest, match="at least one"):
                await operation([])


async def test_who_may_not_claim_may_not_claim_in_bulk(autojump_clock: MockClock) -> None:
    """An instance that drains, is UNHEALTHY, unknown, or not registered; force without permission."""
    async with bulk_world() as world:
        with pytest.raises(InstanceNotFound):
            await world.claim("nobody", ["x"])
        with pytest.raises(InstanceNotFound):
            await world.release("nobody", ["x"])
        with pytest.raises(Forbidden, match="force"):
            await world.a.bulk_claim([BulkItem(resource_id="x", force=True)])
        async with world.here.serve(Service("svc", version="1"), register=False) as unregistered:
            with pytest.raises(InstanceNotFound):
                await unregistered.bulk_claim(["x"])
        await world.a.set_health(Health.UNHEALTHY, "tired")
        with pytest.raises(Forbidden, match="UNHEALTHY"):
            await world.a.bulk_claim(["x"], continue_on_error=True)
        await world.a.set_health(Health.ONLINE)
        await world.a.drain()
        with pytest.raises(Forbidden, match="draining"):
            await world.a.bulk_claim(["x"], continue_on_error=True)
        assert await world.owners(["x"]) == {}


async def test_draining_ends_a_bulk_claim_between_its_batches(autojump_clock: MockClock) -> None:
    """What was claimed so far has been handed over, the rest is refused."""
    async with bulk_world() as world:

        async def drain(event: BulkProgress) -> None:
            if event.done == 2:
                await world.a.drain()

        reply = await world.a.bulk_claim(ids(4), batch_size=2, continue_on_error=True, concurrency=1, on_progress=drain)
        assert [(f.resource_id, f.error_code) for f in reply.failed] == [("r:2", "FORBIDDEN"), ("r:3", "FORBIDDEN")]
        assert await world.owners(ids(4)) == {}


# -- force ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_taken_by_force_is_recorded(kind: str, autojump_clock: MockClock) -> None:
    """One audit record per transaction; the old owner's claims end as FORCED."""
    async with bulk_world(ForceAllowed()) as world:
        robbed = world.a if kind == "b" else world.b
        taken = await robbed.claim("x", "y")
        items = [BulkItem(resource_id=i, force=True) for i in ("x", "y", "z")]
        reply = await world.claim(kind, items)
        assert reply.done == ("x", "y", "z")
        assert all(reply.epochs[claim.resource_id] > claim.epoch for claim in taken)
        assert [await claim.wait_ended() for claim in taken] == [EndReason.FORCED] * 2
        (record,) = world.here.runtime.directory.snapshot.transfers()
        assert (record.kind, record.resource_ids) == ("forced", ("x", "y"))
        assert (record.from_instance_id, record.to_instance_id) == (robbed.instance_id, kind)
        await trio.sleep(0.1)
        assert await world.owners(["x", "y", "z"]) == dict.fromkeys("xyz", kind)
        world.check_tables()


# -- who is told ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_progress_is_a_callback_and_an_event(kind: str, autojump_clock: MockClock) -> None:
    """After each batch, with what was done and what failed so far, of how much."""
    async with bulk_world() as world:
        await world.there.registry.claim("svc", "a" if kind == "b" else "b", "r:3")
        heard: list[BulkProgress] = []
        async with world.here.events(BulkProgress) as told, world.there.events(BulkProgress) as elsewhere:
            options = BulkOptions(batch_size=2, continue_on_error=True, concurrency=1, on_progress=heard.append)
            await world.claim(kind, [*ids(5), "no id"], **options)
            await world.release(kind, ids(5), **options)
            events = [told.receive_nowait() for _ in heard]
            assert events == heard
            with pytest.raises(trio.WouldBlock):
                told.receive_nowait()
            with pytest.raises(trio.WouldBlock):
                elsewhere.receive_nowait()
        assert {(e.service_name, e.instance_id) for e in heard} == {("svc", kind)}
        assert [(e.operation, e.done, e.failed, e.total) for e in heard] == [
            ("bulk_claim", 2, 1, 6),
            ("bulk_claim", 3, 2, 6),
            ("bulk_claim", 4, 2, 6),
            ("bulk_release", 2, 0, 5),
            ("bulk_release", 3, 1, 5),
            ("bulk_release", 4, 1, 5),
        ]


async def test_an_async_on_progress_is_waited_for(autojump_clock: MockClock) -> None:
    """Before the next batch begins."""
    async with bulk_world() as world:
        owned: list[int] = []

        async def look(event: BulkProgress) -> None:
            await trio.sleep(1)
            owned.append(len(await world.owners(ids(12))))

        reply = await world.a.bulk_claim(ids(12), batch_size=5, on_progress=look)
        assert reply.success
        assert owned == [5, 10, 12]
        assert trio.current_time() == 3


class Stop(Exception):
    """What a callback raises."""


@pytest.mark.parametrize("kind", KINDS)
async def test_what_on_progress_raises_undoes_the_claim_and_is_raised(kind: str, autojump_clock: MockClock) -> None:
    """As itself, without continue_on_error."""
    async with bulk_world() as world:

        def stop(event: BulkProgress) -> None:
            if event.done > 5:
                raise Stop

        with pytest.raises(Stop):
            await world.claim(kind, ids(20), batch_size=5, on_progress=stop)
        await trio.sleep(1)
        assert await world.owners(ids(20)) == {}
        world.check_tables()


async def test_what_on_progress_raises_ends_the_batches_under_way(autojump_clock: MockClock) -> None:
    """With continue_on_error it is raised as itself, and what was done before stays."""
    async with bulk_world() as world:

        def stop(event: BulkProgress) -> None:
            world.hooks.seconds = 1
            if event.done > 2:
                raise Stop

        with pytest.raises(Stop):
            await world.a.bulk_claim(ids(9), batch_size=2, concurrency=2, continue_on_error=True, on_progress=stop)
        await trio.sleep(5)
        assert set(await world.owners(ids(9))) == set(ids(4))
        world.check_tables()


# -- how much at once ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_so_many_batches_are_under_way_at_once(concurrency: int, autojump_clock: MockClock) -> None:
    """No more and no fewer, with continue_on_error."""
    async with bulk_world() as world:
        world.hooks.seconds = 1
        await world.a.bulk_claim(ids(6), batch_size=1, continue_on_error=True, concurrency=concurrency)
        assert world.hooks.most == concurrency
        assert trio.current_time() == 6 / concurrency


async def test_without_continue_on_error_one_batch_is_under_way_at_a_time(autojump_clock: MockClock) -> None:
    """Whatever the concurrency: a later one could not be stopped any more."""
    async with bulk_world() as world:
        world.hooks.seconds = 1
        await world.a.bulk_claim(ids(12), batch_size=4, concurrency=8)
        assert world.hooks.most == 4
        assert trio.current_time() == 3


# -- releases end work ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["a", "b"])
async def test_a_bulk_release_lets_calls_finish(kind: str, autojump_clock: MockClock) -> None:
    """Within the drain time; ``on_release`` runs afterwards, while the lease still holds."""
    async with bulk_world(drain=4) as world, trio.open_nursery() as nursery:
        await world.claim(kind, ["x", "y"])
        await trio.sleep(0.1)
        answers: list[object] = []

        async def work() -> None:
            answers.append(await world.there.call("svc", "work", {"seconds": 3}, resource_id="x"))

        nursery.start_soon(work)
        await trio.sleep(1)
        reply = await world.release(kind, ["x", "y"])
        assert reply.success
        assert answers == ["done"]
        assert trio.current_time() == pytest.approx(3.1, abs=0.05)
        assert set(world.hooks.released) == {"x", "y"}


async def test_a_bulk_release_waits_for_what_is_being_released(autojump_clock: MockClock) -> None:
    """And says that it is gone by then."""
    async with bulk_world() as world, trio.open_nursery() as nursery:
        await world.a.claim("x", "y")
        nursery.start_soon(lambda: world.there.call("svc", "work", {"seconds": 3}, resource_id="x"))
        await trio.sleep(1)
        nursery.start_soon(world.a.release, "x")
        await trio.sleep(1)
        reply = await world.a.bulk_release(["x", "y"], continue_on_error=True)
        assert reply.done == ("y",)
        assert [(f.resource_id, f.error_code) for f in reply.failed] == [("x", "RESOURCE_NOT_FOUND")]
        assert trio.current_time() == 3


async def test_a_bulk_is_told_of_in_the_log_when_it_is_tried_again(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """For whoever wonders why it took so long."""
    caplog.set_level(logging.DEBUG, "aegis.bulk")
    async with bulk_world(request_timeout=1) as world:
        world.faults.hold(trio.Event(), writes("x"))
        assert (await world.a.bulk_claim(["x"])).success
        assert "tried again" in caplog.text


async def test_items_of_any_iterable_are_taken_once(autojump_clock: MockClock) -> None:
    """A generator will do."""
    async with open_node("memory://") as node, node.serve(Service("svc", version="1")) as instance:
        assert (await instance.bulk_claim(f"r:{n}" for n in range(3))).done == ("r:0", "r:1", "r:2")
        assert (await instance.bulk_release(f"r:{n}" for n in range(3))).done == ("r:0", "r:1", "r:2")

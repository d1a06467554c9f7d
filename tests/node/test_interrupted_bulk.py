"""Bulk operations that something comes between: a store or a node that does not answer, a lost lease, cancellation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from aegis_core.errors import CallTimeout, StoreUnavailable, TransportUnavailable, Unavailable
from aegis_core.events import BulkProgress
from aegis_core.models import BulkReply, Health, Outcome, ResourceMetadata
from aegis_core.node.bulk import BulkOptions
from aegis_core.node.node import open_node
from tests.node.bulk_world import KINDS, THIN, BulkWorld, ForceAllowed, Hooks, bulk_world, ids, writes
from tests.node.wires import Fault, Wire, lose_answer, lose_request, refuse, silence

NEVER = trio.Event()

# -- a store that does not answer ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("operation", "kind"), [("claim", "a"), ("claim", THIN), ("release", THIN)])
async def test_a_batch_is_tried_again_as_often_as_asked_for(
    operation: str, kind: str, autojump_clock: MockClock
) -> None:
    """When the store did not answer in time, and no more."""
    async with bulk_world(request_timeout=1) as world:
        if operation == "release":
            await world.claim(kind, ids(3))
        run = world.claim if operation == "claim" else world.release
        world.faults.hold(NEVER, writes("r:0"), times=2)
        began = trio.current_time()
        world.faults.commits.clear()
        reply = await run(kind, ids(3), retries=2, continue_on_error=True)
        assert reply.done == tuple(ids(3))
        assert world.transactions(writes("r:0")) == [3, 3, 3]
        assert 2 < trio.current_time() - began < 2.3
        await trio.sleep(0.1)
        assert await world.owners(ids(3)) == (dict.fromkeys(ids(3), kind) if operation == "claim" else {})
        world.check_tables()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_batch_that_is_tried_in_vain_fails_with_all_its_ids(kind: str, autojump_clock: MockClock) -> None:
    """The others are done; nothing is half-done."""
    async with bulk_world(request_timeout=1) as world:
        world.faults.hold(NEVER, writes("r:2"), times=2)
        reply = await world.claim(kind, ids(6), batch_size=2, retries=1, continue_on_error=True)
        assert reply.done == ("r:0", "r:1", "r:4", "r:5")
        assert {f.resource_id: f.error_code for f in reply.failed} == dict.fromkeys(("r:2", "r:3"), "STORE_UNAVAILABLE")
        assert [(b.success_count, b.failure_count) for b in reply.batch_results] == [(2, 0), (0, 2), (2, 0)]
        await trio.sleep(1)
        assert set(await world.owners(ids(6))) == set(reply.done)
        world.check_tables()


async def test_what_is_refused_is_not_tried_again(autojump_clock: MockClock) -> None:
    """It would be refused again: no time is lost, and nothing is written."""
    async with bulk_world(max_resources_per_instance=3) as world:
        await world.b.claim("r:1")
        (claim,) = await world.a.claim("mine")
        world.faults.commits.clear()
        stale = ResourceMetadata(version=claim.metadata.version + 1, tags=("x",))
        reply = await world.a.bulk_claim(["r:1", ("mine", stale)], retries=9)
        assert [f.error_code for f in reply.failed] == ["RESOURCE_CONFLICT", "VERSION_CONFLICT"]
        assert trio.current_time() == 0
        assert world.transactions(writes("r:1", "mine")) == []


async def test_a_batch_that_is_refused_as_a_whole_is_not_tried_again(autojump_clock: MockClock) -> None:
    """Nor is one whose instance became UNHEALTHY on the way: only what the store or a node failed to do is."""
    async with bulk_world() as world:

        async def fall_ill(event: BulkProgress) -> None:
            if event.done == 1:
                await world.a.set_health(Health.UNHEALTHY)

        options = BulkOptions(batch_size=1, continue_on_error=True, concurrency=1, on_progress=fall_ill, retries=9)
        reply = await world.a.bulk_claim(ids(3), **options)
        assert [failed.error_code for failed in reply.failed] == ["FORBIDDEN"] * 2
        assert trio.current_time() == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_a_batch_that_fails_for_want_of_the_store_undoes_the_others(kind: str, autojump_clock: MockClock) -> None:
    """Without continue_on_error."""
    async with bulk_world(request_timeout=1) as world:
        world.faults.hold(NEVER, writes("r:9"), times=2)
        reply = await world.claim(kind, ids(12), batch_size=3, retries=1)
        assert (reply.done, reply.rollback_performed) == ((), True)
        assert {f.error_code for f in reply.failed} == {"STORE_UNAVAILABLE"}
        await trio.sleep(1)
        assert await world.owners(ids(12)) == {}
        world.check_tables()


async def test_undoing_that_fails_is_raised(autojump_clock: MockClock) -> None:
    """A report that says that all was undone would be wrong; what an instance of this node claimed is freed later."""
    async with bulk_world(ForceAllowed(), request_timeout=1) as world:
        for kind in (THIN, "a"):

            def break_off(event: BulkProgress) -> None:
                if event.done == 10:
                    world.faults.hold(NEVER, lambda t: len(t.operations) > 1, times=2)

            await world.b.claim("r:11")
            if kind == THIN:
                with pytest.raises(StoreUnavailable) as caught:
                    await world.claim(kind, ids(12), batch_size=5, on_progress=break_off)
                assert caught.value.outcome is Outcome.MAYBE_EXECUTED
                assert set(await world.owners(ids(11))) == set(ids(10))
                world.faults.heal_commits()
                assert (await world.release(THIN, ids(10))).success
            else:
                reply = await world.claim(kind, ids(12), batch_size=5, on_progress=break_off)
                assert reply.rollback_performed
                assert list(world.a.claims) == []
                world.faults.heal_commits()
                await trio.sleep(3)
            assert await world.owners(ids(12)) == {"r:11": "b"}
            world.check_tables()


@pytest.mark.parametrize("kind", ["a", THIN])
async def test_what_an_attempt_released_without_knowing_counts_as_released(
    kind: str, autojump_clock: MockClock
) -> None:
    """The answer was lost; the next attempt finds it gone."""
    async with bulk_world(request_timeout=1) as world:
        await world.claim(kind, ids(3))
        world.faults.unanswered(writes("r:0"))
        lost = world.faults.hold(NEVER, writes("r:0"))
        reply = await world.release(kind, ids(3))
        assert lost.seen == 1
        assert (reply.success, reply.done) == (True, tuple(ids(3)))
        assert await world.owners(ids(3)) == {}
        world.check_tables()


async def test_what_was_released_without_knowing_is_taken_back_too(autojump_clock: MockClock) -> None:
    """Where a later batch fails."""
    async with bulk_world(request_timeout=1) as world:
        wanted = ids(11)
        await world.claim("a", [(i, ResourceMetadata(tags=("mine",))) for i in wanted])
        world.faults.unanswered(writes("r:0"))
        world.faults.hold(NEVER, writes("r:0"))
        reply = await world.release("a", [*wanted, "nobody's"], batch_size=4)
        assert reply.rollback_performed
        await trio.sleep(0.1)
        assert await world.owners(wanted) == dict.fromkeys(wanted, "a")
        assert {claim.metadata.tags for claim in world.a.claims.values()} == {("mine",)}
        world.check_tables()


async def test_a_batch_that_lands_after_it_was_reported_failed_is_released(autojump_clock: MockClock) -> None:
    """Nobody here believes in it meanwhile."""
    async with bulk_world(request_timeout=1) as world:
        world.faults.late(4, writes("r:0"))
        world.faults.lose(writes("r:0"), times=10**6)
        reply = await world.a.bulk_claim(ids(3), retries=0, continue_on_error=True)
        assert {f.error_code for f in reply.failed} == {"STORE_UNAVAILABLE"}
        world.faults.heal_commits()
        for _ in range(60):
            await trio.sleep(0.1)
            assert not world.a.claims
        assert trio.current_time() > 6
        assert await world.owners(ids(3)) == {}


# -- another node that does not answer -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("faults", "code"), [([lose_answer], None), ([silence], None), ([silence, silence], "TIMEOUT")]
)
async def test_a_release_is_asked_for_again_where_the_owners_node_did_not_answer(
    faults: list[Fault], code: str | None, autojump_clock: MockClock
) -> None:
    """And what it had released without being heard counts."""
    wire, service = Wire(list(faults)), Hooks().service()
    config = {"request_timeout": 1, "drain": 1}
    async with (
        wire.node(**config) as here,
        open_node("memory://", config=config) as there,
        there.serve(service, instance_id="b") as b,
    ):
        await b.claim("x", "y")
        await here.runtime.directory.sync()
        reply = await here.registry.bulk_release("svc", "b", ["x", "y"], retries=1)
        assert {f.error_code for f in reply.failed} == ({code} if code else set())
        assert set(b.claims) == ({"x", "y"} if code else set())


@pytest.mark.parametrize(
    ("fault", "error", "outcome"),
    [
        (refuse, TransportUnavailable, Outcome.NOT_SENT),
        (lose_request, TransportUnavailable, Outcome.MAYBE_EXECUTED),
        (silence, CallTimeout, Outcome.MAYBE_EXECUTED),
    ],
    ids=["refused", "lost", "silent"],
)
async def test_a_claim_for_an_instance_whose_node_is_out_of_reach_cannot_be_undone(
    fault: Fault, error: type[Unavailable], outcome: Outcome, autojump_clock: MockClock
) -> None:
    """So that is raised, and what was assigned stays with it."""
    wire, service = Wire(), Hooks().service()
    config = {"request_timeout": 1, "drain": 1, "max_resources_per_instance": 2000}
    async with (
        wire.node(**config) as here,
        open_node("memory://", config=config) as there,
        there.serve(service, instance_id="b") as b,
        there.serve(service, instance_id="c") as c,
    ):
        await c.claim("taken")
        wire.always["b"] = fault
        with pytest.raises(error) as caught:
            await here.registry.bulk_register("svc", "b", [*ids(1000), "taken"], batch_size=1000)
        assert caught.value.outcome is outcome
        await trio.sleep(1)
        assert set(b.claims) == set(ids(1000))


async def test_what_is_taken_while_it_is_released_stops_the_release(autojump_clock: MockClock) -> None:
    """All or nothing: the others are held again, under the epochs that they had, and made ready once more."""
    async with bulk_world(ForceAllowed()) as world:
        claims = await world.a.claim(*ids(3))
        world.hooks.acquired.clear()

        async def rob() -> None:
            await trio.sleep(0.5)
            await world.there.registry.claim("svc", THIN, "r:1", force=True)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(rob)
            nursery.start_soon(lambda: world.there.call("svc", "work", {"seconds": 1}, resource_id="r:0"))
            await trio.sleep(0.1)
            reply = await world.a.bulk_release(ids(3))
        assert (reply.done, reply.rollback_performed) == ((), False)
        assert [(f.resource_id, f.error_code, f.current_owner) for f in reply.failed] == [("r:1", "NOT_OWNER", THIN)]
        await trio.sleep(0.1)
        assert await world.owners(ids(3)) == {"r:0": "a", "r:1": THIN, "r:2": "a"}
        world.check_tables()
        assert {c.resource_id: c.epoch for c in claims if c.resource_id != "r:1"} == {
            i: claim.epoch for i, claim in world.a.claims.items()
        }
        assert set(world.hooks.acquired) == {"r:0", "r:2"}


# -- cancellation --------------------------------------------------------------------------------------------------

Operation = Callable[[], Awaitable[BulkReply]]


async def cancelled_after(seconds: float, operation: Operation) -> None:
    """Run *operation*, cancelled after *seconds*, which must come before its end."""
    with trio.move_on_after(seconds) as scope:
        await operation()
    assert scope.cancelled_caught


@pytest.mark.parametrize("kind", ["a", THIN])
async def test_a_bulk_claim_that_is_cancelled_is_undone(kind: str, autojump_clock: MockClock) -> None:
    """In the background, without continue_on_error; what was held before is as it was."""
    async with bulk_world() as world:
        await world.claim(kind, [("kept", ResourceMetadata(tags=("old",)))])
        (before,) = (await world.here.registry.query_resources()).resources
        changed = ResourceMetadata(tags=("new",), version=before.metadata.version)

        async def tell(_event: BulkProgress) -> None:
            await trio.sleep(1)

        await cancelled_after(
            1.5, lambda: world.claim(kind, [("kept", changed), *ids(12)], batch_size=4, on_progress=tell)
        )
        await trio.sleep(0.1)
        (after,) = (await world.here.registry.query_resources()).resources
        assert (after.resource_id, after.epoch) == ("kept", before.epoch)
        assert after.metadata.tags == ("old",)
        world.check_tables()


async def test_a_bulk_claim_that_is_cancelled_keeps_what_it_reported(autojump_clock: MockClock) -> None:
    """With continue_on_error; the batch whose ``on_acquire`` ran is given back."""
    async with bulk_world() as world:
        world.hooks.seconds = 1
        await cancelled_after(
            1.5, lambda: world.a.bulk_claim(ids(6), batch_size=2, concurrency=1, continue_on_error=True)
        )
        await trio.sleep(0.1)
        assert set(world.a.claims) == set(ids(2))
        assert set(await world.owners(ids(6))) == set(ids(2))
        world.check_tables()


async def test_an_undoing_that_fails_in_the_background_is_logged(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody waits for it any more."""
    async with bulk_world(request_timeout=1) as world:

        async def break_off(_event: BulkProgress) -> None:
            world.faults.hold(NEVER, writes("r:0"), times=10**6)
            await trio.sleep(2)

        await cancelled_after(1, lambda: world.claim(THIN, ids(12), batch_size=4, on_progress=break_off))
        await trio.sleep(2)
        assert "a bulk operation that was given up is not undone" in caplog.text


async def begin_work(world: BulkWorld, nursery: trio.Nursery, resource_id: str) -> None:
    """A call of two seconds for *resource_id* is under way."""
    nursery.start_soon(lambda: world.there.call("svc", "work", {"seconds": 2}, resource_id=resource_id))
    await trio.sleep(0.5)


@pytest.mark.parametrize("kind", ["a", "b"])
async def test_a_bulk_release_that_is_cancelled_goes_on_with_its_batch(kind: str, autojump_clock: MockClock) -> None:
    """Work has been told to end already; batches to come are not begun, and none is taken back."""
    async with bulk_world() as world, trio.open_nursery() as nursery:
        await world.claim(kind, ids(20))
        await trio.sleep(0.1)
        await begin_work(world, nursery, "r:10")
        await cancelled_after(1, lambda: world.release(kind, ids(20), batch_size=5))
        await trio.sleep(3)
        assert set(await world.owners(ids(20))) == set(ids(20)[15:])
        world.check_tables()

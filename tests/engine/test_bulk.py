"""Bulk claims and releases: one transaction if it fits, batches otherwise, and a report in any case."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import pytest

from aegis_core.engine import bulk
from aegis_core.engine.bulk import BatchOutcome, BulkItem, BulkPlan
from aegis_core.engine.decision import NotYetKnown
from aegis_core.engine.limits import Reserved
from aegis_core.errors import (
    AegisError,
    Forbidden,
    InstanceNotFound,
    InvalidRequest,
    NotOwner,
    ResourceLimitExceeded,
)
from aegis_core.models import BulkReply, ResourceMetadata
from tests.engine.driver import AT, AUDIT, Driver
from tests.engine.test_claims import claim, owner


def items(*ids: str, **fields: object) -> list[BulkItem]:
    """Items without anything particular."""
    return [BulkItem(resource_id=i, **fields) for i in ids]  # type: ignore[arg-type]


def plan_claim(driver: Driver, wanted: Sequence[BulkItem], **options: object) -> BulkPlan:
    """A plan for instance ``a``."""
    given: dict[str, object] = {"now": driver.now, **options}
    return driver.run(bulk.plan_bulk_claim(driver.view, "svc", "a", wanted, **given))  # type: ignore[arg-type]


def carry_out(driver: Driver, plan: BulkPlan, *, release: bool = False) -> BulkReply:
    """What a shell does with a plan."""
    outcomes: list[BatchOutcome] = []
    rolled_back = False
    for batch in plan.batches:
        try:
            if release:
                outcome = driver.run(bulk.release_batch(driver.view, plan, batch))
            else:
                outcome = driver.run(bulk.claim_batch(driver.view, plan, batch, now=driver.now, at=AT))
        except AegisError as error:
            outcome = bulk.failed_batch(batch, error)
        outcomes.append(outcome)
        if plan.stops_at(outcome):
            rolled_back = any(done.done for done in outcomes)
            for done in outcomes:
                driver.run(bulk.undo(driver.view, done))
            break
    return bulk.bulk_reply(plan, outcomes, [0.5] * len(outcomes), rolled_back=rolled_back)


@pytest.fixture
def cluster(driver: Driver) -> Driver:
    """a and b live; b holds ``taken``."""
    driver.register("a")
    driver.register("b")
    driver.run(claim(driver, "b", "taken"))
    return driver


def test_what_fits_one_transaction_is_one(cluster: Driver) -> None:
    """Whatever the batch size; the report counts it."""
    plan = plan_claim(cluster, items(*(f"r{i}" for i in range(250))), batch_size=10)
    assert [len(b) for b in plan.batches] == [250]
    reply = carry_out(cluster, plan)
    assert reply.success
    assert reply.total_requested == 250
    assert reply.done == tuple(f"r{i}" for i in range(250))
    assert reply.epochs["r7"] == cluster.revisions["resources.r7"]
    (result,) = reply.batch_results
    assert (result.batch_number, result.success_count, result.failure_count, result.duration_ms) == (1, 250, 0, 500.0)


def test_a_failure_in_one_transaction_changes_nothing(cluster: Driver) -> None:
    """Every conflict is listed with reason, code and owner; there is nothing to roll back."""
    reply = carry_out(cluster, plan_claim(cluster, items("x", "taken", "y")))
    assert reply.done == ()
    assert not reply.rollback_performed
    (failure,) = reply.failed
    assert (failure.resource_id, failure.error_code, failure.current_owner) == ("taken", "RESOURCE_CONFLICT", "b")
    assert owner(cluster, "x") is None


def test_beyond_one_transaction_batches_are_undone(cluster: Driver) -> None:
    """Metadata that were changed are as before, under the same epoch; the rest is free."""
    cluster.run(claim(cluster, "a", "mine", metadata=ResourceMetadata(priority=1)))
    before = cluster.view.held("mine")
    assert before is not None
    wanted = [
        BulkItem(resource_id="mine", metadata=ResourceMetadata(priority=2)),
        *items("x", "y", "taken"),
    ]
    plan = plan_claim(cluster, wanted, batch_size=2, max_transaction=3)
    assert [len(b) for b in plan.batches] == [2, 2]
    reply = carry_out(cluster, plan)
    assert reply.rollback_performed
    assert (reply.done, dict(reply.epochs)) == ((), {})
    assert [f.resource_id for f in reply.failed] == ["taken"]
    assert owner(cluster, "x") is None
    after = cluster.view.held("mine")
    assert after is not None
    assert (after.metadata.priority, after.epoch) == (1, before.epoch)


def test_undoing_leaves_alone_what_others_changed_since(cluster: Driver) -> None:
    """What was taken by force meanwhile stays with the taker."""
    plan = plan_claim(cluster, items("x", "y"))
    outcome = cluster.run(bulk.claim_batch(cluster.view, plan, plan.batches[0], now=cluster.now, at=AT))
    cluster.run(claim(cluster, "b", "x", force=True, admin=True))
    assert cluster.run(bulk.undo(cluster.view, outcome)) == ("y",)
    assert owner(cluster, "x") == "b"
    assert owner(cluster, "y") is None


def test_continuing_on_errors_claims_what_it_can(cluster: Driver) -> None:
    """Each failure has its code: held, changed, invalid, forbidden, too many."""
    cluster.run(claim(cluster, "a", "mine", metadata=ResourceMetadata(version=4)))
    wanted = [
        *items("x", "taken", "bad id"),
        BulkItem(resource_id="mine", metadata=ResourceMetadata(version=3, priority=1)),
        BulkItem(resource_id="wanted", force=True),
        *items("y", "z", "x"),
    ]
    plan = plan_claim(cluster, wanted, continue_on_error=True, batch_size=3, limit=3)
    assert [len(b) for b in plan.batches] == [3, 2]
    reply = carry_out(cluster, plan)
    assert reply.total_requested == 7
    assert reply.done == ("x", "y")
    assert {f.resource_id: f.error_code for f in reply.failed} == {
        "bad id": "VALIDATION_ERROR",
        "wanted": "FORBIDDEN",
        "taken": "RESOURCE_CONFLICT",
        "mine": "VERSION_CONFLICT",
        "z": "RESOURCE_LIMIT_EXCEEDED",
    }
    assert "@ $.resources[2].resource_id" in next(f.reason for f in reply.failed if f.resource_id == "bad id")
    assert [(b.batch_number, b.success_count, b.failure_count) for b in reply.batch_results] == [(1, 1, 2), (2, 1, 1)]


def test_claiming_again_in_bulk_is_idempotent(cluster: Driver) -> None:
    """It does not count towards the limit."""
    first = carry_out(cluster, plan_claim(cluster, items("x", "y"), limit=2))
    assert carry_out(cluster, plan_claim(cluster, items("x", "y"), limit=2)).epochs == first.epochs


def test_the_limit_is_judged_before_anything_is_done(cluster: Driver) -> None:
    """Unless it goes on: then the ids that fit are claimed."""
    with pytest.raises(ResourceLimitExceeded):
        plan_claim(cluster, items("x", "y", "z"), limit=2)
    plan = plan_claim(cluster, items("x", "y", "z"), limit=2, continue_on_error=True)
    assert carry_out(cluster, plan).done == ("x", "y")


def test_what_is_being_claimed_counts_towards_the_limit(cluster: Driver) -> None:
    """A batch waits until it is known."""
    plan = plan_claim(cluster, items("x", "y"), limit=3, continue_on_error=True)
    with pytest.raises(NotYetKnown):
        bulk.claim_batch(cluster.view, plan, plan.batches[0], reserved=Reserved(under_way=2), now=cluster.now, at=AT)
    assert bulk.claim_batch(
        cluster.view, plan, plan.batches[0], reserved=Reserved(under_way=1), now=cluster.now, at=AT
    ).writes
    with pytest.raises(NotYetKnown):
        plan_claim(cluster, items("x", "y"), limit=3, reserved=Reserved(under_way=2))


def test_promised_room_is_not_there_for_a_batch(cluster: Driver) -> None:
    """The ids that fit beside it are claimed, the others are told what is held."""
    plan = plan_claim(cluster, items("x", "y"), limit=3, continue_on_error=True)
    promised = Reserved(promised=2)
    decision = bulk.claim_batch(cluster.view, plan, plan.batches[0], reserved=promised, now=cluster.now, at=AT)
    outcome = cluster.run(decision)
    assert outcome.done == ("x",)
    (failure,) = outcome.failed
    assert (failure.resource_id, failure.error_code) == ("y", "RESOURCE_LIMIT_EXCEEDED")
    with pytest.raises(ResourceLimitExceeded):
        plan_claim(cluster, items("y", "z"), limit=3, reserved=promised)


def test_a_limit_reached_meanwhile_stops_a_bulk(cluster: Driver) -> None:
    """The batch is refused, with the code."""
    plan = plan_claim(cluster, items("x", "y"), limit=2)
    cluster.run(claim(cluster, "a", "other"))
    (failure,) = carry_out(cluster, plan).failed
    assert (failure.resource_id, failure.error_code) == ("y", "RESOURCE_LIMIT_EXCEEDED")


def test_a_bulk_request_is_checked_as_a_whole(cluster: Driver) -> None:
    """All problems with their paths; who may not claim may not claim in bulk."""
    with pytest.raises(InvalidRequest) as refused:
        plan_claim(cluster, items("ok", "bad id"), batch_size=0)
    assert [p.path for p in refused.value.problems] == ["$.batch_size", "$.resources[1].resource_id"]
    with pytest.raises(InvalidRequest, match="at least one"):
        plan_claim(cluster, [])
    with pytest.raises(Forbidden, match="force needs admin"):
        plan_claim(cluster, items("x", force=True))
    with pytest.raises(NotOwner):
        plan_claim(cluster, items("x"), lease="forged")


def test_an_admin_may_force_in_bulk(cluster: Driver) -> None:
    """What was taken cannot be given back: undone, it is free."""
    plan = plan_claim(cluster, items("taken", force=True), admin=True)
    outcome = cluster.run(bulk.claim_batch(cluster.view, plan, plan.batches[0], now=cluster.now, at=AT))
    assert owner(cluster, "taken") == "a"
    cluster.run(bulk.undo(cluster.view, outcome))
    assert owner(cluster, "taken") is None


def test_what_is_taken_by_force_in_bulk_is_recorded(cluster: Driver) -> None:
    """In the same transaction, for which a place is kept."""
    plan = plan_claim(cluster, items("taken", "free", force=True), admin=True, max_transaction=2)
    assert [len(b) for b in plan.batches] == [1, 1]
    assert carry_out(cluster, plan).success
    assert cluster.view.transfers() == ()
    plan = cluster.run(
        bulk.plan_bulk_claim(cluster.view, "svc", "b", items("taken", "new", force=True), admin=True, now=cluster.now)
    )
    (batch,) = plan.batches
    outcome = cluster.run(bulk.claim_batch(cluster.view, plan, batch, audit=AUDIT, now=cluster.now, at=AT))
    assert outcome.done == ("taken", "new")
    (record,) = cluster.view.transfers()
    assert (record.kind, record.resource_ids) == ("forced", ("taken",))
    assert (record.from_instance_id, record.to_instance_id) == ("a", "b")
    assert set(outcome.undo) == {"taken", "new"}


def test_a_plan_says_why_what_it_claims_is_owned(cluster: Driver) -> None:
    """For an instance that others serve, it is assigned."""
    carry_out(cluster, plan_claim(cluster, items("x"), reason="assigned"))
    record = cluster.view.held("x")
    assert record is not None
    assert record.reason == "assigned"


def test_undoing_a_batch_takes_away_what_a_lost_answer_had_claimed(cluster: Driver) -> None:
    """But nothing that was held when the bulk was planned."""
    cluster.run(claim(cluster, "a", "x"))
    plan = plan_claim(cluster, items("x", "y"))
    assert plan.held == {"x"}
    (batch,) = plan.batches
    cluster.run(bulk.claim_batch(cluster.view, plan, batch, now=cluster.now, at=AT))
    outcome = cluster.run(bulk.claim_batch(cluster.view, plan, batch, now=cluster.now, at=AT))
    cluster.run(bulk.undo(cluster.view, outcome))
    assert owner(cluster, "x") == "a"
    assert owner(cluster, "y") is None


def test_nothing_but_failures_is_a_report_too(cluster: Driver) -> None:
    """Without any batch."""
    plan = plan_claim(cluster, items("bad id"), continue_on_error=True)
    assert plan.batches == ()
    assert [f.resource_id for f in carry_out(cluster, plan).failed] == ["bad id"]


def test_an_instance_that_dies_on_the_way_fails_the_rest(cluster: Driver) -> None:
    """Each id with the reason."""
    plan = plan_claim(cluster, items("x", "y"), continue_on_error=True)
    cluster.expire("a")
    reply = carry_out(cluster, plan)
    assert {f.error_code for f in reply.failed} == {"INSTANCE_NOT_FOUND"}


def test_a_bulk_release_is_one_transaction(cluster: Driver) -> None:
    """One foreign id stops it, and nothing is released."""
    cluster.run(claim(cluster, "a", "x", "y"))
    plan = cluster.run(bulk.plan_bulk_release(cluster.view, "svc", "a", ["x", "taken", "y"]))
    reply = carry_out(cluster, plan, release=True)
    assert [(f.resource_id, f.error_code, f.current_owner) for f in reply.failed] == [("taken", "NOT_OWNER", "b")]
    assert owner(cluster, "x") == "a"
    plan = cluster.run(bulk.plan_bulk_release(cluster.view, "svc", "a", ["x", "y"], lease="a-lease"))
    assert carry_out(cluster, plan, release=True).done == ("x", "y")


def test_released_batches_are_held_again_when_a_later_one_fails(cluster: Driver) -> None:
    """With their metadata, under a new epoch."""
    said = ResourceMetadata(resource_type="kept")
    cluster.run(claim(cluster, "a", "x", "y", metadata=said))
    before = cluster.view.held("x")
    plan = cluster.run(
        bulk.plan_bulk_release(cluster.view, "svc", "a", ["x", "y", "nobody's"], batch_size=2, max_transaction=2)
    )
    reply = carry_out(cluster, plan, release=True)
    assert reply.rollback_performed
    after = cluster.view.held("x")
    assert before is not None
    assert after is not None
    assert owner(cluster, "x") == "a"
    assert after.metadata.resource_type == "kept"
    assert after.epoch > before.epoch


def test_a_bulk_release_that_continues_lists_what_it_cannot(cluster: Driver) -> None:
    """Also ids that are no ids."""
    cluster.run(claim(cluster, "a", "x", "y"))
    plan = cluster.run(
        bulk.plan_bulk_release(
            cluster.view, "svc", "a", ["x", "bad id", "taken", "y"], batch_size=2, continue_on_error=True
        )
    )
    reply = carry_out(cluster, plan, release=True)
    assert reply.done == ("x", "y")
    assert {f.error_code for f in reply.failed} == {"VALIDATION_ERROR", "NOT_OWNER"}


def test_a_bulk_release_leaves_what_is_busy(cluster: Driver) -> None:
    """It is told as the instance's own; what is another's all the same is told as that."""
    cluster.run(claim(cluster, "a", "x", "y"))
    plan = cluster.run(bulk.plan_bulk_release(cluster.view, "svc", "a", ["x", "y", "taken"], continue_on_error=True))
    outcome = cluster.run(bulk.release_batch(cluster.view, plan, plan.batches[0], busy=("x", "taken")))
    told = [(f.resource_id, f.error_code, f.current_owner) for f in outcome.failed]
    assert told == [("x", "RESOURCE_CONFLICT", "a"), ("taken", "NOT_OWNER", "b")]
    assert (outcome.done, owner(cluster, "x"), owner(cluster, "y")) == (("y",), "a", None)


def test_an_admin_releases_in_bulk_what_anybody_holds(cluster: Driver) -> None:
    """Without naming a live instance."""
    plan = cluster.run(bulk.plan_bulk_release(cluster.view, "svc", "gone", ["taken"], admin=True))
    assert carry_out(cluster, plan, release=True).done == ("taken",)
    with pytest.raises(InstanceNotFound):
        bulk.plan_bulk_release(cluster.view, "svc", "gone", ["taken"])
    with pytest.raises(InstanceNotFound):
        bulk.release_batch(cluster.view, attrs.evolve(plan, admin=False), plan.batches[0])


def test_what_was_held_before_is_told_and_stays(cluster: Driver) -> None:
    """Whatever becomes of the rest: a plan that was given up half-way may be asked for again."""
    cluster.run(claim(cluster, "a", "y", "x"))
    wanted = items("new", "x", "y", "taken")
    failed = carry_out(cluster, plan_claim(cluster, wanted, batch_size=2, max_transaction=2))
    assert (failed.done, failed.rollback_performed, failed.held_before) == ((), True, ("x", "y"))
    assert [owner(cluster, name) for name in ("new", "x", "y")] == [None, "a", "a"]
    done = carry_out(cluster, plan_claim(cluster, wanted[:3]))
    assert (done.done, done.held_before) == (("new", "x", "y"), ("x", "y"))

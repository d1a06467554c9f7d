"""Bulk claim and release: many resources in as few transactions as possible, and a report instead of an error.

A shell decides a plan, then each batch of it (on the view as it is by then), then the report::

    plan = decide(plan_bulk_claim)
    for batch in plan.batches:
        outcome = decide(claim_batch, batch)             # an error: outcome = failed_batch(batch, error)
        if plan.stops_at(outcome): undo the outcomes so far with `undo`, break
    bulk_reply(plan, outcomes, rolled_back=...)

Without `continue_on_error` all that fits one transaction is one batch. Beyond that, batches follow each other, and a batch
that fails has the earlier ones undone. With it, each batch commits what it can and lists what it cannot.

Plan, batches, undoing and report are in one file, just past 400 lines, because they only make sense together.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime

import attrs

from aegis_core.engine.decision import Audit, Decision, NotYetKnown, Write, answered
from aegis_core.engine.limits import MAX_RESOURCES, NOTHING_RESERVED, Reserved, check_limit
from aegis_core.engine.requests import Problems, authentic, check_able, failure_of
from aegis_core.engine.resources import acquire, audit_write, owned_by
from aegis_core.engine.view import View
from aegis_core.errors import (
    AegisError,
    Forbidden,
    InvalidRequest,
    ResourceConflict,
    ResourceLimitExceeded,
    VersionConflict,
)
from aegis_core.models import ABSENT, BatchResult, BulkReply, Failure, Ownership, ResourceMetadata, Value
from aegis_core.names import TargetKey, resource_id_problem

__all__ = [
    "BatchOutcome",
    "BulkItem",
    "BulkPlan",
    "bulk_reply",
    "claim_batch",
    "failed_batch",
    "plan_bulk_claim",
    "plan_bulk_release",
    "release_batch",
    "undo",
]


@attrs.frozen(kw_only=True, eq=False, repr=False)
class BulkItem(Value):
    """One resource of a bulk operation; *metadata* and *force* as of `aegis_core.engine.resources.claim`."""

    resource_id: str
    metadata: ResourceMetadata | None = None
    force: bool = False


@attrs.frozen(kw_only=True, eq=False, repr=False)
class BulkPlan(Value):
    """How a bulk operation is carried out.

    Args:
        service_name: Service of the instance.
        instance_id: For whom.
        lease: Tag of the lease that was shown, or None.
        batches: What to decide, each as one transaction.
        continue_on_error: Go on after a failure.
        failed: What fails in any case.
        total: How many resources were asked for.
        limit: Resources that the instance may hold.
        admin: The caller may use force, and release what is another's.
        reason: Stored with each record.
        held: What of it the instance held when this was planned, so that undoing does not take it away.
    """

    service_name: str
    instance_id: str
    lease: str | None
    batches: tuple[tuple[BulkItem, ...], ...]
    continue_on_error: bool
    failed: tuple[Failure, ...] = ()
    total: int
    limit: int = MAX_RESOURCES
    admin: bool = False
    reason: str = "claimed"
    held: frozenset[str] = frozenset()

    def stops_at(self, outcome: BatchOutcome) -> bool:
        """Whether the operation ends, and is undone, because of *outcome*."""
        return bool(outcome.failed) and not self.continue_on_error


@attrs.frozen(kw_only=True, eq=False, repr=False)
class BatchOutcome(Value):
    """What became of one batch.

    Args:
        done: Ids that are now claimed (or released).
        failed: The others, and why.
        epochs: Of the claimed ones.
        undo: The write that would undo each of the done; see `undo`.
    """

    done: tuple[str, ...] = ()
    failed: tuple[Failure, ...] = ()
    epochs: Mapping[str, int] = attrs.field(factory=dict)
    undo: Mapping[str, Write] = attrs.field(factory=dict)


def plan_bulk_claim(
    view: View,
    service_name: str,
    instance_id: str,
    items: Iterable[BulkItem],
    *,
    lease: str | None = None,
    batch_size: int = 100,
    continue_on_error: bool = False,
    admin: bool = False,
    limit: int = MAX_RESOURCES,
    reserved: Reserved = NOTHING_RESERVED,
    reason: str = "claimed",
    max_transaction: int = 1000,
    now: float,
) -> Decision[BulkPlan]:
    """Plan the claim of many resources for an instance.

    Args:
        view: The view.
        service_name: Service of the claimant.
        instance_id: The claimant.
        items: One or more; of repetitions the first counts.
        lease: Tag of the lease that was shown; None believes the name alone.
        batch_size: 1 to 1000; batches of a bulk that continues on errors, or that does not fit one transaction.
        continue_on_error: Claim what can be claimed, list the rest.
        admin: The caller may use force.
        limit: Resources that one instance may hold.
        reserved: Room at it that other operations of this node have been given.
        reason: Stored with each record.
        max_transaction: Most operations of one commit.
        now: The node's clock, monotonic seconds.

    Raises:
        InvalidRequest: Nothing to do, a bad `batch_size`, or (unless it continues on errors) bad ids, with their paths.
        InstanceNotFound: No such instance lives.
        NotOwner: It lives by another lease.
        Forbidden: It is UNHEALTHY or draining, or (unless it continues on errors) force without *admin*.
        ResourceLimitExceeded: Too many for this instance, unless it continues on errors.
        NotYetKnown: The view may not judge yet.
    """
    asked = tuple(items)
    good, failed = _checked(
        asked, "$.resources", ".resource_id", batch_size=batch_size, continue_on_error=continue_on_error
    )
    claimant = authentic(view, service_name, instance_id, lease, "bulk_register")
    check_able(view, claimant, "bulk_register", now=now)
    if not admin:
        forced = [i for i in good if i.force]
        refusal = Forbidden(operation="claim", target=instance_id, reason="force needs admin")
        if forced and not continue_on_error:
            raise refusal
        failed += [failure_of(i.resource_id, refusal) for i in forced]
        good = [i for i in good if not i.force]
    records = view.held_by(claimant.lease)
    held = frozenset(i.resource_id for i in good if i.resource_id in records)
    if not continue_on_error:
        check_limit(view, claimant, len(good) - len(held), limit=limit, reserved=reserved)
    # What is taken by force has an audit record in the same transaction.
    room = max_transaction - any(i.force for i in good)
    return answered(
        BulkPlan(
            service_name=service_name,
            instance_id=instance_id,
            lease=lease,
            batches=_batches(good, batch_size=batch_size, continue_on_error=continue_on_error, max_transaction=room),
            continue_on_error=continue_on_error,
            failed=tuple(failed),
            total=len({i.resource_id for i in asked}),
            limit=limit,
            admin=admin,
            reason=reason,
            held=held,
        )
    )


def plan_bulk_release(
    view: View,
    service_name: str,
    instance_id: str,
    resource_ids: Iterable[str],
    *,
    lease: str | None = None,
    batch_size: int = 100,
    continue_on_error: bool = False,
    admin: bool = False,
    max_transaction: int = 1000,
) -> Decision[BulkPlan]:
    """Plan the release of many resources of an instance; arguments and errors as of `plan_bulk_claim`."""
    asked = tuple(BulkItem(resource_id=i) for i in resource_ids)
    good, failed = _checked(asked, "$.resource_ids", "", batch_size=batch_size, continue_on_error=continue_on_error)
    if not admin:
        authentic(view, service_name, instance_id, lease, "bulk_release")
    return answered(
        BulkPlan(
            service_name=service_name,
            instance_id=instance_id,
            lease=lease,
            batches=_batches(
                good, batch_size=batch_size, continue_on_error=continue_on_error, max_transaction=max_transaction
            ),
            continue_on_error=continue_on_error,
            failed=tuple(failed),
            total=len({i.resource_id for i in asked}),
            admin=admin,
        )
    )


def _checked(
    asked: Sequence[BulkItem], path: str, field: str, *, batch_size: int, continue_on_error: bool
) -> tuple[list[BulkItem], list[Failure]]:
    problems = Problems()
    if not asked:
        problems.note(path, "at least one resource is needed")
    problems.number("$.batch_size", batch_size, low=1, high=1000, whole=True)
    good: dict[str, BulkItem] = {}
    failed: dict[str, Failure] = {}
    for at, item in enumerate(asked):
        problem = resource_id_problem(item.resource_id)
        if problem is None:
            good.setdefault(item.resource_id, item)
        elif continue_on_error:
            error = InvalidRequest.at(f"{path}[{at}]{field}", problem)
            failed.setdefault(str(item.resource_id), failure_of(str(item.resource_id), error))
        else:
            problems.note(f"{path}[{at}]{field}", problem)
    problems.check()
    return list(good.values()), list(failed.values())


def _batches(
    items: Sequence[BulkItem], *, batch_size: int, continue_on_error: bool, max_transaction: int
) -> tuple[tuple[BulkItem, ...], ...]:
    if not items:
        return ()
    size = min(batch_size, max_transaction)
    if not continue_on_error and len(items) <= max_transaction:
        size = len(items)
    return tuple(tuple(items[at : at + size]) for at in range(0, len(items), size))


def claim_batch(
    view: View,
    plan: BulkPlan,
    batch: Sequence[BulkItem],
    *,
    reserved: Reserved = NOTHING_RESERVED,
    audit: Audit | None = None,
    now: float,
    at: datetime,
) -> Decision[BatchOutcome]:
    """Claim one batch of *plan* in one transaction.

    Args:
        view: The view.
        plan: The plan.
        batch: One of its batches.
        reserved: Room at the claimant that other operations of this node have been given.
        audit: Written when something is taken by force.
        now: The node's clock, monotonic seconds.
        at: Aware UTC.

    Raises:
        InstanceNotFound, NotOwner, Forbidden: The claimant may not claim any more; see `failed_batch`.
        NotYetKnown: The view may not judge yet.
    """
    claimant = authentic(view, plan.service_name, plan.instance_id, plan.lease, "bulk_register")
    check_able(view, claimant, "bulk_register", now=now)
    room = plan.limit - view.count(claimant.lease) - reserved.promised
    epochs: dict[str, int] = {}
    written: list[tuple[str, Write, Ownership | None]] = []
    robbed: dict[str, str] = {}
    failed: list[Failure] = []
    fresh = 0
    for item in batch:
        resource_id = item.resource_id
        try:
            found = acquire(
                view, claimant, resource_id, metadata=item.metadata, force=item.force, reason=plan.reason, at=at
            )
        except VersionConflict as exc:
            failed.append(failure_of(resource_id, exc))
            continue
        if found.write is None:
            taken = ResourceConflict(resource_id=resource_id, owner=found.owner)
            failed.append(failure_of(resource_id, taken))
            continue
        if not found.epoch:
            fresh += 1
            if fresh > room:
                asked = len(batch)
                full = ResourceLimitExceeded(
                    limit=plan.limit, asked=asked, held=plan.limit - room, instance_id=claimant.instance_id
                )
                failed.append(failure_of(resource_id, full))
                continue
        epochs[resource_id] = found.epoch
        before = view.held(resource_id) if found.epoch and resource_id in plan.held else None
        written.append((resource_id, found.write, before))
        if found.taken_from:
            robbed[resource_id] = found.taken_from
    if reserved.under_way and fresh + reserved.under_way > room:
        raise NotYetKnown(view.revision)
    if failed and not plan.continue_on_error:
        return answered(BatchOutcome(failed=tuple(failed)))

    def answer(revisions: Sequence[int]) -> BatchOutcome:
        granted = dict(epochs)
        back: dict[str, Write] = {}
        for (resource_id, write, before), revision in zip(written, revisions, strict=False):
            granted[resource_id] = granted[resource_id] or revision
            back[resource_id] = Write(write.key, before, revision, target=resource_id)
        return BatchOutcome(done=tuple(granted), failed=tuple(failed), epochs=granted, undo=back)

    writes = [write for _, write, _ in written]
    if robbed and audit is not None:
        old = ", ".join(dict.fromkeys(robbed.values()))
        writes.append(audit_write(audit, kind="forced", ids=tuple(robbed), old=old, new=plan.instance_id, at=at))
    return Decision(tuple(writes), answer, refuses=len(written) < len(batch))


def release_batch(
    view: View, plan: BulkPlan, batch: Sequence[BulkItem], *, busy: Collection[str] = ()
) -> Decision[BatchOutcome]:
    """Release one batch of *plan* in one transaction.

    Args:
        view: The view.
        plan: The plan.
        batch: One of its batches.
        busy: Ids that fail, if they are the instance's, because other tasks of it are claiming them.

    Raises:
        InstanceNotFound, NotOwner: The instance may not release any more; see `failed_batch`.
        NotYetKnown: The view may not judge yet.
    """
    if not plan.admin:
        authentic(view, plan.service_name, plan.instance_id, plan.lease, "bulk_release")
    records: list[Ownership] = []
    failed: list[Failure] = []
    for item in batch:
        found = owned_by(view, plan.service_name, plan.instance_id, item.resource_id, "bulk_release", admin=plan.admin)
        if isinstance(found, Ownership) and item.resource_id in busy:
            why = "another task claims it at the moment"
            found = ResourceConflict(resource_id=item.resource_id, owner=plan.instance_id, reason=why)
        if isinstance(found, Ownership):
            records.append(found)
        else:
            failed.append(failure_of(item.resource_id, found))
    if failed and not plan.continue_on_error:
        return answered(BatchOutcome(failed=tuple(failed)))
    writes = tuple([Write.no_owner(r.target, r.revision) for r in records])
    outcome = BatchOutcome(
        done=tuple([r.target for r in records]),
        failed=tuple(failed),
        undo={
            r.target: Write(write.key, r.at(ABSENT, ABSENT), ABSENT) for r, write in zip(records, writes, strict=True)
        },
    )
    return Decision(writes, lambda _: outcome, refuses=bool(failed))


def undo(view: View, outcome: BatchOutcome) -> Decision[tuple[str, ...]]:
    """Undo a batch: what it claimed is free again, what it released is held again (metadata kept, under a new epoch).

    What others have changed since stays as they left it. Answers the ids that were put back.
    """
    back = {i: w for i, w in outcome.undo.items() if view.expectation(TargetKey(i)) == w.expect}
    ids = tuple(back)
    return Decision(tuple(back.values()), lambda _: ids)


def failed_batch(batch: Sequence[BulkItem], error: AegisError) -> BatchOutcome:
    """The outcome of a batch of which nothing was done because of *error*."""
    return BatchOutcome(failed=tuple(failure_of(item.resource_id, error) for item in batch))


def bulk_reply(
    plan: BulkPlan, outcomes: Sequence[BatchOutcome], durations: Sequence[float], *, rolled_back: bool = False
) -> BulkReply:
    """The report of a bulk operation.

    Args:
        plan: The plan.
        outcomes: Of its batches, in their order, as far as they were decided.
        durations: Seconds that each took.
        rolled_back: The earlier batches were undone.
    """
    epochs: dict[str, int] = {}
    done: list[str] = []
    failed = list(plan.failed)
    results: list[BatchResult] = []
    for number, (outcome, seconds) in enumerate(zip(outcomes, durations, strict=True), 1):
        done += outcome.done
        epochs.update(outcome.epochs)
        failed += outcome.failed
        results.append(
            BatchResult(
                batch_number=number,
                success_count=len(outcome.done),
                failure_count=len(outcome.failed),
                duration_ms=seconds * 1000.0,
            )
        )
    return BulkReply(
        total_requested=plan.total,
        done=() if rolled_back else tuple(done),
        failed=tuple(failed),
        batch_results=tuple(results),
        rollback_performed=rolled_back,
        epochs={} if rolled_back else epochs,
        held_before=tuple([i.resource_id for batch in plan.batches for i in batch if i.resource_id in plan.held]),
    )

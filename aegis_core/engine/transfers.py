"""Transfer of ownership: check first, then one commit for everything that moves and its audit record.

The owner's node carries it out: it decides `check_transfer`, ends what runs under its claims, and decides `transfer`. So
nobody overlaps. A forced transfer (admin) is committed without the owner's consent; only the epoch protects then.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

import attrs

from aegis_core.engine.decision import Audit, Decision, Write, answered
from aegis_core.engine.limits import MAX_RESOURCES, NOTHING_RESERVED, Reserved, check_limit
from aegis_core.engine.requests import Problems, authentic, check_able, failure_of, target_problem, unknown_instance
from aegis_core.engine.resources import audit_write
from aegis_core.engine.view import View
from aegis_core.errors import (
    AegisError,
    Forbidden,
    InvalidRequest,
    NotOwner,
    ResourceConflict,
    ResourceNotFound,
)
from aegis_core.models import Failure, Ownership, ServiceInstance, TransferReply, Value, ids_in_order
from aegis_core.names import describe_target, is_role

__all__ = ["Transferable", "check_transfer", "transfer"]


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Transferable(Value):
    """Answer of `check_transfer`: what can move, and why the rest cannot."""

    targets: tuple[str, ...] = ()
    failed: tuple[Failure, ...] = ()


@attrs.frozen(kw_only=True, eq=False, repr=False)
class _Plan(Value):
    target: ServiceInstance
    records: list[Ownership]
    failed: tuple[Failure, ...]


def check_transfer(
    view: View,
    targets: Iterable[str],
    *,
    service_name: str,
    source: str,
    to: str,
    lease: str | None = None,
    force: bool = False,
    admin: bool = False,
    all_or_nothing: bool = True,
    limit: int = MAX_RESOURCES,
    reserved: Reserved = NOTHING_RESERVED,
    max_transaction: int = 1000,
    now: float | None = None,
) -> Decision[Transferable]:
    """Whether *targets* can move from instance *source* to instance *to*; decided before anything is ended.

    Args:
        view: The view.
        targets: Resource ids or role groups of the service; repetitions collapse.
        service_name: The service of both.
        source: Id of the instance that owns them. With *force* anybody may.
        to: Id of the instance that shall own them.
        lease: Tag of the lease that *source* showed; None believes the name alone.
        force: Without the owner's consent. Needs *admin*.
        admin: The caller may do that.
        all_or_nothing: Raise for the first that cannot move; else list them.
        limit: Resources that one instance may hold.
        reserved: Room at the target that other operations of this node have been given.
        max_transaction: Most operations of one commit.
        now: The node's clock; with it, a target that has fallen silent is refused.

    Raises:
        InvalidRequest: Bad names, each with its path; source and target are the same; too many for one transaction.
        InstanceNotFound: One of the two does not live.
        Forbidden: The target is UNHEALTHY or draining, or *force* without *admin*.
        NotOwner: *source* lives by another lease; or (all or nothing) one belongs to somebody else, who is named.
        ResourceNotFound: All or nothing, and nobody owns one.
        ResourceConflict: All or nothing, and the target can take one over neither by ``on_acquire`` nor from its line.
        ResourceLimitExceeded: The target would hold too many.
        NotYetKnown: The view may not judge yet.
    """
    plan = _plan(
        view, targets, service_name, source, to, lease=lease, force=force, admin=admin,
        all_or_nothing=all_or_nothing, limit=limit, reserved=reserved, max_transaction=max_transaction, now=now,
    )  # fmt: skip
    return answered(Transferable(targets=tuple(r.target for r in plan.records), failed=plan.failed))


def transfer(
    view: View,
    targets: Iterable[str],
    *,
    service_name: str,
    source: str,
    to: str,
    lease: str | None = None,
    force: bool = False,
    admin: bool = False,
    all_or_nothing: bool = False,
    limit: int = MAX_RESOURCES,
    reserved: Reserved = NOTHING_RESERVED,
    max_transaction: int = 1000,
    audit: Audit,
    at: datetime,
) -> Decision[TransferReply]:
    """Move *targets* from *source* to *to*: all that can move, and the audit record, in one transaction.

    Metadata and roles move along; each gets a new epoch. What cannot move (any more) is listed in `failed`.

    Args:
        view: The view.
        targets: As of `check_transfer`, and so are the others.
        service_name: The service of both.
        source: Id of the owner.
        to: Id of the instance that shall own them.
        lease: Tag of the lease that *source* showed.
        force: Without the owner's consent.
        admin: The caller may do that.
        all_or_nothing: Raise for the first that cannot move.
        limit: Resources that one instance may hold.
        reserved: Room at the target that other operations of this node have been given.
        max_transaction: Most operations of one commit.
        audit: How it is recorded.
        at: Aware UTC.

    Raises:
        AegisError: As `check_transfer` does.
        NotYetKnown: The view may not judge yet.
    """
    plan = _plan(
        view, targets, service_name, source, to, lease=lease, force=force, admin=admin,
        all_or_nothing=all_or_nothing, limit=limit, reserved=reserved, max_transaction=max_transaction, now=None,
    )  # fmt: skip
    new = plan.target
    there = {r.target: r.epoch for r in plan.records if r.lease == new.lease}
    moving = [r for r in plan.records if r.target not in there]
    writes = [_move(record, new, force=force, at=at) for record in moving]
    moved = tuple(r.target for r in moving)
    if writes:
        old = ", ".join(dict.fromkeys(r.instance_id for r in moving))
        kind = "forced" if force else "transfer"
        writes.append(audit_write(audit, kind=kind, ids=moved, old=old, new=to, at=at))

    def answer(revisions: Sequence[int]) -> TransferReply:
        epochs = {**there, **dict(zip(moved, revisions, strict=False))}
        return TransferReply(
            transfer_id=audit.transfer_id,
            transferred=tuple(r.target for r in plan.records),
            failed=plan.failed,
            epochs=epochs,
            forced=force,
        )

    return Decision(tuple(writes), answer, refuses=bool(plan.failed or there))


def _move(record: Ownership, new: ServiceInstance, *, force: bool, at: datetime) -> Write:
    moved = Ownership(
        target=record.target,
        service_name=new.service_name,
        instance_id=new.instance_id,
        lease=new.lease,
        metadata=record.metadata,
        registered_at=at,
        reason="forced" if force else "transferred",
        previous=record.instance_id,
        as_role=record.as_role,
    )
    return Write.owner(moved, record.revision)


def _plan(
    view: View,
    targets: Iterable[str],
    service_name: str,
    source: str,
    to: str,
    *,
    lease: str | None,
    force: bool,
    admin: bool,
    all_or_nothing: bool,
    limit: int,
    reserved: Reserved,
    max_transaction: int,
    now: float | None,
) -> _Plan:
    wanted = _checked(targets, service_name, max_transaction)
    if force and not admin:
        raise Forbidden(operation="transfer", target=", ".join(wanted[:3]), reason="force needs admin")
    if not force:
        authentic(view, service_name, source, lease, "transfer")
        if source == to:
            raise InvalidRequest.at("$.to_instance_id", "it is the instance that has them already")
    new = view.instance(service_name, to)
    if new is None:
        raise unknown_instance(view, service_name, to)
    check_able(view, new, "transfer", now=now)
    records: list[Ownership] = []
    failed: list[Failure] = []
    for target in wanted:
        found = _movable(view, target, new, service_name, None if force else source)
        if isinstance(found, Ownership):
            records.append(found)
        elif all_or_nothing:
            raise found
        else:
            failed.append(failure_of(target, found))
    asked = sum(1 for r in records if r.lease != new.lease and not is_role(r.target))
    check_limit(view, new, asked, limit=limit, reserved=reserved)
    return _Plan(target=new, records=records, failed=tuple(failed))


def _checked(targets: Iterable[str], service_name: str, max_transaction: int) -> tuple[str, ...]:
    wanted = ids_in_order(tuple(targets))
    problems = Problems()
    if not wanted:
        problems.note("$.resource_ids", "at least one resource id is needed")
    if len(wanted) >= max_transaction:
        problems.note("$.resource_ids", f"at most {max_transaction - 1} at once")
    for at, target in enumerate(wanted):
        problems.note(f"$.resource_ids[{at}]", target_problem(target, service_name))
    problems.check()
    return wanted


def _movable(
    view: View, target: str, new: ServiceInstance, service_name: str, source: str | None
) -> Ownership | AegisError:
    """The record of *target* if it can move to *new* (from *source*, unless that is None), else what to raise."""
    record = view.held(target)
    holder = None if record is None else view.holder(record)
    shown = describe_target(target)
    if record is None or holder is None:
        return ResourceNotFound(resource_id=shown, service_name=service_name)
    if source is not None and (holder.instance_id, holder.service_name) != (source, service_name):
        return NotOwner(operation="transfer", target=shown, owner=holder.instance_id)
    place = view.place(target, new.instance_id)
    waits = place is not None and place.lease == new.lease
    # An instance without endpoints of ours is an old client: it knows no scopes, and learns of nothing.
    adopts = not new.endpoints or (new.adopts and not is_role(target))
    if waits or adopts:
        return record
    return ResourceConflict(
        resource_id=shown,
        owner=holder.instance_id,
        conflicts={shown: holder.instance_id},
        reason=f"instance {new.instance_id!r} has no on_acquire and does not wait for it",
    )

"""Ownership of resources: claim, release, and the end of a resource's own time to live.

A resource is held while its record names a lease that lives. One compare-and-set on one key takes it; a record that
names a dead lease is free, and is overwritten at its revision.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import attrs

from aegis_core.engine.decision import Audit, Decision, Write, answered
from aegis_core.engine.limits import MAX_RESOURCES, NOTHING_RESERVED, Reserved, check_limit
from aegis_core.engine.requests import authentic, check_able, checked_ids
from aegis_core.engine.view import View
from aegis_core.errors import (
    AegisError,
    Forbidden,
    InvalidRequest,
    NotOwner,
    ResourceConflict,
    ResourceNotFound,
    VersionConflict,
)
from aegis_core.models import (
    ABSENT,
    DEFAULT_METADATA,
    ClaimReply,
    Ownership,
    ReleaseReply,
    ResourceMetadata,
    ServiceInstance,
    TransferRecord,
    Value,
)
from aegis_core.names import transfer_key

__all__ = [
    "Acquisition",
    "acquire",
    "audit_write",
    "claim",
    "expire",
    "give_up",
    "owned_by",
    "release",
    "stamped",
]

Metadata = ResourceMetadata | Mapping[str, ResourceMetadata] | None
"""Metadata of a claim: one for all ids, or one for each; None keeps what there is, or means the default."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Acquisition(Value):
    """What claiming one resource comes to.

    Args:
        write: What to write; None when somebody else holds it.
        epoch: Of the ownership that stands already, 0 for a new one.
        owner: Who holds it instead; "" when nobody else does.
        taken_from: The live owner from whom it is taken by force, or "".
    """

    write: Write | None = None
    epoch: int = ABSENT
    owner: str = ""
    taken_from: str = ""


def acquire(
    view: View,
    claimant: ServiceInstance,
    resource_id: str,
    *,
    metadata: ResourceMetadata | None,
    force: bool,
    reason: str,
    at: datetime,
) -> Acquisition:
    """What it takes for *claimant* to own *resource_id*.

    Free or dead: a new record. Held by its own lease: the record once more, under the same epoch, with *metadata* if
    they differ. Another's: nothing, unless by *force*.

    Raises:
        VersionConflict: *metadata* was made from another version than the one that stands.
        NotYetKnown: The view may not judge yet.
    """
    # What is held already is written again, and not merely confirmed: a release or transfer of one's own that was
    # given up while its fate was open may still arrive, and must find another revision then.
    record = view.held(resource_id)
    if record is None:
        expect, previous = view.vacancy(resource_id), ""
        holder = None
    else:
        expect, previous = record.revision, record.instance_id
        holder = view.holder(record)
        if holder is not None and holder.lease == claimant.lease:
            return _again(record, metadata, at)
        if holder is not None and not force:
            return Acquisition(owner=holder.instance_id)
    fresh = Ownership(
        target=resource_id,
        service_name=claimant.service_name,
        instance_id=claimant.instance_id,
        lease=claimant.lease,
        metadata=stamped(metadata, at),
        registered_at=at,
        reason=reason if holder is None else "forced",
        previous=previous,
    )
    taken_from = "" if holder is None else holder.instance_id
    return Acquisition(write=Write.owner(fresh, expect), taken_from=taken_from)


def stamped(metadata: ResourceMetadata | None, at: datetime) -> ResourceMetadata:
    """Metadata of a new ownership: as given, with the time where it has none; the default where none are given."""
    if metadata is None or metadata.last_modified is not None:
        return metadata or DEFAULT_METADATA
    return attrs.evolve(metadata, last_modified=at)


def _says_the_same(asked: ResourceMetadata, stored: ResourceMetadata) -> bool:
    return attrs.evolve(asked, version=stored.version, last_modified=stored.last_modified) == stored


def _again(record: Ownership, metadata: ResourceMetadata | None, at: datetime) -> Acquisition:
    stored = record.metadata
    if metadata is None or _says_the_same(metadata, stored):
        said = stored
    elif metadata.version != stored.version:
        raise VersionConflict(resource_id=record.target, expected=metadata.version, actual=stored.version)
    else:
        said = attrs.evolve(metadata, version=stored.version + 1, last_modified=metadata.last_modified or at)
    again = attrs.evolve(record, metadata=said, revision=ABSENT)
    return Acquisition(write=Write.owner(again, record.revision), epoch=record.epoch)


def claim(
    view: View,
    service_name: str,
    instance_id: str,
    resource_ids: Iterable[str],
    *,
    lease: str | None = None,
    metadata: Metadata = None,
    force: bool = False,
    admin: bool = False,
    all_or_nothing: bool = True,
    reason: str = "claimed",
    limit: int = MAX_RESOURCES,
    reserved: Reserved = NOTHING_RESERVED,
    max_transaction: int = 1000,
    audit: Audit | None = None,
    now: float,
    at: datetime,
) -> Decision[ClaimReply]:
    """Make an instance the owner of resources, in one transaction.

    Claiming again what one's own lease holds is idempotent: the epoch stays. With other metadata it changes them, if
    their `version` is the one that stands (it grows by one).

    Args:
        view: The view.
        service_name: Service of the claimant.
        instance_id: The claimant.
        resource_ids: One or more; repetitions collapse.
        lease: Tag of the lease that the claimant showed; None believes the name alone.
        metadata: See `Metadata`.
        force: Take what others hold, without their consent. Needs *admin*.
        admin: The caller may do that.
        all_or_nothing: Refuse everything when something is held by others; else claim what is free, list the rest.
        reason: Stored with the record.
        limit: Resources that one instance may hold; judged for the whole request.
        reserved: Room at the claimant that other operations of this node have been given.
        max_transaction: Most operations of one commit.
        audit: Written when something was taken by force.
        now: The node's clock, monotonic seconds.
        at: Aware UTC.

    Raises:
        InvalidRequest: Bad ids, each with its path, or too many for one transaction.
        Forbidden: The claimant is UNHEALTHY or draining, or *force* without *admin*.
        InstanceNotFound: No such instance lives.
        NotOwner: It lives by another lease.
        ResourceConflict: All or nothing, and others hold some; names them all.
        VersionConflict: Metadata of what is held already were changed by somebody else.
        ResourceLimitExceeded: Too many for this instance.
        NotYetKnown: The view may not judge yet.
    """
    ids = checked_ids(resource_ids)
    if len(ids) + (audit is not None) > max_transaction:
        raise InvalidRequest.at("$.resource_ids", f"at most {max_transaction} at once; use the bulk operation for more")
    if force and not admin:
        raise Forbidden(operation="claim", target=", ".join(ids[:3]), reason="force needs admin")
    claimant = authentic(view, service_name, instance_id, lease, "claim")
    check_able(view, claimant, "claim", now=now)
    found = {
        resource_id: acquire(
            view,
            claimant,
            resource_id,
            metadata=_metadata_of(metadata, resource_id),
            force=force,
            reason=reason,
            at=at,
        )
        for resource_id in ids
    }
    conflicts = {i: a.owner for i, a in found.items() if a.owner}
    if conflicts and all_or_nothing:
        first, owner = next(iter(conflicts.items()))
        raise ResourceConflict(resource_id=first, owner=owner, conflicts=conflicts)
    asked = sum(1 for a in found.values() if not a.epoch and not a.owner)
    check_limit(view, claimant, asked, limit=limit, reserved=reserved)
    written = [i for i, a in found.items() if a.write is not None]
    writes = [a.write for a in found.values() if a.write is not None]
    robbed = {i: a.taken_from for i, a in found.items() if a.taken_from}
    if robbed and audit is not None:
        writes.append(
            audit_write(
                audit,
                kind="forced",
                ids=tuple(robbed),
                old=", ".join(dict.fromkeys(robbed.values())),
                new=instance_id,
                at=at,
            )
        )

    def answer(revisions: Sequence[int]) -> ClaimReply:
        fresh = dict(zip(written, revisions, strict=False))
        epochs = {i: a.epoch or fresh[i] for i, a in found.items() if not a.owner}
        return ClaimReply(registered=tuple(epochs), conflicts=conflicts, epochs=epochs)

    return Decision(tuple(writes), answer, refuses=len(written) < len(ids))


def _metadata_of(metadata: Metadata, resource_id: str) -> ResourceMetadata | None:
    if metadata is None or isinstance(metadata, ResourceMetadata):
        return metadata
    return metadata.get(resource_id)


def audit_write(audit: Audit, *, kind: str, ids: tuple[str, ...], old: str, new: str, at: datetime) -> Write:
    """The write of an audit record: *ids* moved from *old* to *new*."""
    record = TransferRecord(
        transfer_id=audit.transfer_id,
        kind=kind,
        resource_ids=ids,
        from_instance_id=old,
        to_instance_id=new,
        reason=audit.reason,
        requested_by=audit.requested_by,
        at=at,
        traceparent=audit.traceparent,
    )
    return Write(transfer_key(audit.transfer_id), record, ABSENT, audit.ttl)


def release(
    view: View,
    service_name: str,
    instance_id: str,
    resource_ids: Iterable[str],
    *,
    lease: str | None = None,
    admin: bool = False,
    all_or_nothing: bool = True,
) -> Decision[ReleaseReply]:
    """Give resources up, in one transaction.

    Args:
        view: The view.
        service_name: Service of the owner.
        instance_id: The owner.
        resource_ids: One or more; repetitions collapse.
        lease: Tag of the lease that the owner showed; None believes the name alone.
        admin: The caller may release what anybody holds.
        all_or_nothing: Raise for the first that cannot be released; else release the others, and list the errors.

    Raises:
        InvalidRequest: Bad ids, each with its path.
        InstanceNotFound: No such instance lives (not with *admin*).
        NotOwner: It lives by another lease; or (all or nothing) one is another's, who is named.
        ResourceNotFound: All or nothing, and nobody holds one.
        NotYetKnown: The view may not judge yet.
    """
    ids = checked_ids(resource_ids)
    if not admin:
        authentic(view, service_name, instance_id, lease, "release")
    writes: list[Write] = []
    released: list[str] = []
    errors: dict[str, str] = {}
    for resource_id in ids:
        found = owned_by(view, service_name, instance_id, resource_id, "release", admin=admin)
        if isinstance(found, Ownership):
            writes.append(Write.no_owner(resource_id, found.revision))
            released.append(resource_id)
        elif all_or_nothing:
            raise found
        else:
            errors[resource_id] = found.message
    reply = ReleaseReply(released=tuple(released), errors=errors)
    return Decision(tuple(writes), lambda _: reply, refuses=bool(errors))


def owned_by(
    view: View,
    service_name: str,
    instance_id: str,
    resource_id: str,
    operation: str,
    *,
    admin: bool = False,
) -> Ownership | AegisError:
    """The live record of *resource_id* if that instance owns it (or anybody does, for an *admin*), else what to raise.

    Raises:
        NotYetKnown: The view may not judge yet.
    """
    record = view.held(resource_id)
    holder = None if record is None else view.holder(record)
    if record is None or holder is None:
        return ResourceNotFound(resource_id=resource_id, service_name=service_name)
    if admin or (holder.instance_id == instance_id and holder.service_name == service_name):
        return record
    return NotOwner(operation=operation, target=resource_id, owner=holder.instance_id)


def give_up(view: View, targets: Iterable[str], *, lease: str) -> Decision[tuple[str, ...]]:
    """Delete what *lease* holds of *targets* (resource ids or role groups), whatever became of the rest.

    Answers those that were deleted.
    """
    mine = [r for t in targets if (r := view.held(t)) is not None and r.lease == lease]
    writes = tuple(Write.no_owner(r.target, r.revision) for r in mine)
    given = tuple(r.target for r in mine)
    return Decision(writes, lambda _: given)


def expire(view: View, resource_id: str, *, epoch: int, audit: Audit, at: datetime) -> Decision[bool]:
    """End an ownership because the resource's own time to live (`ttl_seconds`) has passed, with an audit record.

    That it has passed, the caller knows by its own clock.

    Args:
        view: The view.
        resource_id: The resource.
        epoch: Of the ownership that has lasted too long; a later one stays.
        audit: How it is recorded.
        at: Aware UTC.

    Returns:
        Whether it ended; False when that ownership had ended already.
    """
    record = view.held(resource_id)
    if record is None or record.epoch != epoch or view.holder(record) is None:
        return answered(False)
    # The audit record comes first, so that views know why the other goes.
    writes = (
        audit_write(audit, kind="expired", ids=(resource_id,), old=record.instance_id, new="", at=at),
        Write.no_owner(resource_id, record.revision),
    )
    return Decision(writes, lambda _: True)

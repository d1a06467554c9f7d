"""Sweeping: deleting the records that dead leases left behind, with an account of them.

Nothing depends on it: a record that names a dead lease is free from birth. It keeps the store small, and people informed.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TypeVar

import attrs

from aegis_core.engine.decision import Audit, Decision, Write, answered
from aegis_core.engine.resources import audit_write
from aegis_core.engine.view import View
from aegis_core.models import Ownership, ServiceInstance, Standby, Value
from aegis_core.names import (
    TransferKey,
    lease_tag,
    standby_key,
)

__all__ = ["Swept", "sweep", "sweep_id", "sweeper"]

R = TypeVar("R", Ownership, Standby)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Swept(Value):
    """Answer of `sweep`.

    Args:
        service_name: Of the dead instance.
        instance_id: Whose lease is dead.
        resource_ids: The targets whose records this commit deletes.
        more: Whether there is more to sweep of the same lease than one transaction holds.
    """

    service_name: str = ""
    instance_id: str = ""
    resource_ids: tuple[str, ...] = ()
    more: bool = False


def sweeper(view: View) -> ServiceInstance | None:
    """The live instance whose node sweeps: the one with the lowest id among those that a node of ours serves.

    Healthy ones come first. None when there is no such instance.
    """
    able = (i for name in view.services() for i in view.live(name) if i.lease and i.endpoints)
    return min(able, key=_turn, default=None)


def _turn(instance: ServiceInstance) -> tuple[bool, str, str]:
    return not instance.is_healthy, instance.instance_id, instance.service_name


def sweep(view: View, lease: str, *, audit: Audit, max_transaction: int = 1000, at: datetime) -> Decision[Swept]:
    """Delete what names the dead *lease*: ownership records and places in lines, and write one audit record of it.

    At most *max_transaction* writes at a time: decide again while the answer says `Swept.more`. All of it has the same
    audit record, whose id is made of the lease (that of *audit* is not used).

    Args:
        view: The view.
        lease: Tag of a dead lease, as `Snapshot.orphans` names it.
        audit: Reason, principal and time to keep.
        max_transaction: Most operations of one commit.
        at: Aware UTC.

    Raises:
        NotYetKnown: The view may not judge that lease yet.
    """
    records = _dead(view, view.held_by(lease).values())
    places = _dead(view, view.places_of(lease))
    if not records and not places:
        return answered(Swept())
    first: Ownership | Standby = (records or places)[0]
    targets = tuple(r.target for r in records)
    writes = _audit(view, lease, first.instance_id, targets, audit, at)
    room = max_transaction - len(writes)
    gone = targets[:room]
    deletions = [Write.no_owner(r.target, r.revision) for r in records]
    deletions += [Write(standby_key(p.target, p.instance_id), None, p.revision) for p in places]
    writes += deletions[:room]
    swept = Swept(
        service_name=first.service_name,
        instance_id=first.instance_id,
        resource_ids=gone,
        more=len(deletions) > room,
    )
    return Decision(tuple(writes), lambda _: swept)


def sweep_id(lease: str) -> str:
    """The id of the one audit record of what *lease* (its tag), which is dead, has left."""
    return f"transfer_{lease_tag(lease)}"


def _dead(view: View, records: Iterable[R]) -> list[R]:
    return [r for r in records if view.holder(r) is None]


def _audit(
    view: View,
    lease: str,
    instance_id: str,
    targets: tuple[str, ...],
    audit: Audit,
    at: datetime,
) -> list[Write]:
    """The write of the audit record, unless it is there or there is nothing to tell."""
    transfer_id = sweep_id(lease)
    known = view.transfer(transfer_id)
    if not targets or (known is not None and set(targets) <= set(known.resource_ids)):
        return []
    named = attrs.evolve(audit, transfer_id=transfer_id)
    before = known.resource_ids if known is not None and known.kind == "sweep" else ()
    ids = tuple(dict.fromkeys((*before, *targets)))
    write = audit_write(named, kind="sweep", ids=ids, old=instance_id, new="", at=at)
    return [attrs.evolve(write, expect=view.expectation(TransferKey(transfer_id)))]

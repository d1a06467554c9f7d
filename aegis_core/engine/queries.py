"""What may be asked about resources: by any criterion, by id, and why."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from aegis_core.engine.indexes import Bucket
from aegis_core.engine.requests import Problems
from aegis_core.engine.view import View
from aegis_core.errors import InvalidRequest, ResourceNotFound
from aegis_core.models import (
    DEFAULT_METADATA,
    Explanation,
    Health,
    Ownership,
    QueryReply,
    Resource,
    ServiceInstance,
    TransferRecord,
)
from aegis_core.names import is_role, resource_id_problem

__all__ = ["FARTHEST", "explain", "get_owner", "list_transfers", "query_resources"]

FARTHEST: Final = 1 << 53
"""Where no page begins any more."""


def query_resources(
    view: View,
    *,
    service_name: str | None = None,
    instance_id: str | None = None,
    resource_ids: Sequence[str] | None = None,
    resource_type: str | None = None,
    tags: Sequence[str] | None = None,
    containing: str | None = None,
    include_metadata: bool = True,
    limit: int = 100,
    offset: int = 0,
    now: float,
) -> QueryReply:
    """One page of the resources that match all criteria, in the order in which their records were last written.

    Costs in proportion to the smallest set that one criterion selects; with one criterion (or none) to the page alone,
    unless that is *containing*.

    Args:
        view: The view.
        service_name: Of the owner; None for any, as of all criteria.
        instance_id: The owner.
        resource_ids: Any of these.
        resource_type: This type.
        tags: All of these.
        containing: Ids with this in them, as it is written.
        include_metadata: Without it, the default metadata are shown.
        limit: 1 to 1000 resources.
        offset: How many to leave out before them.
        now: The node's clock, monotonic seconds.

    Raises:
        InvalidRequest: Every bad argument, with its path.
    """
    problems = Problems()
    problems.number("$.limit", limit, low=1, high=1000, whole=True)
    problems.number("$.offset", offset, low=0, high=FARTHEST, whole=True)
    if isinstance(tags, str):
        problems.note("$.tags", "expected a list of strings, got one string")
    if isinstance(resource_ids, str):
        problems.note("$.resource_ids", "expected a list of resource ids, got one string")
    problems.check()
    total, found = _select(view, service_name, instance_id, resource_ids, resource_type, tags, containing or "")
    page = itertools.islice(found, offset, offset + limit)
    shown = tuple(
        _shown(record, instance, view.health(instance, now), include_metadata=include_metadata)
        for record, instance in _owned(view, page)
    )
    return QueryReply(resources=shown, total_count=total, has_more=offset + limit < total)


def _select(
    view: View,
    service_name: str | None,
    instance_id: str | None,
    resource_ids: Sequence[str] | None,
    resource_type: str | None,
    tags: Sequence[str] | None,
    containing: str,
) -> tuple[int, Iterable[Ownership]]:
    """How many match, and which, in order of revision."""
    index = view.index
    sets: list[_Selected] = []
    if service_name is not None:
        sets.append(_of(index.services.get(service_name)))
    if resource_type:
        sets.append(_of(index.types.get(resource_type)))
    sets += [_of(index.tags.get(tag)) for tag in tags or ()]
    if instance_id is not None:
        sets.append(_held_by_id(view, instance_id))
    if resource_ids is not None:
        sets.append(_named(view, resource_ids))
    untyped = resource_type == ""
    if not sets:
        sets.append(_of(index.all))
    smallest = min(sets, key=lambda selected: len(selected.records))
    records = smallest.records.values()
    if len(sets) == 1 and not untyped and not containing:
        return len(records) - smallest.hidden, _visible(view, records) if smallest.hidden else records
    matching = [
        record
        for record in _visible(view, (r for r in records if containing in r.target))
        if all(record.target in selected.records for selected in sets)
        and not (untyped and record.metadata.resource_type)
    ]
    return len(matching), matching


class _Selected(NamedTuple):
    """Records that meet one criterion, in order of revision; `hidden` of them are not shown."""

    records: Mapping[str, Ownership]
    hidden: int


def _of(bucket: Bucket | None) -> _Selected:
    return _Selected({}, 0) if bucket is None else _Selected(bucket.records, bucket.hidden)


def _held_by_id(view: View, instance_id: str) -> _Selected:
    live = view.by_id(instance_id)
    if len(live) == 1:
        held = view.held_by(live[0].lease)
        return _Selected(held, len(held) - view.count(live[0].lease))
    return _ordered(r for i in live for r in view.held_by(i.lease).values())


def _named(view: View, resource_ids: Sequence[str]) -> _Selected:
    found = (view.owner(i) for i in dict.fromkeys(resource_ids))
    return _ordered(owned[0] for owned in found if owned is not None)


def _ordered(records: Iterable[Ownership]) -> _Selected:
    ordered = sorted(records, key=lambda r: r.revision)
    return _Selected({r.target: r for r in ordered}, sum(is_role(r.target) for r in ordered))


def _visible(view: View, records: Iterable[Ownership]) -> Iterator[Ownership]:
    return (r for r in records if not is_role(r.target) and view.owner(r.target) is not None)


def _owned(view: View, records: Iterable[Ownership]) -> Iterator[tuple[Ownership, ServiceInstance]]:
    return (found for r in records if (found := view.owner(r.target)) is not None)


def _shown(record: Ownership, owner: ServiceInstance, health: Health, *, include_metadata: bool) -> Resource:
    return Resource(
        resource_id=record.target,
        owner_instance_id=owner.instance_id,
        service_name=owner.service_name,
        epoch=record.epoch,
        registered_at=record.registered_at,
        metadata=record.metadata if include_metadata else DEFAULT_METADATA,
        is_healthy=health is Health.ONLINE,
    )


def get_owner(view: View, resource_id: str, *, now: float) -> Resource:
    """The resource with its live owner.

    Raises:
        InvalidRequest: That is no resource id.
        ResourceNotFound: Nobody owns it.
    """
    problem = resource_id_problem(resource_id)
    if problem is not None:
        raise InvalidRequest.at("$.resource_id", problem)
    found = view.owner(resource_id)
    if found is None:
        raise ResourceNotFound(resource_id=resource_id)
    record, owner = found
    return _shown(record, owner, view.health(owner, now), include_metadata=True)


def explain(view: View, resource_id: str, *, now: float) -> Explanation:
    """All that this view knows of a resource: owner, epoch, lease left, who waits, and what happened to it.

    Args:
        view: The view.
        resource_id: The resource.
        now: The node's clock, monotonic seconds.

    Raises:
        InvalidRequest: That is no resource id.
    """
    problem = resource_id_problem(resource_id)
    if problem is not None:
        raise InvalidRequest.at("$.resource_id", problem)
    found = view.owner(resource_id)
    record = view.held(resource_id)
    standbys = tuple(place.instance_id for place in view.line(resource_id))
    told = [t for t in view.transfers() if resource_id in t.resource_ids]
    history = [_told(t) for t in sorted(told, key=lambda t: t.revision)]
    if record is not None:
        history.append(_written(record))
    waiting = f"{len(standbys)} waiting" if standbys else "nobody waits for it"
    if found is None:
        what = f"{resource_id} has no owner"
        if record is not None:
            what += f": the lease of its last owner, {record.instance_id}, has ended"
        return Explanation(
            resource_id=resource_id,
            owner=None,
            standbys=standbys,
            history=tuple(history),
            summary=f"{what}; {waiting}.",
        )
    live, owner = found
    left = view.lease_left(owner, now)
    return Explanation(
        resource_id=resource_id,
        owner=owner,
        epoch=live.epoch,
        lease_left=left,
        standbys=standbys,
        history=tuple(history),
        summary=(
            f"{resource_id} is owned by {owner.instance_id} of {owner.service_name} "
            f"({live.reason}, epoch {live.epoch}, at most {left:.1f} s of its lease left); {waiting}."
        ),
    )


def list_transfers(
    view: View, *, resource_id: str | None = None, instance_id: str | None = None
) -> tuple[TransferRecord, ...]:
    """The audit records that match all criteria, newest first.

    Args:
        view: The view.
        resource_id: That concern this resource; None for any, as of all criteria.
        instance_id: From or to this instance.
    """
    return tuple(
        t
        for t in sorted(view.transfers(), key=lambda t: t.revision, reverse=True)
        if (resource_id is None or resource_id in t.resource_ids)
        and (instance_id is None or instance_id in (t.from_instance_id, t.to_instance_id))
    )


def _told(record: TransferRecord) -> str:
    to = f" to {record.to_instance_id}" if record.to_instance_id else ""
    by = f" by {record.requested_by}" if record.requested_by else ""
    why = f": {record.reason}" if record.reason else ""
    when = record.at.isoformat(timespec="seconds")
    return f"{when} {record.kind} from {record.from_instance_id or 'nobody'}{to}{by}{why}"


def _written(record: Ownership) -> str:
    when = record.registered_at.isoformat(timespec="seconds")
    after = f" after {record.previous}" if record.previous else ""
    return f"{when} {record.reason} by {record.instance_id}{after} (epoch {record.epoch})"

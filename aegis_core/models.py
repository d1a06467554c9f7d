"""The values of the library: frozen, without I/O, ignorant of the wire.

Three vocabularies live here. *Axes* are enumerations (`Role`, `Health`, `Outcome`, `EndReason`). *Records* are what a
store keeps: `ServiceInstance`, `Ownership`, `Standby`, `TransferRecord`. *Views* are what operations answer:
`Resource`, `Registration`, `ClaimReply` and the other replies. All of them stand in one file, past 400 lines, because
they are one vocabulary: a reader of any operation looks here for its words.

How these become bytes is `aegis_core.codec`'s business alone. Times that end in ``_at`` (and `last_heartbeat`,
`last_modified`) are aware UTC datetimes for people; they decide nothing. All durations are seconds.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final

import attrs

__all__ = [
    "ABSENT",
    "DEFAULT_METADATA",
    "BatchResult",
    "BulkReply",
    "ClaimReply",
    "EndReason",
    "Explanation",
    "Failure",
    "GroupRoles",
    "Health",
    "HeartbeatReply",
    "Outcome",
    "Ownership",
    "QueryReply",
    "Record",
    "Registration",
    "ReleaseReply",
    "Resource",
    "ResourceMetadata",
    "Role",
    "RoleTable",
    "ServiceInstance",
    "ServiceView",
    "Shown",
    "Standby",
    "TransferRecord",
    "TransferReply",
    "Value",
    "ids_in_order",
]

ABSENT: Final = 0
"""The revision of a key that is not there; revisions of what is there are positive."""

_EMPTY: Final[Mapping[str, Any]] = MappingProxyType({})


class Role(enum.Enum):
    """Whether an instance does the work (ACTIVE) or waits to take over (STANDBY)."""

    ACTIVE = "ACTIVE"
    STANDBY = "STANDBY"


class Health(enum.Enum):
    """Whether an instance can be used: ONLINE, UNHEALTHY (live, but out of the rotation) or OFFLINE (its lease ended)."""

    ONLINE = "ONLINE"
    UNHEALTHY = "UNHEALTHY"
    OFFLINE = "OFFLINE"


class Outcome(enum.Enum):
    """What is known about a call, or a commit, that failed.

    NOT_SENT: nothing left this process. REJECTED: it arrived and was refused before it did anything.
    MAYBE_EXECUTED: it may have been carried out; repeat it only if that is harmless.
    """

    NOT_SENT = "NOT_SENT"
    REJECTED = "REJECTED"
    MAYBE_EXECUTED = "MAYBE_EXECUTED"


class EndReason(enum.Enum):
    """Why a claim ended. Those after RELEASED and CLOSED raise `LeaseLost` in an interrupted ``own`` body."""

    RELEASED = "RELEASED"
    CLOSED = "CLOSED"
    EXPIRED = "EXPIRED"
    ERASED = "ERASED"
    FORCED = "FORCED"
    TRANSFERRED = "TRANSFERRED"
    RESOURCE_TTL = "RESOURCE_TTL"


def _frozen_mapping(value: Mapping[str, Any] | None) -> Mapping[str, Any]:
    return MappingProxyType(dict(value)) if value else _EMPTY


def _tuple_of_str(value: Iterable[str]) -> tuple[str, ...]:
    if isinstance(value, str):
        raise TypeError("expected a collection of strings, not one string")
    return tuple(value)


class Shown:
    """Base of attrs classes: how they are shown, written once for all.

    Generating that for each class, as attrs would, takes a good part of the time of importing the library.
    """

    __slots__ = ()

    if TYPE_CHECKING:  # what asks for the annotations of a value does not mean this one
        __attrs_attrs__: ClassVar[tuple[attrs.Attribute[Any], ...]]

    def __repr__(self) -> str:
        shown = []
        for a in self.__attrs_attrs__:
            if a.repr:
                show = a.repr if callable(a.repr) else repr
                shown.append(f"{a.name}={show(getattr(self, a.name))}")
        return f"{type(self).__name__}({', '.join(shown)})"


class Value(Shown):
    """Base of frozen values: how they are compared, written once like how they are shown."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._compared() == other._compared()

    def __hash__(self) -> int:
        return hash((type(self), self._compared()))

    def _compared(self) -> tuple[object, ...]:
        return tuple([getattr(self, a.name) for a in self.__attrs_attrs__ if a.eq])


@attrs.frozen(kw_only=True, eq=False, repr=False)
class ResourceMetadata(Value):
    """What an owner says about a resource; the engine reads `version`, `ttl_seconds`, `priority`, type and tags only.

    Args:
        resource_type: A word for queries, e.g. ``"user_session"``.
        version: Optimistic lock, 1 or more: a change must carry the version it was made from, and is stored as that + 1.
        tags: Words for queries; a query for several matches resources that have all of them.
        attributes: Opaque to the library: strings, numbers, booleans, None, lists and maps of them.
        created_by: Who made the resource, for people.
        last_modified: Aware UTC time of the last change, stamped when it is claimed without one.
        ttl_seconds: The owner gives the resource up this many seconds after acquiring it; None for never.
        priority: Higher moves later when work is rebalanced.
    """

    resource_type: str = attrs.field(default="", validator=attrs.validators.instance_of(str))
    version: int = attrs.field(default=1, validator=[attrs.validators.instance_of(int), attrs.validators.ge(1)])
    tags: tuple[str, ...] = attrs.field(
        default=(),
        converter=_tuple_of_str,
        validator=attrs.validators.deep_iterable(attrs.validators.instance_of(str)),
    )
    attributes: Mapping[str, object] = attrs.field(default=_EMPTY, converter=_frozen_mapping)
    created_by: str = attrs.field(default="", validator=attrs.validators.instance_of(str))
    last_modified: datetime | None = None
    ttl_seconds: float | None = attrs.field(default=None, validator=attrs.validators.optional(attrs.validators.gt(0)))
    priority: int = attrs.field(default=0, validator=attrs.validators.instance_of(int))

    def is_expired(self, now: datetime) -> bool:
        """Whether `ttl_seconds` have passed since `last_modified` at the aware time *now*; False without either."""
        if self.ttl_seconds is None or self.last_modified is None:
            return False
        return now >= self.last_modified + timedelta(seconds=self.ttl_seconds)


DEFAULT_METADATA: Final = ResourceMetadata()
"""The one object that stands for metadata nobody gave: most resources have it."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class ServiceInstance(Value):
    """One registered copy of a service, as its store record says; `Instance` is the handle of one's own.

    Args:
        service_name: The service.
        instance_id: Unique among the live instances of the service.
        version: The version of the service's program.
        role: As the instance last said; who really is active, the ownership records tell.
        health: ONLINE or UNHEALTHY, as the instance last said.
        lease: Public tag of the lease (a hash; only the holder knows the lease id itself).
        ttl: Seconds the record lives without a renewal.
        heartbeat_interval: Seconds between two renewals.
        endpoints: URLs that the instance listens on, one per transport.
        draining: It is handing over its work: it takes no new claims and is out of the rotation.
        priority: Standby order, higher first; also the weight for the weighted balancer (see metadata).
        sticky_active_group: The role group that it belongs to, or None.
        on_demand: Prefixes of resource ids that it takes when a call for one without owner comes to it.
        adopts: It can take over a resource that is transferred to it (its service has ``on_acquire``).
        idempotent: Methods that may be executed twice, so that a call whose fate is unknown is repeated while it has time.
        metadata: The user's own, JSON-like.
        registered_at: Aware UTC.
        last_heartbeat: Aware UTC.
        revision: Store revision of this record (0 before it is stored).
    """

    service_name: str
    instance_id: str
    version: str = "0.0.0"
    role: Role = Role.STANDBY
    health: Health = Health.ONLINE
    lease: str = ""
    ttl: float = 30.0
    heartbeat_interval: float = 10.0
    endpoints: tuple[str, ...] = ()
    draining: bool = False
    priority: int = 0
    sticky_active_group: str | None = None
    on_demand: tuple[str, ...] = attrs.field(default=(), converter=_tuple_of_str)
    adopts: bool = False
    idempotent: tuple[str, ...] = attrs.field(default=(), converter=_tuple_of_str)
    metadata: Mapping[str, object] = attrs.field(default=_EMPTY, converter=_frozen_mapping)
    registered_at: datetime
    last_heartbeat: datetime
    revision: int = ABSENT

    @property
    def is_healthy(self) -> bool:
        """True when `health` is ONLINE."""
        return self.health is Health.ONLINE

    @property
    def is_active(self) -> bool:
        """True when `role` is ACTIVE."""
        return self.role is Role.ACTIVE

    @property
    def status(self) -> str:
        """The one-word view of both axes that other languages read: ACTIVE, STANDBY or UNHEALTHY."""
        return self.role.value if self.is_healthy else Health.UNHEALTHY.value

    def mark_unhealthy(self) -> ServiceInstance:
        """A copy of this record with health UNHEALTHY."""
        return attrs.evolve(self, health=Health.UNHEALTHY)

    def should_be_active(self, peers: Iterable[ServiceInstance]) -> bool:
        """Whether this instance is the one to do the work among itself and *peers* of the same service.

        An active healthy peer keeps the work. Otherwise the first in line has it: higher `priority`, then earlier
        `registered_at`, then lower `instance_id`. An unhealthy instance should never be active.
        """
        if not self.is_healthy:
            return False
        others = [p for p in peers if p.instance_id != self.instance_id and p.is_healthy]
        if self.is_active:
            return True
        if any(p.is_active for p in others):
            return False
        return all(self._line_key() < p._line_key() for p in others)

    def _line_key(self) -> tuple[int, datetime, str]:
        return (-self.priority, self.registered_at, self.instance_id)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Ownership(Value):
    """Who owns a target (a resource or a role group, see `aegis_core.names`): it holds while its lease lives.

    Args:
        target: The resource id, or the name of a role group.
        service_name: Service of the owner.
        instance_id: The owner.
        lease: Tag of the owner's lease when it acquired the target.
        epoch: Fencing number: the store revision at acquisition (0 in a record that is being written).
        metadata: See `ResourceMetadata`.
        registered_at: Aware UTC time of the acquisition.
        reason: Why it came to this owner: ``claimed``, ``promoted``, ``transferred``, ``forced``, ``activated``, ``registered``.
        previous: Instance id of the owner before, or "".
        as_role: Of a resource: holding it is a role, so calls by service name go to its owner. Role groups need no such word.
        revision: Store revision of this record (0 before it is stored).
    """

    target: str
    service_name: str
    instance_id: str
    lease: str
    epoch: int = ABSENT
    metadata: ResourceMetadata = DEFAULT_METADATA
    registered_at: datetime
    reason: str = "claimed"
    previous: str = ""
    as_role: bool = False
    revision: int = ABSENT

    def at(self, epoch: int, revision: int) -> Ownership:
        """A copy with another epoch and revision."""
        # Spelled out: copying by name costs twice as much, and every claim passes here.
        return Ownership(
            target=self.target,
            service_name=self.service_name,
            instance_id=self.instance_id,
            lease=self.lease,
            epoch=epoch,
            metadata=self.metadata,
            registered_at=self.registered_at,
            reason=self.reason,
            previous=self.previous,
            as_role=self.as_role,
            revision=revision,
        )


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Standby(Value):
    """One place in the line for a target.

    Args:
        target: What is waited for.
        service_name: Service of the waiting instance.
        instance_id: The waiting instance.
        lease: Tag of its lease; a place whose lease is dead counts for nothing.
        priority: Higher first; equals are served in the order in which they came.
        joined: Store revision at which the place was taken (0 in a record that is being written).
        as_role: As of `Ownership`, once promoted.
        revision: Store revision of this record (0 before it is stored).
    """

    target: str
    service_name: str
    instance_id: str
    lease: str
    priority: int = 0
    joined: int = ABSENT
    as_role: bool = False
    revision: int = ABSENT


@attrs.frozen(kw_only=True, eq=False, repr=False)
class TransferRecord(Value):
    """The audit record of ownership moved or swept, kept for `audit_retention` seconds.

    Args:
        transfer_id: ``transfer_`` and 16 hex digits.
        kind: ``transfer``, ``forced``, ``role``, ``sweep`` (of a dead owner's) or ``expired`` (time to live of the resource).
        resource_ids: What moved.
        from_instance_id: The old owner.
        to_instance_id: The new owner; "" when the resources became free.
        reason: As the one who asked gave it.
        requested_by: Principal that asked.
        at: Aware UTC.
        traceparent: W3C trace context in which it happened, or "".
        revision: Store revision of this record (0 before it is stored).
    """

    transfer_id: str
    kind: str
    resource_ids: tuple[str, ...]
    from_instance_id: str
    to_instance_id: str = ""
    reason: str = ""
    requested_by: str = ""
    at: datetime
    traceparent: str = ""
    revision: int = ABSENT


Record = ServiceInstance | Ownership | Standby | TransferRecord
"""Whatever a store keeps under a key of ours."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Resource(Value):
    """A resource as queries and `node.owner_of` show it. Two are equal when their `resource_id` is.

    Args:
        resource_id: Unique over all services.
        owner_instance_id: The owner.
        service_name: Service of the owner.
        epoch: Fencing number of this ownership.
        registered_at: Aware UTC time of the acquisition.
        metadata: As the owner said.
        is_healthy: Whether the owner is ONLINE as seen from here.
    """

    resource_id: str
    owner_instance_id: str = attrs.field(eq=False)
    service_name: str = attrs.field(eq=False)
    epoch: int = attrs.field(default=ABSENT, eq=False)
    registered_at: datetime = attrs.field(eq=False)
    metadata: ResourceMetadata = attrs.field(factory=ResourceMetadata, eq=False)
    is_healthy: bool = attrs.field(default=True, eq=False)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Registration(Value):
    """Answer of ``register``; `lease_id` is a secret of the registrant and is never shown in a repr."""

    success: bool = True
    service_name: str
    instance_id: str
    role: Role
    registered_at: datetime
    message: str = ""
    lease_id: str = attrs.field(repr=False)
    ttl: float
    heartbeat_interval: float
    epoch: int = ABSENT


@attrs.frozen(kw_only=True, eq=False, repr=False)
class HeartbeatReply(Value):
    """Answer of ``heartbeat``."""

    service_name: str
    instance_id: str
    updated_at: datetime


@attrs.frozen(kw_only=True, eq=False, repr=False)
class ClaimReply(Value):
    """Answer of ``claim``: what is now owned, and by whom the rest is held."""

    registered: tuple[str, ...] = ()
    conflicts: Mapping[str, str] = attrs.field(default=_EMPTY, converter=_frozen_mapping)
    epochs: Mapping[str, int] = attrs.field(default=_EMPTY, converter=_frozen_mapping)

    @property
    def success(self) -> bool:
        """True when nothing was in conflict."""
        return not self.conflicts


@attrs.frozen(kw_only=True, eq=False, repr=False)
class ReleaseReply(Value):
    """Answer of ``release``: what is free now, and why the rest is not."""

    released: tuple[str, ...] = ()
    errors: Mapping[str, str] = attrs.field(default=_EMPTY, converter=_frozen_mapping)

    @property
    def success(self) -> bool:
        """True when everything was released."""
        return not self.errors


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Failure(Value):
    """One id that an operation on several could not serve: why, with the stable error code, and who holds it."""

    resource_id: str
    reason: str
    error_code: str
    current_owner: str | None = None


@attrs.frozen(kw_only=True, eq=False, repr=False)
class BatchResult(Value):
    """One batch of a bulk operation. `batch_number` counts from 1."""

    batch_number: int
    success_count: int
    failure_count: int
    duration_ms: float


@attrs.frozen(kw_only=True, eq=False, repr=False)
class BulkReply(Value):
    """Report of ``bulk_claim`` or ``bulk_release``: `done` ids in the order asked, and every failure.

    `rollback_performed` says that earlier batches were undone because a later one failed; then `done` is empty. Undoing
    leaves `held_before`: what of it the instance owned when the operation began, because of another one, or of this one
    when it was begun before and whoever carried it out died.
    """

    total_requested: int
    done: tuple[str, ...] = ()
    failed: tuple[Failure, ...] = ()
    batch_results: tuple[BatchResult, ...] = ()
    rollback_performed: bool = False
    epochs: Mapping[str, int] = attrs.field(default=_EMPTY, converter=_frozen_mapping)
    held_before: tuple[str, ...] = ()

    @property
    def success(self) -> bool:
        """True when nothing failed."""
        return not self.failed


@attrs.frozen(kw_only=True, eq=False, repr=False)
class TransferReply(Value):
    """Answer of ``transfer``.

    Args:
        transfer_id: Of the audit record, which is written with what moved; "" where the transfer was refused as a whole.
        transferred: What the target owns now.
        failed: What did not move, and why, by the stable error code and in words; see `Registry.transfer` for what became
            of it.
        epochs: Of what moved.
        forced: It was taken without the owner's consent.
    """

    transfer_id: str
    transferred: tuple[str, ...] = ()
    failed: tuple[Failure, ...] = ()
    epochs: Mapping[str, int] = attrs.field(default=_EMPTY, converter=_frozen_mapping)
    forced: bool = False

    @property
    def success(self) -> bool:
        """True when everything moved."""
        return not self.failed


@attrs.frozen(kw_only=True, eq=False, repr=False)
class QueryReply(Value):
    """One page of resources; `total_count` counts all that match."""

    resources: tuple[Resource, ...] = ()
    total_count: int = 0
    has_more: bool = False


@attrs.frozen(kw_only=True, eq=False, repr=False)
class ServiceView(Value):
    """One service and its live instances, with health as seen from here and role as the ownership records say."""

    service_name: str
    instances: tuple[ServiceInstance, ...] = ()


@attrs.frozen(kw_only=True, eq=False, repr=False)
class GroupRoles(Value):
    """Who is active for a target, and who waits, in order."""

    active: str | None = None
    standbys: tuple[str, ...] = ()


@attrs.frozen(kw_only=True, eq=False, repr=False)
class RoleTable(Value):
    """Roles of a service: per resource with a line, and per role group."""

    service_name: str
    resources: Mapping[str, GroupRoles] = attrs.field(default=_EMPTY, converter=_frozen_mapping)
    groups: Mapping[str, GroupRoles] = attrs.field(default=_EMPTY, converter=_frozen_mapping)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Explanation(Value):
    """Everything known about one resource, for people asking "why is it there?".

    Args:
        resource_id: The resource.
        owner: The live owner, or None.
        epoch: Fencing number of the current ownership, or 0.
        lease_left: Seconds of the owner's lease left at most, as seen from here, or None without an owner. Who has just
            begun to look has not seen yet when it was renewed.
        standbys: Instance ids in line, first first.
        history: The last changes of owner, newest last, each one line of text.
        calls: Calls handled since the acquisition, as the owner says; None when it was not asked or did not answer.
        last_call_at: Aware UTC time of the last call, as the owner says.
        summary: One sentence.
    """

    resource_id: str
    owner: ServiceInstance | None
    epoch: int = ABSENT
    lease_left: float | None = None
    standbys: tuple[str, ...] = ()
    history: tuple[str, ...] = ()
    calls: int | None = None
    last_call_at: datetime | None = None
    summary: str = ""


def ids_in_order(ids: Sequence[str]) -> tuple[str, ...]:
    """*ids* without repetitions, in the order of their first appearance."""
    return tuple(dict.fromkeys(ids))

"""What happened, as frozen values: one event per fact, handed to observers and to `node.events`.

Events are derived from each node's own view of the store, so every node sees every change once, in revision order.
Over a `Resync` changes may be merged or missed; `revision` lets a reader drop repetitions. `at` is aware UTC at
the node that tells it.

An event made by hand is an example of those that are waited for: all fields but the two healths may be left out.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import ClassVar, Final

import attrs

from aegis_core.models import Health, Role, Value

__all__ = [
    "BulkProgress",
    "CircuitStateChanged",
    "Event",
    "InstanceDeregistered",
    "InstanceHealthChanged",
    "InstanceLost",
    "InstanceRegistered",
    "LeaseEnded",
    "OrphanSwept",
    "ResourceExpired",
    "ResourceRegistered",
    "ResourceReleased",
    "ResourceTransferred",
    "Resync",
    "RoleChanged",
    "ScopeOverran",
]


_UNTOLD: Final = datetime.min.replace(tzinfo=UTC)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Event(Value):
    """Base of all events.

    Args:
        service_name: The service it concerns, or "".
        instance_id: The instance it concerns, or "".
        resource_id: The resource it concerns, or "".
        revision: Store revision of the change, 0 for facts local to one node.
        at: Aware UTC; the year 1 in an example that nobody told.
    """

    kind: ClassVar[str] = "event"
    service_name: str = ""
    instance_id: str = ""
    resource_id: str = ""
    revision: int = 0
    at: datetime = _UNTOLD


@attrs.frozen(kw_only=True, eq=False, repr=False)
class InstanceRegistered(Event):
    """An instance is there, or there again under a new lease."""

    kind: ClassVar[str] = "instance_registered"


@attrs.frozen(kw_only=True, eq=False, repr=False)
class InstanceHealthChanged(Event):
    """An instance's health changed, by its own word or as seen from here (`reason`)."""

    kind: ClassVar[str] = "instance_health_changed"
    old: Health
    new: Health
    reason: str = ""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class InstanceDeregistered(Event):
    """An instance left of its own will; `released` are the resource ids that became free."""

    kind: ClassVar[str] = "instance_deregistered"
    released: tuple[str, ...] = ()


@attrs.frozen(kw_only=True, eq=False, repr=False)
class InstanceLost(Event):
    """An instance's lease expired; `released` are the resource ids that became free."""

    kind: ClassVar[str] = "instance_lost"
    released: tuple[str, ...] = ()


@attrs.frozen(kw_only=True, eq=False, repr=False)
class RoleChanged(Event):
    """An instance became ACTIVE or STANDBY for a target: a role `group`, or the resource `resource_id`."""

    kind: ClassVar[str] = "role_changed"
    old: Role | None = None
    new: Role | None = None
    group: str | None = None
    reason: str = ""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class ResourceRegistered(Event):
    """A resource got an owner (claimed, promoted, activated)."""

    kind: ClassVar[str] = "resource_registered"
    epoch: int = 0
    reason: str = ""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class ResourceReleased(Event):
    """A resource lost its owner without getting another: ``released``, ``deregistered`` or ``lease_expired``."""

    kind: ClassVar[str] = "resource_released"
    epoch: int = 0
    reason: str = ""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class ResourceExpired(Event):
    """The time to live that a resource's metadata sets has passed and its owner gave it up."""

    kind: ClassVar[str] = "resource_expired"
    epoch: int = 0


@attrs.frozen(kw_only=True, eq=False, repr=False)
class ResourceTransferred(Event):
    """A resource moved from a live owner (`old`) to another instance (`instance_id`)."""

    kind: ClassVar[str] = "resource_transferred"
    old: str = ""
    epoch: int = 0
    reason: str = ""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class BulkProgress(Event):
    """A bulk operation of this node finished a batch."""

    kind: ClassVar[str] = "bulk_progress"
    operation: str = ""
    done: int = 0
    failed: int = 0
    total: int = 0


@attrs.frozen(kw_only=True, eq=False, repr=False)
class OrphanSwept(Event):
    """This node deleted the records that a dead instance left; `resource_ids` are which."""

    kind: ClassVar[str] = "orphan_swept"
    resource_ids: tuple[str, ...] = ()
    reason: str = ""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class LeaseEnded(Event):
    """The lease of an instance of this node ended against its will; it registers anew. `reason` is EXPIRED or ERASED."""

    kind: ClassVar[str] = "lease_ended"
    reason: str = ""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class ScopeOverran(Event):
    """A body ran on after its claim had ended, `seconds` so far: it reaches no checkpoint, only the epoch protects."""

    kind: ClassVar[str] = "scope_overran"
    epoch: int = 0
    seconds: float = 0.0


@attrs.frozen(kw_only=True, eq=False, repr=False)
class CircuitStateChanged(Event):
    """A circuit breaker of this node changed state (``closed``, ``open``, ``half-open``); `what` is the instance or ``store``."""

    kind: ClassVar[str] = "circuit_state_changed"
    what: str = ""
    old: str = ""
    new: str = ""
    reason: str = ""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Resync(Event):
    """This node's view was rebuilt from a new snapshot; events may have been missed."""

    kind: ClassVar[str] = "resync"
    reason: str = ""

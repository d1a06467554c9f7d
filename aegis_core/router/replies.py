"""What a router answers: the fields of each reply, as clients of any language know them.

Each is a class whose fields are what travels, so that whoever describes the replies reads them here. A router's own
additions come last in each, except where they have defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import attrs

from aegis_core.models import BatchResult, Failure, ResourceMetadata, Value

__all__ = [
    "Acknowledgement",
    "BulkFailure",
    "BulkRegistered",
    "BulkReleased",
    "HeartbeatData",
    "HeartbeatEnvelope",
    "HeartbeatTaken",
    "InstanceRegistered",
    "InstanceSummary",
    "InstanceUnregistered",
    "MessageState",
    "OwnedResource",
    "ResourcesFound",
    "ResourcesRegistered",
    "ResourcesReleased",
    "ResourcesTransferred",
    "Routed",
]


@attrs.frozen(kw_only=True, eq=False, repr=False)
class InstanceSummary(Value):
    """What is said twice of a new registration."""

    success: bool = True
    service_name: str
    instance_id: str
    role: str
    registered_at: datetime
    message: str


@attrs.frozen(kw_only=True, eq=False, repr=False)
class InstanceRegistered(Value):
    """Answer of ``service.register``.

    Args:
        success: True.
        service_name: The service.
        instance_id: The instance.
        role: ``ACTIVE`` or ``STANDBY``.
        registered_at: When.
        message: For people.
        data: The same once more.
        lease_id: The secret to show in later requests.
        ttl: Seconds that the registration lives without a heartbeat.
        heartbeat_interval: Seconds between heartbeats that are expected.
        epoch: Of the resource whose role the instance has; 0 without one.
        trace_id: As asked, or minted.
    """

    success: bool = True
    service_name: str
    instance_id: str
    role: str
    registered_at: datetime
    message: str
    data: InstanceSummary
    lease_id: str = attrs.field(repr=False)
    ttl: float
    heartbeat_interval: float
    epoch: int
    trace_id: str


@attrs.frozen(kw_only=True, eq=False, repr=False)
class InstanceUnregistered(Value):
    """Answer of ``service.unregister``; `released` are the resources that it held."""

    success: bool = True
    message: str
    released: tuple[str, ...]
    trace_id: str


@attrs.frozen(kw_only=True, eq=False, repr=False)
class HeartbeatEnvelope(Value):
    """The outer part of `HeartbeatTaken`."""

    success: bool = True
    message: str
    timestamp: datetime


@attrs.frozen(kw_only=True, eq=False, repr=False)
class HeartbeatData(Value):
    """The inner part of `HeartbeatTaken`."""

    service_name: str
    instance_id: str
    updated_at: datetime


@attrs.frozen(kw_only=True, eq=False, repr=False)
class HeartbeatTaken(Value):
    """Answer of ``service.heartbeat``."""

    envelope: HeartbeatEnvelope
    data: HeartbeatData


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Routed(Value):
    """Answer of ``route.request``: what the method returned, and which instance answered."""

    success: bool = True
    result: object
    error: None = None
    instance_id: str
    trace_id: str
    message_id: str | None
    duration_ms: float
    timestamp: datetime


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Acknowledgement(Value):
    """What is told on ``ipc.ack.{message_id}`` when a call with ``require_ack`` has ended.

    Args:
        message_id: Of the call.
        service_name: Which service was called.
        instance_id: Who answered; "" where nobody did.
        status: ``success`` or ``failure``.
        error_message: Why it failed, or nil.
        processing_time_ms: As the router saw it.
        trace_id: Of the call.
    """

    message_id: str
    service_name: str
    instance_id: str
    status: str
    error_message: str | None
    processing_time_ms: float
    trace_id: str


@attrs.frozen(kw_only=True, eq=False, repr=False)
class ResourcesRegistered(Value):
    """Answer of ``resource.register``.

    Args:
        success: Nothing is in conflict.
        registered: What the instance owns now.
        conflicts: Who owns the rest.
        trace_id: As asked, or minted.
        epochs: Of what it owns.
        standbys: For what it waits in line, and who owns that.
    """

    success: bool
    registered: tuple[str, ...]
    conflicts: Mapping[str, str]
    trace_id: str
    epochs: Mapping[str, int]
    standbys: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class ResourcesReleased(Value):
    """Answer of ``resource.release``, also of one that was refused: then `errors` says why, for each."""

    success: bool
    released: tuple[str, ...]
    errors: Mapping[str, str]
    trace_id: str


@attrs.frozen(kw_only=True, eq=False, repr=False)
class BulkFailure(Value):
    """One resource that ``resource.bulk_release`` could not release."""

    resource_id: str
    reason: str
    error_code: str


@attrs.frozen(kw_only=True, eq=False, repr=False)
class BulkRegistered(Value):
    """Answer of ``resource.bulk_register``. It is a success whenever the request itself was processed.

    Args:
        success: True.
        total_requested: How many ids.
        total_registered: How many of them `registered` names.
        registered: What this request made, or left, the instance's own; nothing where it was undone.
        failed: The others, each with its reason.
        batch_results: How the batches went.
        rollback_performed: What had been claimed by this request was undone, because of what failed.
        trace_id: As asked, or minted.
        epochs: Of `registered`.
        held_before: What of it the instance owned when the request came, which undoing leaves: also what another router
            had claimed for the same request when it died.
    """

    success: bool = True
    total_requested: int
    total_registered: int
    registered: tuple[str, ...]
    failed: tuple[Failure, ...]
    batch_results: tuple[BatchResult, ...]
    rollback_performed: bool
    trace_id: str
    epochs: Mapping[str, int]
    held_before: tuple[str, ...] = ()


@attrs.frozen(kw_only=True, eq=False, repr=False)
class BulkReleased(Value):
    """Answer of ``resource.bulk_release``. It is a success whenever the request itself was processed."""

    success: bool = True
    total_requested: int
    total_released: int
    released: tuple[str, ...]
    failed: tuple[BulkFailure, ...]
    batch_results: tuple[BatchResult, ...]
    rollback_performed: bool
    trace_id: str


@attrs.frozen(kw_only=True, eq=False, repr=False)
class ResourcesTransferred(Value):
    """Answer of ``resource.transfer``.

    Args:
        success: Everything moved.
        transferred: What moved.
        failed: Why the rest did not.
        transfer_id: Of the audit record.
        trace_id: As asked, or minted.
        epochs: Of what moved.
        error_codes: Of the rest.
    """

    success: bool
    transferred: tuple[str, ...]
    failed: Mapping[str, str]
    transfer_id: str
    trace_id: str
    epochs: Mapping[str, int]
    error_codes: Mapping[str, str]


@attrs.frozen(kw_only=True, eq=False, repr=False)
class OwnedResource(Value):
    """One resource that ``resource.query`` found."""

    resource_id: str
    owner_instance_id: str
    service_name: str
    registered_at: datetime
    metadata: ResourceMetadata | None
    is_healthy: bool
    epoch: int


@attrs.frozen(kw_only=True, eq=False, repr=False)
class ResourcesFound(Value):
    """Answer of ``resource.query``: one page, and how many match in all."""

    resources: tuple[OwnedResource, ...]
    total_count: int
    has_more: bool
    trace_id: str


@attrs.frozen(kw_only=True, eq=False, repr=False)
class MessageState(Value):
    """Answer of ``message.status``.

    Args:
        message_id: The message.
        state: ``pending``, ``acknowledged``, ``failed``, or ``expired`` (its time is over, and its fate unknown).
        retry_count: How often it was given to another instance, or taken over by another router.
        created_at: When it first came.
        updated_at: When its state last changed.
        last_error: What it ended in, or nil.
        service_name: Which service it called.
        method: Which method.
        instance_id: Who has, or answered, it.
        ack_deadline: When its time is over.
        trace_id: As asked, or minted.
    """

    message_id: str
    state: str
    retry_count: int
    created_at: datetime
    updated_at: datetime
    last_error: str | None
    service_name: str
    method: str
    instance_id: str
    ack_deadline: datetime
    trace_id: str

"""What clients ask of a router: the fields of each request, their defaults and their bounds.

The names and defaults are those that clients of any language know. A field's bounds stand in its metadata, for
`aegis_core.codec.structure_request` and for whoever describes the requests: ``ge`` and ``le`` of a number, ``most`` of a
text's characters or a collection's elements. A ``lease_id`` is the secret of
the instance in whose name something is asked; see `aegis_core.router.operations` for what happens without one.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, cast

import attrs

from aegis_core.models import ResourceMetadata, Value

__all__ = [
    "BulkRegister",
    "BulkRelease",
    "BulkResource",
    "Heartbeat",
    "MessageStatus",
    "Query",
    "RegisterResources",
    "RegisterService",
    "ReleaseResources",
    "Request",
    "RouteRequest",
    "Transfer",
    "UnregisterService",
    "read_route",
]

MOST_TEXT: Final = 1024
MOST_IDS: Final = 10_000
LONGEST_CALL: Final = 300.0
SHORTEST_CALL: Final = 0.001
MOST_ID: Final = 128

_TEXT: Final = {"most": MOST_TEXT}
_IDS: Final = {"most": MOST_IDS}
_BATCH: Final = {"ge": 1, "le": 1000}
_PRIORITY: Final = {"ge": -(2**31), "le": 2**31}
_SAME: Final[Mapping[str, object]] = MappingProxyType({})


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Request(Value):
    """What all requests have.

    Args:
        trace_id: Names the work in logs, and comes back with the answer; minted by default. A routed call takes it along.
    """

    trace_id: str = attrs.field(default="", metadata=_TEXT)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class RegisterService(Request):
    """Register an instance, which renews its lease by heartbeats.

    Args:
        service_name: The service.
        instance_id: Unique among its live instances.
        timestamp: For people; ignored.
        role: ``active`` or ``standby``. With ``metadata.resource_id`` it is about that resource: to own it, or to wait in
            its line. Without it is only shown. nil: neither.
        metadata: Of the instance, JSON-like.
        version: Of its program.
        endpoints: Where it listens besides its inbox, in any form; kept under ``endpoints`` of its metadata.
        ttl: Seconds without a heartbeat after which the registration ends; nil for the router's setting.
        priority: Place in the line: higher first.
        lease_id: A secret of the client's own. By the same one it may register again, when it does not know what became
            of the first time. nil: the router makes one, and believes later requests by the instance id.
    """

    service_name: str = attrs.field(metadata=_TEXT)
    instance_id: str = attrs.field(metadata=_TEXT)
    timestamp: object = None
    role: Literal["active", "standby"] | None = "standby"
    metadata: Mapping[str, object] = attrs.field(default=_SAME, metadata=_IDS)
    version: str = attrs.field(default="0.0.0", metadata=_TEXT)
    endpoints: object = None
    ttl: float | None = None
    priority: int = 0
    lease_id: str | None = attrs.field(default=None, repr=False, metadata=_TEXT)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class UnregisterService(Request):
    """End an instance's registration; what it held is free at once."""

    service_name: str = attrs.field(metadata=_TEXT)
    instance_id: str = attrs.field(metadata=_TEXT)
    lease_id: str | None = attrs.field(default=None, repr=False, metadata=_TEXT)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Heartbeat(Request):
    """Renew an instance's lease.

    Args:
        service_name: The service.
        instance_id: The instance.
        timestamp: For people; ignored.
        status: ``degraded`` counts as unhealthy.
        metadata: Entries to set in the instance's metadata.
        lease_id: nil: believed by the instance id.
    """

    service_name: str = attrs.field(metadata=_TEXT)
    instance_id: str = attrs.field(metadata=_TEXT)
    timestamp: object = None
    status: Literal["healthy", "unhealthy", "degraded"] = "healthy"
    metadata: Mapping[str, object] = attrs.field(default=_SAME, metadata=_IDS)
    lease_id: str | None = attrs.field(default=None, repr=False, metadata=_TEXT)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class RouteRequest(Request):
    """Call a method of a service, at the owner of a resource or at a healthy instance.

    Args:
        service_name: The service.
        method: The method.
        params: Its parameters by name.
        timeout: Seconds for all of it.
        message_id: Equal ids run once, whichever router they come to, for as long as the router keeps them. It is its
            caller's, and of one call: with other parameters, or by somebody else, it is refused.
        resource_id: Go to its owner.
        require_ack: Tell of the call's end on ``ipc.ack.{message_id}``.
        excluded_instances: Instances that are not to be chosen; an owner is asked all the same.
    """

    service_name: str = attrs.field(metadata=_TEXT)
    method: str = attrs.field(metadata=_TEXT)
    params: Mapping[str, object] = _SAME
    timeout: float = attrs.field(default=5.0, metadata={"ge": SHORTEST_CALL, "le": LONGEST_CALL})
    message_id: str | None = attrs.field(default=None, metadata={"most": MOST_ID})
    resource_id: str | None = attrs.field(default=None, metadata=_TEXT)
    require_ack: bool = False
    excluded_instances: tuple[str, ...] = attrs.field(default=(), metadata=_IDS)


_ROUTED: Final = frozenset(field.name for field in attrs.fields(RouteRequest))


def read_route(raw: Mapping[object, object]) -> RouteRequest | None:
    """The request that *raw* is, if all of it is as most clients write it; read in a quarter of the time."""
    get = raw.get
    service_name, method, trace_id = get("service_name"), get("method"), get("trace_id", "")
    params, timeout = get("params", _SAME), get("timeout", 5.0)
    message_id, resource_id = get("message_id"), get("resource_id")
    require_ack, excluded = get("require_ack", False), get("excluded_instances")
    if not (
        raw.keys() <= _ROUTED
        and type(service_name) is str
        and len(service_name) <= MOST_TEXT
        and type(method) is str
        and len(method) <= MOST_TEXT
        and type(trace_id) is str
        and len(trace_id) <= MOST_TEXT
        and (params is _SAME or (type(params) is dict and all(type(name) is str for name in params)))
        and (type(timeout) is float or type(timeout) is int)
        and SHORTEST_CALL <= timeout <= LONGEST_CALL
        and (message_id is None or (type(message_id) is str and len(message_id) <= MOST_ID))
        and (resource_id is None or (type(resource_id) is str and len(resource_id) <= MOST_TEXT))
        and type(require_ack) is bool
        and (excluded is None or excluded == [])
    ):
        return None
    return RouteRequest(
        trace_id=trace_id,
        service_name=service_name,
        method=method,
        params=cast("Mapping[str, object]", params),
        timeout=float(timeout),
        message_id=message_id,
        resource_id=resource_id,
        require_ack=require_ack,
    )


@attrs.frozen(kw_only=True, eq=False, repr=False)
class RegisterResources(Request):
    """Claim resources for an instance: those that are free; the others are conflicts.

    Args:
        service_name: The service.
        instance_id: The claimant.
        resource_ids: One or more.
        force: Take what others hold; needs the permission.
        metadata: By resource id.
        role: ``standby``: wait in line for what others hold. nil and ``active``: do not.
        priority: Place in the line: higher first.
        lease_id: nil: believed by the instance id.
    """

    service_name: str = attrs.field(metadata=_TEXT)
    instance_id: str = attrs.field(metadata=_TEXT)
    resource_ids: tuple[str, ...] = attrs.field(metadata=_IDS)
    force: bool = False
    metadata: Mapping[str, ResourceMetadata] = attrs.field(default=MappingProxyType({}), metadata=_IDS)
    role: Literal["active", "standby"] | None = None
    priority: int = attrs.field(default=0, metadata=_PRIORITY)
    lease_id: str | None = attrs.field(default=None, repr=False, metadata=_TEXT)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class ReleaseResources(Request):
    """Free resources that an instance owns, all of them or none."""

    service_name: str = attrs.field(metadata=_TEXT)
    instance_id: str = attrs.field(metadata=_TEXT)
    resource_ids: tuple[str, ...] = attrs.field(metadata=_IDS)
    lease_id: str | None = attrs.field(default=None, repr=False, metadata=_TEXT)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class BulkResource(Value):
    """One resource of `BulkRegister`."""

    resource_id: str
    metadata: ResourceMetadata | None = None
    force: bool = False


@attrs.frozen(kw_only=True, eq=False, repr=False)
class BulkRegister(Request):
    """Claim many resources for an instance.

    Args:
        service_name: The service.
        instance_id: The claimant.
        resources: Each with its metadata.
        batch_size: Resources of one transaction.
        continue_on_error: Keep what succeeds; otherwise all of it is undone where something fails.
        lease_id: nil: believed by the instance id.
    """

    service_name: str = attrs.field(metadata=_TEXT)
    instance_id: str = attrs.field(metadata=_TEXT)
    resources: tuple[BulkResource, ...] = attrs.field(metadata=_IDS)
    batch_size: int = attrs.field(default=100, metadata=_BATCH)
    continue_on_error: bool = False
    lease_id: str | None = attrs.field(default=None, repr=False, metadata=_TEXT)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class BulkRelease(Request):
    """Free many resources of an instance.

    Args:
        service_name: The service.
        instance_id: The owner.
        resource_ids: Which.
        batch_size: Resources of one transaction.
        continue_on_error: Keep what succeeds; otherwise all of it is undone where something fails.
        transactional: With false as if *continue_on_error* were true.
        lease_id: nil: believed by the instance id.
    """

    service_name: str = attrs.field(metadata=_TEXT)
    instance_id: str = attrs.field(metadata=_TEXT)
    resource_ids: tuple[str, ...] = attrs.field(metadata=_IDS)
    batch_size: int = attrs.field(default=100, metadata=_BATCH)
    continue_on_error: bool = False
    transactional: bool = True
    lease_id: str | None = attrs.field(default=None, repr=False, metadata=_TEXT)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Transfer(Request):
    """Move resources between instances of a service.

    Args:
        service_name: The service.
        resource_ids: One or more.
        from_instance_id: The owner, in whose name it is asked.
        to_instance_id: The new owner.
        verify_ownership: With false they are taken from whoever owns them; needs the permission ``force``.
        reason: For the audit record.
        lease_id: Of the owner; nil: believed by its instance id.
    """

    service_name: str = attrs.field(metadata=_TEXT)
    resource_ids: tuple[str, ...] = attrs.field(metadata=_IDS)
    from_instance_id: str = attrs.field(metadata=_TEXT)
    to_instance_id: str = attrs.field(metadata=_TEXT)
    verify_ownership: bool = True
    reason: str = attrs.field(default="", metadata=_TEXT)
    lease_id: str | None = attrs.field(default=None, repr=False, metadata=_TEXT)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Query(Request):
    """Look for resources that are owned; nil fields match any.

    Args:
        service_name: Of the owner.
        instance_id: The owner.
        resource_ids: Among these.
        resource_type: As their metadata says.
        tags: All of them must be there.
        containing: Ids with this in them, as it is written.
        include_metadata: With false the metadata are left out.
        limit: Resources of one answer.
        offset: How many to leave out first.
    """

    service_name: str | None = attrs.field(default=None, metadata=_TEXT)
    instance_id: str | None = attrs.field(default=None, metadata=_TEXT)
    resource_ids: tuple[str, ...] | None = attrs.field(default=None, metadata=_IDS)
    resource_type: str | None = attrs.field(default=None, metadata=_TEXT)
    tags: tuple[str, ...] | None = attrs.field(default=None, metadata=_IDS)
    containing: str | None = attrs.field(default=None, metadata=_TEXT)
    include_metadata: bool = True
    limit: int = attrs.field(default=100, metadata=_BATCH)
    offset: int = attrs.field(default=0, metadata={"ge": 0, "le": 2**53})


@attrs.frozen(kw_only=True, eq=False, repr=False)
class MessageStatus(Request):
    """Ask what became of a message that was routed with a `RouteRequest.message_id`."""

    message_id: str = attrs.field(metadata={"most": MOST_ID})

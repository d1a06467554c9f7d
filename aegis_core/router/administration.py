"""What routers do for people, beside what clients ask for: show the registry, drain and disconnect; in the same form.

Everybody may look, unless a plug-in says otherwise (`aegis_core.hookspecs.aegis_authorize`). Answers are of a view that is
level with the store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeVar

import attrs

from aegis_core.engine import instances, queries
from aegis_core.engine.decision import answered
from aegis_core.engine.view import View
from aegis_core.models import Explanation, Resource, RoleTable, ServiceInstance, ServiceView, TransferRecord, Value
from aegis_core.node.node import Node
from aegis_core.principals import Target
from aegis_core.router.operation import Asked, Operation
from aegis_core.router.requests import MOST_TEXT, Request

__all__ = [
    "ADMINISTRATION",
    "Disconnected",
    "Drained",
    "InstanceRequest",
    "ListServices",
    "ListTransfers",
    "ResourceRequest",
    "ServicePage",
    "ServiceRequest",
    "TransferPage",
]

A = TypeVar("A")

_TEXT: Final = {"most": MOST_TEXT}
_LIMIT: Final = {"ge": 1, "le": 1000}
_OFFSET: Final = {"ge": 0, "le": queries.FARTHEST}


# --- Requests and replies --------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True, eq=False, repr=False)
class ListServices(Request):
    """Which services, in order of their names.

    Args:
        limit: Services of one answer.
        offset: How many to leave out first.
    """

    limit: int = attrs.field(default=100, metadata=_LIMIT)
    offset: int = attrs.field(default=0, metadata=_OFFSET)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class ServicePage(Value):
    """Services with their live instances.

    Args:
        services: In order of their names.
        total_count: How many there are.
        has_more: Whether some come after these.
    """

    services: tuple[ServiceView, ...]
    total_count: int
    has_more: bool


@attrs.frozen(kw_only=True, eq=False, repr=False)
class ServiceRequest(Request):
    """One service.

    Args:
        service_name: Its name.
    """

    service_name: str = attrs.field(metadata=_TEXT)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class InstanceRequest(Request):
    """One instance.

    Args:
        instance_id: Its id.
        service_name: Its service; needed only where instances of several services have that id.
    """

    instance_id: str = attrs.field(metadata=_TEXT)
    service_name: str | None = attrs.field(default=None, metadata=_TEXT)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Drained(Value):
    """The instance has handed over what it held, and takes no more.

    Args:
        success: True.
        service_name: Its service.
        instance_id: Its id.
        trace_id: As asked, or minted.
    """

    success: bool = True
    service_name: str
    instance_id: str
    trace_id: str


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Disconnected(Value):
    """The instance's lease has ended; one that a node serves registers anew.

    Args:
        success: True.
        service_name: Its service.
        instance_id: Its id.
        released: The resources that it held.
        trace_id: As asked, or minted.
    """

    success: bool = True
    service_name: str
    instance_id: str
    released: tuple[str, ...]
    trace_id: str


@attrs.frozen(kw_only=True, eq=False, repr=False)
class ResourceRequest(Request):
    """One resource.

    Args:
        resource_id: Its id.
    """

    resource_id: str = attrs.field(metadata=_TEXT)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class ListTransfers(Request):
    """Which audit records: those that meet every criterion that is given, newest first.

    Args:
        resource_id: That concern this resource.
        instance_id: From or to this instance.
        limit: Records of one answer.
        offset: How many to leave out first.
    """

    resource_id: str | None = attrs.field(default=None, metadata=_TEXT)
    instance_id: str | None = attrs.field(default=None, metadata=_TEXT)
    limit: int = attrs.field(default=100, metadata=_LIMIT)
    offset: int = attrs.field(default=0, metadata=_OFFSET)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class TransferPage(Value):
    """Audit records of ownership that moved, or was taken from the dead.

    Args:
        transfers: Newest first.
        total_count: How many there are.
        has_more: Whether some come after these.
    """

    transfers: tuple[TransferRecord, ...]
    total_count: int
    has_more: bool


# --- What is done ----------------------------------------------------------------------------------------------


async def list_services(asked: Asked[ListServices]) -> ServicePage:
    """Every service with its live instances: health as seen from the router, role as the ownership records say."""
    asked.router.permit(asked.principal, "list_services", Target())
    first, last = asked.request.offset, asked.request.offset + asked.request.limit
    found = await asked.router.node.registry.list_services()
    return ServicePage(services=found[first:last], total_count=len(found), has_more=last < len(found))


async def get_service(asked: Asked[ServiceRequest]) -> ServiceView:
    """One service with its live instances."""
    name = asked.request.service_name
    asked.router.permit(asked.principal, "get_service", Target(service_name=name))
    return await asked.router.node.registry.get_service(name)


async def list_roles(asked: Asked[ServiceRequest]) -> RoleTable:
    """Who is ACTIVE and who waits, in order: per role group, and per resource with a line."""
    name = asked.request.service_name
    asked.router.permit(asked.principal, "list_roles", Target(service_name=name))
    return await asked.router.node.registry.list_roles(name)


async def get_instance(asked: Asked[InstanceRequest]) -> ServiceInstance:
    """One live instance."""
    asked.router.permit(asked.principal, "get_instance", _named(asked.request))
    return await _find(asked)


async def drain(asked: Asked[InstanceRequest]) -> Drained:
    """Let an instance hand over everything it holds and take no more; waits until it has."""
    found = await _find(asked)
    service, name = found.service_name, found.instance_id
    asked.router.permit(asked.principal, "drain", Target(service_name=service, instance_id=name))
    await asked.router.node.registry.drain(service, name)
    return Drained(service_name=service, instance_id=name, trace_id=asked.trace_id)


async def disconnect(asked: Asked[InstanceRequest]) -> Disconnected:
    """End an instance's lease; what it held is free at once, and its work is not waited for."""
    found = await _find(asked)
    service, name = found.service_name, found.instance_id
    asked.router.permit(asked.principal, "disconnect", Target(service_name=service, instance_id=name))
    held = await asked.router.node.registry.disconnect(service, name)
    return Disconnected(service_name=service, instance_id=name, released=held, trace_id=asked.trace_id)


async def get_owner(asked: Asked[ResourceRequest]) -> Resource:
    """One resource and its owner."""
    name = asked.request.resource_id
    asked.router.permit(asked.principal, "get_owner", Target(resource_ids=(name,)))
    return await asked.router.node.registry.get_owner(name)


async def explain(asked: Asked[ResourceRequest]) -> Explanation:
    """Everything known about a resource: owner, epoch, lease, line, history, and what the owner says of its calls."""
    name = asked.request.resource_id
    asked.router.permit(asked.principal, "explain", Target(resource_ids=(name,)))
    return await asked.router.node.registry.explain(name)


async def list_transfers(asked: Asked[ListTransfers]) -> TransferPage:
    """The audit of ownership that moved or was taken from the dead, newest first, as long as it is kept."""
    request = asked.request
    ids = () if request.resource_id is None else (request.resource_id,)
    target = Target(instance_id=request.instance_id or "", resource_ids=ids)
    asked.router.permit(asked.principal, "list_transfers", target)
    first, last = request.offset, request.offset + request.limit

    def look(view: View) -> tuple[TransferRecord, ...]:
        return queries.list_transfers(view, resource_id=request.resource_id, instance_id=request.instance_id)

    found = await _ask(asked.router.node, look, "the list of transfers")
    return TransferPage(transfers=found[first:last], total_count=len(found), has_more=last < len(found))


def _named(request: InstanceRequest) -> Target:
    return Target(service_name=request.service_name or "", instance_id=request.instance_id)


async def _find(asked: Asked[InstanceRequest]) -> ServiceInstance:
    request, node = asked.request, asked.router.node

    def look(view: View) -> ServiceInstance:
        now = node.runtime.clock.now()
        return instances.get_instance(view, request.instance_id, service_name=request.service_name, now=now)

    return await _ask(node, look, f"instance {request.instance_id}")


async def _ask(node: Node, look: Callable[[View], A], what: str) -> A:
    """What *look* finds in a view that is level with the store."""
    timeout = node.runtime.settings.request_timeout
    return await node.committer.decide(lambda view: answered(look(view)), timeout=timeout, what=what, writes=False)


ADMINISTRATION: Final[Mapping[str, Operation[Any, Any]]] = MappingProxyType(
    {
        operation.name: operation
        for operation in (
            Operation(name="service.list", request=ListServices, reply=ServicePage, action=list_services),
            Operation(name="service.get", request=ServiceRequest, reply=ServiceView, action=get_service),
            Operation(name="service.roles", request=ServiceRequest, reply=RoleTable, action=list_roles),
            Operation(name="instance.get", request=InstanceRequest, reply=ServiceInstance, action=get_instance),
            Operation(name="instance.drain", request=InstanceRequest, reply=Drained, action=drain),
            Operation(name="instance.disconnect", request=InstanceRequest, reply=Disconnected, action=disconnect),
            Operation(name="resource.get", request=ResourceRequest, reply=Resource, action=get_owner),
            Operation(name="resource.explain", request=ResourceRequest, reply=Explanation, action=explain),
            Operation(name="transfer.list", request=ListTransfers, reply=TransferPage, action=list_transfers),
        )
    }
)
"""All of it, by name."""

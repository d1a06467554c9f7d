"""Registrations that clients keep by heartbeats, as routers carry them out."""

from __future__ import annotations

from aegis_core.errors import InstanceNotFound
from aegis_core.models import HeartbeatReply, Role
from aegis_core.principals import Target
from aegis_core.router import replies, requests
from aegis_core.router.operation import Asked, admit
from aegis_core.router.reserved import refuse_reserved

__all__ = ["heartbeat", "register", "unregister"]


async def register(asked: Asked[requests.RegisterService]) -> replies.InstanceRegistered:
    """Register an instance."""
    request, router = asked.request, asked.router
    metadata = dict(request.metadata)
    if request.endpoints is not None:
        metadata.setdefault("endpoints", request.endpoints)
    target = Target(service_name=request.service_name, instance_id=request.instance_id)
    refuse_reserved("register", request.service_name, request.instance_id, (metadata.get("resource_id"),))
    router.permit(asked.principal, "register", target)
    done = await router.node.registry.register(
        request.service_name,
        request.instance_id,
        metadata,
        role=None if request.role is None else Role[request.role.upper()],
        ttl=request.ttl,
        version=request.version,
        priority=request.priority,
        lease_id=request.lease_id,
    )
    if request.lease_id is None and asked.principal is None:
        await router.silence.heard(done.service_name, done.instance_id)
    summary = replies.InstanceSummary(
        service_name=done.service_name,
        instance_id=done.instance_id,
        role=done.role.value,
        registered_at=router.shown(done.registered_at),
        message=done.message,
    )
    return replies.InstanceRegistered(
        service_name=done.service_name,
        instance_id=done.instance_id,
        role=done.role.value,
        registered_at=router.shown(done.registered_at),
        message=done.message,
        data=summary,
        lease_id=done.lease_id,
        ttl=done.ttl,
        heartbeat_interval=done.heartbeat_interval,
        epoch=done.epoch,
        trace_id=asked.trace_id,
    )


async def unregister(asked: Asked[requests.UnregisterService]) -> replies.InstanceUnregistered:
    """End a registration, also what is known of one that has fallen silent."""
    request, silence = asked.request, asked.router.silence
    await admit(asked, "deregister", request.instance_id)
    # First, so that no heartbeat which another router handles meanwhile brings back what is about to go.
    await silence.left(request.service_name, request.instance_id)
    held = await asked.router.node.registry.deregister(
        request.service_name, request.instance_id, lease_id=request.lease_id
    )
    message = f"unregistered, {len(held)} resources are free"
    await silence.left(request.service_name, request.instance_id)  # It may have been heard since.
    return replies.InstanceUnregistered(message=message, released=held, trace_id=asked.trace_id)


async def heartbeat(asked: Asked[requests.Heartbeat]) -> replies.HeartbeatTaken:
    """Renew a lease; one that is believed by its name alone, and was silent for a while, has a new one."""
    request, silence = asked.request, asked.router.silence
    await admit(asked, "heartbeat", request.instance_id)
    is_old = request.lease_id is None and asked.principal is None
    done = await _renew(asked, is_old=is_old)
    if is_old:
        await silence.heard(request.service_name, request.instance_id)
    at = asked.router.shown(done.updated_at)
    return replies.HeartbeatTaken(
        envelope=replies.HeartbeatEnvelope(message="renewed", timestamp=at),
        data=replies.HeartbeatData(service_name=done.service_name, instance_id=done.instance_id, updated_at=at),
    )


async def _renew(asked: Asked[requests.Heartbeat], *, is_old: bool) -> HeartbeatReply:
    request, silence = asked.request, asked.router.silence
    try:
        return await _beat(asked)
    except InstanceNotFound as exc:
        unknown = exc
    if is_old and await silence.returned(request.service_name, request.instance_id):
        return await _beat(asked)
    raise unknown


async def _beat(asked: Asked[requests.Heartbeat]) -> HeartbeatReply:
    request = asked.request
    return await asked.router.node.registry.heartbeat(
        request.service_name,
        request.instance_id,
        status=request.status,
        metadata=request.metadata,
        lease_id=request.lease_id,
    )

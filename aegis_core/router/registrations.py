"""Registrations that clients keep by heartbeats, as routers carry them out."""

from __future__ import annotations

from aegis_core.errors import AegisError, InstanceNotFound
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
    """End a registration, also that of an instance which has fallen silent and would come back.

    Raises:
        InstanceNotFound: No such instance lives, nor would one come back.
        AegisError: It could not be ended, and comes back as before if it falls silent.
    """
    await admit(asked, "deregister", asked.request.instance_id)
    # To its end once it has begun: half of it would leave an instance that lives, and would not come back.
    held = await asked.router.node.runtime.shelter(_end, asked)
    message = f"unregistered, {len(held)} resources are free"
    return replies.InstanceUnregistered(message=message, released=held, trace_id=asked.trace_id)


async def _end(asked: Asked[requests.UnregisterService]) -> tuple[str, ...]:
    """End a registration; what it held."""
    request, router = asked.request, asked.router
    name, silence = (request.service_name, request.instance_id), router.silence
    known = await silence.known(*name)
    # First, so that no heartbeat which another router handles meanwhile brings back what is about to go.
    await silence.left(*name)
    held: tuple[str, ...] = ()
    try:
        held = await router.node.registry.deregister(*name, lease_id=request.lease_id)
    except InstanceNotFound:
        if known is None:
            raise
    except AegisError:
        if known is not None:
            await silence.stayed(*name, known)  # noqa: ASYNC120 - then cancellation is what counts
        raise
    await silence.left(*name)  # It may have been heard since.
    return held


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

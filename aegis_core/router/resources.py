"""What routers do with resources for clients."""

from __future__ import annotations

from collections.abc import Mapping

from aegis_core.engine import roles
from aegis_core.engine.bulk import BulkItem
from aegis_core.engine.decision import Decision
from aegis_core.engine.requests import authentic
from aegis_core.engine.snapshot import Snapshot
from aegis_core.errors import InvalidRequest
from aegis_core.models import Resource
from aegis_core.node.errands import has_scopes
from aegis_core.principals import Target
from aegis_core.router import replies, requests
from aegis_core.router.operation import Asked, admit

__all__ = ["bulk_register", "bulk_release", "query", "register", "release", "transfer"]


async def register(asked: Asked[requests.RegisterResources]) -> replies.ResourcesRegistered:
    """Claim what is free, and perhaps wait in line for the rest."""
    request = asked.request
    await admit(asked, "claim", request.instance_id, request.resource_ids)
    done = await asked.router.node.registry.claim(
        request.service_name,
        request.instance_id,
        *request.resource_ids,
        metadata=request.metadata,
        force=request.force,
    )
    waiting: Mapping[str, str] = {}
    if request.role == "standby":
        waiting = done.conflicts
        for resource_id in waiting:
            await _wait_in_line(asked, resource_id)
    return replies.ResourcesRegistered(
        success=done.success or bool(waiting),
        registered=done.registered,
        conflicts={} if waiting else done.conflicts,
        trace_id=asked.trace_id,
        epochs=done.epochs,
        standbys=waiting,
    )


async def _wait_in_line(asked: Asked[requests.RegisterResources], resource_id: str) -> None:
    """Give the instance of *asked* a place in the line for *resource_id*; routers promote it when its turn comes."""
    request, node = asked.request, asked.router.node

    def decide(view: Snapshot) -> Decision[int]:
        instance = authentic(view, request.service_name, request.instance_id, None, "join_line")
        if has_scopes(instance):
            raise InvalidRequest.at("$.role", "an instance that a node serves waits in line by itself")
        return roles.join_line(view, resource_id, lease=instance.lease, priority=request.priority)

    timeout = node.runtime.settings.request_timeout
    await node.committer.decide(decide, timeout=timeout, what=f"the line for {resource_id}")


async def release(asked: Asked[requests.ReleaseResources]) -> replies.ResourcesReleased:
    """Free resources."""
    request = asked.request
    await admit(asked, "release", request.instance_id, request.resource_ids)
    done = await asked.router.node.registry.release(request.service_name, request.instance_id, *request.resource_ids)
    return replies.ResourcesReleased(
        success=done.success, released=done.released, errors=done.errors, trace_id=asked.trace_id
    )


async def bulk_register(asked: Asked[requests.BulkRegister]) -> replies.BulkRegistered:
    """Claim many."""
    request = asked.request
    await admit(asked, "claim", request.instance_id, [item.resource_id for item in request.resources])
    done = await asked.router.node.registry.bulk_register(
        request.service_name,
        request.instance_id,
        [
            BulkItem(resource_id=item.resource_id, metadata=item.metadata, force=item.force)
            for item in request.resources
        ],
        batch_size=request.batch_size,
        continue_on_error=request.continue_on_error,
    )
    return replies.BulkRegistered(
        total_requested=done.total_requested,
        total_registered=len(done.done),
        registered=done.done,
        failed=done.failed,
        batch_results=done.batch_results,
        rollback_performed=done.rollback_performed,
        trace_id=asked.trace_id,
        epochs=done.epochs,
    )


async def bulk_release(asked: Asked[requests.BulkRelease]) -> replies.BulkReleased:
    """Free many."""
    request = asked.request
    await admit(asked, "release", request.instance_id, request.resource_ids)
    done = await asked.router.node.registry.bulk_release(
        request.service_name,
        request.instance_id,
        request.resource_ids,
        batch_size=request.batch_size,
        continue_on_error=request.continue_on_error or not request.transactional,
    )
    return replies.BulkReleased(
        total_requested=done.total_requested,
        total_released=len(done.done),
        released=done.done,
        failed=tuple(
            replies.BulkFailure(resource_id=f.resource_id, reason=f.reason, error_code=f.error_code)
            for f in done.failed
        ),
        batch_results=done.batch_results,
        rollback_performed=done.rollback_performed,
        trace_id=asked.trace_id,
    )


async def transfer(asked: Asked[requests.Transfer]) -> replies.ResourcesTransferred:
    """Move resources."""
    request = asked.request
    await admit(asked, "transfer", request.from_instance_id, request.resource_ids)
    done = await asked.router.node.registry.transfer(
        request.service_name,
        request.resource_ids,
        request.from_instance_id,
        request.to_instance_id,
        verify_ownership=request.verify_ownership,
        reason=request.reason,
    )
    return replies.ResourcesTransferred(
        success=done.success,
        transferred=done.transferred,
        failed={f.resource_id: f.reason for f in done.failed},
        transfer_id=done.transfer_id,
        trace_id=asked.trace_id,
        epochs=done.epochs,
        error_codes={f.resource_id: f.error_code for f in done.failed},
    )


async def query(asked: Asked[requests.Query]) -> replies.ResourcesFound:
    """Look for resources."""
    request = asked.request
    target = Target(service_name=request.service_name or "", instance_id=request.instance_id or "")
    asked.router.permit(asked.principal, "query_resources", target)
    page = await asked.router.node.registry.query_resources(
        service_name=request.service_name,
        instance_id=request.instance_id,
        resource_ids=request.resource_ids,
        resource_type=request.resource_type,
        tags=request.tags,
        containing=request.containing,
        include_metadata=request.include_metadata,
        limit=request.limit,
        offset=request.offset,
    )
    return replies.ResourcesFound(
        resources=tuple(_shown(asked, found) for found in page.resources),
        total_count=page.total_count,
        has_more=page.has_more,
        trace_id=asked.trace_id,
    )


def _shown(asked: Asked[requests.Query], resource: Resource) -> replies.OwnedResource:
    return replies.OwnedResource(
        resource_id=resource.resource_id,
        owner_instance_id=resource.owner_instance_id,
        service_name=resource.service_name,
        registered_at=asked.router.shown(resource.registered_at),
        metadata=resource.metadata if asked.request.include_metadata else None,
        is_healthy=resource.is_healthy,
        epoch=resource.epoch,
    )

"""What routers do with resources for clients."""

from __future__ import annotations

from collections.abc import Sequence

from aegis_core.engine import roles
from aegis_core.engine.bulk import BulkItem
from aegis_core.engine.decision import Decision
from aegis_core.engine.snapshot import Snapshot
from aegis_core.errors import AegisError, InvalidRequest, StoreUnavailable
from aegis_core.models import Outcome, Resource
from aegis_core.node.claiming import Acquisition, commit_claim
from aegis_core.node.errands import has_scopes
from aegis_core.principals import Target
from aegis_core.router import replies, requests
from aegis_core.router.operation import Asked, admit
from aegis_core.router.router import shown_lease

__all__ = ["bulk_register", "bulk_release", "query", "register", "release", "transfer"]


async def register(asked: Asked[requests.RegisterResources]) -> replies.ResourcesRegistered:
    """Claim what is free, and perhaps wait in line for the rest."""
    request = asked.request
    await admit(asked, "claim", request.instance_id, request.resource_ids)
    if request.role == "standby":
        return await _register_or_wait(asked)
    done = await asked.router.node.registry.claim(
        request.service_name,
        request.instance_id,
        *request.resource_ids,
        metadata=request.metadata,
        force=request.force,
        lease_id=request.lease_id,
    )
    return replies.ResourcesRegistered(
        success=done.success,
        registered=done.registered,
        conflicts=done.conflicts,
        trace_id=asked.trace_id,
        epochs=done.epochs,
    )


async def _register_or_wait(asked: Asked[requests.RegisterResources]) -> replies.ResourcesRegistered:
    """Claim what is free, and take a place in the line for the rest, within one request timeout.

    Raises:
        InvalidRequest: A node serves the instance, which waits by itself. Nothing was claimed.
        StoreUnavailable: With MAYBE_EXECUTED also where what was free is claimed, or some places are taken, and the other
            places are not, for whatever reason.
    """
    request, node = asked.request, asked.router.node
    until = node.runtime.request_deadline()
    tag = shown_lease(request.service_name, request.instance_id, request.lease_id)
    record = await node.moves.find(request.service_name, request.instance_id, lease=tag, until=until)
    if has_scopes(record):
        raise InvalidRequest.at("$.role", "an instance that a node serves waits in line by itself")
    wanted = Acquisition(metadata=request.metadata, force=request.force, partial=True)
    done = await commit_claim(
        node.runtime,
        node.committer,
        request.service_name,
        request.instance_id,
        request.resource_ids,
        wanted,
        lease=record.lease,
        until=until,
    )
    waiting = tuple(done.conflicts)
    most = node.runtime.store.capabilities.max_transaction
    done_before = bool(done.registered)
    for at in range(0, len(waiting), most):
        try:
            await _wait_in_line(asked, waiting[at : at + most], record.lease, until)
        except AegisError as exc:
            if not done_before:
                raise
            raise StoreUnavailable(reason=f"not in all lines: {exc}", outcome=Outcome.MAYBE_EXECUTED) from exc
        done_before = True
    return replies.ResourcesRegistered(
        success=True,
        registered=done.registered,
        conflicts={},
        trace_id=asked.trace_id,
        epochs=done.epochs,
        standbys=done.conflicts,
    )


async def _wait_in_line(
    asked: Asked[requests.RegisterResources], resource_ids: Sequence[str], lease: str, until: float
) -> None:
    """Give who has *lease* places in the lines for *resource_ids*; routers promote it when its turn comes."""
    priority, node = asked.request.priority, asked.router.node

    def decide(view: Snapshot) -> Decision[None]:
        joined = [roles.join_line(view, target, lease=lease, priority=priority) for target in resource_ids]
        return Decision(tuple(write for each in joined for write in each.writes), lambda _: None)

    await node.committer.decide(decide, timeout=node.runtime.left(until), what="taking places in lines")


async def release(asked: Asked[requests.ReleaseResources]) -> replies.ResourcesReleased:
    """Free resources."""
    request = asked.request
    await admit(asked, "release", request.instance_id, request.resource_ids)
    done = await asked.router.node.registry.release(
        request.service_name, request.instance_id, *request.resource_ids, lease_id=request.lease_id
    )
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
        lease_id=request.lease_id,
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
        held_before=done.held_before,
    )


async def bulk_release(asked: Asked[requests.BulkRelease]) -> replies.BulkReleased:
    """Free many."""
    request = asked.request
    await admit(asked, "release", request.instance_id, request.resource_ids)
    done = await asked.router.node.registry.bulk_release(
        request.service_name,
        request.instance_id,
        request.resource_ids,
        lease_id=request.lease_id,
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
        lease_id=request.lease_id,
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

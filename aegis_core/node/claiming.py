"""How an instance comes to hold resources: one commit, then its claim table, then ``on_acquire``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import attrs
import trio

from aegis_core.engine import resources
from aegis_core.engine.decision import Decision
from aegis_core.engine.requests import checked_ids
from aegis_core.engine.snapshot import Snapshot
from aegis_core.errors import Forbidden, LeaseLost, ResourceConflict
from aegis_core.models import ClaimReply, EndReason, ResourceMetadata, Value
from aegis_core.node.asking import asker_for
from aegis_core.node.commit import Committer
from aegis_core.node.errands import has_scopes
from aegis_core.node.runtime import Runtime

if TYPE_CHECKING:
    from aegis_core.node.claims import Claim
    from aegis_core.node.holdings import Holdings
    from aegis_core.node.instance import Instance

__all__ = ["Acquisition", "acquire", "check_stays", "commit_claim", "wait_ready"]


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Acquisition(Value):
    """How resources are claimed.

    Args:
        metadata: For all of them, or by id.
        force: Take them from whoever holds them.
        reason: Stored with the record.
        keep: Claim them again when the lease is lost.
        partial: Take what is free and report the rest, instead of all or nothing.
    """

    metadata: ResourceMetadata | Mapping[str, ResourceMetadata] | None = None
    force: bool = False
    reason: str = "claimed"
    keep: bool = True
    partial: bool = False


async def acquire(runtime: Runtime, instance: Instance, ids: Sequence[str], wanted: Acquisition) -> ClaimReply:
    """Claim *ids* and make the claims ready; see `Instance.claim` for what is raised and what cancellation leaves."""
    incarnation = await instance.membership.wait_registered()
    holdings = incarnation.holdings
    targets = checked_ids(ids)
    await _wait_moved(runtime, instance, holdings, targets)
    with holdings.attempt(targets):
        reply = await incarnation.commit_claim(targets, wanted)
        check_stays(instance)
        fresh = holdings.take(reply.registered, keep=False)
    try:
        await holdings.prepare(fresh)
        for target in reply.registered:
            await wait_ready(holdings, target, reply.epochs[target])
        # Those that were ready first may have been lost since. And who is told that it failed owns nothing later either.
        for claim in [check_there(holdings, target, reply.epochs[target]) for target in reply.registered]:
            claim.keep = claim.keep or wanted.keep
    except Exception:  # the service's on_acquire: what this call acquired is released before its caller hears of it
        await runtime.shelter(instance.give_up_now, fresh)  # noqa: ASYNC120 - then cancellation is what counts
        raise
    except BaseException:
        runtime.nursery.start_soon(instance.give_up_now, fresh)
        raise
    return reply


async def _wait_moved(runtime: Runtime, instance: Instance, holdings: Holdings, targets: Sequence[str]) -> None:
    """What is being handed over is not held any more, and not free yet: wait until it is one or the other."""
    clock, until = runtime.clock, runtime.request_deadline()
    for target in targets:
        claim = holdings.table.get(target)
        if claim is None or not claim.moving:
            continue
        with trio.CancelScope(deadline=clock.trio_time(until)) as scope:
            await claim.wait_moved()
        if scope.cancelled_caught:
            why = "it is being released or moved, which takes long"
            raise ResourceConflict(resource_id=target, owner=instance.instance_id, reason=why)


def check_there(holdings: Holdings, target: str, epoch: int) -> Claim:
    """The claim of *target* in the table.

    Raises:
        LeaseLost: It has gone since it was made or found.
    """
    claim = holdings.table.get(target)
    if claim is None:
        raise LeaseLost(resource_id=target, epoch=epoch, reason=holdings.lease.ended or EndReason.RELEASED)
    return claim


async def wait_ready(holdings: Holdings, target: str, epoch: int) -> None:
    """Wait until somebody else's claim that this one found is ready; for an ``own`` block its body sees to that.

    No checkpoint where nothing is waited for: what has been acquired stays acquired.
    """
    claim = check_there(holdings, target, epoch)
    if claim.body is None and not claim.is_ready:
        await claim.wait_ready()
        claim.check()


def check_stays(instance: Instance) -> None:
    """Refuse to acquire for an instance that hands its work over; a record that was written meanwhile is then a stray.

    Raises:
        Forbidden: It does.
    """
    if instance.draining:
        raise Forbidden(operation="claim", target=instance.instance_id, reason="it is draining")


async def commit_claim(
    runtime: Runtime,
    committer: Committer,
    service_name: str,
    instance_id: str,
    ids: Sequence[str],
    wanted: Acquisition,
    *,
    lease: str | None,
    until: float,
    is_own: bool = False,
) -> ClaimReply:
    """The commit of a claim alone: no table, no hooks. For an instance that this node does not serve, it is all there is.

    Args:
        runtime: The node.
        committer: How decisions reach the store.
        service_name: Service of the instance.
        instance_id: The instance.
        ids: One or more.
        wanted: How.
        lease: Tag of the lease that it showed; None believes the name alone.
        until: When to give up, on the node's clock.
        is_own: Whether the instance claims by itself; else the node that serves it, if any does, learns of it by the record.

    Raises:
        AegisError: As it was refused; nothing was claimed.
        StoreUnavailable: See `Committer.decide`.
    """
    audit = None
    if wanted.force:
        runtime.require_own(instance_id, "force", service_name, *ids)
        audit = runtime.audit(reason="claimed by force", requested_by=asker_for(instance_id))

    def decide(view: Snapshot) -> Decision[ClaimReply]:
        known = None if is_own else view.instance(service_name, instance_id)
        return resources.claim(
            view,
            service_name,
            instance_id,
            ids,
            lease=lease,
            metadata=wanted.metadata,
            force=wanted.force,
            admin=wanted.force,
            all_or_nothing=not wanted.partial,
            reason="assigned" if known is not None and has_scopes(known) else wanted.reason,
            limit=runtime.settings.max_resources_per_instance,
            reserved=room.others(),
            max_transaction=runtime.store.capabilities.max_transaction,
            audit=audit,
            now=runtime.clock.now(),
            at=runtime.wall(),
        )

    with runtime.reservations.reserve(service_name, instance_id, ids) as room:
        return await committer.decide(
            decide,
            timeout=runtime.left(until),
            what="the claim",
            refused=lambda reply: reply.conflicts,
            asked_by=instance_id,
        )

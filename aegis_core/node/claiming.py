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
from aegis_core.errors import Forbidden, InstanceNotFound, LeaseLost, NotOwner, ResourceConflict
from aegis_core.models import ClaimReply, EndReason, Outcome, ResourceMetadata, Value
from aegis_core.node.asking import asker_for
from aegis_core.node.errands import has_scopes

if TYPE_CHECKING:
    from aegis_core.node.claims import Claim
    from aegis_core.node.holdings import Holdings
    from aegis_core.node.incarnation import Incarnation
    from aegis_core.node.instance import Instance
    from aegis_core.node.node import Node

__all__ = ["Acquisition", "acquire", "check_stays", "claim_for", "commit_claim", "wait_ready"]


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


async def acquire(node: Node, instance: Instance, ids: Sequence[str], wanted: Acquisition) -> ClaimReply:
    """Claim *ids* and make the claims ready; see `Instance.claim` for what is raised and what cancellation leaves."""
    incarnation = await instance.membership.wait_registered()
    holdings = incarnation.holdings
    targets = checked_ids(ids)
    await _wait_moved(node, instance, holdings, targets)
    with holdings.attempt(targets):
        reply = await commit_claim(node, instance, incarnation, targets, wanted)
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
        await node.runtime.shelter(instance.give_up_now, fresh)  # noqa: ASYNC120 - then cancellation is what counts
        raise
    except BaseException:
        node.runtime.nursery.start_soon(instance.give_up_now, fresh)
        raise
    return reply


async def _wait_moved(node: Node, instance: Instance, holdings: Holdings, targets: Sequence[str]) -> None:
    """What is being handed over is not held any more, and not free yet: wait until it is one or the other."""
    clock, until = node.runtime.clock, node.runtime.clock.now() + node.runtime.settings.request_timeout
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
    node: Node, instance: Instance, incarnation: Incarnation, targets: Sequence[str], wanted: Acquisition
) -> ClaimReply:
    """The commit of a claim alone: no table, no hooks.

    Raises:
        LeaseLost: The lease of *incarnation* ended before the store could be asked; nothing was claimed (REJECTED).
        AegisError: As the claim was refused.
    """
    check_stays(instance)
    audit = None
    if wanted.force:
        node.require_own(instance.instance_id, "force", instance.service.name, *targets)
        audit = instance.audit(reason="claimed by force")
    runtime = node.runtime
    settings = runtime.settings
    with incarnation.holdings.reserve(targets) as room:

        def decide(view: Snapshot) -> Decision[ClaimReply]:
            return resources.claim(
                view,
                instance.service.name,
                instance.instance_id,
                targets,
                lease=incarnation.lease.tag,
                metadata=wanted.metadata,
                force=wanted.force,
                admin=wanted.force,
                all_or_nothing=not wanted.partial,
                reason=wanted.reason,
                limit=settings.max_resources_per_instance,
                reserved=room.others(),
                max_transaction=runtime.store.capabilities.max_transaction,
                audit=audit,
                now=runtime.clock.now(),
                at=runtime.wall(),
            )

        try:
            return await node.committer.decide(
                decide,
                timeout=settings.request_timeout,
                what="the claim",
                refused=lambda reply: reply.conflicts,
                asked_by=instance.instance_id,
            )
        except (InstanceNotFound, NotOwner) as exc:
            ended = incarnation.lease.ended
            if ended is None:
                raise
            raise LeaseLost(resource_id=targets[0], reason=ended, outcome=Outcome.REJECTED) from exc


async def claim_for(
    node: Node,
    service_name: str,
    instance_id: str,
    ids: Sequence[str],
    wanted: Acquisition,
    *,
    lease: str | None,
    until: float,
) -> ClaimReply:
    """Claim *ids* for an instance that this node does not serve: the commit is all there is. See `Registry.claim`.

    Args:
        node: The node.
        service_name: Service of the instance.
        instance_id: The instance.
        ids: One or more.
        wanted: How.
        lease: Tag of the lease that it showed; None believes the name alone.
        until: When to give up, on the node's clock.
    """
    runtime = node.runtime
    audit = None
    if wanted.force:
        node.require_own(instance_id, "force", service_name, *ids)
        audit = node.moves.audit(reason="claimed by force", requested_by=asker_for(instance_id))

    def decide(view: Snapshot) -> Decision[ClaimReply]:
        known = view.instance(service_name, instance_id)
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
        return await node.committer.decide(
            decide,
            timeout=runtime.left(until),
            what="the claim",
            refused=lambda reply: reply.conflicts,
            asked_by=instance_id,
        )

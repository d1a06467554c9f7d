"""Moving ownership between instances: transfer, rebalance.

The owner carries a move out, because only it can end what runs under its claims before anybody else may own them:
check first, then no new work, let the running finish, ``on_release`` while the lease still holds; then one transaction.
For an instance of this node that is done here, another node's is asked (`aegis_core.node.errands`), and for one that was
merely registered the transaction is all there is.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from aegis_core import codec, names
from aegis_core.engine import instances, transfers
from aegis_core.engine.balancing import plan_rebalance
from aegis_core.engine.decision import Audit, Decision, answered
from aegis_core.engine.requests import authentic, failure_of
from aegis_core.engine.snapshot import Snapshot
from aegis_core.errors import (
    AegisError,
    CallTimeout,
    InvalidRequest,
    LeaseLost,
    NotOwner,
    ResourceConflict,
)
from aegis_core.models import EndReason, Failure, ServiceInstance, TransferReply, ids_in_order
from aegis_core.node.asking import asker_for
from aegis_core.node.claims import Claim
from aegis_core.node.errands import has_scopes
from aegis_core.node.holdings import Holdings
from aegis_core.node.reservations import Room
from aegis_core.principals import Principal

if TYPE_CHECKING:
    from aegis_core.node.instance import Instance
    from aegis_core.node.node import Node

__all__ = ["Moves", "transfer_reply"]

_log = logging.getLogger("aegis.transfer")


class Moves:
    """Moves between instances, as one node carries them out or asks for them."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._runtime = node.runtime

    def refuse_under(self, instance: Instance, ids: Sequence[str], operation: str) -> None:
        """Refuse *operation* on *ids* to work that runs under one of their claims: it would wait for its own end.

        Raises:
            InvalidRequest: The current task is a handler or hook under one of them.
        """
        for target in ids:
            claim = instance.claims_table.get(target)
            if claim is not None and claim.is_mine:
                what = f"this handler runs under {names.describe_target(target)}: call {operation} after it has ended"
                raise InvalidRequest.at("$.resource_ids", what)

    async def find(
        self, service_name: str, instance_id: str, *, lease: str | None = None, until: float
    ) -> ServiceInstance:
        """The record of a live instance; *lease* is the tag of the lease that it showed, None believes the name alone.

        Raises:
            InstanceNotFound: None of that name lives.
            NotOwner: It lives by another lease.
        """
        return await self._node.committer.decide(
            lambda view: answered(authentic(view, service_name, instance_id, lease, "find")),
            timeout=self._runtime.left(until),
            what=f"finding {instance_id}",
            writes=False,
        )

    # -- transfer -----------------------------------------------------------------------------------------------

    async def transfer_between(
        self,
        service_name: str,
        resource_ids: Sequence[str],
        source: str,
        to: str,
        *,
        forced: bool,
        reason: str,
        lease: str | None = None,
    ) -> TransferReply:
        """See `Registry.transfer`; *lease* is the tag of the lease that the owner showed."""
        runtime = self._runtime
        until = runtime.request_deadline()
        requested_by = asker_for(source)
        ids = ids_in_order(resource_ids)
        hosted = self._node.hosted_by(service_name, source, lease)
        if forced:
            self._runtime.require_own(source, "force", service_name, *ids)
        elif hosted is not None:
            return await self.transfer(hosted, ids, to=to, reason=reason, requested_by=requested_by)
        else:
            record = await self.find(service_name, source, lease=lease, until=until)
            if has_scopes(record):
                told = str(requested_by)
                params = {"resource_ids": list(ids), "to_instance_id": to, "reason": reason, "requested_by": told}
                answer = await self._node.errands.ask(record, "transfer", params, until=until + runtime.settings.drain)
                return transfer_reply(answer)
        audit = self._runtime.audit(reason=reason, requested_by=requested_by)

        def decide(view: Snapshot) -> Decision[TransferReply]:
            return transfers.transfer(
                view,
                ids,
                service_name=service_name,
                source=source,
                to=to,
                lease=lease,
                force=forced,
                admin=forced,
                all_or_nothing=True,
                limit=runtime.settings.max_resources_per_instance,
                reserved=room.others(),
                max_transaction=runtime.store.capabilities.max_transaction,
                audit=audit,
                at=runtime.wall(),
            )

        with runtime.reservations.reserve(service_name, to, ids) as room:
            return await self._node.committer.decide(decide, timeout=runtime.left(until), what="the transfer")

    async def transfer(
        self, instance: Instance, ids: Sequence[str], *, to: str, reason: str, requested_by: Principal | str
    ) -> TransferReply:
        """See `Instance.transfer`; *ids* may also be role targets."""
        audit = self._runtime.audit(reason=reason, requested_by=requested_by)
        wanted, settings = ids_in_order(ids), self._runtime.settings
        self.refuse_under(instance, wanted, "transfer")

        def check(view: Snapshot) -> Decision[transfers.Transferable]:
            return transfers.check_transfer(
                view,
                wanted,
                service_name=instance.service.name,
                source=instance.instance_id,
                to=to,
                limit=settings.max_resources_per_instance,
                reserved=room.others(),
                max_transaction=self._runtime.store.capabilities.max_transaction,
                now=self._runtime.clock.now(),
            )

        with ExitStack() as stack:
            room = stack.enter_context(self._runtime.reservations.reserve(instance.service.name, to, wanted))
            who = str(requested_by).rpartition(":")[2]
            timeout = settings.request_timeout
            await self._node.committer.check(check, timeout=timeout, what="the transfer", asked_by=who)
            # From here on it is kept, also from who asks next: what has ended for the transfer must not come too late.
            room.promise()
            kept = stack.pop_all()

        async def move() -> TransferReply:
            with kept:
                return await self._move(instance, wanted, to, audit, room)

        return await self._runtime.shelter(move)

    async def _move(
        self, instance: Instance, wanted: Sequence[str], to: str, audit: Audit, room: Room
    ) -> TransferReply:
        holdings = (await instance.membership.wait_registered()).holdings
        failed: list[Failure] = []

        def fail(target: str, code: str, reason: str, owner: str | None = None) -> None:
            failed.append(Failure(resource_id=target, reason=reason, error_code=code, current_owner=owner))

        asked: list[Claim] = []
        for target in wanted:
            claim = holdings.table.get(target)
            if claim is None:
                fail(target, NotOwner.code, f"instance {instance.instance_id!r} does not hold it any more")
            else:
                asked.append(claim)
        moving = holdings.begin(asked)
        begun = frozenset(moving)
        for claim in asked:
            if claim not in begun:
                told = "it is being released or moved already"
                fail(claim.resource_id, ResourceConflict.code, told, instance.instance_id)
        until = self._runtime.clock.now() + self._runtime.settings.drain
        await holdings.wind_down(moving, until=until, reason=EndReason.TRANSFERRED)
        able: list[str] = []
        for claim in moving:
            if claim.ended is not None:
                fail(claim.resource_id, LeaseLost.code, f"its lease ended meanwhile: {claim.ended.value}")
            elif claim.busy:
                fail(claim.resource_id, CallTimeout.code, "work under the claim does not end")
            else:
                able.append(claim.resource_id)
        moved: frozenset[str] = frozenset()
        try:
            reply = await self._give(instance, holdings, able, to, audit, room)
            moved = frozenset(reply.transferred)
        finally:
            for claim in moving:
                reason = EndReason.TRANSFERRED if claim.resource_id in moved else EndReason.RELEASED
                holdings.finish(claim, reason)
        failed += reply.failed
        # Who waits for one of them, and had to let it go for this, may have it again already: under a new revision,
        # so that what was given up here and is still under way finds another one.
        unmoved = frozenset(failure.resource_id for failure in failed)
        await holdings.release_records([c.resource_id for c in moving if c.resource_id in unmoved])
        return TransferReply(
            transfer_id=audit.transfer_id, transferred=reply.transferred, failed=tuple(failed), epochs=reply.epochs
        )

    async def _give(
        self, instance: Instance, holdings: Holdings, targets: Sequence[str], to: str, audit: Audit, room: Room
    ) -> TransferReply:
        """The commit of a transfer, of what nothing runs under any more; what fails is in the reply."""
        if not targets:
            return TransferReply(transfer_id=audit.transfer_id)
        settings = self._runtime.settings

        def decide(view: Snapshot) -> Decision[TransferReply]:
            return transfers.transfer(
                view,
                targets,
                service_name=instance.service.name,
                source=instance.instance_id,
                to=to,
                lease=holdings.lease.tag,
                limit=settings.max_resources_per_instance,
                reserved=room.others(),
                max_transaction=self._runtime.store.capabilities.max_transaction,
                audit=audit,
                at=self._runtime.wall(),
            )

        try:
            return await self._node.committer.decide(
                decide,
                timeout=settings.request_timeout,
                what="the transfer",
                refused=lambda reply: [failure.resource_id for failure in reply.failed],
            )
        except AegisError as exc:
            _log.warning("the transfer of %d resources failed, they are released: %s", len(targets), exc)
            return TransferReply(transfer_id=audit.transfer_id, failed=tuple(failure_of(t, exc) for t in targets))

    # -- rebalance ----------------------------------------------------------------------------------------------

    async def rebalance(self, service_name: str, max_moves: int) -> tuple[TransferReply, ...]:
        """See `Registry.rebalance`."""
        runtime = self._runtime
        if max_moves < 1:
            raise InvalidRequest.at("$.max_moves", f"{max_moves} is not at least 1")

        def plan(view: Snapshot) -> Decision[Mapping[str, str]]:
            now = runtime.clock.now()
            instances.get_service(view, service_name, now=now)
            chosen = runtime.plugins.plan_rebalance(view, service_name, max_moves)
            if chosen is None:
                moves = plan_rebalance(view, service_name, max_moves, now=now)
                chosen = {move.resource_id: move.to_instance_id for move in moves}
            return answered(chosen)

        what, timeout = f"rebalancing {service_name}", runtime.settings.request_timeout
        wanted = await self._node.committer.decide(plan, timeout=timeout, what=what, writes=False)
        routes: dict[tuple[str, str], list[str]] = {}
        for resource_id, to in wanted.items():
            owned = runtime.directory.snapshot.owner(resource_id)
            if owned is not None and owned[1].instance_id != to:
                routes.setdefault((owned[1].instance_id, to), []).append(resource_id)
        most = runtime.store.capabilities.max_transaction - 1
        replies: list[TransferReply] = []
        for (source, to), ids in routes.items():
            for at in range(0, len(ids), most):
                part = ids[at : at + most]
                try:
                    reply = await self.transfer_between(
                        service_name, part, source, to, forced=False, reason="rebalance"
                    )
                except AegisError as exc:
                    _log.warning("%d resources stay at %s: %s", len(part), source, exc)
                    reply = TransferReply(transfer_id="", failed=tuple(failure_of(i, exc) for i in part))
                replies.append(reply)
        return tuple(replies)


def transfer_reply(answer: object) -> TransferReply:
    """The reply that the owner of a transfer sent.

    Raises:
        RemoteError: It is none.
    """
    reply = codec.structure_result(answer, TransferReply)
    assert isinstance(reply, TransferReply)
    return reply

"""Moving ownership off an instance of this node, and what others may ask of it by reserved calls.

The owner carries a move out, because only it can end what runs under its claims before anybody else may own them:
check the target first; then no new work, let the running finish, ``on_release`` while the lease still holds; then one
transaction for all resources and the audit record.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from aegis_core import codec, names
from aegis_core.engine import roles, transfers
from aegis_core.engine.decision import Audit, Decision
from aegis_core.engine.snapshot import Snapshot
from aegis_core.errors import AegisError, InvalidRequest, ResourceNotFound, StoreUnavailable
from aegis_core.hookspecs import Principal, Target
from aegis_core.models import EndReason, Health, Outcome, Role, ServiceInstance, TransferReply, ids_in_order
from aegis_core.node.claims import Claim

if TYPE_CHECKING:
    from aegis_core.node.instance import Instance
    from aegis_core.node.node import Node

__all__ = ["Moves", "OwnersWord", "transfer_reply"]

_log = logging.getLogger("aegis.transfer")


class Moves:
    """Moves off the instances of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._runtime = node.runtime

    def audit(self, *, reason: str, requested_by: str) -> Audit:
        """How a move that begins now is recorded."""
        return Audit(
            transfer_id=f"transfer_{self._runtime.new_id(8)}",
            reason=reason,
            requested_by=requested_by,
            ttl=self._runtime.settings.audit_retention,
        )

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

    async def transfer(
        self, instance: Instance, ids: Sequence[str], *, to: str, reason: str, requested_by: str
    ) -> TransferReply:
        """See `Instance.transfer`; *ids* may also be role targets."""
        audit = self.audit(reason=reason, requested_by=requested_by)
        wanted = ids_in_order(ids)
        self.refuse_under(instance, wanted, "transfer")
        settings = self._runtime.settings

        def check(view: Snapshot) -> Decision[transfers.Transferable]:
            return transfers.check_transfer(
                view,
                wanted,
                service_name=instance.service.name,
                source=instance.instance_id,
                to=to,
                limit=settings.max_resources_per_instance,
                max_transaction=self._runtime.store.capabilities.max_transaction,
                now=self._runtime.clock.now(),
            )

        timeout = settings.request_timeout
        await self._node.committer.decide(check, timeout=timeout, what="the transfer")
        return await self._runtime.shelter(self._move, instance, wanted, to, audit)

    async def _move(self, instance: Instance, wanted: Sequence[str], to: str, audit: Audit) -> TransferReply:
        clock, settings = self._runtime.clock, self._runtime.settings
        incarnation = await instance.wait_registered()
        holdings = incarnation.holdings
        failed: dict[str, str] = {}
        asked: list[Claim] = []
        for target in wanted:
            claim = holdings.table.get(target)
            if claim is None:
                failed[target] = f"instance {instance.instance_id!r} does not hold it any more"
            else:
                asked.append(claim)
        moving = holdings.begin(asked)
        for claim in asked:
            if claim not in moving:
                failed[claim.resource_id] = "it is being released or moved already"
        await holdings.wind_down(moving, until=clock.now() + settings.drain, reason=EndReason.TRANSFERRED)
        able: list[Claim] = []
        for claim in moving:
            if claim.ended is not None:
                failed[claim.resource_id] = f"its lease ended meanwhile: {claim.ended.value}"
            elif claim.busy:
                failed[claim.resource_id] = "work under the claim does not end"
            else:
                able.append(claim)
        targets = tuple(claim.resource_id for claim in able)
        reply = TransferReply(transfer_id=audit.transfer_id)
        reason = EndReason.RELEASED
        if targets:

            def decide(view: Snapshot) -> Decision[TransferReply]:
                return transfers.transfer(
                    view,
                    targets,
                    service_name=instance.service.name,
                    source=instance.instance_id,
                    to=to,
                    lease=incarnation.lease.tag,
                    limit=settings.max_resources_per_instance,
                    max_transaction=self._runtime.store.capabilities.max_transaction,
                    audit=audit,
                    at=self._runtime.wall(),
                )

            try:
                reply = await self._node.committer.decide(decide, timeout=settings.request_timeout, what="the transfer")
                reason = EndReason.TRANSFERRED
            except AegisError as exc:
                _log.warning("the transfer of %d resources failed, they are released: %s", len(targets), exc)
                failed.update(dict.fromkeys(targets, str(exc)))
        for claim in moving:
            holdings.finish(claim, reason if claim in able else EndReason.RELEASED)
        if failed:
            left = [c.resource_id for c in moving if c.resource_id in failed]
            await holdings.release_records(left)
        return TransferReply(
            transfer_id=audit.transfer_id,
            transferred=reply.transferred,
            failed={**reply.failed, **failed},
            epochs=reply.epochs,
        )

    # -- roles --------------------------------------------------------------------------------------------------

    async def set_role(
        self,
        service_name: str,
        role: Role,
        instance_ids: Sequence[str],
        *,
        group: str | None,
        reason: str,
        requested_by: str = "",
    ) -> tuple[str, ...]:
        """See `Registry.set_role`. The node of who holds a role carries the change out, so that two never believe to have it."""
        for instance_id in instance_ids:
            self._node.require_own(instance_id, "set_role", service_name)
        view = self._runtime.directory.snapshot
        await self._node.committer.sync_within(self._runtime.settings.request_timeout)
        shares: dict[str, tuple[ServiceInstance | None, list[str]]] = {}
        for instance_id in ids_in_order(instance_ids):
            holder = self._remote_holder(view, service_name, instance_id, group)
            shares.setdefault("" if holder is None else holder.lease, (holder, []))[1].append(instance_id)
        changed: list[str] = []
        for holder, share in shares.values():
            if holder is None:
                changed += await self._runtime.shelter(
                    self._set_role_here, service_name, role, share, group, reason, requested_by
                )
                continue
            params = {"role": role.value, "instance_ids": share, "group": group or "", "reason": reason}
            answer = await self._node.client.reserved(
                holder,
                "aegis.set_role",
                params,
                timeout=self._runtime.settings.request_timeout,
                principal=Principal("instance", holder.instance_id),
            )
            changed += _strings({"changed": answer}, "changed") if answer else ()
        return tuple(changed)

    def _remote_holder(
        self, view: Snapshot, service_name: str, instance_id: str, group: str | None
    ) -> ServiceInstance | None:
        """Who holds the role that *instance_id* is to have or to leave, if another node serves it."""
        record = view.instance(service_name, instance_id)
        name = group or (record.sticky_active_group if record is not None else None)
        owned = None if name is None else view.owner(names.role_target(service_name, name))
        if owned is None or (service_name, owned[1].instance_id) in self._node.hosted:
            return None
        return owned[1] if owned[1].endpoints else None

    async def _set_role_here(
        self,
        service_name: str,
        role: Role,
        instance_ids: Sequence[str],
        group: str | None,
        reason: str,
        requested_by: str,
    ) -> tuple[str, ...]:
        audit = self.audit(reason=reason, requested_by=requested_by)
        view = self._runtime.directory.snapshot
        leaving: list[Claim] = []
        for instance_id in instance_ids:
            record = view.instance(service_name, instance_id)
            name = group or (record.sticky_active_group if record is not None else None)
            target = "" if name is None else names.role_target(service_name, name)
            holdings = self._node.claimed.get(target)
            if holdings is not None and (
                (role is Role.STANDBY) == (holdings.table[target].instance.instance_id == instance_id)
            ):
                leaving += holdings.begin((holdings.table[target],))
        for claim in leaving:
            claim.relinquish(EndReason.TRANSFERRED)

        def decide(view: Snapshot) -> Decision[tuple[str, ...]]:
            return roles.set_role(
                view,
                service_name,
                role,
                instance_ids,
                group=group,
                admin=True,
                audit=audit,
                at=self._runtime.wall(),
            )

        timeout = self._runtime.settings.request_timeout
        is_open = True
        try:
            changed = await self._node.committer.decide(decide, timeout=timeout, what="the change of role")
            is_open = False
            return changed
        except AegisError as exc:
            is_open = isinstance(exc, StoreUnavailable) and exc.outcome is Outcome.MAYBE_EXECUTED
            raise
        finally:
            for claim in leaving:
                if is_open:  # the change may still arrive: the role is believed in again only once written anew
                    claim.holdings.finish(claim, EndReason.RELEASED)
                else:
                    claim.holdings.settle(claim, EndReason.TRANSFERRED)

    # -- reserved calls -----------------------------------------------------------------------------------------

    async def reserved(
        self, instance: Instance, method: str, params: Mapping[str, object], principal: Principal
    ) -> object:
        """Answer a reserved call: what `method` asks of *instance*, if *principal* may.

        Raises:
            Forbidden: It may not.
            InvalidRequest: No such method, or the parameters do not fit.
        """
        operation = method.removeprefix("aegis.")
        ids: tuple[str, ...] = (
            _strings(params, "resource_ids") if operation in {"transfer", "release", "explain"} else ()
        )
        target = Target(service_name=instance.service.name, instance_id=instance.instance_id, resource_ids=ids)
        self._node.require(principal, operation, target)
        match operation:
            case "transfer":
                reply = await self.transfer(
                    instance,
                    ids,
                    to=_string(params, "to_instance_id"),
                    reason=_string(params, "reason"),
                    requested_by=str(principal),
                )
                return {
                    "transfer_id": reply.transfer_id,
                    "transferred": list(reply.transferred),
                    "failed": dict(reply.failed),
                    "epochs": dict(reply.epochs),
                }
            case "release":
                claims = [c for i in ids if (c := instance.claims_table.get(i)) is not None]
                await instance.give_up_all(claims)
                return [claim.resource_id for claim in claims]
            case "set_role":
                return list(
                    await self._set_role_here(
                        instance.service.name,
                        Role(_string(params, "role")),
                        _strings(params, "instance_ids"),
                        _string(params, "group") or None,
                        _string(params, "reason"),
                        str(principal),
                    )
                )
            case "drain":
                await instance.hand_over()
                return None
            case "set_health":
                await instance.set_health(Health(_string(params, "health")), _string(params, "reason"))
                return None
            case "explain":
                resource_id = next(iter(ids))
                claim = instance.claims_table.get(resource_id)
                if claim is None:
                    raise ResourceNotFound(resource_id=resource_id, service_name=instance.service.name)
                idle = self._runtime.clock.now() - claim.last_used
                return {"calls": claim.calls, "idle": idle if claim.calls else None, "running": claim.running}
            case _:
                raise InvalidRequest.at("$.method", f"{method} is not a reserved method")


def _string(params: Mapping[str, object], key: str) -> str:
    value = params.get(key, "")
    if not isinstance(value, str):
        raise InvalidRequest.at(f"$.params.{key}", f"expected str, got {type(value).__name__}")
    return value


def _strings(params: Mapping[str, object], key: str) -> tuple[str, ...]:
    value = params.get(key)
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise InvalidRequest.at(f"$.params.{key}", "expected a list of at least one resource id")
    return tuple(value)


@attrs.frozen
class OwnersWord:
    """What the owner of a resource tells of its calls: how many, and seconds since the last (None: there was none)."""

    calls: int
    running: int
    idle: float | None = None


def transfer_reply(answer: object) -> TransferReply:
    """The reply that the owner of a transfer sent.

    Raises:
        RemoteError: It is none.
    """
    reply = codec.structure_result(answer, TransferReply)
    assert isinstance(reply, TransferReply)
    return reply

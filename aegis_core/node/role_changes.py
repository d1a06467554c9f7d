"""Making instances ACTIVE or STANDBY by request.

The node of who holds a role carries the change out: it ends its belief first, and commits then, so that two never
believe to have it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from aegis_core import names
from aegis_core.engine import roles
from aegis_core.engine.decision import Decision
from aegis_core.engine.snapshot import Snapshot
from aegis_core.errors import AegisError, StoreUnavailable
from aegis_core.models import EndReason, Outcome, Role, ServiceInstance, ids_in_order
from aegis_core.node.asking import asker_for
from aegis_core.node.claims import Claim
from aegis_core.node.errands import has_scopes

if TYPE_CHECKING:
    from aegis_core.node.node import Node

__all__ = ["RoleChanges"]


class RoleChanges:
    """Changes of role, as one node carries them out or asks for them."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._runtime = node.runtime

    async def set_role(
        self, service_name: str, role: Role, instance_ids: Sequence[str], *, group: str | None, reason: str
    ) -> tuple[str, ...]:
        """See `Registry.set_role`."""
        runtime, wanted = self._runtime, ids_in_order(instance_ids)
        until = runtime.request_deadline()
        for instance_id in wanted:
            self._runtime.require_own(instance_id, "set_role", service_name)
        requested_by = str(asker_for(", ".join(wanted)))
        decide = self._decision(service_name, role, wanted, group, reason, requested_by)
        await self._node.committer.check(decide, timeout=runtime.left(until), what="the change of role")
        shares: dict[str, tuple[ServiceInstance | None, list[str]]] = {}
        for instance_id in wanted:
            holder = self._remote_holder(service_name, instance_id, group)
            shares.setdefault("" if holder is None else holder.lease, (holder, []))[1].append(instance_id)
        changed: list[str] = []
        for holder, share in shares.values():
            if holder is None:
                changed += await self.carry_out(
                    service_name, role, share, group=group, reason=reason, requested_by=requested_by
                )
            else:
                params = {
                    "role": role.value,
                    "instance_ids": share,
                    "group": group or "",
                    "reason": reason,
                    "requested_by": requested_by,
                }
                answer = await self._node.errands.ask(holder, "set_role", params, until=until)
                changed += answer if isinstance(answer, list) else ()
        return tuple(instance_id for instance_id in wanted if instance_id in changed)

    async def carry_out(
        self,
        service_name: str,
        role: Role,
        instance_ids: Sequence[str],
        *,
        group: str | None,
        reason: str,
        requested_by: str,
    ) -> tuple[str, ...]:
        """Change roles that nobody, an instance of this node, or one without scopes holds. Cancelled, that goes on.

        Raises:
            StoreUnavailable: With MAYBE_EXECUTED, who held a role here has given it up all the same.
        """
        decide = self._decision(service_name, role, instance_ids, group, reason, requested_by)
        targets = self._targets(service_name, instance_ids, group)
        return await self._runtime.shelter(self._carry_out, role, targets, decide)

    async def _carry_out(
        self, role: Role, targets: Mapping[str, str], decide: Callable[[Snapshot], Decision[tuple[str, ...]]]
    ) -> tuple[str, ...]:
        leaving: list[Claim] = []
        for instance_id, target in targets.items():
            holdings = self._node.claimed.get(target)
            if holdings is not None:
                claim = holdings.table[target]
                if (role is Role.STANDBY) == (claim.instance.instance_id == instance_id):
                    leaving += holdings.begin((claim,))
        for claim in leaving:
            claim.relinquish(EndReason.TRANSFERRED)
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
                if is_open:
                    # It may still come to be, so nobody here may believe in the role again. Its record is deleted when
                    # the store answers, and what is late finds another revision then.
                    claim.holdings.finish(claim, EndReason.RELEASED)
                else:
                    claim.holdings.settle(claim, EndReason.TRANSFERRED)

    def _decision(
        self,
        service_name: str,
        role: Role,
        instance_ids: Sequence[str],
        group: str | None,
        reason: str,
        requested_by: str,
    ) -> Callable[[Snapshot], Decision[tuple[str, ...]]]:
        audit = self._runtime.audit(reason=reason, requested_by=requested_by)

        def decide(view: Snapshot) -> Decision[tuple[str, ...]]:
            return roles.set_role(
                view, service_name, role, instance_ids, group=group, admin=True, audit=audit, at=self._runtime.wall()
            )

        return decide

    def _targets(self, service_name: str, instance_ids: Sequence[str], group: str | None) -> dict[str, str]:
        """The role group of each instance, as far as the view knows."""
        found: dict[str, str] = {}
        for instance_id in instance_ids:
            record = self._runtime.directory.snapshot.instance(service_name, instance_id)
            name = group or (record.sticky_active_group if record is not None else None)
            if name is not None:
                found[instance_id] = names.role_target(service_name, name)
        return found

    def _remote_holder(self, service_name: str, instance_id: str, group: str | None) -> ServiceInstance | None:
        """Who holds the role that *instance_id* is to have or to leave, if another node serves it."""
        (target,) = self._targets(service_name, (instance_id,), group).values()
        owned = self._runtime.directory.snapshot.owner(target)
        if owned is None or (service_name, owned[1].instance_id) in self._node.hosted:
            return None
        return owned[1] if has_scopes(owned[1]) else None

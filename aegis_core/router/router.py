"""A router: a node, and what it takes to do things for clients that are none."""

from __future__ import annotations

from typing import Final

from aegis_core.engine.decision import answered
from aegis_core.engine.requests import authentic
from aegis_core.names import lease_proof, lease_tag
from aegis_core.node.node import Node
from aegis_core.principals import Principal, Target

__all__ = ["Router"]


class Router:
    """Does things in the name of clients. It keeps nothing that the store lacks, so any number may run side by side.

    Args:
        node: Its view, its registry operations and its calls are the router's.
    """

    def __init__(self, node: Node) -> None:
        self.node: Final = node

    def __repr__(self) -> str:
        return f"<Router on {self.node!r}>"

    def permit(self, principal: Principal | None, operation: str, target: Target) -> None:
        """Let *principal* do *operation*; None may do what concerns one instance alone.

        Raises:
            Forbidden: It may not.
        """
        if principal is not None:
            self.node.require(principal, operation, target)

    async def admit(
        self, principal: Principal | None, operation: str, target: Target, *, lease_id: str | None = None
    ) -> None:
        """`permit` what concerns the instance that *target* names, unless it shows its lease.

        Raises:
            Forbidden: *principal* may not.
            NotOwner: The instance lives by another lease than that of *lease_id*.
            InstanceNotFound: It shows a lease, and does not live.
        """
        if lease_id is None:
            self.permit(principal, operation, target)
            return
        service, name = target.service_name, target.instance_id
        tag, runtime = lease_tag(lease_proof(service, name, lease_id)), self.node.runtime
        known = runtime.directory.snapshot.instance(service, name)
        if known is None or known.lease != tag:
            await self.node.committer.decide(
                lambda view: answered(authentic(view, service, name, tag, operation)),
                timeout=runtime.settings.request_timeout,
                what=f"the lease of {name}",
                writes=False,
            )

"""All that a router offers beside its store, for the faces that people look at: operations by name, and events."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from types import MappingProxyType
from typing import Any, Final

from aegis_core.events import Event
from aegis_core.node.subscription import EventStream
from aegis_core.principals import Principal, Target
from aegis_core.router.administration import ADMINISTRATION
from aegis_core.router.operation import Operation
from aegis_core.router.operations import OPERATIONS
from aegis_core.router.router import Router

__all__ = ["Management"]


class Management:
    """What *router* does for whoever asks it by name.

    Args:
        router: Who does it.
    """

    def __init__(self, router: Router) -> None:
        self._router: Final = router
        self.operations: Final[Mapping[str, Operation[Any, Any]]] = MappingProxyType({**OPERATIONS, **ADMINISTRATION})

    def __repr__(self) -> str:
        return f"<Management by {self._router!r}>"

    @property
    def revision(self) -> int:
        """How far the router knows its store: of all that happened up to here, events have been told."""
        return self._router.node.runtime.directory.snapshot.revision

    @property
    def newest(self) -> int:
        """The revision of the newest event: what the router did itself it may have told ahead of what others did before."""
        return self._router.node.runtime.directory.newest

    async def sync(self) -> None:
        """Wait until the router knows all of its store that anybody knew before this call.

        Raises:
            StoreUnavailable: The store does not answer, or was set back meanwhile.
        """
        await self._router.node.runtime.directory.sync()

    async def run(self, principal: Principal, name: str, request: object, *, traceparent: str = "") -> object:
        """Carry out the operation *name* for *principal*, and answer its reply; see `Operation.carry_out`."""
        return await self.operations[name].carry_out(self._router, request, principal, traceparent=traceparent)

    def events(
        self, principal: Principal, *, service: str | None = None, resource_id: str | None = None
    ) -> AbstractAsyncContextManager[EventStream[Event]]:
        """The events from now on, while the block runs; see `Node.events`.

        Raises:
            Forbidden: *principal* may not.
        """
        target = Target(service_name=service or "", resource_ids=() if resource_id is None else (resource_id,))
        self._router.permit(principal, "events", target)
        return self._router.node.events(service=service, resource_id=resource_id)

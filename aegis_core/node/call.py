"""What a handler is told about the call that it serves."""

from __future__ import annotations

import contextvars
import math
from typing import TYPE_CHECKING, Any, Final

import attrs

from aegis_core.models import Shown

if TYPE_CHECKING:
    from aegis_core.node.claims import Claim
    from aegis_core.node.instance import Instance

__all__ = ["Call", "current_call"]


# Not frozen: one is made for each call, and freezing would double what that costs.
@attrs.define(eq=False, repr=False)
class Call(Shown):
    """One call, as its handler sees it. Every field has a default, so that a test can call a handler by hand.

    Args:
        service_name: The service that was called.
        method: The name under which the method was called.
        resource_id: The resource that the call concerns, or None.
        epoch: Fencing number under which the resource is held now; pass it to your storage with each write. 0 without resource.
        trace_id: The same for all calls that one outermost call led to.
        deadline: When the caller stops waiting, on Trio's clock; the handler is cancelled then. `math.inf` for never.
        message_id: Names this call; the same in each attempt to deliver it, and no other call's.
        idempotency_key: As the caller gave it, or None. One instance executes a key once (per service, method and
            resource, for 300 s); over a change of owner only your own state can know it.
        claim: The claim that the handler runs under; None without resource.
        state: What ``on_acquire`` returned, or `Claim.set_ready` was given; None without resource.
        instance: The instance that serves the call; None in a call made by hand.
        principal: Who calls, where the transport established it. None does so yet, so in a call that is served it is "":
            what a request says of its sender is never taken for it.
    """

    service_name: str = ""
    method: str = ""
    resource_id: str | None = None
    epoch: int = 0
    trace_id: str = ""
    deadline: float = math.inf
    message_id: str = ""
    idempotency_key: str | None = None
    claim: Claim | None = None
    state: Any = None  # The user's own, of whatever type ``on_acquire`` returns.
    instance: Instance | None = None
    principal: str = ""


current_call: Final[contextvars.ContextVar[Call | None]] = contextvars.ContextVar("aegis_current_call", default=None)
"""The call that the current task, or a task that it descends from, is serving: what nested calls inherit."""

"""A call that a node of a test's cluster sends, and how far it came."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs

from aegis_core.envelopes import RequestEnvelope
from aegis_core.errors import Unavailable
from aegis_pytest.handled_call import HandledCall, show_request
from aegis_pytest.telling import brief, show_time

__all__ = ["SentCall"]

_LONGEST: Final = 100
"""Characters of each part of a description: all of them are there, however long one is."""


@attrs.define(eq=False)
class SentCall:
    """A call on its way, over all its attempts. `CallLog.sent` makes it, and the transport of its caller tells how it goes.

    Args:
        node: The caller's.
        endpoint: Where its last attempt went.
        request: What is asked.
        at: When it was first sent, on Trio's clock.
        is_dead: Whether the caller's node was killed: nobody waits there any more.
        fate: How the last attempt stands, in words; "" while it waits for its answer.
        given_up: Its caller stopped waiting: it was cancelled, or the instance's lease ended.
        attempts: What instances of the cluster received of it.
        repeated: The calls that it `is_like` and that had ended without an answer before.
    """

    node: str
    endpoint: str
    request: RequestEnvelope
    at: float
    is_dead: Callable[[], bool]
    fate: str = ""
    given_up: bool = False
    attempts: list[HandledCall] = attrs.field(factory=list)
    repeated: tuple[SentCall, ...] = ()

    @property
    def message_id(self) -> str:
        """The same in each attempt."""
        return self.request.message_id or self.request.trace_id

    def is_like(self, other: SentCall) -> bool:
        """Whether the same node asks the same with the same idempotency key, be it of another instance."""
        one, two = self.request, other.request
        return (
            self.node == other.node
            and one.idempotency_key is not None
            and one.idempotency_key == two.idempotency_key
            and (one.service_name, one.method, one.resource_id) == (two.service_name, two.method, two.resource_id)
            and one.params == two.params
        )

    def how_lost(self) -> str | None:
        """How far it came, its caller having no answer; None if that is all right."""
        begun = [call for call in self.attempts if not call.refused]
        fate = brief(self.fate, _LONGEST)
        if not begun:
            return f"no instance has handled it ({fate or 'it was not received'})"
        last = begun[-1]
        who = brief(f"{last.instance_id} on node {last.node}", _LONGEST)
        if not last.answered:
            return f"{who} has not answered it"
        if self.given_up:
            return None
        what = "was interrupted in it" if isinstance(last.error, Unavailable) else "has handled it"
        return f"{who} {what}, and its answer did not reach the caller ({fate or 'it is under way'})"

    def describe(self, began: float) -> str:
        """What was asked, by whom and when, in seconds since *began*."""
        sent = f"sent by node {self.node} at {show_time(self.at - began)}"
        return f"{brief(show_request(self.request), _LONGEST)}, {brief(sent, _LONGEST)}"

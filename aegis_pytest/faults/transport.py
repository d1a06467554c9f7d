"""A transport as one node of a faulty cluster has it."""

from __future__ import annotations

import contextvars
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import attrs
import trio

from aegis_core.backend import Inbound, Transport, TransportUnavailable
from aegis_core.models import Outcome
from aegis_pytest.faults.member import Member
from aegis_pytest.wrapped_transport import WrappedTransport

if TYPE_CHECKING:
    from aegis_pytest.faults.plane import FaultPlane

__all__ = ["FaultyInbound", "FaultyTransport"]


@attrs.frozen(eq=False)
class FaultyInbound:
    """A request that arrived at *member*, which may be stopped or dead before it answers."""

    _request: Inbound
    _member: Member

    @property
    def payload(self) -> bytes:
        """The request's bytes."""
        return self._request.payload

    def respond(self, payload: bytes) -> None:
        """Answer: now, when the node goes on, or never if it is dead."""
        self._member.when_running(lambda: self._request.respond(payload))


class FaultyTransport(WrappedTransport):
    """*transport*, over ways that can be cut, slow or lossy, for a node that can be stopped or dead."""

    def __init__(self, transport: Transport, plane: FaultPlane, member: Member) -> None:
        super().__init__(transport)
        self._plane = plane
        self._member = member

    def __repr__(self) -> str:
        return f"<FaultyTransport of {self._member.name!r} on {self._transport!r}>"

    @asynccontextmanager
    async def listen(self, instance_id: str, tag: str, receive: Callable[[Inbound], None]) -> AsyncIterator[str]:
        """As the transport. Requests to a stopped node wait for it, in order; to a dead one, they are lost.

        Raises:
            TransportUnavailable: The node is dead.
        """
        member = self._member
        if member.is_dead:
            await trio.lowlevel.checkpoint()
            raise self._unavailable("", f"node {member.name!r} is dead", Outcome.NOT_SENT)
        # What waited for a node to go on is received by whoever lets it: in the listener's context all the same.
        context = contextvars.copy_context()

        def arrive(request: Inbound) -> None:
            member.when_running(lambda: context.run(receive, FaultyInbound(request, member)))

        async with self._transport.listen(instance_id, tag, arrive) as endpoint:
            self._plane.listen_at(endpoint, member)
            try:
                yield endpoint
            finally:
                self._plane.leave(endpoint)

    async def request(self, endpoint: str, payload: bytes, *, timeout: float) -> bytes:
        """As the transport, if the way there and the way back allow.

        Raises:
            TransportUnavailable: As the transport says; the other node is dead, or this one.
            trio.TooSlowError: The request or the answer was lost, or is late.
            ValueError: As the transport says.
        """
        member, plane = self._member, self._plane
        if member.is_dead:
            await trio.lowlevel.checkpoint()
            raise self._unavailable(endpoint, f"node {member.name!r} is dead", Outcome.NOT_SENT)
        with member.living():
            deadline = trio.current_time() + timeout
            with trio.move_on_after(timeout):
                await plane.wait_running(member)
                callee = plane.member_at(endpoint)
                if callee is None:
                    return await self._transport.request(endpoint, payload, timeout=timeout)
                await plane.carry(member.name, callee.name)
                if callee.is_dead:
                    await trio.lowlevel.checkpoint()
                    raise self._unavailable(endpoint, f"node {callee.name!r} is dead", Outcome.NOT_SENT)
                doubled = plane.doubles(member.name, callee.name)
                if doubled is not None:
                    plane.send(self._ask, endpoint, payload, timeout, after=doubled.after)
                answer = await self._ask(endpoint, payload, max(0.0, deadline - trio.current_time()))
                await plane.carry(callee.name, member.name)
                await plane.wait_running(member)
                return answer
            await plane.wait_running(member)
            raise trio.TooSlowError(f"no answer from {endpoint} within {timeout:g} s")
        raise self._unavailable(endpoint, f"node {member.name!r} is dead", Outcome.MAYBE_EXECUTED)

    async def _ask(self, endpoint: str, payload: bytes, timeout: float) -> bytes:
        return await self._transport.request(endpoint, payload, timeout=timeout)

    def _unavailable(self, endpoint: str, reason: str, outcome: Outcome) -> TransportUnavailable:
        return TransportUnavailable(reason=reason, endpoint=endpoint, outcome=outcome)

"""A transport of one node, on which every call that passes is entered in the cluster's log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext

import attrs
import trio

from aegis_core.backend import Backend, Inbound, Transport, TransportUnavailable
from aegis_core.served import Served
from aegis_pytest.call_log import CallLog, read_call
from aegis_pytest.faults.member import Member
from aegis_pytest.handled_call import HandledCall
from aegis_pytest.telling import show_time
from aegis_pytest.wrapped_transport import WrappedTransport

__all__ = ["TappedTransport", "tap"]


def tap(backend: Backend, log: CallLog, member: Member | None) -> Backend:
    """*backend* as its node *member* has it, with what it serves and its calls entered in *log*."""
    assert member is not None, "it is attached"
    transports = (TappedTransport(it, log, member) for it in backend.transports)

    def announce(served: Served) -> AbstractContextManager[None]:
        log.known.serve(served)
        return nullcontext() if backend.announce is None else backend.announce(served)

    return attrs.evolve(backend, transports=tuple(transports), announce=announce)


@attrs.frozen(eq=False)
class _TappedInbound:
    """A request whose answer is entered, too."""

    _request: Inbound
    _call: HandledCall
    _log: CallLog
    _member: Member

    @property
    def payload(self) -> bytes:
        """The request's bytes."""
        return self._request.payload

    def respond(self, payload: bytes) -> None:
        """Answer; what a dead node says, nobody hears."""
        if not self._member.is_dead:
            self._log.answered(self._call, payload)
        self._request.respond(payload)


class TappedTransport(WrappedTransport):
    """*transport*, as node *member* has it; what it carries is entered in *log*.

    Args:
        transport: The node's own, with all that is wrong with it.
        log: The cluster's.
        member: The node, in one life of it.
    """

    def __init__(self, transport: Transport, log: CallLog, member: Member) -> None:
        super().__init__(transport)
        self._log = log
        self._member = member

    def __repr__(self) -> str:
        return f"<TappedTransport of {self._member.name!r} on {self._transport!r}>"

    @asynccontextmanager
    async def listen(self, instance_id: str, tag: str, receive: Callable[[Inbound], None]) -> AsyncIterator[str]:
        """As the transport."""

        def take(inbound: Inbound) -> None:
            request = read_call(inbound.payload)
            if request is None:
                receive(inbound)
            else:
                call = self._log.received(self._member.name, instance_id, request)
                receive(_TappedInbound(inbound, call, self._log, self._member))

        async with self._transport.listen(instance_id, tag, take) as endpoint:
            with self._log.listening(endpoint):
                yield endpoint

    async def request(self, endpoint: str, payload: bytes, *, timeout: float) -> bytes:
        """As the transport."""
        request = read_call(payload)
        if request is None:
            return await self._transport.request(endpoint, payload, timeout=timeout)
        call = self._log.sent(self._member.name, endpoint, request, lambda: self._member.is_dead)
        try:
            answer = await self._transport.request(endpoint, payload, timeout=timeout)
        except BaseException as exc:
            if isinstance(exc, trio.Cancelled):
                self._log.ended(call, "its caller stopped waiting", given_up=True)
            elif isinstance(exc, TransportUnavailable):
                self._log.ended(call, exc.reason)
            else:
                self._log.ended(call, f"no answer within {show_time(timeout)}")
            raise
        self._log.came(call, answer)
        return answer

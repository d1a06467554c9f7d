"""One incarnation of an instance, as the calls of this node see it: where it is, how busy, and whether it answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from aegis_core import codec
from aegis_core.errors import AegisError, CallTimeout, InvalidRequest, NoInstance, Overloaded, TransportUnavailable
from aegis_core.models import Outcome, ServiceInstance
from aegis_core.node.breaker import CircuitBreaker, CircuitState

if TYPE_CHECKING:
    from aegis_core.node.runtime import Runtime

__all__ = ["Peer"]


class Peer:
    """Sends requests to one incarnation of an instance, at most so many at once, and none while its circuit is open.

    Args:
        runtime: The node.
        instance: Its record.
        on_change: Called with this peer, the old and the new state when its circuit changes.

    Raises:
        TransportUnavailable: It has no endpoint that this node has a transport for (NOT_SENT).
    """

    __slots__ = (
        "_endpoint",
        "_limit",
        "_transport",
        "_watching",
        "breaker",
        "instance",
        "pending",
    )

    def __init__(
        self,
        runtime: Runtime,
        instance: ServiceInstance,
        on_change: Callable[[Peer, CircuitState, CircuitState], None],
    ) -> None:
        for endpoint in instance.endpoints:
            transport = runtime.transports.get(endpoint.partition(":")[0])
            if transport is not None:
                break
        else:
            raise TransportUnavailable(
                reason=f"this node has transports for {', '.join(runtime.transports) or 'nothing'}, "
                f"it listens on {', '.join(instance.endpoints) or 'nothing'}",
                endpoint=f"instance {instance.instance_id!r}",
            )
        circuit = runtime.settings.circuit
        self.instance = instance
        self.pending = 0
        self.breaker = CircuitBreaker(
            runtime.clock,
            threshold=circuit.failures,
            cooldown=circuit.cooldown,
            on_change=lambda old, new: on_change(self, old, new),
        )
        self._transport = transport
        self._endpoint = endpoint
        self._limit = runtime.settings.limits.per_instance
        self._watching: dict[trio.CancelScope, None] = {}

    def __repr__(self) -> str:
        return f"<Peer {self._endpoint}: {self.pending} pending, circuit {self.breaker.state.value}>"

    async def request(self, payload: bytes, timeout: float) -> object:
        """Send *payload*, and return the result that is answered.

        Cancelled, it leaves no trace here; the request may still be carried out.

        Raises:
            NoInstance: Its circuit is open (NOT_SENT).
            Overloaded: This node has too many requests under way to it; nothing was sent.
            InvalidRequest: *payload* is too large for the transport.
            TransportUnavailable: As the transport says; MAYBE_EXECUTED when its lease ended meanwhile.
            trio.TooSlowError: No answer within *timeout* seconds.
            AegisError: What was answered, with `answered_by`.
        """
        if self.pending >= self._limit:
            what = f"this node's way to instance {self.instance.instance_id!r}"
            raise Overloaded(limit=self._limit, asked=self.pending + 1, what=what)
        if len(payload) > self._transport.max_payload:
            why = f"{len(payload)} bytes are more than the {self._transport.max_payload} that the transport carries"
            raise InvalidRequest.at("$.params", why)
        breaker = self.breaker
        if not breaker.allow():
            reason = f"the circuit of {self.instance.instance_id} is open after repeated failures"
            raise NoInstance(service_name=self.instance.service_name, reason=reason)
        self.pending += 1
        try:
            if timeout > self.instance.heartbeat_interval:
                answer = await self._request_watched(payload, timeout)
            else:
                answer = await self._transport.request(self._endpoint, payload, timeout=timeout)
        except (TransportUnavailable, trio.TooSlowError):
            breaker.failure()
            raise
        except BaseException:
            breaker.withdraw()
            raise
        finally:
            self.pending -= 1
        try:
            result = codec.decode_result(answer)
        except AegisError as exc:
            exc.answered_by = self.instance.instance_id
            # Whose clock ends a call first is chance; a peer that lets calls run out of time is in trouble either way.
            breaker.failure() if isinstance(exc, CallTimeout) else breaker.success()
            raise
        breaker.success()
        return result

    async def _request_watched(self, payload: bytes, timeout: float) -> bytes:
        """`request` for a call that may outlive the lease of a dead instance, so that it fails when that ends.

        A shorter call would win less than a heartbeat interval, and pay for a cancel scope each time.
        """
        with trio.CancelScope() as scope:
            self._watching[scope] = None
            try:
                return await self._transport.request(self._endpoint, payload, timeout=timeout)
            finally:
                del self._watching[scope]
        raise TransportUnavailable(
            reason="its lease ended before it answered",
            endpoint=self._endpoint,
            outcome=Outcome.MAYBE_EXECUTED,
        )

    def leave(self) -> None:
        """Its lease ended: fail the requests that are watched for it."""
        for scope in self._watching:
            scope.cancel()

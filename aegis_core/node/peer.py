"""The instances that this node calls: where they are, how busy, and whether they answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

import trio

from aegis_core import codec, names
from aegis_core.errors import AegisError, CallTimeout, InvalidRequest, NoInstance, Overloaded, TransportUnavailable
from aegis_core.events import CircuitStateChanged
from aegis_core.models import Outcome, ServiceInstance
from aegis_core.node.breaker import CircuitBreaker, CircuitState

if TYPE_CHECKING:
    from aegis_core.node.runtime import Runtime, Way

__all__ = ["Peer", "Peers", "circuits_open"]


_MOST_SHOWN: Final = 5
_LAST_ANSWERS: Final = 1.0


class Peer:
    """One incarnation of an instance; takes at most so many requests at once, and none while its circuit is open.

    Args:
        runtime: The node.
        instance: Its record.
        on_change: Called with this peer, the old and the new state when its circuit changes.

    Raises:
        TransportUnavailable: It has no endpoint that this node has a transport for (NOT_SENT).
    """

    __slots__ = ("_endpoint", "_limit", "_transport", "_watching", "breaker", "instance", "pending")

    def __init__(
        self,
        runtime: Runtime,
        instance: ServiceInstance,
        on_change: Callable[[Peer, CircuitState, CircuitState], None],
    ) -> None:
        transport, endpoint = _way(runtime, instance)
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

    async def request(self, payload: bytes, timeout: float, method: str) -> object:
        """Send *payload*, a request of *method*, and return the result that is answered.

        Cancelled, it leaves no trace here; the request may still be carried out.

        Raises:
            NoInstance, Overloaded, InvalidRequest: See `send`.
            TransportUnavailable: As the transport says; MAYBE_EXECUTED when its lease ended meanwhile.
            trio.TooSlowError: No answer within *timeout* seconds.
            AegisError: What was answered, with `answered_by`.
        """
        waiting = self.send(payload, timeout)
        try:
            answer = await waiting
        except BaseException as exc:
            self.failed(exc)
            raise
        return self.answered(answer, method)

    def send(self, payload: bytes, timeout: float) -> Awaitable[bytes]:
        """Begin a request: its answer to be awaited. How that ends must be told to `answered` or `failed`.

        Raises:
            NoInstance: The circuit is open (NOT_SENT).
            Overloaded: This node has too many requests under way to it; nothing was sent.
            InvalidRequest: *payload* is too large for the transport.
        """
        if self.pending >= self._limit:
            what = f"this node's way to instance {self.instance.instance_id!r}"
            raise Overloaded(limit=self._limit, asked=self.pending + 1, what=what)
        if len(payload) > self._transport.max_payload:
            why = f"{len(payload)} bytes are more than the {self._transport.max_payload} that the transport carries"
            raise InvalidRequest.at("$.params", why)
        if not self.breaker.allow():
            raise circuits_open((self,))
        self.pending += 1
        if timeout > self.instance.heartbeat_interval:
            return self._request_watched(payload, timeout)
        return self._transport.request(self._endpoint, payload, timeout=timeout)

    def failed(self, exc: BaseException) -> None:
        """A request ended in *exc*, without an answer."""
        self.pending -= 1
        if isinstance(exc, TransportUnavailable | trio.TooSlowError):
            self.breaker.failure()
        else:
            self.breaker.withdraw()

    def answered(self, answer: bytes, method: str) -> object:
        """A request of *method* was answered with *answer*: the result in it.

        Raises:
            AegisError: The error in it, with `answered_by`, and with a note of who answered what.
        """
        self.pending -= 1
        try:
            result = codec.decode_result(answer)
        except AegisError as exc:
            exc.answered_by = self.instance.instance_id
            exc.add_note(f"answered by instance {exc.answered_by!r} to {self.instance.service_name}.{method}")
            if isinstance(exc, CallTimeout):
                # Whose clock ends a call first is chance; who lets calls run out of time is in trouble either way.
                self.breaker.failure()
            else:
                self.breaker.success()
            raise
        self.breaker.success()
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
        """Its lease ended: fail the requests that are watched for it, once answers on the way have had time to come.

        Who leaves in order answers all that it gets, and the news of its leaving may be faster than its answers.
        """
        for scope in self._watching:
            scope.deadline = trio.current_time() + _LAST_ANSWERS


def _way(runtime: Runtime, instance: ServiceInstance) -> tuple[Way, str]:
    for endpoint in instance.endpoints:
        scheme = endpoint.partition(":")[0]
        way = runtime.transports.get(scheme) or runtime.callers.get(scheme)
        if way is not None:
            return way, endpoint
    if runtime.inboxes is not None and not instance.endpoints:
        return runtime.inboxes, runtime.inboxes.endpoint(instance.instance_id, "")
    raise TransportUnavailable(
        reason=f"this node has transports for {', '.join([*runtime.transports, *runtime.callers]) or 'nothing'}, "
        f"it listens on {', '.join(instance.endpoints) or 'nothing'}",
        endpoint=f"instance {instance.instance_id!r}",
    )


class Peers:
    """All peers of one node.

    Args:
        runtime: The node.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.known: dict[str, Peer] = {}
        self.troubled: dict[Peer, None] = {}
        self._runtime = runtime
        self._by_name: dict[tuple[str, str], Peer] = {}
        runtime.touched.append(self._touched)

    def __repr__(self) -> str:
        return f"<Peers: {len(self.known)}, {sum(peer.pending for peer in self.known.values())} requests pending>"

    def pending(self, instance: ServiceInstance) -> int:
        """How many requests of this node *instance* has not answered yet."""
        peer = self.known.get(instance.lease)
        return 0 if peer is None else peer.pending

    def in_flight(self) -> Counter[str]:
        """How many requests of this node have no answer yet, by service."""
        found: Counter[str] = Counter()
        for peer in self.known.values():
            found[peer.instance.service_name] += peer.pending
        return found

    def refusing(self, service_name: str) -> tuple[Peer, ...]:
        """The instances of a service whose circuits let nothing through now."""
        return tuple(
            peer
            for peer in self.troubled
            if peer.instance.service_name == service_name and not peer.breaker.would_allow()
        )

    def meet(self, instance: ServiceInstance, *, known: bool = True) -> Peer:
        """The peer for an incarnation that was not called before.

        Args:
            instance: Its record.
            known: It is in the registry, which will tell when to forget it; otherwise nothing of it is kept. Nor is
                anything of one that another program wrote there without a lease, by which it could be told from others.

        Raises:
            TransportUnavailable: There is no way to it.
        """
        peer = Peer(self._runtime, instance, self._circuit_changed)
        if not known or not instance.lease:
            return peer
        name = (instance.service_name, instance.instance_id)
        before = self._by_name.get(name)
        if before is not None:
            self._forget(before)
        self.known[instance.lease] = self._by_name[name] = peer
        return peer

    def _touched(self, key: names.Key | None) -> None:
        """The view of *key* changed (None: it was made anew): forget the incarnations that are gone."""
        if isinstance(key, names.InstanceKey):
            peer = self._by_name.get((key.service_name, key.instance_id))
            concerned: tuple[Peer, ...] = () if peer is None else (peer,)
        elif key is None:
            concerned = tuple(self.known.values())
        else:
            return
        for peer in concerned:
            instance = peer.instance
            seen = self._runtime.directory.snapshot.instance(instance.service_name, instance.instance_id)
            if seen is None or seen.lease != instance.lease:
                self._forget(peer)

    def _forget(self, peer: Peer) -> None:
        """The lease of *peer* ended: long requests to it fail soon as MAYBE_EXECUTED."""
        instance = peer.instance
        del self.known[instance.lease]
        del self._by_name[instance.service_name, instance.instance_id]
        self.troubled.pop(peer, None)
        peer.leave()

    def _circuit_changed(self, peer: Peer, old: CircuitState, new: CircuitState) -> None:
        instance = peer.instance
        if new is CircuitState.CLOSED:
            self.troubled.pop(peer, None)
        elif self.known.get(instance.lease) is peer:
            self.troubled[peer] = None
        self._runtime.emit(
            CircuitStateChanged(
                service_name=instance.service_name,
                instance_id=instance.instance_id,
                at=self._runtime.wall(),
                what=instance.instance_id,
                old=old.value,
                new=new.value,
            )
        )


def circuits_open(peers: Sequence[Peer]) -> NoInstance:
    """The error of a call that nobody can take, because the circuits of *peers* are open."""
    shown = ", ".join(sorted(peer.instance.instance_id for peer in peers)[:_MOST_SHOWN])
    more = f" and {len(peers) - _MOST_SHOWN} more" if len(peers) > _MOST_SHOWN else ""
    return NoInstance(
        service_name=peers[0].instance.service_name,
        reason=f"circuit open after repeated failures of {shown}{more}",
        retry_after=min(peer.breaker.remaining for peer in peers),
    )

"""Calls: find whom to ask, ask, and ask again where that is safe (`aegis_core.node.retry` says when it is).

A call is a loop of attempts: route on the local view (`aegis_core.engine.routing`), send, look at how it ended; the time
limit is the transport's, and so is the task switch. Almost all calls end with their first attempt, so that one is written
out once more, the short way (`Client._call`). That, and the signature of `Client.call` in three forms for type checkers,
are why the file is long.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, Final, Generic, ParamSpec, TypeVar, cast, overload

import attrs
import trio

from aegis_core import codec
from aegis_core.engine.routing import Route, route
from aegis_core.envelopes import request_map
from aegis_core.errors import AegisError, CallTimeout, InvalidRequest, NoInstance, NotFound
from aegis_core.models import ABSENT, Outcome, ServiceInstance
from aegis_core.names import resource_id_problem
from aegis_core.node.call import Call, current_call
from aegis_core.node.peer import Peer, Peers, circuits_open
from aegis_core.node.retry import TRIED_AGAIN, UNREGISTERED, Order, Retry
from aegis_core.node.service import Declaration, declaration_of
from aegis_core.principals import Principal

if TYPE_CHECKING:
    from aegis_core.node.runtime import Runtime

__all__ = ["BoundMethod", "Client"]

_log = logging.getLogger("aegis.client")

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_NO_PARAMS: Final[Mapping[str, object]] = {}


class Client:
    """The calls of one node."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._clock = runtime.clock
        self._random = runtime.random
        self._directory = runtime.directory
        self._balancer = runtime.plugins.balancer(runtime.settings.balancer)
        self._has_middleware = bool(runtime.plugins.middleware)
        self._retry = Retry(runtime)
        self._peers = Peers(runtime)
        self._last_read = self._read_again_at = -math.inf
        self.pending = self._peers.pending
        self.in_flight = self._peers.in_flight
        self._instruments = runtime.instruments
        self._begin = self._call if self._instruments is None else self._measured_call

    def __repr__(self) -> str:
        return f"<Client {self._peers!r}>"

    @overload
    async def call(
        self,
        service: str,
        method: str,
        params: Mapping[str, object] | None = None,
        *,
        resource_id: str | None = None,
        instance_id: str | None = None,
        timeout: float = 5.0,
        idempotency_key: str | None = None,
        returns: None = None,
    ) -> Any: ...  # noqa: ANN401 - whatever the method answers

    @overload
    async def call(
        self,
        service: str,
        method: str,
        params: Mapping[str, object] | None = None,
        *,
        resource_id: str | None = None,
        instance_id: str | None = None,
        timeout: float = 5.0,
        idempotency_key: str | None = None,
        returns: type[T],
    ) -> T: ...

    def call(
        self,
        service: str,
        method: str,
        params: Mapping[str, object] | None = None,
        *,
        resource_id: str | None = None,
        instance_id: str | None = None,
        timeout: float = 5.0,
        idempotency_key: str | None = None,
        returns: type[T] | None = None,
    ) -> Coroutine[object, object, object]:
        """Call *method* of *service*: at the owner of *resource_id*, at *instance_id*, or at a healthy instance.

        Args:
            service: The service's name.
            method: The method's name.
            params: Its parameters by name: plain values, and attrs or dataclass objects, which travel as maps.
            resource_id: Go to its owner (or, on demand, to whom takes it).
            instance_id: Go to this instance, also to one that was served with ``register=False``.
            timeout: Seconds for everything, repetitions included. An earlier deadline of the current cancel scope
                holds too, travels with the call, and ends it as Cancelled. A lost message costs all that is left of them.
            idempotency_key: Execute it once per incarnation, however often it is sent with this key: so repeat with the
                same key what ended with MAYBE_EXECUTED.
            returns: Make the result this type; as it came by default.

        Returns:
            What the method returned.

        Raises:
            InvalidRequest: The parameters do not fit the method, or there is no such method; each problem with its path.
            ServiceNotFound, InstanceNotFound, ResourceNotFound: Nobody of that name (or no owner) lives.
            NoInstance, Overloaded, TransportUnavailable: Nobody could take it; `outcome` NOT_SENT or REJECTED.
            TransportUnavailable, LeaseLost, CallTimeout: With `outcome` MAYBE_EXECUTED: nobody knows. Repeated before that
                only where it is harmless and the failure shows before the time is over, as a lost message does not.
            RemoteError: The method raised.

        Cancelling the call does not cancel the method, which runs on until its deadline.
        """
        # Not a coroutine itself but the maker of one: each coroutine around a wait is resumed with it.
        kind = object if returns is None else returns
        return self._begin(service, method, params, resource_id, instance_id, timeout, idempotency_key, False, kind)

    def bind(
        self,
        function: Callable[Concatenate[Call, P], Awaitable[R]],
        *,
        resource_id: str | None = None,
        timeout: float = 5.0,
    ) -> BoundMethod[P, R]:
        """A method of a service as a typed function: ``await node.bind(balance, resource_id="account:42")(currency="EUR")``.

        Args:
            function: What ``@service.method`` decorated; its annotations give the types of parameters and result.
            resource_id: As for `call`.
            timeout: As for `call`.

        Raises:
            TypeError: *function* is a method of no service, or of several.
        """
        return BoundMethod(self, declaration_of(function), resource_id, timeout)

    def call_declared(
        self, declared: Declaration, params: Mapping[str, object], resource_id: str | None, timeout: float
    ) -> Awaitable[object]:
        """`call` of a method whose declaration is at hand."""
        return self._begin(
            declared.service_name,
            declared.method,
            params,
            resource_id,
            None,
            timeout,
            None,
            declared.idempotent,
            declared.parameters.returns,
        )

    async def reserved(
        self,
        instance: ServiceInstance,
        method: str,
        params: Mapping[str, object],
        *,
        timeout: float,
        principal: Principal,
    ) -> object:
        """Call one of the library's own methods of *instance*, in the name of *principal*, once.

        Raises:
            AegisError: As *instance* answered, or as it could not be reached.
            CallTimeout: No answer within *timeout* seconds (MAYBE_EXECUTED).
        """
        now, outer, trace_id, message_id = self._origin()
        order = Order(
            instance.service_name,
            method,
            params,
            None,
            None,
            timeout,
            now,
            now + timeout,
            outer,
            trace_id,
            message_id,
            traceparent=self._runtime.traceparent(),
        )
        peer, request, left = self._prepare(order, Route(instance))
        request["principal"] = str(principal)
        try:
            return await peer.request(codec.encode_request_map(request), left, method)
        except CallTimeout:
            raise
        except trio.TooSlowError:
            raise order.timed_out(Outcome.MAYBE_EXECUTED) from None

    async def forward(
        self,
        service: str,
        method: str,
        params: Mapping[str, object],
        *,
        resource_id: str | None,
        excluded: Sequence[str],
        timeout: float,
        trace_id: str,
        message_id: str | None,
        traceparent: str,
        admit: Callable[[Route], Awaitable[None]] | None = None,
        bound: Route | None = None,
    ) -> tuple[object, ServiceInstance]:
        """Make a call that came from elsewhere, under its own ids.

        It has the time that it came with, whatever scopes are around who passes it on.

        Args:
            service: The service's name.
            method: The method's name.
            params: Its parameters.
            resource_id: As of `call`.
            excluded: Instances that are not chosen.
            timeout: Seconds.
            trace_id: Of the work that it is part of.
            message_id: Of the message that asked for it. It is the idempotency key, too. None: it has an id of its own.
            traceparent: W3C trace context of the caller, or "".
            admit: Waited for before each attempt is sent; what it raises ends the call, unless another attempt may help.
            bound: Go there and nowhere else: it may have begun with this message.

        Returns:
            What the method returned, and who answered.

        Raises:
            AegisError: As of `call`.
        """
        now = trio.current_time()
        order = Order(
            service,
            method,
            params,
            resource_id,
            None,
            timeout,
            now,
            now + timeout,
            math.inf,
            trace_id,
            message_id or self._random.randbytes(16).hex(),
            message_id,
            barred=tuple(excluded),
            admit=admit,
            traceparent=traceparent,
            bound=bound,
        )
        if bound is not None:
            order.uncertain = order.timed_out(Outcome.MAYBE_EXECUTED)
        if self._instruments is None:
            result = await self._carry_out(order, object)
        else:
            from aegis_core.observe.instruments import CallStart  # noqa: PLC0415 - loaded where there are any

            call = CallStart(service, method, resource_id)
            result = await self._instruments.measure_call(call, self._carry_out, order, object)
        assert order.sent is not None
        return result, order.sent.instance

    # -- one call ---------------------------------------------------------------------------------

    async def _call(
        self,
        service: str,
        method: str,
        params: Mapping[str, object] | None,
        resource_id: str | None,
        instance_id: str | None,
        timeout: float,
        idempotency_key: str | None,
        idempotent: bool,  # noqa: FBT001 - all by position, which is the quickest way
        returns: object,
    ) -> object:
        """Make the first attempt the short way, which is the way of almost all calls; `_carry_out` goes on from there.

        The short way is for an owner or a pool that the view knows, a peer without trouble, and nobody who looks on. It
        decides nothing that `_carry_out` would decide otherwise; it only makes no `Order`, no `Route`, and no detours.
        """
        now, outer, trace_id, message_id = self._origin()
        until = now + timeout
        if params is None:
            params = _NO_PARAMS
        instance: ServiceInstance | None = None
        epoch = ABSENT
        failure: AegisError | None = None
        silent = False
        if until > now and instance_id is None and not self._is_watched():
            view = self._directory.snapshot
            if resource_id is not None:
                owned = view.owner(resource_id)
                if owned is not None and owned[1].service_name == service and resource_id[:1] != "%":
                    epoch, instance = owned[0].epoch, owned[1]
            elif not self._peers.troubled:
                candidates = view.pool(service, self._about_now(now)).candidates
                if candidates:
                    instance = self._balancer.choose(candidates, key=None, pending=self.pending)
        if instance is not None:
            told = timeout if until <= outer else max(0.0, outer - now)
            request = request_map(
                method,
                params,
                trace_id,
                service,
                resource_id,
                epoch,
                None if told == math.inf else told,
                None if message_id == trace_id else message_id,
                idempotency_key,
            )
            try:
                peer = self._peers.known.get(instance.lease) or self._peers.meet(instance)
                # What `Peer.request` does, without its frame.
                waiting = peer.send(codec.encode_request_map(request), timeout)
                try:
                    answer = await waiting
                except BaseException as exc:
                    peer.failed(exc)
                    raise
                result = peer.answered(answer, method)
                return result if returns is object else codec.structure_result(result, returns)
            except TRIED_AGAIN as exc:
                failure = exc
            except trio.TooSlowError:
                silent = True
        if resource_id is not None and instance_id is not None:
            raise InvalidRequest.at("$.instance_id", "a resource is called at its owner: give one of the two")
        if resource_id is not None and (problem := resource_id_problem(resource_id)) is not None:
            raise InvalidRequest.at("$.resource_id", problem)
        if not timeout >= 0:
            raise InvalidRequest.at("$.timeout", f"expected seconds, 0 or more, got {timeout!r}")
        order = Order(
            service,
            method,
            params,
            resource_id,
            instance_id,
            timeout,
            now,
            until,
            outer,
            trace_id,
            message_id,
            idempotency_key,
            idempotent,
        )
        if silent:
            failure = order.timed_out(Outcome.MAYBE_EXECUTED)
        if failure is not None and instance is not None:
            order.attempts = 1
            order.sent = Route(instance, epoch)
            await self._retry.prepare_next(order, failure)
            order.now = trio.current_time()
        return await self._carry_out(order, returns)

    async def _measured_call(
        self, service: str, method: str, params: Mapping[str, object] | None, resource_id: str | None, *rest: object
    ) -> object:
        from aegis_core.observe.instruments import CallStart  # noqa: PLC0415 - loaded where there are any

        assert self._instruments is not None
        call = CallStart(service, method, resource_id)
        return await self._instruments.measure_call(call, self._call, service, method, params, resource_id, *rest)

    def _origin(self) -> tuple[float, float, str, str]:
        """The time, when that of the scopes and of the call around this one is over, and the ids of this call."""
        message_id = self._random.randbytes(16).hex()
        caller = current_call.get()
        if caller is None:
            trace_id = message_id if self._instruments is None else self._instruments.trace_id() or message_id
            return trio.current_time(), trio.current_effective_deadline(), trace_id, message_id
        outer = min(trio.current_effective_deadline(), caller.deadline)
        return trio.current_time(), outer, caller.trace_id, message_id

    def _is_watched(self) -> bool:
        """Whether somebody wants to be told of each attempt."""
        return self._has_middleware or _log.isEnabledFor(logging.DEBUG)

    async def _carry_out(self, order: Order, returns: object) -> object:
        while True:
            try:
                where = self._route(order)
                if order.admit is not None:
                    await order.admit(where)
                    order.now = trio.current_time()
                peer, request, left = self._prepare(order, where)
                if self._has_middleware:
                    result = await self._request_in_middleware(order, peer, request, left)
                else:
                    # What `Peer.request` does, without its frame.
                    waiting = peer.send(codec.encode_request_map(request), left)
                    try:
                        answer = await waiting
                    except BaseException as exc:
                        peer.failed(exc)
                        raise
                    result = peer.answered(answer, order.method)
                return result if returns is object else codec.structure_result(result, returns)
            except TRIED_AGAIN as exc:
                failure: AegisError = exc
            except trio.TooSlowError:
                failure = order.timed_out(Outcome.MAYBE_EXECUTED)
            await self._retry.prepare_next(order, failure)
            order.now = trio.current_time()

    def _route(self, order: Order) -> Route:
        """Whom to ask now.

        Raises:
            NotFound, NoInstance: Nobody, as the view stands.
        """
        if order.bound is not None:
            return order.bound
        snapshot = self._directory.snapshot
        excluded = order.excluded + order.barred
        # The common cases first, which `route` would decide alike after looking at more.
        if order.resource_id is not None:
            owned = snapshot.owner(order.resource_id)
            if owned is not None and owned[1].service_name == order.service_name:
                return Route(owned[1], owned[0].epoch)
        elif order.instance_id is None and not excluded and not self._peers.troubled:
            pool = snapshot.pool(order.service_name, self._about_now(order.now))
            if pool.candidates:
                return Route(self._balancer.choose(pool.candidates, key=None, pending=self.pending), 0, pool.reason)
        refusing = self._peers.refusing(order.service_name) if self._peers.troubled else ()
        if refusing:
            excluded += tuple([peer.instance.instance_id for peer in refusing])
        try:
            return route(
                snapshot,
                order.service_name,
                resource_id=order.resource_id,
                instance_id=order.instance_id,
                excluded=excluded,
                balancer=self._balancer,
                pending=self.pending,
                now=self._clock.now(),
            )
        except NotFound:
            if order.instance_id is None or not order.fresh:
                raise
            return self._unregistered(order.service_name, order.instance_id)
        except NoInstance as exc:
            if not refusing or exc.reason != "excluded":
                raise
            raise circuits_open(refusing) from None

    def _about_now(self, now: float) -> float:
        """The node's clock, read at most every 10 ms of Trio's time *now*: enough to see who has fallen silent."""
        if now >= self._read_again_at:
            self._last_read = self._clock.now()
            self._read_again_at = now + 0.01
        return self._last_read

    def _prepare(self, order: Order, where: Route) -> tuple[Peer, dict[str, object], float]:
        """An attempt at *where*: whom to send what, and the seconds left.

        Raises:
            CallTimeout: None are left (NOT_SENT).
        """
        order.sent = where
        order.attempts += 1
        left = told = order.until - order.now
        if left <= 0:
            raise order.timed_out(Outcome.NOT_SENT)
        if order.outer < order.until:
            told = max(0.0, order.outer - order.now)
        if _log.isEnabledFor(logging.DEBUG):
            _log_attempt(order, where)
        request = request_map(
            order.method,
            order.params,
            order.trace_id,
            order.service_name,
            order.resource_id,
            where.epoch,
            None if told == math.inf else told,
            None if order.message_id == order.trace_id else order.message_id,
            order.idempotency_key,
        )
        if where.activate:
            request["activate"] = True
        if order.traceparent:
            request["traceparent"] = order.traceparent
        instance = where.instance
        peer = self._peers.known.get(instance.lease) or self._peers.meet(instance, known=where.reason != UNREGISTERED)
        return peer, request, left

    def _unregistered(self, service_name: str, instance_id: str) -> Route:
        """The way to an instance that is not in the registry: perhaps it was served with ``register=False``."""
        at = self._runtime.wall()
        instance = ServiceInstance(
            service_name=service_name,
            instance_id=instance_id,
            lease=f"unregistered {service_name} {instance_id}",
            endpoints=tuple(t.endpoint(instance_id, "") for t in self._runtime.transports.values()),
            registered_at=at,
            last_heartbeat=at,
        )
        return Route(instance, reason=UNREGISTERED)

    async def _request_in_middleware(self, order: Order, peer: Peer, request: dict[str, object], left: float) -> object:
        from aegis_core.hookspecs import CallInfo  # noqa: PLC0415 - with the first call that middleware sees

        info = CallInfo(
            side="sent",
            service_name=order.service_name,
            method=order.method,
            instance_id=peer.instance.instance_id,
            resource_id=order.resource_id,
            trace_id=order.trace_id,
            message_id=order.message_id,
            carrier={"traceparent": order.traceparent} if order.traceparent else {},
        )
        async with self._runtime.plugins.around(info):
            if "traceparent" in info.carrier:
                request["traceparent"] = info.carrier["traceparent"]
            return await peer.request(codec.encode_request_map(request), left, order.method)


def _log_attempt(order: Order, where: Route) -> None:
    _log.debug(
        "%s.%s goes to %s (%s, attempt %d)",
        order.service_name,
        order.method,
        where.instance.instance_id,
        where.reason,
        order.attempts,
        extra={
            "trace_id": order.trace_id,
            "service_name": order.service_name,
            "instance_id": where.instance.instance_id,
            "resource_id": order.resource_id,
            "operation": order.method,
        },
    )


@attrs.frozen(eq=False, repr=False)
class BoundMethod(Generic[P, R]):
    """A method of a service, ready to be called with its own parameters; made by `Node.bind`."""

    _client: Client
    _declared: Declaration
    _resource_id: str | None
    _timeout: float

    def __repr__(self) -> str:
        where = "" if self._resource_id is None else f" of {self._resource_id!r}"
        return f"<BoundMethod {self._declared.service_name}.{self._declared.method}{where}>"

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the method; raises as `Node.call` does.

        Args:
            args: Parameters by position.
            kwargs: Parameters by name.
        """
        declared = self._declared
        params = {**dict(zip(declared.parameters.kinds, args, strict=False)), **kwargs}
        result = await self._client.call_declared(declared, params, self._resource_id, self._timeout)
        return cast(R, result)

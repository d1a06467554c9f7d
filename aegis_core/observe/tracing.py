"""Traces by OpenTelemetry: a span for each call, each handler and each operation of the registry.

The one module that imports opentelemetry's API, and loaded only where the setting ``tracing.enabled`` is on. Where spans
go is the program's affair: it sets a tracer provider up, by the SDK of its choice, before it opens the node.

A trace goes wherever the work goes. With each request travels its ``traceparent`` (W3C Trace Context), whatever the
transport; between nodes that ask each other for something, too; and with a transfer's record in the store, so that the
node that takes a resource over goes on in the trace of who asked for the transfer. A handler that runs under a claim is
linked to the span in which that was acquired.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from aegis_core.engine.bulk import BatchOutcome
from aegis_core.errors import AegisError, Unavailable
from aegis_core.hookspecs import CallInfo, MiddlewareRegistrar, hookimpl
from aegis_core.models import ClaimReply, Ownership
from aegis_core.names import describe_target
from aegis_core.node.call import current_call
from aegis_core.node.claims import Claim
from aegis_core.observe.instruments import CallStart, End, Instrument, Operation

if TYPE_CHECKING:
    from aegis_core.node.node import Node

__all__ = ["Tracing", "current_ids"]

_PROPAGATOR: Final = TraceContextTextMapPropagator()
_MOST_CLAIMS: Final = 10_000
_MOST_IDS: Final = 10
_BY_ITSELF: Final = frozenset({"adopt", "heartbeat", "promote"})


class Tracing(Instrument):
    """The spans of one node."""

    def __init__(self) -> None:
        self._tracer = trace.get_tracer("aegis")
        # The spans of claims, by resource and epoch, the newest of them.
        self._acquired: OrderedDict[tuple[str, int], SpanContext] = OrderedDict()
        self._node: Node | None = None

    def __repr__(self) -> str:
        return f"<Tracing: {len(self._acquired)} claims>"

    @hookimpl
    def aegis_register_middleware(self, register: MiddlewareRegistrar) -> None:
        """Handlers have spans, and requests carry those of their calls."""
        register(self.around)

    def opened(self, node: Node) -> None:
        """The node is there."""
        self._node = node

    # -- operations and calls -----------------------------------------------------------------------------------

    def begin(self, operation: Operation) -> End:
        """A span for an operation; it is the current one until the operation has ended."""
        kind = SpanKind.SERVER if operation.asked else SpanKind.INTERNAL
        attributes = {
            "aegis.operation": operation.name,
            "aegis.service_name": operation.service_name,
            "aegis.instance_id": operation.instance_id,
        }
        ids = [describe_target(one) for one in operation.resource_ids[:_MOST_IDS]]
        if len(operation.resource_ids) == 1:
            attributes["aegis.resource_id"] = ids[0]
        under = _Under(
            self._tracer.start_span(
                f"aegis {operation.name}",
                context=_parent(operation.traceparent, alone=operation.asked or operation.name in _BY_ITSELF),
                kind=kind,
                attributes={name: value for name, value in attributes.items() if value},
            )
        )
        if len(ids) > 1:
            under.span.set_attribute("aegis.resource_ids", ids)
            under.span.set_attribute("aegis.resource_count", len(operation.resource_ids))

        def end(answer: object, error: BaseException | None) -> None:
            self._remember(answer, under.span.get_span_context())
            under.end(error)

        return end

    def begin_call(self, call: CallStart) -> End:
        """A span for a call, with all its attempts."""
        name = f"{call.service_name}/{call.method}"
        attributes = {"rpc.system.name": "aegis", "rpc.method": name, "aegis.resource_id": call.resource_id or ""}
        under = _Under(
            self._tracer.start_span(
                name,
                kind=SpanKind.CLIENT,
                attributes={name: value for name, value in attributes.items() if value},
            )
        )
        return lambda _, error: under.end(error)

    def attempt_failed(self, service_name: str, error: AegisError) -> None:
        """An event of the call's span."""
        trace.get_current_span().add_event(
            "aegis.attempt_failed", {"error.type": error.code, "aegis.why": error.message}
        )

    def retried(self, reason: str) -> None:
        """An event of the span of the call or operation."""
        trace.get_current_span().add_event("aegis.retry", {"aegis.reason": reason})

    def committed(self, status: str, seconds: float) -> None:
        """An event of the operation's span, where the commit did not succeed."""
        if status != "success":
            trace.get_current_span().add_event(f"aegis.commit_{status}", {"aegis.seconds": seconds})

    def traceparent(self) -> str:
        """The current span, as it travels; "" where there is none."""
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier)
        return carrier.get("traceparent", "")

    def trace_id(self) -> str:
        """The current trace; "" where there is none."""
        return current_ids().get("trace_id", "")

    def _remember(self, answer: object, span: SpanContext) -> None:
        """Which claims were acquired under *span*, as far as *answer* says."""
        for key in _acquired(answer):
            self._acquired[key] = span
            self._acquired.move_to_end(key)
        while len(self._acquired) > _MOST_CLAIMS:
            self._acquired.popitem(last=False)

    # -- attempts and handlers ----------------------------------------------------------------------------------

    def around(self, info: CallInfo) -> _Attempt | _Handling:
        """The context of an attempt, which carries the call's span, or of a handler, which has one of its own."""
        return _Attempt(info) if info.side == "sent" else _Handling(self._start_handler(info))

    def _start_handler(self, info: CallInfo) -> Span:
        name = f"{info.service_name}/{info.method}"
        attributes = {
            "rpc.system.name": "aegis",
            "rpc.method": name,
            "aegis.instance_id": info.instance_id,
            "aegis.resource_id": info.resource_id or "",
            "aegis.message_id": info.message_id,
        }
        links: Sequence[Link] = ()
        call = current_call.get()
        if call is not None and call.resource_id is not None:
            claimed = self._acquired.get((call.resource_id, call.epoch))
            links = () if claimed is None else (Link(claimed, {"aegis.epoch": call.epoch}),)
        return self._tracer.start_span(
            name,
            context=_parent(info.carrier.get("traceparent", ""), alone=True),
            kind=SpanKind.SERVER,
            attributes={name: value for name, value in attributes.items() if value},
            links=links,
        )


def current_ids() -> dict[str, str]:
    """Trace and span that the current task works in, as logs have them; empty where there is none."""
    found = trace.get_current_span().get_span_context()
    if not found.is_valid:
        return {}
    return {"trace_id": trace.format_trace_id(found.trace_id), "span_id": trace.format_span_id(found.span_id)}


class _Under:
    """A span that is the current one of this task until it has ended."""

    def __init__(self, span: Span) -> None:
        self.span: Final = span
        self._token = context.attach(trace.set_span_in_context(span))

    def end(self, error: BaseException | None) -> None:
        """It ends with *error*, or well."""
        context.detach(self._token)
        if error is not None:
            self._tell(error)
        self.span.end()

    def _tell(self, error: BaseException) -> None:
        if not isinstance(error, Exception):
            self.span.set_attribute("aegis.cancelled", True)
            return
        # Neither the text of somebody's exception nor a stack, which would show values: the type says what happened.
        if isinstance(error, AegisError):
            self.span.set_attribute("error.type", error.code)
            self.span.set_status(StatusCode.ERROR, error.message)
        else:
            self.span.set_attribute("error.type", type(error).__name__)
            self.span.set_status(StatusCode.ERROR)
        if isinstance(error, Unavailable):
            self.span.set_attribute("aegis.outcome", error.outcome.value)


class _Attempt:
    """The context in which a request is sent."""

    def __init__(self, info: CallInfo) -> None:
        self._info = info

    async def __aenter__(self) -> None:
        _PROPAGATOR.inject(self._info.carrier)
        trace.get_current_span().set_attribute("aegis.instance_id", self._info.instance_id)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """Nothing: the call's span says how it ended."""


class _Handling:
    """The context in which a handler runs."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self._under: _Under | None = None

    async def __aenter__(self) -> None:
        self._under = _Under(self._span)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """The span ends as the handler did."""
        assert self._under is not None
        self._under.end(error)


def _parent(traceparent: str, *, alone: bool = False) -> Context | None:
    """The context that *traceparent* names. Without one: the current one (None), or, *alone*, none at all.

    A node's background tasks run in the context in which it was opened or an instance was served, with whatever span was
    the current one then. What they do, and what they handle for others, is no part of that.
    """
    if traceparent:
        return _PROPAGATOR.extract({"traceparent": traceparent}, Context())
    return Context() if alone else None


def _acquired(answer: object) -> Iterator[tuple[str, int]]:
    """What *answer* says was acquired: resource and epoch."""
    epochs: Mapping[str, int] = {}
    if isinstance(answer, ClaimReply | BatchOutcome):
        epochs = answer.epochs
    elif isinstance(answer, Ownership):
        epochs = {answer.target: answer.epoch}
    elif isinstance(answer, Claim):
        epochs = {answer.resource_id: answer.epoch}
    yield from epochs.items()

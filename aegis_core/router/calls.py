"""Calls that routers make for clients, and what became of them."""

from __future__ import annotations

import trio

from aegis_core.engine.routing import Route
from aegis_core.errors import AegisError
from aegis_core.models import ServiceInstance
from aegis_core.principals import Target
from aegis_core.router import replies, requests
from aegis_core.router.messages import MessageNotFound, Messages
from aegis_core.router.once import Admit, Once
from aegis_core.router.operation import Asked

__all__ = ["route", "status"]


async def route(asked: Asked[requests.RouteRequest]) -> replies.Routed:
    """Call a method of a service; a message that has an id is carried out once."""
    request, router = asked.request, asked.router
    if asked.principal is not None:
        ids = () if request.resource_id is None else (request.resource_id,)
        router.permit(asked.principal, "call", Target(service_name=request.service_name, resource_ids=ids))
    began = trio.current_time()
    try:
        if request.message_id is None or router.messages is None:
            result, instance = await router.node.client.forward(
                request.service_name,
                request.method,
                request.params,
                resource_id=request.resource_id,
                excluded=request.excluded_instances,
                timeout=request.timeout,
                trace_id=asked.trace_id,
                message_id=request.message_id,
                traceparent=asked.traceparent,
            )
            by = instance.instance_id
        else:
            result, by = await _once(asked, router.messages, began)
    except AegisError as exc:
        _acknowledge(asked, exc.answered_by, began, exc)
        raise
    _acknowledge(asked, by, began, None)
    return replies.Routed(
        result=result,
        instance_id=by,
        trace_id=asked.trace_id,
        message_id=request.message_id,
        duration_ms=(trio.current_time() - began) * 1000,
        timestamp=router.shown_now(),
    )


async def _once(asked: Asked[requests.RouteRequest], messages: Messages, began: float) -> tuple[object, str]:
    """Carry a message out that has an id: the result, and the instance that answered."""
    request, router = asked.request, asked.router

    async def forward(admit: Admit, bound: Route | None) -> tuple[object, ServiceInstance]:
        return await router.node.client.forward(
            request.service_name,
            request.method,
            request.params,
            resource_id=request.resource_id,
            excluded=request.excluded_instances,
            timeout=max(0.0, began + request.timeout - trio.current_time()),
            trace_id=asked.trace_id,
            message_id=request.message_id,
            traceparent=asked.traceparent,
            admit=admit,
            bound=bound,
        )

    return await Once(router, messages, request, forward, asked.principal).run()


def _acknowledge(asked: Asked[requests.RouteRequest], instance_id: str, began: float, error: AegisError | None) -> None:
    """Tell of the end of a call to whoever listens for its message."""
    request = asked.request
    if request.require_ack and request.message_id is not None:
        asked.router.acknowledge(
            replies.Acknowledgement(
                message_id=request.message_id,
                service_name=request.service_name,
                instance_id=instance_id,
                status="success" if error is None else "failure",
                error_message=None if error is None else str(error),
                processing_time_ms=(trio.current_time() - began) * 1000,
                trace_id=asked.trace_id,
            )
        )


async def status(asked: Asked[requests.MessageStatus]) -> replies.MessageState:
    """Tell what became of a message."""
    request, router = asked.request, asked.router
    router.permit(asked.principal, "message_status", Target())
    kept = None if router.messages is None else (await router.messages.find(request.message_id))[0]
    if kept is None:
        raise MessageNotFound(message_id=request.message_id)
    state: str = kept.state
    if state == "pending" and router.shown_now() > kept.ack_deadline:
        state = "expired"
    error = kept.error.get("message") if isinstance(kept.error, dict) else None
    return replies.MessageState(
        message_id=kept.message_id,
        state=state,
        retry_count=kept.retry_count,
        created_at=kept.created_at,
        updated_at=kept.updated_at,
        last_error=error if isinstance(error, str) else None,
        service_name=kept.service_name,
        method=kept.method,
        instance_id=kept.instance_id,
        ack_deadline=kept.ack_deadline,
        trace_id=asked.trace_id,
    )

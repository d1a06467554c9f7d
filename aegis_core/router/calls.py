"""Calls that routers make for clients."""

from __future__ import annotations

import trio

from aegis_core.principals import Target
from aegis_core.router import replies, requests
from aegis_core.router.operation import Asked

__all__ = ["route"]


async def route(asked: Asked[requests.RouteRequest]) -> replies.Routed:
    """Call a method of a service."""
    request, node = asked.request, asked.router.node
    ids = () if request.resource_id is None else (request.resource_id,)
    asked.router.permit(asked.principal, "call", Target(service_name=request.service_name, resource_ids=ids))
    began = trio.current_time()
    result, by = await node.client.forward(
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
    return replies.Routed(
        result=result,
        instance_id=by.instance_id,
        trace_id=asked.trace_id,
        message_id=request.message_id,
        duration_ms=(trio.current_time() - began) * 1000,
        timestamp=node.runtime.wall(),
    )

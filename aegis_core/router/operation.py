"""One operation of routers: what it takes, what it answers, and who may ask; see `aegis_core.router.operations`."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, Generic, TypeVar

import attrs

from aegis_core import codec
from aegis_core.models import Value
from aegis_core.node.asking import asking
from aegis_core.principals import Principal, Target
from aegis_core.router.requests import Request
from aegis_core.router.router import Router

__all__ = ["Asked", "Operation", "admit"]

Q = TypeVar("Q", bound=Request)
A = TypeVar("A", bound=Value)
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Asked(Value, Generic[Q]):
    """One request, under way.

    Args:
        router: Who carries it out.
        request: What is asked.
        principal: Who asks; None: whoever is named is believed.
        trace_id: Of the request, or of the trace that it goes on with, or minted.
        traceparent: W3C trace context of the request, or "".
    """

    router: Router
    request: Q
    principal: Principal | None
    trace_id: str
    traceparent: str = ""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Operation(Value, Generic[Q, A]):
    """One thing that routers do.

    Args:
        name: ``service.register``, ...
        request: The class of its requests.
        reply: The class of its replies.
        action: Does it.
        read_quickly: Reads most requests in less time, and answers None for the others; None where there is no such thing.
    """

    name: str
    request: type[Q]
    reply: type[A]
    action: Callable[[Asked[Q]], Awaitable[A]]
    read_quickly: Callable[[Mapping[object, object]], Q | None] | None = None

    def read(self, raw: object) -> Q:
        """The request that *raw* is, a map as it was decoded.

        Raises:
            InvalidRequest: It is none; each problem with its path.
        """
        if self.read_quickly is not None and type(raw) is dict:
            request = self.read_quickly(raw)
            if request is not None:
                return request
        return codec.structure_request(raw, self.request)

    async def carry_out(self, router: Router, request: Q, principal: Principal | None, *, traceparent: str = "") -> A:
        """Do what *request* asks.

        Args:
            router: Who does it.
            request: Made by `read`.
            principal: Who asks; None: whoever the request names is believed.
            traceparent: W3C trace context of who asks, which goes on with whatever is done.

        Raises:
            AegisError: It was refused, or failed.
        """
        trace_id = request.trace_id or _trace_of(traceparent) or router.node.runtime.new_id(16)
        asked = Asked(router=router, request=request, principal=principal, trace_id=trace_id, traceparent=traceparent)
        runtime = router.node.runtime
        measure = runtime.measure
        if principal is None:
            if runtime.instruments is None:
                return await self.action(asked)
            return await measure(self.name, self.action, asked, traceparent=traceparent, asked=True)
        with asking(principal):
            return await measure(self.name, self.action, asked, traceparent=traceparent, asked=True)


def _trace_of(traceparent: str) -> str:
    """The id of the trace that *traceparent* goes on with, or ""."""
    found = _TRACEPARENT.fullmatch(traceparent)
    return "" if found is None else found.group(1)


async def admit(asked: Asked[Any], operation: str, instance_id: str, resource_ids: Iterable[str] = ()) -> None:
    """Make sure that the request of *asked* may be made in the name of the instance."""
    request = asked.request
    target = Target(service_name=request.service_name, instance_id=instance_id, resource_ids=tuple(resource_ids))
    await asked.router.admit(asked.principal, operation, target, lease_id=request.lease_id)

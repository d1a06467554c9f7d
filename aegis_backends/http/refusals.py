"""What the server itself answers in place of an application: problem details, as applications tell their errors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from aegis_backends.http import wire
from aegis_core.errors import AegisError, InvalidRequest, Overloaded, RemoteError, TransportUnavailable
from aegis_core.models import Outcome

if TYPE_CHECKING:
    from aegis_backends.http.server import Limits

__all__ = ["full", "refusals"]


def refusals(limits: Limits) -> Mapping[int, bytes]:
    """The body of each refusal, by its status."""
    rate = 0 if limits.rate == math.inf else math.ceil(limits.rate)
    errors: dict[int, AegisError] = {
        400: _invalid("expected a request of HTTP/1.1"),
        413: _invalid(f"a body has at most {limits.body} bytes here"),
        429: Overloaded(what="what one address may ask in a second", limit=rate, asked=rate + 1),
        431: _invalid(f"a head has at most {limits.head} bytes and {limits.headers} headers here"),
        500: RemoteError(kind="InternalError", remote_message="the server failed, and its log says how"),
        501: _invalid("no other protocol is spoken here"),
    }
    return {status: wire.problem(error, status=status) for status, error in errors.items()}


def full(reason: str) -> bytes:
    """A whole response to who may not connect because of *reason*; nothing of it was read."""
    body = wire.problem(TransportUnavailable(endpoint="this server", reason=reason, outcome=Outcome.NOT_SENT))
    head = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: %b\r\ncontent-length: %d\r\n" % (wire.PROBLEM, len(body))
    return head + b"retry-after: 1\r\nconnection: close\r\n\r\n" + body


def _invalid(what: str) -> InvalidRequest:
    return InvalidRequest.at("$", what)

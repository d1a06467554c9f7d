"""The call and its answer as they travel, between values and plain maps.

Hand-written rather than structured by a library: this is the hot path, and the input is anybody's. Every wrong field
of a request is told with its path. Fields that are absent or nil have their defaults; unknown ones are ignored.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from types import MappingProxyType, NoneType
from typing import Final

import attrs

from aegis_core.errors import AegisError, InvalidRequest, Problem
from aegis_core.models import Value
from aegis_core.names import is_role

__all__ = [
    "AnswerEnvelope",
    "RequestEnvelope",
    "request_from_map",
    "request_map",
    "request_to_map",
]

MAX_TEXT: Final = 1024
_RARE: Final = frozenset({"message_id", "idempotency_key", "activate", "principal", "traceparent"})
_NO_PARAMS: Final[Mapping[str, object]] = MappingProxyType({})


# Not frozen: it is made for each call, and freezing would cost as much as all else of it.
@attrs.define(eq=False, repr=False)
class RequestEnvelope(Value):
    """One request to an instance.

    Args:
        method: The method's name.
        params: Its arguments by name.
        trace_id: Follows the work through all processes, for logs.
        correlation_id: Names the answer's subject for old clients.
        service_name: The service that is meant, or "" from old clients.
        resource_id: The resource that the call concerns, or None.
        epoch: The fencing number that the sender knows of the resource, or 0.
        timeout: Seconds left to the sender, or None when it does not say.
        message_id: Names the message for de-duplication, or None.
        idempotency_key: Equal keys are executed once per incarnation, or None.
        activate: Claim the resource first when nobody owns it.
        principal: Who asks, as the sender says, e.g. ``instance:cart-1``. Reserved methods need an instance; handlers
            are not told.
        traceparent: W3C trace context, or None.
    """

    method: str
    params: Mapping[str, object] = _NO_PARAMS
    trace_id: str = ""
    correlation_id: str = ""
    service_name: str = ""
    resource_id: str | None = None
    epoch: int = 0
    timeout: float | None = None
    message_id: str | None = None
    idempotency_key: str | None = None
    activate: bool = False
    principal: str = ""
    traceparent: str | None = None


@attrs.frozen(eq=False, repr=False)
class AnswerEnvelope(Value):
    """The answer to a request: a result, or (when `error` is not None) the error that it ended in."""

    result: object = None
    error: AegisError | None = None

    @property
    def success(self) -> bool:
        """True when there is no error."""
        return self.error is None


# What each field may be; None stands for an absent field everywhere but in `method`.
_FIELDS: Final[Mapping[str, tuple[frozenset[type], str]]] = {
    "method": (frozenset({str}), "str"),
    "params": (frozenset({dict, NoneType}), "a map"),
    "trace_id": (frozenset({str, NoneType}), "str"),
    "correlation_id": (frozenset({str, NoneType}), "str"),
    "service_name": (frozenset({str, NoneType}), "str"),
    "resource_id": (frozenset({str, NoneType}), "str"),
    "epoch": (frozenset({int, NoneType}), "int"),
    "timeout": (frozenset({float, int, NoneType}), "a number of seconds"),
    "message_id": (frozenset({str, NoneType}), "str"),
    "idempotency_key": (frozenset({str, NoneType}), "str"),
    "activate": (frozenset({bool, NoneType}), "bool"),
    "principal": (frozenset({str, NoneType}), "str"),
    "traceparent": (frozenset({str, NoneType}), "str"),
}


def request_to_map(request: RequestEnvelope) -> dict[str, object]:
    """The fields of *request* that differ from their defaults, and the four that old instances expect."""
    raw = request_map(
        request.method,
        request.params,
        request.trace_id,
        request.service_name,
        request.resource_id,
        request.epoch,
        request.timeout,
        request.message_id,
        request.idempotency_key,
    )
    if request.correlation_id:
        raw["correlation_id"] = request.correlation_id
    if request.activate:
        raw["activate"] = True
    if request.principal:
        raw["principal"] = request.principal
    if request.traceparent is not None:
        raw["traceparent"] = request.traceparent
    return raw


def request_map(
    method: str,
    params: Mapping[str, object],
    trace_id: str,
    service_name: str,
    resource_id: str | None,
    epoch: int,
    timeout: float | None,
    message_id: str | None,
    idempotency_key: str | None,
) -> dict[str, object]:
    """The map that a request with these fields is; others may be added to it under their names."""
    raw: dict[str, object] = {"method": method, "params": params, "trace_id": trace_id, "correlation_id": ""}
    if service_name:
        raw["service_name"] = service_name
    if resource_id is not None:
        raw["resource_id"] = resource_id
    if epoch:
        raw["epoch"] = epoch
    if timeout is not None:
        raw["timeout"] = timeout
    if message_id is not None:
        raw["message_id"] = message_id
    if idempotency_key is not None:
        raw["idempotency_key"] = idempotency_key
    return raw


def request_from_map(raw: object, size: int = sys.maxsize) -> RequestEnvelope:
    """The request that *raw* is, which was read of *size* bytes.

    Raises:
        InvalidRequest: With every field that does not fit.
    """
    if type(raw) is not dict:
        raise InvalidRequest.at("$", f"expected a map, got {type(raw).__name__}")
    # No text is too long in a message that is short as a whole.
    return (_read_fitting(raw) if size <= MAX_TEXT else None) or _read_any(raw)


def _read_fitting(raw: dict[str, object]) -> RequestEnvelope | None:
    """The request, if all is as our own callers write it: one look at each field, in a third of the time."""
    get = raw.get
    method, params, trace_id, correlation_id = get("method"), get("params"), get("trace_id"), get("correlation_id")
    service_name, resource_id = get("service_name", ""), get("resource_id")
    epoch, timeout = get("epoch", 0), get("timeout")
    if not (
        type(method) is str
        and method
        and type(params) is dict
        and type(trace_id) is str
        and type(correlation_id) is str
        and type(service_name) is str
        and (resource_id is None or (type(resource_id) is str and resource_id[:1] != "%"))
        and type(epoch) is int
        and epoch >= 0
        and (timeout is None or (type(timeout) is float and 0 <= timeout < math.inf))
    ):
        return None
    for name in params:
        if type(name) is not str:
            return None
    if _RARE.isdisjoint(raw):
        return RequestEnvelope(method, params, trace_id, correlation_id, service_name, resource_id, epoch, timeout)
    message_id, key, traceparent = get("message_id"), get("idempotency_key"), get("traceparent")
    activate, principal = get("activate", False), get("principal", "")
    if not (
        (message_id is None or type(message_id) is str)
        and (key is None or type(key) is str)
        and (traceparent is None or type(traceparent) is str)
        and type(principal) is str
        and type(activate) is bool
    ):
        return None
    return RequestEnvelope(
        method,
        params,
        trace_id,
        correlation_id,
        service_name,
        resource_id,
        epoch,
        timeout,
        message_id,
        key,
        activate,
        principal,
        traceparent,
    )


def _read_any(raw: dict[str, object]) -> RequestEnvelope:
    """The request, or all that is wrong with it."""
    fields: dict[str, object] = {}
    problems: list[Problem] = []
    if "method" not in raw:
        problems.append(Problem("$.method", "required field missing"))
    for name, value in raw.items():
        known = _FIELDS.get(name)
        if known is None:
            continue
        kind = type(value)
        if kind not in known[0]:
            problems.append(Problem(f"$.{name}", f"expected {known[1]}, got {kind.__name__}"))
        elif kind is str and len(value) > MAX_TEXT:  # type: ignore[arg-type]  # as just seen
            problems.append(Problem(f"$.{name}", f"longer than {MAX_TEXT} characters"))
        elif value is not None:
            fields[name] = value
    if not problems:
        problems = _misfits(fields)
    if problems:
        raise InvalidRequest(problems=problems)
    return RequestEnvelope(**fields)  # type: ignore[arg-type]  # each checked against _FIELDS


def _misfits(fields: Mapping[str, object]) -> list[Problem]:
    """Values of the right type that are out of range."""
    problems = []
    if not fields["method"]:
        problems.append(Problem("$.method", "must not be empty"))
    resource_id: str = fields.get("resource_id", "")  # type: ignore[assignment]
    if is_role(resource_id):
        problems.append(Problem("$.resource_id", "a role is called as its service, not as a resource"))
    timeout: float = fields.get("timeout", 0.0)  # type: ignore[assignment]
    if not 0 <= timeout < math.inf:
        problems.append(Problem("$.timeout", "expected a finite number, 0 or more"))
    epoch: int = fields.get("epoch", 0)  # type: ignore[assignment]
    if epoch < 0:
        problems.append(Problem("$.epoch", "expected 0 or more"))
    params: Mapping[object, object] = fields.get("params", _NO_PARAMS)  # type: ignore[assignment]
    if not all(type(name) is str for name in params):
        problems.append(Problem("$.params", "expected the names of parameters as keys"))
    return problems

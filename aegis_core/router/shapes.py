"""How failures are told on the subjects: three shapes, which clients of each subject know.

All of them say the same: the error's stable code, its sentence, and its details.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

import attrs

from aegis_core import codec, errors
from aegis_core.errors import AegisError
from aegis_core.models import Value

__all__ = ["Failed", "Shape", "calls", "heartbeats", "plainly", "releases"]

_TYPES: Final[Mapping[type[AegisError], str]] = {
    errors.ResourceNotFound: "ResourceNotFoundError",
    errors.ServiceNotFound: "ServiceNotFoundError",
    errors.NotFound: "NotFoundError",
    errors.CallTimeout: "InstanceTimeoutError",
    errors.Unavailable: "ServiceUnavailableError",
    errors.InvalidRequest: "ValidationError",
    errors.Forbidden: "ForbiddenError",
    errors.Unauthorized: "ForbiddenError",
    errors.LimitExceeded: "OverloadedError",
}
_OTHER: Final = "RemoteError"


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Failed(Value):
    """One request that failed.

    Args:
        error: What it ended in.
        raw: The request's fields, as far as they could be read.
        trace_id: Of the request, or minted.
        at: When, for people.
        duration_ms: How long it took.
    """

    error: AegisError
    raw: Mapping[object, object]
    trace_id: str
    at: datetime
    duration_ms: float


Shape = Callable[[Failed], dict[str, object]]
"""Makes the answer to a request that failed."""


def plainly(failed: Failed) -> dict[str, object]:
    """``{success, error: {code, message, details}, trace_id}``; ``details.status`` is the number."""
    wire = codec.error_to_wire(failed.error)
    details = {**failed.error.details, "status": codec.status_of(failed.error)}
    error = {"code": wire["code"], "message": wire["message"], "details": details}
    return {"success": False, "error": error, "trace_id": failed.trace_id}


def calls(failed: Failed) -> dict[str, object]:
    """``{success, error: {type, message, code: number, ...}, ...}`` with the fields of a successful call beside it."""
    exc, raw = failed.error, failed.raw
    details = exc.details
    error: dict[str, object] = {
        "type": _type_of(exc),
        "message": exc.message,
        "code": codec.status_of(exc),
        "error_code": exc.code,
        "outcome": details.get("outcome"),
        "resource_id": raw.get("resource_id"),
        "owner_instance_id": details.get("owner") or None,
        "details": dict(details),
    }
    return {
        "success": False,
        "result": None,
        "error": error,
        "instance_id": exc.answered_by or None,
        "trace_id": failed.trace_id,
        "message_id": raw.get("message_id"),
        "duration_ms": failed.duration_ms,
        "timestamp": failed.at,
    }


def _type_of(exc: AegisError) -> str:
    return next((_TYPES[kind] for kind in type(exc).__mro__ if kind in _TYPES), _OTHER)


def heartbeats(failed: Failed) -> dict[str, object]:
    """``{envelope: {success, error_code, message, timestamp}, data: {}}``; the code of an unknown instance is NOT_FOUND."""
    exc = failed.error
    code = errors.NotFound.code if isinstance(exc, errors.NotFound) else exc.code
    return {
        "envelope": {"success": False, "error_code": code, "message": exc.message, "timestamp": failed.at},
        "data": {},
    }


def releases(failed: Failed) -> dict[str, object]:
    """The fields of an answer, with why each resource was not released."""
    asked = failed.raw.get("resource_ids")
    ids = [item for item in asked if isinstance(item, str)] if isinstance(asked, list) else []
    return {
        "success": False,
        "released": [],
        "errors": dict.fromkeys(ids or [""], failed.error.message),
        "trace_id": failed.trace_id,
        "error_code": failed.error.code,
    }

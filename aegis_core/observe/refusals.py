"""What is refused because somebody else has it, or because nobody knows it: WARNINGs with who has it, who asked, and why."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Final

from aegis_core.errors import AegisError, Held, NotFound, NotOwner, ResourceConflict, VersionConflict
from aegis_core.models import Failure
from aegis_core.names import describe_target
from aegis_core.observe.outages import HEARD, is_away

__all__ = ["tell_conflicts", "tell_failed_heartbeat", "tell_failures", "tell_refusal", "tell_unknown"]

_log = logging.getLogger("aegis.refusals")

_MOST_SHOWN: Final = 10


def tell_refusal(what: str, asked_by: str, error: AegisError) -> None:
    """Log that *what*, which instance *asked_by* (or "") wants, ended in *error*, if that is a conflict or an unknown name."""
    old = ""
    if isinstance(error, Held | NotOwner):
        old = error.owner
    elif not isinstance(error, NotFound | VersionConflict):
        return
    _log.warning(
        "%s%s is refused%s: %s",
        what,
        f" by {asked_by}" if asked_by else "",
        f", {old} has it" if old else "",
        error.message,
        extra={
            "instance_id": asked_by,
            "resource_id": getattr(error, "resource_id", ""),
            "service_name": getattr(error, "service_name", ""),
            "operation": what,
            "error_code": error.code,
        },
    )


def tell_conflicts(what: str, asked_by: str, owners: Mapping[str, str]) -> None:
    """Log which resources instance *asked_by* did not get, and whose they are."""
    for resource_id, owner in owners.items():
        tell_refusal(what, asked_by, ResourceConflict(resource_id=resource_id, owner=owner))


def tell_failures(operation: str, asked_by: str, failures: Sequence[Failure], total: int) -> None:
    """Log, in one line, which resources of a bulk *operation* failed, and why."""
    if not failures:
        return
    shown = "; ".join(
        f"{describe_target(one.resource_id)} ({one.error_code}{f', {one.current_owner} has it' if one.current_owner else ''})"
        for one in failures[:_MOST_SHOWN]
    )
    more = f" and {len(failures) - _MOST_SHOWN} more" if len(failures) > _MOST_SHOWN else ""
    _log.warning(
        "%s by %s: %d of %d failed: %s%s",
        *(operation, asked_by, len(failures), total, shown, more),
        extra={"instance_id": asked_by, "operation": operation, "error_code": failures[0].error_code},
    )


def tell_failed_heartbeat(service_name: str, instance_id: str, error: AegisError) -> None:
    """Log that a renewal of an instance's lease failed; it is tried again while the lease holds."""
    _log.warning(
        "the heartbeat of %s failed, it is tried again: %s",
        *(instance_id, error.message),
        extra={
            "service_name": service_name,
            "instance_id": instance_id,
            "operation": "heartbeat",
            "error_code": error.code,
            **(HEARD if is_away(error) else {}),
        },
    )


def tell_unknown(method: str, trace_id: str, error: NotFound) -> None:
    """Log that a call of *method* ended because nobody has what it was for."""
    _log.warning(
        "a call of %s ended: %s",
        *(method, error.message),
        extra={
            "trace_id": trace_id,
            "service_name": getattr(error, "service_name", ""),
            "resource_id": getattr(error, "resource_id", ""),
            "operation": method,
            "error_code": error.code,
        },
    )

"""Each operation and each call as a line at DEBUG: what it was about, how long it took, and what it ended in."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

from aegis_core.codec import metadata_size
from aegis_core.engine.view import View
from aegis_core.errors import AegisError
from aegis_core.names import describe_target
from aegis_core.observe.instruments import CallStart, End, Instrument, Operation, status_of

if TYPE_CHECKING:
    from aegis_core.node.node import Node

__all__ = ["OperationLog"]

_log = logging.getLogger("aegis.operations")


class OperationLog(Instrument):
    """Made where DEBUG is on when a node opens; the level may still change."""

    def __init__(self) -> None:
        self._now = trio.current_time
        self._view = View()

    def __repr__(self) -> str:
        return f"<OperationLog to {_log.name}>"

    def opened(self, node: Node) -> None:
        """The node is there."""
        self._now, self._view = node.runtime.clock.now, node.runtime.directory.snapshot

    def begin(self, operation: Operation) -> End:
        """An operation begins."""
        return self._begin(operation.name, operation.service_name, operation.instance_id, operation.resource_ids)

    def begin_call(self, call: CallStart) -> End:
        """A call begins."""
        ids = () if call.resource_id is None else (call.resource_id,)
        return self._begin(f"{call.service_name}.{call.method}", call.service_name, "", ids)

    def _begin(self, name: str, service_name: str, instance_id: str, ids: Sequence[str]) -> End:
        began = self._now()

        def end(_: object, error: BaseException | None) -> None:
            about = describe_target(ids[0]) if len(ids) == 1 else f"{len(ids)} resources" if ids else instance_id
            record = self._view.held(ids[0]) if len(ids) == 1 and name == "claim" else None
            seconds = self._now() - began
            _log.debug(
                "%s of %s: %s after %.3g s",
                *(name, about or service_name or "all", status_of(error), seconds),
                extra={
                    "service_name": service_name,
                    "instance_id": instance_id,
                    "resource_id": ids[0] if len(ids) == 1 else "",
                    "operation": name,
                    "duration_ms": round(seconds * 1000, 3),
                    "metadata_size_bytes": None if record is None else metadata_size(record.metadata),
                    "error_code": error.code if isinstance(error, AegisError) else "",
                },
            )

        return end

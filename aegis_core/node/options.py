"""How an instance is served: what `Node.serve` was given, checked and completed."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from aegis_core.models import Role, Value

__all__ = ["InstanceOptions"]


@attrs.frozen(kw_only=True, eq=False, repr=False)
class InstanceOptions(Value):
    """What `Node.serve` was given, checked."""

    instance_id: str
    role: Role | None
    group: str | None
    ttl: float
    heartbeat_interval: float
    priority: int
    metadata: Mapping[str, object]
    register: bool

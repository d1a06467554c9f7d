"""What a node tells its backend of an instance that it serves, so that the backend's own tools can see it."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from aegis_core.models import ServiceInstance, Value

__all__ = ["MethodStatistics", "Served"]


@attrs.define(eq=False)
class MethodStatistics:
    """What was answered by one method so far. It grows while the instance is served.

    Attributes:
        requests: How many.
        errors: How many of them with an error.
        last_error: The newest of those errors, as its callers were told; "" for none.
        seconds: From arrival to answer, summed over all.
    """

    requests: int = 0
    errors: int = 0
    last_error: str = ""
    seconds: float = 0.0


@attrs.frozen(eq=False, repr=False)
class Served(Value):
    """One incarnation of an instance, as it is served.

    Attributes:
        instance: The record that it was registered with.
        statistics: By method: all that the service has.
    """

    instance: ServiceInstance
    statistics: Mapping[str, MethodStatistics]

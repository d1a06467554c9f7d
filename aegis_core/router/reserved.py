"""Names that routers keep for themselves: what is done under them is theirs alone.

By an instance of `SERVICE` a router knows that another one lives; by what begins with `PREFIX` they agree which of them does
what only one may. A client that took such a name would be believed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from aegis_core.errors import Forbidden

__all__ = ["PREFIX", "SERVICE", "is_reserved", "refuse_reserved"]

SERVICE: Final = "aegis-router"
"""The service that routers are instances of."""

PREFIX: Final = "aegis:"
"""How the ids of resources begin that routers own."""


def is_reserved(service_name: str, targets: Iterable[object] = ()) -> bool:
    """Whether something of that service, or one of *targets*, is for routers alone."""
    return service_name == SERVICE or any(isinstance(name, str) and name.startswith(PREFIX) for name in targets)


def refuse_reserved(operation: str, service_name: str, instance_id: str, targets: Iterable[object] = ()) -> None:
    """Make sure that *operation* is not in the name of a router, nor on what is a router's.

    Raises:
        Forbidden: It is.
    """
    if is_reserved(service_name, targets):
        reason = f"the service {SERVICE} and ids that begin with {PREFIX!r} are for routers"
        raise Forbidden(operation=operation, target=instance_id, reason=reason)

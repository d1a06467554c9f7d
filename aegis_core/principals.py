"""Who asks, and what for: what a policy decides on. Plug-ins find both in `aegis_core.hookspecs`.

They stand apart because every node names a principal, and one that is about to open need not know pluggy yet.
"""

from __future__ import annotations

from typing import Literal

import attrs

from aegis_core.models import Value

__all__ = ["Principal", "Target"]


@attrs.frozen(eq=False, repr=False)
class Principal(Value):
    """Who asks for something.

    A node that asks another one to carry something out does so in the name of the instance that it concerns, and that
    name is believed: on a transport without authentication whoever reaches an instance can ask in its name. A ``token``
    is only ever one whose credential a router has seen, and a ``node`` the program that asks its own node; neither is
    taken from a request.

    Args:
        kind: ``instance`` (it showed its lease, asked its own node, or another node asks in its name), ``node`` (the
            program itself, for none of its instances), or ``token`` (the holder of a credential that a router knows).
        name: The instance id, the node's name, or the token's.
        is_admin: It may do everything, by configuration.
    """

    kind: Literal["instance", "node", "token"]
    name: str
    is_admin: bool = False

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Target(Value):
    """What something is asked for.

    Args:
        service_name: The service, or "".
        instance_id: The instance that it concerns (whose registration, whose resources), or "".
        resource_ids: The resources that it concerns, or none.
    """

    service_name: str = ""
    instance_id: str = ""
    resource_ids: tuple[str, ...] = ()

    def __str__(self) -> str:
        shown = ", ".join(self.resource_ids[:3]) + (", ..." if len(self.resource_ids) > 3 else "")
        return shown or self.instance_id or self.service_name

"""How many resources an instance may hold, and the room left beside what other operations were given."""

from __future__ import annotations

import attrs

from aegis_core.engine.decision import NotYetKnown
from aegis_core.engine.view import View
from aegis_core.errors import ResourceLimitExceeded
from aegis_core.models import ServiceInstance, Value

__all__ = ["MAX_RESOURCES", "NOTHING_RESERVED", "Reserved", "check_limit"]

MAX_RESOURCES = 1000
"""Resources that one instance may hold, unless configured otherwise."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Reserved(Value):
    """Room at an instance that other operations of this node have been given, but not taken yet.

    Args:
        promised: Resources for which room is kept, such as those of a transfer whose work is being ended: they count as held.
        under_way: Resources that commits under way may add. Until they are settled, nothing is said about the room left.
    """

    promised: int = 0
    under_way: int = 0


NOTHING_RESERVED = Reserved()


def check_limit(view: View, claimant: ServiceInstance, asked: int, *, limit: int, reserved: Reserved) -> None:
    """Check that *claimant* may hold *asked* more resources.

    Args:
        view: The view.
        claimant: The live instance.
        asked: How many it does not hold yet.
        limit: How many it may hold.
        reserved: Room that other operations of this node have been given.

    Raises:
        ResourceLimitExceeded: It may not.
        NotYetKnown: That depends on the commits under way.
    """
    held = view.count(claimant.lease) + reserved.promised
    if asked and held + asked > limit:
        raise ResourceLimitExceeded(limit=limit, asked=asked, held=held, instance_id=claimant.instance_id)
    if asked and held + reserved.under_way + asked > limit:
        raise NotYetKnown(view.revision)

"""Who takes calls for a service by name: computed when the view changes, so that a call costs one look-up."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import attrs

from aegis_core.models import Health, Role, ServiceInstance, Value
from aegis_core.names import is_role

if TYPE_CHECKING:
    from aegis_core.engine.view import View

__all__ = ["Pool", "build_pool"]

_RECHECK: Final = 1.0


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Pool(Value):
    """The instances among which calls for a service are balanced.

    Args:
        service_name: The service.
        candidates: The instances, by id; the same tuple until something changes.
        reason: How they were chosen: ``balanced`` or ``active``; or why there are none: ``unknown`` (none is live),
            ``draining``, ``wait`` (the service has a role group, and nobody is active in it).
        activators: The instances that take resources on demand.
        valid_until: When this must be made anew, because somebody may have fallen silent: monotonic seconds.
    """

    service_name: str
    candidates: tuple[ServiceInstance, ...]
    reason: str
    activators: tuple[ServiceInstance, ...] = ()
    valid_until: float = math.inf


def build_pool(view: View, service_name: str, now: float) -> Pool:
    """The pool of a service as the view stands.

    Draining instances are out, UNHEALTHY ones as long as there is another. Where the service has role groups (or
    resources held as a role), those that are active are the pool.
    """
    live = sorted(view.live(service_name), key=lambda i: i.instance_id)
    if not live:
        return Pool(service_name=service_name, candidates=(), reason="unknown")
    present = [i for i in live if not i.draining]
    if not present:
        return Pool(service_name=service_name, candidates=(), reason="draining")
    healthy = [i for i in present if view.health(i, now) is Health.ONLINE]
    pool, reason = healthy or present, "balanced"
    active = [i for i in present if view.role(i) is Role.ACTIVE]
    if active:
        pool, reason = [i for i in healthy if i in active] or active, "active"
    elif _is_grouped(view, service_name, live):
        pool, reason = [], "wait"
    turns = min((view.silent_at(i) for i in healthy), default=math.inf)
    return Pool(
        service_name=service_name,
        candidates=tuple(pool),
        reason=reason,
        activators=tuple(i for i in healthy or present if i.on_demand),
        valid_until=turns if turns > now else now + _RECHECK,
    )


def _is_grouped(view: View, service_name: str, live: list[ServiceInstance]) -> bool:
    return any(i.sticky_active_group is not None for i in live) or any(
        is_role(target) for target in view.lines(service_name)
    )

"""Where a call goes: a resource to its owner, an instance id to that instance, a service to whom the balancer chooses.

Routing looks at the view as it is, which may be behind; the callee corrects what is wrong. This is the hot path: a call
costs a few look-ups, whatever the number of instances and resources.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import attrs

from aegis_core.engine.balancing import Balancer, rendezvous
from aegis_core.engine.pools import Pool
from aegis_core.engine.requests import similar_service, unknown_instance, unknown_service
from aegis_core.engine.view import View
from aegis_core.errors import (
    NoInstance,
    ResourceNotFound,
    ServiceNotFound,
)
from aegis_core.models import ABSENT, ServiceInstance, Value

__all__ = ["Route", "route"]


@attrs.frozen(eq=False, repr=False)
class Route(Value):
    """Where a call goes.

    Args:
        instance: To whom.
        epoch: Of the ownership, for a resource; else 0.
        reason: ``owner``, ``instance``, ``balanced``, ``active`` (of a role) or ``activate``.
        activate: The callee should claim the resource first.
    """

    instance: ServiceInstance
    epoch: int = ABSENT
    reason: str = "owner"
    activate: bool = False


def route(
    view: View,
    service_name: str,
    *,
    resource_id: str | None = None,
    instance_id: str | None = None,
    excluded: Collection[str] = (),
    balancer: Balancer,
    key: str | None = None,
    pending: Callable[[ServiceInstance], int],
    now: float,
) -> Route:
    """Where a call for the service goes.

    Args:
        view: The view.
        service_name: The service.
        resource_id: To the owner of this resource.
        instance_id: To this instance, whatever its health.
        excluded: Instance ids that the balancer must not choose.
        balancer: Chooses, where neither resource nor instance is given.
        key: For balancers that keep calls together.
        pending: See `Balancer`.
        now: The node's clock, monotonic seconds.

    Raises:
        ResourceNotFound: Nobody owns the resource, and nobody takes it on demand; or it is another service's.
        InstanceNotFound: No such instance lives.
        ServiceNotFound: The service has no live instance.
        NoInstance: It has, but none can take the call now; the reason ``wait`` says that a role will soon be taken.
    """
    if resource_id is not None:
        owned = view.owner(resource_id)
        if owned is None:
            return _unowned(view, service_name, resource_id, excluded, now)
        record, owner = owned
        if record.service_name != service_name:
            raise ResourceNotFound(
                resource_id=resource_id,
                service_name=service_name,
                owned_by_service=record.service_name,
            )
        return Route(owner, record.epoch)
    if instance_id is not None:
        instance = view.instance(service_name, instance_id)
        if instance is None:
            raise unknown_instance(view, service_name, instance_id)
        return Route(instance, reason="instance")
    pool = view.pool(service_name, now)
    candidates = pool.candidates
    if excluded:
        candidates = tuple(i for i in candidates if i.instance_id not in excluded)
    if not candidates:
        raise _nobody(view, pool)
    return Route(balancer.choose(candidates, key=key, pending=pending), reason=pool.reason)


def _nobody(view: View, pool: Pool) -> NoInstance | ServiceNotFound:
    if pool.reason == "unknown":
        return unknown_service(view, pool.service_name)
    reason = "excluded" if pool.candidates else pool.reason
    return NoInstance(service_name=pool.service_name, reason=reason)


def _unowned(view: View, service_name: str, resource_id: str, excluded: Collection[str], now: float) -> Route:
    """A resource without owner: to whoever takes it on demand, the same on every node."""
    if view.line(resource_id):
        raise NoInstance(service_name=service_name, reason="wait")
    pool = view.pool(service_name, now)
    takers = [i for i in pool.activators if resource_id.startswith(i.on_demand)]
    if not takers:
        is_served = pool.reason != "unknown"
        similar = "" if is_served else similar_service(view, service_name)
        raise ResourceNotFound(resource_id=resource_id, service_name=service_name, is_served=is_served, similar=similar)
    able = [i for i in takers if i.instance_id not in excluded]
    if not able:
        raise NoInstance(service_name=service_name, reason="excluded")
    return Route(rendezvous(able, resource_id), reason="activate", activate=True)

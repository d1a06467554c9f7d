"""What every request is checked for before anything is decided: names, numbers, and who asks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from aegis_core.engine.view import View
from aegis_core.errors import (
    AegisError,
    Forbidden,
    InstanceNotFound,
    InvalidRequest,
    NotOwner,
    Problem,
    ResourceConflict,
    ServiceNotFound,
)
from aegis_core.models import Failure, Health, Role, ServiceInstance, ids_in_order
from aegis_core.names import (
    group_problem,
    instance_id_problem,
    is_role,
    resource_id_problem,
    service_name_problem,
)

__all__ = [
    "Problems",
    "authentic",
    "check_able",
    "check_spread",
    "checked_ids",
    "checked_target",
    "failure_of",
    "lease_holder",
    "similar_service",
    "unknown_instance",
    "unknown_service",
]

_MOST_COMPARED: Final = 1000
_MOST_NAMED: Final = 5


class Problems:
    """Collects everything that is wrong with a request, so that one answer names it all."""

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def note(self, path: str, problem: str | None) -> None:
        """Add *problem* at *path*; None is no problem."""
        if problem is not None:
            self.found.append(Problem(path, problem))

    def ids(self, path: str, ids: Sequence[object], *, field: str = "") -> None:
        """Check a sequence of resource ids under *path* (each at ``path[i]`` and *field*)."""
        if not ids:
            self.note(path, "at least one resource id is needed")
        for at, resource_id in enumerate(ids):
            self.note(f"{path}[{at}]{field}", resource_id_problem(resource_id))

    def number(self, path: str, value: object, *, low: float, high: float = math.inf, whole: bool = False) -> None:
        """Check that *value* is a finite number from *low* to *high*; *whole* asks for an int."""
        kinds = (int,) if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds):
            self.note(path, f"expected {'int' if whole else 'a number'}, got {type(value).__name__}")
        elif not (math.isfinite(value) and low <= value <= high):
            limits = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
            self.note(path, f"{value} is not {limits}")

    def mapping(self, path: str, value: object) -> None:
        """Check that *value* is a mapping."""
        if not isinstance(value, Mapping):
            self.note(path, f"expected a mapping, got {type(value).__name__}")

    def role(self, path: str, value: object) -> None:
        """Check that *value* is a `Role`: a text that looks like one is none, and would pass for STANDBY."""
        if not isinstance(value, Role):
            self.note(path, f"expected Role.ACTIVE or Role.STANDBY, got {value!r}")

    def priority(self, path: str, value: object) -> None:
        """Check that *value* is a place in a line, an int of 32 bits."""
        self.number(path, value, low=-(2**31), high=2**31, whole=True)

    def check(self) -> None:
        """Raise what was found.

        Raises:
            InvalidRequest: Something was.
        """
        if self.found:
            raise InvalidRequest(problems=tuple(self.found))


def checked_ids(ids: Iterable[object], *, path: str = "$.resource_ids") -> tuple[str, ...]:
    """*ids* without repetitions, in the order of their first appearance.

    Raises:
        InvalidRequest: None at all, or some are no resource ids; each is named with its path.
    """
    if isinstance(ids, str):
        raise InvalidRequest.at(path, "expected a list of resource ids, got one string")
    asked = tuple(ids)
    problems = Problems()
    problems.ids(path, asked)
    problems.check()
    return ids_in_order([i for i in asked if isinstance(i, str)])


def check_spread(operation: str, ids: Iterable[object]) -> None:
    """Tell who gave a list of ids to an *operation* that takes each as an argument of its own.

    Raises:
        InvalidRequest: One of *ids* is a list, or another collection.
    """
    for at, given in enumerate(ids):
        if not isinstance(given, str) and isinstance(given, list | tuple | set | frozenset):
            problem = f"expected str, got {type(given).__name__}: write {operation}(*ids)"
            raise InvalidRequest.at(f"$.resource_ids[{at}]", problem)


def target_problem(target: str, service_name: str) -> str | None:
    """Why an instance of the service cannot hold or wait for *target*, or None."""
    if not is_role(target):
        return resource_id_problem(target)
    service, _, group = target[1:].partition("%")
    if service != service_name:
        return f"a role of service {service!r} is not for instances of {service_name!r}"
    return group_problem(group)


def checked_target(target: str, service_name: str) -> str:
    """*target*, a resource id or a role group of the service.

    Raises:
        InvalidRequest: It is neither.
    """
    problem = target_problem(target, service_name)
    if problem is not None:
        raise InvalidRequest.at("$.group" if is_role(target) else "$.resource_id", problem)
    return target


def failure_of(resource_id: str, error: AegisError) -> Failure:
    """How *error* is told of one id among others; the owner that it names comes along."""
    owner = error.owner if isinstance(error, ResourceConflict | NotOwner) else None
    return Failure(resource_id=resource_id, reason=error.message, error_code=error.code, current_owner=owner)


def authentic(view: View, service_name: str, instance_id: str, lease: str | None, operation: str) -> ServiceInstance:
    """The live instance in whose name *operation* is asked.

    Args:
        view: The view.
        service_name: Its service.
        instance_id: Its id.
        lease: Tag of the lease that was shown; None believes the name alone.
        operation: Named in errors.

    Raises:
        InvalidRequest: The names are no names.
        InstanceNotFound: No such instance lives.
        NotOwner: It lives by another lease.
    """
    instance = view.instance(service_name, instance_id)
    if instance is None:
        problems = Problems()
        if not service_name:
            problems.note("$.service_name", service_name_problem(service_name))
        problems.note("$.instance_id", instance_id_problem(instance_id))
        problems.check()
        raise InstanceNotFound(instance_id=instance_id, service_name=service_name)
    if lease is not None and instance.lease != lease:
        raise NotOwner(operation=operation, target=instance_id, owner=instance_id)
    return instance


def lease_holder(view: View, lease: str) -> ServiceInstance:
    """The live instance with the lease tag *lease*.

    Raises:
        InstanceNotFound: The lease is dead.
    """
    instance = view.by_lease(lease)
    if instance is None:
        raise InstanceNotFound(instance_id=f"lease {lease}")
    return instance


def check_able(view: View, instance: ServiceInstance, operation: str, *, now: float | None = None) -> None:
    """Check that *instance* may take more work.

    Args:
        view: The view.
        instance: A live instance.
        operation: Named in the error.
        now: The node's clock; with it, an instance that has fallen silent is refused as well.

    Raises:
        Forbidden: It is UNHEALTHY, draining, or has no lease.
    """
    healthy = instance.is_healthy if now is None else view.health(instance, now) is Health.ONLINE
    reason = None
    if not instance.lease:
        reason = "it is registered without a lease"
    elif instance.draining:
        reason = "it is draining"
    elif not healthy:
        reason = "it is UNHEALTHY"
    if reason is not None:
        raise Forbidden(operation=operation, target=instance.instance_id, reason=reason)


def unknown_service(view: View, service_name: str) -> ServiceNotFound:
    """The error that names a service without live instances, and the one with live instances whose name is most like it."""
    return ServiceNotFound(service_name=service_name, similar=similar_service(view, service_name))


def unknown_instance(view: View, service_name: str, instance_id: str) -> InstanceNotFound:
    """The error that names an instance that does not live, and some that do: it is often called by its node's name."""
    registered = sorted(one.instance_id for one in view.live(service_name)[:_MOST_COMPARED])
    return InstanceNotFound(
        instance_id=instance_id, service_name=service_name, registered=tuple(registered[:_MOST_NAMED])
    )


def similar_service(view: View, service_name: str) -> str:
    """The service with live instances whose name is most like *service_name*, which has none; "" if none is."""
    from difflib import get_close_matches  # noqa: PLC0415 - not needed where nobody mistypes

    # Comparing takes time for each, and who has that many services has names by rule.
    known = view.services()[:_MOST_COMPARED]
    return "".join(get_close_matches(service_name, known, 1))

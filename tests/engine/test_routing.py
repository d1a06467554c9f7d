"""Routing: where a call goes."""

from __future__ import annotations

from collections.abc import Collection

import attrs
import pytest

from aegis_core.engine import instances, resources, roles, routing
from aegis_core.engine.balancing import RoundRobin
from aegis_core.engine.routing import Route
from aegis_core.errors import InstanceNotFound, NoInstance, ResourceNotFound, ServiceNotFound
from aegis_core.models import Health, Role
from aegis_core.names import role_target
from tests.engine.driver import AT, Driver
from tests.engine.test_claims import claim

GROUP = role_target("svc", "default")


class Router:
    """Routes calls of one node."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.balancer = RoundRobin()

    def route(
        self,
        service_name: str = "svc",
        *,
        resource_id: str | None = None,
        instance_id: str | None = None,
        excluded: Collection[str] = (),
    ) -> Route:
        """Where one call goes."""
        return routing.route(
            self.driver.view,
            service_name,
            resource_id=resource_id,
            instance_id=instance_id,
            excluded=excluded,
            balancer=self.balancer,
            pending=lambda _: 0,
            now=self.driver.now,
        )

    def who(self, count: int = 6, *, excluded: Collection[str] = ()) -> set[str]:
        """Who gets some calls for the service by name."""
        return {self.route(excluded=excluded).instance.instance_id for _ in range(count)}


@pytest.fixture
def router(driver: Driver) -> Router:
    """Nobody is there yet."""
    return Router(driver)


def test_a_resource_is_routed_to_its_owner(router: Router) -> None:
    """With its epoch, whatever the owner's health."""
    driver = router.driver
    driver.register("a")
    epoch = driver.run(claim(driver, "a", "x")).epochs["x"]
    driver.run(instances.set_health(driver.view, "svc", "a", Health.UNHEALTHY, at=AT))
    found = router.route(resource_id="x", excluded=("a",))
    assert (found.instance.instance_id, found.epoch, found.reason, found.activate) == ("a", epoch, "owner", False)


def test_a_resource_without_owner_is_not_found(router: Router) -> None:
    """Nor is one of another service, which is named."""
    driver = router.driver
    driver.register("a")
    driver.register("b", "other")
    driver.run(resources.claim(driver.view, "other", "b", ["x"], now=driver.now, at=AT))
    with pytest.raises(ResourceNotFound) as missing:
        router.route(resource_id="q")
    assert missing.value.owned_by_service == ""
    with pytest.raises(ResourceNotFound) as elsewhere:
        router.route(resource_id="x")
    assert elsewhere.value.owned_by_service == "other"
    driver.run(claim(driver, "a", "y"))
    driver.expire("a")
    with pytest.raises(ResourceNotFound):
        router.route(resource_id="y")


def test_a_resource_of_a_service_that_nobody_serves_is_not_found(router: Router) -> None:
    """The error says that nobody does, and which service may be meant."""
    router.driver.register("a", "bookings")
    with pytest.raises(ResourceNotFound) as alike:
        router.route("bokings", resource_id="x")
    assert str(alike.value) == (
        "resource 'x' has no owner: no instance of service 'bokings' is registered; did you mean 'bookings'?"
    )
    with pytest.raises(ResourceNotFound) as unlike:
        router.route("zzz", resource_id="x")
    assert str(unlike.value) == "resource 'x' has no owner: no instance of service 'zzz' is registered"
    with pytest.raises(ResourceNotFound) as served:
        router.route("bookings", resource_id="x")
    assert str(served.value) == "resource 'x' has no owner"


def test_a_resource_for_which_somebody_waits_is_waited_for(router: Router) -> None:
    """It will soon be taken."""
    driver = router.driver
    driver.register("a")
    driver.register("b")
    driver.run(claim(driver, "a", "x"))
    driver.run(roles.join_line(driver.view, "x", lease="b-lease"))
    driver.expire("a")
    with pytest.raises(NoInstance) as waiting:
        router.route(resource_id="x")
    assert waiting.value.reason == "wait"


def test_an_instance_is_called_by_name(router: Router) -> None:
    """Whatever its health, or whether it drains."""
    driver = router.driver
    record = driver.register("a")
    driver.hear(attrs.evolve(record, draining=True, health=Health.UNHEALTHY))
    assert router.route(instance_id="a").reason == "instance"
    with pytest.raises(InstanceNotFound):
        router.route(instance_id="b")


def test_a_service_is_balanced_over_the_healthy(router: Router) -> None:
    """Those that are UNHEALTHY, draining or silent are left out."""
    driver = router.driver
    records = {name: driver.register(name, heartbeat_interval=10.0) for name in "abcd"}
    assert router.who() == set("abcd")
    assert router.route().reason == "balanced"
    driver.hear(attrs.evolve(records["a"], health=Health.UNHEALTHY))
    driver.hear(attrs.evolve(records["b"], draining=True))
    driver.now += 15.0
    driver.hear(records["c"])
    assert router.who() == {"c", "d"}
    driver.now += 10.0
    driver.level()
    assert router.who() == {"c"}
    driver.hear(records["d"])
    assert router.who() == {"c", "d"}


def test_if_all_are_unhealthy_all_are_used(router: Router) -> None:
    """Except those that drain."""
    driver = router.driver
    for name in "abc":
        driver.register(name, health=Health.UNHEALTHY, draining=name == "c")
    assert router.who() == {"a", "b"}


def test_silence_is_looked_at_again_and_again_while_the_watch_is_quiet(router: Router) -> None:
    """Nobody is put out while nothing at all is heard; afterwards the silent are."""
    driver = router.driver
    driver.register("a", heartbeat_interval=10.0)
    b = driver.register("b", heartbeat_interval=10.0)
    driver.now += 50.0
    assert router.who() == {"a", "b"}
    driver.hear(b)
    driver.now += 1.5
    assert router.who() == {"b"}


def test_a_service_without_instances(router: Router) -> None:
    """Unknown, draining, or every one of them excluded."""
    driver = router.driver
    with pytest.raises(ServiceNotFound):
        router.route()
    record = driver.register("a")
    with pytest.raises(NoInstance) as excluded:
        router.route(excluded={"a"})
    assert excluded.value.reason == "excluded"
    driver.hear(attrs.evolve(record, draining=True))
    with pytest.raises(NoInstance) as draining:
        router.route()
    assert draining.value.reason == "draining"
    driver.expire("a")
    with pytest.raises(ServiceNotFound):
        router.route()


def test_excluded_instances_are_not_chosen(router: Router) -> None:
    """Whatever the balancer would like."""
    for name in "abc":
        router.driver.register(name)
    assert router.who(excluded={"b"}) == {"a", "c"}


def test_a_role_group_steers_calls_to_its_active(router: Router) -> None:
    """Several groups are balanced over their actives."""
    driver = router.driver
    other = role_target("svc", "other")
    driver.register("a", role=Role.ACTIVE, target=GROUP, sticky_active_group="default")
    driver.register("b", role=Role.STANDBY, target=GROUP, sticky_active_group="default")
    driver.register("plain")
    assert router.who() == {"a"}
    assert router.route().reason == "active"
    driver.register("c", role=Role.ACTIVE, target=other, sticky_active_group="other")
    assert router.who() == {"a", "c"}
    driver.run(instances.set_health(driver.view, "svc", "a", Health.UNHEALTHY, at=AT))
    assert router.who() == {"c"}
    driver.expire("c")
    assert router.who() == {"a"}


def test_a_role_group_without_active_is_waited_for(router: Router) -> None:
    """Until somebody is promoted."""
    driver = router.driver
    driver.register("a", role=Role.ACTIVE, target=GROUP)
    driver.register("b", role=Role.STANDBY, target=GROUP)
    driver.expire("a")
    with pytest.raises(NoInstance) as waiting:
        router.route()
    assert waiting.value.reason == "wait"
    driver.run(roles.promote(driver.view, GROUP, lease="b-lease", at=AT))
    assert router.who() == {"b"}


def test_a_group_that_nobody_entered_is_a_group(router: Router) -> None:
    """Its members were registered for it."""
    router.driver.register("a", sticky_active_group="default")
    with pytest.raises(NoInstance):
        router.route()


def test_a_resource_held_as_a_role_steers_calls(router: Router) -> None:
    """While somebody is active for something; else calls are balanced."""
    driver = router.driver
    driver.register("a", role=Role.ACTIVE, target="engine")
    driver.register("b")
    assert router.who() == {"a"}
    driver.expire("a")
    driver.register("c")
    assert router.who() == {"b", "c"}


def test_a_resource_owned_without_role_steers_nothing(router: Router) -> None:
    """Ownership alone is no role."""
    driver = router.driver
    driver.register("a")
    driver.register("b")
    driver.run(claim(driver, "a", "x"))
    assert router.who() == {"a", "b"}


def test_a_resource_on_demand_goes_to_the_same_instance_everywhere(router: Router) -> None:
    """Which claims it first; only to those that take its prefix, are able, and are not excluded."""
    driver = router.driver
    for name in "abc":
        driver.register(name, on_demand=("account:", "order:"))
    driver.register("d")
    found = router.route(resource_id="account:1")
    assert (found.reason, found.activate, found.epoch) == ("activate", True, 0)
    assert router.route(resource_id="account:1") == found
    spread = {router.route(resource_id=f"order:{i}").instance.instance_id for i in range(50)}
    assert spread == {"a", "b", "c"}
    with pytest.raises(ResourceNotFound):
        router.route(resource_id="session:1")
    other = router.route(resource_id="account:1", excluded={found.instance.instance_id})
    assert other.instance.instance_id != found.instance.instance_id
    with pytest.raises(NoInstance) as excluded:
        router.route(resource_id="account:1", excluded=set("abc"))
    assert excluded.value.reason == "excluded"
    driver.run(claim(driver, found.instance.instance_id, "account:1", reason="activated"))
    assert router.route(resource_id="account:1").reason == "owner"


def test_the_pool_is_made_once_per_change(router: Router) -> None:
    """A call costs a look-up: renewals and claims leave the pool as it is."""
    driver = router.driver
    record = driver.register("a")
    first = driver.view.pool("svc", driver.now)
    driver.hear(attrs.evolve(record, last_heartbeat=AT.replace(hour=14)))
    driver.run(claim(driver, "a", "x"))
    assert driver.view.pool("svc", driver.now) is first
    driver.hear(attrs.evolve(record, endpoints=("memory:elsewhere",)))
    assert driver.view.pool("svc", driver.now).candidates[0].endpoints == ("memory:elsewhere",)

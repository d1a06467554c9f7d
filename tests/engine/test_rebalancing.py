"""Rebalancing: which resources move so that the load is even."""

from __future__ import annotations

from collections import Counter

import attrs
import pytest

from aegis_core.engine import balancing, instances, roles
from aegis_core.engine.balancing import Move
from aegis_core.models import Health, ResourceMetadata, Role
from aegis_core.names import role_target
from tests.engine.driver import AT, Driver
from tests.engine.test_claims import claim


def plan(driver: Driver, max_moves: int = 1000) -> tuple[Move, ...]:
    """The plan for the service ``svc``."""
    return balancing.plan_rebalance(driver.view, "svc", max_moves, now=driver.now)


def counts(driver: Driver, moves: tuple[Move, ...]) -> dict[str, int]:
    """How much each instance holds after *moves*."""
    held = Counter({i.instance_id: driver.view.count(i.lease) for i in driver.view.live("svc")})
    for move in moves:
        held[move.from_instance_id] -= 1
        held[move.to_instance_id] += 1
    return dict(held)


@pytest.fixture
def overloaded(driver: Driver) -> Driver:
    """Three instances and 100 resources, of which a has 80, b 15 and c 5; the last 10 of a have a high priority."""
    for name in "abc":
        driver.register(name)
    said = ResourceMetadata(priority=10)
    driver.run(claim(driver, "a", *(f"low{i}" for i in range(70))))
    driver.run(claim(driver, "a", *(f"high{i}" for i in range(10)), metadata=said))
    driver.run(claim(driver, "b", *(f"b{i}" for i in range(15))))
    driver.run(claim(driver, "c", *(f"c{i}" for i in range(5))))
    return driver


def test_the_overloaded_one_gives_to_the_others(overloaded: Driver) -> None:
    """As few moves as it takes; important resources stay where they are."""
    moves = plan(overloaded)
    assert counts(overloaded, moves) == {"a": 34, "b": 33, "c": 33}
    assert len(moves) == 46
    assert {m.from_instance_id for m in moves} == {"a"}
    assert all(m.resource_id.startswith("low") for m in moves)
    assert len({m.resource_id for m in moves}) == 46


def test_no_more_moves_than_allowed(overloaded: Driver) -> None:
    """The emptiest is filled first."""
    moves = plan(overloaded, 12)
    assert counts(overloaded, moves) == {"a": 68, "b": 16, "c": 16}
    assert plan(overloaded, 0) == ()


def test_important_resources_move_last(driver: Driver) -> None:
    """Only when nothing else is left to move."""
    driver.register("a")
    driver.register("b")
    driver.run(claim(driver, "a", "high1", "high2", "high3", metadata=ResourceMetadata(priority=5)))
    driver.run(claim(driver, "a", "low"))
    assert [m.resource_id for m in plan(driver)] == ["low", "high3"]


def test_an_even_load_stays(driver: Driver) -> None:
    """Give or take one."""
    driver.register("a")
    driver.register("b")
    driver.run(claim(driver, "a", "x", "y"))
    driver.run(claim(driver, "b", "z"))
    assert plan(driver) == ()


def test_draining_instances_give_everything_and_unhealthy_ones_are_left_alone(overloaded: Driver) -> None:
    """Nothing goes to either."""
    overloaded.run(instances.set_draining(overloaded.view, "svc", "c", draining=True, at=AT))
    overloaded.run(instances.set_health(overloaded.view, "svc", "b", Health.UNHEALTHY, at=AT))
    moves = plan(overloaded)
    assert {(m.from_instance_id, m.to_instance_id) for m in moves} == {("c", "a")}
    assert len(moves) == 5
    record = overloaded.view.instance("svc", "a")
    assert record is not None
    overloaded.hear(attrs.evolve(record, draining=True))
    assert plan(overloaded) == ()


def test_two_givers_and_two_takers(driver: Driver) -> None:
    """Every one ends with its share."""
    for name in "abcd":
        driver.register(name)
    driver.run(claim(driver, "a", *(f"a{i}" for i in range(20))))
    driver.run(claim(driver, "b", *(f"b{i}" for i in range(16))))
    moves = plan(driver)
    assert counts(driver, moves) == dict.fromkeys("abcd", 9)


def test_roles_stay_where_they_are_active(driver: Driver) -> None:
    """So does what somebody waits for: it is not the balancer's to move."""
    driver.register("a", role=Role.ACTIVE, target="engine")
    driver.register("b", role=Role.ACTIVE, target=role_target("svc", "g"))
    driver.run(claim(driver, "a", "lined", "x", "y"))
    driver.run(roles.join_line(driver.view, "lined", lease="b-lease"))
    assert [m.resource_id for m in plan(driver)] == ["y", "x"]

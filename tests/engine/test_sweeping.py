"""Sweeping what dead leases left behind."""

from __future__ import annotations

import attrs
import pytest

from aegis_core.engine import instances, roles, sweeping
from aegis_core.engine.decision import NotYetKnown
from aegis_core.engine.sweeping import Swept
from aegis_core.errors import Conflict
from aegis_core.models import Health, Role, TransferRecord
from aegis_core.names import lease_tag, role_target
from tests.engine.driver import AT, AUDIT, Driver
from tests.engine.test_claims import claim, owner

GROUP = role_target("svc", "default")


@pytest.fixture
def widow(driver: Driver) -> Driver:
    """a is dead; it held x, y and a role, and waited for z, which b holds."""
    driver.register("a", role=Role.ACTIVE, target=GROUP)
    driver.register("b")
    driver.run(claim(driver, "a", "x", "y"))
    driver.run(claim(driver, "b", "z"))
    driver.run(roles.join_line(driver.view, "z", lease="a-lease"))
    driver.expire("a")
    driver.events.clear()
    return driver


def sweep(driver: Driver, **options: object) -> Swept:
    """Sweep the lease of a."""
    decision = sweeping.sweep(driver.view, "a-lease", audit=AUDIT, at=AT, **options)  # type: ignore[arg-type]
    return driver.run(decision)


def test_everything_goes_with_one_audit_record(widow: Driver) -> None:
    """Nobody hears of it: it was free already."""
    assert widow.view.orphans() == ("a-lease",)
    swept = sweep(widow)
    assert (swept.service_name, swept.instance_id, swept.more) == ("svc", "a", False)
    assert swept.resource_ids == (GROUP, "x", "y")
    assert widow.view.orphans() == ()
    assert widow.view.held("x") is None
    assert widow.view.line("z") == ()
    (told,) = widow.view.transfers()
    assert (told.transfer_id, told.kind, told.from_instance_id) == (f"transfer_{lease_tag('a-lease')}", "sweep", "a")
    assert (told.resource_ids, told.reason, told.to_instance_id) == ((GROUP, "x", "y"), "because", "")
    assert widow.events == []
    assert sweep(widow) == Swept()


def test_a_transaction_at_a_time(widow: Driver) -> None:
    """As many as it takes, and still one audit record."""
    more = []
    while widow.view.orphans():
        more.append(sweep(widow, max_transaction=2).more)
    assert more == [True, True, False]
    assert len(widow.view.transfers()) == 1


def test_one_operation_at_a_time(widow: Driver) -> None:
    """Even where a transaction holds one operation only."""
    while widow.view.orphans():
        sweep(widow, max_transaction=1)
    assert widow.view.held("x") is None
    assert len(widow.view.transfers()) == 1


def test_places_alone_leave_no_audit_record(driver: Driver) -> None:
    """Nothing was owned."""
    driver.register("a", role=Role.STANDBY, target=GROUP)
    driver.expire("a")
    assert sweep(driver).resource_ids == ()
    assert driver.view.orphans() == ()
    assert driver.view.transfers() == ()


def test_what_was_taken_over_meanwhile_stays(widow: Driver) -> None:
    """The sweep of an older view conflicts as a whole."""
    late = sweeping.sweep(widow.view, "a-lease", audit=AUDIT, at=AT)
    widow.run(claim(widow, "b", "x"))
    with pytest.raises(Conflict):
        widow.run(late)
    assert sweep(widow).resource_ids == (GROUP, "y")
    assert owner(widow, "x") == "b"


def test_a_lease_that_the_view_may_not_judge_is_not_swept(widow: Driver) -> None:
    """Neither a record newer than the view, nor anything while it is not whole."""
    record = widow.view.held("x")
    assert record is not None
    widow.tell("resources.new", attrs.evolve(record, target="new", lease="unheard of"), widow.revision + 1)
    assert widow.view.orphans() == ("a-lease",)
    with pytest.raises(NotYetKnown):
        sweeping.sweep(widow.view, "unheard of", audit=AUDIT, at=AT)
    widow.view.resync()
    assert widow.view.orphans() == ()


def test_a_tag_that_dies_twice_is_told_twice(widow: Driver) -> None:
    """A lease that others write may come back under its old tag; the one audit record names all that was ever swept."""
    sweep(widow)
    widow.register("a")
    widow.run(claim(widow, "a", "new"))
    widow.expire("a")
    sweep(widow)
    (told,) = widow.view.transfers()
    assert isinstance(told, TransferRecord)
    assert told.resource_ids == (GROUP, "x", "y", "new")


def test_the_healthy_instance_with_the_lowest_id_sweeps(driver: Driver) -> None:
    """Of those that a node of ours serves."""
    assert sweeping.sweeper(driver.view) is None
    driver.register("a", endpoints=())
    driver.register("c", "other")
    driver.register("b")
    first = sweeping.sweeper(driver.view)
    assert first is not None
    assert first.instance_id == "b"
    driver.run(instances.set_health(driver.view, "svc", "b", Health.UNHEALTHY, at=AT))
    second = sweeping.sweeper(driver.view)
    assert second is not None
    assert second.instance_id == "c"

"""Queries: pages in one order, counts, owners and explanations."""

from __future__ import annotations

import attrs
import pytest

from aegis_core.engine import instances, queries, resources, roles, transfers
from aegis_core.errors import InstanceNotFound, InvalidRequest, ResourceNotFound
from aegis_core.models import Health, QueryReply, ResourceMetadata, Role
from aegis_core.names import role_target
from tests.engine.driver import AT, AUDIT, Driver
from tests.engine.test_claims import claim


def query(driver: Driver, **criteria: object) -> QueryReply:
    """One query."""
    return queries.query_resources(driver.view, now=driver.now, **criteria)  # type: ignore[arg-type]


def ids(reply: QueryReply) -> list[str]:
    """What was found."""
    return [r.resource_id for r in reply.resources]


@pytest.fixture
def stocked(driver: Driver) -> Driver:
    """a of svc holds s0 to s5, b of svc s6 to s9, c of other o0; sessions are even, every third is a vip."""
    driver.register("a", role=Role.ACTIVE, target=role_target("svc", "default"))
    driver.register("b")
    driver.register("c", "other")
    for i in range(10):
        said = ResourceMetadata(
            resource_type="session" if i % 2 == 0 else "", tags=("vip", "vip", f"n{i}") if i % 3 == 0 else ()
        )
        driver.run(claim(driver, "a" if i < 6 else "b", f"s{i}", metadata=said))
    driver.run(
        resources.claim(
            driver.view, "other", "c", ["o0"], metadata=ResourceMetadata(tags=("vip",)), now=driver.now, at=AT
        )
    )
    return driver


def test_without_criteria_everything_is_found(stocked: Driver) -> None:
    """Roles are no resources."""
    reply = query(stocked)
    assert ids(reply) == [*(f"s{i}" for i in range(10)), "o0"]
    assert (reply.total_count, reply.has_more) == (11, False)


@pytest.mark.parametrize(
    ("criteria", "expected"),
    [
        pytest.param({"service_name": "other"}, ["o0"], id="service"),
        pytest.param({"service_name": "nobody"}, [], id="unknown-service"),
        pytest.param({"instance_id": "b"}, ["s6", "s7", "s8", "s9"], id="instance"),
        pytest.param({"instance_id": "nobody"}, [], id="unknown-instance"),
        pytest.param({"resource_type": "session"}, ["s0", "s2", "s4", "s6", "s8"], id="type"),
        pytest.param({"resource_type": ""}, ["s1", "s3", "s5", "s7", "s9", "o0"], id="untyped"),
        pytest.param({"tags": ["vip"]}, ["s0", "s3", "s6", "s9", "o0"], id="tag"),
        pytest.param({"tags": ["vip", "n6"]}, ["s6"], id="all-tags"),
        pytest.param({"tags": ["nothing"]}, [], id="unknown-tag"),
        pytest.param({"resource_ids": ["o0", "s2", "q", "s2"]}, ["s2", "o0"], id="ids"),
        pytest.param({"resource_ids": []}, [], id="no-ids"),
        pytest.param({"service_name": "svc", "tags": ["vip"]}, ["s0", "s3", "s6", "s9"], id="service-and-tag"),
        pytest.param({"instance_id": "a", "resource_type": "session"}, ["s0", "s2", "s4"], id="instance-and-type"),
        pytest.param({"instance_id": "a", "resource_type": ""}, ["s1", "s3", "s5"], id="instance-and-untyped"),
        pytest.param({"resource_ids": ["s0", "s1"], "resource_type": "session"}, ["s0"], id="ids-and-type"),
        pytest.param({"containing": "0"}, ["s0", "o0"], id="containing"),
        pytest.param({"containing": "S"}, [], id="containing-as-written"),
        pytest.param({"containing": "efault"}, [], id="containing-no-role"),
        pytest.param({"containing": "", "service_name": "other"}, ["o0"], id="containing-anything"),
        pytest.param({"service_name": "svc", "containing": "0"}, ["s0"], id="service-and-containing"),
        pytest.param(
            {"resource_type": "", "containing": "s"}, ["s1", "s3", "s5", "s7", "s9"], id="untyped-and-containing"
        ),
    ],
)
def test_criteria_are_joined_by_and(stocked: Driver, criteria: dict[str, object], expected: list[str]) -> None:
    """In the order in which the records were written."""
    reply = query(stocked, **criteria)
    assert ids(reply) == expected
    assert reply.total_count == len(expected)


def test_pages(stocked: Driver) -> None:
    """Limit and offset, and whether there is more."""
    first = query(stocked, limit=4)
    assert (ids(first), first.total_count, first.has_more) == (["s0", "s1", "s2", "s3"], 11, True)
    last = query(stocked, limit=4, offset=8)
    assert (ids(last), last.has_more) == (["s8", "s9", "o0"], False)
    assert ids(query(stocked, resource_type="session", limit=2, offset=1)) == ["s2", "s4"]
    assert not query(stocked, offset=100).has_more


def test_a_rewritten_record_goes_to_the_end(stocked: Driver) -> None:
    """In every index alike."""
    stocked.run(claim(stocked, "a", "s0"))
    assert ids(query(stocked))[-1] == "s0"
    assert ids(query(stocked, resource_type="session"))[-1] == "s0"
    assert ids(query(stocked, instance_id="a"))[-1] == "s0"


def test_what_dead_leases_hold_is_not_found(stocked: Driver) -> None:
    """Nor counted; whether it was swept or not."""
    stocked.expire("a")
    assert ids(query(stocked)) == ["s6", "s7", "s8", "s9", "o0"]
    assert query(stocked).total_count == 5
    assert query(stocked, service_name="svc").total_count == 4
    assert query(stocked, tags=["vip"]).total_count == 3
    assert query(stocked, instance_id="a").total_count == 0
    assert ids(query(stocked, resource_ids=["s0", "s6"])) == ["s6"]
    assert ids(query(stocked, service_name="svc", resource_type="session")) == ["s6", "s8"]
    page = query(stocked, service_name="svc", limit=2)
    assert (ids(page), page.total_count, page.has_more) == (["s6", "s7"], 4, True)


def test_an_id_in_two_services_is_two_instances(stocked: Driver) -> None:
    """The query by instance finds both, in the order of revision."""
    stocked.register("c", "svc", lease="second")
    stocked.run(claim(stocked, "c", "t0"))
    assert ids(query(stocked, instance_id="c")) == ["o0", "t0"]


def test_metadata_can_be_left_out(stocked: Driver) -> None:
    """Health and owner are always there."""
    stocked.run(instances.set_health(stocked.view, "other", "c", Health.UNHEALTHY, at=AT))
    (shown,) = query(stocked, service_name="other", include_metadata=False).resources
    assert (shown.owner_instance_id, shown.service_name, shown.is_healthy) == ("c", "other", False)
    assert shown.metadata == ResourceMetadata()
    (full,) = query(stocked, service_name="other").resources
    assert full.metadata.tags == ("vip",)


def test_bad_arguments_are_named(stocked: Driver) -> None:
    """All of them at once."""
    with pytest.raises(InvalidRequest) as refused:
        query(stocked, limit=0, offset=-1, tags="vip", resource_ids="x")
    assert [p.path for p in refused.value.problems] == ["$.limit", "$.offset", "$.tags", "$.resource_ids"]
    with pytest.raises(InvalidRequest, match="expected int"):
        query(stocked, limit=1.5)
    with pytest.raises(InvalidRequest, match="between 1 and 1000"):
        query(stocked, limit=1001)


def test_the_owner_of_a_resource(stocked: Driver) -> None:
    """Or that there is none."""
    assert queries.get_owner(stocked.view, "s7", now=stocked.now).owner_instance_id == "b"
    with pytest.raises(ResourceNotFound):
        queries.get_owner(stocked.view, "q", now=stocked.now)
    with pytest.raises(InvalidRequest):
        queries.get_owner(stocked.view, "bad id", now=stocked.now)


def test_an_explanation_tells_owner_line_and_history(driver: Driver) -> None:
    """What moved it, and when."""
    driver.register("a", adopts=True)
    driver.register("b", adopts=True)
    driver.register("c")
    driver.run(claim(driver, "a", "x"))
    driver.run(roles.join_line(driver.view, "x", lease="c-lease"))
    driver.run(transfers.transfer(driver.view, ["x"], service_name="svc", source="a", to="b", audit=AUDIT, at=AT))
    told = queries.explain(driver.view, "x", now=driver.now + 5.0)
    assert told.owner is not None
    assert (told.owner.instance_id, told.lease_left, told.standbys) == ("b", 25.0, ("c",))
    assert told.history == (
        "2026-01-01T12:00:00+00:00 transfer from a to b by node:test: because",
        f"2026-01-01T12:00:00+00:00 transferred by b after a (epoch {told.epoch})",
    )
    assert "owned by b of svc (transferred" in told.summary
    assert told.summary.endswith("1 waiting.")


def test_an_explanation_without_owner(driver: Driver) -> None:
    """Says whether there ever was one."""
    assert queries.explain(driver.view, "x", now=0.0).summary == "x has no owner; nobody waits for it."
    driver.register("a")
    driver.run(claim(driver, "a", "x"))
    record = driver.view.held("x")
    assert record is not None
    driver.run(resources.expire(driver.view, "x", epoch=record.epoch, audit=AUDIT, at=AT))
    told = queries.explain(driver.view, "x", now=0.0)
    assert told.history == ("2026-01-01T12:00:00+00:00 expired from a by node:test: because",)
    driver.run(claim(driver, "a", "x"))
    driver.expire("a")
    dead = queries.explain(driver.view, "x", now=0.0)
    assert dead.owner is None
    assert dead.summary == "x has no owner: the lease of its last owner, a, has ended; nobody waits for it."
    with pytest.raises(InvalidRequest):
        queries.explain(driver.view, "bad id", now=0.0)


def test_instance_is_found_by_its_id(driver: Driver) -> None:
    """As the list of its service shows it; where two services have the id, the service is needed."""
    driver.register("a", role=Role.ACTIVE, target=role_target("svc", "default"))
    driver.register("b", health=Health.UNHEALTHY)
    (shown, silent) = instances.get_service(driver.view, "svc", now=driver.now).instances
    assert instances.get_instance(driver.view, "a", now=driver.now) == shown
    assert instances.get_instance(driver.view, "b", service_name="svc", now=driver.now) == silent
    driver.register("a", "other", lease="other-lease")
    with pytest.raises(InvalidRequest, match="each of these has an instance of that id: other, svc"):
        instances.get_instance(driver.view, "a", now=driver.now)
    assert instances.get_instance(driver.view, "a", service_name="other", now=driver.now).service_name == "other"
    for service in (None, "third"):
        with pytest.raises(InstanceNotFound):
            instances.get_instance(driver.view, "c", service_name=service, now=driver.now)


def test_instance_that_looks_as_it_says_is_shown_as_its_very_record(driver: Driver) -> None:
    """Copies would cost a long list most of its time."""
    driver.register("a")
    (shown,) = instances.get_service(driver.view, "svc", now=driver.now).instances
    assert shown is driver.view.instance("svc", "a")
    driver.now += 1000
    driver.level()
    (silent,) = instances.get_service(driver.view, "svc", now=driver.now).instances
    assert silent.health is Health.UNHEALTHY


def test_transfers_are_listed_newest_first(driver: Driver) -> None:
    """All, those of a resource, those from or to an instance."""
    for name in ("a", "b", "c"):
        driver.register(name, adopts=True)
    driver.run(claim(driver, "a", "r1", "r2"))
    for number, (resource, to) in enumerate((("r1", "b"), ("r2", "c"))):
        audit = attrs.evolve(AUDIT, transfer_id=f"transfer_{number:016x}")
        moved = transfers.transfer(driver.view, [resource], service_name="svc", source="a", to=to, audit=audit, at=AT)
        driver.run(moved)
    listed = queries.list_transfers(driver.view)
    assert [t.resource_ids for t in listed] == [("r2",), ("r1",)]
    assert queries.list_transfers(driver.view, resource_id="r1") == listed[1:]
    assert queries.list_transfers(driver.view, instance_id="c") == listed[:1]
    assert queries.list_transfers(driver.view, instance_id="a", resource_id="r3") == ()

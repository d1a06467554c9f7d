"""What a question costs: steps are counted, so that no clock decides.

A step is one instruction of the interpreter. A question of which the answer stays the same must take the same steps
whatever else the view holds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType

import pytest

from aegis_core.engine import queries
from aegis_core.engine.snapshot import Snapshot
from aegis_core.models import QueryReply, ResourceMetadata
from tests.engine.driver import Driver
from tests.engine.test_claims import claim

FEW, MANY = 50, 5_000
"""Resources that are not asked for, in the small and in the large view."""

WANTED = ResourceMetadata(resource_type="wanted", tags=("wanted",))
OTHER = ResourceMetadata(resource_type="other", tags=("other",))


def steps(question: Callable[[], object]) -> int:
    """How many instructions *question* takes, once it has been asked before."""
    question()
    counted = 0

    def count(frame: FrameType, event: str, _: object) -> object:
        nonlocal counted
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        counted += event == "opcode"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        question()
    finally:
        sys.settrace(before)
    return counted


def stocked(others: int, wanted: int = 3) -> Driver:
    """A view in which *wanted* resources are spread among *others*."""
    driver = Driver()
    driver.register("many")
    for start in range(0, others, 500):
        ids = [f"o{i}" for i in range(start, min(start + 500, others))]
        driver.run(claim(driver, "many", *ids, metadata=OTHER, limit=10 * MANY))
        if start == 0:
            driver.run(claim(driver, "many", *(f"w{i}" for i in range(wanted)), metadata=WANTED, limit=10 * MANY))
    return driver


@pytest.fixture(scope="module")
def small() -> Snapshot:
    """A view of a few resources."""
    return stocked(FEW).view


@pytest.fixture(scope="module")
def large() -> Snapshot:
    """A view of many."""
    return stocked(MANY).view


def query(view: Snapshot, **criteria: object) -> QueryReply:
    """One query."""
    return queries.query_resources(view, now=100.0, **criteria)  # type: ignore[arg-type]


QUESTIONS: dict[str, Callable[[Snapshot], object]] = {
    "owner": lambda view: view.owner("w0"),
    "owner-of-nothing": lambda view: view.owner("nothing"),
    "get_owner": lambda view: queries.get_owner(view, "w0", now=100.0),
    "count": lambda view: view.count("many-lease"),
    "by-type": lambda view: query(view, resource_type="wanted"),
    "by-tag": lambda view: query(view, tags=["wanted"]),
    "by-type-and-service": lambda view: query(view, resource_type="wanted", service_name="svc"),
    "by-tag-and-instance": lambda view: query(view, tags=["wanted"], instance_id="many"),
    "by-ids": lambda view: query(view, resource_ids=["w0", "w1", "w2"]),
    "page-of-everything": lambda view: query(view, limit=10),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_what_is_not_asked_for_costs_nothing(small: Snapshot, large: Snapshot, name: str) -> None:
    """An owner, a query by type or tag, a page: as many steps among a hundred times as many resources."""
    ask = QUESTIONS[name]
    few, many = steps(lambda: ask(small)), steps(lambda: ask(large))
    assert few == many
    assert few > 3


@pytest.mark.parametrize("criteria", [{"resource_type": "wanted"}, {"tags": ["wanted"]}], ids=["type", "tag"])
def test_a_query_costs_what_it_answers(criteria: dict[str, object]) -> None:
    """Twice the answer, twice the steps of each; not of all that there are."""
    views = [stocked(FEW, wanted=wanted).view for wanted in (100, 200, 300)]
    assert [len(query(view, limit=1000, **criteria).resources) for view in views] == [100, 200, 300]
    first, second, third = [steps(lambda v=view: query(v, limit=1000, **criteria)) for view in views]  # type: ignore[misc]
    assert second - first == third - second
    assert second < 2 * first


def test_a_scan_would_be_seen(small: Snapshot, large: Snapshot) -> None:
    """Counting tells a search through everything from a look-up."""

    def scan(view: Snapshot) -> list[str]:
        return [r.target for r in view.held_by("many-lease").values() if r.metadata.resource_type == "wanted"]

    assert scan(small) == scan(large)
    assert steps(lambda: scan(large)) > 50 * steps(lambda: scan(small))

"""A test that is run again, as plug-ins do that give a test that failed another chance."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import RunTests

RUN_TWICE = """
from _pytest.runner import runtestprotocol

def pytest_runtest_protocol(item, nextitem):
    for _ in range(2):
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        item._initrequest()
        for report in runtestprotocol(item, nextitem=nextitem, log=False):
            item.ihook.pytest_runtest_logreport(report=report)
    return True
"""

SECOND_CHANCE = """
runs = []

async def test_second_chance(aegis_cluster):
    runs.append(aegis_cluster)
    instance = await aegis_cluster.serve("a", rooms)
    await instance.claim("room")
    assert len(runs) == 2, "not yet"
    assert runs[0] is not runs[1]
"""

UNTIDY = """
runs = []

async def test_untidy(aegis_cluster):
    runs.append(aegis_cluster)
    await aegis_cluster.serve("a", rooms, instance_id="room-1")
    caller = await aegis_cluster.node("b")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(caller.call, "rooms", "enter", {"seconds": 1000.0}, timeout=2000))
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert len(runs) == 2, "not yet"
"""


def test_second_run_of_a_test_has_a_cluster_of_its_own(pytester: pytest.Pytester, run_tests: RunTests) -> None:
    """The first fails, and the second finds nothing of it: the resource is free."""
    pytester.makeconftest(RUN_TWICE)
    result = run_tests(SECOND_CHANCE)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*not yet*"])


def test_second_run_is_asked_what_it_left_behind(pytester: pytest.Pytester, run_tests: RunTests) -> None:
    """Also after a first one that failed, which is not asked."""
    pytester.makeconftest(RUN_TWICE)
    result = run_tests(UNTIDY)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*not yet*", "*a call to room-1 on node a without an answer*"])
    told, _, _summary = result.stdout.str().partition("short test summary")  # which may tell all of it again
    assert told.count("a call to room-1 on node a without an answer") == 1

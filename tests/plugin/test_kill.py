"""No test passes because `kill` or `stop` cancelled it: who would be cancelled with the node is told so, and fails."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import RunTests

IN_ITS_OWN_BLOCK = """
async def test_dies_with_the_node(aegis_cluster):
    instance = await aegis_cluster.serve("a", rooms)
    async with instance.own("room"):
        await aegis_cluster.kill("a")
        assert False, "nobody would see this"
"""

RESTARTED = IN_ITS_OWN_BLOCK.replace("kill", "restart")

AROUND_ITS_NURSERY = """
async def test_dies_with_the_node(aegis_cluster):
    instance = await aegis_cluster.serve("a", rooms)
    async with instance.own("room"), trio.open_nursery() as nursery:
        nursery.start_soon(aegis_cluster.kill, "a")
        await trio.sleep(1000)
        assert False, "nobody would see this"
"""

IN_A_FIXTURE = """
@pytest.fixture
async def owner(aegis_cluster):
    instance = await aegis_cluster.serve("a", rooms)
    async with instance.own("room") as claim:
        yield claim

async def test_dies_with_the_node(aegis_cluster, owner):
    await aegis_cluster.kill("a")
    assert False, "nobody would see this"
"""

BY_A_TASK_OF_THE_NODE = """
async def test_dies_with_the_node(aegis_cluster):
    async def check():
        await aegis_cluster.kill("a")
        assert False, "nobody would see this"

    await aegis_cluster.run("a", check)
    await trio.sleep(1)
"""

BY_THE_APPLICATION = """
async def test_dies_with_the_node(aegis_cluster):
    async def main():
        async with open_node() as node, node.serve(rooms) as instance, instance.own("room"):
            await aegis_cluster.kill("a")
            assert False, "nobody would see this"

    await aegis_cluster.start("a", main)
    await trio.sleep(1)
"""

AFTER_A_DEATH = """
async def test_asserts(aegis_cluster):
    instance = await aegis_cluster.serve("a", rooms)
    async with instance.own("room"):
        await aegis_cluster.run("a", hold, instance, "other")
    await aegis_cluster.kill("a")
    assert 1 == 2

async def test_uses_the_dead(aegis_cluster):
    instance = await aegis_cluster.serve("a", rooms)
    await aegis_cluster.kill("a")
    await instance.claim("room")

async def test_waits_in_line(aegis_cluster):
    await aegis_cluster.run("b", hold, await aegis_cluster.serve("b", rooms))
    instance = await aegis_cluster.serve("a", rooms)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(aegis_cluster.kill, "a")
        await hold(instance)

async def test_waits_for_its_role(aegis_cluster):
    instance = await aegis_cluster.serve("a", rooms)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(aegis_cluster.kill, "a")
        await instance.wait_role(Role.ACTIVE)

async def test_calls_from_the_dead(aegis_cluster):
    await aegis_cluster.serve("b", rooms)
    node = await aegis_cluster.node("a")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(aegis_cluster.kill, "a")
        await node.call("rooms", "enter", {"seconds": 1.0})
"""

OWN_BLOCK = "*{}('a') would cancel the test's own block of own('room'): *aegis_cluster.run('a', ...)"
OWN_TASK = "*{}('a') was called by a task of node 'a', which would be cancelled by it"


CANCELLED = {
    "in-its-own-block": (IN_ITS_OWN_BLOCK, OWN_BLOCK),
    "around-its-nursery": (AROUND_ITS_NURSERY, OWN_BLOCK),
    "in-a-fixture": (IN_A_FIXTURE, OWN_BLOCK),
    "by-a-task-of-the-node": (BY_A_TASK_OF_THE_NODE, OWN_TASK),
    "by-the-application": (BY_THE_APPLICATION, OWN_TASK),
}


@pytest.mark.parametrize("how", ["kill", "stop"])
@pytest.mark.parametrize("case", CANCELLED)
def test_test_that_would_be_cancelled_fails(run_tests: RunTests, case: str, how: str) -> None:
    """It is told which block or task that is, and nothing ends."""
    source, told = CANCELLED[case]
    fails(run_tests, source.replace("aegis_cluster.kill", f"aegis_cluster.{how}"), told.format(how))


def test_restart_kills_nobody_whom_kill_would_not(run_tests: RunTests) -> None:
    """Who restarts a node within a block of it is told so as well."""
    fails(run_tests, RESTARTED, OWN_BLOCK.format("kill"))


def fails(run_tests: RunTests, source: str, told: str) -> None:
    """The tests of *source* do, and one says what is *told*."""
    result = run_tests(source)
    outcomes = result.parseoutcomes()
    assert "passed" not in outcomes
    assert outcomes.get("failed", 0) + outcomes.get("errors", 0) >= 1
    result.stdout.fnmatch_lines([told])


def test_wrong_assertion_after_a_death_fails(run_tests: RunTests) -> None:
    """Whatever the test waits for at the dead node raises, and what it asserts afterwards is asserted."""
    result = run_tests(AFTER_A_DEATH)
    result.assert_outcomes(failed=5)
    result.stdout.fnmatch_lines(["*assert 1 == 2"])

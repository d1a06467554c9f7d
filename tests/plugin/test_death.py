"""No test passes because `kill` cancelled it, and none passes although its background failed."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import RunTests


def count(result: pytest.RunResult, text: str) -> int:
    """How many errors say *text*."""
    return sum(text in line for line in result.outlines if line.startswith("E "))


def test_kill_under_the_tests_own_claim_is_a_usage_error(run_tests: RunTests) -> None:
    """Else the body would be cancelled, the block would end silently, and the test would pass."""
    result = run_tests("""
async def test_in_the_body(aegis_cluster):
    instance = await aegis_cluster.serve("a", rooms)
    async with instance.own("room"):
        await aegis_cluster.kill("a")
        raise AssertionError("never reached")

async def test_beside_the_body(aegis_cluster):
    instance = await aegis_cluster.serve("a", rooms)
    async with trio.open_nursery() as nursery:
        async def kill():
            await trio.sleep(1)
            await aegis_cluster.kill("a")
        nursery.start_soon(kill)
        async with instance.own("room"):
            await trio.sleep_forever()

async def test_in_a_task_of_the_body(aegis_cluster):
    instance = await aegis_cluster.serve("a", rooms)
    async with instance.own("room"), trio.open_nursery() as nursery:
        nursery.start_soon(aegis_cluster.kill, "a")

async def test_restart(aegis_cluster):
    instance = await aegis_cluster.serve("a", rooms)
    async with instance.own("room"):
        await aegis_cluster.restart("a")
""")
    result.assert_outcomes(failed=4)
    told = "kill('a') would cancel the test's own block of own('room'): what runs under a claim dies with its node, so "
    assert count(result, told) == 4


def test_kill_by_a_task_of_the_node_is_a_usage_error(run_tests: RunTests) -> None:
    """A background task, a child of it, a handler, an application: none can kill its own node."""
    result = run_tests("""
async def test_task(aegis_cluster):
    await aegis_cluster.run("a", aegis_cluster.kill, "a")
    await trio.sleep(100)

async def test_child(aegis_cluster):
    async def parent():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(aegis_cluster.kill, "a")
    await aegis_cluster.run("a", parent)
    await trio.sleep(100)

async def test_application(aegis_cluster):
    async def main():
        async with open_node():
            await trio.sleep(1)
            await aegis_cluster.kill("a")
    await aegis_cluster.start("a", main)
    await trio.sleep(100)

async def test_handler(aegis_cluster):
    service = Service("graves")

    @service.method
    async def dig(call: Call) -> None:
        await aegis_cluster.kill("a")

    await aegis_cluster.serve("a", service)
    caller = await aegis_cluster.serve("b", rooms)
    await aegis_cluster.nodes["b"].call("graves", "dig")
""")
    result.assert_outcomes(failed=4)
    assert count(result, "kill('a') was called by a task of node 'a', which would be killed by it") == 4


def test_test_that_was_not_cancelled_goes_on(run_tests: RunTests) -> None:
    """The counter-proof: where nothing of the test runs on the node, everything after `kill` is executed."""
    result = run_tests("""
async def test_after_kill(aegis_cluster):
    instance = await aegis_cluster.serve("a", rooms)
    await aegis_cluster.run("a", hold, instance)
    await aegis_cluster.wait_owner("room", "a")
    await aegis_cluster.kill("a")
    raise AssertionError("reached")
""")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E*AssertionError: reached"])


def test_failing_background_task_fails_the_test(run_tests: RunTests) -> None:
    """At once, although the test itself would wait, and with the task's own traceback and name."""
    result = run_tests("""
async def careless():
    await trio.sleep(3)
    raise ValueError("from the background")

async def test_task(aegis_cluster):
    await aegis_cluster.run("a", careless)
    await trio.sleep_forever()

async def test_application(aegis_cluster):
    async def main():
        async with open_node():
            await careless()
    await aegis_cluster.start("b", main)
    await trio.sleep(1000)
""")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            '>*raise ValueError("from the background")',
            "E*ValueError: from the background",
            "E*raised in the background of the test, by a: careless",
            "E*raised in the background of the test, by b: main",
        ]
    )
    for unwanted in ("*Cancelled*", "*ExceptionGroup*"):
        result.stdout.no_fnmatch_line(unwanted)


def test_application_that_opens_two_nodes_at_once_fails_the_test(run_tests: RunTests) -> None:
    """A node is one process, and that has one; one after the other is well."""
    result = run_tests("""
async def test_two(aegis_cluster):
    async def main():
        async with open_node(), open_node():
            raise AssertionError("never reached")
    await aegis_cluster.start("a", main)
    await trio.sleep(1)

async def test_one_after_the_other(aegis_cluster):
    async def main():
        for _ in range(3):
            async with open_node():
                await trio.sleep(1)
    first = await aegis_cluster.start("a", main)
    await trio.sleep(1.5)
    assert await aegis_cluster.node("a") is not first
""")
    result.assert_outcomes(failed=1, passed=1)
    assert count(result, "the application of node 'a' opens a second node before it closed the first") == 1


def test_background_task_that_fails_while_it_is_closed_fails_the_test(run_tests: RunTests) -> None:
    """The end of the test is part of it."""
    result = run_tests("""
async def untidy():
    try:
        await trio.sleep_forever()
    finally:
        raise ValueError("while closing")

async def test_passes(aegis_cluster):
    await aegis_cluster.run("a", untidy)
    await trio.sleep(1)
""")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E*ValueError: while closing"])


def test_failure_of_the_test_and_of_its_background_are_both_told(run_tests: RunTests) -> None:
    """Neither hides the other."""
    result = run_tests("""
async def untidy():
    try:
        await trio.sleep_forever()
    finally:
        raise ValueError("of the background")

async def test_fails(aegis_cluster):
    await aegis_cluster.run("a", untidy)
    await trio.sleep(1)
    raise KeyError("of the test")
""")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines_random(["*ValueError: of the background", "*KeyError: 'of the test'"])


@pytest.mark.parametrize("kind", ["on_acquire", "on_release"])
def test_failing_hook_of_a_service_does_not_hang_the_close(run_tests: RunTests, kind: str) -> None:
    """What users' hooks do wrong is told, by the claim or in the log, and the cluster closes all the same."""
    result = run_tests(f"""
service = Service("faulty")

@service.{kind}
async def hook(claim):
    raise ValueError("in the hook")

async def test_hook(aegis_cluster, aegis_logs):
    instance = await aegis_cluster.serve("a", service)
    try:
        await instance.claim("room")
    except ValueError:
        assert "{kind}" == "on_acquire"
""")
    result.assert_outcomes(passed=1)

"""What is shown of an error of the library's in a task that a nursery started: the nursery's line, and nothing twice."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import RunTests


def test_call_in_a_nursery_is_shown_at_the_line_of_the_nursery(run_tests: RunTests) -> None:
    """No line of the test made it; where in the library it failed is shown when it is asked for."""
    source = """
async def test_it(aegis_cluster):
    await aegis_cluster.serve("a", rooms)
    caller = await aegis_cluster.node("b")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(caller.call, "rooms", "entr")
"""
    result = run_tests(source)
    result.stdout.fnmatch_lines([">*async with trio.open_nursery()*", "E*InvalidRequest:*"], consecutive=True)
    for path in ("aegis_core", "trio"):
        result.stdout.no_fnmatch_line(f"*{path}*.py*")
    run_tests(source, "--full-trace").stdout.fnmatch_lines([">*async with trio.open_nursery()*", "*client.py*"])


def test_calls_that_fail_alike_are_told_once_with_their_number(run_tests: RunTests) -> None:
    """As one failure, without a group around it."""
    result = run_tests("""
async def test_it(aegis_cluster):
    await aegis_cluster.serve("a", rooms)
    caller = await aegis_cluster.node("b")
    async with trio.open_nursery() as nursery:
        for _ in range(12):
            nursery.start_soon(caller.call, "rooms", "entr")
""")
    result.stdout.fnmatch_lines(
        [
            ">*async with trio.open_nursery()*",
            "E*InvalidRequest:*",
            "E*answered by*",
            "E*(12 failed in this way)",
        ],
        consecutive=True,
    )
    result.stdout.no_fnmatch_line("*ExceptionGroup*")


def test_tasks_that_fail_in_several_ways_are_told_with_few_frames(run_tests: RunTests) -> None:
    """What the test itself raised comes first; of very many ways, a few are shown."""
    source = """
async def check(number):
    with trio.CancelScope(shield=True):
        await trio.sleep(1)
    assert number < 0

async def test_it(aegis_cluster):
    await aegis_cluster.serve("a", rooms)
    caller = await aegis_cluster.node("b")
    async with trio.open_nursery() as nursery:
        for number in range(12):
            nursery.start_soon(caller.call, "rooms", f"enter-{number % 6}")
        nursery.start_soon(check, 7)
        nursery.start_soon(check, 7)
"""
    text = run_tests(source).stdout.str().partition("= FAILURES =")[2]
    shown = [line.strip(" |") for line in text[: text.index("cluster at the failure")].splitlines()]
    assert len(shown) <= 40
    assert not [line for line in shown if "aegis_core" in line and ".py" in line]
    ways = [line for line in shown if "Error: assert 7 < 0" in line or "InvalidRequest: " in line]
    assert ways[0] == "AssertionError: assert 7 < 0"
    assert len(ways) == 4
    assert shown.count("(2 failed in this way)") == 4
    assert "(3 that failed in other ways are left out; --full-trace shows them)" in shown
    whole = run_tests(source, "--full-trace").stdout.str()
    assert whole.count("InvalidRequest: ") > 12


GROUPS = """
async def fail():
    raise ValueError("x")

async def run(count):
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(fail)
"""


@pytest.mark.parametrize("count", [1, 2])
def test_group_of_the_tests_own_keeps_what_it_says(run_tests: RunTests, count: int) -> None:
    """Its message, its cause and its notes, however few parts it has; equal ones are there once."""
    result = run_tests(f"""
{GROUPS}
class Several(ExceptionGroup):
    pass

async def test_own(aegis_cluster):
    raise ExceptionGroup("2 of 5 rooms", [ValueError("x") for _ in range({count})]) from KeyError("the reason")

async def test_noted(aegis_cluster):
    try:
        await run({count})
    except ExceptionGroup as group:
        group.add_note("with seed 42")
        raise

async def test_class(aegis_cluster):
    raise Several("some rooms", [ValueError("x") for _ in range({count})])
""")
    result.assert_outcomes(failed=3)
    shown = [line.lstrip(" |") for line in result.outlines]
    said = ("KeyError: 'the reason'", "ExceptionGroup: 2 of 5 rooms (1 sub-exception)", "with seed 42")
    assert not [line for line in said if line not in shown]
    assert [line for line in shown if line.partition(": ")[2].startswith("some rooms (") and "Several" in line]
    assert shown.count("(2 failed in this way)") == (2 if count == 2 else 0)


def test_group_that_a_test_is_expected_to_raise_is_left_as_it_is(run_tests: RunTests) -> None:
    """Pytest compares its type."""
    result = run_tests(f"""
{GROUPS}
@pytest.mark.xfail(raises=ExceptionGroup, strict=True)
async def test_it(aegis_cluster):
    await run(2)
""")
    result.assert_outcomes(xfailed=1)


def test_error_in_the_background_without_a_line_of_the_test_shows_none(run_tests: RunTests) -> None:
    """It says which task it was."""
    result = run_tests("""
async def test_it(aegis_cluster):
    caller = await aegis_cluster.node("a")
    await aegis_cluster.run("a", caller.call, "rooms", "enter")
    await trio.sleep(1)
""")
    result.stdout.fnmatch_lines(["E*ServiceNotFound*", "*raised in the background of the test, by a: call"])
    result.stdout.no_fnmatch_line("*aegis_core*.py*")


def test_simulation_shows_the_line_of_the_nursery_too(run_tests: RunTests) -> None:
    """Of the application, which began the library's own method as a task."""
    result = run_tests("""
async def main():
    async with open_node() as node, node.serve(rooms) as instance:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(instance.claim, "room:1")
            await trio.sleep_forever()

def test_it(aegis_simulation):
    aegis_simulation(main, seeds=range(1))
""")
    result.stdout.fnmatch_lines(
        [
            "Traceback *",
            "*, line *, in main",
            "*async with trio.open_nursery()*",
            "*ResourceConflict: *",
            "raised in the background of the test, by [abc]: main",
        ],
        consecutive=True,
    )

"""What is shown of an error of the library's in a task that a nursery started: the nursery's line, and nothing twice."""

from __future__ import annotations

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
            "E*(12 tasks failed in this way)",
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
    assert shown.count("(2 tasks failed in this way)") == 4
    assert "(3 that failed in other ways are left out; --full-trace shows them)" in shown
    whole = run_tests(source, "--full-trace").stdout.str()
    assert whole.count("InvalidRequest: ") > 12


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

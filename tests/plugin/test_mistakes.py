"""Mistakes that are easily made in tests: each fails, and says what to write instead."""

from __future__ import annotations

import contextlib
import gc
import sys
import textwrap
import warnings

import pytest

from aegis_pytest.mistakes import Listener
from tests.plugin.conftest import RunTests

MISTAKES = {
    "an expectation is not awaited": (
        """
        async def test_it(aegis_cluster, aegis_events):
            from aegis_core import RoleChanged
            aegis_events.expect(RoleChanged)
        """,
        [
            "an await is missing: coroutine 'EventLog.expect' was never awaited: *:*: aegis_events.expect(RoleChanged)",
        ],
    ),
    "a call is not awaited": (
        """
        async def test_it(aegis_cluster):
            await aegis_cluster.serve("a", rooms)
            caller = await aegis_cluster.node("b")
            caller.call("rooms", "enter")
        """,
        [
            'an await is missing: coroutine \'Client._call\' was never awaited: *.py:*: caller.call("rooms", "enter")',
        ],
    ),
    "a block is not entered": (
        """
        async def test_it(aegis_cluster):
            instance = await aegis_cluster.serve("a", rooms)
            instance.own("room")
        """,
        ["a block was never entered: write 'async with own(...)': *.py:*: instance.own(\"room\")"],
    ),
    "a fault is entered by hand": (
        """
        async def test_it(aegis_cluster, aegis_faults):
            await aegis_cluster.node("a")
            aegis_faults.pause("a").__enter__()
        """,
        ["the block of aegis_faults.pause(...) was entered and not left: enter it by 'with', *"],
    ),
    "a claim is not awaited, and something fails for that": (
        """
        async def test_it(aegis_cluster):
            instance = await aegis_cluster.serve("a", rooms)
            instance.claim("room")
            await (await aegis_cluster.node("b")).call("rooms", "enter", resource_id="room")
        """,
        [
            "E*ResourceNotFound: resource 'room' has no owner",
            "E*an await is missing: coroutine 'Instance.claim' was never awaited: *:*: instance.claim(\"room\")",
        ],
    ),
    "an application is called instead of given": (
        """
        async def main():
            pass

        async def test_it(aegis_cluster):
            await aegis_cluster.start("a", main())
        """,
        ["E*UsageError: expected an async function and its arguments, got what main(...) returns: write 'main, ...'*"],
    ),
    "a background task is called instead of given": (
        """
        async def test_it(aegis_cluster):
            await aegis_cluster.run("a", hold(None))
        """,
        ["E*UsageError: expected an async function and its arguments, got what hold(...) returns: write 'hold, ...'*"],
    ),
    "a fault is called and not entered": (
        """
        async def test_it(aegis_cluster, aegis_faults):
            await aegis_cluster.node("a")
            aegis_faults.partition({"a"})
        """,
        ["aegis_faults.partition(...) was called and never put in force: *'with aegis_faults.partition(...):'"],
    ),
    "a simulation is asked for in an asynchronous test": (
        """
        async def test_it(aegis_simulation):
            aegis_simulation()
        """,
        ["test_it uses aegis_simulation, which only a synchronous test can*: write 'def test_it(...)'*"],
    ),
    "a simulation is given limits that it knows nothing of": (
        """
        @pytest.mark.aegis_limits(real=1)
        def test_it(aegis_simulation):
            aegis_simulation()
        """,
        ["test_it is marked aegis_limits, which a simulation knows nothing of: leave that mark out. *"],
    ),
    "another plug-in is told to run the test": (
        """
        @pytest.fixture
        def anyio_backend():
            return "trio"

        @pytest.mark.anyio
        async def test_it(aegis_cluster):
            await aegis_cluster.node("a")
        """,
        ["test_it uses aegis_cluster, and is marked 'anyio', *: leave that mark out, *"],
    ),
    "the program is awaited in the test": (
        """
        async def main():
            async with open_node():
                pass

        async def test_it(aegis_cluster):
            await main()
        """,
        [
            "E*ConfigError: backend: no backend is configured*",
            "E*(in a test, a bare open_node() is a node of the cluster *await aegis_cluster.start('a', main))",
        ],
    ),
    "a nursery is left open": (
        """
        async def test_it(aegis_cluster):
            manager = trio.open_nursery()
            nursery = await manager.__aenter__()
            nursery.start_soon(trio.sleep_forever)
        """,
        [
            "the test entered a block and did not leave it, *",
            "*nurseries and cancel scopes by 'async with' or 'with', *",
        ],
    ),
    "a claim is left open": (
        """
        async def test_it(aegis_cluster):
            instance = await aegis_cluster.serve("a", rooms)
            block = instance.own("room")
            await block.__aenter__()
        """,
        ["the test entered a block of own and did not leave it, *", "(Trio says: *)"],
    ),
    "a node is left open": (
        """
        async def test_it(aegis_cluster):
            block = open_node("memory://mine")
            await block.__aenter__()
        """,
        ["the test entered a block of open_node and did not leave it, *"],
    ),
}
MOST_LINES = 40


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_fails_and_says_what_to_write(run_tests: RunTests, mistake: str) -> None:
    """In so few lines that all of it is seen."""
    source, lines = MISTAKES[mistake]
    result = run_tests(textwrap.dedent(source), apart="left open" in mistake)
    counts = result.parseoutcomes()
    counts.pop("warnings", None)  # what was not awaited is warned of as well
    assert counts in ({"failed": 1}, {"error": 1}, {"errors": 1})
    result.stdout.fnmatch_lines(lines)
    begin = next(at for at, line in enumerate(result.outlines) if "_ test_it _" in line or "of test_it" in line)
    end = next(at for at, line in enumerate(result.outlines) if "short test summary" in line)
    assert end - begin <= MOST_LINES


def test_test_that_broke_trio_down_spoils_no_other(run_tests: RunTests) -> None:
    """What is left of its run is collected before the next begins, and nothing goes on that keeps it alive."""
    source = MISTAKES["a node is left open"][0].replace("        async def test_it", "async def test_{}")
    both = "".join(source.format(name).replace("            ", "    ") for name in ("first", "second"))
    third = """
import gc
import threading

from trio._core._run import Runner

def test_third():
    assert threading.active_count() == 1
    assert not [thing for thing in gc.get_objects() if isinstance(thing, Runner)]

async def test_fourth(aegis_cluster):
    await aegis_cluster.node("a")
    gc.collect()
"""
    result = run_tests(both + third, apart=True)
    result.assert_outcomes(failed=2, passed=2)
    result.stderr.no_fnmatch_line("*Traceback*")


NOT_AWAITED = """
async def test_it(aegis_cluster, aegis_events):
    from aegis_core import RoleChanged
    aegis_events.expect(RoleChanged)
"""


def test_coroutine_of_another_thread_is_not_the_tests(run_tests: RunTests) -> None:
    """Nobody knows where it was made: it is warned of as ever."""
    result = run_tests(
        """
async def test_it(aegis_cluster):
    await trio.to_thread.run_sync(lambda: trio.sleep(1) and None)
""",
        "-W",
        "default",
    )
    result.assert_outcomes(passed=1, warnings=1)


def test_line_that_made_a_coroutine_is_the_one_that_is_named(run_tests: RunTests) -> None:
    """Not the one at which it was dropped."""
    result = run_tests("""
async def test_it(aegis_cluster):
    forgotten = trio.sleep(1)
    await trio.sleep(2)
    forgotten = None
""")
    result.assert_outcomes(failed=1, warnings=1)
    result.stdout.fnmatch_lines(
        ["an await is missing: coroutine 'sleep' was never awaited: *: forgotten = trio.sleep(1)"]
    )


@pytest.mark.parametrize(
    "said",
    ["filterwarnings('ignore:coroutine')", "filterwarnings('ignore::RuntimeWarning')", "aegis_allow('missing_awaits')"],
)
def test_missing_await_may_be_meant(run_tests: RunTests, said: str) -> None:
    """By whoever ignores the warning, whatever other filters there are; or by the marker, so that it is a warning only."""
    result = run_tests(f"@pytest.mark.{said}{NOT_AWAITED}", "-W", "default:another:RuntimeWarning", "-W", "default")
    result.assert_outcomes(passed=1, warnings=int("allow" in said))


def test_call_that_each_node_of_a_simulation_does_not_await_is_told_once(run_tests: RunTests) -> None:
    """By the line of the application."""
    result = run_tests("""
async def work(node, chance):
    await trio.sleep(1)
    node.call("rooms", "enter")

def test_it(aegis_simulation):
    aegis_simulation(work=work, seeds=[1], seconds=9.0, ttl=3.0, faults=[], acts=0)
""")
    assert result.parseoutcomes()["failed"] == 1
    summary = next(
        at for at, line in enumerate(result.outlines) if "short test summary" in line
    )  # whole where CI is set
    told = [line for line in result.outlines[:summary] if line.startswith("an await is missing")]
    assert len(told) == 1
    assert told[0].endswith(': node.call("rooms", "enter")')


def test_filter_for_other_coroutines_lets_this_one_fail(run_tests: RunTests) -> None:
    """What counts is the first filter that fits the very warning."""
    result = run_tests(f"@pytest.mark.filterwarnings('ignore:coroutine .main')\n{NOT_AWAITED}")
    result.assert_outcomes(failed=1, warnings=1)


def test_test_that_listens_for_warnings_hears_them(run_tests: RunTests) -> None:
    """With filters of its own it fails by nothing else; `recwarn` has none, and hears what fails the test."""
    result = run_tests("""
async def test_expected(aegis_cluster):
    with pytest.warns(RuntimeWarning, match="never awaited"):
        trio.sleep(1)

async def test_recorded(aegis_cluster, recwarn):
    trio.sleep(1)
    assert "never awaited" in str(recwarn.pop(RuntimeWarning).message)
""")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["an await is missing: coroutine 'sleep' was never awaited: *"])


def test_source_of_a_warning_is_told(run_tests: RunTests) -> None:
    """Where the object that it is about was made."""
    source = """
import tracemalloc
import warnings

tracemalloc.start()

async def test_it(aegis_cluster):
    warnings.warn("spent", source=bytearray(9))
"""
    result = run_tests(source, "-W", "default", apart=True)
    result.stdout.fnmatch_lines(["*Object allocated at:", "*source=bytearray(9)*"])


def test_interpreter_is_left_as_it_was() -> None:
    """Whatever ends the block."""

    def setting() -> list[object]:
        names = ("showwarning", "_showwarnmsg", "_showwarnmsg_impl", "filters")
        return [*(getattr(warnings, name) for name in names), sys.get_coroutine_origin_tracking_depth(), *gc.callbacks]

    before = setting()
    with contextlib.suppress(KeyError), Listener().listening():
        assert setting() != before
        raise KeyError
    assert setting() == before


BROKEN = {
    "a-system-task-failed": (
        """
        async def test_it(aegis_cluster):
            async def crash():
                raise ValueError("disk on fire")
            trio.lowlevel.spawn_system_task(crash)
            await trio.sleep(1)
        """,
        "*ValueError: disk on fire",
    ),
    "a-system-task-failed-and-a-generator-was-left": (
        """
        async def count():
            yield 1
            yield 2

        async def test_it(aegis_cluster):
            async def crash():
                raise ValueError("disk on fire")
            async for number in count():
                break
            trio.lowlevel.spawn_system_task(crash)
            await trio.sleep(1)
        """,
        "*ValueError: disk on fire",
    ),
    "a-callback-failed": (
        """
        async def test_it(aegis_cluster):
            trio.lowlevel.current_trio_token().run_sync_soon({}.pop, "key")
            await trio.sleep(1)
        """,
        "*KeyError: 'key'",
    ),
    "an-error-of-the-users": (
        """
        async def test_it(aegis_cluster):
            raise RuntimeError("the heap has its stack corrupted")
        """,
        "E*RuntimeError: the heap has its stack corrupted",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_run_that_ended_by_something_else_is_shown_by_that(run_tests: RunTests, case: str) -> None:
    """Not every error of Trio's is of a block that was not left."""
    source, line = BROKEN[case]
    result = run_tests(textwrap.dedent(source), apart=True)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([line])
    result.stdout.no_fnmatch_line("*did not leave it*")


def test_generator_that_nobody_exhausted_is_warned_of_as_ever(run_tests: RunTests) -> None:
    """It is no block: nothing breaks down."""
    source = """
async def count():
    yield 1
    yield 2

async def test_it(aegis_cluster):
    async for number in count():
        break
"""
    result = run_tests(source)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E*ResourceWarning: Async generator '*count' was garbage collected*"])
    run_tests(source, "-W", "ignore::ResourceWarning").assert_outcomes(passed=1)


def test_other_warnings_stay_what_they_are(run_tests: RunTests) -> None:
    """Shown where they are shown, errors where they are errors."""
    source = """
import warnings

async def test_it(aegis_cluster):
    warnings.warn("an old way", DeprecationWarning)
"""
    run_tests(source).assert_outcomes(failed=1)
    result = run_tests(source, "-W", "default")
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*DeprecationWarning: an old way"])

"""Simulations of what cannot be run, or fails in the way of tests: it says what to write, or where, and blames no scenario for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial, wraps
from random import Random
from typing import cast

import pytest
import trio

from aegis_core import Node, Service, open_node
from aegis_pytest.simulation import Scenario, Simulation
from tests.plugin.conftest import RunTests, run_tests

__all__ = ["run_tests"]

Main = Callable[[], Awaitable[object]]
Work = Callable[[Node, Random], Awaitable[object]]


async def run() -> None:
    """An application that does nothing."""
    async with open_node():
        await trio.sleep_forever()


async def serve() -> None:
    """An application that holds something."""
    async with (
        open_node() as node,
        node.serve(Service("rooms", version="1")) as instance,
        instance.own(instance.instance_id),
    ):
        await trio.sleep_forever()


def nothing(*_args: object) -> None:
    """What is no async function."""


async def greet(node: Node) -> None:
    """Takes less than it gets."""


MAIN = {
    "a service": (Service("rooms"), r"main= takes an async function .* 'await main\(\)', got <Service 'rooms'"),
    "a function that is synchronous": (nothing, r"nothing returned None: write 'async def nothing\(\.\.\.\)'"),
    "a partial of one": (partial(nothing, 1), r"nothing returned None: write 'async def nothing\(\.\.\.\)'"),
    "a function with parameters": (
        greet,
        r"'await main\(\)', and greet cannot be: missing a required argument: 'node'",
    ),
}

WORK = {
    "a service": (Service("rooms"), r"work= takes an async function .* 'await work\(node, random\)', got <Service"),
    "a function that is synchronous": (nothing, r"nothing returned None: write 'async def nothing\(\.\.\.\)'"),
    "a function with one parameter": (greet, r"and greet cannot be: too many positional arguments"),
}


@pytest.mark.parametrize("case", MAIN)
def test_main_that_cannot_be_run_is_refused(aegis_simulation: Simulation, case: str) -> None:
    """In one line that says what it takes: no rule was broken, and no scenario is to blame."""
    given, told = MAIN[case]
    with pytest.raises(pytest.UsageError, match=told):
        aegis_simulation(cast(Main, given), seeds=[1], troubles=0)


@pytest.mark.parametrize("case", WORK)
def test_work_that_cannot_be_run_is_refused(aegis_simulation: Simulation, case: str) -> None:
    """With an application and without, and in a replay."""
    given, told = WORK[case]
    with pytest.raises(pytest.UsageError, match=told):
        aegis_simulation(run, work=cast(Work, given), seeds=[1], troubles=0)
    with pytest.raises(pytest.UsageError, match=told):
        aegis_simulation.replay(Scenario(seed="1", nodes=("a", "b"), seconds=9.0, ttl=3.0), work=cast(Work, given))


def test_what_is_called_instead_of_given_is_refused(run_tests: RunTests) -> None:
    """At the line of the test, without frames of the library's, nor a warning of what was never awaited."""
    result = run_tests("""
async def main():
    pass

def test_it(aegis_simulation):
    aegis_simulation(main())
""")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([
        ">*aegis_simulation(main())",
        "E*UsageError: main= takes an async function that is called as 'await main()', got what main(...) returns: write 'main' alone",
    ])  # fmt: skip
    result.stdout.no_fnmatch_line("*aegis_pytest*.py*")


def test_what_returns_something_to_await_is_run(aegis_simulation: Simulation) -> None:
    """Such as a decorator's function, which is no async one itself."""

    @wraps(serve)
    def decorated() -> Awaitable[object]:
        return serve()

    assert aegis_simulation(decorated, work=partial(trial, "x"), seeds=[1], seconds=9.0, troubles=0).scenarios == 1


async def trial(_bound: str, _node: Node, _random: Random) -> None:
    """Work with something of its own."""


ARGUMENTS = {
    "nodes=3": "TypeError: nodes= takes the nodes' names, ('a', 'b', 'c'), not 3",
    "nodes='abc'": "TypeError: nodes= takes the nodes' names, ('a', 'b', 'c'), not 'abc'",
    "nodes={'a'}": "TypeError: nodes= takes the nodes' names, ('a', 'b', 'c'), not {'a'}",
    "nodes=[1]": "TypeError: nodes= takes the nodes' names, ('a', 'b', 'c'), not [1]",
    "seeds=5": "TypeError: seeds= takes several seeds, range(20), not 5",
    "faults='crash'": "TypeError: faults= takes kinds of faults, ['crash', 'partition'], not 'crash'",
    "faults=[1]": "TypeError: faults= takes kinds of faults, ['crash', 'partition'], not [1]",
    "faults=['crsh']": "ValueError: there is no fault 'crsh'; there are crash, cut_off, *",
    "seconds=-5": "ValueError: seconds= takes a number of seconds, 1 or more, not -5",
    "seconds=0": "ValueError: seconds= takes a number of seconds, 1 or more, not 0",
    "seconds=float('inf')": "ValueError: seconds= takes a number of seconds, 1 or more, not inf",
    "ttl=0.1": "ValueError: ttl= takes a number of seconds, 1 or more, not 0.1",
    "ttl='10'": "TypeError: ttl= takes a number of seconds, 1 or more, not '10'",
    "troubles=-1": "ValueError: troubles= takes a whole number, 0 or more, not -1",
    "troubles=1.5": "TypeError: troubles= takes a whole number, 0 or more, not 1.5",
    "acts=None, main=None, troubles=None": "TypeError: troubles= takes a whole number, 0 or more, not None",
    "acts=-1": "ValueError: acts= takes a whole number, 0 or more, not -1",
    "setup=5": "*UsageError: setup= takes a synchronous function, which is called outside of any Trio run, got 5",
}

STEPS = {
    "Trouble(1.0, 2.0, 'crsh', ('a',))": "ValueError: there is no trouble 'crsh'; there are crash, *",
    "Trouble(1.0, 2.0, 'crash', 'a')": "ValueError: a trouble of kind 'crash' takes a tuple of names, one node, not 'a'",
    "Trouble('1', 2.0, 'crash', ('a',))": "TypeError: at= takes a number of seconds, 0 or more, not '1'",
    "Trouble(1.0, -2, 'crash', ('a',))": "ValueError: lasts= takes a number of seconds, 0 or more, not -2",
    "Trouble(1.0, 2.0, 'crash', ('z',))": "ValueError: there is no node 'z', which Trouble(*) names; nodes= has a, store",
    "Trouble(1.0, 2.0, 'slow', ('a', 'store'), '3')": "TypeError: size= of a slow takes a number of seconds, 0 or more, not '3'",
    "Trouble(1.0, 2.0, 'slow', ('a', 'store'), -3)": "ValueError: size= of a slow takes a number of seconds, 0 or more, not -3",
    "Trouble(1.0, 2.0, 'late_expiry', ('a',), -1)": "ValueError: size= of a late_expiry takes a share of the TTL, 0 or more, not -1",
    "Trouble(1.0, 2.0, 'drift', ('a',), -1)": "ValueError: size= of a drift takes a number above -1, seconds in a second, not -1",
    "Trouble(1.0, 2.0, 'skew', ('a',), float('nan'))": "ValueError: size= of a skew takes a number of seconds, not nan",
    "Act(-1, 'a', 'claim', 'key')": "ValueError: at= takes a number of seconds, 0 or more, not -1",
    "Act(1.0, 'a', 'claim', 'key', lasts=True)": "TypeError: lasts= takes a number of seconds, 0 or more, not True",
    "5": "TypeError: acts= takes several, (Act(2.0, 'a', 'claim', 'key'),), not (5,)",
}

OTHERS = {
    "seed='1', ttl=0.5": "ValueError: ttl= takes a number of seconds, 1 or more, not 0.5",
    "seed='1', ttl=3.0, seconds=0": "ValueError: seconds= takes a number of seconds, 1 or more, not 0",
    "ttl=3.0, seed=5": "TypeError: seed= takes a text, '5', not 5",
    "seed='1', ttl=3.0, latencies=0.5": "TypeError: latencies= takes seconds for each node, (0.005, 0.05), not 0.5",
    "seed='1', ttl=3.0, latencies=('x',)": "TypeError: latencies[0]= takes a number of seconds, 0 or more, not 'x'",
    "seed='1', ttl=3.0, latencies=(-1.0,)": "ValueError: latencies[0]= takes a number of seconds, 0 or more, not -1.0",
}


def test_arguments_that_cannot_be_are_refused_in_a_line(run_tests: RunTests) -> None:
    """At the line of the test, with nothing of what found it: neither of the library, nor of what is generated in its name."""
    calls = [f"aegis_simulation({given})" for given in ARGUMENTS]
    for step in STEPS:
        kind = "troubles" if step.startswith("Trouble") else "acts"
        calls.append(f"Scenario(seed='1', nodes=('a',), seconds=9.0, ttl=3.0, {kind}=({step},))")
    for given in OTHERS:
        seconds = "" if "seconds" in given else "seconds=9.0, "
        calls.append(f"Scenario(nodes=('a',), {seconds}{given})")
    tests = [f"def test_{number}(aegis_simulation):\n    {call}\n" for number, call in enumerate(calls)]
    result = run_tests("\n".join(["from aegis_pytest.simulation import Act, Scenario, Trouble\n", *tests]))
    result.assert_outcomes(failed=len(calls))
    told = [
        *ARGUMENTS.values(),
        *STEPS.values(),
        *OTHERS.values(),
    ]
    for call, said in zip(calls, told, strict=True):
        result.stdout.fnmatch_lines([f">   *{_literal(call)}", f"E*{_literal(said)}"])
    assert len([line for line in result.outlines if line.startswith("E  ")]) == len(calls)
    result.stdout.no_fnmatch_line("*aegis_pytest*.py*")
    result.stdout.no_fnmatch_line("*attrs generated*")


def _literal(text: str) -> str:
    """A pattern of `fnmatch` that matches *text* and, for ``*``, anything."""
    return text.replace("[", "[[]")


def test_work_judges_by_pytest_fail(aegis_simulation: Simulation) -> None:
    """As by an assertion: with the seed, the line, and the scenario; told once, if it is the same on each node."""

    async def judge(_node: Node, _random: Random) -> None:
        await trio.sleep_until(3)
        pytest.fail("the books do not balance")

    with pytest.raises(pytest.fail.Exception) as caught:
        aegis_simulation(work=judge, seeds=[17], seconds=9.0, ttl=3.0, faults=[], acts=0)
    told = str(caught.value)
    assert told.startswith("seed '17' breaks a rule\nTraceback")
    assert told.count("Failed: the books do not balance") == 1
    assert "in judge\n    pytest.fail(" in told
    assert "outcomes.py" not in told
    assert "Scenario(" in told


def test_work_may_skip_the_test(aegis_simulation: Simulation) -> None:
    """However many nodes do."""

    async def skip(_node: Node, _random: Random) -> None:
        await trio.sleep_until(3)
        pytest.skip("not here")

    with pytest.raises(pytest.skip.Exception, match="not here"):
        aegis_simulation(work=skip, seeds=[1], seconds=9.0, ttl=3.0, faults=[], acts=0)


def test_error_of_the_library_is_told_once_and_at_the_line_of_the_application(aegis_simulation: Simulation) -> None:
    """Not with the library's frames, once for each node."""

    async def ask(node: Node, _random: Random) -> None:
        await trio.sleep_until(3)
        await node.call("rooms", "greet", resource_id="%1")

    with pytest.raises(pytest.fail.Exception) as caught:
        aegis_simulation(work=ask, seeds=[1], seconds=9.0, ttl=3.0, faults=[], acts=0)
    told = str(caught.value)
    assert told.count("Traceback") == 1
    assert 'await node.call("rooms", "greet", resource_id="%1")\naegis_core.' in told


def test_application_that_ends_by_an_error_is_not_told_that_it_ended(aegis_simulation: Simulation) -> None:
    """Before it could be asked for anything: the error alone is what is wrong."""

    async def main() -> None:
        async with open_node() as node, node.serve(Service("rooms"), ttl=0.1):
            pass

    async def end() -> None:
        async with open_node():
            pass

    with pytest.raises(pytest.fail.Exception) as caught:
        aegis_simulation(main, seeds=[1], seconds=9.0, ttl=3.0, faults=[])
    told = str(caught.value)
    assert told.count("Traceback") == 1
    assert "ConfigError: serve(rooms): ttl: 0.1 s is too short" in told
    with pytest.raises(pytest.fail.Exception, match=r"the application that was started as node '.' has closed it"):
        aegis_simulation(end, seeds=[1], seconds=9.0, ttl=3.0, faults=[])


def test_tasks_for_which_time_stands_still_are_named(aegis_simulation: Simulation) -> None:
    """By their line."""

    async def spin(_node: Node, random: Random) -> None:
        await trio.sleep(1)
        while True:
            await trio.lowlevel.checkpoint()
            assert random.random() < 1

    with pytest.raises(
        pytest.fail.Exception,
        match=r"time stands still at .*\ntasks:\n  [abc]: spin: .*await trio.lowlevel.checkpoint\(\)",
    ):
        aegis_simulation(work=spin, seeds=[1], seconds=9.0, ttl=3.0, faults=[], acts=0)

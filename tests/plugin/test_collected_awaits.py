"""Missing awaits that the garbage collector finds, perhaps long after the test that made the coroutine."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import RunTests


@pytest.mark.parametrize("ends", ["assert not thing", "pass"], ids=["failed", "passed"])
def test_rubbish_of_an_earlier_test_fails_no_other(run_tests: RunTests, ends: str) -> None:
    """What it forgot to await is collected whenever it pleases the collector, in a test that has nothing to do with it.

    Unless the user's own filters make an error of it.
    """
    result = run_tests(
        f"""
import gc

gc.disable()

class Thing:
    pass

async def test_forgetful(aegis_cluster):
    thing = Thing()
    thing.itself, thing.claim = thing, trio.sleep(1)
    {ends}

async def test_innocent(aegis_cluster):
    gc.enable()
    gc.collect()
""",
        "-W",
        "default:coroutine:RuntimeWarning",
        apart=True,
    )
    counts = result.parseoutcomes()
    assert counts["passed"] == (1 if "assert" in ends else 2)
    result.stdout.no_fnmatch_line("*an await is missing*")
    result.stdout.fnmatch_lines(["*RuntimeWarning: coroutine 'sleep' was never awaited"])


@pytest.mark.parametrize("plugin", ["with", "without"])
def test_what_the_collector_finds_fails_where_the_user_says_so(run_tests: RunTests, plugin: str) -> None:
    """By a filter that makes errors of warnings, as it does without the plug-in: it is not reduced to a warning."""
    result = run_tests(
        f"""
import gc

async def make_rubbish():
    class Thing:
        pass

    thing = Thing()
    thing.itself, thing.claim = thing, trio.sleep(1)
    del thing
    gc.collect()

{"async def test_it(aegis_cluster):" if plugin == "with" else "def test_it():"}
    {"await make_rubbish()" if plugin == "with" else "trio.run(make_rubbish)"}
""",
        *(() if plugin == "with" else ("-p", "no:aegis")),
        apart=True,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*RuntimeWarning: coroutine 'sleep' was never awaited"])

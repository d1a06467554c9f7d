"""What the library logged, in the reports of tests that fail: little of it, so that the rest is seen."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import RunTests

AWAY = """
import logging

async def test_it(aegis_cluster, aegis_faults):
    logging.getLogger("bank").warning("opened")
    await aegis_cluster.serve("a", rooms, instance_id="rooms-1")
    for _ in range(5):
        with aegis_faults.partition({"a"}, {"store"}):
            await trio.sleep(200)
        await trio.sleep(100)
    logging.getLogger("bank").warning("closed")
    assert "open" == "closed"
"""


def logged(result: pytest.RunResult) -> list[str]:
    """The lines of the section of what was logged."""
    lines = result.outlines
    begin = next(at for at, line in enumerate(lines) if "Captured log call" in line)
    return lines[begin + 1 : next(at for at, line in enumerate(lines) if "cluster at the failure" in line)]


def test_outages_are_logged_in_a_few_lines(run_tests: RunTests) -> None:
    """The last, and how many there were; other loggers' lines are all shown, in their places."""
    result = run_tests(AWAY)
    result.assert_outcomes(failed=1)
    first, *lines = logged(result)
    assert first.endswith("records of aegis.* are left out: the fixture aegis_logs has all)")
    assert len([line for line in lines if " aegis." in line]) == 9
    assert [line.split()[-1] for line in lines if " bank:" in line] == ["opened", "closed"]


def test_few_lines_are_shown_as_they_are(run_tests: RunTests) -> None:
    """Nothing is said of what is left out where nothing is; a test without fixtures of ours is none of our business."""
    result = run_tests(
        """
import logging

async def test_it(aegis_cluster):
    for number in range(10):
        logging.getLogger("aegis.node").warning("line %d", number)
    assert not "few"

def test_other():
    for number in range(100):
        logging.getLogger("aegis.node").warning("number %d", number)
    assert not "many"
"""
    )
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*line 0", "*line 9", "*number 0", "*number 99"])
    result.stdout.no_fnmatch_line("*left out*")


def test_one_long_record_is_shown_whole(run_tests: RunTests) -> None:
    """Such as that of a handler's error, with where it was raised: it makes no test fail, and hides no failure."""
    result = run_tests(
        """
import logging

def log():
    logging.getLogger("aegis.server").error("long\\n" * 20)

async def test_good(aegis_cluster):
    log()

async def test_bad(aegis_cluster):
    log()
    assert not "the failure itself"
"""
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*assert not 'the failure itself'", "*long"])
    result.stdout.no_fnmatch_line("*left out*")


def test_test_hears_all_that_its_report_leaves_out(run_tests: RunTests) -> None:
    """By `caplog` and by ``aegis_logs``; and a run without pytest's own logging has nothing to leave out."""
    test = AWAY.replace("aegis_faults):", "aegis_faults, caplog, aegis_logs):").replace(
        'assert "open" == "closed"', "assert min(len(caplog.records), len(aegis_logs.records)) < 20"
    )
    result = run_tests(test)
    result.assert_outcomes(failed=1)
    run_tests(AWAY, "-p", "no:logging").assert_outcomes(failed=1)

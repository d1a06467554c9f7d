"""What a test fails by is its own assertion first, whatever else goes wrong while it is torn down."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest
import trio

from aegis_pytest import shields, state_dump, virtual_time
from aegis_pytest.verdict import drop_cancellations
from tests.plugin.conftest import RunTests

SHIELDED = """
async def stubborn():
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()
"""


@pytest.mark.parametrize(
    "body",
    ["await stubborn()", "await aegis_cluster.run('a', stubborn)"],
    ids=["in-the-test", "in-the-background"],
)
def test_shielded_wait_does_not_outlive_its_test(run_tests: RunTests, body: str) -> None:
    """Cancelled in vain, it is cancelled in its shield, and nothing is told but where it waited."""
    result = run_tests(f"{SHIELDED}\nasync def test_it(aegis_cluster):\n    {body}", ini="aegis_virtual_budget = 100")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["the test is not done after 100 virtual seconds*", "*in stubborn: await trio.sleep_forever()"]
    )
    result.stdout.no_fnmatch_line("*async_generator*")


def test_shielded_wait_ends_in_real_time_too(run_tests: RunTests, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no virtual clock moves on, it is the real one that ends it."""
    monkeypatch.setattr(virtual_time, "GRACE", 0.1)
    result = run_tests(
        f"{SHIELDED}\n@pytest.mark.aegis_real_time\nasync def test_it(aegis_cluster):\n    await stubborn()",
        ini="aegis_test_timeout = 0.5",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["the test is not done after 0.5 real seconds*"])


def test_assertion_is_shown_although_the_test_could_not_be_torn_down(run_tests: RunTests) -> None:
    """With the state at that moment, and where it hung afterwards."""
    result = run_tests(f"""{SHIELDED}
async def test_it(aegis_cluster):
    await aegis_cluster.serve("a", rooms, instance_id="rooms-1")
    await aegis_cluster.run("a", stubborn)
    await trio.sleep(1)
    assert 1 + 1 == 3
""")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E*assert (1 + 1) == 3",
            "E*besides, the test is not done after 3600 virtual seconds*",
            "E*a: stubborn: *in stubborn: await trio.sleep_forever()",
            "*cluster at the failure*",
            "cluster, 1 s after its start:",
            "    rooms-1: *",
        ]
    )


def test_assertion_is_shown_plainly_although_fixtures_fail_too(run_tests: RunTests) -> None:
    """What they raise stands below it, a line for each, and no group of exceptions around them."""
    result = run_tests("""
@pytest.fixture
async def first(aegis_cluster):
    yield
    raise OSError("disk on fire")

@pytest.fixture
async def second(aegis_cluster):
    yield
    async with trio.open_nursery():
        raise LookupError("nowhere to be found")

async def test_it(first, second):
    async with trio.open_nursery():
        assert 1 + 1 == 3

async def test_passed(first, second):
    pass

async def test_skipped(first):
    pytest.skip("for a reason")
""")
    result.assert_outcomes(failed=3)
    text = result.stdout.str()
    plain = text[: text.index("test_passed")]
    assert "ExceptionGroup" not in plain
    assert "assert (1 + 1) == 3" in plain
    result.stdout.fnmatch_lines_random(
        [
            "E*besides, OSError: disk on fire (test_*.py:* in first)",
            "E*besides, LookupError: nowhere to be found (test_*.py:* in second)",
        ]
    )
    assert "ExceptionGroup: errors in async test and trio fixtures (2 sub-exceptions)" in text[len(plain) :]


def test_what_cancelled_the_test_is_shown_before_what_it_then_failed_by(run_tests: RunTests) -> None:
    """A check in a ``finally`` says little about a test that something in the background ended."""
    result = run_tests("""
async def crash():
    await trio.sleep(1)
    raise OSError("disk on fire")

async def test_one(aegis_cluster):
    await aegis_cluster.run("a", crash)
    try:
        await trio.sleep(10)
    finally:
        assert trio.current_time() == 10

@pytest.fixture
async def late(aegis_cluster):
    yield
    raise LookupError("nowhere to be found")

async def test_several(aegis_cluster, late):
    await aegis_cluster.run("a", crash)
    try:
        await trio.sleep(10)
    finally:
        assert trio.current_time() == 10

async def test_alone(aegis_cluster):
    with trio.move_on_after(1):
        try:
            await trio.sleep(10)
        finally:
            assert trio.current_time() == 10
""")
    result.assert_outcomes(failed=3)
    one, several, alone = result.stdout.str().split("short test summary")[0].split("_ test_")[1:4]
    assert "OSError: disk on fire" in one.split("besides, ")[0]
    assert "besides, AssertionError: assert 1" in one
    assert "ExceptionGroup" not in one
    assert all(
        said in several for said in ("OSError: disk on fire", "LookupError: nowhere", "AssertionError: assert 1")
    )
    assert "ExceptionGroup" not in alone


def test_time_that_is_over_is_shown_without_what_it_cancelled(run_tests: RunTests) -> None:
    """The tasks that it ended are many, and each says the same."""
    result = run_tests("""
async def test_it(aegis_cluster):
    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(trio.sleep_forever)
""")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E*TooSlowError"])
    result.stdout.no_fnmatch_line("*trio.Cancelled: *")


def test_time_that_is_over_is_shown_although_fixtures_fail_too(run_tests: RunTests) -> None:
    """What the test cancelled itself is no sign that something else failed before."""
    result = run_tests("""
@pytest.fixture
async def late(aegis_cluster):
    yield
    raise LookupError("nowhere to be found")

async def test_it(late):
    with trio.fail_after(1):
        await trio.sleep(10)
""")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E*TooSlowError", "E*besides, LookupError: nowhere to be found (*)"])


def test_contexts_that_go_round_in_a_circle_come_to_an_end() -> None:
    """Python makes none, but programs may."""
    first, second, third = KeyError("first"), KeyError("second"), KeyError("third")
    first.__context__, second.__context__, third.__context__ = second, third, first
    drop_cancellations(first)
    assert first.__context__ is second
    second.__context__ = BaseExceptionGroup("cancelled", [_cancellation()])
    second.__context__.__context__ = first
    drop_cancellations(first)
    assert second.__context__ is first


def _cancellation() -> trio.Cancelled:
    found: list[trio.Cancelled] = []

    async def main() -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as exc:
                found.append(exc)
                raise

    trio.run(main)
    return found[0]


def test_folders_that_only_begin_like_a_library_are_none() -> None:
    """Neither Trio's, nor the standard library's."""
    folder = Path(trio.__file__).parent
    assert str(folder / "module.py").startswith(shields._WAITING)
    assert not f"{folder}_asyncio/module.py".startswith(shields._WAITING)
    stdlib = sysconfig.get_path("stdlib")
    assert not state_dump.is_users(f"{stdlib}/module.py")
    assert state_dump.is_users(f"{stdlib}-of-mine/module.py")


def test_state_is_shown_when_a_fixture_fails(run_tests: RunTests) -> None:
    """A cluster is set up in fixtures, too: before the test and after it."""
    result = run_tests("""
@pytest.fixture
async def before(aegis_cluster):
    await aegis_cluster.serve("a", rooms, instance_id="rooms-before")
    assert not aegis_cluster.nodes

@pytest.fixture
async def after(aegis_cluster):
    await aegis_cluster.serve("a", rooms, instance_id="rooms-after")
    yield
    assert not aegis_cluster.nodes

async def test_before(before):
    pass

async def test_after(after):
    pass
""")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "*cluster at the failure*",
            "    rooms-before: STANDBY ONLINE*",
            "*cluster at the failure*",
            "    rooms-after: STANDBY ONLINE*",
        ]
    )


def test_state_is_told_in_a_folder_that_is_gone(run_tests: RunTests) -> None:
    """Where a task waits is told by its whole path then."""
    result = run_tests("""
import os

@pytest.mark.aegis_limits(virtual=10)
async def test_it(aegis_cluster, tmp_path):
    before = os.getcwd()
    (tmp_path / "here").mkdir()
    os.chdir(tmp_path / "here")
    (tmp_path / "here").rmdir()
    try:
        await trio.sleep(100)
    finally:
        os.chdir(before)
""")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["the test is not done after 10 virtual seconds*", "*in test_it: await trio.sleep(100)"]
    )

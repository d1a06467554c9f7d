"""A test that would never end fails."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import conftest


def test_test_that_never_ends_fails_and_says_where_it_waits(pytester: pytest.Pytester) -> None:
    """Virtual time passes for ever, and what the test waits for does not come; those beside it run."""
    text = Path(conftest.__file__).read_text(encoding="utf-8")
    short, limits = re.subn(r"(?m)^ENDLESS: Final = .*$", "ENDLESS: Final = 0.3", text)
    assert limits == 1
    pytester.makeini("[pytest]\ntrio_mode = true")
    pytester.makeconftest(short)
    pytester.makepyfile("""
        import trio

        async def test_endless(autojump_clock):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(beat)
                await trio.Event().wait()

        async def beat():
            while True:
                await trio.sleep(10)

        async def test_long(autojump_clock):
            await trio.sleep(1_000_000)
            assert trio.current_time() == 1_000_000

        async def test_real():
            assert await trio.to_thread.run_sync(lambda: 1) == 1
        """)
    result = pytester.runpytest_inprocess("-p", "no:randomly", "-p", "no:xdist")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["the test is not done after 0.3 real seconds*", "*await trio.Event().wait()*"])

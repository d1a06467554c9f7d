"""The list of allowed skips is enforced."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import conftest
from tests.house import allowed_skips


@pytest.fixture
def judged(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A directory of tests under this project's conftest, with one test on the list."""
    monkeypatch.setitem(allowed_skips.ALLOWED_SKIPS, "*::test_listed", "no such part here")
    pytester.makeini("[pytest]")
    pytester.makeconftest(Path(conftest.__file__).read_text(encoding="utf-8"))
    return pytester


def run(judged: pytest.Pytester) -> pytest.RunResult:
    """Run the tests of *judged* alone, in one process and in their order."""
    return judged.runpytest_inprocess("-p", "no:randomly", "-p", "no:xdist")


def test_unlisted_skip_fails_the_run(judged: pytest.Pytester) -> None:
    """A skip without a reason on the list is a failure that names the test."""
    judged.makepyfile("""
        import pytest

        def test_passes():
            pass

        def test_gives_up():
            pytest.skip("not today")
        """)
    result = run(judged)
    result.assert_outcomes(passed=1, failed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*::test_gives_up was skipped or*", "*not today*"])


def test_marked_skip_and_expected_failure_count_as_skips(judged: pytest.Pytester) -> None:
    """The marks are no way around the list."""
    judged.makepyfile("""
        import pytest

        @pytest.mark.skip(reason="marked")
        def test_marked():
            pass

        @pytest.mark.xfail(reason="known")
        def test_expected():
            raise ValueError
        """)
    run(judged).assert_outcomes(failed=1, errors=1)


def test_module_that_skips_itself_fails_the_run(judged: pytest.Pytester) -> None:
    """A whole module cannot vanish in silence."""
    judged.makepyfile("""
        import pytest

        pytest.importorskip("no_such_module_anywhere")
        """)
    result = run(judged)
    result.assert_outcomes(errors=1)
    assert result.ret != pytest.ExitCode.OK


def test_listed_skip_stays_a_skip(judged: pytest.Pytester) -> None:
    """What the list names with a reason is shown as skipped."""
    judged.makepyfile("""
        import pytest

        def test_passes():
            pass

        def test_listed():
            pytest.skip("there is no such part here")
        """)
    result = run(judged)
    result.assert_outcomes(passed=1, skipped=1)
    assert result.ret == pytest.ExitCode.OK


def test_every_listed_skip_has_a_reason() -> None:
    """A pattern without a sentence beside it says nothing."""
    assert all(len(reason.split()) > 2 for reason in allowed_skips.ALLOWED_SKIPS.values())

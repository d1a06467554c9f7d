"""What holds for every test.

Nothing is skipped unless the list says why, nothing waits for ever, speed decides nothing (but where `tests/chaos` holds a promise
of it), what is counted is shown.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Generator
from fnmatch import fnmatchcase
from typing import Final, TypeVar

import httpcore  # noqa: F401 - httpx imports it at its first request: if within pytester, it is forgotten, and comes twice
import pytest
from hypothesis import HealthCheck, settings

from tests.house.allowed_skips import ALLOWED_SKIPS

# Measuring coverage on a busy machine makes any test slow; that is no fault of the code.
settings.register_profile("house", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")

ENDLESS: Final = 600.0
"""Real seconds after which a test is not slow any more: it waits, on virtual time perhaps, for what never happens."""

ReportT = TypeVar("ReportT", pytest.TestReport, pytest.CollectReport)


def refuse_unlisted_skip(report: ReportT) -> ReportT:
    """Turn a skip (or an expected failure) that the list does not name into a failure."""
    if report.skipped and not any(fnmatchcase(report.nodeid, allowed) for allowed in ALLOWED_SKIPS):
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = (
            f"{report.nodeid} was skipped or failed as expected, and "
            f"tests/house/allowed_skips.py gives no reason for it. It said:\n{why}"
        )
    return report


@pytest.hookimpl(tryfirst=True)  # before pytest-trio's own marks, because the first mark's run= counts
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let a test that would never end fail, and tell where its tasks wait."""
    from aegis_pytest.plugin import ASYNC_FIXTURES
    from aegis_pytest.virtual_time import Limits, bounded_run

    # A clock that the test asks for is the one that runs; otherwise time is real.
    mark = pytest.mark.trio(run=bounded_run(Limits(virtual=math.inf, real=ENDLESS), real_time=True))
    for item in items:
        # Who uses the plugin's fixtures is limited by the plugin, as its users are.
        limited = ASYNC_FIXTURES.intersection(getattr(item, "fixturenames", ())) or any(
            "run" in other.kwargs for other in item.iter_markers("trio")
        )
        if inspect.iscoroutinefunction(getattr(item, "obj", None)) and not limited:
            item.add_marker(mark)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Judge each test, in the process that ran it."""
    return refuse_unlisted_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Judge modules that skip themselves as they are imported."""
    return refuse_unlisted_skip((yield))


@pytest.fixture
def pytester(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Let inner runs, which do not read pyproject.toml, leave Schemathesis out too: importing it anew takes each a second."""
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:schemathesis")
    return pytester


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests counted and recorded as the property "counted", in whichever process they ran."""
    counted = [
        (report.nodeid.rpartition("/")[2], text)
        for report in terminalreporter.getreports("passed")
        for name, text in getattr(report, "user_properties", ())
        if name == "counted" and report.when == "call"
    ]
    if counted:
        terminalreporter.section("counted")
        for nodeid, text in sorted(counted):
            terminalreporter.write_line(f"{nodeid}: {text}")

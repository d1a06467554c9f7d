"""The pytest plugin, loaded by the entry point ``aegis`` wherever the distribution is installed.

It imports nothing of ours, nor Trio, until pytest has been configured: start-up stays quick where no test uses it, and
coverage tools, which start between the two, see every line of the packages. Without pytest-trio it has no fixtures,
and says so to a test that asks for one.

What it does to tests that use its asynchronous fixtures, directly or through others:

- it marks them for pytest-trio, which then needs no ``trio_mode``, with a ``run`` of its own
  (`aegis_pytest.virtual_time`);
- under hypothesis, each example gets its fixtures made anew (`aegis_pytest.examples`);
- if they are no coroutines, it says what to write instead;
- if they forget to await something, they fail;
- if they fail, it shows how their cluster stood at that moment; if Ctrl-C ends them, where their tasks waited.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from aegis_pytest.harness import Harness

__all__: list[str] = []

ASYNC_FIXTURES: Final = frozenset(
    {"aegis_calls", "aegis_cluster", "aegis_events", "aegis_faults", "aegis_node", "aegis_store"}
)

_OTHER_RUNNERS: Final = frozenset({"anyio", "asyncio"})
"""Marks of plug-ins that would run a test elsewhere than where its fixtures live."""

_WITHOUT_NATS: Final = frozenset({"memory", "http"})
"""Backends that need no NATS server; what is installed may well build on one."""

_MARKERS: Final = (
    "aegis_limits(virtual=3600, real=60): seconds that the test may take on the virtual and on the real clock",
    "aegis_real_time: run the test on the real clock",
    "aegis_needs('virtual_time', 'network', 'bus'): what the test needs of its backend; it is skipped on others",
    "aegis_allow('leaked_claims', 'unanswered_calls', 'tasks_left', 'missing_awaits', 'unused_faults'): what does not fail it",
)


_CHOICES: Final[pytest.StashKey[Mapping[str, type[Harness]]]] = pytest.StashKey()
_STATE: Final[pytest.StashKey[str]] = pytest.StashKey()
_INTERRUPTED: Final[pytest.StashKey[list[str]]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer the choice of backends and of a NATS cluster, and the two limits."""
    group = parser.getgroup("aegis", "AegisIPC")
    group.addoption(
        "--aegis-backend",
        metavar="NAMES",
        help="run the tests that use AegisIPC's fixtures on each of these backends: memory, nats, http, and what installed "
        "distributions bring, with commas between; by default on memory. Servers are started",
    )
    group.addoption(
        "--aegis-nats-url",
        metavar="URL",
        help="test against this NATS cluster, nats://host:4222?replicas=3, in buckets that are removed at the end; "
        "by default a server is started",
    )
    parser.addini(
        "aegis_virtual_budget",
        "seconds on the virtual clock after which a test that uses AegisIPC's fixtures has failed (0: no limit)",
        default="3600",
    )
    parser.addini(
        "aegis_test_timeout",
        "seconds on the real clock after which a test that uses AegisIPC's fixtures has failed (0: no limit)",
        default="60",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers, and the fixtures where pytest-trio is there to run them."""
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)
    url = config.getoption("--aegis-nats-url")
    if url is not None:
        _check_nats_url(url)
    given = config.getoption("--aegis-backend")
    config.stash[_CHOICES] = {} if given is None else _choices(given, config)
    if config.pluginmanager.hasplugin("trio"):
        from aegis_pytest import fixtures  # noqa: PLC0415 - see the module's docstring

        config.pluginmanager.register(fixtures, "aegis-fixtures")


def _choices(given: str, config: pytest.Config) -> Mapping[str, type[Harness]]:
    """The backends that ``--aegis-backend`` names.

    Raises:
        pytest.UsageError: One is unknown; or what they need is not installed, of which all is told.
    """
    from aegis_core.errors import ConfigError  # noqa: PLC0415 - see the module's docstring
    from aegis_pytest.backends import read_choices  # noqa: PLC0415

    try:
        choices = read_choices(given)
    except ConfigError as exc:
        raise pytest.UsageError(exc.message) from exc
    missing: list[ConfigError] = []
    for harness in choices.values():
        try:
            harness.check(config)
        except ConfigError as exc:
            missing.append(exc)
    if missing:
        raise pytest.UsageError(*(exc.message for exc in missing)) from missing[0]
    return choices


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of each backend that is chosen, out of one."""
    choices = metafunc.config.stash[_CHOICES]
    if choices and "aegis_backend" in metafunc.fixturenames:
        metafunc.parametrize("aegis_backend", list(choices), indirect=True)


def _check_nats_url(url: str) -> None:
    from aegis_core.errors import ConfigError  # noqa: PLC0415 - see the module's docstring
    from aegis_pytest.nats import check_url  # noqa: PLC0415

    try:
        check_url(url)
    except ConfigError as exc:
        raise pytest.UsageError(exc.message) from exc


@pytest.hookimpl(tryfirst=True)  # before pytest-trio's own marks, because the first mark's run= counts
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests that use an asynchronous fixture of ours, and refuse markers that cannot be meant."""
    from aegis_pytest import markers  # noqa: PLC0415 - see the module's docstring

    markers.check_markers(config, items)
    users = [item for item in items if ASYNC_FIXTURES.intersection(getattr(item, "fixturenames", ()))]
    if not users:
        return
    if not config.pluginmanager.hasplugin("trio"):
        raise pytest.UsageError("the fixtures of AegisIPC need pytest-trio: pip install 'aegis-ipc[test]'")
    from aegis_pytest.virtual_time import bounded_run  # noqa: PLC0415

    defaults = markers.limits_of(config)
    for item in users:
        allow = markers.allowed(item)
        name = getattr(getattr(item, "callspec", None), "params", {}).get("aegis_backend", "memory")
        capabilities = harness_of(name, config).capabilities
        missing = sorted(markers.needs_of(item) - capabilities)
        if missing:
            item.add_marker(pytest.mark.skip(reason=f"backend {name} has no {' and no '.join(missing)}"))
        if _is_async(item) and not any("run" in mark.kwargs for mark in item.iter_markers("trio")):
            real_time = item.get_closest_marker("aegis_real_time") or "virtual_time" not in capabilities
            run = bounded_run(
                markers.own_limits_of(item, defaults),
                real_time=bool(real_time),
                full_trace=bool(config.getoption("fulltrace")) or markers.expects_error(item),
                allow=allow,
                tell_interrupt=partial(config.stash.__setitem__, _INTERRUPTED),
            )
            item.add_marker(pytest.mark.trio(run=run))


def pytest_report_collectionfinish(config: pytest.Config, items: Iterable[pytest.Item]) -> str | None:
    """Say that a NATS cluster is named for nothing."""
    if config.getoption("--aegis-nats-url") is None or any(_may_use_nats(item) for item in items):
        return None
    return "--aegis-nats-url is not used: of the tests here none runs on NATS, unless you choose it by --aegis-backend nats"


def _may_use_nats(item: pytest.Item) -> bool:
    backend = getattr(getattr(item, "callspec", None), "params", {}).get("aegis_backend", "memory")
    return backend not in _WITHOUT_NATS or "aegis_nats_url" in getattr(item, "fixturenames", ())


def harness_of(backend: str, config: pytest.Config) -> type[Harness]:
    """The class of the harness of *backend*."""
    from aegis_pytest.backends import load_harness  # noqa: PLC0415 - see the module's docstring

    # What the option names has been looked for already, in all that is installed.
    return config.stash[_CHOICES].get(backend) or load_harness(backend)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tell a test that it cannot be run with the fixtures that it uses: asynchronous ones, or simulations, or elsewhere."""
    names = getattr(item, "fixturenames", ())
    used = sorted(ASYNC_FIXTURES.intersection(names))
    if "aegis_simulation" in names and used:
        pytest.fail(
            f"{item.name} uses aegis_simulation and {', '.join(_named(item, used))}, which cannot be combined: a simulation opens "
            "a cluster of its own for each seed, in a Trio run of its own. Leave one out; what is asynchronous in a simulation is "
            "its main= and work=",
            pytrace=False,
        )
    if "aegis_simulation" in names and _is_async(item):
        pytest.fail(
            f"{item.name} uses aegis_simulation, which only a synchronous test can, because it makes a Trio run for each "
            f"seed: write 'def {item.name}(...)', and give it what is asynchronous as main= and work=",
            pytrace=False,
        )
    if "aegis_simulation" in names and any(mark.name == "aegis_limits" for mark in item.own_markers):
        pytest.fail(
            f"{item.name} is marked aegis_limits, which a simulation knows nothing of: leave that mark out. A scenario goes on for "
            "seconds= on the virtual clock, and ends where its tasks run in circles",
            pytrace=False,
        )
    if used and not _is_async(item):
        pytest.fail(
            f"{item.name} uses {', '.join(used)}, which only an asynchronous test can: write 'async def {item.name}(...)'",
            pytrace=False,
        )
    for mark in item.iter_markers():
        if used and mark.name in _OTHER_RUNNERS:
            pytest.fail(
                f"{item.name} uses {', '.join(used)}, and is marked {mark.name!r}, for another plug-in to run it: leave that "
                "mark out, what uses fixtures of AegisIPC is run on Trio without one",
                pytrace=False,
            )


@pytest.hookimpl(wrapper=True, tryfirst=True)  # around pytest-trio's wrapper, which wraps the same function
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Note how the test ends; and let each example of a hypothesis test have fixtures of its own."""
    if isinstance(item, pytest.Function) and ASYNC_FIXTURES.intersection(item.fixturenames):
        from aegis_pytest.examples import with_fresh_fixtures  # noqa: PLC0415 - see the module's docstring
        from aegis_pytest.verdict import noting_failure  # noqa: PLC0415

        def tell(state: str) -> None:
            keep_state(item, state)

        hypothesis = getattr(item.obj, "hypothesis", None)
        if hypothesis is not None:
            hypothesis.inner_test = with_fresh_fixtures(item, hypothesis.inner_test, tell)
        elif not getattr(item.obj, "_trio_test_runner_wrapped", False):  # else it is run again, and has been wrapped
            item.obj = noting_failure(item.obj, tell)
    if not _uses_ours(item):
        return (yield)
    from aegis_pytest.short_logs import watching  # noqa: PLC0415

    with watching(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let a test that broke Trio down spoil no other."""
    try:
        return (yield)
    finally:
        if ASYNC_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            from aegis_pytest.mistakes import bury_test  # noqa: PLC0415 - see the module's docstring

            bury_test()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show how the cluster stood when the test failed, and no more than the last that the library logged."""
    report = yield
    if call.when == "call" and report.failed and _uses_ours(item):
        from aegis_pytest.short_logs import shorten  # noqa: PLC0415 - see the module's docstring

        shorten(item, report)
    state = item.stash.get(_STATE, "")
    if call.when == "call" and report.failed and state:
        report.sections.append(("cluster at the failure", state))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show where the tasks of the test waited that Ctrl-C ended."""
    tasks = config.stash.get(_INTERRUPTED, [])
    if len(tasks) > 2:  # a heading and how many of the libraries' tasks there are, besides
        terminalreporter.section("interrupted: where the tasks waited")
        for line in tasks:
            terminalreporter.line(line)


def _uses_ours(item: pytest.Item) -> bool:
    return any(name.startswith("aegis_") for name in getattr(item, "fixturenames", ()))


def keep_state(item: pytest.Item, state: str) -> None:
    """Show *state*, how the cluster stood, if *item* fails."""
    item.stash[_STATE] = state


def _test_function(item: pytest.Item) -> Callable[..., object] | None:
    function = getattr(item, "obj", None)
    return getattr(getattr(function, "hypothesis", None), "inner_test", function)


def _is_async(item: pytest.Item) -> bool:
    function = _test_function(item)
    # The runner of a hypothesis test that has run before (parametrized, say) is synchronous, and marked by pytest-trio.
    return inspect.iscoroutinefunction(function) or getattr(function, "_trio_test_runner_wrapped", False)


def _named(item: pytest.Item, fixtures: Sequence[str]) -> Sequence[str]:
    """Those of *fixtures* that the test itself names; all, if others use them for it."""
    function = _test_function(item)
    parameters = () if function is None else inspect.signature(function).parameters
    return [name for name in fixtures if name in parameters] or fixtures

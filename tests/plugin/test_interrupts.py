"""Ctrl-C ends the session, at once, and says where the test was."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from aegis_pytest.interrupts import Interrupts, find_interrupt
from tests.plugin.conftest import PREAMBLE

INTERRUPTED = """
import signal
import time

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell is started without

def press():
    signal.raise_signal(signal.SIGINT)

keys = Service("keys")

@keys.method
async def press_it(call: Call) -> None:
    press()

@pytest.fixture
async def broken(aegis_cluster):
    yield
    raise OSError("disk on fire")

@trio.lowlevel.enable_ki_protection  # so that it comes to who waits
async def interrupt_later():
    await trio.sleep(1)
    press()

"""


@pytest.fixture(autouse=True)
def _heard() -> Iterator[None]:
    """Interrupts are raised, also in what a shell has started in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def run(pytester: pytest.Pytester, source: str) -> pytest.RunResult:
    """In a process of its own, which an interrupt may end."""
    pytester.makeini("[pytest]\nfilterwarnings = error\n")
    pytester.makepyfile(f"{PREAMBLE}{INTERRUPTED}{source}\ndef test_after():\n    print('went on')\n")
    return pytester.runpytest_subprocess("-s", "-p", "no:randomly", "-p", "no:cacheprovider", timeout=60)


@pytest.mark.parametrize(
    "source",
    [
        """
async def test_one(aegis_cluster):
    await aegis_cluster.serve("a", keys)
    await (await aegis_cluster.node("b")).call("keys", "press_it")
""",
        """
async def test_one(aegis_cluster, broken):
    async with trio.open_nursery():
        press()
""",
        """
async def test_one(aegis_cluster):
    try:
        press()
    finally:
        assert 1 + 1 == 3
""",
    ],
    ids=["in-a-handler", "beside-another-error", "before-another-error"],
)
def test_interrupt_ends_the_session_whatever_the_test_makes_of_it(pytester: pytest.Pytester, source: str) -> None:
    """What else is raised, besides or because of it, is no failure. pytest names the line of the user's code."""
    result = run(pytester, source)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.no_fnmatch_line("*went on*")
    result.stdout.no_fnmatch_line("*FAILURES*")
    (file,) = pytester.path.glob("test_*.py")
    number = 1 + file.read_text().splitlines().index("    signal.raise_signal(signal.SIGINT)")
    result.stdout.fnmatch_lines([f"*{file.name}:{number}: KeyboardInterrupt"])


def test_interrupt_shows_where_the_tasks_of_the_cluster_waited(pytester: pytest.Pytester) -> None:
    """The main task alone is interrupted, at a line of Trio's."""
    result = run(
        pytester,
        """
async def test_one(aegis_cluster):
    await aegis_cluster.run("a", trio.sleep_forever)
    instance = await aegis_cluster.serve("a", rooms)
    await aegis_cluster.run("a", hold, instance)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(interrupt_later)
        await trio.sleep_forever()
""",
    )
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(
        [
            "*= interrupted: where the tasks waited =*",
            "  <test 'test_one'>: test_*.py:* in test_one: await trio.sleep_forever()",
            "  a: hold: test_*.py:* in hold: await trio.sleep_forever()",
            "*! KeyboardInterrupt !*",
        ],
    )


def test_interrupt_of_a_test_alone_shows_no_list_of_nothing(pytester: pytest.Pytester) -> None:
    """Of the task that runs, pytest names the line."""
    result = run(pytester, "async def test_one(aegis_cluster):\n    press()\n")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.no_fnmatch_line("*where the tasks waited*")


@pytest.mark.parametrize("forever", ["pass", "time.sleep(600)"], ids=["at-work", "in-a-system-call"])
def test_one_interrupt_ends_a_simulation_whose_nodes_all_spin(pytester: pytest.Pytester, forever: str) -> None:
    """Trio raises it in one of them, and the next would go on for ever."""
    result = run(
        pytester,
        f"""
pressed = False

async def work(node, random):
    global pressed
    await trio.sleep_until(10)
    if not pressed:
        pressed = True
        press()
    while True:
        {forever}

def test_one(aegis_simulation):
    aegis_simulation(work=work, seeds=[1], acts=0, troubles=0)
""",
    )
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.no_fnmatch_line("*went on*")


def test_failure_because_of_an_interrupt_that_nobody_sent_is_a_failure(pytester: pytest.Pytester) -> None:
    """A program that ends by one of its own making, and is tested for that."""
    result = run(
        pytester,
        """
async def test_one(aegis_cluster):
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt as exc:
        raise LookupError("shut down") from exc
""",
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*went on*", "*LookupError: shut down"])


def test_interrupt_that_a_test_expects_does_not_end_it(pytester: pytest.Pytester) -> None:
    """Nor the session."""
    result = run(
        pytester,
        """
async def test_one(aegis_cluster):
    with pytest.raises(KeyboardInterrupt):
        press()
""",
    )
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["*went on*"])
    result.stdout.no_fnmatch_line("*interrupted*")


async def test_handler_is_put_back_unless_another_took_its_place() -> None:
    """Who set a handler of his own keeps it."""
    before = signal.getsignal(signal.SIGINT)

    def own(*_: object) -> None:
        """Nothing."""

    try:
        with Interrupts().noted():
            assert signal.getsignal(signal.SIGINT) is not before
        assert signal.getsignal(signal.SIGINT) is before
        with Interrupts().noted():
            signal.signal(signal.SIGINT, own)
        assert signal.getsignal(signal.SIGINT) is own
    finally:
        signal.signal(signal.SIGINT, before)


def test_handler_does_not_outlive_a_run_that_broke_down() -> None:
    """Its block was never left."""
    before = signal.getsignal(signal.SIGINT)
    interrupts = Interrupts()
    block = interrupts.noted()
    block.__enter__()
    assert signal.getsignal(signal.SIGINT) is not before
    interrupts.close()
    assert signal.getsignal(signal.SIGINT) is before


async def test_first_interrupt_is_the_one_whose_waits_are_told() -> None:
    """By a second, the test unwinds already."""
    interrupts = Interrupts()
    assert interrupts.tasks == []
    with interrupts.noted():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        first = interrupts.tasks
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert interrupts.is_pending
    assert interrupts.tasks is first


def test_threads_other_than_the_main_one_have_no_handler() -> None:
    """Python raises interrupts in the main thread only."""
    before = signal.getsignal(signal.SIGINT)
    during: list[object] = []

    def look() -> None:
        with Interrupts().noted():
            during.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert during == [before]


def test_interrupt_is_found_in_groups_and_contexts() -> None:
    """Even where contexts go round in a circle; in contexts only where there was one."""
    interrupt, error = KeyboardInterrupt(), LookupError()
    error.__context__ = group = BaseExceptionGroup("", [ValueError(), interrupt])
    assert find_interrupt(None, error, in_contexts=True) is interrupt
    assert find_interrupt(None, error, in_contexts=False) is None
    assert find_interrupt(interrupt, in_contexts=False) is interrupt
    assert find_interrupt(None, in_contexts=True) is None
    error.__context__ = circle = ValueError()
    circle.__context__ = error
    assert find_interrupt(error, in_contexts=True) is None
    assert find_interrupt(group, error, in_contexts=False) is interrupt

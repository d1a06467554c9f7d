"""Signals end a command cleanly, at any moment."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest
import trio

from aegis_core.cli.interruption import run_until_signal

SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Give the signals back to the test run."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


async def test_a_command_that_ends_by_itself_gives_its_own_status() -> None:
    """Without a signal the command's exit status is the answer."""

    async def command() -> int:
        await trio.lowlevel.checkpoint()
        return 7

    assert await run_until_signal(command) == 7


@pytest.mark.parametrize("number", SIGNALS, ids=["SIGINT", "SIGTERM"])
async def test_a_signal_cancels_the_command_and_is_its_status(number: signal.Signals) -> None:
    """The command has its teardown, and the exit status is 128 + the signal's number."""
    torn_down = False

    async def command() -> int:
        nonlocal torn_down
        signal.raise_signal(number)
        try:
            await trio.sleep_forever()
        finally:
            torn_down = True

    assert await run_until_signal(command) == 128 + number
    assert torn_down


async def test_an_impatient_second_signal_does_not_cut_the_teardown_short() -> None:
    """Two in a moment are one."""
    torn_down = False

    async def command() -> int:
        nonlocal torn_down
        signal.raise_signal(signal.SIGINT)
        try:
            await trio.sleep_forever()
        finally:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
            torn_down = True

    assert await run_until_signal(command) == 130
    assert torn_down


async def test_a_command_that_reaches_no_checkpoint_any_more_was_interrupted_all_the_same() -> None:
    """The signal came while the command ran, so the exit status says so."""

    async def command() -> int:
        await trio.lowlevel.checkpoint()
        signal.raise_signal(signal.SIGINT)
        return 0

    assert await run_until_signal(command) == 130


async def test_what_a_command_raises_is_not_wrapped() -> None:
    """An error is the caller's to see as it is."""

    async def command() -> int:
        await trio.lowlevel.checkpoint()
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        await run_until_signal(command)


def run_python(program: str) -> subprocess.CompletedProcess[str]:
    """Run *program* in a process of its own."""
    command = [sys.executable, "-c", textwrap.dedent(program)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_signal_outside_trio_ends_the_process_at_once() -> None:
    """Before and after Trio there is nothing to clean up, and no traceback to show."""
    done = run_python(
        """
        import signal
        from aegis_core.cli.interruption import leave_at_signals
        leave_at_signals()
        signal.raise_signal(signal.SIGINT)
        print("still here")
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_later_second_signal_ends_a_teardown_that_hangs() -> None:
    """Who asks again after a second gets his prompt back, whatever the teardown is doing."""
    done = run_python(
        """
        import itertools, signal, time
        import trio
        from aegis_core.cli.interruption import run_until_signal

        times = itertools.count(0, 2)
        time.monotonic = lambda: next(times)

        async def command():
            signal.raise_signal(signal.SIGINT)
            try:
                await trio.sleep_forever()
            finally:
                signal.raise_signal(signal.SIGTERM)
                print("still here")

        trio.run(run_until_signal, command)
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "")

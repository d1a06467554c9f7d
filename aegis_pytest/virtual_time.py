"""How tests of the plugin's fixtures are run: on virtual time, and never for ever.

pytest-trio takes a clock only from what the test itself names, so that a fixture cannot bring one. But it also runs a
test by the ``run=`` of its mark, and that is where the plugin comes in: `bounded_run` supplies the clock and two limits.

- **Virtual time** ends a wait for what will never happen: with nothing else to do, the clock jumps from deadline to
  deadline, and a cluster that only renews its leases would do so until somebody gets up and stops it.
- **Real time** ends what does not even let the clock jump: a loop over checkpoints, a socket that stays silent.

Either way the test fails with the state of its clusters and tasks (`aegis_pytest.state_dump`).

A mock clock knows nothing of threads: while `trio.to_thread.run_sync` waits for a disk, virtual minutes would pass. So
as long as a thread works, the clock jumps only after `THREAD_PATIENCE` real seconds of idleness.

Simulations have neither threads nor sockets, and run on a clock that is nothing but a number (`JumpingClock`), in half the time.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import attrs
import pytest
import trio
import trio.testing

from aegis_pytest.state_dump import dump_state, from_users_code
from aegis_pytest.verdict import only_leaf

__all__ = ["THREAD_PATIENCE", "JumpingClock", "Limits", "bounded_run"]

THREAD_PATIENCE: Final = 1.0
"""Real seconds for which a working thread holds the virtual clock. A thread may wait for the clock itself
(`trio.from_thread`), so it cannot be held for ever."""


@attrs.frozen(kw_only=True)
class Limits:
    """What a test may take at most.

    Args:
        virtual: Seconds on the virtual clock; `math.inf` for no limit.
        real: Seconds on the real one; `math.inf` for no limit.
    """

    virtual: float = 3600.0
    real: float = 60.0


class JumpingClock(trio.abc.Clock):
    """A virtual clock for what does no I/O at all: whenever all tasks wait, it is at once as late as the first of them waits for.

    It does not know of `trio.testing.wait_all_tasks_blocked`, which waits on it for ever.
    """

    def __init__(self) -> None:
        self._now = 0.0

    def __repr__(self) -> str:
        return f"<JumpingClock at {self._now:g} s>"

    def start_clock(self) -> None:
        """There is nothing to start."""

    def current_time(self) -> float:
        """Seconds since it was made."""
        return self._now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Jump to *deadline*: Trio asks when no task can run."""
        if deadline < math.inf:
            self._now = max(self._now, deadline)
        return deadline - self._now


class _ThreadGuard(trio.abc.Instrument):
    """Lets *clock* wait while threads work."""

    def __init__(self, clock: trio.testing.MockClock) -> None:
        self._clock = clock
        self._threshold = clock.autojump_threshold
        self._waiting = False

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """A thread begins and ends in a step of some task."""
        working = trio.testing.active_thread_count() > 0
        if working is not self._waiting:
            self._waiting = working
            patience = max(self._threshold, THREAD_PATIENCE) if working else self._threshold
            self._clock.autojump_threshold = patience


class _Watch:
    """Ends one test when it takes too long, and keeps what its state was."""

    def __init__(self, limits: Limits) -> None:
        self.report: str | None = None
        self._limits = limits
        self._scope = trio.CancelScope()

    async def around(self, fn: Callable[[], Awaitable[object]], *, virtual: bool) -> None:
        """Run *fn* within the limits."""
        token = trio.lowlevel.current_trio_token()
        if virtual and self._limits.virtual < math.inf:
            # A system task, because a nursery would wrap what the test raises into a group.
            trio.lowlevel.spawn_system_task(self._watch_virtual)
        timer = self._watch_real(token)
        try:
            with self._scope:
                await fn()
        finally:
            timer.cancel()

    async def _watch_virtual(self) -> None:
        await trio.sleep(self._limits.virtual)
        self._stop(
            f"the test is not done after {self._limits.virtual:g} virtual seconds: it waits for something that does not "
            "happen, or its limit is too low (ini option aegis_virtual_budget, marker aegis_limits)"
        )

    def _watch_real(self, token: trio.lowlevel.TrioToken) -> threading.Timer:
        def fire() -> None:
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(
                    self._stop,
                    f"the test is not done after {self._limits.real:g} real seconds (ini option aegis_test_timeout, marker "
                    "aegis_limits)",
                )

        timer = threading.Timer(min(self._limits.real, threading.TIMEOUT_MAX), fire)
        timer.daemon = True
        timer.start()
        return timer

    def _stop(self, why: str) -> None:
        if self.report is None:
            self.report = f"{why}\n{dump_state()}"
            self._scope.cancel()


def bounded_run(limits: Limits, *, real_time: bool = False) -> Callable[..., None]:
    """Make the ``run=`` of a test's mark.

    Args:
        limits: What the test may take.
        real_time: Do not supply a virtual clock. One that the test itself names is used in any case.
    """

    def run(
        fn: Callable[[], Awaitable[object]],
        *,
        clock: trio.abc.Clock | None = None,
        instruments: Sequence[trio.abc.Instrument] = (),
    ) -> None:
        __tracebackhide__ = True
        if clock is None and not real_time:
            clock = trio.testing.MockClock(autojump_threshold=0)
        virtual = isinstance(clock, trio.testing.MockClock | JumpingClock)
        guards = [_ThreadGuard(clock)] if isinstance(clock, trio.testing.MockClock) else []
        watch = _Watch(limits)

        async def main() -> None:
            await watch.around(fn, virtual=virtual)

        failed: BaseException | None = None
        try:
            trio.run(main, clock=clock, instruments=[*instruments, *guards])
        except BaseExceptionGroup as group:
            # pytest-trio has a nursery for the test and for each fixture: a failed assertion should read as one.
            failed = only_leaf(group)
        finally:
            if watch.report is not None:
                pytest.fail(watch.report, pytrace=False)
        if failed is not None:
            if isinstance(failed.__context__, trio.Cancelled):
                # A background task's error reached the fixture by cancelling it, which explains nothing.
                failed.__context__ = None
            raise failed.with_traceback(from_users_code(failed.__traceback__))

    return run

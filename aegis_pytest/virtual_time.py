"""How tests of the plugin's fixtures are run: on virtual time, and never for ever.

pytest-trio takes a clock only from what the test itself names, so that a fixture cannot bring one. But it also runs a
test by the ``run=`` of its mark, and that is where the plugin comes in: `bounded_run` supplies the clock and two limits.

- **Virtual time** ends a wait for what will never happen: with nothing else to do, the clock jumps from deadline to
  deadline, and a cluster that only renews its leases would do so until somebody gets up and stops it.
- **Real time** ends what does not even let the clock jump: a loop over checkpoints, a socket that stays silent.

Either way the test fails with the state of its clusters and tasks (`aegis_pytest.state_dump`). It is cancelled, and what
does not end by that, because it waits in a shielded block, is cancelled there `GRACE` seconds later. Only code that never
comes to a checkpoint is beyond that.

What it forgot to await, or to leave, fails it, too (`aegis_pytest.mistakes`). Ctrl-C ends the session, unless
the test itself catches it (`aegis_pytest.interrupts`).

A mock clock knows nothing of threads: while `trio.to_thread.run_sync` waits for a disk, virtual minutes would pass. So
as long as a thread works, the clock jumps only after `THREAD_PATIENCE` real seconds of idleness.

Simulations have neither threads nor sockets, and run on a clock that is nothing but a number (`JumpingClock`), in half the time.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import attrs
import pytest
import trio
import trio.testing

from aegis_core.errors import ConfigError
from aegis_pytest.interrupts import Interrupts, find_interrupt, interrupt_main_thread
from aegis_pytest.mistakes import Listener, bury_run, has_broken_down
from aegis_pytest.shields import lift_shields
from aegis_pytest.state_dump import dump_state, from_users_code, to_users_code, where_tasks_wait
from aegis_pytest.traces import shortened
from aegis_pytest.verdict import Failure, drop_cancellations, only_leaf, own_failure, what_failed_first

__all__ = ["GRACE", "THREAD_PATIENCE", "JumpingClock", "Limits", "bounded_run"]

_BARE_OPEN: Final = (
    "(in a test, a bare open_node() is a node of the cluster where the cluster starts the program: "
    "await aegis_cluster.start('a', main))"
)

THREAD_PATIENCE: Final = 1.0
"""Real seconds for which a working thread holds the virtual clock. A thread may wait for the clock itself
(`trio.from_thread`), so it cannot be held for ever."""

GRACE: Final = 10.0
"""Seconds, on the clock whose limit ended it, that a test has to unwind before shields are lifted, and again after that."""

_INTERRUPT_EVERY: Final = 0.5
"""Real seconds between two interrupts of a simulation that does not end by the first."""

_MOST_TASKS: Final = 4
"""Where tasks wait, when that is not what the test failed by."""


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
    """Ends one test when it takes too long, and keeps what its state was.

    Attributes:
        why: It was ended; "" for a test that was not.
        report: `why`, and the state.
        tasks: Where its tasks waited.
        interrupts: Those by the user. With *insisting*, they are repeated until the run is over.
    """

    def __init__(self, limits: Limits, *, insisting: bool) -> None:
        self.why = self.report = ""
        self.tasks: list[str] = []
        self.failure: Failure | None = None
        self.interrupts = Interrupts()
        self._limits = limits
        self._insisting = insisting
        self._scope = trio.CancelScope()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    async def around(self, fn: Callable[[], Awaitable[object]], *, virtual: bool) -> None:
        """Run *fn* within the limits."""
        token = trio.lowlevel.current_trio_token()
        if virtual and self._limits.virtual < math.inf:
            # A system task, because a nursery would wrap what the test raises into a group.
            trio.lowlevel.spawn_system_task(self._watch_virtual)
        self._thread = threading.Thread(target=self._watch_real, args=(token,), daemon=True)
        self._thread.start()
        try:
            with self.interrupts.noted(), self._scope:
                await fn()
        finally:
            self.failure = own_failure()
            self._over.set()

    def end(self) -> None:
        """Let go of the run, which is over: of one that broke down, `around` was not left."""
        self._over.set()
        self.interrupts.close()
        if self._thread is not None:
            self._thread.join()

    async def _watch_virtual(self) -> None:
        await trio.sleep(self._limits.virtual)
        self._stop(
            f"the test is not done after {self._limits.virtual:g} virtual seconds: it waits for something that does not "
            "happen, or its limit is too low (ini option aegis_virtual_budget, marker aegis_limits)"
        )
        while True:
            await trio.sleep(GRACE)
            lift_shields(self._scope)

    def _watch_real(self, token: trio.lowlevel.TrioToken) -> None:
        end = time.monotonic() + self._limits.real
        while time.monotonic() < end:
            if self._over.wait(min(_INTERRUPT_EVERY, end - time.monotonic())):
                return
            if self._insisting and self.interrupts.is_pending:
                interrupt_main_thread()
        why = (
            f"the test is not done after {self._limits.real:g} real seconds (ini option aegis_test_timeout, marker "
            "aegis_limits)"
        )
        with contextlib.suppress(trio.RunFinishedError):
            token.run_sync_soon(self._stop, why)
            while not self._over.wait(GRACE):
                token.run_sync_soon(lift_shields, self._scope)

    def _stop(self, why: str) -> None:
        if not self.why:
            self.why, self.report = why, f"{why}\n{dump_state()}"
            self.tasks = where_tasks_wait(_MOST_TASKS)
            self._scope.cancel()


def bounded_run(
    limits: Limits,
    *,
    real_time: bool = False,
    full_trace: bool = False,
    allow: frozenset[str] = frozenset(),
    tell_interrupt: Callable[[list[str]], None] = lambda _: None,
) -> Callable[..., None]:
    """Make the ``run=`` of a test's mark.

    Args:
        limits: What the test may take.
        real_time: Do not supply a virtual clock. One that the test itself names is used in any case.
        full_trace: Show where in the library an error of the library's was raised, and all parts of a group.
        allow: Of `aegis_pytest.mistakes.MISTAKES`, what does not fail the test.
        tell_interrupt: Called when Ctrl-C ended the test, with where its tasks waited, line by line.
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
        watch = _Watch(limits, insisting=isinstance(clock, JumpingClock))

        async def main() -> None:
            await watch.around(fn, virtual=virtual)

        raised: BaseException | None = None
        listener = Listener(allow)
        try:
            with listener.listening():
                trio.run(main, clock=clock, instruments=[*instruments, *guards])
        except BaseExceptionGroup as group:
            # pytest-trio has a nursery for the test and for each fixture: a failed assertion should read as one.
            raised = only_leaf(group)
        except (Exception, KeyboardInterrupt) as exc:  # noqa: BLE001 - it is raised below
            raised = exc
        finally:
            watch.end()
        failure = None if watch.failure is None else watch.failure.raised
        # A program may raise one of its own, and something else because of that: then nobody has pressed Ctrl-C.
        interrupt = find_interrupt(raised, failure, in_contexts=watch.interrupts.is_pending)
        if has_broken_down(raised):
            bury_run()
            not_left = listener.tell_block(raised)
            if not_left:
                raised = None
                listener.found.insert(0, not_left)
        if interrupt is not None:
            tell_interrupt(watch.interrupts.tasks)
            raise interrupt if full_trace else interrupt.with_traceback(to_users_code(interrupt.__traceback__))
        failed = what_failed_first(watch.failure, raised)
        if watch.failure is not None and failed is not None:
            for line in (f"besides, {watch.why}", *watch.tasks) if watch.why else ():
                failed.add_note(line)
        elif watch.why:
            pytest.fail(watch.report, pytrace=False)
        for mistake in listener.found:
            if failed is None:
                pytest.fail("\n".join(listener.found), pytrace=False)
            failed.add_note(mistake)
        if failed is None:
            listener.warn()
        else:
            drop_cancellations(failed)
            if isinstance(failed, ConfigError) and failed.key == "backend":
                failed.add_note(_BARE_OPEN)
            whole = failed.with_traceback(from_users_code(failed.__traceback__)) if full_trace else None
            raise whole or shortened(failed)

    return run

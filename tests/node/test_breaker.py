"""The circuit breaker, as the state machine that it is."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from aegis_core.backend import TrioClock
from aegis_core.node.breaker import CircuitBreaker, CircuitState

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN


class Circuit:
    """A breaker that opens after three failures for 10 s, and the changes that it told."""

    def __init__(self) -> None:
        self.changes: list[tuple[CircuitState, CircuitState]] = []
        self.breaker = CircuitBreaker(TrioClock(), threshold=3, cooldown=10.0, on_change=self._changed)

    def _changed(self, old: CircuitState, new: CircuitState) -> None:
        self.changes.append((old, new))

    def fail(self, times: int = 1) -> None:
        """Attempts that fail."""
        for _ in range(times):
            assert self.breaker.allow()
            self.breaker.failure()


async def test_repeated_failures_open_it() -> None:
    """Three failures in a row open the circuit, and it says so."""
    circuit = Circuit()
    circuit.fail(2)
    assert circuit.breaker.state is CLOSED
    circuit.fail()
    assert not circuit.breaker.allow()
    assert not circuit.breaker.would_allow()
    assert circuit.changes == [(CLOSED, OPEN)]


async def test_success_between_failures_keeps_it_closed() -> None:
    """Only failures in a row count."""
    circuit = Circuit()
    for _ in range(4):
        circuit.fail(2)
        circuit.breaker.success()
    assert circuit.breaker.allow()
    assert circuit.changes == []


async def test_one_attempt_is_let_through_after_the_cooldown(autojump_clock: MockClock) -> None:
    """Half-open, one attempt decides: success closes the circuit."""
    circuit = Circuit()
    circuit.fail(3)
    await trio.sleep(9.9)
    assert not circuit.breaker.allow()
    await trio.sleep(0.2)
    assert circuit.breaker.would_allow()
    assert circuit.breaker.allow()
    assert not circuit.breaker.allow()
    circuit.breaker.success()
    assert circuit.breaker.allow()
    assert circuit.changes == [(CLOSED, OPEN), (OPEN, HALF_OPEN), (HALF_OPEN, CLOSED)]


async def test_failed_trial_opens_it_again(autojump_clock: MockClock) -> None:
    """Half-open, a failure opens the circuit for another cooldown."""
    circuit = Circuit()
    circuit.fail(3)
    await trio.sleep(10)
    circuit.fail()
    assert circuit.breaker.state is OPEN
    await trio.sleep(9.9)
    assert not circuit.breaker.allow()
    await trio.sleep(0.2)
    assert circuit.breaker.allow()


async def test_withdrawn_trial_makes_room_for_the_next(autojump_clock: MockClock) -> None:
    """An attempt that was cancelled leaves the half-open circuit free."""
    circuit = Circuit()
    circuit.fail(3)
    await trio.sleep(10)
    assert circuit.breaker.allow()
    circuit.breaker.withdraw()
    assert circuit.breaker.allow()


async def test_trial_that_never_ends_blocks_nothing_for_ever(autojump_clock: MockClock) -> None:
    """Without any word of the trial, the next one comes a cooldown later."""
    circuit = Circuit()
    circuit.fail(3)
    await trio.sleep(10)
    assert circuit.breaker.allow()
    await trio.sleep(10)
    assert circuit.breaker.allow()


async def test_withdrawing_while_closed_changes_nothing() -> None:
    """A cancelled attempt neither counts nor clears failures."""
    circuit = Circuit()
    circuit.fail(2)
    circuit.breaker.withdraw()
    circuit.fail()
    assert circuit.breaker.state is OPEN


async def test_late_failure_of_an_open_circuit_does_not_prolong_it(autojump_clock: MockClock) -> None:
    """Attempts from before it opened may fail afterwards; the cooldown runs from its opening."""
    circuit = Circuit()
    circuit.fail(3)
    await trio.sleep(5)
    circuit.breaker.failure()
    await trio.sleep(5)
    assert circuit.breaker.allow()


async def test_shows_its_state() -> None:
    """The repr says what one wants to know."""
    circuit = Circuit()
    circuit.fail(3)
    assert repr(circuit.breaker) == "<CircuitBreaker open, 3 failures in a row>"

"""Measuring on a machine that others use too: rounds, taken in turn by everything that is compared.

Other programs only ever make a round slower. What the processors did for them meanwhile is taken off (`waiting`), a
typical time is that of the quietest round, and what is compared was measured in the same rounds, a moment apart. The
tail (p99) is the median of the rounds' tails: one disturbed round does not count, a tail that is there in most does.
"""

from __future__ import annotations

import cProfile
import statistics
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import Final

import attrs
import trio

from tests.benchmarks.waiting import kept_waiting

__all__ = ["Arena", "Check", "Contestant", "Line", "Times", "Watch", "at_least", "at_most"]


@attrs.frozen
class Times:
    """What one measured thing took, round by round.

    Args:
        rounds: Seconds of each operation, by round.
        elapsed: Seconds per operation, by round: less than an operation takes, where several run at once.
    """

    rounds: list[Sequence[float]] = attrs.field(factory=list)
    elapsed: list[float] = attrs.field(factory=list)

    @property
    def p50(self) -> float:
        """The median operation of the quietest round, in seconds."""
        return min(statistics.median(taken) for taken in self.rounds)

    @property
    def p99(self) -> float:
        """The median over the rounds of their 99th percentile, in seconds."""
        return statistics.median(sorted(taken)[int(0.99 * len(taken))] for taken in self.rounds)

    @property
    def each(self) -> float:
        """Seconds per operation in the quietest round; the inverse of the throughput."""
        return min(self.elapsed)


class Watch:
    """A stop watch that files what it measures under names. One thing at a time.

    Args:
        profiled: The name whose operations are profiled, "" for none.
    """

    def __init__(self, profiled: str = "") -> None:
        self.profile: Final = cProfile.Profile()
        self.profiled: Final = profiled
        self._name = ""
        self._began = self._waited = 0.0
        self._round: dict[str, tuple[list[float], list[float]]] = {}

    def start(self, name: str) -> None:
        """Begin to measure *name*."""
        self._name = name
        if name == self.profiled:
            self.profile.enable()
        self._waited = kept_waiting()
        self._began = perf_counter()

    def stop(self, operations: int = 1, *, seconds: Sequence[float] | None = None) -> None:
        """End what was begun.

        Args:
            operations: How many of the same kind ran one after another; they are filed as their average.
            seconds: What each took, where many ran at once.
        """
        elapsed = perf_counter() - self._began
        elapsed -= min(elapsed, kept_waiting() - self._waited)
        if self._name == self.profiled:
            self.profile.disable()
        taken, whole = self._round.setdefault(self._name, ([], []))
        taken.extend([elapsed / operations] if seconds is None else seconds)
        whole.append(elapsed / (operations if seconds is None else len(seconds)))

    def file(self, name: str, seconds: float) -> None:
        """File one operation of *name* that was measured elsewhere."""
        taken, whole = self._round.setdefault(name, ([], []))
        taken.append(seconds)
        whole.append(seconds)

    def file_all(self, name: str, seconds: Sequence[float], each: float) -> None:
        """File operations of *name* that another process measured: the `seconds` of each, and the mean time for *each*."""
        taken, whole = self._round.setdefault(name, ([], []))
        taken.extend(seconds)
        whole.append(each)

    def take_round(self) -> dict[str, tuple[Sequence[float], float]]:
        """What was filed since the last round: the operations, and the mean seconds per operation."""
        taken, self._round = self._round, {}
        return {name: (seconds, statistics.fmean(whole)) for name, (seconds, whole) in taken.items()}


@attrs.frozen
class Contestant:
    """Something to measure: `run` carries out the given number of operations, and files each with the watch."""

    run: Callable[[int, Watch], Awaitable[None]]
    operations: int


@attrs.frozen
class Check:
    """One goal and whether it is met. A `ceiling` that is missed makes the whole run fail; another goal is reported."""

    text: str
    met: bool
    ceiling: bool


def at_most(value: float, limit: float, text: str, *, ceiling: bool = False) -> Check:
    """*value* should be at most *limit*; *text* says so, with ``{}`` for the value."""
    return Check(text.format(value), value <= limit, ceiling)


def at_least(value: float, limit: float, text: str, *, ceiling: bool = False) -> Check:
    """*value* should be at least *limit*; *text* says so, with ``{}`` for the value."""
    return Check(text.format(value), value >= limit, ceiling)


@attrs.frozen
class Line:
    """One line of the table; times in seconds, `rate` in operations per second."""

    name: str
    p50: float | None = None
    p99: float | None = None
    rate: float | None = None
    checks: tuple[Check, ...] = ()
    note: str = ""


class Arena:
    """Where a scenario measures its contestants, and notes the lines of its table.

    Args:
        quick: Fewer rounds and smaller sizes: for trying the benchmarks, not for judging.
        profiled: What is profiled, "" for nothing.
    """

    def __init__(self, *, quick: bool = False, profiled: str = "") -> None:
        self.quick: Final = quick
        self.watch: Final = Watch(profiled)
        self.lines: Final[list[Line]] = []

    async def compete(self, *contestants: Contestant, rounds: int = 9) -> dict[str, Times]:
        """Measure *contestants* in turn, round by round; what they took, by name. A round to warm up does not count."""
        found: dict[str, Times] = {}
        for number in range(1 + (2 if self.quick else rounds)):
            for contestant in contestants:
                many = contestant.operations
                await contestant.run(many if number else 1 + many // 5, self.watch)
                await trio.lowlevel.checkpoint()
            for name, (seconds, each) in self.watch.take_round().items():
                if number:
                    times = found.setdefault(name, Times())
                    times.rounds.append(seconds)
                    times.elapsed.append(each)
        return found

    def line(self, name: str, times: Times | None = None, *checks: Check, note: str = "") -> None:
        """Add a line to the table."""
        if times is None:
            self.lines.append(Line(name, checks=checks, note=note))
        else:
            self.lines.append(Line(name, times.p50, times.p99, 1 / times.each, checks, note))

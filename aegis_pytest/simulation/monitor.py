"""What must hold at every moment, looked at while a simulation runs: each record is judged as it is made.

It knows the rules of `aegis_pytest.history` that the past alone decides: one owner by each node's own clock, handlers under
their holder's epoch, epochs that grow. The first breach ends the run there, so that little is left to look through, and to
make smaller. Whether some order explains all answers is only judged afterwards, with everything else.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Final

import attrs

from aegis_pytest.history.records import (
    Answer,
    BeliefBegan,
    BeliefEnded,
    Died,
    Handled,
    Invoked,
    Kind,
    Record,
    Returned,
    Wrote,
)

__all__ = ["Monitor"]

_Belief = tuple[str, str, str, int]


@attrs.define(eq=False)
class _Interval:
    began: float
    ended: float = math.inf


class Monitor:
    """Judges records in the order in which they are made.

    Args:
        believes: Whether a process believes at this moment that it holds a resource, although no end of that was noted yet:
            one that has left notes nothing. By process and resource.
        broken: Told of each breach, in words.
    """

    def __init__(self, believes: Callable[[str, str], bool], broken: Callable[[str], None]) -> None:
        self._believes = believes
        self._broken = broken
        self._held: dict[str, dict[_Belief, BeliefBegan]] = defaultdict(dict)
        self._intervals: dict[tuple[str, str, int], list[_Interval]] = defaultdict(list)
        # Until when who lost what by force may believe in it.
        self._lost: dict[_Belief, float] = {}
        self._asked: dict[tuple[str, int], Invoked] = {}
        # By resource: the highest epoch that was told, and since when, each time that it grew.
        self._told: Final[dict[str, list[tuple[float, int]]]] = defaultdict(list)
        # By resource: the highest epoch under which it was taken by force.
        self._forced: Final[dict[str, int]] = defaultdict(int)

    def __repr__(self) -> str:
        return f"<Monitor of {len(self._told)} resources>"

    def take(self, record: Record) -> None:
        """Judge *record*."""
        match record:
            case BeliefBegan():
                self._begins(record)
            case BeliefEnded():
                self._ends(record)
            case Invoked():
                self._asked[record.process, record.number] = record
            case Returned():
                self._answered(self._asked.pop((record.process, record.number)), record)
            case Handled():
                self._handled(record)
            case Died():
                self._bury(record)
            case Wrote():
                pass

    def _begins(self, record: BeliefBegan) -> None:
        for other in self._held[record.key].values():
            same = (other.process, other.instance) == (record.process, record.instance)
            newer = max(other, record, key=lambda it: it.epoch)
            older = record if newer is other else other
            if not same and newer.forced:
                lost = (older.process, older.instance, older.key, older.epoch)
                self._lost.setdefault(lost, record.at + older.ttl + newer.lag)
            elif not same and self._believes(other.process, record.key):
                self._broken(
                    f"{other.instance} and {record.instance} both believe to hold {record.key} at {record.at:.6f} s"
                )
        held = (record.process, record.instance, record.key, record.epoch)
        self._held[record.key][held] = record
        self._intervals[record.instance, record.key, record.epoch].append(_Interval(record.at))
        if record.forced:
            self._forced[record.key] = max(record.epoch, self._forced[record.key])
        if (
            record.epoch >= self._forced[record.key]
        ):  # who was robbed before he was told that he has it learns of that late
            self._tell(record.key, record.epoch, since=record.at, at=record.at)

    def _ends(self, record: BeliefEnded) -> None:
        held = (record.process, record.instance, record.key, record.epoch)
        self._held[record.key].pop(held, None)
        self._intervals[record.instance, record.key, record.epoch][-1].ended = record.at
        if record.at > self._lost.pop(held, math.inf):
            what = f"{record.instance} believes to hold {record.key} until {record.at:.6f} s"
            self._broken(f"{what}, longer after it was taken by force than it takes to hear of that")

    def _answered(self, asked: Invoked, record: Returned) -> None:
        if record.answer is Answer.DONE and record.epoch and asked.kind is not Kind.RELEASE:
            self._tell(asked.key, record.epoch, since=asked.at, at=record.at)

    def _tell(self, key: str, epoch: int, *, since: float, at: float) -> None:
        told = self._told[key]
        before = next((known for when, known in reversed(told) if when < since), 0)
        if epoch < before:
            self._broken(f"epoch {epoch} of {key} is told at {at:.6f} s, after epoch {before} was")
        if not told or epoch > told[-1][1]:
            told.append((at, epoch))

    def _handled(self, run: Handled) -> None:
        intervals = self._intervals.get((run.instance, run.key, run.epoch), ())
        if not any(it.began <= run.began <= it.ended for it in intervals):
            what = f"a handler of {run.instance} started under epoch {run.epoch} of {run.key}"
            self._broken(f"{what} at {run.began:.6f} s, which it did not believe to hold then")

    def _bury(self, death: Died) -> None:
        for key, held in self._held.items():
            for belief in [belief for belief in held if belief[0] == death.process]:
                del held[belief]
                self._intervals[belief[1], key, belief[3]][-1].ended = death.at

"""What a history is found guilty of: the rule, the resource, and what happened, to be read and to be looked at."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from typing import Final

import attrs

from aegis_pytest.history.operations import Belief, Operation
from aegis_pytest.history.records import Handled, Wrote
from aegis_pytest.history.timeline import Bar, draw

__all__ = ["Rule", "Violation", "bar_of", "bars_of"]

_MOST_BARS: Final = 24


class Rule(enum.Enum):
    """What every history must keep to."""

    SINGLE_OWNER = "no two instances believe at the same time that they hold one resource"
    FENCED_CALLS = "a handler runs under its holder's epoch, and answers while that holds"
    OUTCOMES = "a call that failed for sure has not run; what ran, ran under one epoch, and once where it has a key"
    LINEARIZABLE = "an order of the operations explains all answers"
    DURABLE = "what was acknowledged is found later, and epochs grow"
    ANSWERED = "every operation is answered, or given up, and in its time where it has one"
    FENCED_WRITES = "a storage that saw an epoch takes no write with an older one"


@attrs.frozen(kw_only=True)
class Violation:
    """A breach of a rule, with the part of the history that shows it.

    Args:
        rule: Which.
        key: The resource id.
        at: Seconds, when it showed.
        message: What is wrong, in one or a few lines.
        bars: What happened around it; the blamed ones are marked.
    """

    rule: Rule
    key: str
    at: float
    message: str
    bars: tuple[Bar, ...]

    def __str__(self) -> str:
        return self.text()

    def text(self, most: int = 40) -> str:
        """The counter-example in *most* lines, or fewer; times in seconds since the first that is shown.

        Args:
            most: 2 or more. Where all that happened takes more lines, what is blamed is shown, and what is nearest to it.
        """
        head = [f"{self.rule.name} is broken for {self.key!r}: {self.rule.value}", *self.message.splitlines()][:most]
        room = most - len(head)
        bars = sorted(self._nearest(room if len(self.bars) <= room else max(0, room - 1)), key=_in_time)
        since = min((bar.began for bar in bars), default=0.0)
        left_out = len(self.bars) - len(bars)
        note = [f"  ({left_out} more are left out)"] if left_out and room else []
        return "\n".join([*head, *note, *(_row(bar, since) for bar in bars)])

    def svg(self) -> str:
        """The counter-example as a timeline: a picture of its own, as the text of an SVG file."""
        return draw(self._nearest(_MOST_BARS), title=f"{self.key}: {self.rule.value}")

    def _nearest(self, most: int) -> list[Bar]:
        """The blamed ones, and those that are nearest to when it showed."""
        nearest = sorted(self.bars, key=lambda bar: (not bar.blamed, _distance(bar, self.at)))
        return nearest[:most]


def bar_of(told: Operation | Belief | Handled | Wrote, *, blamed: bool = False) -> Bar:
    """*told* as something to draw."""
    match told:
        case Operation():
            lane = f"{told.asked.process}: operations"
            return Bar(lane, told.label, told.began, told.ended, blamed=blamed, note=told.said)
        case Belief():
            lane = f"{told.process}: believes"
            return Bar(lane, told.label, told.began, told.ended, blamed=blamed, note=told.reason)
        case Handled():
            label = f"{told.instance} handles a call, epoch {told.epoch}"
            return Bar(f"{told.process}: handlers", label, told.began, told.at, blamed=blamed)
        case Wrote():
            label = f"write with epoch {told.epoch} {'accepted' if told.accepted else 'refused'}"
            return Bar(f"{told.process}: writes", label, told.at, told.at, blamed=blamed)


def _distance(bar: Bar, at: float) -> tuple[float, float]:
    """How far *bar* is from what showed at *at*: what was under way first, and of that what began last."""
    return max(bar.began - at, at - bar.ended, 0.0), abs(at - bar.began)


def _in_time(bar: Bar) -> tuple[float, float]:
    return bar.began, bar.ended


def _row(bar: Bar, since: float) -> str:
    end = "…" if bar.ended == math.inf else f"{bar.ended - since:.6f}"
    note = f" ({bar.note})" if bar.note else ""
    return f"{'>' if bar.blamed else ' '} {bar.began - since:12.6f} to {end:>12} s  {bar.lane}: {bar.label}{note}"


def bars_of(told: Iterable[Operation | Belief | Handled | Wrote], blamed: Iterable[object]) -> tuple[Bar, ...]:
    """All of *told* as something to draw, *blamed* ones marked."""
    guilty = {id(it) for it in blamed}
    return tuple(bar_of(it, blamed=id(it) in guilty) for it in told)

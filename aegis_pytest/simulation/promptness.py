"""L1: who stands in line for a resource is its owner in time, whenever nothing goes wrong for long enough to tell."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

import attrs

from aegis_pytest.history import History
from aegis_pytest.history.operations import Belief, tell
from aegis_pytest.simulation.scenario import Scenario

__all__ = ["FREED", "PROMOTED", "Wait", "late_promotions"]

FREED: Final = 1.0
"""Seconds beyond the TTL within which the resources of a dead instance are free."""

PROMOTED: Final = 0.1
"""Seconds more within which one of the first two in line is active."""

_RECOVERY: Final = 5.0
_LEEWAY: Final = 1.0
_TURNS: Final = 10

_Span = tuple[float, float]


@attrs.frozen
class Wait:
    """Process *process* stood in line for *key* from *began* to *ended*, in seconds."""

    process: str
    key: str
    began: float
    ended: float


def late_promotions(scenario: Scenario, history: History, waits: Iterable[Wait], deaths: Sequence[float]) -> list[str]:
    """For each time that somebody stood in line for what nobody held, for longer than that may be: what was late, in words.

    It counts only while nothing goes wrong, nor has since what went wrong last could have had an effect. A death is
    nothing of the kind: that is what lines are for.

    Args:
        scenario: What went wrong, and when.
        history: Who believed to hold what.
        waits: Who stood in line.
        deaths: When processes died.
    """
    stories = {story.key: story.beliefs for story in tell(history)}
    stirred = [*_troubled(scenario), *((at, at + scenario.ttl + FREED) for at in deaths)]
    turns = _TURNS * max(scenario.latencies, default=0.0)
    found: list[str] = []
    for wait in waits:
        held = [_span(belief, scenario.ttl) for belief in stories.get(wait.key, ())]
        for began, ended in _gaps(wait.began, wait.ended, [*stirred, *held]):
            if ended - began > PROMOTED + _LEEWAY + turns:
                found.append(
                    f"nobody owns {wait.key} from {began:.3f} s to {ended:.3f} s, although {wait.process} stands in line "
                    f"since {wait.began:.3f} s"
                )
    return found


def _span(belief: Belief, ttl: float) -> _Span:
    """How long nobody else need hold what *belief* is about: its holder may have died with it."""
    return belief.began, belief.ended + ttl + FREED


def _troubled(scenario: Scenario) -> Iterable[_Span]:
    for trouble in scenario.troubles:
        if trouble.kind != "crash":
            size = abs(trouble.size) if trouble.size != math.inf else 0.0
            yield trouble.at, trouble.at + trouble.lasts + size + scenario.ttl + _RECOVERY


def _gaps(began: float, ended: float, spans: Iterable[_Span]) -> Iterable[_Span]:
    """The parts from *began* to *ended* that none of *spans* covers."""
    at = began
    for start, end in sorted(spans):
        if start > at:
            yield at, min(start, ended)
        at = max(at, end)
        if at >= ended:
            return
    yield at, ended

"""L1: who stands in line for a resource is its owner in time, whenever nothing goes wrong for long enough to tell.

What is owed begins with the end of a belief while somebody stands in line. Where the holder gave the resource up, one of
those who wait has it a tenth of a second after the messages that this takes; where the holder died, or lost its lease, the
lease ends first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import attrs
import trio

from aegis_core.models import EndReason
from aegis_pytest.history import History
from aegis_pytest.history.operations import Belief, Story, tell
from aegis_pytest.history.records import Answer, Kind
from aegis_pytest.simulation.scenario import ENDS, Scenario, Trouble

__all__ = [
    "FREED",
    "GIVEN_UP",
    "PROMOTED",
    "RECOVERY",
    "Promptness",
    "Wait",
    "calm",
    "is_punctual",
    "judge_promptness",
    "places",
    "troubled",
]

FREED: Final = 1.0
"""Seconds beyond the TTL within which the resources of a dead instance are free."""

PROMOTED: Final = 0.1
"""Seconds more within which one of the first two in line is active."""

RECOVERY: Final = 5.0
"""Seconds after what went wrong, and a TTL, within which it can have an effect."""

_TURNS: Final = 10
GIVEN_UP: Final = frozenset(reason.value for reason in (EndReason.RELEASED, EndReason.CLOSED, EndReason.TRANSFERRED))

_Span = tuple[float, float]


@attrs.frozen
class Wait:
    """A task of *process*, or several by turns, stood in line for *key* from *began* to *ended*, in seconds."""

    process: str
    key: str
    began: float
    ended: float


def places(waits: Iterable[Wait], *, overlap: float = 0.0) -> list[Wait]:
    """How long processes stood in lines: an instance stands there once, and tasks of it that wait leave their place to each other.

    Args:
        waits: When tasks stood in line.
        overlap: Seconds for which two of them waited, at least, if the one took over the place of the other.
    """
    found: dict[tuple[str, str], list[Wait]] = {}
    for wait in sorted(waits, key=lambda it: it.began):
        before = found.setdefault((wait.process, wait.key), [])
        if before and wait.began + overlap <= before[-1].ended:
            before[-1] = attrs.evolve(before[-1], ended=max(before[-1].ended, wait.ended))
        else:
            before.append(wait)
    return [place for of_one in found.values() for place in of_one]


@attrs.frozen
class Promptness:
    """What was late, in words, and how often somebody was promoted, in time or not, while all was calm."""

    late: tuple[str, ...]
    promotions: int


def judge_promptness(
    scenario: Scenario, history: History, waits: Iterable[Wait], deaths: Sequence[float]
) -> Promptness:
    """For each time that somebody stood in line for what nobody held: whether that was longer than it may be.

    It counts only while nothing goes wrong, nor has since what went wrong last could have had an effect. A death is
    nothing of the kind: that is what lines are for.

    Args:
        scenario: What went wrong, and when.
        history: Who believed to hold what.
        waits: When tasks stood in line.
        deaths: When processes died.
    """
    stories = {story.key: story for story in tell(history)}
    allowed = PROMOTED + _TURNS * max(scenario.latencies, default=0.0)
    held = {
        key: [*(_span(it, scenario.ttl) for it in story.beliefs), *_crossed(story, allowed)]
        for key, story in stories.items()
    }
    stirred = [*troubled(scenario), *((at, at + scenario.ttl + FREED) for at in deaths)]
    late: list[str] = []
    promotions = 0
    for wait in places(waits):
        beliefs = stories[wait.key].beliefs if wait.key in stories else ()
        turns = (it.began for it in beliefs if it.process == wait.process and wait.began < it.began <= wait.ended)
        promotions += sum(not any(start <= at <= end for start, end in stirred) for at in turns)
        for began, ended in _gaps(wait.began, wait.ended, [*stirred, *held.get(wait.key, ())]):
            if ended - began > allowed:
                promotions += 1
                late.append(
                    f"nobody owns {wait.key} from {began:.3f} s to {ended:.3f} s, although {wait.process} stands in line "
                    f"since {wait.began:.3f} s"
                )
    return Promptness(tuple(late), promotions)


def calm(scenario: Scenario, at: float) -> bool:
    """Whether nothing goes wrong at *at* seconds, nor did so shortly before, but for nodes that end."""
    return not any(began <= at <= ended for began, ended in troubled(scenario))


def _span(belief: Belief, ttl: float) -> _Span:
    """How long nobody else need hold what *belief* is about: where it was not given up, its holder may have died with it."""
    return belief.began, belief.ended + (0.0 if belief.reason in GIVEN_UP else ttl + FREED)


def _crossed(story: Story, most: float) -> Iterator[_Span]:
    """When a holder claimed once more what it was giving up: each of these writes may cross its release or transfer.

    None of them is an excuse for longer than *most* seconds from when that was given up.
    """
    given_up = {(belief.process, belief.epoch): belief.ended for belief in story.beliefs}
    for it in story.operations:
        ended = given_up.get((it.asked.process, it.epoch), math.inf)
        if it.asked.kind is Kind.CLAIM and it.answer is Answer.DONE and it.ended > ended:
            yield it.began, min(it.ended, ended + most)


def troubled(scenario: Scenario) -> Iterator[_Span]:
    """When something goes wrong that is no end of a node, from its begin until it can have no effect any more."""
    for trouble in scenario.troubles:
        if trouble.kind not in ENDS:
            yield trouble.at, _until(scenario, trouble)


def is_punctual(scenario: Scenario, name: str, seconds: float) -> bool:
    """Whether the clock of node *name* neither jumps nor stops in the next *seconds*, nor has so while that can have an effect."""
    now = trio.current_time()
    stirs = [it for it in scenario.troubles if it.kind in {"pause", "skew"} and name in it.names]
    return not any(it.at <= now + seconds and now <= _until(scenario, it) for it in stirs)


def _until(scenario: Scenario, trouble: Trouble) -> float:
    """When *trouble* can have no effect any more, in seconds."""
    size = abs(trouble.size) if trouble.size != math.inf else 0.0
    return trouble.at + trouble.lasts + size + scenario.ttl + RECOVERY


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

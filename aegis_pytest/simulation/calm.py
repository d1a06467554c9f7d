"""What holds besides where little goes wrong: about leases, claims and turns that are lost, and calls that run twice."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Final

from aegis_core.models import EndReason
from aegis_pytest.history import History
from aegis_pytest.history.operations import Operation, Story, tell
from aegis_pytest.history.records import Answer, Kind
from aegis_pytest.simulation.promptness import RECOVERY, Wait, calm, places
from aegis_pytest.simulation.scenario import ENDS, Scenario

__all__ = ["lost_for_nothing", "not_claimed_again", "out_of_turn", "run_twice"]

_SHORT: Final = 0.006
_LATER: Final = 0.5
_LOST: Final = frozenset({EndReason.EXPIRED.value, EndReason.ERASED.value, "the lease ran out"})


def lost_for_nothing(scenario: Scenario, history: History) -> Iterator[str]:
    """The beliefs that ended with their lease although nothing was wrong that could have kept it from being renewed."""
    for story in tell(history):
        for belief in story.beliefs:
            # A belief that a clock which jumped has ended is noted as of the last step, a heartbeat before at most.
            is_calm = calm(scenario, belief.ended) and calm(scenario, belief.ended + scenario.ttl / 3)
            if belief.reason in _LOST and is_calm:
                yield (
                    f"lost for nothing: {belief.instance} believed to hold {belief.key} until {belief.ended:.3f} s "
                    f"({belief.reason}), and nothing is wrong"
                )


def not_claimed_again(
    scenario: Scenario, history: History, living: Collection[str], claimed: Collection[tuple[str, str, int]]
) -> Iterator[str]:
    """What a process lost with its lease, nobody has had since, and it has not claimed again.

    Args:
        scenario: What went wrong: how late a commit may have been.
        history: Who believed to hold what, up to now, when all has healed for long.
        living: The processes that live.
        claimed: What was claimed for as long as it can be had: process, resource and epoch.
    """
    late = scenario.ttl + max((it.size for it in scenario.troubles if it.size != math.inf), default=0.0) + RECOVERY
    for story in tell(history):
        if not story.beliefs:
            continue
        last = max(story.beliefs, key=lambda it: it.epoch)
        is_kept = (last.process, last.key, last.epoch) in claimed and last.process in living
        # Who asked to be rid of it, in vain or not, does not want it back.
        is_wanted = not any(
            it.asked.kind in {Kind.RELEASE, Kind.TRANSFER}
            and it.asked.process == last.process
            and it.ended >= last.began
            for it in story.operations
        )
        # A claim or transfer of another's may have stood in the store without anybody's belief: it died, or heard of it too late.
        is_free = not any(
            it.asked.kind in {Kind.CLAIM, Kind.TRANSFER}
            and it.asked.process != last.process
            and it.answer in {Answer.DONE, Answer.UNKNOWN}
            and _over(it, late) >= last.ended
            for it in story.operations
        )
        if last.reason in _LOST and is_kept and is_wanted and is_free:
            yield (
                f"not claimed again: {last.instance} had claimed {last.key}, lost it at {last.ended:.3f} s, "
                "and nobody has had it since"
            )


def _over(operation: Operation, late: float) -> float:
    """When nothing of *operation* stands any more: one of unknown fate, *late* seconds after its caller had given it up."""
    return operation.ended if operation.ended != math.inf else operation.given_up + late


def out_of_turn(scenario: Scenario, history: History, waits: Collection[Wait]) -> Iterator[str]:
    """The promotions of somebody who came later than one who waits as well, where nothing goes wrong but that nodes end.

    What travels for longer than the turns of a line last may be overtaken; and whom the holder gives it to has no turn to wait.
    A task that comes while another of its instance stands in line has the turn of that one, and keeps it when that one goes.
    """
    if any(it.kind not in ENDS for it in scenario.troubles) or max(scenario.latencies, default=0.0) > _SHORT:
        return
    stories = {story.key: story for story in tell(history)}
    # Who comes in the moment in which another task of its instance leaves may come too late to have its place.
    sure = places(waits, overlap=_LATER)
    for wait in places(waits):
        story = stories.get(wait.key)
        beliefs = () if story is None else story.beliefs
        is_given = any(
            it.reason == EndReason.TRANSFERRED.value and it.ended <= wait.ended <= it.ended + 1.0 for it in beliefs
        )
        is_promoted = any(
            it.process == wait.process
            and wait.began < it.began <= wait.ended + _SHORT
            and not _claimed_besides(story, wait, it.epoch)
            for it in beliefs
        )
        if not is_promoted or is_given:
            continue
        for other in sure:
            if other.key == wait.key and other.began + _LATER < wait.began and wait.ended + _LATER < other.ended:
                yield (
                    f"out of turn: {wait.process} stands in line for {wait.key} since {wait.began:.3f} s and has it at "
                    f"{wait.ended:.3f} s, although {other.process} waits since {other.began:.3f} s"
                )


def _claimed_besides(story: Story | None, wait: Wait, epoch: int) -> bool:
    """Whether the process of *wait* claimed while it stood in line: that takes what is free, whosever turn it is."""
    return story is not None and any(
        it.asked.kind is Kind.CLAIM
        and it.asked.process == wait.process
        and it.began > wait.began
        and it.answer is Answer.DONE
        and it.epoch == epoch
        for it in story.operations
    )


def run_twice(scenario: Scenario, history: History) -> Iterator[str]:
    """The calls that ran more than once, where no message arrives twice and nobody asked again."""
    if any(trouble.kind == "duplicate" for trouble in scenario.troubles):
        return
    for story in tell(history):
        asked_once = _asked_once(story)
        runs = Counter(run.call for run in story.handled if run.call in asked_once)
        for call, times in runs.items():
            if times > 1:
                yield f"run twice: call {call} of {story.key} ran {times} times, and was sent once"


def _asked_once(story: Story) -> frozenset[str]:
    calls = (it.asked for it in story.operations if it.asked.kind is Kind.CALL)
    return frozenset(asked.call for asked in calls if not asked.once)

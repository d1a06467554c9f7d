"""What holds besides where little goes wrong: about leases, claims and turns that are lost, refusals, and calls that run twice."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from typing import Final

from aegis_core.errors import CallTimeout, InvalidRequest, LeaseLost, NotOwner, ResourceConflict
from aegis_core.models import EndReason
from aegis_pytest.history import History
from aegis_pytest.history.operations import Operation, Story, tell
from aegis_pytest.history.records import Answer, Kind
from aegis_pytest.simulation.promptness import GIVEN_UP, RECOVERY, Wait, calm, places, troubled
from aegis_pytest.simulation.scenario import ENDS, Scenario

__all__ = ["lost_for_nothing", "not_claimed_again", "out_of_turn", "refused_for_nothing", "run_twice"]

_SHORT: Final = 0.006
_LATER: Final = 0.5
_DRAIN: Final = 10.0
"""The configured seconds by default for which what is given up waits for the work under it."""

_IS_HELD: Final = frozenset({ResourceConflict.code, InvalidRequest.code})
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


def refused_for_nothing(scenario: Scenario, history: History) -> Iterator[str]:
    """The answers that are errors, where nothing is wrong that could have been the reason, for as long as it took to answer.

    What others do with a resource is a reason: who holds it keeps it from others, who gives it up breaks off what goes on under
    it. So is a node that ends, for those who call its instances, or transfer to them, until all have noticed.
    """
    wrong = [*troubled(scenario)]
    ends = [(it.at, it.at + it.lasts + scenario.ttl + RECOVERY) for it in scenario.troubles if it.kind in ENDS]
    for story in tell(history):
        for it in story.operations:
            if it.answer not in {Answer.FAILED, Answer.UNKNOWN} or not it.code:
                continue  # It was answered, or nobody waited for that any longer.
            needs_another = it.asked.kind in {Kind.CALL, Kind.TRANSFER}
            if _overlaps(it, [*wrong, *ends] if needs_another else wrong) or _has_reason(story, it):
                continue
            asked = f"a {it.asked.kind.value} of {story.key} by {it.asked.process}"
            yield f"refused for nothing: {asked} at {it.began:.3f} s ends at {it.given_up:.3f} s in {it.code} ({it.said})"


def _overlaps(operation: Operation, spans: Iterable[tuple[float, float]]) -> bool:
    return any(began <= operation.given_up and operation.began <= ended for began, ended in spans)


def _has_reason(story: Story, it: Operation) -> bool:
    """Whether what others did with the resource meanwhile explains that *it* ended in an error."""
    if it.asked.kind is Kind.CALL:
        # Who holds the resource for all of its time takes the call, unless that is to be given up.
        holders = _holders(story, it)
        return not holders or any(_gives_up(story, holder, it) for holder in holders)
    if it.code == LeaseLost.code:
        return _gives_up(story, it.asked.process, it)
    if it.code == NotOwner.code:
        return it.asked.process not in _holders(story, it)
    if it.code == CallTimeout.code:
        return it.asked.kind is Kind.TRANSFER and it.given_up - it.began >= _DRAIN  # what runs under it does not end
    return it.code in _IS_HELD and any(
        belief.began <= it.given_up + _LATER and it.began <= belief.ended + _LATER
        for belief in story.beliefs
        if it.code != InvalidRequest.code or belief.instance == it.asked.to
    )


def _holders(story: Story, operation: Operation) -> list[str]:
    """The processes that believed to hold it from before *operation* began until after it had ended."""
    return [it.process for it in story.beliefs if it.began < operation.began and operation.given_up < it.ended]


def _gives_up(story: Story, process: str, operation: Operation) -> bool:
    """Whether *process* was about to give it up while *operation* went on: it believes until all has ended that runs under it."""
    is_ended = any(
        it.process == process
        and it.reason in GIVEN_UP
        and operation.began <= it.ended <= operation.given_up + _DRAIN + _LATER
        for it in story.beliefs
    )
    return is_ended or any(
        it is not operation
        and it.asked.kind in {Kind.RELEASE, Kind.TRANSFER}
        and it.asked.process == process
        and it.began <= operation.given_up
        and operation.began <= it.given_up
        for it in story.operations
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
    """The calls that ran more than once, where no message from caller to callee arrives twice and nobody asked again."""
    doubled = [it for it in scenario.troubles if it.kind == "duplicate"]
    for story in tell(history):
        for it in story.operations:
            if it.asked.kind is not Kind.CALL or it.asked.once:
                continue
            runs = [run for run in story.handled if run.call == it.asked.call]
            ways = {(_node(it.asked.process), _node(run.process)) for run in runs}
            while_asked = (each for each in doubled if each.at <= it.given_up and it.began <= each.at + each.lasts)
            if len(runs) > 1 and not any(each.names in ways for each in while_asked):
                yield f"run twice: call {it.asked.call} of {story.key} ran {len(runs)} times, and was sent once"


def _node(process: str) -> str:
    """The node that *process* is a life of."""
    return process.partition(".")[0]

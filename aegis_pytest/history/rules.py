"""The rules that every history must keep to, one function for each: the first breach of it in one resource's story."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Final

from aegis_pytest.history.linearizability import search
from aegis_pytest.history.operations import Belief, Operation, Story
from aegis_pytest.history.records import Answer, Handled, Kind, Wrote
from aegis_pytest.history.register import NEVER_HELD, Register
from aegis_pytest.history.violation import Rule, Violation, bars_of

__all__ = ["violations_of"]

_MOST_STATES: Final = 6


def violations_of(story: Story, *, limit: int) -> Iterator[Violation]:
    """What *story* breaks, at most one violation of each rule.

    Args:
        story: Of one resource.
        limit: Of the search; see `linearizability.search`.

    Raises:
        TooManyConfigurations: The search for an order needs more than *limit*.
    """
    found = (
        _single_owner(story),
        _fenced_calls(story),
        _fenced_writes(story),
        _outcomes(story),
        _answered(story),
        _durable(story),
        _linearizable(story, limit),
    )
    return (violation for violation in found if violation is not None)


def _single_owner(story: Story) -> Violation | None:
    """At no instant do two instances believe that they hold it; who loses it by force may for a TTL more, and as watches lag."""
    running: list[Belief] = []
    for belief in story.beliefs:
        running = [other for other in running if other.ended > belief.began]
        for other in running:
            older, newer = sorted((other, belief), key=lambda it: it.epoch)
            same = (other.process, other.instance) == (belief.process, belief.instance)
            until = min(other.ended, belief.ended)
            is_excused = newer.forced and min(until, _last_seen(story)) - belief.began <= older.ttl + newer.lag
            if not same and not is_excused and belief.ended > belief.began:
                long = "for ever" if until == math.inf else f"for {until - belief.began:.6f} s"
                message = f"{other.instance} (epoch {other.epoch}) and {belief.instance} (epoch {belief.epoch}) both believe to hold it, {long}"
                return _violation(Rule.SINGLE_OWNER, story, belief.began, message, other, belief)
        running.append(belief)
    return None


def _last_seen(story: Story) -> float:
    """When the last thing happened that is known of *story*: what did not end lasted until then at least."""
    ends = [time for it in story.beliefs for time in (it.began, it.ended) if time < math.inf]
    return max([*ends, *(it.given_up for it in story.operations), *(it.at for it in story.handled)], default=0.0)


def _fenced_calls(story: Story) -> Violation | None:
    """A handler starts while its instance believes, under that epoch; a good answer means that it believed to the end."""
    done = {
        (it.asked.call, it.owner, it.epoch): it
        for it in story.operations
        if it.asked.kind is Kind.CALL and it.answer is Answer.DONE
    }
    beliefs: dict[tuple[str, int], list[Belief]] = {}
    for belief in story.beliefs:
        beliefs.setdefault((belief.instance, belief.epoch), []).append(belief)
    for run in story.handled:
        held = beliefs.get((run.instance, run.epoch), [])
        under = next((it for it in held if it.began <= run.began <= it.ended), None)
        answered = done.pop((run.call, run.instance, run.epoch), None)
        if under is None:
            message = f"{run.instance} started a handler with epoch {run.epoch}, which it did not believe to hold then"
            return _violation(Rule.FENCED_CALLS, story, run.began, message, run, *held)
        if answered is not None and run.at > under.ended:
            message = f"{run.instance} finished after its claim of epoch {run.epoch} had ended, and its answer was taken as good"
            return _violation(Rule.FENCED_CALLS, story, run.at, message, run, under, answered)
    for answered in done.values():
        message = f"a call was answered by {answered.owner} with epoch {answered.epoch}, where no handler ran for it"
        return _violation(Rule.FENCED_CALLS, story, answered.ended, message, answered)
    return None


def _fenced_writes(story: Story) -> Violation | None:
    """The storage takes no write with an epoch older than one that it has seen."""
    highest: Wrote | None = None
    for write in story.writes:
        if highest is not None and write.accepted and write.epoch < highest.epoch:
            message = f"a write with epoch {write.epoch} was accepted after one with epoch {highest.epoch}"
            return _violation(Rule.FENCED_WRITES, story, write.at, message, highest, write)
        if highest is None or write.epoch > highest.epoch:
            highest = write
    return None


def _outcomes(story: Story) -> Violation | None:
    """A call runs as its outcome says: never if it failed for sure, under one epoch, once under it if it has a key.

    A caller who tries again has been told that the attempt before did not run; a message that arrives late, or twice, bears
    the epoch that it was meant for.
    """
    runs: dict[str, list[Handled]] = {}
    for run in story.handled:
        runs.setdefault(run.call, []).append(run)
    for call in story.operations:
        ran = runs.get(call.asked.call, []) if call.asked.kind is Kind.CALL else []
        if not ran:
            continue
        epochs = sorted({run.epoch for run in ran})
        places = {(run.instance, run.epoch) for run in ran}
        if call.answer is Answer.FAILED:
            message = f"a call by {call.asked.process} ran, and was told that it had not: {call.said}"
        elif len(epochs) > 1 and not call.asked.once:
            message = f"a call by {call.asked.process} ran under the epochs {', '.join(map(str, epochs))}"
        elif call.asked.once and len(ran) > len(places):
            message = f"a call by {call.asked.process} with an idempotency key ran {len(ran)} times"
        else:
            continue
        return _violation(Rule.OUTCOMES, story, ran[-1].began, message, call, *ran)
    return None


def _answered(story: Story) -> Violation | None:
    """No living process waits for an answer when the history ends, and nobody has waited for longer than he must."""
    if story.unanswered:
        first = story.unanswered[0]
        message = f"{len(story.unanswered)} operations have no answer, of processes that live"
        bars = bars_of(story.operations, story.unanswered)
        return Violation(rule=Rule.ANSWERED, key=story.key, at=first.began, message=message, bars=bars)
    for late in story.operations:
        waited, within = late.given_up - late.began, late.asked.within
        if within and waited > within:
            what = f"a {late.asked.kind.value} by {late.asked.process}"
            message = f"{what} was to be answered within {within:g} s, and was not for {waited:.6f} s"
            return _violation(Rule.ANSWERED, story, late.given_up, message, late)
    return None


def _durable(story: Story) -> Violation | None:
    """Whoever was told an epoch stands above all that was told before; a holder that believes is found by reads."""
    told = _told(story)
    owners: dict[int, tuple[str, Operation | Belief]] = {}
    for owner, epoch, it in told:
        known, first = owners.setdefault(epoch, (owner, it))
        if known != owner:
            message = f"epoch {epoch} is {known}'s and {owner}'s"
            return _violation(Rule.DURABLE, story, it.began, message, first, it)
    ends = sorted(told, key=lambda it: _known_at(it[2]))
    passed = 0
    highest: tuple[str, int, Operation | Belief] | None = None
    for owner, epoch, it in sorted(told, key=lambda it: it[2].began):
        while passed < len(ends) and _known_at(ends[passed][2]) < it.began:
            if highest is None or ends[passed][1] > highest[1]:
                highest = ends[passed]
            passed += 1
        if highest is not None and epoch < highest[1] and not _is_robbed(story, it, highest[1]):
            message = f"{owner} is shown with epoch {epoch}, after {highest[0]} was with epoch {highest[1]}"
            return _violation(Rule.DURABLE, story, it.began, message, highest[2], it)
    return _not_found(story)


def _is_robbed(story: Story, it: Operation | Belief, highest: int) -> bool:
    """Whether *it* is a belief in what was taken by force before the believer was told that he had it."""
    return isinstance(it, Belief) and any(other.forced and it.epoch < other.epoch <= highest for other in story.beliefs)


def _not_found(story: Story) -> Violation | None:
    reads = [
        it for it in story.operations if it.asked.kind is Kind.GET_OWNER and it.answer in {Answer.DONE, Answer.FREE}
    ]
    beliefs = iter(story.beliefs)
    running: list[Belief] = []
    for read in reads:
        for belief in beliefs:
            running.append(belief)
            if belief.began > read.began:
                break
        running = [it for it in running if it.ended > read.began]
        for belief in running:
            inside = belief.began < read.began and read.ended < belief.ended
            found = read.answer is Answer.DONE and read.owner == belief.instance
            forced = any(it.forced and it.epoch > belief.epoch for it in running)
            if inside and not found and not forced:
                shown = f"{read.owner} as its holder" if read.owner else "nobody"
                message = f"a read finds {shown}, while {belief.instance} holds it with epoch {belief.epoch}"
                return _violation(Rule.DURABLE, story, read.ended, message, belief, read)
    return None


def _told(story: Story) -> list[tuple[str, int, Operation | Belief]]:
    """Who was told to hold it at which epoch, and by what."""
    told: list[tuple[str, int, Operation | Belief]] = [(it.instance, it.epoch, it) for it in story.beliefs]
    for it in story.operations:
        if it.answer is Answer.DONE and it.epoch and it.asked.kind is not Kind.RELEASE:
            owner = {Kind.CLAIM: it.asked.instance, Kind.TRANSFER: it.asked.to}.get(it.asked.kind, it.owner)
            told.append((owner, it.epoch, it))
    return [it for it in told if it[1]]


def _known_at(it: Operation | Belief) -> float:
    """When what *it* tells of had surely happened."""
    return it.began if isinstance(it, Belief) else it.ended


def _linearizable(story: Story, limit: int) -> Violation | None:
    """There is an order of the operations in which each answer is right."""
    register = Register(story)
    stuck = search(register.operations, NEVER_HELD, register, limit=limit)
    if stuck is None:
        return None
    states = [str(state) for state in stuck.states[:_MOST_STATES]]
    more = len(stuck.states) - len(states)
    lines = [
        f"no order of the operations explains {stuck.operation.asked.process}'s {stuck.operation.label}",
        f"by then it can only have been: {'; or '.join(states)}{f'; or {more} more' if more > 0 else ''}",
    ]
    shown = [it for it in register.operations if it.began <= stuck.operation.ended]
    beliefs = [it for it in story.beliefs if it.began <= stuck.operation.ended]
    return Violation(
        rule=Rule.LINEARIZABLE,
        key=story.key,
        at=stuck.operation.ended,
        message="\n".join(lines),
        bars=bars_of([*shown, *beliefs], [stuck.operation]),
    )


def _violation(
    rule: Rule, story: Story, at: float, message: str, *blamed: Operation | Belief | Handled | Wrote
) -> Violation:
    around: Iterable[Operation | Belief | Handled | Wrote] = [
        *story.operations,
        *story.beliefs,
        *(it for it in story.handled if it in blamed),
        *(it for it in story.writes if it in blamed),
    ]
    return Violation(rule=rule, key=story.key, at=at, message=message, bars=bars_of(around, blamed))

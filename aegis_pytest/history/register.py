"""The sequential specification of ownership: one resource is a register that says who holds it, at which epoch.

Each epoch is higher than all before. A holder may lose the resource without anybody asking for it, as its lease ends;
that cannot be before it has ceased to believe, which is what makes a history of beliefs a check of the registry: a
second claim that succeeds while the first holder still believes is explained by no order.

An instance may also come to hold a resource without having asked: it claims again what it held when its lease was lost,
and adopts what is transferred to it. Such an acquisition shows in its belief alone, and took effect before that.

Who waits for a resource tries until an attempt succeeds for sure. One whose answer was lost may have succeeded, too, and been
lost with the lease before anybody was told of it: where somebody saw the waiter hold it, there was such an attempt.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Iterable
from typing import Final, NamedTuple

import attrs

from aegis_pytest.history.operations import Belief, Operation, Story
from aegis_pytest.history.records import Answer, Invoked, Kind

__all__ = ["NEVER_HELD", "Holding", "Register"]


class Holding(NamedTuple):
    """A state of the register.

    Args:
        owner: Who holds it, or "".
        epoch: Since which epoch; 0 if nobody holds it, or if nothing has told yet.
        highest: The highest epoch that was told so far.
    """

    owner: str
    epoch: int
    highest: int

    def __str__(self) -> str:
        if not self.owner:
            return f"free, after epoch {self.highest}" if self.highest else "free"
        return f"held by {self.owner}, epoch {self.epoch or 'unknown'}"


NEVER_HELD: Final = Holding("", 0, 0)
"""Before all operations."""


class Register:
    """What may happen to one resource of a history.

    An instance that notes no beliefs at all never loses by itself what it was told to hold. That it was given something tells
    the giver: where beliefs are noted, who has none may have died before its first.

    Args:
        story: Everything that was noted of it.
    """

    def __init__(self, story: Story) -> None:
        self._tellers = story.tellers
        self._given = _given(story)
        self._told = _told(story)
        self._until: dict[tuple[str, int], float] = {}
        for belief in story.beliefs:
            held = (belief.instance, belief.epoch)
            self._until[held] = max(belief.ended, self._until.get(held, -math.inf))
        self.operations: tuple[Operation, ...] = (
            *(_of_what_it_held(it, story.beliefs) for it in story.operations if _matters(it)),
            *_unasked(story),
            *_in_vain(story),
        )
        self._shared = _shared_releases(self.operations)

    def __repr__(self) -> str:
        return f"<Register: {len(self.operations)} operations>"

    def drift(self, state: Holding, time: float) -> Iterable[Holding]:
        """The states that *state* may have become by *time* without an operation: its holder's lease may have ended."""
        if state.owner and self.lapses(state) <= time:
            yield _free(state)

    def lapses(self, state: Holding) -> float:
        """From when on the holder of *state* may lose it; `math.inf` for never."""
        if not state.epoch:
            return -math.inf  # nobody was told that it holds it, so it may be given up again
        known = self._until.get((state.owner, state.epoch))
        if known is not None:
            return known
        # Who notes its beliefs and never had this one did not take it up: its lease had ended meanwhile. Who was not
        # even told that it holds it gives it up again.
        held = (state.owner, state.epoch)
        notes = state.owner in self._tellers or (self._tellers and held in self._given)
        taken_up = not notes and held in self._told
        return math.inf if taken_up else -math.inf

    @staticmethod
    def alike(operation: Operation) -> Hashable:
        """What an operation without an end would do: all that it was asked for."""
        asked = operation.asked
        return asked.kind, asked.instance, asked.to, asked.epoch, asked.forced

    @staticmethod
    def is_spent(state: Holding, operation: Operation) -> bool:
        """Whether the epoch that *operation* is about has passed."""
        epoch = operation.asked.epoch
        return bool(epoch) and not operation.asked.forced and epoch <= state.highest and epoch != state.epoch

    def step(self, state: Holding, operation: Operation) -> Iterable[Holding]:
        """The states to which *operation* may lead from *state* with the answer that it had."""
        if operation.answer is Answer.HELD:
            return (state,) if state.owner == operation.owner else ()
        if operation.answer is Answer.FREE:
            return () if state.owner else (state,)
        match operation.asked.kind:
            case Kind.CLAIM:
                return _claim(state, operation)
            case Kind.RELEASE:
                if _names(state, operation.asked):
                    return (_free(state),)
                is_done = not state.owner and (operation.asked.process, operation.asked.number) in self._shared
                return (state,) if is_done else ()
            case Kind.TRANSFER:
                return _transfer(state, operation)
            case _:
                return _seen(state, operation.owner, operation.epoch)


def _free(state: Holding) -> Holding:
    return Holding("", 0, state.highest)


def _held(state: Holding, owner: str, epoch: int) -> Iterable[Holding]:
    """*owner* acquires it in *state*, at a new *epoch*, or one that nobody was told."""
    if not epoch:
        return (Holding(owner, 0, state.highest),)
    return (Holding(owner, epoch, epoch),) if epoch > state.highest else ()


def _seen(state: Holding, owner: str, epoch: int) -> Iterable[Holding]:
    """It is *owner*'s already; shown with *epoch*, if that is not 0."""
    if state.owner != owner:
        return ()
    if epoch in {0, state.epoch}:
        return (state,)
    return _held(state, owner, epoch) if not state.epoch else ()


def _claim(state: Holding, operation: Operation) -> Iterable[Holding]:
    asked = operation.asked
    if asked.epoch and asked.epoch <= state.highest:
        return ()
    if state.owner == asked.instance and operation.answer is Answer.DONE:
        return _seen(state, asked.instance, operation.epoch)
    if not state.owner or asked.forced:
        return _held(state, asked.instance, operation.epoch)
    return ()


def _transfer(state: Holding, operation: Operation) -> Iterable[Holding]:
    asked = operation.asked
    if not (_names(state, asked) or (asked.forced and state.owner)):
        return ()
    moved = tuple(_held(state, asked.to, operation.epoch))
    # One that fails halfway releases what it should have moved.
    return (*moved, _free(state)) if operation.answer is Answer.UNKNOWN else moved


def _names(state: Holding, asked: Invoked) -> bool:
    """Whether what *asked* is about is what *state* says."""
    return state.owner == asked.instance and (0 in {asked.epoch, state.epoch} or asked.epoch == state.epoch)


def _matters(operation: Operation) -> bool:
    """Whether it touched the register, or looked at it."""
    if operation.asked.kind is Kind.CALL or operation.answer is Answer.FAILED:
        return False
    return not (operation.asked.kind is Kind.GET_OWNER and operation.answer is Answer.UNKNOWN)


def _of_what_it_held(operation: Operation, beliefs: Iterable[Belief]) -> Operation:
    """*operation*, about no certain epoch if its instance acquired the resource anew before it was carried out.

    A release or transfer names a resource. Where its instance lost that and claimed it again while the operation waited for
    the store, it is the new acquisition that is given away. What was sent when it was given up names the record that it is about.
    """
    asked = operation.asked
    if not asked.epoch:
        return operation
    anew = any(
        it.instance == asked.instance and it.epoch != asked.epoch and operation.began <= it.began <= operation.given_up
        for it in beliefs
    )
    return attrs.evolve(operation, asked=attrs.evolve(asked, epoch=0)) if anew else operation


def _shared_releases(operations: Iterable[Operation]) -> frozenset[tuple[str, int]]:
    """The releases, by process and number, that another one of the same instance may have carried out.

    A release of what its own instance is releasing already waits for that, and is told what came of it.
    """
    releases = [it for it in operations if it.asked.kind is Kind.RELEASE and it.answer is Answer.DONE]
    shared: set[tuple[str, int]] = set()
    for one, other in itertools.combinations(releases, 2):
        epochs = {one.asked.epoch, other.asked.epoch}
        is_same = one.asked.instance == other.asked.instance and (0 in epochs or len(epochs) == 1)
        if is_same and max(one.began, other.began) <= min(one.ended, other.ended):
            shared |= {(it.asked.process, it.asked.number) for it in (one, other)}
    return frozenset(shared)


def _told(story: Story) -> dict[tuple[str, int], float]:
    """The acquisitions that somebody was told of, by owner and epoch: when the first who was had asked."""
    told: dict[tuple[str, int], float] = {}
    for it in story.operations:
        if it.asked.kind in {Kind.CLAIM, Kind.TRANSFER} and it.answer is Answer.DONE:
            owner = it.asked.to if it.asked.kind is Kind.TRANSFER else it.asked.instance
            told[owner, it.epoch] = min(it.began, told.get((owner, it.epoch), math.inf))
    return told


def _given(story: Story) -> frozenset[tuple[str, int]]:
    """The acquisitions by transfer, by owner and epoch."""
    return frozenset((it.asked.to, it.epoch) for it in story.operations if it.asked.kind is Kind.TRANSFER)


def _in_vain(story: Story) -> Iterable[Operation]:
    """Attempts of claims, before the one that was answered: one for each time that somebody saw who still waited hold it.

    They bear the epoch of that answer: they can only have been before.
    """
    seen = [
        it
        for it in story.operations
        if it.answer is Answer.HELD or (it.asked.kind is Kind.GET_OWNER and it.answer is Answer.DONE)
    ]
    for claim in story.operations:
        asked = claim.asked
        if asked.kind is not Kind.CLAIM or claim.answer is not Answer.DONE:
            continue
        for it in seen:
            overlap = claim.began < it.ended and it.began < claim.ended
            if it.owner == asked.instance and it.epoch != claim.epoch and overlap:
                yield Operation(
                    asked=attrs.evolve(asked, epoch=claim.epoch),
                    ended=math.inf,
                    answer=Answer.UNKNOWN,
                    said="an attempt in vain",
                    given_up=min(it.ended, claim.ended),
                )


def _unasked(story: Story) -> Iterable[Operation]:
    """Acquisitions that no operation brought: each took effect after the instance's last belief and before its next.

    Who asks when the instance believes already is told of it, and has not brought it about.
    """
    told = _told(story)
    known: set[tuple[str, int]] = set()
    last: dict[str, float] = {}
    first = min([it.began for it in story.operations] + [it.began for it in story.beliefs], default=0.0)
    for belief in story.beliefs:
        held = (belief.instance, belief.epoch)
        if held not in known and told.get(held, math.inf) > belief.began:
            asked = Invoked(
                at=min(last.get(belief.instance, first), belief.began),
                process=belief.process,
                number=0,
                kind=Kind.CLAIM,
                key=story.key,
                instance=belief.instance,
                forced=belief.forced,
            )
            yield Operation(
                asked=asked,
                ended=belief.began,
                answer=Answer.DONE,
                epoch=belief.epoch,
                said="without being asked",
                given_up=belief.began,
            )
        known.add(held)
        last[belief.instance] = belief.ended

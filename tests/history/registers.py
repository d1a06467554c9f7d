"""Histories of a register that works: operations overlap, and each takes effect at one instant between begin and end."""

from __future__ import annotations

import itertools
import random

import attrs

from aegis_pytest.history import (
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

__all__ = ["true_history"]


@attrs.define(eq=False)
class _Resource:
    """Who really holds a resource, and what was noted of it."""

    key: str
    owner: str = ""
    epoch: int = 0
    since: float = 0.0
    written: int = 0


def process_of(instance: str) -> str:
    """The process that *instance* lives in."""
    return f"p{instance.removeprefix('i')}"


class _Writer:
    """Carries random operations out one after the other, and notes them as if they had overlapped."""

    def __init__(self, chance: random.Random, instances: int, unknown: float) -> None:
        self.records: list[Record] = []
        self.now = 0.0
        self._chance = chance
        self._instances = [f"i{number}" for number in range(instances)]
        self._unknown = unknown
        self._numbers = itertools.count(1)
        self._epochs = itertools.count(1)

    def act(self, resource: _Resource) -> None:
        """Let time pass, and something happen to *resource*."""
        self.now += self._chance.uniform(0.001, 0.01)
        kind = self._chance.choice([*Kind, Kind.GET_OWNER, Kind.CLAIM, None])
        if kind is None:
            self._lapse(resource)
        elif kind is Kind.CALL:
            self._call(resource)
        else:
            self._operate(resource, kind)

    def read(self, resource: _Resource) -> None:
        """A read that overlaps nothing."""
        self.now += 1
        self._note(resource, Kind.GET_OWNER, "i0", "", self._seen(resource), quick=True)
        self.now += 1

    def _operate(self, resource: _Resource, kind: Kind) -> None:
        instance, to = self._chance.choice(self._instances), ""
        if kind is Kind.TRANSFER:
            to = self._chance.choice([it for it in self._instances if it != instance])
        unknown = self._chance.random() < self._unknown
        if unknown and self._chance.random() < 0.5:
            self._note(resource, kind, instance, to, None)  # it never took effect
            return
        before = (resource.owner, resource.epoch, resource.since)
        knows = kind in {Kind.RELEASE, Kind.TRANSFER} and instance == resource.owner and self._chance.random() < 0.5
        epoch = resource.epoch if knows else 0
        done = self._apply(resource, kind, instance, to)
        effective = (resource.owner, resource.epoch) != before[:2]
        if effective and before[0]:
            self._believed(resource.key, *before, "moved")
        ended = self._note(resource, kind, instance, to, None if unknown else done, epoch=epoch)
        if effective and resource.owner:
            resource.since = self._chance.uniform(self.now, min(ended, self.now + 0.001))
            self.now = resource.since  # nothing else happens before it knows

    def _apply(self, resource: _Resource, kind: Kind, instance: str, to: str) -> tuple[Answer, str, int]:
        owner = resource.owner
        if kind is Kind.GET_OWNER:
            return self._seen(resource)
        if kind is Kind.CLAIM:
            if owner and owner != instance:
                return Answer.HELD, owner, 0
            if not owner:
                resource.owner, resource.epoch = instance, next(self._epochs)
            return Answer.DONE, "", resource.epoch
        if not owner:
            return Answer.FREE, "", 0
        if owner != instance:
            return Answer.HELD, owner, 0
        if kind is Kind.RELEASE:
            resource.owner, resource.epoch = "", 0
            return Answer.DONE, "", 0
        resource.owner, resource.epoch = to, next(self._epochs)
        return Answer.DONE, "", resource.epoch

    @staticmethod
    def _seen(resource: _Resource) -> tuple[Answer, str, int]:
        if not resource.owner:
            return Answer.FREE, "", 0
        return Answer.DONE, resource.owner, resource.epoch

    def _lapse(self, resource: _Resource) -> None:
        """The holder's lease ends: belief first, then the record."""
        if resource.owner:
            self._believed(resource.key, resource.owner, resource.epoch, resource.since, "EXPIRED")
            resource.owner, resource.epoch = "", 0
            self.now += 0.001

    def _call(self, resource: _Resource) -> None:
        if not resource.owner:
            return
        process, call = process_of(resource.owner), f"call-{next(self._numbers)}"
        number = next(self._numbers)
        times = sorted(self._chance.uniform(self.now, self.now + 0.001) for _ in range(4))
        self.now = times[-1]
        key, owner, epoch = resource.key, resource.owner, resource.epoch
        resource.written = max(resource.written, epoch)
        self.records += [
            Invoked(at=times[0], process="client", number=number, kind=Kind.CALL, key=key, call=call),
            Handled(at=times[2], process=process, instance=owner, key=key, epoch=epoch, call=call, began=times[1]),
            Wrote(at=times[2], process=process, key=key, epoch=epoch, accepted=True),
            Returned(at=times[3], process="client", number=number, answer=Answer.DONE, owner=owner, epoch=epoch),
        ]

    def _believed(self, key: str, owner: str, epoch: int, since: float, reason: str) -> None:
        process = process_of(owner)
        self.records += [
            BeliefBegan(at=since, process=process, instance=owner, key=key, epoch=epoch),
            BeliefEnded(at=self.now, process=process, instance=owner, key=key, epoch=epoch, reason=reason),
        ]

    def _note(
        self,
        resource: _Resource,
        kind: Kind,
        instance: str,
        to: str,
        came: tuple[Answer, str, int] | None,
        *,
        quick: bool = False,
        epoch: int = 0,
    ) -> float:
        """Note an operation that takes effect now; when it ends."""
        number, process = next(self._numbers), process_of(instance)
        began = self.now - (0.0 if quick else self._chance.uniform(0, 0.03))
        ended = self.now + (0.001 if quick else self._chance.uniform(0.0005, 0.03))
        answer, owner, epoch = came or (Answer.UNKNOWN, "", 0)
        asked = Invoked(at=began, process=process, number=number, kind=kind, key=resource.key, instance=instance, to=to)
        told = Returned(at=ended, process=process, number=number, answer=answer, owner=owner, epoch=epoch)
        self.records += [asked, told]
        return ended

    def finish(self, resource: _Resource) -> None:
        """Read it, and note the belief that still holds."""
        self.read(resource)
        if resource.owner:
            process = process_of(resource.owner)
            began = BeliefBegan(
                at=resource.since, process=process, instance=resource.owner, key=resource.key, epoch=resource.epoch
            )
            self.records.append(began)


def true_history(
    chance: random.Random,
    *,
    operations: int,
    keys: int = 1,
    instances: int = 3,
    unknown: float = 0.1,
    deaths: bool = False,
) -> list[Record]:
    """The records of a register per key that works, ended by a read of each.

    Args:
        chance: Decides.
        operations: How many in all, about.
        keys: How many resources.
        instances: Who claims, releases, transfers and reads.
        unknown: The share of operations of which nobody learns what came of them; of these half take effect.
        deaths: Let an instance's process die at the end of all.
    """
    writer = _Writer(chance, instances, unknown)
    resources = [_Resource(f"r{number}") for number in range(keys)]
    for _ in range(operations):
        writer.act(chance.choice(resources))
    writer.now += 1
    for resource in resources:
        writer.finish(resource)
    if deaths:
        writer.records.append(Died(at=writer.now + 1, process="p0"))
    return writer.records

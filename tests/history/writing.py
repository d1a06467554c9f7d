"""Short histories, written down by hand: one line for each thing that happened."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from aegis_pytest.history import (
    Answer,
    BeliefBegan,
    BeliefEnded,
    Handled,
    History,
    Invoked,
    Kind,
    Record,
    Returned,
    Wrote,
)

__all__ = [
    "Page",
    "asked",
    "believes",
    "call",
    "claim",
    "handled",
    "history",
    "operation",
    "owner",
    "release",
    "transfer",
    "wrote",
]

KEY = "r"
Page = tuple[Record, ...]

_numbers: Iterator[int] = itertools.count(1)


def operation(asked: Invoked, until: float | None, answer: Answer | None, holder: str = "", epoch: int = 0) -> Page:
    """*asked*, answered at *until*; None for *answer*: never."""
    if answer is None:
        return (asked,)
    assert until is not None
    told = Returned(at=until, process=asked.process, number=asked.number, answer=answer, owner=holder, epoch=epoch)
    return asked, told


def asked(kind: Kind, began: float, instance: str, *, to: str = "", forced: bool = False, epoch: int = 0) -> Invoked:
    """What somebody asks for."""
    return Invoked(
        at=began,
        process=f"p{instance.removeprefix('i')}",
        number=next(_numbers),
        kind=kind,
        key=KEY,
        instance=instance,
        to=to,
        forced=forced,
        epoch=epoch,
    )


def claim(
    began: float,
    until: float,
    instance: str,
    epoch: int = 0,
    *,
    answer: Answer | None = Answer.DONE,
    holder: str = "",
    forced: bool = False,
) -> Page:
    """A claim."""
    return operation(asked(Kind.CLAIM, began, instance, forced=forced), until, answer, holder, epoch)


def release(
    began: float, until: float, instance: str, *, answer: Answer = Answer.DONE, holder: str = "", epoch: int = 0
) -> Page:
    """A release."""
    return operation(asked(Kind.RELEASE, began, instance, epoch=epoch), until, answer, holder)


def transfer(
    began: float,
    until: float,
    instance: str,
    to: str,
    epoch: int = 0,
    *,
    answer: Answer = Answer.DONE,
    holder: str = "",
    of: int = 0,
) -> Page:
    """A transfer, *of* an epoch where that is known."""
    return operation(asked(Kind.TRANSFER, began, instance, to=to, epoch=of), until, answer, holder, epoch)


def owner(began: float, until: float, holder: str = "", epoch: int = 0, *, answer: Answer | None = None) -> Page:
    """A read, which finds *holder*, or nobody."""
    found = Answer.DONE if holder else Answer.FREE
    return operation(asked(Kind.GET_OWNER, began, "i9"), until, answer or found, holder, epoch)


def believes(
    began: float,
    until: float | None,
    instance: str,
    epoch: int,
    *,
    forced: bool = False,
    lag: float = 0.0,
    reason: str = "EXPIRED",
) -> Page:
    """A belief; None for *until*: it lasts."""
    process = f"p{instance.removeprefix('i')}"
    began_to = BeliefBegan(at=began, process=process, instance=instance, key=KEY, epoch=epoch, forced=forced, lag=lag)
    if until is None:
        return (began_to,)
    return began_to, BeliefEnded(at=until, process=process, instance=instance, key=KEY, epoch=epoch, reason=reason)


def call(
    began: float, until: float, name: str, by: str, epoch: int, *, answer: Answer = Answer.DONE, once: bool = False
) -> Page:
    """A call, answered by *by* under *epoch*; *once*: with an idempotency key."""
    made = Invoked(at=began, process="client", number=next(_numbers), kind=Kind.CALL, key=KEY, call=name, once=once)
    return operation(made, until, answer, by, epoch)


def handled(began: float, until: float, name: str, instance: str, epoch: int) -> Page:
    """A handler's run for the call of that name."""
    process = f"p{instance.removeprefix('i')}"
    return (Handled(at=until, process=process, instance=instance, key=KEY, epoch=epoch, call=name, began=began),)


def wrote(at: float, epoch: int, *, accepted: bool = True) -> Page:
    """A write to a fencing storage."""
    return (Wrote(at=at, process="p1", key=KEY, epoch=epoch, accepted=accepted),)


def history(*pages: Page) -> History:
    """All of it."""
    return History(record for page in pages for record in page)

"""Records put together: operations with their begin and end, beliefs with theirs, by resource."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

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

__all__ = ["Belief", "Operation", "Story", "tell"]


@attrs.frozen(kw_only=True)
class Operation:
    """An operation from its begin to its end.

    Args:
        asked: What was asked for, and when.
        ended: Seconds, when it was answered; `math.inf` if nobody knows what came of it, so that it may still be to come.
        answer: What came of it.
        owner: The holder that the answer names.
        epoch: Of the ownership that the answer shows; 0 if it shows none.
        said: The words of the answer.
        code: Of the error that the answer was; see `Returned`.
        given_up: Seconds, when its caller stopped waiting for it, or died; for people.
    """

    asked: Invoked
    ended: float
    answer: Answer
    owner: str = ""
    epoch: int = 0
    said: str = ""
    code: str = ""
    given_up: float

    @property
    def began(self) -> float:
        """Seconds."""
        return self.asked.at

    @property
    def label(self) -> str:
        """What was asked for and what came of it, in a few words."""
        asked = self.asked
        words = [asked.kind.value]
        words += [f"by {asked.instance}"] if asked.instance else []
        words += [f"to {asked.to}"] if asked.to else []
        words += ["by force"] if asked.forced else []
        shown = {
            Answer.DONE: "" if asked.kind in {Kind.CLAIM, Kind.RELEASE, Kind.TRANSFER} else self.owner,
            Answer.HELD: f"held by {self.owner}",
            Answer.FREE: "free",
            Answer.FAILED: "failed",
            Answer.UNKNOWN: "unknown",
        }[self.answer]
        came = " ".join(part for part in (shown, f"epoch {self.epoch}" if self.epoch else "") if part) or "done"
        return f"{' '.join(words)}: {came}"


@attrs.frozen(kw_only=True)
class Belief:
    """An instance's belief that it holds a resource, from its begin to its end; `math.inf` if it was never noted to end."""

    process: str
    instance: str
    key: str
    epoch: int
    began: float
    ended: float = math.inf
    forced: bool = False
    ttl: float = 30.0
    lag: float = 0.0
    reason: str = ""

    @property
    def label(self) -> str:
        """In a few words."""
        return f"{self.instance} holds it, epoch {self.epoch}{', by force' if self.forced else ''}"


@attrs.frozen(kw_only=True)
class Story:
    """What happened to one resource.

    Args:
        key: The resource id.
        operations: In the order in which they began.
        beliefs: In the order in which they began.
        handled: Handlers that ran, as noted.
        writes: In the order in which the storage took or refused them.
        unanswered: Operations of living processes that have neither an answer nor an end.
        tellers: The instances that note their beliefs, of this resource or another.
    """

    key: str
    operations: tuple[Operation, ...] = ()
    beliefs: tuple[Belief, ...] = ()
    handled: tuple[Handled, ...] = ()
    writes: tuple[Wrote, ...] = ()
    unanswered: tuple[Operation, ...] = ()
    tellers: frozenset[str] = frozenset()


def tell(records: Iterable[Record]) -> tuple[Story, ...]:
    """The story of each resource that *records* speak of, by key. Their order does not matter.

    Raises:
        ValueError: They contradict each other: an answer or an end without a begin, or two of one.
    """
    pieces = _Pieces()
    for record in sorted(records, key=_in_order):
        pieces.add(record)
    return pieces.stories()


def _in_order(record: Record) -> tuple[float, int]:
    """The sort key of records: begins before ends at one time."""
    began = record.began if isinstance(record, Handled) else record.at
    return began, 0 if isinstance(record, Invoked | BeliefBegan) else 1


class _Pieces:
    """Records on their way to stories."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, int], Invoked] = {}
        self._operations: dict[str, list[Operation]] = defaultdict(list)
        self._unanswered: dict[str, list[Operation]] = defaultdict(list)
        self._believed: dict[tuple[str, str, str, int], BeliefBegan] = {}
        self._beliefs: dict[str, list[Belief]] = defaultdict(list)
        self._handled: dict[str, list[Handled]] = defaultdict(list)
        self._writes: dict[str, list[Wrote]] = defaultdict(list)
        self._tellers: set[str] = set()
        self._seen: set[tuple[str, int]] = set()
        self._last = -math.inf

    def add(self, record: Record) -> None:
        self._last = max(self._last, record.at)
        match record:
            case Invoked():
                name = (record.process, record.number)
                if name in self._seen:
                    raise ValueError(f"operation {record.number} of {record.process} began twice")
                self._seen.add(name)
                self._open[name] = record
            case Returned():
                self._answered(record)
            case BeliefBegan():
                self._tellers.add(record.instance)
                held = (record.process, record.instance, record.key, record.epoch)
                if held in self._believed:
                    raise ValueError(f"{record.instance} began to hold {record.key!r} twice at epoch {record.epoch}")
                self._believed[held] = record
            case BeliefEnded():
                began = self._believed.pop((record.process, record.instance, record.key, record.epoch), None)
                if began is None:
                    raise ValueError(
                        f"{record.instance} ceased to hold {record.key!r} at epoch {record.epoch}, and never began to"
                    )
                self._beliefs[record.key].append(_belief(began, record.at, record.reason))
            case Handled():
                self._handled[record.key].append(record)
            case Wrote():
                self._writes[record.key].append(record)
            case Died():
                self._bury(record)

    def stories(self) -> tuple[Story, ...]:
        for asked in self._open.values():
            operation = _unknown(asked, self._last)
            self._unanswered[asked.key].append(operation)
            self._operations[asked.key].append(operation)
        for began in self._believed.values():
            self._beliefs[began.key].append(_belief(began, math.inf, ""))
        keys = {*self._operations, *self._beliefs, *self._handled, *self._writes}
        return tuple(
            Story(
                key=key,
                operations=tuple(sorted(self._operations.get(key, ()), key=lambda it: it.began)),
                beliefs=tuple(sorted(self._beliefs.get(key, ()), key=lambda it: it.began)),
                handled=tuple(self._handled.get(key, ())),
                writes=tuple(self._writes.get(key, ())),
                unanswered=tuple(self._unanswered.get(key, ())),
                tellers=frozenset(self._tellers),
            )
            for key in sorted(keys)
        )

    def _answered(self, record: Returned) -> None:
        asked = self._open.pop((record.process, record.number), None)
        if asked is None:
            raise ValueError(f"operation {record.number} of {record.process} was answered, but had not begun")
        self._operations[asked.key].append(
            Operation(
                asked=asked,
                ended=math.inf if record.answer is Answer.UNKNOWN else record.at,
                answer=record.answer,
                owner=record.owner,
                epoch=record.epoch,
                said=record.said,
                code=record.code,
                given_up=record.at,
            )
        )

    def _bury(self, death: Died) -> None:
        for name in [name for name in self._open if name[0] == death.process]:
            asked = self._open.pop(name)
            self._operations[asked.key].append(_unknown(asked, death.at))
        for held in [held for held in self._believed if held[0] == death.process]:
            began = self._believed.pop(held)
            self._beliefs[began.key].append(_belief(began, death.at, "its process died"))


def _unknown(asked: Invoked, given_up: float) -> Operation:
    return Operation(asked=asked, ended=math.inf, answer=Answer.UNKNOWN, given_up=given_up)


def _belief(began: BeliefBegan, ended: float, reason: str) -> Belief:
    return Belief(
        process=began.process,
        instance=began.instance,
        key=began.key,
        epoch=began.epoch,
        began=began.at,
        ended=ended,
        forced=began.forced,
        ttl=began.ttl,
        lag=began.lag,
        reason=reason,
    )

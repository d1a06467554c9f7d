"""What processes note down while they run: operations, beliefs, handled calls, fenced writes, deaths.

Times are seconds on one clock that all writers share: the virtual clock of a Trio run, or CLOCK_MONOTONIC for the
processes of one machine. A record is one line of JSON, so that a process that is killed leaves whole lines behind, but
for the last.
"""

from __future__ import annotations

import enum
import json
import math
from typing import Final

import attrs

__all__ = [
    "Answer",
    "BeliefBegan",
    "BeliefEnded",
    "Died",
    "Handled",
    "Invoked",
    "Kind",
    "Record",
    "Returned",
    "Wrote",
    "from_line",
    "to_line",
]


class Kind(enum.Enum):
    """What was asked for: an operation on the owner of a resource, or a call to it."""

    CLAIM = "claim"
    RELEASE = "release"
    TRANSFER = "transfer"
    GET_OWNER = "get_owner"
    CALL = "call"


class Answer(enum.Enum):
    """What came of it.

    DONE: as asked. HELD: refused, because the owner that the answer names holds it. FREE: nobody holds it. FAILED: it
    surely did nothing, and tells nothing about the resource. UNKNOWN: it may have been carried out, or may be later.
    """

    DONE = "done"
    HELD = "held"
    FREE = "free"
    FAILED = "failed"
    UNKNOWN = "unknown"


@attrs.frozen(kw_only=True)
class Invoked:
    """An operation was begun.

    Args:
        at: Seconds, just before it was begun.
        process: Who noted it.
        number: Of the operation, unique in its process.
        kind: What was asked for.
        key: The resource id.
        instance: In whose name: who claims, releases, or gives away.
        to: Of a transfer: the new owner.
        epoch: The epoch that is to be released or transferred, where known; 0 if not.
        forced: It does not ask the holder.
        call: Of a call: its id, which its `Handled` bears, too.
        once: Of a call: it has an idempotency key, by which one incarnation carries it out once.
        within: Seconds within which its caller is owed an answer, as `Rule.ANSWERED` sees to; 0.0 where none is: a process
            that may be stopped has nothing to expect.
    """

    at: float
    process: str
    number: int
    kind: Kind
    key: str
    instance: str = ""
    to: str = ""
    epoch: int = 0
    forced: bool = False
    call: str = ""
    once: bool = False
    within: float = 0.0


@attrs.frozen(kw_only=True)
class Returned:
    """An operation was answered, or its caller gave up on it.

    Args:
        at: Seconds, just after it was answered.
        process: Who noted it.
        number: Of the operation.
        answer: What came of it.
        owner: The holder that the answer names; of a call the instance that answered.
        epoch: Of the ownership that the answer shows; 0 if it shows none.
        said: For people: the error's words.
        code: Of the error that it was answered with; "" if it was none, or nobody waited for it any longer.
    """

    at: float
    process: str
    number: int
    answer: Answer
    owner: str = ""
    epoch: int = 0
    said: str = ""
    code: str = ""


@attrs.frozen(kw_only=True)
class BeliefBegan:
    """An instance began to believe that it holds a resource, by its own clock.

    Args:
        at: Seconds.
        process: Who noted it.
        instance: Who believes.
        key: The resource id.
        epoch: Of the ownership.
        forced: It was taken by force, so that the holder before may have believed a little longer.
        ttl: Of its instance, in seconds: so long at most it may go on to believe when another takes the resource by force.
        lag: Of what was taken by force: seconds by which who held it may hear of that later, as watches lag.
    """

    at: float
    process: str
    instance: str
    key: str
    epoch: int
    forced: bool = False
    ttl: float = 30.0
    lag: float = 0.0


@attrs.frozen(kw_only=True)
class BeliefEnded:
    """It stopped believing; see `BeliefBegan`. `reason` is for people."""

    at: float
    process: str
    instance: str
    key: str
    epoch: int
    reason: str = ""


@attrs.frozen(kw_only=True)
class Handled:
    """A handler ran for a call.

    Args:
        at: Seconds, when it returned.
        process: Who noted it.
        instance: Who served the call.
        key: The resource id.
        epoch: That the handler was told.
        call: Id of the call.
        began: Seconds, when it started.
    """

    at: float
    process: str
    instance: str
    key: str
    epoch: int
    call: str
    began: float


@attrs.frozen(kw_only=True)
class Wrote:
    """A storage that fences its writes by epoch was written to.

    Args:
        at: Seconds, while the storage was locked: the order of its writes.
        process: Who noted it.
        key: What was written.
        epoch: Shown with the write.
        accepted: Whether it was taken.
    """

    at: float
    process: str
    key: str
    epoch: int
    accepted: bool


@attrs.frozen(kw_only=True)
class Died:
    """A process ended without a word. What it had begun may still come to be; what it believed, it believes no more.

    Args:
        at: Seconds, when it last ran: for a process that was stopped and then killed, when it was stopped.
        process: Which.
    """

    at: float
    process: str


Record = Invoked | Returned | BeliefBegan | BeliefEnded | Handled | Wrote | Died

_RECORDS: Final[dict[str, type[Record]]] = {
    kind.__name__: kind for kind in (Invoked, Returned, BeliefBegan, BeliefEnded, Handled, Wrote, Died)
}
_ENUMS: Final[dict[str, type[enum.Enum]]] = {"kind": Kind, "answer": Answer}
_TYPES: Final[dict[str, type | tuple[type, ...]]] = {
    "str": str,
    "int": int,
    "float": (int, float),
    "bool": bool,
    "Kind": str,
    "Answer": str,
}


def to_line(record: Record) -> str:
    """*record* as one line of JSON, without the line's end."""
    told: dict[str, object] = {"record": type(record).__name__}
    for field in attrs.fields(type(record)):
        value = getattr(record, field.name)
        if value != field.default:
            told[field.name] = value.value if isinstance(value, enum.Enum) else value
    return json.dumps(told, ensure_ascii=False, separators=(",", ":"))


def from_line(line: str) -> Record:
    """The record that `to_line` made *line* of.

    Raises:
        ValueError: It is none; says what is wrong with it.
    """
    told = json.loads(line)
    if not isinstance(told, dict):
        raise ValueError("a record is a JSON object")  # noqa: TRY004 - a wrong line, not a wrong call
    kind = _RECORDS.get(str(told.pop("record", None)))
    if kind is None:
        raise ValueError(f"'record' is none of {', '.join(_RECORDS)}")
    fields = {field.name: field for field in attrs.fields(kind)}
    for name, value in told.items():
        if name not in fields:
            raise ValueError(f"{kind.__name__} has no {name!r}")
        if not isinstance(value, _TYPES[str(fields[name].type)]) or (
            isinstance(value, bool) and fields[name].type != "bool"
        ):
            raise ValueError(f"{name!r} of {kind.__name__} is {value!r}, not of type {fields[name].type}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name!r} of {kind.__name__} is not finite")
        if name in _ENUMS:
            told[name] = _ENUMS[name](value)
    missing = [name for name, field in fields.items() if field.default is attrs.NOTHING and name not in told]
    if missing:
        raise ValueError(f"{kind.__name__} lacks {', '.join(missing)}")
    made: Record = kind(**told)
    return made

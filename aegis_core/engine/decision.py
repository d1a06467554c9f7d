"""What a decision is: what to write, under which expectations, and what to answer once it is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import attrs

from aegis_core.models import Ownership, Record, Value
from aegis_core.names import Key, TargetKey, parse_key, target_key

__all__ = ["Audit", "Decision", "NotYetKnown", "Write", "answered"]

A = TypeVar("A")
A_co = TypeVar("A_co", covariant=True)


class NotYetKnown(Exception):
    """The view may not judge yet: sync, then decide again. No refusal; it never reaches a user."""


@attrs.frozen(eq=False, repr=False)
class Write(Value):
    """One operation of a transaction.

    Args:
        key: The store key.
        record: What to put there, with epoch (or joined) 0 where its own revision is meant; None deletes the key.
        expect: Revision that the key must have; `ABSENT` when it must not be there.
        ttl: Seconds until the store deletes the key by itself; None for never.
        target: Whose ownership the key tells, where that is known; it spares reading the key.
    """

    key: str
    record: Record | None
    expect: int
    ttl: float | None = None
    target: str = ""

    @classmethod
    def owner(cls, record: Ownership, expect: int) -> Write:
        """*record* says who owns its target."""
        return cls(target_key(record.target), record, expect, None, record.target)

    @classmethod
    def no_owner(cls, target: str, expect: int) -> Write:
        """Nobody owns *target*."""
        return cls(target_key(target), None, expect, None, target)

    @property
    def named(self) -> Key:
        """What `key` names."""
        if self.target:
            return TargetKey(self.target)
        key = parse_key(self.key)
        if key is None:
            raise ValueError(f"{self.key!r} is no key of the engine's")
        return key


@attrs.frozen(eq=False, repr=False)
class Decision(Value, Generic[A_co]):
    """What to commit, and what it means.

    Args:
        writes: Operations to commit as one transaction; empty when nothing is to be done.
        answer: Computes the operation's answer from the revisions of the writes, in their order.
        refuses: Part of the answer is a refusal, or says that something holds already, which no write of this
            decision proves: like an error, it must be decided on a view that was synced since the request came.
    """

    writes: tuple[Write, ...]
    answer: Callable[[Sequence[int]], A_co]
    refuses: bool = False

    @property
    def rests_on_view(self) -> bool:
        """Whether the answer is only as fresh as the view: nothing is written, or part of it `refuses`."""
        return self.refuses or not self.writes


def answered(value: A) -> Decision[A]:
    """A decision to write nothing and answer *value*."""
    return Decision((), lambda _: value)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Audit(Value):
    """How an operation that moves ownership is recorded.

    Args:
        transfer_id: ``transfer_`` and 16 hex digits, unique per operation and the same when it is decided again.
        reason: As the one who asked gave it.
        requested_by: Principal that asked.
        ttl: Seconds that the record is kept.
        traceparent: W3C trace context of the operation, or "".
    """

    transfer_id: str
    reason: str = ""
    requested_by: str = ""
    ttl: float = 7 * 86400.0
    traceparent: str = ""

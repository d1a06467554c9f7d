"""A transaction as messages: one, or an atomic batch of several. Pure; what is sent is decided here, sending is not.

**Every message has an expectation**, even that of an operation without condition: it expects what is known to be there.
So a transaction that was sent twice is stored once at most, whatever became of the first, and however late.

**A check of absence** writes nothing under its key. It needs a message to travel with, as one message has one
expectation: a deletion of a key of our own that nobody else uses, and that is forgotten after seconds. Such keys begin
with ``~``, which no key of a user can.

Checks come first in a batch, so that what is written has consecutive revisions: one that is known tells the others.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Final

import attrs

from aegis_backends.nats.headers import Headers
from aegis_core.backend import ABSENT, Delete, Put, Transaction

__all__ = [
    "GENERATION",
    "INTERNAL",
    "MARKER",
    "MARKER_TTL",
    "TRANSACTION",
    "Outgoing",
    "encode_transaction",
    "fence",
    "generation",
    "is_check",
    "is_deletion",
    "revisions",
    "settled_revisions",
    "ttl_seconds",
]

TRANSACTION: Final = "Aegis-Transaction"
"""The header that says which transaction wrote a message."""

INTERNAL: Final = "~"
"""What the keys begin with that are no user's."""

GENERATION: Final = f"{INTERNAL}generation"
"""The key whose value differs between the histories of a bucket that was set back; nothing is there until it was."""

MARKER: Final = "Nats-Marker-Reason"
"""The header of the server's own deletions: a TTL ended."""

MARKER_TTL: Final = 600
"""Seconds for which the server remembers that a key was deleted."""

_FENCE_TTL: Final = 2
_EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
# Header blocks are put together as text: a batch of hundreds would spend more on pairs of names and values than on all
# else. What is put in are numbers, and keys and ids that the store has checked.
_PURGE: Final = "KV-Operation: PURGE\r\nNats-Rollup: sub\r\nNats-TTL: {}s\r\n"
_FORGOTTEN: Final = _PURGE.format(_FENCE_TTL)


@attrs.frozen
class Outgoing:
    """A message to publish; `head` is its header block."""

    subject: str
    payload: bytes
    head: bytes


def is_check(operation: Put | Delete) -> bool:
    """Whether *operation* writes nothing."""
    return isinstance(operation, Delete) and operation.expect == ABSENT


def is_deletion(headers: Headers, payload: bytes) -> bool:
    """Whether a stored message says that its key is gone: by whomever, or because its TTL ended."""
    return not payload and (headers.get("KV-Operation") in ("PURGE", "DEL") or MARKER in headers)


# Anybody can send a header: no number in it is read that has more digits than a TTL in nanoseconds.
_SECONDS: Final = re.compile(r"[0-9]{1,19}")
_DURATION: Final = re.compile(r"(?:([0-9]{1,19})h)?(?:([0-9]{1,19})m)?(?:([0-9]{1,19})s)?")


def ttl_seconds(text: str) -> int:
    """The seconds of a TTL as a header tells it ("10m0s", "600s", "600"); 0 for none, and for what cannot be read."""
    if _SECONDS.fullmatch(text):
        return int(text)
    found = _DURATION.fullmatch(text)
    if found is None:
        return 0
    hours, minutes, seconds = (int(number or 0) for number in found.groups())
    return hours * 3600 + minutes * 60 + seconds


def fence(prefix: str, nonce: str) -> Outgoing:
    """A message that changes nothing, and has a revision all the same. *nonce* must be new: nobody may overwrite it.

    It is a deletion, because the server forgets one without a word when its TTL ends.
    """
    return Outgoing(f"{prefix}{INTERNAL}fence.{nonce}", b"", _block(_FORGOTTEN))


def generation(prefix: str, value: bytes, last: int) -> Outgoing:
    """The message by which the bucket's history is called *value*, if the one of before has still the revision *last*; 0 for none."""
    return Outgoing(f"{prefix}{GENERATION}", value, _block(f"{_EXPECTED}: {last}\r\n"))


def _block(lines: str) -> bytes:
    """The header block of *lines*, each of which has its end."""
    return f"NATS/1.0\r\n{lines}\r\n".encode()


def encode_transaction(
    transaction: Transaction, expected: Sequence[int], *, prefix: str, nonce: str
) -> tuple[Outgoing, ...]:
    """The messages of *transaction*; more than one are an atomic batch.

    Args:
        transaction: Whose expectations have been looked up:
        expected: For each operation the revision of the key's last message, deletions included; 0 for none.
        prefix: What the subjects begin with.
        nonce: Of this attempt alone, 64 characters at most.
    """
    checks: list[tuple[str, bytes, str]] = []
    writes: list[tuple[str, bytes, str]] = []
    origin = f"{TRANSACTION}: {transaction.id}\r\n"
    gone = f"{origin}{_PURGE.format(MARKER_TTL)}"
    for op, last in zip(transaction.operations, expected, strict=True):
        subject = prefix + op.key
        holds = f"{_EXPECTED}: {last}\r\n"
        if isinstance(op, Put):
            ttl = "" if op.ttl is None else f"Nats-TTL: {math.ceil(op.ttl)}s\r\n"
            writes.append((subject, op.value, f"{holds}{origin}{ttl}"))
        elif is_check(op):
            carrier = f"{prefix}{INTERNAL}check.{nonce}.{len(checks)}"
            checks.append((carrier, b"", f"{_FORGOTTEN}{holds}{_EXPECTED}-Subject: {subject}\r\n"))
        else:
            writes.append((subject, b"", holds + gone))
    messages = (*checks, *writes)
    if len(messages) == 1:
        ((subject, payload, lines),) = messages
        return (Outgoing(subject, payload, _block(lines)),)
    batch = f"Nats-Batch-Id: {nonce}\r\nNats-Batch-Sequence: "
    *first, end = [
        (subject, payload, f"{lines}{batch}{number}\r\n")
        for number, (subject, payload, lines) in enumerate(messages, 1)
    ]
    commit = (end[0], end[1], f"{end[2]}Nats-Batch-Commit: 1\r\n")
    return tuple(Outgoing(subject, payload, _block(lines)) for subject, payload, lines in (*first, commit))


def revisions(transaction: Transaction, last: int) -> tuple[int, ...]:
    """The revision of each operation, when the last message has *last*; `ABSENT` for checks."""
    following = last - sum(not is_check(op) for op in transaction.operations)
    found = []
    for op in transaction.operations:
        if is_check(op):
            found.append(ABSENT)
        else:
            following += 1
            found.append(following)
    return tuple(found)


def settled_revisions(transaction: Transaction, key: str, revision: int) -> tuple[int, ...]:
    """The revisions of a *transaction* that gave *key* its *revision*."""
    places = revisions(transaction, 0)
    (place,) = (at for op, at in zip(transaction.operations, places, strict=True) if op.key == key and not is_check(op))
    return revisions(transaction, revision - place)

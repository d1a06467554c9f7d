"""The bucket as it is known here: a state machine that is fed what a consumer delivers. Synchronous, without I/O.

**What is kept.** For each key its newest change and the transaction that made it; for a key that is gone what is known
of its end, because the server's expectations count deletions as messages, and a deletion must be recognised when its
transaction is repeated. A key that expired is remembered with the transaction that had written it.

**When the view is level.** The bucket keeps one message per key: a message that is overwritten before it was delivered is
never delivered, and its successor comes later. So after a gap in the revisions the view may lack a change that lies
*below* what was delivered last, and is no state that the bucket ever had. What "pending" says is no proof that nothing
is missing: the server counts a successor only a moment after it has removed the predecessor. What is proof:

- As long as no revision was left out, the view is the bucket as it was at the last revision.
- After a gap, all that is missing has a successor that was stored before the gap was seen. A *fence* (a message that
  changes nothing) that is sent after the gap was seen has a higher revision than all of those; once it was delivered
  without another gap, so were they, and the view is level again. `Fence` asks for one when nothing else is pending.
- A heartbeat, which comes after a second without anything to deliver, is no proof: the consumer's server may be cut off
  from the leader, and lack the successors. But the fence may have been forgotten before it was delivered, so that another
  one is asked for.

A snapshot is nothing but a beginning with many gaps. Nothing is told of it before it is level.

**Set back.** A bucket that was restored, or lost what it had acknowledged, goes on from an earlier revision, and may have
come past that of the view before anybody looks. So a consumer that goes on begins some messages earlier: what is there
already, and was stored after everything that is known here, is no message of the bucket as it was (`SetBack`).
All of those may have been overwritten since. So whoever has proof names the history anew under a key of its own
(`GENERATION`), and another name is proof for everybody else; but not where all that was ever known was delivered by this very
consumer: that is all of one history, and it is only now that somebody comes who had known the one before.

**Transactions.** The messages of a batch are held back until the one that commits it, and told together; or until
anything else comes, because the committing one may have been overwritten since.

It is one file, past 400 lines, because each message moves what is kept, what is told and what is proven together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import attrs

from aegis_backends.nats.batch import GENERATION, INTERNAL, MARKER, TRANSACTION, ttl_seconds
from aegis_backends.nats.headers import Headers, first_value
from aegis_backends.nats.histories import digest
from aegis_backends.nats.jetstream import parse_delivery
from aegis_backends.nats.protocol import Message
from aegis_core.backend import Change, DeleteReason

__all__ = ["Action", "Answer", "Fence", "Grave", "Mirror", "Record", "Renew", "SetBack", "Told"]

_ORIGIN: Final = f"\r\n{TRANSACTION}: ".encode()
_BATCH_ID: Final = b"Nats-Batch-Id"
# Of one batch, as many as a server takes; more are none.
_MOST_HELD: Final = 1000
_MARKER: Final = MARKER.encode()
_TRANSACTION: Final = TRANSACTION.encode()
_GONE: Final = (b"PURGE", b"DEL")
_CONTROL: Final = 100
_FLOW_CONTROL: Final = "$JS.FC."
# Graves beyond this are swept when there are twice as many as after the last sweep.
_FEW: Final = 1000
_NANO: Final = 1_000_000_000
_SLACK: Final = 60 * _NANO
# Revisions below that of the view from which a consumer begins that goes on.
_OVERLAP: Final = 256


@attrs.frozen
class Answer:
    """Publish an empty message to `subject`: the server waits for it before it delivers more."""

    subject: str


@attrs.frozen
class Fence:
    """Send a fence: only that can show that the view is level."""


@attrs.frozen
class Renew:
    """The consumer has lost its thread: make another one."""

    reason: str


@attrs.frozen
class SetBack:
    """The bucket was set back since it was seen last, and has other messages under the same revisions: read it anew."""


Action = Answer | Fence | Renew | SetBack
"""What is to be done after a message."""

_NOTHING: Final[Sequence[Action]] = ()


@attrs.define(eq=False)
class Record:
    """What is under a key, and the transaction that wrote it (b"": none of ours)."""

    change: Change
    transaction: bytes


@attrs.define(eq=False)
class Grave:
    """What is known of a key that is gone.

    Args:
        last: The revision of the deletion, which is the subject's last message until the server forgets it.
        transaction: Who is to find it applied: the one that deleted the key, or that wrote what expired.
        revision: That transaction's revision of the key.
        until: When the server forgets it, nanoseconds since 1970 on its clock; 0 for never.
    """

    last: int
    transaction: bytes
    revision: int
    until: int


Told = Callable[[Sequence[Change]], None]
"""Is told what changed, in the order of revisions; what belongs together comes together."""


@attrs.define(eq=False)
class _Contents:
    records: dict[str, Record] = attrs.field(factory=dict)
    graves: dict[str, Grave] = attrs.field(factory=dict)
    generation: bytes = b""


class Mirror:
    """See the module.

    Args:
        prefix: What the subjects of the bucket begin with.
        tell: Called with changes while the view is loaded.
    """

    def __init__(self, prefix: str, tell: Told) -> None:
        self.revision = 0
        """At which the view is level, or was last."""
        self.loads = 0
        """How often a whole snapshot became the view."""
        self.why = ""
        """Why the last one had to."""
        self.behind = True
        """Whether the consumer had more to deliver when it was last heard of."""
        self.created = ""
        """When the bucket was made, as its server tells."""
        self._prefix: Final = prefix
        self._names_generation: Final = prefix + GENERATION
        self._tell = tell
        self._shown = _Contents()
        self._filled = self._shown
        self._applied = 0
        self._seen = 0
        # Up to where the consumer only repeats, and when the newest was stored of all that was delivered.
        self._repeats_to = 0
        self._latest = 0
        self._consumed = 0
        # Whether anything is known, here or to readers, that another consumer had delivered. A new snapshot does not change
        # that: readers take nothing of it that has a lower revision than what they know.
        self._knows_before = False
        self._delivered_all = False
        self._gaps = 0
        self._level = False
        self._proof = (0, -1)
        self._wants_fence = False
        self._batch = b""
        self._held: list[tuple[Message, str, int, int]] = []
        self._newest = 0
        self._sweep_at = 2 * _FEW

    def __repr__(self) -> str:
        return f"<Mirror of {len(self._shown.records)} keys, {'' if self._level else 'not '}level at {self.revision}>"

    @property
    def records(self) -> dict[str, Record]:
        """The keys that are there, in the order of their revisions. Not to be changed."""
        return self._shown.records

    @property
    def graves(self) -> dict[str, Grave]:
        """The keys of whose end something is known. Not to be changed."""
        return self._shown.graves

    @property
    def named(self) -> bytes:
        """What the history of the bucket is called, as far as it has come; nothing for one that was never set back."""
        return self._shown.generation

    @property
    def generation(self) -> str:
        """Tells the history that the revisions are of from any other one."""
        if not self.named:
            return self.created
        # Anybody who may write to the bucket may have put anything there.
        return f"{self.created}~{digest(self.named)}"

    @property
    def level(self) -> bool:
        """Whether the view is the bucket as it was at `revision`, or later."""
        return self._level and self._filled is self._shown

    @property
    def loading(self) -> bool:
        """Whether a snapshot has begun and is not the view yet."""
        return self._filled is not self._shown

    @property
    def applied(self) -> int:
        """The newest revision that is part of the view."""
        return self._applied

    @property
    def resume_at(self) -> int:
        """The revision from which on a new consumer is to deliver; 0 for a snapshot."""
        return max(1, self._applied + 1 - _OVERLAP) if self._applied else 0

    # --- What happens to the consumer ---

    def begin(self, *, fresh: bool, why: str = "") -> None:
        """A consumer is being made: one that begins after `applied`, or (*fresh*) one that delivers a whole snapshot, and *why*."""
        self._consumed = 0
        self.behind = True
        self._delivered_all = False
        self._held.clear()
        self._batch = b""
        self._wants_fence = False
        # That of a bucket that counts anew has no revision.
        self._knows_before = self.revision > 0
        if fresh:
            self._filled = _Contents()
            self.why = why
            self._applied = self._latest = 0
            self._level = False
        elif self._filled is not self._shown:
            raise AssertionError("a snapshot that was not finished cannot be gone on with")
        self._seen = self._repeats_to = self._applied

    def began(self, pending: int) -> Sequence[Action]:
        """The consumer was made, and had *pending* messages to deliver then."""
        if pending:
            return _NOTHING
        self.behind = False
        self._delivered_all = True
        return self._ask()

    def feed(self, message: Message) -> Sequence[Action]:
        """Take what the consumer delivered."""
        delivery = parse_delivery(message.reply)
        if delivery is None:
            return self._control(message)
        if not message.subject.startswith(self._prefix):
            return _NOTHING  # Anybody may publish to an inbox; on the bucket's subjects, only the stream delivers here.
        if delivery.consumer != self._consumed + 1:
            return (Renew(f"message {delivery.consumer} of the consumer came after {self._consumed}"),)
        self._consumed = delivery.consumer
        sequence, stored_at = delivery.stream, delivery.stored_at
        if message.subject == self._names_generation and message.payload != self.named and self._knows_before:
            return (SetBack(),)
        if sequence <= self._repeats_to:
            if stored_at > self._latest:
                return (SetBack(),)
        else:
            self._take(message, sequence, stored_at)
        self.behind = delivery.pending > 0
        if not self.behind:
            self._delivered_all = True
        return self._ask() if self._delivered_all and not self._level else _NOTHING

    def _take(self, message: Message, sequence: int, stored_at: int) -> None:
        """Let what was delivered be part of the view."""
        if sequence != self._seen + 1:
            self._gaps += 1
            self._level = False
            self._wants_fence = False
        self._seen = sequence
        self._newest = stored_at
        self._latest = max(self._latest, stored_at)
        key = message.subject[len(self._prefix) :]
        is_shown = self._filled is self._shown
        batch = (first_value(message.head, _BATCH_ID) or b"") if is_shown and _BATCH_ID in message.head else b""
        if batch:
            self._hold(batch, message, key, sequence, stored_at)
        else:
            if self._held:
                self._release()
            change = self._fold(message, key, sequence, stored_at)
            if is_shown and change is not None:
                self._tell((change,))
            self._reach(sequence)

    def _control(self, message: Message) -> Sequence[Action]:
        if message.status != _CONTROL:
            return _NOTHING
        if message.reply:
            return _answer(message.reply)
        last = first_value(message.head, b"Nats-Last-Consumer")
        if last is not None and last != b"%d" % self._consumed:
            return (Renew(f"the server delivered {last[:20]!r} messages, {self._consumed} came"),)
        stalled = first_value(message.head, b"Nats-Consumer-Stalled")
        if stalled:
            return _answer(stalled.decode("utf-8", "surrogateescape"))
        # Nothing is left to deliver, whatever the last message said: what it counted may have been forgotten since.
        self.behind = False
        self._delivered_all = True
        self._release()
        self._wants_fence = False
        return self._ask()

    def _ask(self) -> Sequence[Action]:
        if self._level or self._wants_fence:
            return _NOTHING
        self._wants_fence = True
        return (Fence(),)

    # --- Fences ---

    def fence_sent(self) -> int:
        """A fence is being sent; returns what `fence_stored` or `fence_lost` wants to know."""
        return self._gaps

    def fence_stored(self, sent: int, revision: int) -> None:
        """The fence has *revision*."""
        if sent != self._gaps:
            return
        if self._applied >= revision:
            self._prove()
        else:
            self._proof = (revision, sent)

    def fence_lost(self) -> Sequence[Action]:
        """A fence that was asked for could not be stored: asks for another if that is still wanted."""
        self._wants_fence = False
        return self._ask() if self._delivered_all and not self._level else _NOTHING

    def _prove(self) -> None:
        if not self._level:
            self._rise()

    def _rise(self) -> None:
        """The view is level at what was applied last."""
        self._level = True
        self._wants_fence = False
        if self._filled is not self._shown:
            self._shown = self._filled
            self.loads += 1
        self.revision = self._applied

    # --- What the messages say ---

    def _hold(self, batch: bytes, message: Message, key: str, sequence: int, stored_at: int) -> None:
        if batch != self._batch:
            self._release()
        self._batch = batch
        self._held.append((message, key, sequence, stored_at))
        if first_value(message.head, b"Nats-Batch-Commit") is not None or len(self._held) >= _MOST_HELD:
            self._release()

    def _release(self) -> None:
        if self._held:
            held, self._held = self._held, []
            changes = [change for one in held if (change := self._fold(*one)) is not None]
            if changes:
                self._tell(changes)
            self._reach(held[-1][2])

    def _reach(self, sequence: int) -> None:
        self._applied = sequence
        if self._level:
            self.revision = sequence
        elif self._proof[1] == self._gaps and sequence >= self._proof[0]:
            self._prove()

    def _fold(self, message: Message, key: str, sequence: int, stored_at: int) -> Change | None:
        if key[:1] == INTERNAL:
            if key == GENERATION:
                self._filled.generation = message.payload
            return None
        head, filled = message.head, self._filled
        if not message.payload and head:
            is_marker = first_value(head, _MARKER) is not None
            if is_marker or first_value(head, b"KV-Operation") in _GONE:
                return self._bury(head, key, sequence, stored_at, is_marker=is_marker)
        change = Change(key, message.payload, sequence)
        # Out and in again, because a dict keeps the place of a key that it has.
        filled.records.pop(key, None)
        if filled.graves:
            filled.graves.pop(key, None)
        filled.records[key] = Record(change, _origin(head))
        return change

    def _bury(self, head: bytes, key: str, sequence: int, stored_at: int, *, is_marker: bool) -> Change | None:
        filled = self._filled
        record = filled.records.pop(key, None)
        before = filled.graves.pop(key, None)
        ttl = ttl_seconds((first_value(head, b"Nats-TTL") or b"").decode("ascii", "replace"))
        until = stored_at + ttl * _NANO if ttl else 0
        if not is_marker:
            reason = DeleteReason.DELETED
            grave = Grave(sequence, first_value(head, _TRANSACTION) or b"", sequence, until)
        else:
            reason = DeleteReason.EXPIRED
            if record is not None:
                grave = Grave(sequence, record.transaction, record.change.revision, until)
            elif before is not None:
                grave = Grave(sequence, before.transaction, before.revision, until)
            else:
                grave = Grave(sequence, b"", sequence, until)
        filled.graves[key] = grave
        if len(filled.graves) >= self._sweep_at:
            self._sweep()
        # In a snapshot a key that is gone is nothing to tell.
        return Change(key, None, sequence, reason) if filled is self._shown else None

    def _sweep(self) -> None:
        """Forget the graves that the server has forgotten."""
        graves = self._filled.graves
        gone = [key for key, grave in graves.items() if 0 < grave.until < self._newest - _SLACK]
        for key in gone:
            del graves[key]
        self._sweep_at = 2 * max(_FEW, len(graves))

    # --- What the server's refusals say ---

    def forget_oldest(self, keys: Sequence[str]) -> bool:
        """The server knows no message for one of *keys*: it has forgotten a deletion; so does the view. False: none is known."""
        graves = self._shown.graves
        dug = [key for key in keys if key in graves]
        if not dug:
            return False
        del graves[min(dug, key=lambda key: (graves[key].until or 1 << 63, graves[key].last))]
        return True

    def recall(self, key: str, headers: Headers, sequence: int) -> bool:
        """The server still knows a deletion of *key* that was forgotten here. False: it was not."""
        if key in self._shown.records or key in self._shown.graves:
            return False
        self._shown.graves[key] = Grave(sequence, headers.get(TRANSACTION, "").encode(), sequence, 0)
        return True


def _answer(subject: str) -> Sequence[Action]:
    """The answer that the server waits for; anybody else may want anything to be published in our name."""
    return (Answer(subject),) if subject.startswith(_FLOW_CONTROL) else _NOTHING


def _origin(head: bytes) -> bytes:
    start = head.find(_ORIGIN)
    if start < 0:
        return b""
    start += len(_ORIGIN)
    return head[start : head.find(b"\r\n", start)]

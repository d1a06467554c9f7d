"""The view of a bucket against a model of its server: whatever happens, a view that calls itself level is the bucket.

The model keeps what a JetStream bucket keeps (one message per key), and delivers it as a consumer does: late, with gaps
where something was overwritten before, and with a count of what is pending that lags behind. The server that the consumer is on
may be cut off from the bucket's leader, and not know it. Messages and whole consumers get lost, fences are answered late or
not at all.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aegis_backends.nats.headers import Headers
from aegis_backends.nats.mirror import Action, Answer, Fence, Mirror, Renew, SetBack
from aegis_backends.nats.protocol import Message
from aegis_core.backend import Change, DeleteReason

PREFIX = "$KV.reg."
NANO = 1_000_000_000
KEYS = st.sampled_from(["a", "b", "c", "d"])


@attrs.frozen
class Stored:
    """One message of the stream."""

    key: str
    value: bytes
    headers: tuple[tuple[str, str], ...]

    @property
    def is_internal(self) -> bool:
        """Whether no user put it there."""
        return self.key.startswith("~")

    @property
    def is_deletion(self) -> bool:
        """Whether it says that its key is gone."""
        return any(name in ("KV-Operation", "Nats-Marker-Reason") for name, _ in self.headers)


class Stream:
    """The server's end: what it keeps, and all that it ever kept."""

    def __init__(self, first: int) -> None:
        self.last = first - 1
        self.kept: dict[int, Stored] = {}
        self.states: dict[int, dict[str, tuple[bytes, int]]] = {self.last: {}}

    def store(self, message: Stored) -> int:
        """Keep *message* in place of the one before it."""
        before = self.of(message.key)
        if before is not None:
            del self.kept[before]
        state = dict(self.states[self.last])
        self.last += 1
        self.kept[self.last] = message
        if not message.is_internal:
            state.pop(message.key, None)
            if not message.is_deletion:
                state[message.key] = (message.value, self.last)
        self.states[self.last] = state
        return self.last

    def of(self, key: str) -> int | None:
        """The revision of the last message of *key*."""
        return next((revision for revision, message in self.kept.items() if message.key == key), None)

    def after(self, revision: int) -> list[int]:
        """What is kept above *revision*, in order."""
        return [kept for kept in self.kept if kept > revision]


class Machine(RuleBasedStateMachine):
    """A server, a consumer of it, and the view that is fed."""

    def __init__(self) -> None:
        super().__init__()
        self.mirror = Mirror(PREFIX, self.tell)
        self.reader: dict[str, tuple[bytes, int]] = {}
        self.told_up_to = 0
        self.loads = 0
        self.turn = 0
        self.fences: list[tuple[int, int]] = []
        self.wanted = False

    @initialize(first=st.sampled_from([1, 5, 1_700_000_000_000_000]), keys=st.lists(KEYS, max_size=3))
    def begin(self, first: int, keys: list[str]) -> None:
        """A bucket, perhaps with something in it, and the first consumer."""
        self.stream = Stream(first)
        for key in keys:
            self.stream.store(Stored(key, b"before", ()))
        self.consume(fresh=True)

    def consume(self, *, fresh: bool) -> None:
        """Make another consumer."""
        self.mirror.begin(fresh=fresh)
        self.delivered = 0
        self.replicated: int | None = None
        self.position = max(0, self.mirror.resume_at - 1)
        self.act(self.mirror.began(len(self.stream.after(self.position))))

    def act(self, actions: Sequence[Action]) -> None:
        """Do what the view asks for; a fence is sent by a rule, some time later."""
        for action in actions:
            match action:
                case Fence():
                    self.wanted = True
                case Renew():
                    self.consume(fresh=self.mirror.loading)
                case Answer():
                    raise AssertionError("nobody asked")
                case SetBack():
                    raise AssertionError("nobody did")

    def tell(self, changes: Sequence[Change]) -> None:
        """Keep the view of a reader."""
        for change in changes:
            assert change.revision > self.told_up_to, "told in the order of revisions"
            self.told_up_to = change.revision
            if change.value is None:
                assert change.reason in DeleteReason
                self.reader.pop(change.key, None)
            else:
                self.reader[change.key] = (change.value, change.revision)

    # --- What happens to the bucket ---

    def headers(self, *more: tuple[str, str]) -> tuple[tuple[str, str], ...]:
        """Headers of one transaction."""
        return (("Aegis-Transaction", f"t{self.turn}"), *more)

    def forgotten(self, seconds: int) -> tuple[tuple[str, str], ...]:
        """Headers of a deletion."""
        return ("KV-Operation", "PURGE"), ("Nats-Rollup", "sub"), ("Nats-TTL", f"{seconds}s")

    @rule(key=KEYS, value=st.sampled_from([b"", b"1", b"2"]))
    def put(self, key: str, value: bytes) -> None:
        """One key is written."""
        self.turn += 1
        self.stream.store(Stored(key, value, self.headers()))

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        """One key is deleted."""
        self.turn += 1
        self.stream.store(Stored(key, b"", self.headers(*self.forgotten(600))))

    @rule(key=KEYS)
    def expire(self, key: str) -> None:
        """The TTL of a key ends: the server writes a marker."""
        if key in self.stream.states[self.stream.last]:
            self.stream.store(Stored(key, b"", (("Nats-Marker-Reason", "MaxAge"), ("Nats-TTL", "10m0s"))))

    @rule(keys=st.lists(KEYS, min_size=1, max_size=4, unique=True), gone=st.booleans(), check=st.booleans())
    def batch(self, keys: list[str], *, gone: bool, check: bool) -> None:
        """Several keys change together; a check travels with them."""
        self.turn += 1
        members = [Stored(f"~check.{self.turn}", b"", self.forgotten(2))] if check else []
        for at, key in enumerate(keys):
            if gone and at == 0:
                members.append(Stored(key, b"", self.headers(*self.forgotten(600))))
            else:
                members.append(Stored(key, b"%d" % self.turn, self.headers()))
        for number, member in enumerate(members, 1):
            place = [("Nats-Batch-Id", f"x{self.turn}"), ("Nats-Batch-Sequence", str(number))]
            if number == len(members):
                place.append(("Nats-Batch-Commit", "1"))
            self.stream.store(attrs.evolve(member, headers=(*member.headers, *place)))

    @rule(chance=st.integers(0, 10))
    def forget(self, chance: int) -> None:
        """The TTL of a deletion ends: it goes without a word. One of a user's key only after it was delivered."""
        gone = [
            revision
            for revision, message in self.stream.kept.items()
            if message.is_deletion and (message.is_internal or revision <= self.mirror.applied)
        ]
        if gone:
            del self.stream.kept[gone[chance % len(gone)]]

    # --- What happens to the consumer ---

    def waiting(self) -> list[int]:
        """What is left to deliver, as far as the consumer's server knows."""
        return [
            revision
            for revision in self.stream.after(self.position)
            if self.replicated is None or revision <= self.replicated
        ]

    @rule()
    def cut_off(self) -> None:
        """The consumer's server hears nothing more of what is stored."""
        self.replicated = self.stream.last if self.replicated is None else self.replicated

    @rule()
    def heal(self) -> None:
        """It takes over what is there."""
        self.replicated = None

    def next(self, lag: int) -> Message | None:
        """What the consumer delivers next; it counts up to *lag* too few as pending."""
        waiting = self.waiting()
        if not waiting:
            return None
        revision, self.delivered = waiting[0], self.delivered + 1
        self.position = revision
        stored = self.stream.kept[revision]
        pending = max(0, len(waiting) - 1 - lag)
        head = Headers(stored.headers).encode() if stored.headers else b""
        seconds = revision - min(self.stream.states)  # One for each that was stored.
        reply = f"$JS.ACK.KV_reg.c.1.{revision}.{self.delivered}.{seconds * NANO}.{pending}"
        return Message(f"{PREFIX}{stored.key}", 1, reply, stored.value, head)

    @rule(count=st.integers(1, 6), lag=st.integers(0, 2))
    def deliver(self, count: int, lag: int) -> None:
        """Some messages come."""
        for _ in range(count):
            message = self.next(lag)
            if message is not None:
                self.act(self.mirror.feed(message))

    @rule(lag=st.integers(0, 2))
    def deliver_twice(self, lag: int) -> None:
        """A message comes again: the consumer has lost its thread."""
        message = self.next(lag)
        if message is not None:
            self.act(self.mirror.feed(message))
            self.act(self.mirror.feed(message))
            assert self.delivered == 0, "another consumer was made"

    @rule()
    def lose(self) -> None:
        """A message goes astray between the server and us."""
        self.next(0)

    @rule()
    def heartbeat(self) -> None:
        """Only an idle consumer says that it is there."""
        if not self.waiting():
            head = Headers({"Nats-Last-Consumer": str(self.delivered)}).encode()
            head = head.replace(b"NATS/1.0", b"NATS/1.0 100 Idle Heartbeat")
            self.act(self.mirror.feed(Message("inbox", 1, "", b"", head)))

    @rule()
    def reconnect(self) -> None:
        """Another server, another consumer, which goes on; a snapshot that was not finished begins anew."""
        self.consume(fresh=self.mirror.loading)

    @rule()
    def reload(self) -> None:
        """After a long absence everything is read anew; deletions may have been forgotten meanwhile."""
        for revision in [revision for revision, message in self.stream.kept.items() if message.is_deletion]:
            del self.stream.kept[revision]
        self.consume(fresh=True)

    # --- Fences ---

    @rule()
    def send_fence(self) -> None:
        """One is stored: because it was asked for, or because somebody wants a barrier."""
        self.turn += 1
        sent = self.mirror.fence_sent()
        self.fences.append((sent, self.stream.store(Stored(f"~fence.{self.turn}", b"", self.forgotten(2)))))

    @precondition(lambda self: self.fences)
    @rule()
    def answer_fence(self) -> None:
        """Its sender learns its revision."""
        self.mirror.fence_stored(*self.fences.pop(0))

    @precondition(lambda self: self.fences)
    @rule()
    def lose_answer(self) -> None:
        """Or does not."""
        self.fences.pop(0)
        self.wanted = False
        self.act(self.mirror.fence_lost())

    # --- What holds ---

    def contents(self) -> dict[str, tuple[bytes, int]]:
        """What the view shows."""
        return {
            key: (record.change.value or b"", record.change.revision) for key, record in self.mirror.records.items()
        }

    @invariant()
    def level_view_is_the_bucket(self) -> None:
        """As it was at the view's revision, or later; with who wrote what, and what the server still knows of deletions."""
        if self.mirror.loads != self.loads:
            self.loads = self.mirror.loads
            self.reader = self.contents()
            self.told_up_to = max(self.told_up_to, self.mirror.applied)
        assert self.contents() == self.reader, "readers were told what the view shows"
        assert not self.mirror.records.keys() & self.mirror.graves.keys()
        if not self.mirror.level:
            return
        revision = self.mirror.revision
        assert revision <= self.stream.last
        contents = self.contents()
        # Later: what was there at that revision, and is gone, may have been forgotten with its end.
        assert any(contents == self.stream.states[at] for at in range(revision, self.stream.last + 1))
        for at, message in self.stream.kept.items():
            if at > revision or message.is_internal:
                continue
            if message.is_deletion:
                assert self.mirror.graves[message.key].last == at
            else:
                writer = dict(message.headers).get("Aegis-Transaction", "").encode()
                assert self.mirror.records[message.key].transaction == writer

    def teardown(self) -> None:
        """When nothing gets lost any more, the view comes level with the bucket as it is, though what it waits for expires."""
        if not hasattr(self, "stream"):
            return
        self.replicated = None
        for _ in range(4):
            while (message := self.next(0)) is not None:
                self.act(self.mirror.feed(message))
                self.stream.kept = {at: kept for at, kept in self.stream.kept.items() if not kept.is_internal}
            self.heartbeat()
            if self.wanted:
                self.wanted = False
                self.send_fence()
                self.mirror.fence_stored(*self.fences.pop())
        self.level_view_is_the_bucket()
        assert self.mirror.level
        assert self.contents() == self.stream.states[self.stream.last]


TestView = Machine.TestCase
TestView.settings = settings(max_examples=100, stateful_step_count=50)

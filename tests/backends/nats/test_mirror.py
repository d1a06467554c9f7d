"""The view of a bucket: what is told when, and when it is level."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from aegis_backends.nats.headers import Headers
from aegis_backends.nats.mirror import Answer, Fence, Mirror, Renew, SetBack
from aegis_backends.nats.protocol import Message
from aegis_core.backend import Change, DeleteReason

NANO = 1_000_000_000
PURGE = {"KV-Operation": "PURGE", "Nats-TTL": "600s"}
EXPIRED = {"Nats-Marker-Reason": "MaxAge", "Nats-TTL": "10m0s"}


class Consumer:
    """Feeds a mirror as a consumer does; `told` is what its readers got."""

    def __init__(self) -> None:
        self.told: list[Sequence[Change]] = []
        self.mirror = Mirror("$KV.reg.", self.told.append)
        self.delivered = 0

    def begin(self, *, fresh: bool = True, pending: int = 0) -> Sequence[object]:
        """Another consumer."""
        self.delivered = 0
        self.mirror.begin(fresh=fresh)
        return self.mirror.began(pending)

    def say(
        self, key: str, revision: int, value: bytes = b"v", pending: int = 0, *, stored_at: int = 0, **headers: str
    ) -> Sequence[object]:
        """Deliver one message."""
        self.delivered += 1
        return self.mirror.feed(message(key, revision, self.delivered, value, pending, headers, stored_at or revision))

    def fence(self, revision: int) -> None:
        """Store a fence and deliver it."""
        self.mirror.fence_stored(self.mirror.fence_sent(), revision)
        self.say(f"~fence.{revision}", revision, b"", **tagged(PURGE))

    def heartbeat(self, **headers: str) -> Sequence[object]:
        """Say that there is nothing to say."""
        head = Headers({"Nats-Last-Consumer": str(self.delivered), **named(headers)}).encode()
        return self.mirror.feed(Message("inbox", 1, "", b"", head.replace(b"NATS/1.0", b"NATS/1.0 100 Idle Heartbeat")))

    def load(self) -> None:
        """An empty bucket, level at revision 10: the first fence comes after a gap itself."""
        self.begin()
        self.fence(9)
        assert not self.mirror.level
        self.fence(10)
        assert self.mirror.level
        assert self.mirror.revision == 10


def tagged(headers: dict[str, str]) -> dict[str, str]:
    """Headers as arguments."""
    return {name.replace("-", "_"): value for name, value in headers.items()}


def named(arguments: dict[str, str]) -> dict[str, str]:
    """And back."""
    return {name.replace("_", "-"): value for name, value in arguments.items()}


def message(
    key: str, revision: int, number: int, value: bytes, pending: int, headers: dict[str, str], stored_at: int
) -> Message:
    """A message as a consumer delivers it."""
    head = Headers(named(headers)).encode() if headers else b""
    reply = f"$JS.ACK.KV_reg.c.1.{revision}.{number}.{stored_at * NANO}.{pending}"
    return Message(f"$KV.reg.{key}", 1, reply, value, head)


def test_snapshot_is_shown_when_a_fence_proves_it_whole() -> None:
    """Not at its last message: what was overwritten meanwhile may be missing until then."""
    consumer = Consumer()
    assert consumer.begin(pending=2) == ()
    assert consumer.say("a", 3, pending=1) == ()
    assert consumer.say("b", 7) == (Fence(),)
    assert not consumer.mirror.level
    assert consumer.mirror.loading
    assert consumer.mirror.records == {}
    consumer.fence(8)
    assert consumer.mirror.level
    assert (consumer.mirror.revision, consumer.mirror.applied, consumer.mirror.loads) == (8, 8, 1)
    assert list(consumer.mirror.records) == ["a", "b"]
    assert consumer.told == []


def test_empty_bucket_needs_a_fence_too() -> None:
    """Its revision is what the view is level at."""
    consumer = Consumer()
    assert consumer.begin() == (Fence(),)
    consumer.load()
    assert repr(consumer.mirror) == "<Mirror of 0 keys, level at 10>"


def test_every_message_in_step_is_level() -> None:
    """Pending or not: nothing was left out."""
    consumer = Consumer()
    consumer.load()
    assert consumer.say("a", 11, pending=5) == ()
    assert consumer.mirror.behind
    assert (consumer.mirror.level, consumer.mirror.revision) == (True, 11)
    assert consumer.told == [(Change("a", b"v", 11),)]


def test_gap_is_healed_by_a_fence_sent_after_it() -> None:
    """One that was sent before proves nothing, wherever it was stored."""
    consumer = Consumer()
    consumer.load()
    early = consumer.mirror.fence_sent()
    assert consumer.say("a", 13) == (Fence(),)
    consumer.mirror.fence_stored(early, 14)
    assert consumer.say("~fence.14", 14, b"") == ()
    assert (consumer.mirror.level, consumer.mirror.revision) == (False, 10)
    consumer.fence(15)
    assert (consumer.mirror.level, consumer.mirror.revision) == (True, 15)


def test_gap_before_the_fence_voids_it() -> None:
    """Another one is asked for; it may have been delivered before its sender was told."""
    consumer = Consumer()
    consumer.load()
    consumer.say("a", 13)
    sent = consumer.mirror.fence_sent()
    consumer.mirror.fence_stored(sent, 16)
    assert consumer.say("~fence.16", 16, b"") == (Fence(),)
    assert not consumer.mirror.level
    sent = consumer.mirror.fence_sent()
    consumer.say("~fence.17", 17, b"")
    assert not consumer.mirror.level
    consumer.mirror.fence_stored(sent, 17)
    assert (consumer.mirror.level, consumer.mirror.revision) == (True, 17)


def test_lost_fence_is_asked_for_again() -> None:
    """For as long as it is wanted."""
    consumer = Consumer()
    consumer.load()
    assert consumer.mirror.fence_lost() == ()
    consumer.say("a", 13)
    assert consumer.mirror.fence_lost() == (Fence(),)


def test_heartbeat_proves_nothing() -> None:
    """Who sends it may be cut off from the leader: another fence is asked for, as one may have been forgotten on its way."""
    consumer = Consumer()
    consumer.load()
    assert consumer.say("a", 13) == (Fence(),)
    for _ in range(2):
        assert consumer.heartbeat() == (Fence(),)
        assert (consumer.mirror.level, consumer.mirror.revision) == (False, 10)
    consumer.fence(14)
    assert consumer.heartbeat() == ()
    assert (consumer.mirror.level, consumer.mirror.revision) == (True, 14)


def test_snapshot_whose_end_was_forgotten_is_shown_by_a_fence() -> None:
    """The last message said that one is pending: a fence, whose TTL ended before it was delivered."""
    consumer = Consumer()
    consumer.begin(pending=2)
    assert consumer.say("a", 3, pending=1) == ()
    assert consumer.heartbeat() == (Fence(),)
    consumer.fence(6)
    assert not consumer.mirror.level
    consumer.fence(7)
    assert (consumer.mirror.level, consumer.mirror.revision) == (True, 7)
    assert list(consumer.mirror.records) == ["a"]
    consumer.begin(pending=1)
    assert consumer.heartbeat() == (Fence(),)


def test_stalled_consumer_is_answered() -> None:
    """It waits for a word of ours; so does one that asks whether we keep pace."""
    consumer = Consumer()
    consumer.load()
    assert consumer.heartbeat(Nats_Consumer_Stalled="$JS.FC.x") == (Answer("$JS.FC.x"),)
    asked = Message("inbox", 1, "$JS.FC.y", b"", b"NATS/1.0 100 FlowControl Request\r\n\r\n")
    assert consumer.mirror.feed(asked) == (Answer("$JS.FC.y"),)
    assert consumer.mirror.feed(Message("inbox", 1, "", b"", b"NATS/1.0 409 Something\r\n\r\n")) == ()


def test_message_that_is_missing_ends_the_consumer() -> None:
    """Whether the next one shows it, or a heartbeat."""
    for lost in (lambda c: c.heartbeat(), lambda c: c.say("b", 12)):
        consumer = Consumer()
        consumer.load()
        consumer.delivered += 1
        (action,) = lost(consumer)
        assert isinstance(action, Renew)


def test_view_goes_on_with_the_next_consumer() -> None:
    """From where it was; a snapshot that was not finished begins anew."""
    consumer = Consumer()
    consumer.load()
    consumer.begin(fresh=False)
    consumer.say("a", 11)
    assert (consumer.mirror.level, consumer.mirror.revision) == (True, 11)
    consumer.begin(pending=1)
    assert not consumer.mirror.level
    with pytest.raises(AssertionError):
        consumer.begin(fresh=False)
    consumer.begin(pending=1)
    consumer.say("b", 20)
    assert list(consumer.mirror.records) == ["a"]
    consumer.fence(21)
    assert list(consumer.mirror.records) == ["b"]
    assert consumer.mirror.loads == 2


def test_consumer_that_goes_on_repeats_some_messages() -> None:
    """Which are told once; and what was stored later under one of their revisions is of a bucket that was set back."""
    consumer = Consumer()
    consumer.load()
    for revision in (11, 12):
        consumer.say(f"k{revision}", revision)
    told = len(consumer.told)
    assert consumer.mirror.resume_at == 1
    consumer.begin(fresh=False, pending=3)
    assert consumer.say("k11", 11, pending=2) == ()
    assert consumer.say("k12", 12, pending=1) == ()
    assert (len(consumer.told), consumer.mirror.behind) == (told, True)
    assert consumer.say("k13", 13) == ()
    assert (len(consumer.told), consumer.mirror.level, consumer.mirror.revision) == (told + 1, True, 13)
    consumer.begin(fresh=False, pending=2)
    assert consumer.say("k11", 11, pending=1) == ()
    assert consumer.say("other", 12, stored_at=20) == (SetBack(),)
    assert len(consumer.told) == told + 1
    consumer.say("far", 5000)
    assert consumer.mirror.resume_at == 5001 - 256


def test_what_only_looks_like_a_batch_is_not_held() -> None:
    """Another writer's message, with such a header and without an id; and of one batch, no more than a server takes."""
    consumer = Consumer()
    consumer.load()
    for revision, headers in ((11, {"Nats_Batch_Sequence": "1"}), (12, {"Nats_Batch_Id": ""})):
        consumer.say("single", revision, **headers)
        assert consumer.told[-1][0].revision == revision
    for revision in range(13, 13 + 1000):
        assert consumer.mirror.applied == 12
        consumer.say(f"k{revision}", revision, Nats_Batch_Id="endless")
    assert (consumer.mirror.applied, len(consumer.told[-1])) == (1012, 1000)


def test_transaction_is_told_whole() -> None:
    """When its last message has come; with its checks, which are no changes."""
    consumer = Consumer()
    consumer.load()
    consumer.say("~check.1", 11, b"", 2, Nats_Batch_Id="x", Nats_Batch_Sequence="1")
    consumer.say("a", 12, b"1", 1, Nats_Batch_Id="x", Nats_Batch_Sequence="2")
    assert (consumer.told, consumer.mirror.revision) == ([], 10)
    consumer.say("b", 13, b"1", 0, Nats_Batch_Id="x", Nats_Batch_Sequence="3", Nats_Batch_Commit="1")
    assert consumer.told == [[Change("a", b"1", 12), Change("b", b"1", 13)]]
    assert consumer.mirror.revision == 13


@pytest.mark.parametrize("next_one", ["plain", "batch", "heartbeat"])
def test_transaction_whose_end_was_overwritten_is_told_by_what_comes_next(next_one: str) -> None:
    """Another message, another batch, or that nothing comes."""
    consumer = Consumer()
    consumer.load()
    consumer.say("a", 11, b"1", 0, Nats_Batch_Id="x", Nats_Batch_Sequence="1")
    match next_one:
        case "plain":
            consumer.say("b", 13)
        case "batch":
            consumer.say("b", 13, b"2", 0, Nats_Batch_Id="y", Nats_Batch_Sequence="1")
        case _:
            consumer.heartbeat()
    assert consumer.told[0] == [Change("a", b"1", 11)]


def test_ends_of_keys_are_remembered() -> None:
    """With who is to find them applied: who deleted the key, or who had put what expired."""
    consumer = Consumer()
    consumer.load()
    mirror = consumer.mirror
    consumer.say("a", 11, b"1", Aegis_Transaction="t1")
    assert mirror.records["a"].transaction == b"t1"
    consumer.say("a", 12, b"", Aegis_Transaction="t2", **tagged(PURGE))
    assert consumer.told[-1] == (Change("a", None, 12, DeleteReason.DELETED),)
    grave = mirror.graves["a"]
    assert (grave.last, grave.transaction, grave.revision, grave.until) == (12, b"t2", 12, 612 * NANO)
    consumer.say("b", 13, b"1", Aegis_Transaction="t3")
    consumer.say("b", 14, b"", **tagged(EXPIRED))
    assert consumer.told[-1] == (Change("b", None, 14, DeleteReason.EXPIRED),)
    grave = mirror.graves["b"]
    assert (grave.last, grave.transaction, grave.revision) == (14, b"t3", 13)
    consumer.say("a", 15, b"")
    assert consumer.told[-1] == (Change("a", b"", 15),)
    assert "a" not in mirror.graves


def test_markers_without_a_past_are_kept() -> None:
    """Of a key that was never seen, and of one that was gone already."""
    consumer = Consumer()
    consumer.load()
    consumer.say("a", 11, b"", **tagged(EXPIRED))
    assert consumer.mirror.graves["a"].transaction == b""
    consumer.say("b", 12, b"", Aegis_Transaction="t", KV_Operation="DEL")
    assert consumer.mirror.graves["b"].until == 0
    consumer.say("b", 13, b"", **tagged(EXPIRED))
    grave = consumer.mirror.graves["b"]
    assert (grave.last, grave.transaction, grave.revision) == (13, b"t", 12)


def test_forgotten_ends_are_forgotten_here() -> None:
    """The oldest first, when the server says that it knows none; what it still knows is recalled."""
    consumer = Consumer()
    consumer.load()
    mirror = consumer.mirror
    consumer.say("a", 11, b"", **tagged(PURGE))
    consumer.say("b", 12, b"", **tagged(PURGE))
    assert mirror.forget_oldest(["a", "b", "c"])
    assert set(mirror.graves) == {"b"}
    assert mirror.recall("a", Headers({"Aegis-Transaction": "t"}), 11)
    assert mirror.graves["a"].transaction == b"t"
    assert not mirror.recall("a", Headers(), 11)
    assert not mirror.forget_oldest(["c"])


@pytest.mark.parametrize("ttl", ["9" * 5000, "9" * 5000 + "h", "9" * 5000 + "m1s", "\N{DEVANAGARI DIGIT NINE}" * 5000])
def test_ttl_that_is_no_number_of_ours_is_none(ttl: str) -> None:
    """Anybody can send such a header, and what reads it must not raise."""
    consumer = Consumer()
    consumer.load()
    consumer.say("a", 11)
    consumer.say("a", 12, b"", KV_Operation="PURGE", Nats_TTL=ttl)
    assert consumer.mirror.graves["a"].until == 0
    assert consumer.mirror.revision == 12


def test_graves_do_not_pile_up() -> None:
    """What the server has forgotten for a while is swept."""
    consumer = Consumer()
    consumer.load()
    for number in range(11, 5011):
        consumer.say(f"k.{number}", number, b"", **tagged(PURGE))
    assert len(consumer.mirror.graves) < 2500
    assert "k.5010" in consumer.mirror.graves


def test_deletion_by_a_stranger_is_told_whatever_its_headers_are() -> None:
    """What is no text in them is kept as it came."""
    consumer = Consumer()
    consumer.load()
    consumer.say("a", 11)
    head = b"NATS/1.0\r\nNats-TTL:\xff\r\nAegis-Transaction: \xff\r\nKV-Operation:DEL\r\n\r\n"
    consumer.mirror.feed(Message("$KV.reg.a", 1, "$JS.ACK.s.c.1.12.4.0.0", b"", head))
    assert consumer.told[-1] == (Change("a", None, 12, DeleteReason.DELETED),)
    grave = consumer.mirror.graves["a"]
    assert (grave.transaction, grave.until) == (b"\xff", 0)


def test_stranger_who_publishes_to_the_inbox_is_not_believed() -> None:
    """Neither about the bucket, nor about what to publish."""
    consumer = Consumer()
    consumer.load()
    forged = Message("inbox", 1, f"$JS.ACK.KV_reg.c.1.{1 << 62}.{consumer.delivered + 1}.0.0", b"v")
    assert consumer.mirror.feed(forged) == ()
    assert (consumer.mirror.level, consumer.mirror.revision) == (True, 10)
    purge = "$JS.API.STREAM.PURGE.KV_reg"
    assert consumer.mirror.feed(Message("inbox", 1, purge, b"", b"NATS/1.0 100 FlowControl Request\r\n\r\n")) == ()
    assert consumer.heartbeat(Nats_Consumer_Stalled=purge) == ()
    consumer.say("a", 11)
    assert consumer.mirror.revision == 11

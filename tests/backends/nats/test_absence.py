"""Consumers on servers that are cut off from the bucket's leader: what they say is no proof of anything.

It is one file, past 400 lines, because all of its tests need the cluster that it plays.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from aegis_backends.nats import store as store_module
from aegis_backends.nats.absence import LONGEST, Absence
from aegis_backends.nats.bucket import BucketSettings, new_config
from aegis_backends.nats.connection import open_connection
from aegis_backends.nats.protocol import Message, Publish, Subscribe
from aegis_backends.nats.store import NatsStore, open_store
from aegis_backends.nats.watch import Watch
from aegis_core.backend import (
    ABSENT,
    Change,
    Feed,
    Indeterminate,
    Put,
    Resync,
    StoreUnavailable,
    Synced,
    Transaction,
)
from tests.backends.nats.polling import until
from tests.backends.nats.scripted import INFO, Client, open_scripted
from tests.backends.nats.shifted import ShiftedClock

NO_MESSAGE: dict[str, object] = {"error": {"code": 404, "err_code": 10037, "description": "no message found"}}
SETTINGS = BucketSettings(name="cut", replicas=3)


@attrs.define(eq=False)
class Cluster:
    """Three servers, played by one: their bucket, and what the one that the client reaches knows of it.

    Args:
        contents: Keys and revisions, as the leader has them.
        leader: Its name; "" while the client's server is cut off, and so knows of none.
        places: Where the next consumers are made; the last of them again and again.
        made: The configuration of each consumer.
        fences: How many were asked for.
        is_stalled: The consumer's server hears nothing new, and says that there is nothing; the next consumer's does.
        withheld: How many of the last messages the next consumer does not deliver.
        generation: What is under the key that names the bucket's history, where that is there.
        old_answers: How often one that was the leader before still answers what the bucket is.
        old_names: How often one answers that knows of no such name.
    """

    contents: dict[str, int] = attrs.Factory(lambda: {"kept": 101, "ghost": 102})
    last: int = 102
    leader: str = "n1"
    places: list[str] = attrs.Factory(lambda: ["n1"])
    made: list[dict[str, object]] = attrs.Factory(list)
    fences: int = 0
    is_stalled: bool = False
    old_answers: int = 0
    old_names: int = 0
    withheld: int = 0
    generation: bytes = b""
    client: Client | None = None
    sid: int = 0
    inbox: str = ""
    delivered: int = 0

    async def serve(self, client: Client) -> None:
        """Deal with the client."""
        self.client = client
        await client.log_in(**INFO)
        while True:
            event = await client.receive()
            if isinstance(event, Subscribe):
                self.sid, self.inbox, self.delivered = event.sid, event.subject, -1
            elif isinstance(event, Publish):
                await self._told(event)

    async def _told(self, event: Publish) -> None:
        operation = event.subject.removeprefix("$JS.API.")
        if operation == "INFO":
            await self._answer(event, {"api": {"level": 4}})
        elif operation.startswith("STREAM.INFO"):
            config = new_config(SETTINGS, 100)
            peers = [{"name": "n2", "current": True}, {"name": "n3", "current": False}]
            cluster = {"leader": self.leader, "replicas": peers}
            last = self.last if self.leader and not self.old_answers else 50
            self.old_answers = max(0, self.old_answers - 1)
            await self._answer(
                event, {"config": config, "created": "then", "state": {"last_seq": last}, "cluster": cluster}
            )
        elif operation.startswith("CONSUMER.CREATE"):
            config = json.loads(event.payload)["config"]
            self.made.append(config)
            self.is_stalled = False
            place = self.places.pop(0) if len(self.places) > 1 else self.places[0]
            start = config.get("opt_start_seq", 0)
            waiting = [(key, revision) for key, revision in self.contents.items() if revision >= start]
            self.delivered = 0
            await self._answer(event, {"num_pending": len(waiting), "cluster": {"leader": place}})
            coming = waiting[: len(waiting) - self.withheld]
            for left, (key, revision) in zip(range(len(waiting) - 1, -1, -1), coming, strict=False):
                await self._deliver(key, revision, left)
        elif operation.startswith("STREAM.MSG.GET"):
            subject = json.loads(event.payload)["last_by_subj"]
            assert subject == "$KV.cut.~generation"
            told = {"subject": subject, "seq": self.contents.get("~generation"), "time": "", "hdrs": ""}
            message = {**told, "data": base64.b64encode(self.generation).decode()}
            is_there = "~generation" in self.contents and not self.old_names
            self.old_names = max(0, self.old_names - 1)
            await self._answer(event, {"message": message} if is_there else NO_MESSAGE)
        elif event.subject.startswith("$KV.cut."):
            key = event.subject.removeprefix("$KV.cut.")
            self.fences += key.startswith("~")
            if not self.leader:
                await self._answer(event, {"error": {"code": 503, "err_code": 10008, "description": "no leader"}})
                return
            self.last += 1
            if key == "~generation":
                self.generation = event.payload
            if not key.startswith("~") or key == "~generation":
                self.contents[key] = self.last
            await self._answer(event, {"stream": SETTINGS.stream, "seq": self.last})
            if not self.is_stalled:
                await self._deliver(key, self.last, 0)

    async def beat(self) -> None:
        """Say what a consumer that lives says, all the time."""
        while True:
            await trio.sleep(0.2)
            if self.client is not None and self.delivered >= 0 and not self.client.lock.locked():
                await self.client.say(self.heartbeat())

    async def _answer(self, event: Publish, answer: dict[str, object]) -> None:
        assert self.client is not None
        await self.client.say(Message(event.reply, 1, "", json.dumps(answer).encode()))

    async def _deliver(self, key: str, revision: int, pending: int) -> None:
        assert self.client is not None
        self.delivered += 1
        reply = f"$JS.ACK.KV_cut.c.1.{revision}.{self.delivered}.{revision}.{pending}"
        value = self.generation if key == "~generation" else b"v"
        await self.client.say(Message(f"$KV.cut.{key}", self.sid, reply, value))

    def heartbeat(self) -> Message:
        """What the consumer says when it has nothing to say."""
        head = f"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: {self.delivered}\r\n\r\n"
        return Message(self.inbox, self.sid, "", b"", head.encode())


@asynccontextmanager
async def open_cluster(cluster: Cluster, clock: ShiftedClock) -> AsyncIterator[NatsStore]:
    """A store on *cluster*."""
    with trio.fail_after(60):
        async with (
            open_scripted(cluster.serve) as url,
            open_connection([url]) as connection,
            trio.open_nursery() as nursery,
            open_store(connection, SETTINGS, clock=clock, random=random.Random(1)) as store,
        ):
            nursery.start_soon(cluster.beat)
            yield store
            nursery.cancel_scope.cancel()


def hear(watch: Watch, message: Message) -> None:
    """Let *watch* receive *message* as its consumer's, alone in what was read."""
    watch._receive(message)
    watch._settle()


def told(batch: Sequence[Change | Synced | Resync]) -> list[str]:
    """The keys that *batch* tells of."""
    return [item.key for item in batch if isinstance(item, Change)]


async def snapshot(feed: Feed) -> Sequence[Change | Synced | Resync]:
    """The next snapshot that *feed* tells."""
    while True:
        batch = await feed.receive()
        if isinstance(batch[0], Resync):
            return batch


async def test_consumer_that_was_cut_off_for_long_is_not_believed() -> None:
    """It says all the time that there is nothing new; but nobody knows any more what was deleted meanwhile."""
    cluster, clock = Cluster(), ShiftedClock()
    async with open_cluster(cluster, clock) as store, store.watch() as feed:
        assert told(await feed.receive()) == ["kept", "ghost"]
        cluster.leader = ""
        del cluster.contents["ghost"]
        watch, begun = store._watch, len(cluster.made)
        for clock.ahead in (0.4 * LONGEST, 0.9 * LONGEST):
            hear(watch, cluster.heartbeat())
            assert not watch._life.cancel_called
        asked = cluster.fences
        await until(lambda: cluster.fences > asked)  # which nobody stores
        hear(watch, cluster.heartbeat())
        clock.ahead = 1.1 * LONGEST
        hear(watch, cluster.heartbeat())
        assert watch._life.cancel_called
        # What a server without a leader tells of the bucket is not believed, either.
        await until(lambda: watch.mirror.loads == 1 and watch._life.cancel_called)
        assert len(cluster.made) == begun
        cluster.leader = "n1"
        batch = await snapshot(feed)
        assert "deletions may have been missed" in next(it.reason for it in batch if isinstance(it, Resync))
        assert told(batch) == ["kept"]
        assert watch.recounts == 1


async def test_view_that_nothing_is_committed_to_is_proven_whole_by_a_fence() -> None:
    """One in a while; and no other while it is only a consumer that says that nothing is new."""
    cluster, clock = Cluster(), ShiftedClock()
    async with open_cluster(cluster, clock) as store:
        watch, begun, sent = store._watch, len(cluster.made), cluster.fences
        for ahead in (0.4, 0.9):
            clock.ahead += ahead * LONGEST
            hear(watch, cluster.heartbeat())
            await until(lambda: watch._absence.seconds(clock.now()) < 10)
        assert clock.ahead > LONGEST
        assert cluster.fences == sent + 2
        assert len(cluster.made) == begun
        assert watch.mirror.loads == 1


async def test_commits_prove_the_view_whole() -> None:
    """Whoever renews a lease sends no fence for it."""
    cluster, clock = Cluster(), ShiftedClock()
    async with open_cluster(cluster, clock) as store:
        watch, sent = store._watch, cluster.fences
        for turn in range(4):
            clock.ahead += 0.3 * LONGEST
            hear(watch, cluster.heartbeat())
            await store.commit(Transaction(f"t{turn}", [Put(f"k{turn}", b"v", ABSENT)]))
            await until(lambda: watch._absence.seconds(clock.now()) < 10)
        assert cluster.fences == sent
        assert watch.mirror.loads == 1


async def test_consumer_that_does_not_show_what_was_stored_is_left() -> None:
    """It says all the time that there is nothing new; what was acknowledged says that there is. The view goes on elsewhere."""
    cluster, clock = Cluster(), ShiftedClock()
    async with open_cluster(cluster, clock) as store, store.watch() as feed:
        assert told(await feed.receive()) == ["kept", "ghost"]
        watch, begun = store._watch, len(cluster.made)
        cluster.is_stalled = True
        await store.commit(Transaction("t1", [Put("new", b"v", ABSENT)]))
        clock.ahead = 4.0
        hear(watch, cluster.heartbeat())
        assert not watch._is_lost()
        clock.ahead = 6.0
        hear(watch, cluster.heartbeat())
        assert watch._is_lost()
        while "new" not in told(await feed.receive()):
            pass
        assert len(cluster.made) == begun + 1
        assert watch.mirror.loads == 1


async def test_snapshot_is_read_from_no_server_whose_copy_is_old() -> None:
    """By the leader's word: the consumer is made again until it is elsewhere."""
    cluster = Cluster(places=["n3", "n3", "n2"])
    async with open_cluster(cluster, ShiftedClock()) as store:
        assert [config["deliver_policy"] for config in cluster.made] == ["last_per_subject"] * 3
        assert len({config["name"] for config in cluster.made}) == 3
        assert list(store._watch.mirror.records) == ["kept", "ghost"]


@pytest.mark.parametrize(("is_set_back", "recounts"), [(False, 1), (True, 2)], ids=["it was not", "it was"])
async def test_that_a_bucket_was_set_back_is_proven_by_a_fence(is_set_back: bool, recounts: int) -> None:  # noqa: FBT001
    """A leader of before that has just been woken says so, too; then the view goes on."""
    cluster = Cluster()
    async with open_cluster(cluster, ShiftedClock()) as store, store.watch() as feed:
        assert told(await feed.receive()) == ["kept", "ghost"]
        watch, made = store._watch, len(cluster.made)
        if is_set_back:
            cluster.contents, cluster.last = {"kept": 40}, 40
        else:
            cluster.old_answers = 1
        watch._end_life()
        await until(lambda: len(cluster.made) > made and watch.mirror.level and not watch.mirror.behind)
        assert watch.recounts == recounts
        assert watch.mirror.loads == recounts
        await store.commit(Transaction("t1", [Put("new", b"v", ABSENT)]))
        batch = await feed.receive()
        if recounts == 2:
            first = batch[0]
            assert isinstance(first, Resync)
            assert (first.recounted, len(batch)) == (True, 1)
            assert "set back" in first.reason
        while "new" not in told(batch):
            batch = await feed.receive()


@pytest.mark.parametrize(("name", "recounts"), [(b"", 1), (b"another", 2)], ids=["the same", "another"])
async def test_history_of_another_name_is_no_continuation(name: bytes, recounts: int) -> None:
    """Although the bucket has come past what the view knew, and nothing is left that is both old and unknown."""
    cluster = Cluster()
    async with open_cluster(cluster, ShiftedClock()) as store, store.watch() as feed:
        assert told(await feed.receive()) == ["kept", "ghost"]
        watch, made = store._watch, len(cluster.made)
        cluster.contents, cluster.last, cluster.generation = {"new": 900}, 900, name
        if name:
            cluster.contents = {"~generation": 80, "new": 900}
        watch._end_life()
        await until(lambda: len(cluster.made) > made and watch.mirror.level and not watch.mirror.behind)
        assert (watch.recounts, watch.mirror.named) == (recounts, name)
        assert list(watch.mirror.records) == (["new"] if name else ["kept", "ghost", "new"])
        assert watch.mirror.generation.startswith("then")
        assert (watch.mirror.generation == "then") == (name == b"")


@pytest.mark.parametrize("ahead", [None, 0.0, 1.1 * LONGEST], ids=["has just begun", "goes on", "was read anew"])
async def test_name_of_a_history_that_comes_late_is_a_proof_too(ahead: float | None) -> None:
    """Whoever looked before somebody else had proof goes on with the wrong view until then; who knows nothing of before does not."""
    cluster, clock = Cluster(), ShiftedClock()
    async with open_cluster(cluster, clock) as store, store.watch() as feed:
        assert told(await feed.receive()) == ["kept", "ghost"]
        watch, made = store._watch, len(cluster.made)
        goes_on = ahead is not None
        if ahead is not None:
            clock.ahead = ahead
            watch._end_life()
            await until(lambda: len(cluster.made) > made and watch.mirror.level and not watch.mirror.behind)
            assert watch.mirror.loads == 1 + (ahead > 0)
        if ahead:
            assert told(await snapshot(feed)) == ["kept", "ghost"]
        cluster.generation, cluster.last = b"another", cluster.last + 1
        cluster.contents["~generation"] = cluster.last
        await cluster._deliver("~generation", cluster.last, 0)
        if goes_on:
            (first,) = await snapshot(feed)
            assert isinstance(first, Resync)
            assert first.recounted
            assert told(await feed.receive()) == ["kept", "ghost"]
        else:
            await until(lambda: watch.mirror.named == b"another")
            last = (await feed.receive())[-1]
            assert last == Synced(watch.mirror.revision, watch.mirror.generation)
        assert (watch.mirror.named, watch.recounts) == (b"another", 1 + goes_on)


async def test_name_that_a_former_leader_does_not_know_is_not_gone() -> None:
    """Nor that one who leads by now has yet to learn: it is asked again behind a fence."""
    cluster = Cluster(contents={"~generation": 100, "kept": 101}, generation=b"second")
    async with open_cluster(cluster, ShiftedClock()) as store, store.watch() as feed:
        assert told(await feed.receive()) == ["kept"]
        watch, made = store._watch, len(cluster.made)
        cluster.old_names = 1
        watch._end_life()
        await until(lambda: len(cluster.made) > made and watch.mirror.level and not watch.mirror.behind)
        assert (cluster.old_names, watch.recounts, watch.mirror.named) == (0, 1, b"second")


async def test_name_that_went_with_a_set_back_is_followed_by_another() -> None:
    """Nobody deletes it; and who knows the history from before that name was put would take this one for it."""
    cluster = Cluster(contents={"~generation": 100, "kept": 101}, generation=b"second")
    async with open_cluster(cluster, ShiftedClock()) as store, store.watch() as feed:
        assert told(await feed.receive()) == ["kept"]
        watch = store._watch
        cluster.contents, cluster.last = {"new": 900}, 900
        watch._end_life()
        await until(lambda: watch.recounts == 2 and watch.mirror.level)
        assert watch.mirror.named == cluster.generation
        assert watch.mirror.named not in {b"", b"second"}


async def test_name_is_nothing_but_told_apart_whatever_was_put_there() -> None:
    """By whoever may write to the bucket: what is told of it has a few plain characters."""
    cluster, found = Cluster(contents={"~generation": 100, "kept": 101}), set()
    for name in (b"set back by hand", b"x" * 1000, b"\xff\x00\r\n", b"plain"):
        cluster.generation = name
        async with open_cluster(cluster, ShiftedClock()) as store:
            found.add(store._watch.mirror.generation)
    assert len(found) == 4
    assert all(name.startswith("then~") and len(name) < 30 and name.isprintable() for name in found)
    assert all(name.isascii() and " " not in name for name in found)


async def test_bucket_that_is_set_back_while_it_is_read_anew_is_noticed() -> None:
    """By what the view showed before that; what had been read until then is part of no view."""
    cluster, clock = Cluster(), ShiftedClock()
    async with open_cluster(cluster, clock) as store, store.watch() as feed:
        assert told(await feed.receive()) == ["kept", "ghost"]
        watch, made = store._watch, len(cluster.made)
        cluster.withheld = 1
        clock.ahead = 1.1 * LONGEST
        await until(lambda: len(cluster.made) > made and watch.mirror.applied == 101)
        assert watch.mirror.loading
        cluster.contents, cluster.last, cluster.withheld = {"new": 40}, 40, 0
        watch._end_life()
        batch = await snapshot(feed)
        first = batch[0]
        assert isinstance(first, Resync)
        assert (first.recounted, len(batch)) == (True, 1)
        assert (told(await feed.receive()), watch.recounts) == (["new"], 2)


async def test_another_name_is_noticed_while_the_bucket_is_read_anew() -> None:
    """By the one that the view had before that, as revisions prove nothing any more."""
    cluster, clock = Cluster(), ShiftedClock()
    async with open_cluster(cluster, clock) as store, store.watch() as feed:
        assert told(await feed.receive()) == ["kept", "ghost"]
        watch, made = store._watch, len(cluster.made)
        cluster.withheld = 1
        clock.ahead = 1.1 * LONGEST
        await until(lambda: len(cluster.made) > made and watch.mirror.applied == 101)
        assert watch.mirror.loading
        cluster.contents, cluster.last, cluster.withheld = {"~generation": 800, "new": 900}, 900, 0
        cluster.generation = b"another"
        watch._end_life()
        (first,) = await snapshot(feed)
        assert isinstance(first, Resync)
        assert first.recounted
        assert (told(await feed.receive()), watch.recounts) == (["new"], 2)


async def test_barrier_that_is_lower_than_what_is_known_proves_that_the_bucket_was_set_back() -> None:
    """Whoever waits for it would wait for nothing; and readers are told before anything else gives it away."""
    cluster = Cluster()
    async with open_cluster(cluster, ShiftedClock()) as store, store.watch() as feed:
        assert told(await feed.receive()) == ["kept", "ghost"]
        cluster.is_stalled = True
        cluster.contents, cluster.last = {"kept": 40}, 40
        with pytest.raises(StoreUnavailable, match="set back"):
            await store.sync()
        (first,) = await snapshot(feed)
        assert isinstance(first, Resync)
        assert first.recounted
        assert told(await feed.receive()) == ["kept"]
        assert await store.sync() < 100
        assert store._watch.recounts == 2


async def test_load_that_breaks_off_is_no_reason_to_give_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Although the next one is where that was, when somebody looks: at the beginning, say."""
    async with open_cluster(Cluster(), ShiftedClock()) as store:
        watch, looks = store._watch, 0

        async def look() -> None:
            nonlocal looks
            looks += 1
            if looks == 1:
                watch.mirror.begin(fresh=True)
                watch.mirror._applied = 101
                watch._end_life()
                await until(lambda: watch.mirror.level)
                await trio.sleep_forever()

        monkeypatch.setattr(store_module, "_LOAD_WITHIN", 1.0)
        monkeypatch.setattr(watch, "wait_loaded", look)
        await store.wait_loaded()
        assert looks == 2


async def test_what_was_sent_to_the_bucket_of_before_is_no_revision_of_this_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its acknowledgement says nothing of what the view has to show, nor of what was done."""
    cluster, clock = Cluster(), ShiftedClock()
    async with open_cluster(cluster, clock) as store:
        watch, sender = store._watch, store._commits._sender
        await until(lambda: watch._absence.seconds(clock.now()) < 10)
        earlier = clock.now() - 1.0
        watch._forget_revisions("set back")
        watch.acknowledge(10**9, sent_at=earlier)
        watch._stored(10**9, earlier)
        assert (watch.acknowledged, watch._absence._awaited) == (0, None)
        send = sender.send

        async def send_late(transaction: Transaction, expected: Sequence[int]) -> int:
            last = await send(transaction, expected)
            watch._forget_revisions("set back")
            return last

        monkeypatch.setattr(sender, "send", send_late)
        with pytest.raises(Indeterminate, match="set back"):
            await store.commit(Transaction("t1", [Put("new", b"v", ABSENT)]))


async def test_what_keeps_a_bucket_from_being_read_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """An old copy, say, wherever a consumer is made."""
    monkeypatch.setattr(store_module, "_LOAD_WITHIN", 0.5)
    refused = pytest.RaisesExc(StoreUnavailable, match="nothing of it came; n3 has an old copy of it")
    with pytest.RaisesGroup(refused, flatten_subgroups=True):
        async with open_cluster(Cluster(places=["n3"]), ShiftedClock()):
            raise AssertionError("it was read")


def test_absence_ends_when_the_view_shows_what_was_sent() -> None:
    """And begins when that was sent, not when it was shown."""
    absence = Absence(1000.0)
    absence.shown(7)
    assert absence.seconds(1010.0) == 10.0
    absence.stored(8, 1020.0, 1021.0)
    absence.stored(9, 1030.0, 1031.0)
    absence.shown(7)
    assert absence.seconds(1040.0) == 40.0
    absence.shown(8)
    assert absence.seconds(1040.0) == 20.0
    assert repr(absence) == "<Absence since 1020.0>"


def test_proof_is_wanted_long_before_it_is_too_late() -> None:
    """Not while one is on its way."""
    absence = Absence(0.0)
    assert not absence.wants_proof(0.3 * LONGEST)
    assert absence.wants_proof(0.4 * LONGEST)
    assert not absence.too_long(LONGEST)
    absence.stored(8, 100.0, 101.0)
    assert not absence.wants_proof(0.9 * LONGEST)
    assert absence.too_long(1.1 * LONGEST)
    absence.begin(2 * LONGEST)
    absence.shown(8)
    assert absence.seconds(2 * LONGEST) == 0.0

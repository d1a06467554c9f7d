"""A reader of the view: what it is told when the bucket was read anew, whoever comes to say so."""

from __future__ import annotations

import trio

from aegis_backends.nats.feed import NatsFeed
from aegis_core.backend import Change, Resync, Synced
from tests.backends.nats.test_mirror import Consumer


async def told_first(consumer: Consumer) -> NatsFeed:
    """A feed that has been told of the bucket with one key, at revision 11."""
    consumer.load()
    feed = NatsFeed(consumer.mirror, 0)
    consumer.mirror._tell = feed.offer
    consumer.say("a", 11)
    assert await feed.receive() == [Change("a", b"v", 11), Synced(11)]
    return feed


def read_anew(consumer: Consumer) -> None:
    """The whole bucket is read again: one key is another one."""
    consumer.mirror.begin(fresh=True, why="for a reason")
    consumer.delivered = 0
    consumer.say("b", 20)
    consumer.fence(21)


async def test_what_was_read_anew_is_told_as_a_whole() -> None:
    """Although nobody has told the feed, and something has changed since: no view is level without it."""
    consumer = Consumer()
    feed = await told_first(consumer)
    read_anew(consumer)
    consumer.say("c", 22)
    changes = [Change("b", b"v", 20), Change("c", b"v", 22)]
    assert await feed.receive() == [Resync("for a reason"), *changes, Synced(22)]
    consumer.say("d", 23)
    assert await feed.receive() == [Change("d", b"v", 23), Synced(23)]


async def test_reader_is_told_once_that_the_bucket_counts_anew() -> None:
    """Before anything is read anew, and alone; one that has been told nothing yet needs not know."""
    consumer = Consumer()
    feed = await told_first(consumer)
    later = NatsFeed(consumer.mirror, 1000)
    consumer.mirror.begin(fresh=True, why="for a reason")
    for each in (feed, later):
        each.forget_revisions("set back")
    assert await feed.receive() == [Resync("set back", recounted=True)]
    for each in (feed, later):
        with trio.move_on_after(0.01) as nothing_yet:
            await each.receive()
        assert nothing_yet.cancelled_caught
    read_anew(consumer)
    snapshot = [Change("b", b"v", 20), Synced(21)]
    assert await feed.receive() == snapshot
    assert await later.receive() == snapshot
    read_anew(consumer)
    first, *_ = await feed.receive()
    assert isinstance(first, Resync)
    assert not first.recounted
    with trio.move_on_after(0.01) as nothing:
        await feed.receive()
    assert nothing.cancelled_caught

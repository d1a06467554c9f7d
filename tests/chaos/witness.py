"""A watch of a bucket that no node has a part in: what the store wrote, in the store's own order."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Literal

import attrs
import trio

from aegis_backends.nats.batch import MARKER, is_deletion
from aegis_backends.nats.connection import open_connection
from aegis_backends.nats.jetstream import JetStream, parse_delivery
from aegis_backends.nats.opening import read_address
from aegis_backends.nats.protocol import Message
from aegis_core.config import parse_backend

__all__ = ["Seen", "Witness", "open_witness"]

_PATIENCE: Final = 60.0


@attrs.frozen(kw_only=True)
class Seen:
    """A message of the bucket.

    Args:
        revision: Its place in the order of all messages.
        at: When the server stored it, seconds since 1970.
        key: What it is about.
        what: Written, deleted by a client, or deleted by the server because its TTL ended.
    """

    revision: int
    at: float
    key: str
    what: Literal["put", "deleted", "expired"]


class Witness:
    """What was seen so far. Made by `open_witness`."""

    def __init__(self, prefix: str) -> None:
        self.seen: list[Seen] = []
        self._prefix = prefix
        self._moved = trio.Event()

    def __repr__(self) -> str:
        return f"<Witness of {len(self.seen)} messages>"

    def receive(self, message: Message) -> None:
        """Take a message in."""
        place = parse_delivery(message.reply)
        if place is None:
            return
        what: Literal["put", "deleted", "expired"] = "put"
        if is_deletion(message.headers, message.payload):
            what = "expired" if MARKER in message.headers else "deleted"
        key = message.subject.removeprefix(self._prefix)
        self.seen.append(Seen(revision=place.stream, at=place.stored_at / 1e9, key=key, what=what))
        self._moved.set()
        self._moved = trio.Event()

    async def up_to(self, revision: int) -> list[Seen]:
        """All that was written up to *revision*, once that was seen."""
        with trio.fail_after(_PATIENCE):
            while not self.seen or self.seen[-1].revision < revision:
                await self._moved.wait()
        return [it for it in self.seen if it.revision <= revision]


@asynccontextmanager
async def open_witness(url: str) -> AsyncIterator[Witness]:
    """Watch the bucket of *url*, which exists, from now on and while the block runs. It does not outlive its server."""
    settings = read_address(parse_backend(url))
    chance = random.Random()
    name = f"witness-{chance.getrandbits(64):016x}"
    inbox = f"_INBOX.{name}"
    async with open_connection(settings.servers, settings.options) as connection:
        witness = Witness(settings.bucket.prefix)
        jetstream = JetStream(connection, random=chance)
        async with connection.listen(inbox, witness.receive):
            consumer = {
                "name": name,
                "deliver_subject": inbox,
                "deliver_policy": "new",
                "ack_policy": "none",
                "max_deliver": 1,
                "replay_policy": "instant",
                "mem_storage": True,
                "num_replicas": 1,
            }
            await jetstream.create_consumer(settings.bucket.stream, consumer)
            yield witness
            jetstream.delete_consumer(settings.bucket.stream, name)

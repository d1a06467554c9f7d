"""Answers of JetStream that make no sense: each is an error that callers know, and none ends a connection."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from aegis_backends.nats.bucket import BucketSettings
from aegis_backends.nats.connection import open_connection
from aegis_backends.nats.jetstream import JetStream, JetStreamError, parse_acknowledgement
from aegis_backends.nats.limits import read_entry
from aegis_backends.nats.protocol import Message
from aegis_core.errors import StoreUnavailable
from tests.backends.nats.processes import ServerProcess

DEEP = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
LONG = b'{"seq":' + b"9" * 5000 + b"}"
SETTINGS = BucketSettings(name="hostile")


@asynccontextmanager
async def open_jetstream(server: ServerProcess, answer: bytes) -> AsyncIterator[JetStream]:
    """Requests that a pretender answers."""

    def reply(message: Message) -> None:
        """Answer a request."""
        pretender.publish(message.reply, answer)

    async with (
        open_connection([server.url]) as pretender,
        pretender.listen("$JS.API.>", reply),
        open_connection([server.url]) as connection,
    ):
        await pretender.flush()
        yield JetStream(connection, random=random.Random(1))


def stored(**fields: object) -> bytes:
    """An answer with a message."""
    return json.dumps({"message": {"subject": "$KV.hostile.a", "seq": 1, **fields}}).encode()


@pytest.mark.parametrize("payload", [DEEP, LONG, b"\xff", b"[]"], ids=["deep", "long", "no text", "no object"])
def test_acknowledgement_that_is_none_is_an_error(payload: bytes) -> None:
    """Whatever the parser of JSON makes of it."""
    with pytest.raises(JetStreamError, match="an answer that is no"):
        parse_acknowledgement(payload)


@pytest.mark.parametrize(
    "last", ["9" * 5000, "\N{DEVANAGARI DIGIT NINE}", "", "-1"], ids=["long", "other", "none", "-"]
)
def test_revision_that_is_none_is_not_told(last: str) -> None:
    """In words that an error ends with."""
    assert JetStreamError(status=400, number=10071, description=f"wrong last sequence: {last}").last == -1


def test_revision_is_told() -> None:
    """As the server does."""
    assert JetStreamError(status=400, number=10071, description="wrong last sequence: 17").last == 17


@pytest.mark.parametrize(
    "answer",
    [
        DEEP,
        LONG,
        stored(data="x"),
        stored(hdrs="\xff"),
        stored(time="soon", hdrs="TkFUUy8xLjANCk5hdHMtVFRMOiA5DQoNCg=="),
    ],
    ids=["deep", "long", "no base64", "no ascii", "no time"],
)
async def test_message_that_is_none_is_no_answer(shared_server: ServerProcess, answer: bytes) -> None:
    """To whoever reads a key."""
    async with open_jetstream(shared_server, answer) as jetstream:
        with pytest.raises(StoreUnavailable):
            await read_entry(jetstream, SETTINGS, "a")


async def test_time_without_an_offset_is_utc(shared_server: ServerProcess) -> None:
    """An entry of long ago is about to end."""
    answer = stored(time="2020-01-01T00:00:00", hdrs="TkFUUy8xLjANCk5hdHMtVFRMOiA5DQoNCg==")
    async with open_jetstream(shared_server, answer) as jetstream:
        entry = await read_entry(jetstream, SETTINGS, "a")
    assert entry is not None
    assert entry.ttl_left == 0.001

"""What the history of a bucket is called: the same for all who read it, and another one once it turned out to be set back.

A bucket that was restored goes on from an earlier revision, and who comes back late finds it past what it knew, perhaps
with every message gone that could tell. So whoever has proof puts a new name under a key that is there for this alone.
Of several who have proof at the same time, one does; to the others that name is what they wanted to put.
"""

from __future__ import annotations

from typing import Final

import trio

from aegis_backends.nats.batch import GENERATION, generation
from aegis_backends.nats.bucket import BucketSettings
from aegis_backends.nats.connection import Connection
from aegis_backends.nats.jetstream import WRONG_LAST, JetStream, JetStreamError, parse_acknowledgement
from aegis_core.backend import StoreUnavailable

__all__ = ["name_generation", "read_generation"]

_ANSWER_WITHIN: Final = 3.0


async def read_generation(jetstream: JetStream, bucket: BucketSettings) -> tuple[bytes, int]:
    """The name, as the leader knows it, and its revision; nothing and 0 where the bucket was never set back.

    Raises:
        NatsError, StoreUnavailable: No answer, or none that can be read.
    """
    found = await jetstream.last_message(bucket.stream, bucket.prefix + GENERATION)
    return (b"", 0) if found is None else (found.payload, found.sequence)


async def name_generation(connection: Connection, bucket: BucketSettings, name: str, last: int) -> None:
    """Put *name*, unless somebody else has put one after *last*, the revision of what `read_generation` found.

    Raises:
        NatsError, StoreUnavailable: It may not have been stored.
    """
    message = generation(bucket.prefix, name.encode(), last)
    try:
        answer = await connection.request(
            message.subject, message.payload, headers=message.head, timeout=_ANSWER_WITHIN
        )
        parse_acknowledgement(answer.payload)
    except trio.TooSlowError:
        raise StoreUnavailable(reason=f"no answer within {_ANSWER_WITHIN:g} s") from None
    except JetStreamError as exc:
        if exc.number != WRONG_LAST:
            raise

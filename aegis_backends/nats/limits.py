"""What a bucket can hold, and what is under one key of it: the same for every store on a bucket."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from aegis_backends.nats.batch import MARKER_TTL, is_deletion, ttl_seconds
from aegis_backends.nats.bucket import BucketSettings
from aegis_backends.nats.errors import NatsError
from aegis_backends.nats.jetstream import JetStream, StreamInfo
from aegis_core.backend import Capabilities, Entry, StoreUnavailable
from aegis_core.validation import is_key

__all__ = ["capabilities", "read_entry"]

# What a message of a bucket has beside the value: the headers, with an id of full length.
_HEADERS: Final = 1024


def capabilities(bucket: StreamInfo, max_payload: int, *, max_transaction: int) -> Capabilities:
    """The limits of a store on *bucket*, on a server that takes *max_payload* bytes."""
    largest = bucket.config.get("max_msg_size")
    if isinstance(largest, int) and 0 < largest < max_payload:
        max_payload = largest
    return Capabilities(
        min_ttl=1.0,
        ttl_resolution=1.0,
        max_transaction=max_transaction,
        max_value=max(1, max_payload - _HEADERS),
        settle_for=float(MARKER_TTL),
        durable=bucket.config.get("storage") == "file",
    )


async def read_entry(jetstream: JetStream, settings: BucketSettings, key: str) -> Entry | None:
    """What the leader of the bucket says is under *key*.

    Raises:
        StoreUnavailable: No answer, or none that can be read.
    """
    if not is_key(key):
        return None
    try:
        found = await jetstream.last_message(settings.stream, settings.prefix + key)
    except NatsError as exc:
        raise StoreUnavailable(reason=exc.message) from exc
    if found is None or is_deletion(found.headers, found.payload):
        return None
    ttl = ttl_seconds(found.headers.get("Nats-TTL", ""))
    if ttl:
        try:
            stored_at = datetime.fromisoformat(found.stored_at)
        except ValueError as exc:
            raise StoreUnavailable(reason=f"the server does not tell when {key!r} was stored: {exc}") from exc
        # RFC 3339 has an offset; one that is missing is as good as UTC.
        age = (datetime.now(UTC) - (stored_at if stored_at.tzinfo else stored_at.replace(tzinfo=UTC))).total_seconds()
        return Entry(found.payload, found.sequence, min(max(0.001, ttl - age), ttl))
    return Entry(found.payload, found.sequence)

"""What a bucket can hold, and what is under one key of it: the same for every store on a bucket."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Final

from aegis_backends.nats.batch import MARKER_TTL, is_deletion, named, ttl_seconds
from aegis_backends.nats.bucket import BucketSettings
from aegis_backends.nats.errors import NatsError
from aegis_backends.nats.jetstream import JetStream, StreamInfo
from aegis_core.backend import Capabilities, Entry, Put, StoreUnavailable, Transaction

__all__ = ["capabilities", "check_transaction", "read_entry"]

_KEY: Final = re.compile(r"[A-Za-z0-9_=/-]+(?:\.[A-Za-z0-9_=/-]+)*")
_MAX_KEY: Final = 3500
_MAX_ID: Final = 256
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


def check_transaction(transaction: Transaction, limits: Capabilities) -> None:
    """Refuse what no state of a store with these *limits* could take.

    Raises:
        ValueError: Says what.
    """
    count = len(transaction.operations)
    if count > limits.max_transaction:
        raise ValueError(f"a transaction has at most {limits.max_transaction} operations, this one {count}")
    if not 0 < len(named(transaction.id)) <= _MAX_ID:
        raise ValueError(f"a transaction's id has 1 to {_MAX_ID} characters, this one {len(transaction.id)}")
    for op in transaction.operations:
        key = op.key
        if len(key) > _MAX_KEY or not _KEY.fullmatch(key):
            raise ValueError(f"{key[:80]!r} is not a key: tokens of A-Z a-z 0-9 _ = / - joined by dots")
        if isinstance(op, Put):
            if len(op.value) > limits.max_value:
                raise ValueError(f"a value has at most {limits.max_value} bytes, that of {key!r} {len(op.value)}")
            if op.ttl is not None and not limits.min_ttl <= op.ttl < math.inf:
                raise ValueError(f"a TTL is at least {limits.min_ttl:g} s, that of {key!r} {op.ttl:g}")


async def read_entry(jetstream: JetStream, settings: BucketSettings, key: str) -> Entry | None:
    """What the leader of the bucket says is under *key*.

    Raises:
        StoreUnavailable: No answer, or none that can be read.
    """
    if not _KEY.fullmatch(key):
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

"""The store of messages, which routers share: a bucket of its own, which nobody mirrors.

Its keys are many and live for minutes, and each is of interest to the one or two routers that a message came to. So there
is no view here: an expectation is sent as it is, and only where the server refuses it is the key read, from the leader.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

import attrs
import trio

from aegis_backends.nats.batch import TRANSACTION, fence, is_check, is_deletion, revisions
from aegis_backends.nats.bucket import BucketSettings, ensure_bucket
from aegis_backends.nats.connection import Connection, ConnectionState
from aegis_backends.nats.errors import NatsError
from aegis_backends.nats.jetstream import IN_FLIGHT, WRONG_LAST, JetStream, JetStreamError, parse_acknowledgement
from aegis_backends.nats.limits import capabilities, read_entry
from aegis_backends.nats.sending import Sender, refused
from aegis_core.backend import (
    ABSENT,
    ANY,
    Capabilities,
    Conflict,
    Entry,
    Feed,
    Operation,
    StoreUnavailable,
    Transaction,
)
from aegis_core.validation import validate_transaction

__all__ = ["MessageStore", "messages_bucket", "open_messages"]

_COMMIT_WITHIN: Final = 10.0
_PAUSE: Final = 0.005
_FENCE_WITHIN: Final = 3.0


def messages_bucket(registry: BucketSettings) -> BucketSettings:
    """The bucket of messages beside *registry*: kept as that one is, and silent about what expires."""
    return attrs.evolve(registry, name=f"{registry.name}-messages", marker_ttl=0)


class MessageStore:
    """See `aegis_core.backend.Store`: transactions of one operation, and no watch. Made by `open_messages`.

    What is deleted is better left to its TTL: the revision of a deletion must not be expected afterwards.

    Args:
        connection: The client.
        settings: Which bucket.
        random: Where names and jitter come from.
    """

    def __init__(self, connection: Connection, settings: BucketSettings, *, random: random.Random) -> None:
        self._connection = connection
        self._settings = settings
        self._jetstream = JetStream(connection, random=random)
        self._sender = Sender(connection, settings.prefix, random=random)
        self._random = random
        self._capabilities = Capabilities()
        self._closed = False

    def __repr__(self) -> str:
        return f"<MessageStore on bucket {self._settings.name!r}>"

    async def prepare(self) -> None:
        """Make sure of the bucket, and learn its limits. Comes first.

        Raises:
            ConfigError: It cannot be used; says what to do.
            StoreUnavailable: No answer.
        """
        bucket = await ensure_bucket(self._jetstream, self._settings, version=self._connection.server.version)
        self._capabilities = capabilities(bucket, self._connection.max_payload, max_transaction=1)

    @property
    def capabilities(self) -> Capabilities:
        """One operation in a transaction; TTLs are whole seconds."""
        return self._capabilities

    async def commit(self, transaction: Transaction) -> tuple[int, ...]:
        """Apply *transaction*; see `aegis_core.backend.Store.commit`. Cancelled, its fate is open.

        Raises:
            Conflict: The expectation did not hold; nothing was changed.
            Indeterminate: There was no answer; repeat.
            StoreUnavailable: There is no server, or no leader; nothing was stored.
            ValueError: No state of the store could take it.
        """
        validate_transaction(transaction, self._capabilities)
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_usable()
        (op,) = transaction.operations
        expected = max(op.expect, 0)
        give_up_at = trio.current_time() + _COMMIT_WITHIN
        while trio.current_time() < give_up_at:
            try:
                return revisions(transaction, await self._sender.send(transaction, (expected,)))
            except JetStreamError as exc:
                if exc.number not in (IN_FLIGHT, WRONG_LAST):
                    raise refused(exc) from exc
                refusal = exc
            if refusal.number == IN_FLIGHT:
                await trio.sleep(_PAUSE * self._random.random())
                continue
            last, settled = await self._look(op, transaction.id)
            if settled:
                return (last,)
            expected = last
        raise StoreUnavailable(reason=f"others kept changing {op.key!r} for {_COMMIT_WITHIN:g} s")

    async def _look(self, op: Operation, transaction: str) -> tuple[int, bool]:
        """The last revision of the key of *op*, and whether that is the work of *transaction* itself.

        Raises:
            Conflict: The key is not as it is expected.
            StoreUnavailable: No answer.
        """
        try:
            found = await self._jetstream.last_message(self._settings.stream, self._settings.prefix + op.key)
        except NatsError as exc:
            raise StoreUnavailable(reason=exc.message) from exc
        last = 0 if found is None else found.sequence
        if found is not None and found.headers.get(TRANSACTION) == transaction and not is_check(op):
            return last, True
        gone = found is None or is_deletion(found.headers, found.payload)
        if op.expect not in (ANY, ABSENT if gone else last):
            raise Conflict(key=op.key)
        return last, False

    async def sync(self) -> int:
        """The revision of a message that is stored now and changes nothing.

        Raises:
            StoreUnavailable: It could not be stored, or there was no answer.
        """
        await trio.lowlevel.checkpoint()
        self._check_usable()
        message = fence(self._settings.prefix, f"{self._random.getrandbits(128):032x}")
        try:
            answer = await self._connection.request(
                message.subject, message.payload, headers=message.head, timeout=_FENCE_WITHIN
            )
            return parse_acknowledgement(answer.payload).sequence
        except trio.TooSlowError:
            raise StoreUnavailable(reason=f"no answer within {_FENCE_WITHIN:g} s") from None
        except NatsError as exc:
            raise StoreUnavailable(reason=exc.message) from exc

    def watch(self) -> AbstractAsyncContextManager[Feed]:
        """There is none.

        Raises:
            StoreUnavailable: Always.
        """
        raise StoreUnavailable(reason="messages cannot be watched")

    async def get(self, key: str) -> Entry | None:
        """What the leader of the bucket says is under *key*.

        Raises:
            StoreUnavailable: No answer.
        """
        await trio.lowlevel.checkpoint()
        self._check_usable()
        return await read_entry(self._jetstream, self._settings, key)

    def close(self) -> None:
        """End this store: it answers no more."""
        self._closed = True

    def _check_usable(self) -> None:
        if self._closed:
            raise StoreUnavailable(reason="the store of messages has been left")
        if self._connection.state is not ConnectionState.CONNECTED:
            raise StoreUnavailable(reason="there is no connection to a NATS server now")


@asynccontextmanager
async def open_messages(
    connection: Connection, registry: BucketSettings, *, random: random.Random
) -> AsyncIterator[MessageStore]:
    """The store of messages beside the bucket *registry*; its bucket is made if it is not there.

    Raises:
        ConfigError: The bucket cannot be used; says what to do.
        StoreUnavailable: No answer.
    """
    store = MessageStore(connection, messages_bucket(registry), random=random)
    await store.prepare()
    try:
        yield store
    finally:
        store.close()

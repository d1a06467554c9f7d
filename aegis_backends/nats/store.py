"""The store on a bucket: commits by expectation, one watch, read barriers. What each is, its own module says."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

import trio

from aegis_backends.nats.background import open_background
from aegis_backends.nats.bucket import BucketSettings, ensure_bucket
from aegis_backends.nats.commits import Commits
from aegis_backends.nats.connection import Connection, ConnectionState
from aegis_backends.nats.jetstream import JetStream, StreamInfo
from aegis_backends.nats.limits import capabilities, read_entry
from aegis_backends.nats.watch import Watch
from aegis_core.backend import Capabilities, Clock, Entry, Feed, StoreUnavailable, Transaction, TrioClock
from aegis_core.validation import validate_transaction

__all__ = ["NatsStore", "open_store"]

_LOAD_WITHIN: Final = 30.0


class NatsStore:
    """See `aegis_core.backend.Store`. Made by `open_store`.

    Args:
        connection: The client.
        settings: Which bucket.
        inbox_prefix: What the subjects begin with that this user may subscribe to.
        clock: What absences are measured by.
        random: Where names and jitter come from.
    """

    def __init__(
        self,
        connection: Connection,
        settings: BucketSettings,
        *,
        inbox_prefix: str = "_INBOX",
        clock: Clock | None = None,
        random: random.Random,
    ) -> None:
        self._connection = connection
        self._settings = settings
        self._jetstream = JetStream(connection, random=random)
        self._watch = Watch(
            connection,
            self._jetstream,
            settings,
            check=self._check,
            inbox_prefix=inbox_prefix,
            clock=clock or TrioClock(),
            random=random,
        )
        self._commits = Commits(connection, self._jetstream, self._watch, settings, random=random)
        self._capabilities = Capabilities()
        self._closed = False

    def __repr__(self) -> str:
        return f"<NatsStore on bucket {self._settings.name!r}, {self._watch.mirror!r}>"

    async def prepare(self) -> None:
        """Make sure of the bucket, and learn its limits. Comes first.

        Raises:
            ConfigError: It cannot be used; says what to do.
            StoreUnavailable: No answer.
        """
        self._capabilities = capabilities(await self._check(), self._connection.max_payload, max_transaction=1000)

    @property
    def capabilities(self) -> Capabilities:
        """The limits of the store: TTLs are whole seconds."""
        return self._capabilities

    async def commit(self, transaction: Transaction) -> tuple[int, ...]:
        """Apply *transaction*; see `aegis_core.backend.Store.commit`.

        Cancelled, its fate is open, as when it raises `Indeterminate`: the server may store it even much later.

        Raises:
            Conflict: An expectation did not hold; nothing was changed.
            Indeterminate: There was no answer; repeat.
            StoreUnavailable: There is no server, or no leader; nothing was stored.
            ValueError: No state of the store could take it.
        """
        validate_transaction(transaction, self._capabilities)
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_usable()
        return await self._commits.commit(transaction)

    async def sync(self) -> int:
        """A read barrier: the revision of a message that was sent after this call and changes nothing.

        Raises:
            StoreUnavailable: It could not be stored, or there was no answer; or the bucket turned out to be set back.
        """
        await trio.lowlevel.checkpoint()
        self._check_usable()
        return await self._watch.barrier()

    def watch(self) -> AbstractAsyncContextManager[Feed]:
        """A feed of the whole bucket; all feeds of a store share one watch of the server."""
        return self._watch.open_feed()

    async def get(self, key: str) -> Entry | None:
        """What the leader of the bucket says is under *key*.

        Raises:
            StoreUnavailable: No answer.
        """
        await trio.lowlevel.checkpoint()
        self._check_usable()
        return await read_entry(self._jetstream, self._settings, key)

    async def run(self) -> None:
        """Do what has to be done all the time, until cancelled. `prepare` comes first."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch.fences.run)
            nursery.start_soon(self._watch.send_wanted_fences)
            nursery.start_soon(self._watch.run)

    async def wait_loaded(self) -> None:
        """Wait until the whole bucket has been read.

        Raises:
            PermissionDenied: The server does not let us.
            StoreUnavailable: For 30 s nothing of it came.
        """
        while True:
            so_far = self._progress()
            with trio.move_on_after(_LOAD_WITHIN):
                await self._watch.wait_loaded()
                return
            if self._progress() == so_far:
                why = f"; {self._watch.obstacle}" if self._watch.obstacle else ""
                raise StoreUnavailable(
                    reason=f"the bucket could not be read: for {_LOAD_WITHIN:g} s nothing of it came{why}"
                )

    def _progress(self) -> tuple[int, int]:
        """What differs when anything of the bucket came meanwhile: also if that broke off, and begins anew."""
        return self._watch.broken_loads, self._watch.mirror.applied

    def close(self) -> None:
        """End this store: its feeds close, and it answers no more."""
        self._closed = True
        self._watch.close()

    def _check_usable(self) -> None:
        if self._closed:
            raise StoreUnavailable(reason="the NATS backend has been left")
        if self._connection.state is not ConnectionState.CONNECTED:
            raise StoreUnavailable(reason="there is no connection to a NATS server now")

    async def _check(self) -> StreamInfo:
        return await ensure_bucket(self._jetstream, self._settings, version=self._connection.server.version)


@asynccontextmanager
async def open_store(
    connection: Connection,
    settings: BucketSettings,
    *,
    inbox_prefix: str = "_INBOX",
    clock: Clock | None = None,
    random: random.Random,
) -> AsyncIterator[NatsStore]:
    """The store on a bucket, which is made if it is not there; whole as soon as the block begins.

    Args:
        connection: The client, connected.
        settings: Which bucket.
        inbox_prefix: What the subjects begin with that this user may subscribe to.
        clock: What absences are measured by.
        random: Where names and jitter come from.

    Raises:
        ConfigError: The bucket cannot be used; says what to do.
        StoreUnavailable: No answer.
    """
    store = NatsStore(connection, settings, inbox_prefix=inbox_prefix, clock=clock, random=random)
    await store.prepare()
    async with open_background() as nursery:
        nursery.start_soon(store.run)
        try:
            await store.wait_loaded()
            yield store
        finally:
            store.close()

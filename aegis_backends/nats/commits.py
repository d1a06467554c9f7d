"""How a transaction gets into a bucket, once.

A commit is one publish of one message, or of one atomic batch. What each message has to expect is looked up in the
view, which may be behind; a refusal is therefore judged anew after a read barrier, and only what does not hold then is a
`Conflict`. As every message expects something, a transaction can be sent again and again and is stored once: this is how
one is settled whose answer was lost. That it was stored is seen by its id, which every message bears, and which the view
remembers for keys that are gone.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

import trio

from aegis_backends.nats.batch import revisions, settled_revisions
from aegis_backends.nats.bucket import BucketSettings
from aegis_backends.nats.connection import Connection
from aegis_backends.nats.errors import NatsError
from aegis_backends.nats.jetstream import IN_FLIGHT, WRONG_LAST, JetStream, JetStreamError
from aegis_backends.nats.sending import Sender, refused
from aegis_backends.nats.watch import Watch
from aegis_core.backend import ABSENT, ANY, Conflict, Indeterminate, Put, StoreUnavailable, Transaction

__all__ = ["Commits"]

_COMMIT_WITHIN: Final = 10.0
_PAUSE: Final = 0.005


class Commits:
    """Commits transactions that fit the store's limits.

    Args:
        connection: The client.
        jetstream: Requests over it.
        watch: The view, and how to wait for it.
        settings: Which bucket.
        random: Where names and jitter come from.
    """

    def __init__(
        self,
        connection: Connection,
        jetstream: JetStream,
        watch: Watch,
        settings: BucketSettings,
        *,
        random: random.Random,
    ) -> None:
        self._jetstream = jetstream
        self._watch = watch
        self._settings = settings
        self._random = random
        self._sender = Sender(connection, settings.prefix, random=random)
        # The revision of what was put here, and by which transaction: acknowledged before the watch told it.
        self._own: dict[str, tuple[int, str]] = {}
        self._recounts = watch.recounts

    def __repr__(self) -> str:
        return f"<Commits to bucket {self._settings.name!r} by {self._sender!r}>"

    async def commit(self, transaction: Transaction) -> tuple[int, ...]:
        """Apply *transaction*; see `aegis_core.backend.Store.commit`. Cancelled, its fate is open.

        Raises:
            Conflict: An expectation did not hold; nothing was changed.
            Indeterminate: There was no answer; repeat.
            StoreUnavailable: There is no server, or no leader; nothing was stored.
        """
        fresh = False
        give_up_at = trio.current_time() + _COMMIT_WITHIN
        while trio.current_time() < give_up_at:
            if self._recounts != self._watch.recounts:
                self._recounts = self._watch.recounts
                self._own.clear()
            settled = self._settled(transaction)
            if settled is not None:
                await trio.lowlevel.checkpoint()
                return settled
            self._forget_own()
            failed = self._failed(transaction)
            if failed is not None and fresh:
                raise Conflict(key=failed)
            if failed is not None:
                await self._watch.catch_up()
                fresh = True
                continue
            expected = self._expected(transaction)
            sent_at, recounts = self._watch.now(), self._watch.recounts
            try:
                last = await self._sender.send(transaction, expected)
            except JetStreamError as exc:
                if exc.number not in (IN_FLIGHT, WRONG_LAST):
                    raise refused(exc) from exc
                refusal = exc
            else:
                if self._watch.recounts != recounts:
                    # A revision of the bucket as it was is not one of the bucket as it is.
                    raise Indeterminate(reason="the bucket was set back meanwhile")
                self._watch.acknowledge(last, sent_at=sent_at)
                return self._acknowledged(transaction, last)
            if refusal.number == IN_FLIGHT:
                await trio.sleep(_PAUSE * self._random.random())
            else:
                await self._watch.catch_up()
                await self._learn(transaction, expected, refusal.last)
                fresh = True
        raise StoreUnavailable(reason=f"others kept changing the same keys for {_COMMIT_WITHIN:g} s")

    def _settled(self, transaction: Transaction) -> tuple[int, ...] | None:
        """The revisions of *transaction*, if the view or an acknowledgement shows that it was applied."""
        mirror, mine = self._watch.mirror, transaction.id.encode()
        for op in transaction.operations:
            own = self._own.get(op.key)
            if own is not None and own[1] == transaction.id:
                return settled_revisions(transaction, op.key, own[0])
            record = mirror.records.get(op.key)
            if record is not None:
                if record.transaction == mine:
                    return settled_revisions(transaction, op.key, record.change.revision)
            elif (grave := mirror.graves.get(op.key)) is not None and grave.transaction == mine:
                return settled_revisions(transaction, op.key, grave.revision)
        return None

    def _failed(self, transaction: Transaction) -> str | None:
        """The first key that is not known to be as it is expected. The view may be behind.

        A revision that is expected must be known to be a put's: to the server, a deletion's would do as well.
        """
        records = self._watch.mirror.records
        for op in transaction.operations:
            if op.expect != ANY and op.expect != self._unseen(op.key):
                record = records.get(op.key)
                if op.expect != (ABSENT if record is None else record.change.revision):
                    return op.key
        return None

    def _acknowledged(self, transaction: Transaction, last: int) -> tuple[int, ...]:
        """Note what *transaction* put, until the view shows it; returns its revisions."""
        found = revisions(transaction, last)
        for op, revision in zip(transaction.operations, found, strict=True):
            self._own.pop(op.key, None)
            if isinstance(op, Put):
                self._own[op.key] = (revision, transaction.id)
        return found

    def _unseen(self, key: str) -> int | None:
        """The revision of *key* that was acknowledged here, if the view shows neither it nor a later one yet."""
        own = self._own.get(key)
        return None if own is None or own[0] <= self._watch.mirror.applied else own[0]

    def _forget_own(self) -> None:
        """Drop what the view shows by now, or most of it: acknowledgements may come in another order than revisions."""
        own, applied = self._own, self._watch.mirror.applied
        while own and (first := next(iter(own.items())))[1][0] <= applied:
            del own[first[0]]

    def _expected(self, transaction: Transaction) -> list[int]:
        """What the server is to expect as the last message of each key; deletions are messages, too."""
        mirror = self._watch.mirror
        expected = []
        for op in transaction.operations:
            if op.expect > ABSENT:
                expected.append(op.expect)
            elif op.expect == ANY and (unseen := self._unseen(op.key)) is not None:
                expected.append(unseen)
            elif op.expect == ANY and (record := mirror.records.get(op.key)) is not None:
                expected.append(record.change.revision)
            else:
                grave = mirror.graves.get(op.key)
                expected.append(0 if grave is None else grave.last)
        return expected

    async def _learn(self, transaction: Transaction, expected: Sequence[int], last: int) -> None:
        """Find out why the server refused *expected*, in case the view does not tell: it disagrees about a deletion.

        Raises:
            Conflict: There is no telling.
            StoreUnavailable: No answer.
        """
        mirror = self._watch.mirror
        if self._knows_better(transaction, expected):
            return
        keys = [op.key for op in transaction.operations]
        if last == 0 and mirror.forget_oldest(keys):
            return
        if last > 0:
            try:
                found = await self._jetstream.message(self._settings.stream, last)
            except NatsError as exc:
                raise StoreUnavailable(reason=exc.message) from exc
            if found is None or self._knows_better(transaction, expected):
                return
            key = found.subject.removeprefix(self._settings.prefix)
            if key in keys and mirror.recall(key, found.headers, last):
                return
        raise Conflict

    def _knows_better(self, transaction: Transaction, expected: Sequence[int]) -> bool:
        """Whether the view tells by now why the server refused *expected*."""
        return bool(self._settled(transaction) or self._failed(transaction) or self._expected(transaction) != expected)

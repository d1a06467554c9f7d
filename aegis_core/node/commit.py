"""From an engine's decision to the store: encode, commit, settle what is indeterminate, fold into the view."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import tzinfo
from typing import Final, TypeVar

import trio

from aegis_core import codec
from aegis_core.backend import Conflict, Delete, Indeterminate, Operation, Put, StoreUnavailable, Transaction
from aegis_core.engine.decision import Decision, NotYetKnown, Write
from aegis_core.engine.snapshot import Snapshot
from aegis_core.errors import AegisError
from aegis_core.models import Outcome
from aegis_core.node.breaker import CircuitBreaker
from aegis_core.node.runtime import Runtime

__all__ = ["Committer"]

A = TypeVar("A")

_FIRST_PAUSE: Final = 0.005
_LONGEST_PAUSE: Final = 0.2


class Committer:
    """Carries decisions of the engine out against the store, by optimistic retry.

    Args:
        runtime: The node.
        breaker: Opens when the store fails repeatedly; then decisions fail at once with `StoreUnavailable` (NOT_SENT).
    """

    def __init__(self, runtime: Runtime, breaker: CircuitBreaker) -> None:
        self._runtime = runtime
        self._breaker = breaker

    async def decide(
        self,
        decide: Callable[[Snapshot], Decision[A]],
        *,
        timeout: float,
        what: str = "the operation",
    ) -> A:
        """Decide on the view, commit, and decide again when the view turns out to be behind.

        A refusal is believed only when it was decided after a `sync`; so is an answer that needs no commit.
        *decide* may therefore be called several times; it must do nothing but compute.

        Args:
            decide: Pure function of the view.
            timeout: Seconds until `StoreUnavailable`.
            what: Named in that error.

        Raises:
            StoreUnavailable: With outcome MAYBE_EXECUTED when the fate of a commit could not be learnt in time.
            AegisError: The engine's refusal.

        Cancelled during the commit, its fate is open.
        """
        clock = self._runtime.clock
        until = clock.now() + timeout
        sent = False
        with trio.CancelScope(deadline=clock.trio_time(until)) as scope:
            fresh = False
            pause = _FIRST_PAUSE
            while True:
                try:
                    decision = decide(self._runtime.directory.snapshot)
                except (AegisError, NotYetKnown) as refusal:
                    if fresh and isinstance(refusal, AegisError):
                        raise
                    if fresh:  # our own write, folded early: the watch is about to bring what is missing
                        await self.pause(pause)
                        pause = min(2 * pause, _LONGEST_PAUSE)
                    decision = None
                if decision is None or (decision.rests_on_view and not fresh):
                    await self.sync()
                    fresh = True
                    continue
                if not decision.writes:
                    return decision.answer(())
                try:
                    sent = True
                    revisions = await self.commit(decision.writes)
                except Conflict:
                    sent = False
                    await self.pause(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
                    await self.sync()
                    fresh = True
                    continue
                return decision.answer(revisions)
        assert scope.cancelled_caught
        outcome = Outcome.MAYBE_EXECUTED if sent else Outcome.NOT_SENT
        raise StoreUnavailable(reason=f"{what} did not finish within {timeout:g} s", outcome=outcome)

    async def commit(self, writes: Sequence[Write], *, urgent: bool = False) -> tuple[int, ...]:
        """Commit *writes* as one transaction, repeat it while its fate is open, fold it into the view.

        Runs until it is settled: bound it by a cancel scope. *urgent* work (renewals) is tried even while the
        store's circuit is open.

        Raises:
            Conflict: Nothing was changed.
            StoreUnavailable: The circuit of the store is open (NOT_SENT).
        """
        transaction = self.transaction(writes)
        pause = _FIRST_PAUSE
        if not (self._breaker.allow() or urgent):
            raise StoreUnavailable(reason="its circuit is open after repeated failures", outcome=Outcome.NOT_SENT)
        while True:
            try:
                revisions = await self._runtime.store.commit(transaction)
            except Conflict:
                self._breaker.success()
                raise
            except (Indeterminate, StoreUnavailable):
                self._breaker.failure()
                await self.pause(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            self._breaker.success()
            self._runtime.directory.fold(writes, revisions)
            return revisions

    async def sync(self) -> None:
        """The read barrier, repeated while the store does not answer: bound it by a cancel scope.

        Raises:
            StoreUnavailable: The circuit of the store is open (NOT_SENT).
        """
        pause = _FIRST_PAUSE
        if not self._breaker.allow():
            raise StoreUnavailable(reason="its circuit is open after repeated failures", outcome=Outcome.NOT_SENT)
        while True:
            try:
                await self._runtime.directory.sync()
            except StoreUnavailable:
                self._breaker.failure()
                await self.pause(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            self._breaker.success()
            return

    async def sync_within(self, timeout: float) -> None:
        """The read barrier, within *timeout* seconds.

        Raises:
            StoreUnavailable: It was not reached in time (NOT_SENT).
        """
        clock = self._runtime.clock
        with trio.CancelScope(deadline=clock.trio_time(clock.now() + timeout)) as scope:
            await self.sync()
        if scope.cancelled_caught:
            raise StoreUnavailable(reason=f"no answer within {timeout:g} s", outcome=Outcome.NOT_SENT)

    async def pause(self, seconds: float) -> None:
        """Sleep a jittered part of *seconds* on the node's clock."""
        runtime = self._runtime
        await runtime.clock.sleep_until(runtime.clock.now() + runtime.jitter(seconds))

    def transaction(self, writes: Sequence[Write]) -> Transaction:
        """*writes* as the store takes them, under a new id."""
        offset = self._runtime.settings.time_offset
        operations = tuple(_operation(write, offset) for write in writes)
        return Transaction(id=self._runtime.new_id(16), operations=operations)


def _operation(write: Write, offset: tzinfo) -> Operation:
    if write.record is None:
        return Delete(write.key, write.expect)
    return Put(write.key, codec.encode_record(write.record, offset), write.expect, write.ttl)

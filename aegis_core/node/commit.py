"""From an engine's decision to the store: encode, commit, settle what is indeterminate, fold into the view."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, TypeVar

import attrs
import trio

from aegis_core import codec
from aegis_core.backend import Conflict, Delete, Indeterminate, Operation, Put, StoreUnavailable, Transaction
from aegis_core.engine.decision import Decision, NotYetKnown, Write, answered
from aegis_core.engine.snapshot import Snapshot
from aegis_core.errors import AegisError, Forbidden, InvalidRequest, ResourceLimitExceeded
from aegis_core.models import Outcome, Shown
from aegis_core.names import target_key
from aegis_core.node.breaker import CircuitBreaker
from aegis_core.node.runtime import Runtime
from aegis_core.observe.refusals import tell_conflicts, tell_refusal

__all__ = ["Attempt", "Committer"]

A = TypeVar("A")

_FIRST_PAUSE: Final = 0.005
_LONGEST_PAUSE: Final = 0.2


@attrs.define(eq=False, repr=False)
class Attempt(Shown):
    """How far an operation came.

    Args:
        is_waiting: The store still owes an answer.
        in_doubt: The keys of commits whose fate was not learnt: they had no answer in time, or none at first and a
            conflict when they were repeated, as if they had been applied and then written over by somebody else.
    """

    is_waiting: bool = False
    in_doubt: set[str] = attrs.field(factory=set)

    def doubts(self, target: str) -> bool:
        """Whether who owns *target* may have been written by a commit whose fate is unknown."""
        return target_key(target) in self.in_doubt


class Committer:
    """Carries decisions of the engine out against the store, by optimistic retry.

    Args:
        runtime: The node.
        breaker: Opens when the store fails repeatedly; then decisions fail at once with `StoreUnavailable` (NOT_SENT).
    """

    def __init__(self, runtime: Runtime, breaker: CircuitBreaker) -> None:
        self._runtime = runtime
        self._breaker = breaker
        self._instruments = runtime.instruments

    async def decide(
        self,
        decide: Callable[[Snapshot], Decision[A]],
        *,
        timeout: float,
        what: str = "the operation",
        writes: bool = True,
        refused: Callable[[A], Iterable[str]] | None = None,
        attempt: Attempt | None = None,
        asked_by: str | None = None,
    ) -> A:
        """Decide on the view, commit, and decide again when the view turns out to be behind.

        A refusal is believed only when it was decided after a `sync`; so is an answer that needs no commit.
        *decide* may therefore be called several times; it must do nothing but compute. A refusal that was decided after
        a commit of unknown fate is never told as one: it may be that very commit, and what others made of it, that speaks.

        Args:
            decide: Pure function of the view.
            timeout: Seconds until `StoreUnavailable`.
            what: Named in that error.
            writes: Whether it may write; False for a mere question, which then is decided once, after the `sync`.
            refused: The targets that an answer refuses, where a part of it may be a refusal; a mapping says whose they are.
            attempt: Where to note how far it came, for who tells the parts of an answer apart.
            asked_by: The instance that wants it, or "": refusals are logged then; None for what may well be refused.

        Raises:
            StoreUnavailable: With outcome MAYBE_EXECUTED when the fate of a commit could not be learnt, in time or at all.
            AegisError: The engine's refusal.

        Cancelled during the commit, its fate is open.
        """
        clock, attempt = self._runtime.clock, attempt or Attempt()
        with trio.CancelScope(deadline=clock.trio_time(clock.now() + timeout)):
            try:
                if not writes:
                    await self.sync(attempt)
                answer = await self._decide(decide, attempt, fresh=not writes)
            except AegisError as exc:
                if not attempt.in_doubt:
                    if asked_by is not None:
                        tell_refusal(what, asked_by, exc)
                    raise
                raise _in_doubt(what, exc.message) from exc
            parts = () if refused is None else refused(answer)
            if any(map(attempt.doubts, parts)):
                raise _in_doubt(what, "part of it is refused")
            if asked_by is not None and isinstance(parts, Mapping):
                tell_conflicts(what, asked_by, parts)
            return answer
        self._tell_timeout(attempt)
        outcome = Outcome.MAYBE_EXECUTED if attempt.in_doubt else Outcome.NOT_SENT
        raise StoreUnavailable(reason=f"{what} did not finish within {timeout:g} s", outcome=outcome)

    async def check(
        self, decide: Callable[[Snapshot], Decision[object]], *, timeout: float, what: str, asked_by: str | None = None
    ) -> None:
        """Raise the refusal of *decide*, on fresh evidence, and commit nothing.

        Raises:
            StoreUnavailable: No answer within *timeout* seconds (NOT_SENT).
            AegisError: The engine's refusal.
        """

        def look(view: Snapshot) -> Decision[None]:
            decide(view)
            return answered(None)

        await self.decide(look, timeout=timeout, what=what, writes=False, asked_by=asked_by)

    async def _decide(self, decide: Callable[[Snapshot], Decision[A]], attempt: Attempt, *, fresh: bool) -> A:
        contended = False
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
                await self.sync(attempt)
                fresh = True
                continue
            if not decision.writes:
                return decision.answer(())
            try:
                revisions = await self.commit(decision.writes, attempt=attempt)
            except Conflict as exc:
                if self._instruments is not None:
                    self._instruments.retried(exc)
                if contended:  # several want the same, and should not meet a third time
                    await self.pause(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
                await self.sync(attempt)
                fresh = contended = True
                continue
            return decision.answer(revisions)

    async def commit(
        self,
        writes: Sequence[Write],
        *,
        urgent: bool = False,
        attempt: Attempt | None = None,
        failed: Callable[[AegisError], None] | None = None,
    ) -> tuple[int, ...]:
        """Commit *writes* as one transaction, repeat it while its fate is open, fold it into the view.

        Runs until it is settled: bound it by a cancel scope.

        Args:
            writes: What to write.
            urgent: Try it even while the store's circuit is open (renewals).
            attempt: Where to note how far it came, for who bounds it.
            failed: Told of each time that it has to be repeated.

        Raises:
            Conflict: Nothing was changed, unless *attempt* says that this is in doubt.
            Forbidden, ResourceLimitExceeded: The store refuses it; in doubt as a conflict is.
            InvalidRequest: A record is too large for the store.
            StoreUnavailable: The circuit of the store is open (NOT_SENT).
        """
        transaction = self.transaction(writes)
        attempt = attempt or Attempt()
        if not (self._breaker.allow() or urgent):
            raise _circuit_is_open()
        pause = _FIRST_PAUSE
        unanswered = is_open = False
        try:
            while True:
                try:
                    is_open = True
                    revisions = await self._ask(attempt, self._commit_once(transaction))
                except (Conflict, Forbidden, ResourceLimitExceeded):
                    is_open = unanswered  # applied, and written over by somebody else, it meets a conflict just as well
                    raise
                except (Indeterminate, StoreUnavailable) as exc:
                    is_open = unanswered = unanswered or isinstance(exc, Indeterminate)
                    if failed is not None:
                        failed(exc)
                    if self._instruments is not None:
                        self._instruments.retried(exc)
                    await self.pause(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
                else:
                    is_open = False
                    self._runtime.directory.fold(writes, revisions)
                    return revisions
        finally:
            if is_open:
                attempt.in_doubt.update(write.key for write in writes)

    def _commit_once(self, transaction: Transaction) -> Awaitable[tuple[int, ...]]:
        commit = self._runtime.store.commit
        return (
            commit(transaction) if self._instruments is None else self._instruments.measure_commit(commit, transaction)
        )

    async def sync(self, attempt: Attempt | None = None, *, urgent: bool = False) -> None:
        """The read barrier, repeated while the store does not answer: bound it by a cancel scope.

        *urgent* work is tried even while the store's circuit is open.

        Raises:
            StoreUnavailable: The circuit of the store is open (NOT_SENT).
        """
        if not (self._breaker.allow() or urgent):
            raise _circuit_is_open()
        attempt = attempt or Attempt()
        pause = _FIRST_PAUSE
        while True:
            try:
                await self._ask(attempt, self._runtime.directory.sync())
                return
            except StoreUnavailable:
                await self.pause(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    async def _ask(self, attempt: Attempt, question: Awaitable[A]) -> A:
        """Await *question*, an operation of the store, and tell the circuit whether there was an answer."""
        attempt.is_waiting = True
        try:
            answer = await question
        except (Conflict, Forbidden, ResourceLimitExceeded):
            self._breaker.success()
            attempt.is_waiting = False
            raise
        except (Indeterminate, StoreUnavailable):
            self._breaker.failure()
            attempt.is_waiting = False
            raise
        except BaseException:
            self._breaker.withdraw()
            raise
        self._breaker.success()
        attempt.is_waiting = False
        return answer

    def _tell_timeout(self, attempt: Attempt) -> None:
        """Time was over: that counts against the store if it was the one who kept everybody waiting."""
        if attempt.is_waiting:
            self._breaker.failure()

    async def sync_within(self, timeout: float) -> None:
        """The read barrier, within *timeout* seconds.

        Raises:
            StoreUnavailable: It was not reached in time (NOT_SENT).
        """
        clock, attempt = self._runtime.clock, Attempt()
        with trio.CancelScope(deadline=clock.trio_time(clock.now() + timeout)):
            await self.sync(attempt)
            return
        self._tell_timeout(attempt)
        raise StoreUnavailable(reason=f"no answer within {timeout:g} s", outcome=Outcome.NOT_SENT)

    async def pause(self, seconds: float) -> None:
        """Sleep a jittered part of *seconds* on the node's clock."""
        runtime = self._runtime
        await runtime.clock.sleep_until(runtime.clock.now() + runtime.jitter(seconds))

    def transaction(self, writes: Sequence[Write]) -> Transaction:
        """*writes* as the store takes them, under a new id.

        Raises:
            InvalidRequest: A record cannot be stored, or is too large.
        """
        offset, most = self._runtime.settings.time_offset, self._runtime.store.capabilities.max_value
        operations: list[Operation] = []
        for write in writes:
            if write.record is None:
                operations.append(Delete(write.key, write.expect))
                continue
            value = codec.encode_record(write.record, offset)
            if len(value) > most:
                problem = f"the record under {write.key} would have {len(value)} bytes, the store takes at most {most}"
                raise InvalidRequest.at("$.metadata", problem)
            operations.append(Put(write.key, value, write.expect, write.ttl))
        proofs = self._runtime.proofs.of(writes) if self._runtime.store.capabilities.guarded else ()
        return Transaction(id=self._runtime.new_id(16), operations=tuple(operations), proofs=proofs)


def _circuit_is_open() -> StoreUnavailable:
    return StoreUnavailable(reason="its circuit is open after repeated failures", outcome=Outcome.NOT_SENT)


def _in_doubt(what: str, now: str) -> StoreUnavailable:
    reason = f"a commit of {what} had no answer, and others have changed the same since; as things are now: {now}"
    return StoreUnavailable(reason=reason, outcome=Outcome.MAYBE_EXECUTED)

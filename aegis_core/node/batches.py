"""The batches of a bulk operation, as they are carried out and undone for the three kinds of instances.

For an instance of this node, claims are made ready, and work ends before a release. One that another node serves adopts
what is assigned to it, and is asked to release. For one that was merely registered the transaction is all there is.

Past 400 lines, because claims and releases are undone by the same means.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import attrs

from aegis_core.engine import bulk
from aegis_core.engine.bulk import BatchOutcome, BulkItem, BulkPlan
from aegis_core.engine.decision import Decision, Write, answered
from aegis_core.engine.snapshot import Snapshot
from aegis_core.errors import (
    AegisError,
    Forbidden,
    InstanceNotFound,
    LeaseLost,
    NotOwner,
    ResourceNotFound,
    StoreUnavailable,
    Unavailable,
)
from aegis_core.models import EndReason, Outcome, ServiceInstance
from aegis_core.names import target_key
from aegis_core.node.asking import asker_for
from aegis_core.node.batch_outcomes import because, failure, in_doubt, lost, overwritten, telling_lost, without
from aegis_core.node.claiming import check_stays, wait_ready
from aegis_core.node.claims import Claim
from aegis_core.node.commit import Attempt
from aegis_core.node.errands import has_scopes
from aegis_core.node.lease import Lease
from aegis_core.node.reservations import Room

if TYPE_CHECKING:
    from aegis_core.node.holdings import Holdings
    from aegis_core.node.instance import Instance
    from aegis_core.node.node import Node

__all__ = ["BatchClaims", "BatchReleases", "Batches"]

_log = logging.getLogger("aegis.bulk")

A = TypeVar("A")

_Decide = Callable[[Snapshot], Decision[BatchOutcome]]


class _Deciding(Protocol):
    def __call__(self, items: Sequence[BulkItem], busy: Callable[[], Collection[str]] = ...) -> _Decide:
        """How *items* are released, but for those that are *busy* by then."""
        ...


class _Party:
    """For whom a bulk operation is, and how what is decided for it is committed.

    `gave_back` says whether a batch failed after its commit, so that what it had done was undone.
    """

    def __init__(self, node: Node, service_name: str, instance_id: str, shown: str | None) -> None:
        self._node = node
        self._runtime = node.runtime
        self._service_name = service_name
        self._instance_id = instance_id
        self._shown = shown
        self._hosted: Instance | None = node.hosted_by(service_name, instance_id, shown)
        self.gave_back = False
        self._in_doubt: set[str] = set()

    def _remote(self) -> ServiceInstance | None:
        """The record of the instance, if another node serves it."""
        if self._hosted is not None:
            return None
        record = self._runtime.directory.snapshot.instance(self._service_name, self._instance_id)
        return record if record is not None and has_scopes(record) else None

    def _reserve(self, ids: Iterable[str]) -> AbstractContextManager[Room]:
        """While the block runs, a commit may add *ids*; see `Reservations.reserve`."""
        return self._runtime.reservations.reserve(self._service_name, self._instance_id, ids)

    async def _decide(
        self,
        decide: Callable[[Snapshot], Decision[A]],
        *,
        until: float | None = None,
        writes: bool = True,
    ) -> A:
        runtime, attempt = self._runtime, Attempt()
        timeout = runtime.settings.request_timeout if until is None else runtime.left(until)
        try:
            return await self._node.committer.decide(
                decide, timeout=timeout, what="a bulk operation", writes=writes, attempt=attempt
            )
        finally:
            self._in_doubt |= attempt.in_doubt

    def admit_doubt(self, outcome: BatchOutcome) -> BatchOutcome:
        """*outcome*, in which no id is refused for which a commit of unknown fate may have been carried out."""
        return attrs.evolve(
            outcome,
            failed=tuple(in_doubt(f) if target_key(f.resource_id) in self._in_doubt else f for f in outcome.failed),
        )

    async def _undo(self, outcome: BatchOutcome, writes: Mapping[str, Write]) -> None:
        part = attrs.evolve(outcome, undo=writes)
        if writes:
            await self._decide(lambda view: bulk.undo(view, part))

    def _take_back(self, holdings: Holdings, targets: Iterable[str]) -> None:
        """Hold *targets* again, as far as their records name the lease of *holdings*; they become ready by and by."""
        holdings.prepare_in_background(holdings.take(targets, keep=True))


class BatchClaims(_Party):
    """The batches of a bulk claim."""

    operation: Final = "bulk_claim"
    undone_if_cancelled: Final = True

    def __init__(self, node: Node, service_name: str, instance_id: str, shown: str | None) -> None:
        super().__init__(node, service_name, instance_id, shown)
        self._lease: Lease | None = None

    async def plan(self, asked: Sequence[BulkItem], *, batch_size: int, continue_on_error: bool) -> BulkPlan:
        """Plan the claim of what was asked.

        Raises:
            AegisError: The request as a whole is refused.
        """
        runtime = self._runtime
        until = runtime.request_deadline()
        if self._hosted is not None:
            self._lease = (await self._hosted.membership.wait_registered()).lease
        lease = self._shown if self._lease is None else self._lease.tag
        admin = self._may_force(asked, continue_on_error=continue_on_error)
        with self._reserve(()) as room:

            def decide(view: Snapshot) -> Decision[BulkPlan]:
                return bulk.plan_bulk_claim(
                    view,
                    self._service_name,
                    self._instance_id,
                    asked,
                    lease=lease,
                    batch_size=batch_size,
                    continue_on_error=continue_on_error,
                    admin=admin,
                    limit=runtime.settings.max_resources_per_instance,
                    reserved=room.others(),
                    max_transaction=runtime.store.capabilities.max_transaction,
                    now=runtime.clock.now(),
                )

            plan = await self._decide(decide, until=until, writes=False)
        return plan if self._remote() is None else attrs.evolve(plan, reason="assigned")

    def _may_force(self, asked: Sequence[BulkItem], *, continue_on_error: bool) -> bool:
        """Whether what is to be taken by force may be.

        Raises:
            Forbidden: It may not, and nothing else is to be done then.
        """
        forced = [item.resource_id for item in asked if item.force]
        if forced:
            try:
                self._runtime.require_own(self._instance_id, "force", self._service_name, *forced)
            except Forbidden:
                if not continue_on_error:
                    raise
                return False
        return bool(forced)

    async def carry_out(self, plan: BulkPlan, batch: Sequence[BulkItem]) -> BatchOutcome:
        """Claim one batch, and make the claims of an instance of this node ready."""
        runtime = self._runtime
        audit = None
        if any(item.force for item in batch):
            asker = asker_for(self._instance_id)
            audit = self._runtime.audit(reason="claimed by force", requested_by=asker)

        async def commit(plan: BulkPlan, room: Room) -> BatchOutcome:
            def decide(view: Snapshot) -> Decision[BatchOutcome]:
                now, at = runtime.clock.now(), runtime.wall()
                return bulk.claim_batch(view, plan, batch, reserved=room.others(), audit=audit, now=now, at=at)

            return await self._decide(decide)

        hosted = self._hosted
        ids = [item.resource_id for item in batch]
        if hosted is None:
            with self._reserve(ids) as room:
                return await commit(plan, room)
        check_stays(hosted)
        incarnation = await hosted.membership.wait_registered()
        if plan.continue_on_error:  # what the lease that it was planned with held is claimed again by itself
            self._lease = incarnation.lease
            plan = attrs.evolve(plan, lease=incarnation.lease.tag)
        elif self._lease is not incarnation.lease:
            return lost(ids, self._lease)
        holdings = incarnation.holdings
        with holdings.attempt(ids), self._reserve(ids) as room:
            try:
                outcome = await commit(plan, room)
            except (InstanceNotFound, NotOwner):  # of an instance of this node: the record of its lease is gone
                return lost(ids, incarnation.lease)
            check_stays(hosted)
            fresh = holdings.take(outcome.done, keep=False)
        try:
            failed = await _prepare(holdings, fresh, outcome, stop=not plan.continue_on_error)
        except BaseException:
            runtime.nursery.start_soon(hosted.give_up_now, fresh)
            raise
        if not failed:
            return outcome
        given_up = [c for c in fresh if c.resource_id in failed] if plan.continue_on_error else fresh
        await runtime.shelter(hosted.give_up_now, given_up)
        failures = [failure(target, exc) for target, exc in failed.items()]
        if plan.continue_on_error:
            return without(outcome, failures)
        await self._undo(outcome, overwritten(outcome))
        self.gave_back = True
        return BatchOutcome(failed=tuple(failures))

    def stand(self, outcome: BatchOutcome) -> None:
        """The batch will not be undone: what it claimed is claimed again when the lease is lost."""
        table = {} if self._hosted is None else self._hosted.claims_table
        for target, epoch in outcome.epochs.items():
            claim = table.get(target)
            if claim is not None and claim.epoch == epoch:
                claim.keep = True

    async def undo(self, plan: BulkPlan, outcome: BatchOutcome) -> None:
        """Release what the batch acquired, and put back the metadata of what was held before."""
        restoring: Mapping[str, Write] = overwritten(outcome)
        acquired = [target for target in outcome.done if target not in restoring]
        hosted, remote = self._hosted, self._remote()
        if hosted is not None:
            table = hosted.claims_table
            await hosted.give_up_now([c for i in acquired if (c := table.get(i)) and c.epoch == outcome.epochs[i]])
        elif remote is not None:
            await self._node.releases.ask(remote, acquired)
        else:
            restoring = outcome.undo
        await self._undo(outcome, restoring)


class BatchReleases(_Party):
    """The batches of a bulk release."""

    operation: Final = "bulk_release"
    undone_if_cancelled: Final = False

    def __init__(self, node: Node, service_name: str, instance_id: str, shown: str | None) -> None:
        super().__init__(node, service_name, instance_id, shown)
        self._seen: dict[str, Write] = {}

    async def plan(self, asked: Sequence[str], *, batch_size: int, continue_on_error: bool) -> BulkPlan:
        """Plan the release of what was asked.

        Raises:
            AegisError: The request as a whole is refused.
        """
        most = self._runtime.store.capabilities.max_transaction

        def decide(view: Snapshot) -> Decision[BulkPlan]:
            return bulk.plan_bulk_release(
                view,
                self._service_name,
                self._instance_id,
                asked,
                lease=self._shown,
                batch_size=batch_size,
                continue_on_error=continue_on_error,
                max_transaction=most,
            )

        plan = await self._decide(decide, writes=False)
        if self._hosted is not None:
            ids = [item.resource_id for batch in plan.batches for item in batch]
            self._node.moves.refuse_under(self._hosted, ids, "bulk_release")
        return plan

    async def carry_out(self, plan: BulkPlan, batch: Sequence[BulkItem]) -> BatchOutcome:
        """Let running calls finish, then release one batch. Cancelled, that goes on where a node serves the instance."""
        seen: dict[str, Write] = {}

        def deciding(items: Sequence[BulkItem], busy: Callable[[], Collection[str]] = frozenset) -> _Decide:
            def decide(view: Snapshot) -> Decision[BatchOutcome]:
                decision = bulk.release_batch(view, plan, items, busy=busy())
                seen.update(decision.answer(()).undo)
                return decision

            return decide

        remote = self._remote()
        try:
            if self._hosted is not None:
                outcome = await self._runtime.shelter(self._release_here, self._hosted, batch, deciding)
            elif remote is not None:
                outcome = await self._release_there(remote, batch, deciding)
            else:
                outcome = await self._decide(deciding(batch))
        except Unavailable as exc:
            if exc.outcome is Outcome.MAYBE_EXECUTED:
                self._in_doubt.update(map(target_key, seen))
            raise
        finally:
            self._seen.update(seen)
        return self._settled(outcome)

    async def _release_here(self, hosted: Instance, batch: Sequence[BulkItem], deciding: _Deciding) -> BatchOutcome:
        holdings = (await hosted.membership.wait_registered()).holdings
        ids = [item.resource_id for item in batch]
        moving = frozenset(_claims(holdings, ids))

        def busy() -> Collection[str]:
            """What other tasks claim: its record must not go while they may believe in it."""
            return [target for target in ids if holdings.is_taken(target, moving)]

        if len(moving) < len(ids):
            wanted = await self._decide(_without_writes(deciding(batch, busy)), writes=False)
            if not wanted.done:
                return wanted  # before anything is ended
        claims = _claims(holdings, ids)
        while others := [claim for claim in claims if claim.moving and claim.ended is None]:
            await others[0].wait_moved()
        begun = holdings.begin(claims)
        moving = frozenset(begun)
        until = self._runtime.clock.now() + self._runtime.settings.drain
        await holdings.wind_down(begun, until=until, reason=EndReason.RELEASED)
        for claim in begun:
            claim.deleted = None
        try:
            outcome = await self._decide(deciding(batch, busy))
        except InstanceNotFound:  # of an instance of this node: the record of its lease is gone
            outcome = lost(ids, holdings.lease)
        except StoreUnavailable as exc:  # what has ended is released when the store answers
            raise attrs.evolve(exc, outcome=Outcome.MAYBE_EXECUTED) from exc
        else:
            if holdings.lease.ended is not None:
                outcome = telling_lost(outcome, begun)
            done = frozenset(outcome.done)
            for claim in begun:
                in_doubt = target_key(claim.resource_id) in self._in_doubt
                claim.deleted = claim.resource_id in done or (None if in_doubt else False)
        finally:
            for claim in begun:
                holdings.finish(claim, EndReason.RELEASED)
        done = frozenset(outcome.done)
        self._take_back(holdings, [claim.resource_id for claim in begun if claim.resource_id not in done])
        return outcome

    async def _release_there(
        self, remote: ServiceInstance, batch: Sequence[BulkItem], deciding: _Deciding
    ) -> BatchOutcome:
        wanted = await self._decide(_without_writes(deciding(batch)), writes=False)
        if not wanted.done:
            return wanted
        left = frozenset(await self._node.releases.ask(remote, wanted.done))
        if not left:
            return wanted
        items = [item for item in batch if item.resource_id in left]
        try:  # whose they are now; what is its own all the same, its other tasks claim
            told = await self._decide(_without_writes(deciding(items, lambda: left)), writes=False)
        except Unavailable as exc:
            raise attrs.evolve(exc, outcome=Outcome.MAYBE_EXECUTED) from exc
        except AegisError as exc:  # about these alone: the others were released
            told = bulk.failed_batch(items, exc)
        return without(wanted, told.failed)

    def _settled(self, outcome: BatchOutcome) -> BatchOutcome:
        """*outcome*, with what an earlier attempt had released without knowing it among what is done."""
        code = ResourceNotFound.code
        gone = {
            f.resource_id: self._seen[f.resource_id]
            for f in outcome.failed
            if f.error_code == code and f.resource_id in self._seen and target_key(f.resource_id) in self._in_doubt
        }
        return BatchOutcome(
            done=(*outcome.done, *gone),
            failed=tuple(f for f in outcome.failed if f.resource_id not in gone),
            undo={**outcome.undo, **gone},
        )

    def stand(self, outcome: BatchOutcome) -> None:
        """The batch will not be undone: nothing hangs on that."""

    async def undo(self, plan: BulkPlan, outcome: BatchOutcome) -> None:
        """Let the instance own again what the batch released, under new epochs, with the same metadata."""
        if self._hosted is None:
            reason = None if self._remote() is None else "assigned"
            await self._undo(outcome, {i: because(write, reason) for i, write in outcome.undo.items()})
            return
        holdings = (await self._hosted.membership.wait_registered()).holdings
        with holdings.attempt(outcome.done):
            await self._undo(outcome, outcome.undo)
            self._take_back(holdings, outcome.done)


async def _prepare(
    holdings: Holdings, fresh: Sequence[Claim], outcome: BatchOutcome, *, stop: bool
) -> dict[str, Exception]:
    """Make what a batch claimed ready; what went wrong, by id. With *stop* the first failure ends it."""
    failed = {claim.resource_id: exc for claim, exc in (await holdings.prepare_each(fresh, stop=stop)).items()}
    if failed and stop:
        return failed
    for target in outcome.done:
        if target not in failed:
            try:
                await wait_ready(holdings, target, outcome.epochs[target])
            except LeaseLost as exc:
                failed[target] = exc
    return failed


def _claims(holdings: Holdings, ids: Iterable[str]) -> list[Claim]:
    return [claim for target in ids if (claim := holdings.table.get(target)) is not None]


def _without_writes(decide: _Decide) -> _Decide:
    return lambda view: answered(decide(view).answer(()))


Batches = BatchClaims | BatchReleases
"""The batches of either operation."""

"""Bulk claim and release: the engine plans and decides batch by batch, this carries it out.

Without ``continue_on_error`` everything that fits the store's transaction is one transaction; beyond that batches follow
each other, and when one fails the earlier ones are undone (`BulkReply.rollback_performed`). With it, batches are
independent: up to ``concurrency`` run at once, and every id that failed is listed with its reason. A batch that failed for
want of the store, or of the owner's node, is tried again, up to ``retries`` times. No failure of an id is raised.

Each batch has the request timeout (a release the drain time besides, for calls that run).
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final, TypedDict

import attrs
import trio

from aegis_core.engine import bulk
from aegis_core.engine.bulk import BatchOutcome, BulkItem, BulkPlan
from aegis_core.errors import (
    AegisError,
    CallTimeout,
    InvalidRequest,
    NoInstance,
    StoreUnavailable,
    TransportUnavailable,
)
from aegis_core.events import BulkProgress
from aegis_core.models import BulkReply, ResourceMetadata, Value
from aegis_core.node.batches import BatchClaims, Batches, BatchReleases
from aegis_core.observe.refusals import tell_failures

if TYPE_CHECKING:
    from aegis_core.node.node import Node

__all__ = ["BulkItem", "BulkOptions", "BulkRequest", "Claimable", "OnProgress", "bulk_claim", "bulk_release"]

_log = logging.getLogger("aegis.bulk")

OnProgress = Callable[[BulkProgress], Awaitable[object] | None]
"""Told after each batch; sync or async. What it raises ends the operation, as if a batch had failed."""

Claimable = str | BulkItem | tuple[str, ResourceMetadata]
"""A resource id, with or without metadata."""

_AT_ONCE: Final = 64
_PAUSE: Final = 0.1
_TRANSIENT: Final = (StoreUnavailable, TransportUnavailable, NoInstance, CallTimeout)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class BulkRequest(Value):
    """How a bulk operation goes about it.

    Args:
        batch_size: Resources of one transaction, 1 to 1000, where not everything is one.
        continue_on_error: Go on after failures instead of undoing everything.
        on_progress: Told after each batch.
        retries: How often a batch is tried again that failed for want of the store; 0 to 64.
        concurrency: Batches under way at once, with *continue_on_error*; 1 to 64.

    Raises:
        InvalidRequest: A number that cannot be.
    """

    batch_size: int = 100
    continue_on_error: bool = False
    on_progress: OnProgress | None = None
    retries: int = 2
    concurrency: int = 4

    def __attrs_post_init__(self) -> None:
        if not 0 <= self.retries <= _AT_ONCE:
            raise InvalidRequest.at("$.retries", f"{self.retries} is not between 0 and {_AT_ONCE}")
        if not 1 <= self.concurrency <= _AT_ONCE:
            raise InvalidRequest.at("$.concurrency", f"{self.concurrency} is not between 1 and {_AT_ONCE}")


class BulkOptions(TypedDict, total=False):
    """The keywords of `BulkRequest`, as the bulk operations take them."""

    batch_size: int
    continue_on_error: bool
    on_progress: OnProgress | None
    retries: int
    concurrency: int


async def bulk_claim(
    node: Node,
    service_name: str,
    instance_id: str,
    items: Iterable[Claimable],
    request: BulkRequest,
    *,
    lease: str | None,
) -> BulkReply:
    """See `Registry.bulk_register`; *lease* is the tag of the lease that was shown."""
    if isinstance(items, str):
        raise InvalidRequest.at("$.resources", "expected a list of resources, got one string")
    batches = BatchClaims(node, service_name, instance_id, lease)
    plan = await batches.plan(
        [_item(item) for item in items],
        batch_size=request.batch_size,
        continue_on_error=request.continue_on_error,
    )
    return _told(batches.operation, await _Bulk(node, plan, batches, request).run(), instance_id)


async def bulk_release(
    node: Node, service_name: str, instance_id: str, items: Iterable[str], request: BulkRequest, *, lease: str | None
) -> BulkReply:
    """See `Registry.bulk_release`; *lease* is the tag of the lease that was shown."""
    if isinstance(items, str):
        raise InvalidRequest.at("$.resource_ids", "expected a list of resource ids, got one string")
    batches = BatchReleases(node, service_name, instance_id, lease)
    plan = await batches.plan(tuple(items), batch_size=request.batch_size, continue_on_error=request.continue_on_error)
    return _told(batches.operation, await _Bulk(node, plan, batches, request).run(), instance_id)


def _told(operation: str, reply: BulkReply, instance_id: str) -> BulkReply:
    tell_failures(operation, instance_id, reply.failed, reply.total_requested)
    return reply


def _item(item: Claimable) -> BulkItem:
    if isinstance(item, tuple):
        return BulkItem(resource_id=item[0], metadata=item[1])
    return item if isinstance(item, BulkItem) else BulkItem(resource_id=item)


class _Bulk:
    """One bulk operation under way."""

    def __init__(self, node: Node, plan: BulkPlan, batches: Batches, request: BulkRequest) -> None:
        self._node = node
        self._runtime = node.runtime
        self._plan = plan
        self._batches = batches
        self._request = request
        self._outcomes = [BatchOutcome()] * len(plan.batches)
        self._seconds = [0.0] * len(plan.batches)
        self._done = 0
        self._failed = len(plan.failed)

    async def run(self) -> BulkReply:
        """Carry the plan out, batch by batch, and report."""
        if self._plan.continue_on_error:
            await self._run_at_once()
            return bulk.bulk_reply(self._plan, self._outcomes, self._seconds)
        at = 0
        try:
            for at in range(len(self._plan.batches)):
                await self._run_one(at)
                if self._outcomes[at].failed:
                    break
            else:
                return bulk.bulk_reply(self._plan, self._outcomes, self._seconds)
        except BaseException:
            if self._batches.undone_if_cancelled:
                self._runtime.nursery.start_soon(self._undo_in_background)
            raise
        undone = await self._runtime.shelter(self._undo) or self._batches.gave_back
        till = at + 1
        return bulk.bulk_reply(self._plan, self._outcomes[:till], self._seconds[:till], rolled_back=undone)

    async def _run_at_once(self) -> None:
        waiting = iter(range(len(self._plan.batches)))
        raised: list[Exception] = []

        async def work() -> None:
            for at in waiting:  # in the order that was asked for: the first ones are those that fit under a limit
                try:
                    await self._run_one(at)
                except Exception as exc:  # noqa: BLE001 - the first is raised below, as itself
                    raised.append(exc)
                    nursery.cancel_scope.cancel()
                    return

        async with trio.open_nursery() as nursery:
            for _ in range(min(self._request.concurrency, len(self._plan.batches))):
                nursery.start_soon(work)
        if raised:
            raise raised[0]

    async def _run_one(self, at: int) -> None:
        clock, batch = self._runtime.clock, self._plan.batches[at]
        began = clock.now()
        outcome = self._outcomes[at] = await self._runtime.measure(
            "bulk_batch",
            self._attempt,
            batch,
            service_name=self._plan.service_name,
            instance_id=self._plan.instance_id,
            resource_ids=[item.resource_id for item in batch] if self._runtime.instruments else (),
        )
        self._seconds[at] = clock.now() - began
        if self._plan.continue_on_error:
            self._batches.stand(outcome)
        elif batch is self._plan.batches[-1] and not outcome.failed:
            for each in self._outcomes:
                self._batches.stand(each)
        await self._tell(outcome)

    async def _attempt(self, batch: Sequence[BulkItem]) -> BatchOutcome:
        return self._batches.admit_doubt(await self._carry_out(batch))

    async def _carry_out(self, batch: Sequence[BulkItem]) -> BatchOutcome:
        for _again in range(self._request.retries):
            try:
                return await self._batches.carry_out(self._plan, batch)
            except _TRANSIENT as exc:
                _log.debug("a batch of %d is tried again: %s", len(batch), exc)
                await self._node.committer.pause(_PAUSE)
            except AegisError as exc:
                return bulk.failed_batch(batch, exc)
        try:
            return await self._batches.carry_out(self._plan, batch)
        except AegisError as exc:
            return bulk.failed_batch(batch, exc)

    async def _undo(self) -> bool:
        """Undo what was done so far, last first; whether there was anything."""
        undone = [outcome for outcome in reversed(self._outcomes) if outcome.undo]
        failed: list[AegisError] = []
        for outcome in undone:
            try:
                await self._batches.undo(self._plan, outcome)
            except AegisError as exc:
                failed.append(exc)
        if failed:
            raise failed[0]
        return bool(undone)

    async def _undo_in_background(self) -> None:
        try:
            await self._undo()
        except AegisError as exc:
            _log.warning("a bulk operation that was given up is not undone: %s", exc)

    async def _tell(self, outcome: BatchOutcome) -> None:
        self._done += len(outcome.done)
        self._failed += len(outcome.failed)
        event = BulkProgress(
            service_name=self._plan.service_name,
            instance_id=self._plan.instance_id,
            at=self._runtime.wall(),
            operation=self._batches.operation,
            done=self._done,
            failed=self._failed,
            total=self._plan.total,
        )
        self._runtime.emit(event)
        if self._request.on_progress is not None:
            waiting = self._request.on_progress(event)
            if inspect.isawaitable(waiting):
                await waiting

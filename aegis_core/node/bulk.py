"""Bulk claim and release: the engine plans and decides batch by batch, this carries it out.

Without ``continue_on_error`` everything that fits the store's transaction is one transaction; beyond that batches follow
each other, and when one fails the earlier ones are undone (`BulkReply.rollback_performed`). With it, batches are
independent: up to ``concurrency`` run at once, and every id that failed is listed with its reason. A batch that failed for
want of the store is tried again, up to ``retries`` times. No failure of an id is raised.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, TypedDict, TypeVar

import attrs
import trio

from aegis_core.engine import bulk
from aegis_core.engine.bulk import BatchOutcome, BulkItem, BulkPlan
from aegis_core.engine.decision import Decision
from aegis_core.engine.snapshot import Snapshot
from aegis_core.errors import AegisError, InvalidRequest, StoreUnavailable
from aegis_core.events import BulkProgress
from aegis_core.models import BulkReply, EndReason, ResourceMetadata

if TYPE_CHECKING:
    from aegis_core.node.instance import Instance
    from aegis_core.node.node import Node

__all__ = ["BulkItem", "BulkOptions", "BulkRequest", "OnProgress", "bulk_claim", "bulk_release"]

OnProgress = Callable[[BulkProgress], Awaitable[object] | None]
"""Told after each batch; sync or async."""

Claimable = str | BulkItem | tuple[str, ResourceMetadata]
"""A resource id, with or without metadata."""

A = TypeVar("A")

_log = logging.getLogger("aegis.claims")

_AT_ONCE: Final = 64


@attrs.frozen(kw_only=True)
class BulkRequest:
    """How a bulk operation goes about it.

    Args:
        batch_size: Resources of one transaction, 1 to 1000, where not everything is one.
        continue_on_error: Go on after failures instead of undoing everything.
        on_progress: Told after each batch.
        retries: How often a batch is tried again that failed for want of the store.
        concurrency: Batches under way at once, with *continue_on_error*.
    """

    batch_size: int = 100
    continue_on_error: bool = False
    on_progress: OnProgress | None = None
    retries: int = attrs.field(default=2)
    concurrency: int = attrs.field(default=4)

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
    node: Node, service_name: str, instance_id: str, items: Iterable[Claimable], request: BulkRequest
) -> BulkReply:
    """Claim *items* for an instance; of one that this node serves the claims are made ready as well."""
    asked = tuple(_item(item) for item in items)
    hosted = node.hosted.get((service_name, instance_id))
    work = _Bulk(node, hosted, request, "bulk_claim")
    settings, store = node.runtime.settings, node.runtime.store
    if hosted is None:
        lease, reserved = None, 0
    else:
        incarnation = await hosted.wait_registered()
        lease = incarnation.lease.tag
        reserved = 0
    if any(item.force for item in asked):
        node.require_own(instance_id, "force", service_name, *(i.resource_id for i in asked if i.force))

    def plan(view: Snapshot) -> Decision[BulkPlan]:
        return bulk.plan_bulk_claim(
            view,
            service_name,
            instance_id,
            asked,
            lease=lease,
            batch_size=request.batch_size,
            continue_on_error=request.continue_on_error,
            admin=any(item.force for item in asked),
            limit=settings.max_resources_per_instance,
            reserved=reserved,
            max_transaction=store.capabilities.max_transaction,
            now=node.runtime.clock.now(),
        )

    return await work.run(await work.decide(plan), work.claim_batch)


async def bulk_release(
    node: Node, service_name: str, instance_id: str, items: Iterable[str], request: BulkRequest
) -> BulkReply:
    """Release *items* of an instance; of one that this node serves running calls finish first."""
    asked = tuple(items)
    hosted = node.hosted.get((service_name, instance_id))
    work = _Bulk(node, hosted, request, "bulk_release")

    def plan(view: Snapshot) -> Decision[BulkPlan]:
        return bulk.plan_bulk_release(
            view,
            service_name,
            instance_id,
            asked,
            batch_size=request.batch_size,
            continue_on_error=request.continue_on_error,
            max_transaction=node.runtime.store.capabilities.max_transaction,
        )

    decided = await work.decide(plan)
    if hosted is not None:
        node.moves.refuse_under(hosted, [i.resource_id for batch in decided.batches for i in batch], "bulk_release")
    return await work.run(decided, work.release_batch)


def _item(item: Claimable) -> BulkItem:
    if isinstance(item, BulkItem):
        return item
    if isinstance(item, tuple):
        return BulkItem(resource_id=item[0], metadata=item[1])
    return BulkItem(resource_id=item)


class _Bulk:
    """One bulk operation under way."""

    def __init__(self, node: Node, hosted: Instance | None, request: BulkRequest, operation: str) -> None:
        self._node = node
        self._runtime = node.runtime
        self._hosted = hosted
        self._request = request
        self._operation = operation
        self._done = 0
        self._failed = 0

    async def run(
        self, plan: BulkPlan, one: Callable[[BulkPlan, Sequence[BulkItem]], Awaitable[BatchOutcome]]
    ) -> BulkReply:
        """Carry *plan* out, batch by batch, and report."""
        outcomes: list[BatchOutcome] = [BatchOutcome()] * len(plan.batches)
        seconds = [0.0] * len(plan.batches)
        clock = self._runtime.clock

        async def do(at: int) -> BatchOutcome:
            began = clock.now()
            outcomes[at] = await self._attempt(plan, plan.batches[at], one)
            seconds[at] = clock.now() - began
            await self._tell(plan, outcomes[at])
            return outcomes[at]

        if plan.continue_on_error:
            limiter = trio.CapacityLimiter(self._request.concurrency)

            async def limited(at: int) -> None:
                async with limiter:
                    await do(at)

            async with trio.open_nursery() as nursery:
                for at in range(len(plan.batches)):
                    nursery.start_soon(limited, at)
            return bulk.bulk_reply(plan, outcomes, seconds)
        for at in range(len(plan.batches)):
            if plan.stops_at(await do(at)):
                undone = await self._undo(plan, outcomes[:at])
                return bulk.bulk_reply(plan, outcomes[: at + 1], seconds[: at + 1], rolled_back=undone)
        return bulk.bulk_reply(plan, outcomes, seconds)

    async def decide(self, decide: Callable[[Snapshot], Decision[A]]) -> A:
        """Decide and commit, within the request timeout."""
        timeout = self._runtime.settings.request_timeout
        return await self._node.committer.decide(decide, timeout=timeout, what=self._operation)

    async def claim_batch(self, plan: BulkPlan, batch: Sequence[BulkItem]) -> BatchOutcome:
        """Claim one batch, and make the claims ready."""
        ids = [item.resource_id for item in batch]
        incarnation = None if self._hosted is None else await self._hosted.wait_registered()
        runtime = self._runtime

        others: Callable[[], int] = int

        def decide(view: Snapshot) -> Decision[BatchOutcome]:
            return bulk.claim_batch(view, plan, batch, reserved=others(), now=runtime.clock.now(), at=runtime.wall())

        if incarnation is None or self._hosted is None:
            return await self.decide(decide)
        with incarnation.holdings.attempt(ids), incarnation.holdings.reserve(ids) as reserved:
            others = reserved
            outcome = await self.decide(decide)
            fresh = incarnation.holdings.take(outcome.done, keep=True)
        try:
            await incarnation.holdings.prepare(fresh)
        except BaseException:
            runtime.nursery.start_soon(self._hosted.give_up_now, fresh)
            raise
        return outcome

    async def release_batch(self, plan: BulkPlan, batch: Sequence[BulkItem]) -> BatchOutcome:
        """Let running calls finish, then release one batch."""

        def decide(view: Snapshot) -> Decision[BatchOutcome]:
            return bulk.release_batch(view, plan, batch)

        if self._hosted is None:
            return await self.decide(decide)
        return await self._runtime.shelter(self._release_hosted, self._hosted, batch, decide)

    async def _release_hosted(
        self,
        hosted: Instance,
        batch: Sequence[BulkItem],
        decide: Callable[[Snapshot], Decision[BatchOutcome]],
    ) -> BatchOutcome:
        holdings = (await hosted.wait_registered()).holdings
        claims = [c for item in batch if (c := holdings.table.get(item.resource_id)) is not None]
        moving = holdings.begin(claims)
        until = self._runtime.clock.now() + self._runtime.settings.drain
        await holdings.wind_down(moving, until=until, reason=EndReason.RELEASED)
        try:
            outcome = await self.decide(decide)
        finally:
            for claim in moving:
                holdings.finish(claim, EndReason.RELEASED)
        left = [c.resource_id for c in moving if c.resource_id not in outcome.done]
        if left:
            await self._take_back(hosted, left)
        return outcome

    async def _take_back(self, hosted: Instance, targets: Sequence[str]) -> None:
        """Hold *targets* again, whose records still (or again) name this registration."""
        holdings = (await hosted.wait_registered()).holdings
        with holdings.attempt(targets):
            fresh = holdings.take(targets, keep=True)
        for claim in fresh:
            await holdings.prepare_in_background(claim)

    async def _attempt(
        self,
        plan: BulkPlan,
        batch: Sequence[BulkItem],
        one: Callable[[BulkPlan, Sequence[BulkItem]], Awaitable[BatchOutcome]],
    ) -> BatchOutcome:
        for left in range(self._request.retries, -1, -1):
            try:
                return await one(plan, batch)
            except StoreUnavailable as exc:
                if not left:
                    return bulk.failed_batch(batch, exc)
                await self._node.committer.pause(0.1)
            except AegisError as exc:
                return bulk.failed_batch(batch, exc)
        raise AssertionError("unreachable")  # pragma: no cover

    async def _undo(self, plan: BulkPlan, outcomes: Sequence[BatchOutcome]) -> bool:
        """Undo what earlier batches did; whether there was anything to undo."""
        undone = False
        for outcome in reversed(outcomes):
            if not outcome.undo:
                continue
            undone = True
            if self._hosted is None:
                await self.decide(partial(bulk.undo, outcome=outcome))
            elif self._operation == "bulk_claim":
                table = self._hosted.claims_table
                kept = {i: write for i, write in outcome.undo.items() if write.record is not None}
                fresh = [c for i in outcome.done if i not in kept and (c := table.get(i)) is not None]
                await self._hosted.give_up_now(fresh)
                try:  # what it held before it holds still; only the metadata are put back
                    await self.decide(partial(bulk.undo, outcome=attrs.evolve(outcome, undo=kept)))
                except AegisError as exc:
                    _log.warning("metadata that a bulk claim changed could not be put back: %s", exc)
            else:
                holdings = (await self._hosted.wait_registered()).holdings
                with holdings.attempt(outcome.done):
                    await self.decide(partial(bulk.undo, outcome=outcome))
                    fresh = holdings.take(outcome.done, keep=True)
                for claim in fresh:
                    await holdings.prepare_in_background(claim)
        return undone

    async def _tell(self, plan: BulkPlan, outcome: BatchOutcome) -> None:
        self._done += len(outcome.done)
        self._failed += len(outcome.failed)
        event = BulkProgress(
            service_name=plan.service_name,
            instance_id=plan.instance_id,
            at=self._runtime.wall(),
            operation=self._operation,
            done=self._done,
            failed=self._failed,
            total=plan.total,
        )
        self._runtime.emit(event)
        if self._request.on_progress is not None:
            waiting = self._request.on_progress(event)
            if inspect.isawaitable(waiting):
                await waiting

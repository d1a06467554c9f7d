"""Ownership as a cancel scope: the block of ``async with instance.own(...)``.

Outcomes of a block, whatever happens inside:

- it finished, or raised: the resource is released, its own exception passes unchanged;
- the claim ended under it: the body is cancelled and the block raises `LeaseLost` with the reason;
- this program itself released the claim or closed the node: the body is cancelled and the block ends silently;
- it was cancelled from outside: the resource is released, in limited time, and the cancellation goes on.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

from aegis_core.engine.requests import Problems
from aegis_core.errors import Forbidden, LeaseLost, ResourceConflict, StoreUnavailable
from aegis_core.models import EndReason, ResourceMetadata, Role
from aegis_core.names import resource_id_problem
from aegis_core.node.claiming import Acquisition, check_stays
from aegis_core.node.claims import Claim
from aegis_core.node.runtime import Runtime
from aegis_core.observe.outages import Repeats

if TYPE_CHECKING:
    from aegis_core.node.instance import Instance

__all__ = ["own"]

_log = logging.getLogger("aegis.claims")

_SILENT: Final = frozenset({None, EndReason.RELEASED, EndReason.CLOSED})
_TEARDOWN: Final = 2.0


@asynccontextmanager
async def own(
    runtime: Runtime,
    instance: Instance,
    resource_id: str,
    *,
    role: Role,
    priority: int,
    wait: float,
    grace: float,
    ready: bool,
    metadata: ResourceMetadata | None,
) -> AsyncIterator[Claim]:
    """See `Instance.own`."""
    problems = Problems()
    problems.note("$.resource_id", resource_id_problem(resource_id))
    problems.role("$.role", role)
    problems.priority("$.priority", priority)
    for path, seconds in (("$.wait", wait), ("$.grace", grace)):
        if seconds != math.inf:
            problems.number(path, seconds, low=0)
    problems.check()
    _check_not_own(instance, resource_id)
    if role is Role.ACTIVE:
        claim = await _take_now(runtime, instance, resource_id, metadata)
    else:
        claim = await _take_in_turn(runtime, instance, resource_id, priority, wait, metadata)
    scope = trio.CancelScope()
    claim.begin_body(scope, grace)
    entered = finished = False
    why: EndReason | None = None
    try:
        with scope:
            if claim.interrupted is not None or claim.lease.suspended:
                scope.cancel()
            if ready:
                await claim.holdings.prepare((claim,))
            instance.role_moved()
            entered = True
            yield claim
            finished = True
    finally:
        why = claim.ended or claim.interrupted
        claim.end_body()
        try:
            await _leave(runtime, claim, patient=finished)  # noqa: ASYNC102 - it shields itself, in limited time
        finally:
            instance.role_moved()
    if scope.cancelled_caught and not (entered and why in _SILENT):
        raise LeaseLost(resource_id=resource_id, epoch=claim.epoch, reason=why or EndReason.EXPIRED)


async def _take_now(runtime: Runtime, instance: Instance, resource_id: str, metadata: ResourceMetadata | None) -> Claim:
    incarnation = await instance.membership.wait_registered()
    with incarnation.holdings.attempt((resource_id,)):
        ids, wanted = (resource_id,), Acquisition(metadata=metadata)
        await runtime.measure(
            "claim",
            functools.partial(incarnation.commit_claim, ids, wanted),
            service_name=instance.service.name,
            instance_id=instance.instance_id,
            resource_ids=ids,
        )
        check_stays(instance)
        taken = incarnation.holdings.take((resource_id,), keep=False)
    if not taken:
        _check_not_own(instance, resource_id)
        raise LeaseLost(resource_id=resource_id, reason=EndReason.FORCED)
    return taken[0]


async def _take_in_turn(
    runtime: Runtime,
    instance: Instance,
    resource_id: str,
    priority: int,
    wait: float,
    metadata: ResourceMetadata | None,
) -> Claim:
    clock = runtime.clock
    _check_may_wait(instance)
    deadline = math.inf if wait == math.inf else clock.trio_time(clock.now() + wait)
    repeats = Repeats()
    with trio.CancelScope(deadline=deadline):
        while not instance.draining:
            try:
                incarnation = await instance.membership.wait_registered()
            except StoreUnavailable as exc:
                _log.log(
                    repeats.level(exc), "waiting for %s goes on: %s", resource_id, exc, extra=instance.log_fields()
                )
                continue
            repeats.over()
            holdings = incarnation.holdings
            with incarnation.while_eligible():
                async with holdings.place(resource_id) as place:
                    _check_not_own(instance, resource_id)
                    await incarnation.wait_turn(place, priority=priority, metadata=metadata)
                    check_stays(instance)
                    taken = holdings.take((resource_id,), keep=False)
                    if taken:
                        return taken[0]
        await instance.membership.wait_closed()  # who drains is promoted no more
        raise Forbidden(operation="own", target=instance.instance_id, reason="it is closed")
    owner = runtime.directory.snapshot.owner(resource_id)
    raise ResourceConflict(resource_id=resource_id, owner="" if owner is None else owner[1].instance_id)


def _check_may_wait(instance: Instance) -> None:
    if instance.draining:
        raise Forbidden(operation="own", target=instance.instance_id, reason="it is draining")


def _check_not_own(instance: Instance, resource_id: str) -> None:
    """Refuse what this instance owns already: one owner is one block."""
    if resource_id in instance.claims_table:
        conflict = ResourceConflict(resource_id=resource_id, owner=instance.instance_id)
        conflict.add_note("this very instance has claimed it already; own needs no claim before it, and no second own")
        raise conflict


async def _leave(runtime: Runtime, claim: Claim, *, patient: bool) -> None:
    """The body is over: wait for who is moving the claim, or release it, letting calls finish if *patient*."""
    if claim.moving:
        await claim.wait_moved()
    elif claim.ended is None and (patient or claim.interrupted is EndReason.RELEASED):
        runtime.nursery.start_soon(claim.instance.give_up_slowly, (claim,))
        await runtime.measure(
            "release",
            claim.wait_ended,
            service_name=claim.instance.service.name,
            instance_id=claim.instance.instance_id,
            resource_ids=(claim.resource_id,),
        )
    elif claim.ended is None:
        with trio.move_on_after(_TEARDOWN, shield=True):
            await claim.holdings.give_up((claim,), until=runtime.clock.now())
        claim.holdings.abandon((claim,))

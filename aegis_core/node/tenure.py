"""Ownership as a cancel scope: the block of ``async with instance.own(...)``.

Outcomes of a block, whatever happens inside:

- it finished, or raised: the resource is released, its own exception passes unchanged;
- the claim ended under it: the body is cancelled and the block raises `LeaseLost` with the reason;
- this program itself released the claim or closed the node: the body is cancelled and the block ends silently;
- it was cancelled from outside: the resource is released, in limited time, and the cancellation goes on.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

from aegis_core.errors import InvalidRequest, LeaseLost, ResourceConflict
from aegis_core.models import EndReason, ResourceMetadata, Role
from aegis_core.names import resource_id_problem
from aegis_core.node.claims import Claim
from aegis_core.node.line import wait_turn

if TYPE_CHECKING:
    from aegis_core.node.instance import Instance
    from aegis_core.node.node import Node

__all__ = ["own"]

_SILENT: Final = frozenset({None, EndReason.RELEASED, EndReason.CLOSED})
_TEARDOWN: Final = 2.0


@asynccontextmanager
async def own(
    node: Node,
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
    problem = resource_id_problem(resource_id)
    if problem is not None:
        raise InvalidRequest.at("$.resource_id", problem)
    if resource_id in instance.claims_table:
        raise ResourceConflict(resource_id=resource_id, owner=instance.instance_id)
    if role is Role.ACTIVE:
        claim = await _take_now(node, instance, resource_id, metadata)
    else:
        claim = await _take_in_turn(node, instance, resource_id, priority, wait, metadata)
    scope = trio.CancelScope()
    claim.body, claim.body_grace = scope, grace
    claim.body_task = trio.lowlevel.current_task()
    finished = False
    try:
        with scope:
            if ready:
                await claim.holdings.prepare((claim,))
            if claim.interrupted is not None:
                scope.cancel()
            instance.role_moved()
            yield claim
            finished = True
    finally:
        claim.body_done.set()
        with trio.move_on_after(node.runtime.settings.drain + _TEARDOWN, shield=True):
            await _leave(node, claim, patient=finished)
        instance.role_moved()
    if scope.cancelled_caught and claim.ended not in _SILENT:
        raise claim.lost()


async def _take_now(node: Node, instance: Instance, resource_id: str, metadata: ResourceMetadata | None) -> Claim:
    incarnation = await instance.wait_registered()
    with incarnation.holdings.attempt((resource_id,)):
        await instance.commit_claim(
            incarnation, (resource_id,), metadata=metadata, force=False, reason="claimed", partial=False
        )
        taken = incarnation.holdings.take((resource_id,), keep=False)
    if not taken:
        raise LeaseLost(resource_id=resource_id, reason=EndReason.FORCED)
    return taken[0]


async def _take_in_turn(
    node: Node,
    instance: Instance,
    resource_id: str,
    priority: int,
    wait: float,
    metadata: ResourceMetadata | None,
) -> Claim:
    clock = node.runtime.clock
    until = clock.now() + wait
    while True:
        incarnation = await instance.wait_registered()
        deadline = math.inf if wait == math.inf else clock.trio_time(until)
        with trio.CancelScope(deadline=deadline), incarnation.until_ended():
            with incarnation.holdings.attempt((resource_id,)):
                await wait_turn(
                    node.runtime,
                    node.committer,
                    incarnation.holdings,
                    resource_id,
                    priority=priority,
                    metadata=metadata,
                )
                taken = incarnation.holdings.take((resource_id,), keep=False)
            if taken:
                return taken[0]
        if clock.now() >= until:
            owner = node.runtime.directory.snapshot.owner(resource_id)
            holder = "" if owner is None else owner[1].instance_id
            raise ResourceConflict(resource_id=resource_id, owner=holder)


async def _leave(node: Node, claim: Claim, *, patient: bool) -> None:
    """The body is over: release the claim (letting calls finish if *patient*), or wait for who is moving it."""
    if claim.moving:
        await claim.wait_ended()
    elif claim.ended is None and claim.held:
        until = node.runtime.clock.now() + (node.runtime.settings.drain if patient else 0.0)
        await claim.holdings.give_up((claim,), until=until)
    elif claim.ended is None:
        await claim.wait_ended()

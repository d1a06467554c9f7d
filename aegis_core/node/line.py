"""Waiting in line for a target (a resource or a role group) and being promoted when it falls free.

Standbys wait in the order that the engine gives: higher priority first, then earlier. When the holder's record goes, or
its lease dies, the one at rank k (0 is the first) promotes itself by one compare-and-set after k x 30 ms. Whether the ranks
agree is a matter of time only: the compare-and-set decides. The place in the line is a record of the waiting instance's
lease; it is deleted after the promotion, and counts for nothing when the lease is dead.
"""

from __future__ import annotations

import logging
from typing import Final

import trio

from aegis_core import names
from aegis_core.engine import roles
from aegis_core.engine.decision import Decision
from aegis_core.engine.snapshot import Snapshot
from aegis_core.errors import AegisError, Held
from aegis_core.models import Ownership, ResourceMetadata
from aegis_core.node.commit import Committer
from aegis_core.node.holdings import Holdings
from aegis_core.node.runtime import Runtime

__all__ = ["wait_turn"]

_log = logging.getLogger("aegis.roles")

STEP: Final = 0.03
"""Seconds by which each rank waits longer than the one before it."""


async def wait_turn(
    runtime: Runtime,
    committer: Committer,
    holdings: Holdings,
    target: str,
    *,
    priority: int,
    metadata: ResourceMetadata | None,
) -> None:
    """Wait in line for *target* until the lease of *holdings* has it.

    Cancelled, the place in the line is given up (within a second; else it goes with the lease), but a promotion that
    was just being committed may stand: the caller looks at the view for strays.
    """
    timeout = runtime.settings.request_timeout
    clock, lease = runtime.clock, holdings.lease
    # A registration as STANDBY has taken the place already.
    tried = joined = any(place.target == target for place in runtime.directory.snapshot.places_of(lease.tag))

    async def promote() -> Ownership:
        with holdings.reserve((target,)) as room:

            def decide(view: Snapshot) -> Decision[Ownership]:
                return roles.promote(
                    view,
                    target,
                    lease=lease.tag,
                    metadata=metadata,
                    limit=runtime.settings.max_resources_per_instance,
                    reserved=room.others(),
                    at=runtime.wall(),
                )

            return await committer.decide(decide, timeout=timeout, what=f"the promotion for {target}")

    def join(view: Snapshot) -> Decision[int]:
        return roles.join_line(view, target, lease=lease.tag, priority=priority)

    try:
        while True:
            changed = runtime.directory.watch_target(target)
            view = runtime.directory.snapshot
            record = view.held(target)
            # Given to us by a transfer, or by a promotion whose answer was late. It is written again all the same: a
            # release of ours that was given up may still be on its way, and must find another revision.
            mine = record is not None and record.lease == lease.tag
            if mine or view.owner(target) is None:
                ranking = runtime.plugins.promote(target, view.line(target))
                rank = 0 if mine else roles.rank(view, target, lease=lease.tag, ranking=ranking)
                if rank:
                    with trio.move_on_at(clock.trio_time(clock.now() + rank * STEP)):
                        await changed.wait()
                        continue
                try:
                    own = lease.record
                    await runtime.measure(
                        "promote",
                        promote,
                        service_name=own.service_name,
                        instance_id=own.instance_id,
                        resource_ids=(target,),
                        traceparent=runtime.trace_of(record) if mine and record is not None else "",
                    )
                except Held:
                    pass  # somebody was quicker: wait for the next turn
                except AegisError as exc:
                    _log.warning("promotion for %s is tried again: %s", names.describe_target(target), exc)
                    await committer.pause(1.0)
                else:
                    return
            if not joined:
                tried = True
                try:
                    await committer.decide(join, timeout=timeout, what=f"joining the line for {target}")
                except AegisError as exc:
                    _log.warning("joining the line for %s is tried again: %s", names.describe_target(target), exc)
                    await committer.pause(1.0)
                else:
                    joined = True
                continue
            if runtime.directory.snapshot.owner(target) is not None:
                await changed.wait()
    finally:
        if tried:
            with trio.move_on_after(1.0, shield=True):
                await _leave(committer, lease.tag, target)


async def _leave(committer: Committer, tag: str, target: str) -> None:
    """Delete the place in the line; without a store it goes with the lease."""

    def leave(view: Snapshot) -> Decision[bool]:
        return roles.leave_line(view, target, lease=tag)

    try:
        await committer.decide(leave, timeout=1.0, what=f"leaving the line for {target}")
    except AegisError as exc:
        _log.debug("the place in the line for %s was not deleted: %s", target, exc)

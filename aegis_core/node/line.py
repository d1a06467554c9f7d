"""Waiting in line for a target (a resource or a role group) and being promoted when it falls free.

Standbys wait in the order that the engine gives: higher priority first, then earlier. When the holder's record goes, or
its lease dies, the one at rank k (0 is the first) promotes itself by one compare-and-set after k x 30 ms. Whether the ranks
agree is a matter of time only: the compare-and-set decides. The place in the line is a record of the waiting instance's
lease; it is deleted after the promotion, and counts for nothing when the lease is dead.

An instance is in a line once, however many of its tasks wait: one stands there, the others behind it. Who waits no more
leaves the place to the next of them; the last one deletes it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import attrs
import trio

from aegis_core import names
from aegis_core.engine import roles
from aegis_core.engine.decision import Decision
from aegis_core.engine.snapshot import Snapshot
from aegis_core.errors import AegisError, Held
from aegis_core.models import Ownership, ResourceMetadata, Shown
from aegis_core.node.commit import Committer
from aegis_core.node.runtime import Runtime
from aegis_core.observe.outages import Repeats

if TYPE_CHECKING:
    from aegis_core.node.holdings import Holdings

__all__ = ["Place", "leave", "wait_turn"]

_log = logging.getLogger("aegis.roles")

STEP: Final = 0.03
"""Seconds by which each rank waits longer than the one before it."""

_LEAVING: Final = 1.0


@attrs.define(eq=False, repr=False)
class Place(Shown):
    """The place of one registration in the line for one target, while any task of it wants to stand there.

    Args:
        target: What is waited for.
        turn: Held by the task that stands there; the others wait for it.
        may_stand: Its record may be there: it was seen, or a commit that writes it was sent.
    """

    target: str
    turn: trio.Lock = attrs.field(factory=trio.Lock)
    may_stand: bool = False


async def wait_turn(
    runtime: Runtime,
    committer: Committer,
    holdings: Holdings,
    place: Place,
    *,
    priority: int,
    metadata: ResourceMetadata | None,
) -> None:
    """Wait in line for what *place* is for until the lease of *holdings* has it; see `Holdings.place`.

    Cancelled, a promotion that was just being committed may stand: the caller looks at the view for strays.
    """
    timeout = runtime.settings.request_timeout
    target, clock, lease = place.target, runtime.clock, holdings.lease

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

    repeats = Repeats()
    while True:
        changed = runtime.directory.watch_target(target)
        view = runtime.directory.snapshot
        record = view.held(target)
        # It may be there already, of a registration as STANDBY, or of the task that stood there before; who may have left
        # it, by a commit that comes late.
        known = view.place(target, lease.record.instance_id)
        if known is not None and known.lease == lease.tag:
            place.may_stand = True
        stands = known is not None and (known.lease, known.priority) == (lease.tag, priority)
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
                repeats.over()  # somebody was quicker: wait for the next turn
            except AegisError as exc:
                level = repeats.level(exc)
                _log.log(level, "promotion for %s is tried again: %s", names.describe_target(target), exc)
                await committer.pause(1.0)
            else:
                await leave(committer, lease.tag, place)
                return
        if not stands:
            place.may_stand = True
            try:
                await committer.decide(join, timeout=timeout, what=f"joining the line for {target}")
            except AegisError as exc:
                level = repeats.level(exc)
                _log.log(level, "joining the line for %s is tried again: %s", names.describe_target(target), exc)
                await committer.pause(1.0)
            else:
                repeats.over()
            continue
        owned = runtime.directory.snapshot.owner(target)
        if owned is not None and owned[0].lease != lease.tag:
            await changed.wait()


async def leave(committer: Committer, tag: str, place: Place) -> None:
    """Delete the record of *place*, which the lease with tag *tag* has; what fails within a second goes with the lease."""

    def decide(view: Snapshot) -> Decision[bool]:
        return roles.leave_line(view, place.target, lease=tag)

    if not place.may_stand:
        return
    place.may_stand = False
    with trio.move_on_after(_LEAVING, shield=True):
        try:
            await committer.decide(decide, timeout=_LEAVING, what=f"leaving the line for {place.target}")
        except AegisError as exc:
            _log.debug("the place in the line for %s was not deleted: %s", place.target, exc)

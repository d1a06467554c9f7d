"""Releases: the owner of what is to be freed carries them out, and tells truly what this very release has freed.

Others may take a resource at the same moment, by force or by a transfer that is under way. So what the owner did not
delete itself is looked at again: it is somebody else's by then, who is told, or its own once more, and is released again.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import attrs

from aegis_core.engine import resources
from aegis_core.engine.decision import Decision
from aegis_core.engine.requests import checked_ids
from aegis_core.engine.snapshot import Snapshot
from aegis_core.errors import ResourceConflict, StoreUnavailable, Unavailable
from aegis_core.models import Outcome, ReleaseReply, ServiceInstance
from aegis_core.node.errands import has_scopes

if TYPE_CHECKING:
    from aegis_core.node.instance import Instance
    from aegis_core.node.node import Node

__all__ = ["Releases"]

_PAUSE: Final = 0.02

_Decide = Callable[[Sequence[str]], Callable[[Snapshot], Decision[ReleaseReply]]]
_Carry = Callable[[Sequence[str]], Awaitable[Sequence[str]]]


class Releases:
    """Releases, as one node carries them out or asks for them."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._runtime = node.runtime

    async def release(
        self, service_name: str, instance_id: str, resource_ids: Sequence[str], *, lease: str | None
    ) -> ReleaseReply:
        """See `Registry.release`; *lease* is the tag of the lease that was shown."""
        runtime, ids = self._runtime, checked_ids(resource_ids)
        until = runtime.request_deadline()
        hosted = self._node.hosted_by(service_name, instance_id, lease)
        if hosted is not None:
            await self._release_hosted(hosted, ids, partial(_releasing, service_name, instance_id, None))
            return ReleaseReply(released=ids)
        decide = partial(_releasing, service_name, instance_id, lease)
        record = await self._node.moves.find(service_name, instance_id, lease=lease, until=until)
        if has_scopes(record):
            await self._release_all(instance_id, ids, decide, partial(self.ask, record))
            return ReleaseReply(released=ids)
        return await self._node.committer.decide(
            decide(ids), timeout=runtime.left(until), what="the release", asked_by=instance_id
        )

    async def _release_hosted(self, instance: Instance, ids: Sequence[str], decide: _Decide) -> None:
        gone = await self._wait_released(instance, ids)
        left = [target for target in ids if target not in gone]
        only = instance.claims_table.get(left[0]) if len(left) == 1 else None
        is_held = only is not None and only.held  # releasing the only one will prove it
        carry = partial(self.release_here, instance)
        await self._release_all(instance.instance_id, left, decide, carry, is_held=is_held, is_begun=bool(gone))

    async def _wait_released(self, instance: Instance, ids: Sequence[str]) -> frozenset[str]:
        """Wait for what is leaving already; those that were released by that: this is the same release."""
        claims = [claim for target in ids if (claim := instance.claims_table.get(target)) is not None]
        leaving = [claim for claim in claims if claim.moving and not claim.is_mine]
        for claim in leaving:
            await claim.wait_moved()
        deleted = {claim.resource_id: claim.deleted for claim in leaving}
        _check_known(deleted)
        return frozenset(target for target, is_deleted in deleted.items() if is_deleted)

    async def _release_all(
        self,
        instance_id: str,
        ids: Sequence[str],
        decide: _Decide,
        carry: _Carry,
        *,
        is_held: bool = False,
        is_begun: bool = False,
    ) -> None:
        """Have *ids* released until none is left, or one is seen not to be the instance's.

        Args:
            instance_id: Whose they are expected to be.
            ids: What to release.
            decide: Whether they are, by the view.
            carry: Releases them; answers those that it did not delete.
            is_held: They are: no need to ask that first.
            is_begun: Something that was asked for is released already.

        Raises:
            AegisError: One is not the instance's; or as *carry* raised it.
            ResourceConflict: One stays the instance's, whose other tasks claim it, for the time of a request.
            StoreUnavailable: No answer: MAYBE_EXECUTED once something has been released.
        """
        clock, timeout = self._runtime.clock, self._runtime.settings.request_timeout
        left, patience = ids, math.inf
        try:
            while left:
                if not is_held:
                    what = "the release"
                    await self._node.committer.check(decide(left), timeout=timeout, what=what, asked_by=instance_id)
                if patience < math.inf:
                    if clock.now() > patience:
                        why = "another task claims it, which takes long"
                        raise ResourceConflict(resource_id=left[0], owner=instance_id, reason=why)
                    await self._node.committer.pause(_PAUSE)
                left = await carry(left)
                is_held, patience = False, min(patience, clock.now() + timeout)
        except Unavailable as exc:
            if exc.outcome is Outcome.NOT_SENT and (is_begun or len(left) < len(ids)):
                raise attrs.evolve(exc, outcome=Outcome.MAYBE_EXECUTED) from exc
            raise

    async def release_here(self, instance: Instance, ids: Sequence[str]) -> Sequence[str]:
        """Release those of *ids* that an instance of this node owns, letting calls finish within the drain time.

        Returns those whose records this did not delete: somebody else has taken them, or is about to claim them here.

        Raises:
            StoreUnavailable: Nobody knows whether one was deleted, or it will be when the store answers (MAYBE_EXECUTED).
        """
        holdings = (await instance.membership.wait_registered()).holdings
        asked = dict.fromkeys(ids)
        if any(target not in holdings.table for target in asked):  # given to it a moment ago, as who asks may know
            await self._node.committer.sync_within(self._runtime.settings.request_timeout)
        claims = [claim for target in asked if (claim := holdings.table.get(target)) is not None]
        is_later = any(claim.is_mine for claim in claims)
        # What is about to be adopted: that there is no need to begin with.
        unborn = [target for target in asked if target not in holdings.table and holdings.is_recorded(target)]
        await instance.give_up_all(claims)
        deleted = {claim.resource_id: is_later or claim.deleted for claim in claims}
        deleted |= await holdings.release_records(unborn, asked=True)
        _check_known(deleted)
        return [target for target in asked if not deleted.get(target)]

    async def ask(self, record: ServiceInstance, ids: Sequence[str]) -> Sequence[str]:
        """Have another node's instance release *ids*, within the request timeout and the drain time: see `release_here`."""
        until = self._runtime.request_deadline() + self._runtime.settings.drain
        gone = await self._node.errands.ask(record, "release", {"resource_ids": list(ids)}, until=until)
        return [target for target in ids if not (isinstance(gone, list) and target in gone)]


def _releasing(
    service_name: str, instance_id: str, lease: str | None, ids: Sequence[str]
) -> Callable[[Snapshot], Decision[ReleaseReply]]:
    return lambda view: resources.release(view, service_name, instance_id, ids, lease=lease)


def _check_known(deleted: Mapping[str, bool | None]) -> None:
    """Refuse to tell who owns what was to be deleted, where that may be so because it was: where *deleted* is None.

    Raises:
        StoreUnavailable: Nobody knows whether the store carries a release of one of them out (MAYBE_EXECUTED).
    """
    lost = [target for target, is_deleted in deleted.items() if is_deleted is None]
    if lost:
        reason = f"the release of {', '.join(lost[:3])} had no answer: it may be carried out yet, or have been"
        raise StoreUnavailable(reason=reason, outcome=Outcome.MAYBE_EXECUTED)

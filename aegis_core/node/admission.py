"""The gate before a handler: may this instance serve a request for that resource now?

An instance serves its own claim table, never the view: what the view shows may be over, or not have begun. The view
only helps to tell a caller where else to ask. A request that shows a *newer* epoch than is known here proves that this
node is behind, so it looks once more after a `sync`; one that shows an older epoch comes from a caller that is behind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import trio

from aegis_core.envelopes import RequestEnvelope
from aegis_core.errors import InvalidRequest, Misdirected, NoInstance, ResourceConflict, StoreUnavailable
from aegis_core.models import ABSENT, Outcome
from aegis_core.names import resource_id_problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aegis_core.node.claims import Claim
    from aegis_core.node.runtime import Runtime
    from aegis_core.node.service import Service
    from aegis_core.principals import Principal

__all__ = ["Admission", "ServedInstance"]


class ServedInstance(Protocol):
    """What serving needs of an `Instance`."""

    @property
    def instance_id(self) -> str:
        """Its id."""
        ...

    @property
    def service(self) -> Service:
        """What it serves."""
        ...

    @property
    def draining(self) -> bool:
        """Whether it takes no more work."""
        ...

    @property
    def claims_table(self) -> Mapping[str, Claim]:
        """What it holds, by resource id."""
        ...

    async def activate(self, resource_id: str) -> Claim:
        """Claim *resource_id* on demand; returns when it is ready.

        Raises:
            ResourceConflict: Another instance was quicker.
        """
        ...

    async def reserved(self, method: str, params: Mapping[str, object], principal: Principal) -> object:
        """Answer one of the library's own methods."""
        ...


class Admission:
    """Finds the claim under which a request is served, waiting and activating as needed.

    Args:
        runtime: The node.
        instance: Whose requests they are.
    """

    def __init__(self, runtime: Runtime, instance: ServedInstance) -> None:
        self._directory = runtime.directory
        self._instance = instance
        self._activating: dict[str, trio.Event] = {}

    async def admit(self, request: RequestEnvelope, resource_id: str) -> Claim:
        """The ready claim of *resource_id*; returns without a checkpoint after it was last checked.

        Raises:
            InvalidRequest: It is no resource id.
            Misdirected: This instance does not hold it, or not under the epoch shown; says what is known.
            NoInstance: It was to be claimed on demand, and this instance is draining.
            AegisError: As claiming it on demand was refused.
        """
        problem = resource_id_problem(resource_id)
        if problem is not None:
            raise InvalidRequest.at("$.resource_id", problem)
        synced = activated = False
        while True:
            claim = self._instance.claims_table.get(resource_id)
            if claim is not None and claim.serves(request.epoch):
                if claim.is_ready:
                    return claim
                await claim.wait_ready()
            elif not synced and request.epoch > self._known_epoch(claim, resource_id):
                synced = True
                await self._sync()
            elif claim is None and request.activate and not activated and self._is_free(resource_id):
                activated = await self._activate(resource_id)
            else:
                raise self._misdirected(claim, resource_id)

    def misdirected(self, resource_id: str) -> Misdirected:
        """The answer to a request for *resource_id* that is not even considered."""
        return self._misdirected(self._instance.claims_table.get(resource_id), resource_id)

    def _known_epoch(self, claim: Claim | None, resource_id: str) -> int:
        if claim is not None:
            return claim.epoch
        record = self._directory.snapshot.held(resource_id)
        return ABSENT if record is None else record.epoch

    async def _sync(self) -> None:
        try:
            await self._directory.sync()
        except StoreUnavailable:
            return  # The answer is then made of what is known; the caller tries again.

    def _is_free(self, resource_id: str) -> bool:
        return self._instance.service.activates(resource_id) and self._directory.snapshot.owner(resource_id) is None

    async def _activate(self, resource_id: str) -> bool:
        """Claim it, or wait for the request that is claiming it. Whether this request's own attempt is over."""
        if self._instance.draining:
            raise NoInstance(
                service_name=self._instance.service.name,
                reason=f"{self._instance.instance_id} is draining",
                outcome=Outcome.REJECTED,
            )
        under_way = self._activating.get(resource_id)
        if under_way is not None:
            await under_way.wait()
            return False
        self._activating[resource_id] = trio.Event()
        try:
            await self._instance.activate(resource_id)
        except ResourceConflict:
            pass  # The caller is told whose it is.
        except StoreUnavailable:
            found = self._directory.snapshot.owner(resource_id)
            if found is None or found[1].instance_id == self._instance.instance_id:
                raise
            # So he is here, whatever became of this attempt.
        finally:
            self._activating.pop(resource_id).set()
        return True

    def _misdirected(self, claim: Claim | None, resource_id: str) -> Misdirected:
        if claim is not None and not claim.leaving and claim.held:
            owner, epoch = self._instance.instance_id, claim.epoch
        else:
            found = self._directory.snapshot.owner(resource_id)
            owner = "" if found is None else found[1].instance_id
            epoch = self._known_epoch(claim, resource_id)
            if found is not None:
                epoch = max(epoch, found[0].epoch)
        return Misdirected(resource_id=resource_id, epoch=epoch, owner=owner)

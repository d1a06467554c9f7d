"""Work that goes on after its claim ended: it reaches no checkpoint, and only the epoch protects the resource. Tell so."""

from __future__ import annotations

from typing import Final

import trio

from aegis_core.events import ScopeOverran
from aegis_core.node.claims import Claim
from aegis_core.node.runtime import Runtime

__all__ = ["watch_overrun"]


TOLERANCE: Final = 0.05
"""Seconds for which unwinding may take after the end of a claim."""


async def watch_overrun(runtime: Runtime, claim: Claim) -> None:
    """Return when nothing runs under the ended *claim* any more; until then, tell at growing intervals that it does."""
    clock = runtime.clock
    ended = clock.now()
    patience = TOLERANCE
    while True:
        with trio.CancelScope(deadline=clock.trio_time(clock.now() + patience)):
            await claim.wait_unwound()
            return
        seconds = clock.now() - ended
        instance = claim.instance
        runtime.emit(
            ScopeOverran(
                service_name=instance.service.name,
                instance_id=instance.instance_id,
                resource_id=claim.resource_id,
                at=runtime.wall(),
                epoch=claim.epoch,
                seconds=seconds,
            )
        )
        patience = max(1.0, seconds)

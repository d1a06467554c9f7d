"""A service at work, for tests of what ends it."""

from __future__ import annotations

import trio

from aegis_core.node.call import Call
from aegis_core.node.claims import Claim
from aegis_core.node.service import Service

__all__ = ["make_service"]


def make_service(seen: list[str] | None = None) -> Service:
    """A service that notes in *seen* what it releases, and when its work is cut off; its work tells who did it."""
    service = Service("svc", version="1.0.0")
    log = [] if seen is None else seen

    @service.on_release
    async def unload(claim: Claim) -> None:
        assert claim.held
        log.append(f"released {claim.resource_id}")
        await trio.lowlevel.checkpoint()

    @service.method
    async def work(call: Call, seconds: float = 0) -> str:
        try:
            await trio.sleep(seconds)
        except trio.Cancelled:
            log.append("cut off")
            raise
        assert call.instance is not None
        return call.instance.instance_id

    return service

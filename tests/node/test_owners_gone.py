"""Bulk releases whose owner is gone before it could be asked what became of all of them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from trio.testing import MockClock

from aegis_core.engine import bulk
from aegis_core.errors import InstanceNotFound
from aegis_core.models import ServiceInstance
from aegis_core.node.releases import Releases
from tests.node.test_contested_releases import world


async def test_what_the_owner_said_it_has_released_is_released(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the rest it is told that the owner is gone."""
    ask = Releases.ask

    def refuse(*_args: object, **_options: object) -> None:
        raise InstanceNotFound(instance_id="owner")

    async def ask_the_dying(self: Releases, record: ServiceInstance, ids: Sequence[str]) -> Sequence[str]:
        await ask(self, record, ["x"])
        monkeypatch.setattr(bulk, "release_batch", refuse)
        return ["y"]

    monkeypatch.setattr(Releases, "ask", ask_the_dying)
    async with world() as it:
        await it.owner.claim("x", "y")
        reply = await it.there.registry.bulk_release("svc", "owner", ["x", "y"], continue_on_error=True)
        assert reply.done == ("x",)
        assert [(failure.resource_id, failure.error_code) for failure in reply.failed] == [("y", "INSTANCE_NOT_FOUND")]

"""Adoption: an instance takes over what somebody else has given to it."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import trio
from trio.testing import MockClock

from aegis_core.models import EndReason
from aegis_core.node.claims import Claim
from aegis_core.node.holdings import Holdings
from aegis_core.node.node import open_node
from aegis_core.node.service import Service


@pytest.mark.parametrize("is_moved", [True, False], ids=["moved", "kept"])
async def test_what_is_moved_on_at_once_is_not_taken_over_before(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, *, is_moved: bool
) -> None:
    """That would be work under a claim that leaves, and make the move fail. Where the move comes to nothing, it is made up for."""
    prepare, moving = Holdings.prepare_in_background, list[Claim]()
    acquired: list[str] = []
    service = Service("svc", version="1.0.0")

    @service.on_acquire
    async def load(claim: Claim) -> None:
        await trio.sleep(1)
        acquired.append(claim.instance.instance_id)

    def begin_to_move(holdings: Holdings, claims: Iterable[Claim]) -> None:
        adopted = list(claims)
        moving.extend(holdings.begin(adopted))
        prepare(holdings, adopted)

    async with open_node("memory://test") as node, open_node("memory://test") as other:
        async with node.serve(service, instance_id="one") as one, other.serve(service, instance_id="two") as two:
            await one.claim("a")
            monkeypatch.setattr(Holdings, "prepare_in_background", begin_to_move)
            await one.transfer("a", to="two")
            await trio.sleep(5)
            (claim,) = moving
            assert claim is two.claims["a"]
            assert not claim.busy
            if is_moved:
                assert two.incarnation is not None
                two.incarnation.holdings.finish(claim, EndReason.TRANSFERRED)
            else:
                claim.stay()
            await trio.sleep(5)
            assert acquired == (["one"] if is_moved else ["one", "two"])
            assert claim.is_ready is not is_moved

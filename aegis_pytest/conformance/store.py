"""The suite for stores."""

from __future__ import annotations

import pytest

from aegis_pytest.conformance.commits import CommitConformance
from aegis_pytest.conformance.expiry import ExpiryConformance
from aegis_pytest.conformance.steps import open_mirror, open_store, put, store_of, transaction
from aegis_pytest.conformance.watches import WatchConformance
from aegis_pytest.harness import Harness

__all__ = ["StoreConformance"]


class StoreConformance(CommitConformance, ExpiryConformance, WatchConformance):
    """Every promise of `aegis_core.backend.Store`. Subclass it and override `harness`, and `clock` where time is virtual."""

    @pytest.mark.parametrize("where", ["at once", "among watches"])
    async def test_exception_leaves_the_backend_as_itself(self, harness: Harness, clock: object, where: str) -> None:
        """What the user of a backend raises comes out of its block unwrapped, whatever works behind it; others go on."""
        thrown = LookupError("of the user")

        async def leave() -> None:
            async with harness.open_peer() as backend:
                if where == "at once":
                    raise thrown
                store = store_of(backend)
                await store.commit(transaction(put("a")))
                async with store.watch() as feed:
                    await feed.receive()
                    raise thrown

        async with open_store(harness) as other, open_mirror(other) as mirror:
            with pytest.raises(LookupError) as caught:
                await leave()
            assert caught.value is thrown
            await other.commit(transaction(put("b")))
            await mirror.catch_up(other)
            assert mirror.values["b"] == b"v"

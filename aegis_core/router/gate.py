"""The way of clients' transactions into the router's store."""

from __future__ import annotations

from typing import Final

import attrs

from aegis_core.backend import Conflict, Transaction
from aegis_core.engine.decision import NotYetKnown
from aegis_core.node.node import Node
from aegis_core.principals import Principal
from aegis_core.router.guard import Verdict, judge

__all__ = ["Gate"]

_LOOKS: Final = 3


class Gate:
    """Commits what clients have decided, each transaction judged first; see `aegis_core.router.guard`.

    Args:
        node: The router's node: its view judges, its plug-ins permit, its store commits.
    """

    def __init__(self, node: Node) -> None:
        self._runtime: Final = node.runtime

    def __repr__(self) -> str:
        return f"<Gate to {self._runtime.store!r}>"

    async def commit(self, principal: Principal, transaction: Transaction) -> tuple[int, ...]:
        """Commit *transaction* in the name of *principal*. Cancelled, its fate is open.

        Raises:
            InvalidRequest: It writes what no node would write.
            Forbidden: It shows too few lease ids, and *principal* has no permission.
            Conflict, Indeterminate, StoreUnavailable, ValueError: As of `aegis_core.backend.Store.commit`.
        """
        verdict = await self._judge(transaction)
        for demand in verdict.demands:
            self._runtime.plugins.authorize(principal, demand.operation, demand.target)
        for record in verdict.registrations:
            self._runtime.plugins.check_registration(record)
        return await self._runtime.store.commit(attrs.evolve(transaction, proofs=()))

    async def _judge(self, transaction: Transaction) -> Verdict:
        """The verdict: what it lacks on fresh evidence only, because the view may be behind what the client knows."""
        directory = self._runtime.directory
        found: Verdict | None = None
        for look in range(_LOOKS):
            if look:
                await directory.sync()
            try:
                found = judge(directory.snapshot, transaction)
            except NotYetKnown:
                found = None
                continue
            if look or not found.demands:
                return found
        if found is None:
            raise Conflict  # It expects a revision that there has never been.
        return found

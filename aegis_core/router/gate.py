"""The way of clients' transactions into the router's store."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC
from typing import Final

import attrs

from aegis_core import codec
from aegis_core.backend import Conflict, Put, Transaction
from aegis_core.engine.decision import NotYetKnown, Write
from aegis_core.engine.limits import check_limit
from aegis_core.errors import ResourceLimitExceeded
from aegis_core.models import TransferRecord
from aegis_core.node.node import Node
from aegis_core.node.reservations import Room
from aegis_core.principals import Principal
from aegis_core.router.guard import Gain, Verdict, judge

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

        Its audit record is kept no longer than the router's own are. Where it says that somebody asked who is neither
        *principal* nor an instance that showed its lease, it says so in the words of *principal*.

        Raises:
            InvalidRequest: It writes what no node would write.
            Forbidden: It shows too few lease ids, and *principal* has no permission; or a plug-in refuses what it is about.
            ResourceLimitExceeded: An instance would hold more than it may.
            Conflict, Indeterminate, StoreUnavailable, ValueError: As of `aegis_core.backend.Store.commit`.
        """
        verdict = await self._judge(transaction)
        for demand in verdict.demands:
            self._runtime.plugins.authorize(principal, demand.operation, demand.target)
        for demand in verdict.own:
            self._runtime.plugins.authorize(principal, demand.operation, demand.target, own=True)
        for record in verdict.registrations:
            self._runtime.plugins.check_registration(record)
        reserve, writes = self._runtime.reservations.reserve, verdict.writes
        with ExitStack() as stack:
            rooms: list[tuple[Gain, Room]] = []
            for gain in verdict.gains:
                who = gain.instance
                room = stack.enter_context(reserve(who.service_name, who.instance_id, gain.targets))
                rooms.append((gain, room))
            await self._check_room(rooms)
            if writes:
                writes = tuple(self._vouched(write, principal, verdict) for write in writes)
                transaction = _rewritten(transaction, writes)
            revisions = await self._runtime.store.commit(attrs.evolve(transaction, proofs=()))
            if writes:
                # Counted from here on, also where the next transaction comes before the watch has told of this one.
                self._runtime.directory.fold(writes, revisions)
            return revisions

    async def _check_room(self, rooms: Sequence[tuple[Gain, Room]]) -> None:
        """Make sure that nobody gains more than it may hold.

        Raises:
            ResourceLimitExceeded: Somebody would.
            Conflict: That depends on what others are acquiring for the same instance.
        """
        runtime = self._runtime
        limit = runtime.settings.max_resources_per_instance
        for look in range(_LOOKS):
            view = runtime.directory.snapshot
            if look:
                await runtime.directory.sync()
            try:
                for gain, room in rooms:
                    held = view.held_by(gain.instance.lease)
                    asked = sum(1 for target in gain.targets if target not in held)
                    check_limit(view, gain.instance, asked, limit=limit, reserved=room.others())
            except NotYetKnown:
                continue
            except ResourceLimitExceeded:
                if look:
                    raise
                continue
            return
        raise Conflict

    def _vouched(self, write: Write, principal: Principal, verdict: Verdict) -> Write:
        """*write* as the router can answer for it, where that is an audit record."""
        record = write.record
        if not isinstance(record, TransferRecord):
            return write
        assert write.ttl is not None  # or it had been refused
        kind, _, told = record.requested_by.partition(":")
        is_known = (
            principal.is_admin
            or record.requested_by == str(principal)
            or (record.kind == "sweep" and record.requested_by == "janitor")
            or (kind == "instance" and set(told.split(", ")) <= verdict.shown)
        )
        by = record.requested_by if is_known else f"{record.requested_by} (says {principal})"
        ttl = min(write.ttl, self._runtime.settings.audit_retention)
        return attrs.evolve(write, record=attrs.evolve(record, requested_by=by), ttl=ttl)

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


def _rewritten(transaction: Transaction, writes: Sequence[Write]) -> Transaction:
    """*transaction*, with the audit records as they are in *writes*."""
    return attrs.evolve(
        transaction,
        operations=tuple(
            attrs.evolve(op, value=codec.encode_record(write.record, UTC), ttl=write.ttl)
            if isinstance(op, Put) and isinstance(write.record, TransferRecord)
            else op
            for op, write in zip(transaction.operations, writes, strict=True)
        ),
    )

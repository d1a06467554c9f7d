"""The lease ids of what this node registered: what it shows a store that asks in whose name a transaction is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from aegis_core.engine.decision import Write
from aegis_core.engine.view import View
from aegis_core.models import Record, TransferRecord
from aegis_core.names import InstanceKey, StandbyKey, TargetKey, lease_tag

__all__ = ["Proofs"]

_SLACK: Final = 64


class Proofs:
    """Secrets by their public tags.

    Args:
        view: The node's view, which tells what a transaction would replace, and which leases live.
    """

    def __init__(self, view: View) -> None:
        self._view = view
        self._lease_ids: dict[str, str] = {}
        self._most = _SLACK

    def __repr__(self) -> str:
        return f"<Proofs of {len(self._lease_ids)} leases>"

    def __len__(self) -> int:
        return len(self._lease_ids)

    def keep(self, lease_id: str) -> str:
        """Remember *lease_id* while its lease lives, also one that is about to begin; its public tag."""
        if len(self._lease_ids) >= self._most:
            self._forget_dead()
        tag = lease_tag(lease_id)
        self._lease_ids.pop(tag, None)
        self._lease_ids[tag] = lease_id
        return tag

    def of(self, writes: Sequence[Write]) -> tuple[str, ...]:
        """What there is to show for *writes*: the lease ids of all that they name, or replace."""
        tags = [tag for write in writes for record in (write.record, self._replaced(write)) if (tag := _lease(record))]
        return tuple(self._lease_ids[tag] for tag in dict.fromkeys(tags) if tag in self._lease_ids)

    def _replaced(self, write: Write) -> Record | None:
        key, view = write.named, self._view
        if isinstance(key, TargetKey):
            return view.held(key.target)
        if isinstance(key, InstanceKey):
            return view.instance(key.service_name, key.instance_id)
        return view.place(key.target, key.instance_id) if isinstance(key, StandbyKey) else None

    def _forget_dead(self) -> None:
        """Keep those that live, and the newest, which may not have begun."""
        newest = list(self._lease_ids)[-_SLACK // 2 :]
        self._lease_ids = {
            tag: secret
            for tag, secret in self._lease_ids.items()
            if tag in newest or self._view.by_lease(tag) is not None
        }
        self._most = 2 * len(self._lease_ids) + _SLACK


def _lease(record: Record | None) -> str:
    return "" if record is None or isinstance(record, TransferRecord) else record.lease

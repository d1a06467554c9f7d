"""The lease ids that a node shows a store that asks for them."""

from __future__ import annotations

from datetime import UTC, datetime

from aegis_core.backend import ABSENT
from aegis_core.engine.decision import Write
from aegis_core.engine.snapshot import Snapshot
from aegis_core.models import Ownership, ServiceInstance, Standby
from aegis_core.names import InstanceKey, StandbyKey, TargetKey, instance_key, lease_tag, standby_key, transfer_key
from aegis_core.node.proofs import Proofs

AT = datetime(2026, 1, 1, tzinfo=UTC)


def instance(name: str, lease_id: str) -> ServiceInstance:
    """A record of the service ``svc``."""
    return ServiceInstance(
        service_name="svc", instance_id=name, lease=lease_tag(lease_id), registered_at=AT, last_heartbeat=AT
    )


def owned(target: str, lease_id: str) -> Ownership:
    """The owner of *target*."""
    return Ownership(target=target, service_name="svc", instance_id="x", lease=lease_tag(lease_id), registered_at=AT)


def waiting(target: str, lease_id: str) -> Standby:
    """Who waits for *target*."""
    return Standby(target=target, service_name="svc", instance_id="x", lease=lease_tag(lease_id))


def test_what_a_transaction_names_or_replaces_is_shown() -> None:
    """Each lease id once, and no other; not what this node does not know."""
    view = Snapshot()
    view.put(InstanceKey("svc", "one"), instance("one", "first"), 1, now=0.0, at=AT)
    view.put(TargetKey("a"), owned("a", "second"), 2, now=0.0, at=AT)
    view.put(StandbyKey("a", "x"), waiting("a", "third"), 3, now=0.0, at=AT)
    view.advance(3, now=0.0, at=AT)
    proofs = Proofs(view)
    for lease_id in ("first", "second", "third", "fourth"):
        proofs.keep(lease_id)
    assert "first" not in repr(proofs)
    assert proofs.of([Write(instance_key("svc", "one"), None, 1)]) == ("first",)
    assert proofs.of([Write.owner(owned("a", "fourth"), 2), Write.no_owner("b", 1)]) == ("fourth", "second")
    assert proofs.of([Write.owner(owned("a", "second"), 2)]) == ("second",)
    assert proofs.of([Write(standby_key("a", "x"), None, 3)]) == ("third",)
    assert proofs.of([Write.owner(owned("c", "another node's"), ABSENT)]) == ()
    assert proofs.of([Write(transfer_key("t"), None, 3)]) == ()


def test_lease_ids_of_the_dead_are_forgotten() -> None:
    """Those that live are kept, however many came after them."""
    view = Snapshot()
    view.put(InstanceKey("svc", "one"), instance("one", "lives"), 1, now=0.0, at=AT)
    view.advance(1, now=0.0, at=AT)
    proofs = Proofs(view)
    proofs.keep("lives")
    for number in range(1000):
        proofs.keep(f"dead {number}")
    assert proofs.of([Write(instance_key("svc", "one"), None, 1)]) == ("lives",)
    assert proofs.of([Write.owner(owned("c", "dead 999"), ABSENT)]) == ("dead 999",)
    assert len(proofs) < 300

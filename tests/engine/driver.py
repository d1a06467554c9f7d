"""A store and one view of it for tests of the engine: commits what is decided, and tells the view at once."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TypeVar

from aegis_core import names
from aegis_core.engine import instances
from aegis_core.engine.decision import Audit, Decision, Write
from aegis_core.engine.snapshot import Snapshot
from aegis_core.errors import Conflict
from aegis_core.events import Event
from aegis_core.models import ABSENT, Record, Role, ServiceInstance

A = TypeVar("A")

AT = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
AUDIT = Audit(transfer_id="transfer_0123456789abcdef", reason="because", requested_by="node:test")


def candidate(instance_id: str = "a", service_name: str = "svc", **fields: object) -> ServiceInstance:
    """The record of an instance that wants to register; its lease tag is ``{instance_id}-lease`` unless given."""
    values: dict[str, object] = {
        "service_name": service_name,
        "instance_id": instance_id,
        "lease": f"{instance_id}-lease",
        "endpoints": (f"memory:{instance_id}",),
        "registered_at": AT,
        "last_heartbeat": AT,
        **fields,
    }
    return ServiceInstance(**values)  # type: ignore[arg-type]


class Driver:
    """A store of records, and `view`, which is level with it after each step unless a test holds it back.

    `events` collects what the view told; `now` is the monotonic time of each step.
    """

    def __init__(self) -> None:
        self.view = Snapshot()
        self.records: dict[str, Record] = {}
        self.revisions: dict[str, int] = {}
        self.revision = 10
        self.now = 100.0
        self.events: list[Event] = []
        self.level()
        self.events.clear()

    def level(self) -> None:
        """Tell the view that it has seen everything."""
        self.events += self.view.advance(self.revision, now=self.now, at=AT)

    def run(self, decision: Decision[A], *, level: bool = True) -> A:
        """Commit *decision* and answer.

        Raises:
            Conflict: It expected another revision; nothing was changed.
        """
        return decision.answer(self.commit(decision.writes, level=level))

    def commit(self, writes: tuple[Write, ...], *, level: bool = True) -> tuple[int, ...]:
        """Apply *writes* as one transaction and fold them into the view."""
        for write in writes:
            if self.revisions.get(write.key, ABSENT) != write.expect:
                raise Conflict(key=write.key)
        done = tuple(self.write(write.key, write.record) for write in writes)
        if level:
            self.level()
        return done

    def write(self, key: str, record: Record | None, *, expired: bool = False) -> int:
        """Write one key without asking, and tell the view; answers the revision."""
        self.revision += 1
        if record is None:
            self.records.pop(key, None)
            self.revisions.pop(key, None)
        else:
            self.records[key] = record
            self.revisions[key] = self.revision
        self.tell(key, record, self.revision, expired=expired)
        return self.revision

    def tell(self, key: str, record: Record | None, revision: int, *, expired: bool = False) -> None:
        """Tell the view of a change, whether the store has it or not."""
        parsed = names.parse_key(key)
        assert parsed is not None
        if record is None:
            found = self.view.delete(parsed, revision, expired=expired, now=self.now, at=AT)
        else:
            found = self.view.put(parsed, record, revision, now=self.now, at=AT)
        self.events += found

    def garble(self, key: str) -> None:
        """Write something that cannot be decoded."""
        self.revision += 1
        self.records.pop(key, None)
        self.revisions[key] = self.revision
        parsed = names.parse_key(key)
        assert parsed is not None
        self.events += self.view.put(parsed, None, self.revision, now=self.now, at=AT)
        self.level()

    def register(
        self,
        instance_id: str = "a",
        service_name: str = "svc",
        *,
        role: Role | None = None,
        target: str | None = None,
        **fields: object,
    ) -> ServiceInstance:
        """Register an instance; answers its record."""
        record = candidate(instance_id, service_name, **fields)
        return self.run(instances.register(self.view, record, role=role, target=target, at=AT)).instance

    def expire(self, instance_id: str, service_name: str = "svc", *, level: bool = True) -> None:
        """End a lease, as a store does whose TTL has passed."""
        self.write(names.instance_key(service_name, instance_id), None, expired=True)
        if level:
            self.level()

    def told(self, kind: type[Event]) -> list[Event]:
        """The events of one kind so far."""
        return [event for event in self.events if isinstance(event, kind)]

    def hear(self, instance: ServiceInstance) -> None:
        """The instance writes its record, as given, anew."""
        self.write(names.instance_key(instance.service_name, instance.instance_id), instance)
        self.level()

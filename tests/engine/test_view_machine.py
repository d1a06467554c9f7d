"""The view against a naive one, whatever order a feed, early folds, merged changes and new snapshots come in.

The machine writes records at random, some of them garbage. The feed may merge the changes of a key to its newest, be
interrupted anywhere, and start anew; one's own writes are folded early, late, or twice. Whenever the view is level it must
equal what a few dictionaries say; at any time, what its events told must add up to what it shows.
"""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from aegis_core import names
from aegis_core.engine import queries
from aegis_core.engine.snapshot import Snapshot
from aegis_core.events import (
    Event,
    InstanceDeregistered,
    InstanceLost,
    InstanceRegistered,
    ResourceExpired,
    ResourceRegistered,
    ResourceReleased,
    ResourceTransferred,
    RoleChanged,
)
from aegis_core.models import (
    Ownership,
    Record,
    ResourceMetadata,
    Role,
    ServiceInstance,
    Standby,
    TransferRecord,
)
from tests.engine.driver import AT, candidate

GROUP = names.role_target("svc", "g")
TARGETS = ["x", "y", "z", GROUP]
INSTANCES = ["a", "b"]
LEASES = ["a1", "a2", "b1", "b2", ""]

Written = tuple[Record | None, int]


def _is_alive(store: dict[names.Key, Written], record: Ownership | Standby) -> bool:
    lease = store.get(names.InstanceKey(record.service_name, record.instance_id))
    instance = lease[0] if lease else None
    return isinstance(instance, ServiceInstance) and instance.lease == record.lease != ""


class ViewMachine(RuleBasedStateMachine):
    """One store, one view of it, and the dictionaries that it is compared with."""

    def __init__(self) -> None:
        super().__init__()
        self.store: dict[names.Key, Written] = {}
        self.revision = 1
        self.feed: dict[names.Key, tuple[Record | None, int, bool]] = {}
        self.own: list[tuple[names.Key, Record | None, int]] = []
        self.view = Snapshot()
        self.view.advance(1, now=0.0, at=AT)
        self.level = True
        self.owners: dict[str, str] = {}
        self.roles: dict[tuple[str, str], Role] = {}
        self.live: set[str] = set()

    # -- what happens to the store ------------------------------------------------------------------

    def write(self, key: names.Key, record: Record | None, *, gone: bool = False) -> None:
        """Write one key: a record, garbage (None), or a deletion."""
        self.revision += 1
        if gone:
            if self.store.pop(key, None) is None:
                self.revision -= 1
                return
        else:
            self.store[key] = (record, self.revision)
        self.feed.pop(key, None)
        self.feed[key] = (record, self.revision, gone)
        self.own.append((key, record, self.revision if not gone else -self.revision))
        self.level = False

    @rule(name=st.sampled_from(INSTANCES), number=st.sampled_from("12"), healthy=st.booleans())
    def instance_is_written(self, name: str, number: str, *, healthy: bool) -> None:
        """Registered, renewed, or under another lease."""
        record = candidate(name, lease=name + number)
        self.write(names.InstanceKey("svc", name), record if healthy else record.mark_unhealthy())

    @rule(name=st.sampled_from(INSTANCES))
    def instance_goes(self, name: str) -> None:
        """Its lease ends."""
        self.write(names.InstanceKey("svc", name), None, gone=True)

    @rule(
        what=st.sampled_from(TARGETS),
        lease=st.sampled_from(LEASES),
        name=st.sampled_from([*INSTANCES, None]),
        tags=st.sampled_from([(), ("t",), ("t", "u")]),
        kind=st.sampled_from(["", "k"]),
        as_role=st.booleans(),
        epoch=st.sampled_from([0, 1, 1 << 50]),
    )
    def owner_is_written(
        self,
        what: str,
        lease: str,
        name: str | None,
        tags: tuple[str, ...],
        kind: str,
        *,
        as_role: bool,
        epoch: int,
    ) -> None:
        """By an instance that lives, lives no more, or never had that lease."""
        record = Ownership(
            target=what,
            service_name="svc",
            instance_id=name or lease[:1] or "a",
            lease=lease,
            epoch=epoch,
            metadata=ResourceMetadata(tags=tags, resource_type=kind, ttl_seconds=1.0 if tags else None),
            registered_at=AT,
            as_role=as_role,
        )
        self.write(names.TargetKey(what), record)

    @rule(what=st.sampled_from(TARGETS), explained=st.booleans())
    def owner_goes(self, what: str, *, explained: bool) -> None:
        """Released, or expired with its audit record."""
        if explained and names.TargetKey(what) in self.store:
            told = TransferRecord(
                transfer_id=f"t{self.revision}", kind="expired", resource_ids=(what,), from_instance_id="", at=AT
            )
            self.write(names.TransferKey(told.transfer_id), told)
        self.write(names.TargetKey(what), None, gone=True)

    @rule(what=st.sampled_from(TARGETS), lease=st.sampled_from(LEASES), name=st.sampled_from(INSTANCES))
    def place_is_written(self, what: str, lease: str, name: str) -> None:
        """In a line, under any lease."""
        record = Standby(target=what, service_name="svc", instance_id=name, lease=lease)
        self.write(names.StandbyKey(what, name), record)

    @rule(what=st.sampled_from(TARGETS), name=st.sampled_from(INSTANCES))
    def place_goes(self, what: str, name: str) -> None:
        """It is left."""
        self.write(names.StandbyKey(what, name), None, gone=True)

    @rule(key=st.sampled_from([names.TargetKey("x"), names.InstanceKey("svc", "a"), names.StandbyKey(GROUP, "b")]))
    def garbage_is_written(self, key: names.Key) -> None:
        """Nobody can read it."""
        self.write(key, None)

    # -- how the view hears of it -------------------------------------------------------------------

    def tell(self, key: names.Key, record: Record | None, revision: int, *, gone: bool, folded: bool = False) -> None:
        """One change, from either side."""
        if gone:
            self.hear(self.view.delete(key, revision, expired=revision % 2 == 0, now=0.0, at=AT))
        else:
            self.hear(self.view.put(key, record, revision, folded=folded, now=0.0, at=AT))

    @rule(count=st.integers(1, 4))
    def feed_tells_some(self, count: int) -> None:
        """In order, each key once; interrupted anywhere."""
        for key in list(self.feed)[:count]:
            record, revision, gone = self.feed.pop(key)
            self.tell(key, record, revision, gone=gone)

    @rule()
    def feed_comes_level(self) -> None:
        """Everything has been told."""
        self.feed_tells_some(len(self.feed))
        self.hear(self.view.advance(self.revision, now=0.0, at=AT))
        self.level = True

    @rule(data=st.data())
    def own_write_is_folded(self, data: st.DataObject) -> None:
        """Early, late, or for the second time."""
        if self.own:
            key, record, revision = data.draw(st.sampled_from(self.own[-6:]))
            self.tell(key, record, abs(revision), gone=revision < 0, folded=True)
            self.level = self.level and not self.feed

    @rule()
    def feed_starts_anew(self) -> None:
        """A new snapshot begins; it is told like any changes, up to the next time that the feed is level."""
        self.view.resync()
        self.feed = {
            key: (record, revision, False)
            for key, (record, revision) in sorted(self.store.items(), key=lambda item: item[1][1])
        }
        self.level = False

    # -- what must hold -----------------------------------------------------------------------------

    def hear(self, told: tuple[Event, ...]) -> None:
        """Add up what events tell."""
        for event in told:
            match event:
                case InstanceRegistered():
                    assert event.instance_id not in self.live
                    self.live.add(event.instance_id)
                case InstanceLost() | InstanceDeregistered():
                    self.live.remove(event.instance_id)
                    assert set(event.released) <= {r for r, i in self.owners.items() if i == event.instance_id}
                case ResourceRegistered():
                    self.owners[event.resource_id] = event.instance_id
                case ResourceTransferred():
                    assert self.owners[event.resource_id] == event.old
                    self.owners[event.resource_id] = event.instance_id
                case ResourceReleased() | ResourceExpired():
                    assert self.owners.pop(event.resource_id) == event.instance_id
                case RoleChanged():
                    target = names.role_target("svc", event.group) if event.group else event.resource_id
                    part = (target, event.instance_id)
                    if target == GROUP:
                        assert self.roles.get(part) is event.old
                        if event.new is None:
                            del self.roles[part]
                        else:
                            self.roles[part] = event.new
                case _:
                    pass

    @invariant()
    def events_add_up(self) -> None:
        """What was told is what is shown."""
        shown = {t: found[1].instance_id for t in TARGETS if (found := self.view.owner(t)) and t != GROUP}
        assert self.owners == shown
        assert self.live == {i.instance_id for i in self.view.live("svc")}
        active = self.view.owner(GROUP)
        roles = {(GROUP, p.instance_id): Role.STANDBY for p in self.view.line(GROUP)}
        if active is not None:
            roles[GROUP, active[1].instance_id] = Role.ACTIVE
        assert self.roles == roles

    @invariant()
    def a_level_view_equals_the_store(self) -> None:
        """In everything that can be asked."""
        if not self.level:
            return
        view, store = self.view, self.store
        assert view.synced
        assert view.revision == self.revision
        for key in {*store, *(k for k, _, _ in self.own)}:
            assert view.expectation(key) == (store[key][1] if key in store else 0)
        alive = [
            (record, revision)
            for record, revision in store.values()
            if isinstance(record, Ownership) and _is_alive(store, record)
        ]
        alive.sort(key=lambda pair: pair[1])
        resources = [record for record, _ in alive if record.target != GROUP]
        self.compare(resources)
        self.compare([r for r in resources if "t" in r.metadata.tags], tags=["t"])
        self.compare([r for r in resources if {"t", "u"} <= set(r.metadata.tags)], tags=["t", "u"])
        self.compare([r for r in resources if r.metadata.resource_type == "k"], resource_type="k")
        self.compare([r for r in resources if r.metadata.resource_type == ""], resource_type="")
        for name in INSTANCES:
            mine = [record for record, _ in alive if record.instance_id == name]
            self.compare([r for r in mine if r.target != GROUP], instance_id=name)
            instance = view.instance("svc", name)
            if instance is not None:
                steering = any(r.as_role or r.target == GROUP for r in mine)
                assert (view.role(instance) is Role.ACTIVE) is steering
        assert [r.target for r in view.limited()] == [r.target for r, _ in alive if r.metadata.ttl_seconds]
        named = {
            record.lease
            for record, _ in store.values()
            if isinstance(record, Ownership | Standby) and record.lease not in self.leases()
        }
        assert set(view.orphans()) == named

    def leases(self) -> set[str]:
        """The leases that live."""
        return {r.lease for r, _ in self.store.values() if isinstance(r, ServiceInstance)}

    def compare(self, expected: list[Ownership], **criteria: object) -> None:
        """A query finds *expected*, in that order, on each of its pages."""
        found = queries.query_resources(self.view, now=0.0, **criteria)  # type: ignore[arg-type]
        assert [r.resource_id for r in found.resources] == [r.target for r in expected]
        assert found.total_count == len(expected)
        page = queries.query_resources(self.view, now=0.0, limit=1, offset=1, **criteria)  # type: ignore[arg-type]
        assert [r.resource_id for r in page.resources] == [r.target for r in expected[1:2]]
        assert page.has_more is (len(expected) > 2)


TestViewMachine = ViewMachine.TestCase
TestViewMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)

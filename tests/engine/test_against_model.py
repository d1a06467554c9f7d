"""The engine against a naive model: whoever claims first owns, and everything goes with the lease.

The view is level before each decision, so each answer must be exactly the model's; what stale views may do is the
business of the small worlds.
"""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aegis_core.engine import bulk, instances, queries, resources, roles, sweeping, transfers
from aegis_core.engine.decision import Audit
from aegis_core.errors import (
    Forbidden,
    InstanceConflict,
    InstanceNotFound,
    NotOwner,
    ResourceConflict,
    ResourceLimitExceeded,
    ResourceNotFound,
)
from aegis_core.models import Health, ResourceMetadata, Role
from aegis_core.names import parse_key
from tests.engine.driver import AT, Driver, candidate

NAMES = ["a", "b", "c"]
RESOURCES = ["r1", "r2", "r3", "r4"]
LIMIT = 3

some_ids = st.lists(st.sampled_from(RESOURCES), min_size=1, max_size=4, unique=True)
a_name = st.sampled_from(NAMES)
an_id = st.sampled_from(RESOURCES)


class EngineMachine(RuleBasedStateMachine):
    """One level view, and the model: who lives, who owns, who waits."""

    def __init__(self) -> None:
        super().__init__()
        self.driver = Driver()
        self.leases: dict[str, str] = {}
        self.able: dict[str, bool] = {}
        self.owners: dict[str, str] = {}
        self.epochs: dict[str, int] = {}
        self.highest: dict[str, int] = {}
        self.lines: dict[str, list[tuple[int, int, str]]] = {r: [] for r in RESOURCES}
        self.count = 0

    # -- the model ----------------------------------------------------------------------------------

    def number(self) -> int:
        """Grows."""
        self.count += 1
        return self.count

    def audit(self) -> Audit:
        """A new one each time."""
        return Audit(transfer_id=f"transfer_{self.number():016x}")

    def held(self, name: str) -> set[str]:
        """What an instance owns."""
        return {r for r, owner in self.owners.items() if owner == name}

    def own(self, resource_id: str, name: str, epoch: int) -> None:
        """A new ownership."""
        assert epoch > self.highest.get(resource_id, 0)
        self.owners[resource_id] = name
        self.epochs[resource_id] = self.highest[resource_id] = epoch

    def free(self, resource_id: str) -> None:
        """Nobody owns it any more."""
        del self.owners[resource_id]
        del self.epochs[resource_id]

    def die(self, name: str) -> None:
        """A lease ends."""
        for resource_id in self.held(name):
            self.free(resource_id)
        for resource_id, line in self.lines.items():
            self.lines[resource_id] = [place for place in line if place[2] != name]
        del self.leases[name]
        del self.able[name]

    def waiting(self, resource_id: str) -> list[str]:
        """Who waits, first first."""
        return [name for _, _, name in sorted(self.lines[resource_id]) if self.owners.get(resource_id) != name]

    # -- instances ----------------------------------------------------------------------------------

    @rule(name=a_name)
    def register(self, name: str) -> None:
        """A live id is refused, a free one is not."""
        lease = f"{name}{self.number()}"
        if name in self.leases:
            with pytest.raises(InstanceConflict):
                instances.register(self.driver.view, candidate(name, lease=lease, adopts=True), at=AT)
            return
        self.driver.register(name, lease=lease, adopts=True)
        self.leases[name] = lease
        self.able[name] = True

    @rule(name=a_name, expired=st.booleans())
    def end(self, name: str, *, expired: bool) -> None:
        """A lease ends, one way or the other."""
        if name not in self.leases:
            with pytest.raises(InstanceNotFound):
                instances.deregister(self.driver.view, "svc", name)
            return
        held = self.held(name)
        if expired:
            self.driver.expire(name)
        else:
            assert set(self.driver.run(instances.deregister(self.driver.view, "svc", name))) == held
        self.die(name)

    @rule(name=a_name, able=st.booleans(), drain=st.booleans())
    def change(self, name: str, *, able: bool, drain: bool) -> None:
        """It drains or is unhealthy, or neither."""
        if name not in self.leases:
            return
        view = self.driver.view
        health = Health.ONLINE if able or drain else Health.UNHEALTHY
        self.driver.run(instances.set_health(view, "svc", name, health, at=AT))
        self.driver.run(instances.set_draining(view, "svc", name, draining=drain and not able, at=AT))
        self.able[name] = able

    # -- ownership ----------------------------------------------------------------------------------

    @rule(name=a_name, ids=some_ids, partial=st.booleans())
    def claim(self, name: str, ids: list[str], *, partial: bool) -> None:
        """The free ones are claimed; the others refused or listed."""

        def decide() -> None:
            decision = resources.claim(
                self.driver.view, "svc", name, ids, all_or_nothing=not partial, limit=LIMIT, now=self.driver.now, at=AT
            )
            reply = self.driver.run(decision)
            assert list(reply.registered) == [i for i in ids if i not in conflicts]
            assert reply.conflicts == conflicts
            for resource_id in fresh:
                self.own(resource_id, name, reply.epochs[resource_id])
            assert reply.epochs == {i: self.epochs[i] for i in reply.registered}

        conflicts = {i: self.owners[i] for i in ids if self.owners.get(i, name) != name}
        fresh = [i for i in ids if i not in self.owners]
        if name not in self.leases:
            with pytest.raises(InstanceNotFound):
                decide()
        elif not self.able[name]:
            with pytest.raises(Forbidden):
                decide()
        elif conflicts and not partial:
            with pytest.raises(ResourceConflict) as refused:
                decide()
            assert refused.value.conflicts == conflicts
        elif fresh and len(self.held(name)) + len(fresh) > LIMIT:
            with pytest.raises(ResourceLimitExceeded):
                decide()
        else:
            decide()

    @rule(name=a_name, ids=some_ids)
    def bulk_claim(self, name: str, ids: list[str]) -> None:
        """What can be claimed is; each failure is listed."""
        if not self.able.get(name):
            return
        view, now = self.driver.view, self.driver.now
        plan = self.driver.run(
            bulk.plan_bulk_claim(
                view, "svc", name, [bulk.BulkItem(resource_id=i) for i in ids],
                batch_size=2, continue_on_error=True, limit=LIMIT, now=now,
            )
        )  # fmt: skip
        for batch in plan.batches:
            outcome = self.driver.run(bulk.claim_batch(view, plan, batch, now=now, at=AT))
            failed = {f.resource_id: (f.error_code, f.current_owner) for f in outcome.failed}
            for item in batch:
                owner = self.owners.get(item.resource_id)
                if owner not in (None, name):
                    assert failed[item.resource_id] == ("RESOURCE_CONFLICT", owner)
                elif owner is None and len(self.held(name)) >= LIMIT:
                    assert failed[item.resource_id] == ("RESOURCE_LIMIT_EXCEEDED", None)
                elif owner is None:
                    self.own(item.resource_id, name, outcome.epochs[item.resource_id])

    @rule(name=a_name, ids=some_ids)
    def release(self, name: str, ids: list[str]) -> None:
        """All of them, or none."""

        def decide() -> None:
            self.driver.run(resources.release(self.driver.view, "svc", name, ids))

        if name not in self.leases:
            with pytest.raises(InstanceNotFound):
                decide()
            return
        for resource_id in ids:
            if resource_id not in self.owners:
                with pytest.raises(ResourceNotFound):
                    decide()
                return
            if self.owners[resource_id] != name:
                with pytest.raises(NotOwner) as refused:
                    decide()
                assert refused.value.owner == self.owners[resource_id]
                return
        decide()
        for resource_id in ids:
            self.free(resource_id)

    @rule(source=a_name, to=a_name, ids=some_ids)
    def transfer(self, source: str, to: str, ids: list[str]) -> None:
        """What the source owns moves, to one that is able and has room."""
        if source not in self.leases or not self.able.get(to) or source == to:
            return
        moving = [i for i in ids if self.owners.get(i) == source]
        decision = None
        try:
            decision = transfers.transfer(
                self.driver.view, ids, service_name="svc", source=source, to=to, limit=LIMIT, audit=self.audit(), at=AT
            )
        except ResourceLimitExceeded:
            assert len(self.held(to)) + len(moving) > LIMIT
            return
        reply = self.driver.run(decision)
        assert list(reply.transferred) == moving
        assert {f.resource_id for f in reply.failed} == set(ids) - set(moving)
        for resource_id in moving:
            self.own(resource_id, to, reply.epochs[resource_id])

    @rule(resource_id=an_id)
    def expire(self, resource_id: str) -> None:
        """The resource's own time is up."""
        epoch = self.epochs.get(resource_id, 0)
        ended = self.driver.run(resources.expire(self.driver.view, resource_id, epoch=epoch, audit=self.audit(), at=AT))
        assert ended is (resource_id in self.owners)
        if ended:
            self.free(resource_id)

    @rule(resource_id=an_id, kind=st.sampled_from(["", "t"]))
    def describe(self, resource_id: str, kind: str) -> None:
        """Metadata change under the same epoch."""
        owner = self.owners.get(resource_id)
        if owner is None or not self.able[owner]:
            return
        record = self.driver.view.held(resource_id)
        assert record is not None
        said = ResourceMetadata(resource_type=kind, version=record.metadata.version)
        reply = self.driver.run(
            resources.claim(
                self.driver.view, "svc", owner, [resource_id], metadata=said, limit=LIMIT, now=self.driver.now, at=AT
            )
        )
        assert reply.epochs[resource_id] == self.epochs[resource_id]

    # -- lines --------------------------------------------------------------------------------------

    @rule(name=a_name, resource_id=an_id, priority=st.integers(0, 1))
    def join(self, name: str, resource_id: str, priority: int) -> None:
        """A place once taken is kept; its priority may change."""
        instance = self.driver.view.instance("svc", name)
        if instance is None or instance.draining:
            return
        joined = self.driver.run(
            roles.join_line(self.driver.view, resource_id, lease=self.leases[name], priority=priority)
        )
        line = [place for place in self.lines[resource_id] if place[2] != name]
        self.lines[resource_id] = [*line, (-priority, joined, name)]

    @rule(name=a_name, resource_id=an_id)
    def leave(self, name: str, resource_id: str) -> None:
        """If it is there at all."""
        lease = self.leases.get(name, "no lease")
        places = [place for place in self.lines[resource_id] if place[2] != name]
        left = self.driver.run(roles.leave_line(self.driver.view, resource_id, lease=lease))
        assert left is (len(places) < len(self.lines[resource_id]))
        self.lines[resource_id] = places

    @rule(resource_id=an_id)
    def promote_the_first(self, resource_id: str) -> None:
        """Over the dead and the absent, never over the living."""
        able = [n for n in self.waiting(resource_id) if self.able[n]]
        if not able:
            return
        name = able[0]
        assert roles.rank(self.driver.view, resource_id, lease=self.leases[name]) == 0
        if resource_id in self.owners:
            with pytest.raises(ResourceConflict):
                roles.promote(self.driver.view, resource_id, lease=self.leases[name], limit=LIMIT, at=AT)
        elif len(self.held(name)) >= LIMIT:
            with pytest.raises(ResourceLimitExceeded):
                roles.promote(self.driver.view, resource_id, lease=self.leases[name], limit=LIMIT, at=AT)
        else:
            record = self.driver.run(
                roles.promote(self.driver.view, resource_id, lease=self.leases[name], limit=LIMIT, at=AT)
            )
            self.own(resource_id, name, record.epoch)

    @precondition(lambda self: self.driver.view.orphans())
    @rule(most=st.integers(1, 5))
    def sweep(self, most: int) -> None:
        """Nothing that lives goes, and nothing dead is left."""
        view = self.driver.view
        while orphans := view.orphans():
            self.driver.run(sweeping.sweep(view, orphans[0], audit=self.audit(), max_transaction=most, at=AT))
        records = self.driver.records
        assert {k for k in records if k.startswith("resources.")} == {f"resources.{r}" for r in self.owners}

    # -- what must hold -----------------------------------------------------------------------------

    @invariant()
    def the_view_is_the_model(self) -> None:
        """Owners, epochs, lines, counts and queries."""
        view = self.driver.view
        for resource_id in RESOURCES:
            owned = view.owner(resource_id)
            assert (owned and owned[1].instance_id) == self.owners.get(resource_id)
            assert (owned and owned[0].epoch) == self.epochs.get(resource_id)
            assert [p.instance_id for p in view.line(resource_id)] == self.waiting(resource_id)
        for name, lease in self.leases.items():
            assert view.count(lease) == len(self.held(name))
            found = queries.query_resources(view, instance_id=name, now=self.driver.now)
            assert {r.resource_id for r in found.resources} == self.held(name)
            assert found.total_count == len(self.held(name))
        everything = queries.query_resources(view, now=self.driver.now)
        assert {r.resource_id: r.owner_instance_id for r in everything.resources} == self.owners
        if self.leases:
            table = roles.list_roles(view, "svc")
            lined = {r for r in RESOURCES if self.lines[r]}
            assert {r for r, shown in table.resources.items() if shown.standbys} <= lined
            assert all(i.role is Role.STANDBY for i in instances.get_service(view, "svc", now=0.0).instances)

    @invariant()
    def the_view_is_the_store(self) -> None:
        """Whatever is written next expects what is there."""
        for key, revision in self.driver.revisions.items():
            parsed = parse_key(key)
            assert parsed is not None
            assert self.driver.view.expectation(parsed) == revision


TestEngine = EngineMachine.TestCase
TestEngine.settings = settings(max_examples=120, stateful_step_count=50, deadline=None)

"""What a router lets a client's transaction do: one's own with one's own lease id, and no more.

Past 400 lines, because its tables of transactions are all about the one small world that is stored at the top.
"""

from __future__ import annotations

from datetime import UTC, datetime

import attrs
import pytest

from aegis_core import codec
from aegis_core.backend import ABSENT, ANY, Delete, Operation, Put, Transaction
from aegis_core.engine.decision import NotYetKnown
from aegis_core.engine.snapshot import Snapshot
from aegis_core.engine.sweeping import sweep_id
from aegis_core.errors import Forbidden, InvalidRequest
from aegis_core.models import Ownership, Record, ResourceMetadata, ServiceInstance, Standby, TransferRecord
from aegis_core.names import (
    InstanceKey,
    StandbyKey,
    TargetKey,
    TransferKey,
    instance_key,
    lease_tag,
    role_target,
    standby_key,
    target_key,
    transfer_key,
)
from aegis_core.router.guard import Demand, judge

AT = datetime(2026, 1, 1, tzinfo=UTC)
MINE, FRESH, THEIRS, DEAD, ROUTERS = "my secret", "fresh secret", "their secret", "dead secret", "router's secret"
GROUP = role_target("svc", "default")


def instance(name: str, secret: str, ttl: float = 30.0) -> ServiceInstance:
    """A record of the service ``svc``."""
    return ServiceInstance(
        service_name="svc",
        instance_id=name,
        lease=lease_tag(secret),
        ttl=ttl,
        heartbeat_interval=ttl / 3,
        registered_at=AT,
        last_heartbeat=AT,
    )


def owned(target: str, name: str, secret: str, epoch: int = ABSENT) -> Ownership:
    """*name* owns *target*."""
    return Ownership(
        target=target, service_name="svc", instance_id=name, lease=lease_tag(secret), epoch=epoch, registered_at=AT
    )


def waiting(target: str, name: str, secret: str, joined: int = ABSENT) -> Standby:
    """*name* waits for *target*."""
    return Standby(target=target, service_name="svc", instance_id=name, lease=lease_tag(secret), joined=joined)


def audit(*ids: str, kind: str = "transfer", name: str = "t-1", old: str = "me", new: str = "them") -> TransferRecord:
    """An audit record of *ids*."""
    return TransferRecord(
        transfer_id=name, kind=kind, resource_ids=ids or ("mine",), from_instance_id=old, to_instance_id=new,
        reason="", requested_by="", at=AT,
    )  # fmt: skip


SWEEP = sweep_id(lease_tag(DEAD))


def swept(*ids: str, name: str = SWEEP, old: str = "gone", new: str = "") -> TransferRecord:
    """The audit record of what the dead lease left."""
    return audit(*ids, kind="sweep", name=name, old=old, new=new)


STORED: dict[str, tuple[InstanceKey | TargetKey | StandbyKey | TransferKey, Record]] = {
    "svc me": (InstanceKey("svc", "me"), instance("me", MINE)),
    "svc them": (InstanceKey("svc", "them"), instance("them", THEIRS)),
    "mine": (TargetKey("mine"), owned("mine", "me", MINE)),
    "theirs": (TargetKey("theirs"), owned("theirs", "them", THEIRS)),
    "orphan": (TargetKey("orphan"), owned("orphan", "gone", DEAD)),
    "my place": (StandbyKey("theirs", "me"), waiting("theirs", "me", MINE)),
    "their place": (StandbyKey("mine", "them"), waiting("mine", "them", THEIRS)),
    "dead place": (StandbyKey("mine", "gone"), waiting("mine", "gone", DEAD)),
    "brief": (TargetKey("brief"), attrs.evolve(owned("brief", "me", MINE), metadata=ResourceMetadata(ttl_seconds=9))),
    "group": (TargetKey(GROUP), owned(GROUP, "me", MINE)),
    "sweep": (TransferKey(SWEEP), swept("before")),
    "transfer": (TransferKey("moved"), audit(name="moved")),
    "router": (
        InstanceKey("aegis-router", "router"),
        attrs.evolve(instance("router", ROUTERS), service_name="aegis-router"),
    ),
}
REVISIONS = {name: 10 + at for at, name in enumerate(STORED)}
BROKEN = 9
LEVEL = 50


@pytest.fixture
def view() -> Snapshot:
    """A view with all that is stored, and one record that cannot be read."""
    made = Snapshot()
    made.put(TargetKey("broken"), None, BROKEN, now=0.0, at=AT)
    for name, (key, record) in STORED.items():
        made.put(key, record, REVISIONS[name], now=0.0, at=AT)
    made.advance(LEVEL, now=0.0, at=AT)
    return made


def put(key: str, record: Record, expect: int, ttl: float | None = None) -> Put:
    """Write *record*."""
    return Put(key, codec.encode_record(record, UTC), expect, ttl)


def judged(view: Snapshot, *operations: Operation, proofs: tuple[str, ...] = (MINE, FRESH)) -> list[str]:
    """The operations for which a permission is needed."""
    return [demand.operation for demand in judge(view, Transaction("t", operations, proofs)).demands]


def me(expect: int, record: ServiceInstance | None = None, ttl: float = 30.0) -> Put:
    """Write my instance record."""
    return put(instance_key("svc", "me"), record or instance("me", MINE), expect, ttl)


def own(target: str, expect: int, name: str = "me", secret: str = MINE, epoch: int = ABSENT) -> Put:
    """Write who owns *target*."""
    return put(target_key(target), owned(target, name, secret, epoch), expect)


def drop(key: str, name: str) -> Delete:
    """Delete what is stored as *name*."""
    return Delete(key, REVISIONS[name])


MY_OWN: dict[str, tuple[Operation, ...]] = {
    "register": (put(instance_key("svc", "new"), instance("new", FRESH), ABSENT, 30.0),),
    "register with a role": (
        put(instance_key("svc", "new"), instance("new", FRESH), ABSENT, 30.0),
        own(role_target("svc", "other"), ABSENT, "new", FRESH),
    ),
    "renew": (me(REVISIONS["svc me"]),),
    "renew for a shorter time": (me(REVISIONS["svc me"], ttl=1.0),),
    "deregister": (drop(instance_key("svc", "me"), "svc me"),),
    "claim what is free": (own("free", ABSENT),),
    "claim what the dead had": (own("orphan", REVISIONS["orphan"]),),
    "claim over what cannot be read": (own("broken", BROKEN),),
    "change": (own("mine", REVISIONS["mine"], epoch=REVISIONS["mine"]),),
    "release": (drop(target_key("mine"), "mine"),),
    "hand over": (
        own("mine", REVISIONS["mine"], "them", THEIRS),
        drop(standby_key("mine", "them"), "their place"),
        put(transfer_key("t-1"), audit(), ABSENT, 100.0),
    ),
    "end what has had its time": (
        put(transfer_key("t-1"), audit("brief", kind="expired", new=""), ABSENT, 100.0),
        drop(target_key("brief"), "brief"),
    ),
    "step down": (
        put(standby_key(GROUP, "me"), waiting(GROUP, "me", MINE), ABSENT),
        own(GROUP, REVISIONS["group"], "them", THEIRS),
        put(transfer_key("t-1"), audit(GROUP, kind="role"), ABSENT, 100.0),
    ),
    "step down for nobody": (
        drop(target_key(GROUP), "group"),
        put(transfer_key("t-1"), audit(GROUP, kind="role", new=""), ABSENT, 100.0),
    ),
    "sweep": (
        put(transfer_key(SWEEP), swept("before", "orphan"), REVISIONS["sweep"], 100.0),
        drop(target_key("orphan"), "orphan"),
        drop(standby_key("mine", "gone"), "dead place"),
    ),
    "wait": (put(standby_key("orphan", "me"), waiting("orphan", "me", MINE), ABSENT),),
    "keep the place": (
        put(standby_key("theirs", "me"), waiting("theirs", "me", MINE, REVISIONS["my place"]), REVISIONS["my place"]),
    ),
    "leave the line": (drop(standby_key("theirs", "me"), "my place"),),
    "look whether something is there": (Delete(target_key("theirs"), ABSENT), Delete(instance_key("svc", "x"), ABSENT)),
    "what an older revision expects": (Delete(target_key("theirs"), 1), drop(instance_key("svc", "them"), "svc them")),
}


@pytest.mark.parametrize("name", MY_OWN)
def test_what_concerns_its_own_needs_the_lease_id_alone(view: Snapshot, name: str) -> None:
    """And nobody's permission."""
    assert judged(view, *MY_OWN[name]) == []


ACQUIRED = {
    "register": ["register new"],
    "register with a role": ["register new", "claim svc/other"],
    "claim what is free": ["claim free"],
    "claim what the dead had": ["claim orphan"],
    "claim over what cannot be read": ["claim broken"],
    "step down": ["join_line svc/default"],
    "wait": ["join_line orphan"],
}


@pytest.mark.parametrize("name", MY_OWN)
def test_what_an_instance_acquires_for_itself_is_told(view: Snapshot, name: str) -> None:
    """For plug-ins to refuse; what it keeps, hands over or gives up is not."""
    own = judge(view, Transaction("t", MY_OWN[name], (MINE, FRESH))).own
    assert [f"{demand.operation} {demand.target}" for demand in own] == ACQUIRED.get(name, [])
    assert {demand.target.service_name for demand in own} <= {"svc"}


NEED_NO_PROOF = {
    "claim over what cannot be read", "sweep", "look whether something is there", "what an older revision expects",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(MY_OWN.keys() - NEED_NO_PROOF))
def test_without_the_lease_id_it_needs_a_permission(view: Snapshot, name: str) -> None:
    """Another's lease id is none."""
    assert judged(view, *MY_OWN[name], proofs=()) != []
    assert judged(view, *MY_OWN[name], proofs=(THEIRS, "guessed", lease_tag(MINE))) != []


OTHERS: dict[str, tuple[tuple[Operation, ...], list[str]]] = {
    "end another's lease": ((drop(instance_key("svc", "them"), "svc them"),), ["disconnect"]),
    "renew another's lease": (
        (put(instance_key("svc", "them"), instance("them", THEIRS), REVISIONS["svc them"], 30.0),),
        ["heartbeat"],
    ),
    "take another's name": (
        (put(instance_key("svc", "them"), instance("them", FRESH), REVISIONS["svc them"], 30.0),),
        ["heartbeat"],
    ),
    "register with a lease that is not shown": (
        (put(instance_key("svc", "x"), instance("x", "unknown"), ABSENT, 30.0),),
        ["register"],
    ),
    "take what another holds": ((own("theirs", REVISIONS["theirs"]),), ["force"]),
    "give what another holds": ((own("theirs", REVISIONS["theirs"], "x", "x"),), ["force", "claim"]),
    "release what another holds": ((drop(target_key("theirs"), "theirs"),), ["release"]),
    "delete what cannot be read": ((Delete(target_key("broken"), BROKEN),), ["release"]),
    "assign what is free": ((own("free", ABSENT, "them", THEIRS),), ["claim"]),
    "hand on in another's name": ((own("mine", REVISIONS["mine"], "x", THEIRS),), ["claim"]),
    "claim in another's name": ((own("free", ABSENT, "them", MINE),), ["claim"]),
    "wait in another's name": (
        (put(standby_key("free", "them"), waiting("free", "them", THEIRS), ABSENT),),
        ["join_line"],
    ),
    "take another's place": (
        (put(standby_key("mine", "them"), waiting("mine", "them", MINE), REVISIONS["their place"]),),
        ["join_line", "leave_line"],
    ),
    "end another's place": ((drop(standby_key("mine", "them"), "their place"),), ["leave_line"]),
    "tell of what did not happen": ((put(transfer_key("t-1"), audit(), ABSENT, 9.0),), ["audit"]),
    "change an audit record": (
        (
            put(transfer_key("moved"), audit(name="moved"), REVISIONS["transfer"], 9.0),
            own("mine", REVISIONS["mine"], "them", THEIRS),
        ),
        ["audit"],
    ),
    "tell it twice": (
        (
            own("mine", REVISIONS["mine"], "them", THEIRS),
            put(transfer_key("t-1"), audit(), ABSENT, 9.0),
            put(transfer_key("t-2"), audit(name="t-2"), ABSENT, 9.0),
        ),
        ["audit", "audit"],
    ),
    "make a sweep of a transfer": (
        (
            put(transfer_key("moved"), swept("orphan", name="moved"), REVISIONS["transfer"], 9.0),
            drop(target_key("orphan"), "orphan"),
        ),
        ["audit"],
    ),
    "forget what was swept": (
        (
            put(transfer_key(SWEEP), swept("orphan"), REVISIONS["sweep"], 9.0),
            drop(target_key("orphan"), "orphan"),
        ),
        ["audit"],
    ),
    "delete an audit record": ((drop(transfer_key("moved"), "transfer"),), ["audit"]),
}


OTHERS |= {
    "be a router": (
        (
            put(
                instance_key("aegis-router", "new"),
                attrs.evolve(instance("new", FRESH), service_name="aegis-router"),
                ABSENT,
                30.0,
            ),
        ),
        ["serve_router"],
    ),
    "take what routers own": ((own("aegis:events", ABSENT),), ["serve_router"]),
    "hand on to a router": (
        (
            put(
                target_key("mine"),
                attrs.evolve(owned("mine", "router", ROUTERS), service_name="aegis-router"),
                REVISIONS["mine"],
            ),
        ),
        ["serve_router"],
    ),
    "wait for what routers own": (
        (put(standby_key("aegis:events", "me"), waiting("aegis:events", "me", MINE), ABSENT),),
        ["serve_router"],
    ),
}


def telling(told: TransferRecord, *steps: Operation) -> tuple[tuple[Operation, ...], list[str]]:
    """*steps*, which are one's own, with a record of them that is not to be believed."""
    return (put(transfer_key(told.transfer_id), told, ABSENT, 9.0), *steps), ["audit"]


GIVEN = own("mine", REVISIONS["mine"], "them", THEIRS)

OTHERS |= {
    f"tell {name}": telling(told, *steps)
    for name, told, *steps in (
        ("by a step that does nothing", audit("nothing"), Delete(target_key("nothing"), ABSENT)),
        ("by a step that changes no owner", audit("mine"), own("mine", REVISIONS["mine"], epoch=REVISIONS["mine"])),
        ("of others' as well", audit("mine", "theirs"), GIVEN),
        ("of the same twice", audit("mine", "mine"), GIVEN),
        ("of nothing", attrs.evolve(audit(), resource_ids=()), GIVEN),
        ("that it came from another", audit(old="x"), GIVEN),
        ("that it came from another as well", audit(old="me, x"), GIVEN),
        ("that it came from nobody", audit(old=""), GIVEN),
        ("that it went to another", audit(new="x"), GIVEN),
        ("that it went to nobody", audit(new=""), GIVEN),
        ("that it went to somebody", audit(), drop(target_key("mine"), "mine")),
        ("of the free that it was taken", audit("free", old="", new="me"), own("free", ABSENT)),
        ("that its time was over", audit(kind="expired", new=""), drop(target_key("mine"), "mine")),
        ("that it was a role", audit(kind="role"), GIVEN),
        ("what there is no word for", audit(kind="magic"), GIVEN),
        ("that the living died", swept("mine", name=sweep_id(lease_tag(MINE)), old="me")),
        ("of a sweep under any name", swept("orphan", name="t-1"), drop(target_key("orphan"), "orphan")),
        ("that another died", swept("before", "orphan", old="them"), drop(target_key("orphan"), "orphan")),
        ("who got it from the dead", swept("before", "orphan", new="me"), drop(target_key("orphan"), "orphan")),
        ("that the dead left more", swept("before", "orphan", "free"), drop(target_key("orphan"), "orphan")),
    )
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_what_concerns_others_needs_a_permission(view: Snapshot, name: str) -> None:
    """Named as the hook that decides knows it; the lease id of the other is as good."""
    operations, demanded = OTHERS[name]
    assert judged(view, *operations) == demanded


def test_who_takes_without_consent_may_tell_it(view: Snapshot) -> None:
    """The audit record names whom it was taken from, those alone that lived; it is the taking that needs a permission."""
    both = audit("theirs", "orphan", kind="forced", old="them", new="me")
    steps = (own("theirs", REVISIONS["theirs"]), own("orphan", REVISIONS["orphan"]))
    assert judged(view, *steps, put(transfer_key("t-1"), both, ABSENT, 9.0)) == ["force"]


def test_who_showed_a_lease_is_named(view: Snapshot) -> None:
    """Of those who give or take, and what is gained: without role groups, and without what one has already."""
    verdict = judge(view, Transaction("t", (*MY_OWN["hand over"], own("free", ABSENT, "new", FRESH)), (MINE,)))
    assert verdict.shown == {"me"}
    assert [(gain.instance.instance_id, gain.targets) for gain in verdict.gains] == [("them", ("mine",))]
    assert judge(view, Transaction("t", MY_OWN["step down"], (MINE,))).gains == ()
    assert judge(view, Transaction("t", MY_OWN["change"], (MINE,))).gains == ()
    assert [write.key for write in verdict.writes][:1] == [target_key("mine")]


def test_a_lease_that_does_not_live_owns_nothing(view: Snapshot) -> None:
    """Its secret may be made up, and what it then leaves would be told as anybody's; or the view has yet to hear of it."""
    with pytest.raises(NotYetKnown):
        judged(view, own("free", ABSENT, "them", FRESH))
    with pytest.raises(NotYetKnown):
        judged(view, put(standby_key("free", "them"), waiting("free", "them", FRESH), ABSENT))
    with pytest.raises(NotYetKnown):
        judged(view, own("mine", REVISIONS["mine"], "gone", DEAD))


def test_demand_says_whom_it_concerns(view: Snapshot) -> None:
    """Service, instance and resources."""
    (demand,) = judge(view, Transaction("t", OTHERS["release what another holds"][0], (MINE,))).demands
    assert isinstance(demand, Demand)
    assert (demand.target.service_name, demand.target.instance_id) == ("svc", "them")
    assert demand.target.resource_ids == ("theirs",)


def test_new_registrations_are_named(view: Snapshot) -> None:
    """For the plug-ins that look at them; renewals are not."""
    verdict = judge(view, Transaction("t", MY_OWN["register"], (MINE,)))
    assert [record.instance_id for record in verdict.registrations] == ["new"]
    assert judge(view, Transaction("t", MY_OWN["renew"], (MINE,))).registrations == ()


SHARED: dict[str, tuple[Operation, ...]] = {
    "with another instance of one's own": (put(instance_key("svc", "x"), instance("x", MINE), ABSENT, 30.0),),
    "with somebody else": (put(instance_key("svc", "x"), instance("x", THEIRS), ABSENT, 30.0),),
    "with who gives it up": (
        drop(instance_key("svc", "me"), "svc me"),
        put(instance_key("svc", "x"), instance("x", MINE), ABSENT, 30.0),
    ),
    "within one transaction": (
        put(instance_key("svc", "x"), instance("x", FRESH), ABSENT, 30.0),
        put(instance_key("svc", "y"), instance("y", FRESH), ABSENT, 30.0),
    ),
}


@pytest.mark.parametrize("name", SHARED)
def test_a_lease_is_not_shared(view: Snapshot, name: str) -> None:
    """Two instances under one lease would both be believed to own what names it."""
    with pytest.raises(InvalidRequest) as caught:
        judged(view, *SHARED[name])
    assert caught.value.problems[0].path == "$.lease_id"


MALFORMED: dict[str, Operation] = {
    "no record": Put(target_key("free"), b"junk", ABSENT),
    "record of another instance": put(instance_key("svc", "x"), instance("me", MINE), ABSENT, 30.0),
    "no service name": put(
        instance_key("Svc_1", "x"), attrs.evolve(instance("x", MINE), service_name="Svc_1"), ABSENT, 30.0
    ),
    "lease for ever": Put(instance_key("svc", "x"), codec.encode_record(instance("x", MINE), UTC), ABSENT),
    "lease beyond its record": put(instance_key("svc", "x"), instance("x", MINE), ABSENT, 31.0),
    "lease of no time": put(instance_key("svc", "x"), instance("x", MINE), ABSENT, 0.0),
    "ownership that expires": put(target_key("free"), owned("free", "me", MINE), ABSENT, 5.0),
    "place that expires": put(standby_key("mine", "me"), waiting("mine", "me", MINE), ABSENT, 5.0),
    "audit record for ever": put(transfer_key("t-1"), audit(), ABSENT),
    "role of another service": put(
        target_key(role_target("other", "g")), attrs.evolve(owned(role_target("other", "g"), "me", MINE)), ABSENT
    ),
    "epoch out of the air": own("free", ABSENT, epoch=2**50),
    "epoch beyond one's own": own("mine", REVISIONS["mine"], epoch=REVISIONS["mine"] + 1),
    "epoch before one's own": own("mine", REVISIONS["mine"], epoch=REVISIONS["mine"] - 1),
    "epoch handed over": own("mine", REVISIONS["mine"], "them", THEIRS, epoch=REVISIONS["mine"]),
    "epoch before that of who hands over": own("mine", REVISIONS["mine"], "them", THEIRS, epoch=1),
    "epoch of the dead": own("orphan", REVISIONS["orphan"], epoch=REVISIONS["orphan"]),
    "place taken before all others": put(standby_key("free", "me"), waiting("free", "me", MINE, 1), ABSENT),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_no_node_would_write_is_refused(view: Snapshot, name: str) -> None:
    """To everybody, with the key."""
    with pytest.raises(InvalidRequest) as caught:
        judged(view, MALFORMED[name])
    assert caught.value.problems[0].path == MALFORMED[name].key


@pytest.mark.parametrize(
    "operation",
    [
        Put("silent.svc.me", b"", ABSENT),
        Put("messages.1", b"", ABSENT),
        Delete("resources", 1),
        Delete(target_key("mine"), ANY),
        Put(target_key("free"), b"", ANY),
    ],
    ids=["silent", "message", "no key", "delete of any", "put over any"],
)
def test_other_keys_and_missing_expectations_are_refused(view: Snapshot, operation: Operation) -> None:
    """Whatever is shown."""
    with pytest.raises(Forbidden):
        judged(view, operation)


def test_view_that_is_behind_does_not_judge(view: Snapshot) -> None:
    """A revision that it has yet to learn of could be the next, guessed; a lease may be about to be told."""
    with pytest.raises(NotYetKnown):
        judged(view, Delete(target_key("theirs"), LEVEL + 1))
    view.put(TargetKey("early"), owned("early", "x", "unknown"), LEVEL + 5, now=0.0, at=AT)
    with pytest.raises(NotYetKnown):
        judged(view, own("early", LEVEL + 5))
    view.resync()
    with pytest.raises(NotYetKnown):
        judged(view, own("free", ABSENT))

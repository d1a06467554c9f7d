"""What a router lets a client's transaction do: a pure judgement on the router's view.

A node elsewhere decides by itself, as every node does, and sends what it decided. It may be anybody, so the router looks
at what would be written, and by whom. What an instance may do to its own, it may if the transaction shows its lease id:

- its own record: write it under a free name, renew it, delete it;
- a resource or role group: take it for itself where nobody alive holds it; change or give up what it holds, or hand it
  on to an instance that lives;
- its own places in lines; and what names a dead lease, anybody may sweep.

An audit record tells of what its very transaction does, and of nothing else: see `_Judgement._of_audit`.

All else needs a permission, and so does whatever is for routers alone (`aegis_core.router.reserved`): `judge` names it
and does not give it. What has no form that a node would write (another key, a record that cannot be read, an instance
record that outlives its lease, a lease of two instances, an epoch out of the air) is refused to all.

Theory of operation
-------------------
The judgement is of the state at which the transaction would be applied, although that may not be the view's. An
operation that expects the revision that the view knows is judged by what the view knows; if the key has changed, the
store refuses. An operation that expects `ABSENT` is judged as if nothing were there. One that expects an older revision
than the view knows can never be applied anew, because revisions do not return: then the whole transaction is harmless,
and the store knows whether it was applied before. One that expects a newer revision must not be judged on this view.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import attrs

from aegis_core import codec
from aegis_core.backend import ANY, Delete, Operation, Put, Transaction
from aegis_core.engine.decision import NotYetKnown, Write
from aegis_core.engine.sweeping import sweep_id
from aegis_core.engine.view import View
from aegis_core.errors import Forbidden, InvalidRequest
from aegis_core.models import ABSENT, Ownership, Record, ServiceInstance, Standby, TransferRecord, Value
from aegis_core.names import (
    InstanceKey,
    Key,
    StandbyKey,
    TargetKey,
    TransferKey,
    describe_target,
    instance_id_problem,
    is_role,
    lease_tag,
    parse_key,
    role_parts,
    service_name_problem,
)
from aegis_core.principals import Target
from aegis_core.router.reserved import is_reserved

__all__ = ["Demand", "Gain", "Verdict", "judge"]


@attrs.frozen(eq=False, repr=False)
class Demand(Value):
    """A permission without which a transaction must not be committed; as of the hook `aegis_authorize`."""

    operation: str
    target: Target


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Gain(Value):
    """What an instance acquires.

    Args:
        instance: It, as it is or is being registered.
        targets: Resource ids; role groups are not counted.
    """

    instance: ServiceInstance
    targets: tuple[str, ...]


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Verdict(Value):
    """What a transaction needs before it is committed.

    Args:
        demands: Permissions.
        own: What instances acquire by leases that they showed, which they may unless a plug-in refuses.
        registrations: New instance records, for the hook `aegis_check_registration`.
        gains: What instances acquire, which must not be more than they may hold.
        writes: The operations, read, in their order; none where the transaction can change nothing.
        shown: The ids of the instances that proved the leases by which they give or take what the transaction is about.
    """

    demands: tuple[Demand, ...] = ()
    own: tuple[Demand, ...] = ()
    registrations: tuple[ServiceInstance, ...] = ()
    gains: tuple[Gain, ...] = ()
    writes: tuple[Write, ...] = ()
    shown: frozenset[str] = frozenset()


@attrs.frozen(eq=False, repr=False)
class _Step(Value):
    """One operation, read: what is to be there, and what the view knows of what is."""

    op: Operation
    key: Key
    new: Record | None
    old: Record | None


def judge(view: View, transaction: Transaction) -> Verdict:
    """What *transaction* needs beyond its proofs. Empty demands: it may be committed.

    Raises:
        InvalidRequest: It writes what no node would write.
        Forbidden: It names a key that no client may name, or expects nothing.
        NotYetKnown: The view is behind what the transaction expects: sync, then judge again.
    """
    steps = [_read(view, op) for op in transaction.operations]
    if any(ABSENT < step.op.expect != view.expectation(step.key) for step in steps):
        return Verdict()
    return _Judgement(view, steps, frozenset(map(lease_tag, transaction.proofs))).verdict()


def _read(view: View, op: Operation) -> _Step:
    key = parse_key(op.key)
    if key is None or op.expect == ANY:
        reason = "no key of the registry" if key is None else "it expects no revision"
        raise Forbidden(operation="commit", target=op.key[:80], reason=reason)
    if not view.synced or (op.expect > view.revision and op.expect != view.expectation(key)):
        raise NotYetKnown(op.expect)
    new = _record(key, op) if isinstance(op, Put) else None
    return _Step(op, key, new, None if op.expect == ABSENT else _known(view, key))


def _known(view: View, key: Key) -> Record | None:
    match key:
        case InstanceKey():
            return view.instance(key.service_name, key.instance_id)
        case TargetKey():
            return view.held(key.target)
        case StandbyKey():
            return view.place(key.target, key.instance_id)
        case TransferKey():
            return view.transfer(key.transfer_id)


def _record(key: Key, op: Put) -> Record:
    """What *op* writes.

    Raises:
        InvalidRequest: No node would.
    """
    try:
        record = codec.decode_record(key, op.value, ABSENT)
    except codec.DecodeError as exc:
        raise InvalidRequest.at(op.key, str(exc)) from exc
    problem = None
    match key, record:
        case InstanceKey(), ServiceInstance():
            problem = service_name_problem(record.service_name) or instance_id_problem(record.instance_id)
            if op.ttl is None or not 0 < op.ttl <= record.ttl < math.inf:
                problem = "an instance record does not outlive its lease"
        case TransferKey(), _:
            problem = "an audit record is kept for a time" if op.ttl is None else None
        case ((TargetKey() | StandbyKey()), (Ownership() | Standby())):
            problem = None if op.ttl is None else "it is there until it is deleted"
            if is_role(key.target) and record.service_name != role_parts(key.target)[0]:
                problem = "a role is for instances of its own service"
    if problem is not None:
        raise InvalidRequest.at(op.key, problem)
    return record


class _Judgement:
    """Of one transaction."""

    def __init__(self, view: View, steps: Sequence[_Step], proven: frozenset[str]) -> None:
        self._view = view
        self._steps = steps
        self._proven = proven
        # Who gets which target by this transaction: its place in the line for that goes with it.
        self._given = {(s.new.target, s.new.lease) for s in steps if isinstance(s.new, Ownership)}
        # Whose each lease is that this transaction begins or renews: of one instance.
        self._leased: dict[str, InstanceKey] = {}
        self._written = {s.new.lease: s.new for s in steps if isinstance(s.new, ServiceInstance)}
        self._changes = {s.key.target: s for s in steps if isinstance(s.key, TargetKey) and _changes_owner(s)}

    def verdict(self) -> Verdict:
        """What it needs."""
        return Verdict(
            demands=tuple(dict.fromkeys(demand for step in self._steps for demand in self._demands(step))),
            own=tuple(self._own()),
            registrations=tuple(
                s.new
                for s in self._steps
                if isinstance(s.new, ServiceInstance) and not isinstance(s.old, ServiceInstance)
            ),
            gains=self._gains(),
            writes=tuple(
                Write(s.op.key, s.new, s.op.expect, s.op.ttl if isinstance(s.op, Put) else None) for s in self._steps
            ),
            shown=frozenset(
                record.instance_id
                for step in self._changes.values()
                for record in (step.old, step.new)
                if isinstance(record, Ownership) and record.lease in self._proven
            ),
        )

    def _gains(self) -> tuple[Gain, ...]:
        gained: dict[str, list[str]] = {}
        for target, step in self._changes.items():
            if isinstance(step.new, Ownership) and not is_role(target):
                gained.setdefault(step.new.lease, []).append(target)
        instances = {lease: self._written.get(lease) or self._view.by_lease(lease) for lease in gained}
        return tuple(Gain(instance=i, targets=tuple(gained[lease])) for lease, i in instances.items() if i is not None)

    def _own(self) -> Iterator[Demand]:
        for step in self._steps:
            match step.key, step.new:
                case InstanceKey(), ServiceInstance(service_name=service, instance_id=name, lease=lease):
                    if not isinstance(step.old, ServiceInstance) and lease in self._proven:
                        yield Demand("register", Target(service_name=service, instance_id=name))
                case ((TargetKey(target) | StandbyKey(target)), (Ownership() | Standby()) as record):
                    kept = isinstance(step.old, Ownership | Standby) and step.old.lease == record.lease
                    if not kept and self._is_own(record):
                        named = Target(
                            service_name=record.service_name,
                            instance_id=record.instance_id,
                            resource_ids=(describe_target(target),),
                        )
                        yield Demand("claim" if isinstance(step.key, TargetKey) else "join_line", named)

    def _demands(self, step: _Step) -> Iterator[Demand]:
        if isinstance(step.op, Delete) and step.op.expect == ABSENT:
            return  # It looks whether something is there, and changes nothing.
        match step.key:
            case InstanceKey():
                yield from self._of_instance(step, step.key)
            case TargetKey():
                yield from self._of_target(step, step.key.target)
            case StandbyKey():
                yield from self._of_place(step, step.key)
            case TransferKey():
                yield from self._of_audit(step, step.key)

    def _of_instance(self, step: _Step, key: InstanceKey) -> Iterator[Demand]:
        target = Target(service_name=key.service_name, instance_id=key.instance_id)
        if step.new is not None and is_reserved(key.service_name):
            yield Demand("serve_router", target)
        if isinstance(step.new, ServiceInstance) and self._is_anothers(step.new.lease, key):
            raise InvalidRequest.at("$.lease_id", "it is the lease of another instance")
        if isinstance(step.new, ServiceInstance) and step.new.lease not in self._proven:
            yield Demand("register" if step.old is None else "heartbeat", target)
        if step.op.expect != ABSENT and not self._shown(step.old):
            yield Demand("disconnect" if step.new is None else "heartbeat", target)

    def _is_anothers(self, lease: str, key: InstanceKey) -> bool:
        """Whether *lease* lives, or would begin by this transaction, at another instance than that of *key*."""
        known = self._view.by_lease(lease)
        if known is not None and (known.service_name, known.instance_id) != (key.service_name, key.instance_id):
            return True
        return bool(lease) and self._leased.setdefault(lease, key) != key

    def _of_target(self, step: _Step, target: str) -> Iterator[Demand]:
        new = step.new if isinstance(step.new, Ownership) else None
        old = step.old if isinstance(step.old, Ownership) else None
        if new is not None and new.epoch and (old is None or (new.epoch, new.lease) != (old.epoch, old.lease)):
            # Nor may one go back: what saw a later one would refuse the new owner, and believe the old.
            raise InvalidRequest.at(step.op.key, "an epoch is given by the store, anew to each owner")
        shown = (describe_target(target),)
        if new is None:
            holder = None if old is None else self._view.holder(old)
            if not self._shown(old) and (holder is not None or old is None):
                service, owner = ("", "") if holder is None else (holder.service_name, holder.instance_id)
                yield Demand("release", Target(service_name=service, instance_id=owner, resource_ids=shown))
            return
        named = Target(service_name=new.service_name, instance_id=new.instance_id, resource_ids=shown)
        if is_reserved(new.service_name, (target,)):
            yield Demand("serve_router", named)
        if old is not None and self._shown(old):
            # Its owner changes it, or hands it on: to whom lives, or nobody's limit would count it.
            if new.lease != old.lease and not self._names_its_lease(new):
                yield Demand("claim", named)
            return
        if old is not None and self._view.holder(old) is not None:
            yield Demand("force", named)
        if not self._is_own(new):
            yield Demand("claim", named)

    def _of_place(self, step: _Step, key: StandbyKey) -> Iterator[Demand]:
        old = step.old if isinstance(step.old, Standby) else None
        shown = (describe_target(key.target),)
        if isinstance(step.new, Standby):
            if step.new.joined > (ABSENT if old is None else old.joined):
                raise InvalidRequest.at(step.op.key, "the store tells when a place was taken")
            service = step.new.service_name
            named = Target(service_name=service, instance_id=key.instance_id, resource_ids=shown)
            if is_reserved(service, (key.target,)):
                yield Demand("serve_router", named)
            if not self._is_own(step.new):
                yield Demand("join_line", named)
        if step.op.expect == ABSENT or self._shown(old) or (old is not None and (key.target, old.lease) in self._given):
            return
        if old is None or self._view.holder(old) is not None:
            yield Demand("leave_line", Target(instance_id=key.instance_id, resource_ids=shown))

    def _of_audit(self, step: _Step, key: TransferKey) -> Iterator[Demand]:
        """An audit record is written once, and is the only one of its transaction, whose changes of owner it tells.

        That of a sweep may be written anew, to name more of what the same lease left.
        """
        told = step.new
        is_true = isinstance(told, TransferRecord) and (
            self._tells_of_sweep(told, step.old, key)
            if told.kind == "sweep"
            else step.op.expect == ABSENT and self._tells_of_changes(told)
        )
        if not is_true or sum(1 for other in self._steps if isinstance(other.key, TransferKey)) > 1:
            yield Demand("audit", Target(resource_ids=(key.transfer_id,)))

    def _tells_of_changes(self, told: TransferRecord) -> bool:
        """Whether each of the ids of *told* changes its owner as it says."""
        steps = [self._changes[target] for target in set(told.resource_ids) if target in self._changes]
        if not steps or len(steps) != len(told.resource_ids) or not all(_is_of_kind(told.kind, step) for step in steps):
            return False
        owned = [step.old for step in steps if isinstance(step.old, Ownership)]
        losers = {old.instance_id for old in owned if self._view.holder(old) is not None}
        named = _names(told.from_instance_id)
        return losers <= named <= {old.instance_id for old in owned} and _names(told.to_instance_id) == {
            step.new.instance_id for step in steps if isinstance(step.new, Ownership)
        }

    def _tells_of_sweep(self, told: TransferRecord, known: Record | None, key: TransferKey) -> bool:
        """Whether *told* names what one dead lease has left, and all that *known* named of the same."""
        before = known.resource_ids if isinstance(known, TransferRecord) and known.kind == "sweep" else ()
        records = [record for target in told.resource_ids if (record := self._view.held(target)) is not None]
        leases = {lease for lease in {r.lease for r in records} if sweep_id(lease) == key.transfer_id}
        left = [r for r in records if r.lease in leases and self._view.holder(r) is None]
        return (
            set(before) <= set(told.resource_ids) <= {*before, *(r.target for r in left)}
            and told.from_instance_id in {r.instance_id for r in left}
            and not told.to_instance_id
        )

    def _shown(self, record: Record | None) -> bool:
        """Whether the lease that *record* names was shown."""
        return record is not None and not isinstance(record, TransferRecord) and record.lease in self._proven

    def _is_own(self, record: Ownership | Standby) -> bool:
        """Whether *record* names the instance whose lease it names, and that lease was shown."""
        return record.lease in self._proven and self._names_its_lease(record)

    def _names_its_lease(self, record: Ownership | Standby) -> bool:
        """Whether *record* names the instance whose lease it names.

        Raises:
            NotYetKnown: The lease does not live, or the view has yet to hear of it.
        """
        known = self._written.get(record.lease) or self._view.by_lease(record.lease)
        if known is None:
            # It would name a dead lease from birth, in whose name anything could be swept and told.
            raise NotYetKnown(self._view.revision)
        return (known.service_name, known.instance_id) == (record.service_name, record.instance_id)


def _changes_owner(step: _Step) -> bool:
    """Whether *step*, of a target, gives it to somebody, or takes it from whoever has it."""
    if isinstance(step.new, Ownership):
        return not (isinstance(step.old, Ownership) and step.old.lease == step.new.lease)
    return step.op.expect != ABSENT


def _is_of_kind(kind: str, step: _Step) -> bool:
    """Whether *step*, a change of owner, is one that an audit record of *kind* tells."""
    match kind:
        case "transfer" | "forced":
            return isinstance(step.old, Ownership) and isinstance(step.new, Ownership)
        case "role":
            return isinstance(step.key, TargetKey) and is_role(step.key.target)
        case "expired":
            ended = step.old if step.new is None and isinstance(step.old, Ownership) else None
            return ended is not None and ended.metadata.ttl_seconds is not None
        case _:
            return False


def _names(listed: str) -> set[str]:
    """The instances that an audit record names together."""
    return set(listed.split(", ")) - {""}

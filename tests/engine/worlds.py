"""Small worlds: a store, a few nodes around the real engine, and every order in which things may happen to them.

A world's state is plain data: what the store holds, which commits each node's view has not seen, what each node believes
and asks, which transactions are still under way. `World.successors` names every next state, and `tests.engine.search`
visits them all. Each state is judged; a `Violation` is what must not be.

What is modelled, and how
-------------------------
- *Views.* A node's view is the store as of some earlier commit, plus its own acknowledged commits folded in early. Each
  delivery shows it one commit more. A *glimpse* shows it the newest change of one key before the feed is level, as a
  feed does that merges changes.
- *Commits.* A transaction leaves, arrives (all expectations hold, or none of it happens), and is acknowledged, with
  anything in between. *Abandoned* (the caller was cancelled), or its lease lost, it may still arrive at any time.
- *Leases.* Time is abstract: belief in a lease ends at any time, the store's record expires at any time after that.
- *Shell.* Whatever rests on the view alone is decided again on a view that has seen all that was committed before; so is
  what met a conflict. Claims enter a node's table when their commit is acknowledged and leave it before their release is
  sent. What names one's lease and is in no table is given up; what was transferred to one is adopted, once.

What is judged
--------------
In each state: whoever believes to hold a resource is the one whom the store's record names, under that epoch (so there
is at most one believer, and nothing acknowledged is lost). At each commit: nobody's live claim is taken, swept or
overwritten by another; each new ownership has a new epoch. At each refusal: it was true at some moment since the request.
In each state where all is quiet: what is free can be claimed at the first attempt by anybody, and promoted by whoever is
first in line; what is held is refused with the holder's name.

It is one file, past 400 lines, because what may happen and what is judged are to be read together.

Names are numbers here, so that `tests.engine.canonical` can treat nodes and resources as interchangeable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Final

import attrs

from aegis_core.engine import instances, resources, roles, sweeping, transfers
from aegis_core.engine.decision import Decision, NotYetKnown
from aegis_core.engine.snapshot import Snapshot
from aegis_core.errors import (
    AegisError,
    InstanceNotFound,
    NotOwner,
    ResourceConflict,
    ResourceNotFound,
)
from aegis_core.models import ServiceInstance
from tests.engine.states import (
    AT,
    AUDIT,
    INSTANCE,
    NOBODY,
    OWNER,
    SERVICE,
    Change,
    Command,
    Commit,
    Key,
    Node,
    Pending,
    State,
    Transaction,
    Value,
    Violation,
    after,
    lease_tag,
    node_name,
    node_of,
    operations_of,
    owner_of,
    real_key,
    record_of,
    resource_id,
    store_of,
    top_of,
    value_at,
)


@attrs.define(eq=False)
class World:
    """What may happen.

    Args:
        nodes: How many, each with one instance.
        resources: How many.
        commands: Which commands nodes give.
        faults: ``lose`` (belief in a lease ends, then its record expires), ``abandon``, ``glimpse``.
        registered: How many are registered at the start, and seen by every view; None for all.
        held: How many resources are held at the start, each by another node, and known so to every view.
    """

    nodes: int = 3
    resources: int = 2
    registered: int | None = None
    held: int = 0
    commands: frozenset[str] = frozenset()
    faults: frozenset[str] = frozenset()
    _views: dict[object, Snapshot] = attrs.field(factory=dict)

    def start(self) -> State:
        """Where it begins."""
        live = self.nodes if self.registered is None else self.registered
        base = tuple(((INSTANCE, i), (1, 1)) for i in range(live))
        base += tuple(((OWNER, r), (r, 1, 0, 1, 1)) for r in range(self.held))
        nodes = tuple(
            Node(
                seen=0,
                folds=(),
                incarnation=int(i < live),
                live=i < live,
                table=((i, 1),) if i < self.held else (),
                pending=None,
            )
            for i in range(self.nodes)
        )
        return State(1, base, (), nodes, ())

    def view(self, state: State, node: Node) -> Snapshot:
        """The view of *node*; made by what the store told it, level, then what was folded in ahead of it."""
        content = tuple(sorted(after(dict(state.base), state.log[: node.seen]).items()))
        level = top_of(state, node.seen)
        seed = (level, content, node.folds)
        found = self._views.get(seed)
        if found is None:
            found = Snapshot()
            for key, value in content:
                found.put(real_key(key), record_of(key, value), value[-1], now=0.0, at=AT)
            found.advance(level, now=0.0, at=AT)
            for key, folded, revision in node.folds:
                if folded is None:
                    found.delete(real_key(key), revision, expired=False, now=0.0, at=AT)
                else:
                    found.put(real_key(key), record_of(key, folded), revision, now=0.0, at=AT)
            self._views[seed] = found
        return found

    def successors(self, state: State) -> Iterator[tuple[str, Callable[[], State | None]]]:
        """Every step that can be taken: its name, and a function that takes it (None: it changes nothing).

        Taking a step raises `Violation` when it leads to what must not be.
        """
        store = store_of(state)
        for i, node in enumerate(state.nodes):
            name = node_name(i)
            if node.seen < len(state.log):
                yield f"{name} sees a commit", partial(self._deliver, state, i)
                if "glimpse" in self.faults:
                    for key in dict.fromkeys(k for c in state.log[node.seen :] for k, _, _ in c):
                        yield f"{name} glimpses {key}", partial(self._glimpse, state, i, key)
            pending = node.pending
            if pending is None:
                for command in self._commands(state, i):
                    yield f"{name} begins {command}", partial(self._begin, state, i, command)
            elif pending.flight is not None:
                what = f"{name}'s {pending.command}"
                if pending.revisions:
                    yield f"{what} is acknowledged", partial(self._acknowledge, state, store, i)
                else:
                    yield f"{what} arrives", partial(self._arrive, state, store, i)
                if "abandon" in self.faults and pending.command[0] in ABANDONED:
                    yield f"{what} is abandoned", partial(self._abandon, state, i)
            if node.live and "lose" in self.faults:
                yield f"{name} stops believing", partial(self._lose, state, i)
            lease = store.get((INSTANCE, i))
            if lease is not None and not (node.live and lease[0] == node.incarnation):
                yield f"{name}'s record expires", partial(self._expire, state, store, i)
        for stray in dict.fromkeys(state.strays):
            if self._holds(store, stray):
                yield (
                    f"a stray of {node_name(stray.node)} arrives",
                    partial(self._arrive_late, state, store, stray),
                )

    # -- commands -----------------------------------------------------------------------------------

    def _commands(self, state: State, i: int) -> Iterator[Command]:
        node = state.nodes[i]
        if not node.live:
            yield ("register", 0, 0)
            return
        view = self.view(state, node)
        lease = lease_tag(i, node.incarnation)
        held = dict(node.table)
        for r in range(self.resources):
            record = view.held(resource_id(r))
            mine = record is not None and record.lease == lease
            place = view.place(resource_id(r), node_name(i))
            waits = place is not None and place.lease == lease
            if r in held:
                yield from (("release", r, 0),) if "release" in self.commands else ()
                if "transfer" in self.commands:
                    yield from (("transfer", r, j) for j in range(self.nodes) if j != i)
                if waits:
                    yield ("leave", r, 0)
            elif mine:
                yield ("give_up", r, 0)
            elif "join" in self.commands and not waits:
                yield ("join", r, 0)
            elif waits and view.owner(resource_id(r)) is None:
                yield ("promote", r, 0)
            if r not in held and "claim" in self.commands:
                yield ("claim", r, 0)
        if "claim_some" in self.commands and len(held) < self.resources:
            yield ("claim_some", 0, 0)
        if "deregister" in self.commands:
            yield ("deregister", 0, 0)
        if "sweep" in self.commands:
            yield from (("sweep", node_of(tag[0]), int(tag[1:])) for tag in view.orphans())

    def _ask(self, view: Snapshot, i: int, node: Node, command: Command) -> Decision[object]:
        """The engine's decision."""
        what, r, other = command
        name, lease, target = node_name(i), lease_tag(i, node.incarnation), resource_id(r)
        match what:
            case "claim":
                return resources.claim(view, SERVICE, name, [target], lease=lease, now=0.0, at=AT)
            case "claim_some":
                return resources.claim(
                    view,
                    SERVICE,
                    name,
                    map(resource_id, range(self.resources)),
                    lease=lease,
                    all_or_nothing=False,
                    now=0.0,
                    at=AT,
                )
            case "release":
                return resources.release(view, SERVICE, name, [target], lease=lease)
            case "give_up":
                return resources.give_up(view, [target], lease=lease)
            case "transfer":
                return transfers.transfer(
                    view,
                    [target],
                    service_name=SERVICE,
                    source=name,
                    to=node_name(other),
                    lease=lease,
                    all_or_nothing=True,
                    audit=AUDIT,
                    at=AT,
                )
            case "join":
                return roles.join_line(view, target, lease=lease)
            case "promote":
                return roles.promote(view, target, lease=lease, at=AT)
            case "leave":
                return roles.leave_line(view, target, lease=lease)
            case "deregister":
                return instances.deregister(view, SERVICE, name, lease=lease)
            case "register":
                return instances.register(
                    view,
                    _candidate(i, node.incarnation + 1),
                    at=AT,
                )
            case "sweep":
                return sweeping.sweep(view, lease_tag(r, other), audit=AUDIT, at=AT)
        raise AssertionError(what)

    def _begin(self, state: State, i: int, command: Command) -> State:
        node = state.nodes[i]
        if command[0] in {"release", "transfer"}:
            node = node._replace(table=tuple(t for t in node.table if t[0] != command[1]))
        elif command[0] == "deregister":
            node = node._replace(table=())
        store = store_of(state)
        owners = tuple((owner_of(store, r),) for r in range(self.resources))
        pending = Pending(command, None, (), -1, owners)
        return self._decide(_with(state, i, node._replace(pending=pending)), i, fresh=False)

    def _decide(self, state: State, i: int, *, fresh: bool) -> State:
        node = state.nodes[i]
        pending = node.pending
        assert pending is not None
        view = self.view(state, node)
        decision: Decision[object] | None = None
        try:
            decision = self._ask(view, i, node, pending.command)
        except NotYetKnown:
            if node.seen == len(state.log):
                raise Violation("a level view may not judge") from None
            fresh = False
        except AegisError as refusal:
            if fresh:
                self._judge(refusal, i, pending)
                return self._finish(state, i)
        if decision is not None and (fresh or not decision.rests_on_view):
            operations = operations_of(decision)
            if decision.refuses:
                self._judge_answer(decision, pending)
            if not operations:
                return self._finish(state, i, _granted(decision))
            flight = Transaction(i, operations)
            return _with(state, i, node._replace(pending=pending._replace(flight=flight, need=-1)))
        need = len(state.log)
        if node.seen == need:
            return self._decide(state, i, fresh=True)
        return _with(state, i, node._replace(pending=pending._replace(flight=None, need=need)))

    @staticmethod
    def _finish(state: State, i: int, granted: Mapping[int, int] = MappingProxyType({})) -> State:
        node = state.nodes[i]
        table = tuple(sorted({**dict(node.table), **granted}.items()))
        return _with(state, i, node._replace(pending=None, table=table))

    def _judge(self, refusal: AegisError, i: int, pending: Pending) -> None:
        """A refusal was true at some moment since it was asked."""
        resource = pending.command[1]
        owners = pending.owners[resource] if resource < self.resources else ()
        if isinstance(refusal, ResourceConflict | NotOwner):
            if node_of(refusal.owner) not in owners:
                raise Violation(f"{refusal} was never true since it was asked: {owners}")
        elif isinstance(refusal, ResourceNotFound):
            if NOBODY not in owners:
                raise Violation(f"{refusal} was never true since it was asked: {owners}")
        elif isinstance(refusal, InstanceNotFound) and refusal.instance_id != node_name(pending.command[2]):
            raise Violation(f"{node_name(i)} lives, and is told: {refusal}")

    def _judge_answer(self, decision: Decision[object], pending: Pending) -> None:
        conflicts = getattr(decision.answer(range(1, 1 + len(decision.writes))), "conflicts", {})
        for wanted, owner in conflicts.items():
            if node_of(owner) not in pending.owners[int(wanted[1:])]:
                raise Violation(f"{wanted} was never held by {owner} since it was asked for")

    # -- what happens to nodes ----------------------------------------------------------------------

    def _deliver(self, state: State, i: int) -> State:
        node = state.nodes[i]
        seen = node.seen + 1
        top = top_of(state, seen)
        known = {(key, revision) for key, _, revision in node.folds}
        node = node._replace(seen=seen, folds=tuple(f for f in node.folds if f[2] > top))
        for change in state.log[seen - 1]:
            if (change[0], change[2]) not in known:
                node = _adopted(node, i, change)
        state = _with(state, i, node)
        if node.pending is not None and 0 <= node.pending.need <= seen:
            return self._decide(state, i, fresh=True)
        return state

    def _glimpse(self, state: State, i: int, key: Key) -> State | None:
        node = state.nodes[i]
        newest = [c for commit in state.log[node.seen :] for c in commit if c[0] == key][-1]
        if any(f[0] == key and f[2] >= newest[2] for f in node.folds):
            return None
        return _with(state, i, _adopted(_folded(node, (newest,)), i, newest))

    def _arrive(self, state: State, store: dict[Key, Value], i: int) -> State:
        node = state.nodes[i]
        pending = node.pending
        assert pending is not None
        assert pending.flight is not None
        if self._holds(store, pending.flight):
            state, revisions = self._apply(state, store, pending.flight)
            node = state.nodes[i]
            assert node.pending is not None
            return _with(state, i, node._replace(pending=node.pending._replace(revisions=revisions)))
        need = len(state.log)
        waiting = pending._replace(flight=None, need=need)
        state = _with(state, i, node._replace(pending=waiting))
        return self._decide(state, i, fresh=True) if node.seen == need else state

    def _arrive_late(self, state: State, store: dict[Key, Value], stray: Transaction) -> State:
        strays = list(state.strays)
        strays.remove(stray)
        return self._apply(state._replace(strays=tuple(strays)), store, stray)[0]

    def _acknowledge(self, state: State, store: dict[Key, Value], i: int) -> State:
        node = state.nodes[i]
        pending = node.pending
        assert pending is not None
        assert pending.flight is not None
        top = top_of(state, node.seen)
        what = pending.command[0]
        changes: list[Change] = []
        held = dict(node.table)
        for (key, value, _), revision in zip(pending.flight.operations, pending.revisions, strict=True):
            written = None if value is None else value_at(key, value, revision)
            changes.append((key, written, revision))
            if key[0] == OWNER and written is not None and written[0] == i:
                held[key[1]] = written[3]
        node = _folded(node, tuple(c for c in changes if c[2] > top))
        node = node._replace(pending=None, table=tuple(sorted(held.items())))
        if what == "register":
            # It counts only if the acknowledgement comes while the lease can still live.
            lease = store.get((INSTANCE, i))
            incarnation = node.incarnation + 1
            live = lease is not None and lease[0] == incarnation
            node = node._replace(incarnation=incarnation, live=live)
        elif what == "deregister":
            node = node._replace(live=False)
        return _with(state, i, node)

    def _abandon(self, state: State, i: int) -> State:
        """The caller gives up; what it sent may arrive for ever after, what was acknowledged is not heard."""
        node = state.nodes[i]
        pending = node.pending
        assert pending is not None
        assert pending.flight is not None
        strays = state.strays
        if not pending.revisions:
            strays = tuple(sorted((*strays, pending.flight), key=repr))
        return _with(state, i, node._replace(pending=None))._replace(strays=strays)

    def _lose(self, state: State, i: int) -> State:
        node = state.nodes[i]
        if node.pending is not None and node.pending.flight is not None:
            state = self._abandon(state, i)
        lost = state.nodes[i]._replace(live=False, table=(), pending=None)
        return _with(state, i, lost)

    def _expire(self, state: State, store: dict[Key, Value], i: int) -> State:
        gone = (((INSTANCE, i), None, top_of(state, len(state.log)) + 1),)
        return self._commit(state, store, gone)

    # -- the store ----------------------------------------------------------------------------------

    @staticmethod
    def _holds(store: dict[Key, Value], flight: Transaction) -> bool:
        return all((store[key][-1] if key in store else 0) == expect for key, _, expect in flight.operations)

    def _apply(self, state: State, store: dict[Key, Value], flight: Transaction) -> tuple[State, tuple[int, ...]]:
        top = top_of(state, len(state.log))
        commit: list[Change] = []
        for at, (key, value, _) in enumerate(flight.operations, 1):
            written = None if value is None else value_at(key, value, top + at)
            if key[0] == OWNER:
                self._check_owner_change(store, flight.node, key[1], written)
            commit.append((key, written, top + at))
        state = self._commit(state, store, tuple(commit))
        return state, tuple(revision for _, _, revision in commit)

    @staticmethod
    def _check_owner_change(store: dict[Key, Value], actor: int, resource: int, new: Value | None) -> None:
        owner = owner_of(store, resource)
        if owner not in (NOBODY, actor):
            raise Violation(f"{node_name(actor)} takes {resource_id(resource)} from {node_name(owner)}, which lives")
        old = store.get((OWNER, resource))
        if new is not None and new[3] != new[4]:
            same = old is not None and old[:2] == new[:2] and old[3] == new[3]
            if not same:
                raise Violation(f"{resource_id(resource)} changes its owner under the old epoch {new[3]}")

    def _commit(self, state: State, store: dict[Key, Value], commit: Commit) -> State:
        then = after(dict(store), (commit,))
        owners = [owner_of(then, r) for r in range(self.resources)]
        nodes = tuple(
            node
            if node.pending is None
            else node._replace(
                pending=node.pending._replace(
                    owners=tuple(
                        known if owner in known else tuple(sorted((*known, owner)))
                        for known, owner in zip(node.pending.owners, owners, strict=True)
                    )
                )
            )
            for node in state.nodes
        )
        return state._replace(log=(*state.log, commit), nodes=nodes)

    # -- judging ------------------------------------------------------------------------------------

    def judge(self, state: State) -> None:
        """Check what must hold in every state.

        Raises:
            Violation: It does not.
        """
        store = store_of(state)
        for i, node in enumerate(state.nodes):
            for resource, epoch in node.table:
                record = store.get((OWNER, resource))
                if record is None or record[:2] != (i, node.incarnation) or record[3] != epoch:
                    raise Violation(
                        f"{node_name(i)} believes to hold {resource_id(resource)} under epoch {epoch}: {record}"
                    )
        quiet = not state.strays and all(
            n.pending is None and n.seen == len(state.log) and not n.folds for n in state.nodes
        )
        if quiet:
            for i, node in enumerate(state.nodes):
                if node.live:
                    self._judge_quiet(state, store, i, node)

    def _judge_quiet(self, state: State, store: dict[Key, Value], i: int, node: Node) -> None:
        view = self.view(state, node)
        for resource in range(self.resources):
            owner = owner_of(store, resource)
            line = view.line(resource_id(resource))
            first = bool(line) and line[0].instance_id == node_name(i)
            for what in ("claim", "promote") if first else ("claim",):
                try:
                    decision = self._ask(view, i, node, (what, resource, 0))
                except ResourceConflict as refusal:
                    if owner in (NOBODY, i) or node_of(refusal.owner) != owner:
                        raise Violation(f"all is quiet, and {node_name(i)} is told: {refusal}") from refusal
                else:
                    if owner not in (NOBODY, i):
                        raise Violation(f"{node_name(i)} may {what} what {node_name(owner)} holds")
                    if not self._holds(store, Transaction(i, operations_of(decision))):
                        raise Violation(f"{node_name(i)} can never {what} {resource_id(resource)}")


def _granted(decision: Decision[object]) -> dict[int, int]:
    """The epochs of resources that *decision* says are owned, without writing anything."""
    epochs = getattr(decision.answer(()), "epochs", {})
    return {int(owned[1:]): epoch for owned, epoch in epochs.items()}


ABANDONED: Final = frozenset({"claim", "release", "give_up", "transfer", "promote"})
"""The commands whose callers may give up."""


def _candidate(i: int, incarnation: int) -> ServiceInstance:
    record = record_of((INSTANCE, i), (incarnation, 0))
    assert isinstance(record, ServiceInstance)
    return record


def _with(state: State, i: int, node: Node) -> State:
    return state._replace(nodes=(*state.nodes[:i], node, *state.nodes[i + 1 :]))


def _folded(node: Node, changes: tuple[Change, ...]) -> Node:
    """The node after *changes* were folded into its view, guarded per key by revision."""
    folds = {key: (key, value, revision) for key, value, revision in node.folds}
    for change in changes:
        if change[0] not in folds or folds[change[0]][2] < change[2]:
            folds[change[0]] = change
    return node._replace(folds=tuple(sorted(folds.values(), key=lambda f: f[2])))


def _adopted(node: Node, i: int, change: Change) -> Node:
    """The node after it took over what was transferred to it, as *change* shows for the first time."""
    key, value, revision = change
    if key[0] != OWNER or value is None or not node.live:
        return node
    owner, incarnation, moved, epoch, _ = value
    if (owner, incarnation) != (i, node.incarnation) or not moved or epoch != revision:
        return node
    return node._replace(table=tuple(sorted({**dict(node.table), key[1]: epoch}.items())))

"""One state for all that differ in nothing that matters, so that a search visits it once."""

from __future__ import annotations

from itertools import permutations
from typing import Final

from tests.engine.states import (
    INSTANCE,
    NOBODY,
    OWNER,
    PLACE,
    Change,
    Key,
    Node,
    Pending,
    State,
    Transaction,
    Value,
    after,
    store_of,
    top_of,
)


def canonical(state: State) -> State:
    """The one state that stands for (nearly) all that differ in nothing that matters.

    Commits that every view has seen are merged into the base. Nodes and resources are put in an order that does not
    depend on their numbers (where they look alike at first sight the order stays: then two states may stand for the same).
    Revisions in the base are renumbered per key, later ones in their order; incarnations per node.
    """
    return _Renaming(_settled(state)).renamed()


def exactly_canonical(state: State, resources: int) -> State:
    """The same, but one only for all of them: slow."""
    state = _settled(state)
    forms = (
        _Renaming(state, nodes, named).renamed()
        for nodes in permutations(range(len(state.nodes)))
        for named in permutations(range(resources))
    )
    return min(forms, key=repr)


def _settled(state: State) -> State:
    settled = min(node.seen for node in state.nodes)
    if settled:
        base = tuple(sorted(after(dict(state.base), state.log[:settled]).items()))
        level = top_of(state, settled)
        nodes = tuple(
            node._replace(
                seen=node.seen - settled,
                pending=node.pending and node.pending._replace(need=max(-1, node.pending.need - settled)),
            )
            for node in state.nodes
        )
        state = State(level, base, state.log[settled:], nodes, state.strays)
    return state


class _Renaming:
    """New numbers for the nodes, resources, revisions and incarnations of a state."""

    def __init__(
        self, state: State, nodes: tuple[int, ...] | None = None, named: tuple[int, ...] | None = None
    ) -> None:
        self.state = state
        store = store_of(state)
        order = nodes or tuple(sorted(range(len(state.nodes)), key=lambda i: self._looks(store, i)))
        self.order = order
        self.node = {old: new for new, old in enumerate(order)}
        resources = sorted({k[1] for k in store if k[0] != INSTANCE} | self._mentioned())
        if named is None:
            resources.sort(key=lambda r: self._resource_looks(store, r))
        else:
            resources = list(named)
        self.resource = {old: new for new, old in enumerate(resources)}
        self.next_resource = len(resources)
        self.revisions: dict[Key, set[int]] = {}
        self.incarnations: dict[int, set[int]] = {i: {0, n.incarnation} for i, n in enumerate(state.nodes)}
        self._collect()
        self.ranks = {key: {r: at for at, r in enumerate(sorted(found), 1)} for key, found in self.revisions.items()}
        self.level = max((len(found) for found in self.ranks.values()), default=1)
        later = [revision for commit in state.log for _, _, revision in commit]
        self.later = {revision: self.level + at for at, revision in enumerate(later, 1)}
        self.numbers = {i: {n: at for at, n in enumerate(sorted(found))} for i, found in self.incarnations.items()}

    def _looks(self, store: dict[Key, Value], i: int) -> tuple[object, ...]:
        node = self.state.nodes[i]
        pending = node.pending
        lease = store.get((INSTANCE, i))
        return (
            node.live,
            lease is not None,
            lease is not None and lease[-1],
            len(node.table),
            node.seen,
            [(f[0][0], f[2]) for f in node.folds],
            (pending.command[0], pending.flight is not None, pending.revisions, pending.need) if pending else (),
            sorted(k[0] for k, v in store.items() if i in _nodes_of(k, v)),
        )

    def _resource_looks(self, store: dict[Key, Value], r: int) -> tuple[object, ...]:
        record = store.get((OWNER, r))
        owner = () if record is None else (self.node[record[0]], record[3])
        places = sorted(self.node[k[2]] for k in store if k[0] == PLACE and k[1] == r)
        asked = sorted(
            self.node[i]
            for i, n in enumerate(self.state.nodes)
            if n.pending is not None and n.pending.command[1] == r and n.pending.command[0] in _ABOUT_RESOURCE
        )
        return (owner, places, asked)

    def _mentioned(self) -> set[int]:
        state = self.state
        keys = [key for commit in state.log for key, _, _ in commit]
        keys += [key for stray in state.strays for key, _, _ in stray.operations]
        found = set()
        for node in state.nodes:
            keys += [key for key, _, _ in node.folds]
            if node.pending is not None:
                if node.pending.command[0] in _ABOUT_RESOURCE:
                    found.add(node.pending.command[1])
                if node.pending.flight is not None:
                    keys += [key for key, _, _ in node.pending.flight.operations]
        return found | {key[1] for key in keys if key[0] != INSTANCE}

    def _note(self, key: Key, *revisions: int) -> None:
        known = self.revisions.setdefault(key, set())
        known.update(r for r in revisions if 0 < r <= self.state.level)

    def _note_value(self, key: Key, value: Value | None) -> None:
        if value is None:
            return
        if key[0] == INSTANCE:
            self.incarnations[key[1]].add(value[0])
            self._note(key, value[1])
        elif key[0] == OWNER:
            self.incarnations[value[0]].add(value[1])
            self._note(key, value[3], value[4])
        else:
            self.incarnations[key[2]].add(value[0])
            self._note(key, value[1], value[2])

    def _collect(self) -> None:
        state = self.state
        for key, value in state.base:
            self._note_value(key, value)
        for commit in state.log:
            for key, value_, _ in commit:
                self._note_value(key, value_)
        for stray in state.strays:
            self._note_flight(stray)
        for node in state.nodes:
            for key, value_, _ in node.folds:
                self._note_value(key, value_)
            for resource, epoch in node.table:
                self._note((OWNER, resource), epoch)
            pending = node.pending
            if pending is not None:
                if pending.command[0] == "sweep":
                    self.incarnations[pending.command[1]].add(pending.command[2])
                if pending.flight is not None:
                    self._note_flight(pending.flight)
                    for (key, _, _), revision in zip(pending.flight.operations, pending.revisions, strict=False):
                        self._note(key, revision)

    def _note_flight(self, flight: Transaction) -> None:
        for key, value, expect in flight.operations:
            self._note_value(key, value)
            self._note(key, expect)

    def _key(self, key: Key) -> Key:
        if key[0] == INSTANCE:
            return (INSTANCE, self.node[key[1]])
        if key[0] == OWNER:
            return (OWNER, self.resource[key[1]])
        return (PLACE, self.resource[key[1]], self.node[key[2]])

    def _revision(self, key: Key, revision: int) -> int:
        if revision == 0:
            return 0
        later = self.later.get(revision)
        return self.ranks[key][revision] if later is None else later

    def _value(self, key: Key, value: Value | None) -> Value | None:
        if value is None:
            return None
        if key[0] == INSTANCE:
            return (self.numbers[key[1]][value[0]], self._revision(key, value[1]))
        if key[0] == OWNER:
            node, incarnation, moved, epoch, revision = value
            return (
                self.node[node],
                self.numbers[node][incarnation],
                moved,
                self._revision(key, epoch),
                self._revision(key, revision),
            )
        return (
            self.numbers[key[2]][value[0]],
            self._revision(key, value[1]),
            self._revision(key, value[2]),
        )

    def _change(self, change: Change) -> Change:
        key, value, revision = change
        return (self._key(key), self._value(key, value), self._revision(key, revision))

    def _flight(self, flight: Transaction) -> Transaction:
        return Transaction(self.node[flight.node], tuple(self._change(op) for op in flight.operations))

    def _pending(self, pending: Pending) -> Pending:
        what, first, second = pending.command
        if what == "sweep":
            first, second = self.node[first], self.numbers[first][second]
        elif what in _ABOUT_RESOURCE:
            first = self.resource[first]
            second = self.node[second] if what == "transfer" else 0
        owners: list[tuple[int, ...]] = [()] * len(pending.owners)
        free = self.next_resource
        for r, known in enumerate(pending.owners):
            at = self.resource.get(r)
            if at is None:
                at, free = free, free + 1
            owners[at] = tuple(sorted(NOBODY if o == NOBODY else self.node[o] for o in known))
        flight = pending.flight
        return Pending(
            (what, first, second),
            None if flight is None else self._flight(flight),
            tuple(
                self._revision(op[0], revision)
                for op, revision in zip(flight.operations if flight else (), pending.revisions, strict=False)
            ),
            pending.need,
            tuple(owners),
        )

    def _node(self, i: int) -> Node:
        node = self.state.nodes[i]
        return Node(
            node.seen,
            tuple(self._change(f) for f in node.folds),
            self.numbers[i][node.incarnation],
            node.live,
            tuple(sorted((self.resource[r], self._revision((OWNER, r), e)) for r, e in node.table)),
            None if node.pending is None else self._pending(node.pending),
        )

    def renamed(self) -> State:
        """The state under the new numbers."""
        state = self.state
        base: list[tuple[Key, Value]] = []
        for key, value in state.base:
            changed = self._value(key, value)
            assert changed is not None
            base.append((self._key(key), changed))
        return State(
            self.level,
            tuple(sorted(base)),
            tuple(tuple(self._change(c) for c in commit) for commit in state.log),
            tuple(self._node(i) for i in self.order),
            tuple(sorted((self._flight(s) for s in state.strays), key=repr)),
        )


def _nodes_of(key: Key, value: Value) -> tuple[int, ...]:
    return (value[0],) if key[0] == OWNER else (key[-1],)


_ABOUT_RESOURCE: Final = frozenset({"claim", "release", "give_up", "transfer", "join", "promote", "leave"})

"""The state of a small world as plain data, and the engine's names for what is numbers there."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, NamedTuple

from aegis_core import names
from aegis_core.engine.decision import Audit, Decision
from aegis_core.models import Ownership, Record, ServiceInstance, Standby

AT: Final = datetime(2026, 1, 1, tzinfo=UTC)
SERVICE: Final = "svc"
AUDIT: Final = Audit(transfer_id="transfer_0")
NOBODY: Final = -1

# Kinds of keys: (INSTANCE, node), (OWNER, resource), (PLACE, resource, node).
INSTANCE, OWNER, PLACE = 0, 1, 2
Key = tuple[int, ...]
# By kind: (incarnation, revision), (node, incarnation, moved, epoch, revision), (incarnation, joined, revision).
Value = tuple[int, ...]
Change = tuple[Key, Value | None, int]
Commit = tuple[Change, ...]
Operation = tuple[Key, Value | None, int]
Command = tuple[str, int, int]


class Transaction(NamedTuple):
    """What a node sent to the store."""

    node: int
    operations: tuple[Operation, ...]


class Pending(NamedTuple):
    """A command that a node has not finished.

    `flight` is what it sent, `revisions` what the store answered, `need` how many commits its view must have seen before
    it is decided again (-1: it is not waiting for that); `owners` are, by resource, all who owned it since it was asked.
    """

    command: Command
    flight: Transaction | None
    revisions: tuple[int, ...]
    need: int
    owners: tuple[tuple[int, ...], ...]


class Node(NamedTuple):
    """A node with its one instance: how many commits its view has seen, what was folded in early, what it believes."""

    seen: int
    folds: tuple[Change, ...]
    incarnation: int
    live: bool
    table: tuple[tuple[int, int], ...]
    pending: Pending | None


class State(NamedTuple):
    """Everything: what all views have seen (up to revision `level`), the commits since, the nodes, and stray transactions."""

    level: int
    base: tuple[tuple[Key, Value], ...]
    log: tuple[Commit, ...]
    nodes: tuple[Node, ...]
    strays: tuple[Transaction, ...]


class Violation(Exception):
    """The world came into a state that must not be."""


def store_of(state: State) -> dict[Key, Value]:
    """What the store holds."""
    return after(dict(state.base), state.log)


def after(store: dict[Key, Value], log: tuple[Commit, ...]) -> dict[Key, Value]:
    """*store* itself, after the commits of *log*."""
    for commit in log:
        for key, value, _ in commit:
            if value is None:
                store.pop(key, None)
            else:
                store[key] = value
    return store


def top_of(state: State, seen: int) -> int:
    """The revision of the last of the first *seen* commits."""
    return state.log[seen - 1][-1][2] if seen else state.level


def owner_of(store: dict[Key, Value], resource: int) -> int:
    """The node whose live lease holds *resource*."""
    record = store.get((OWNER, resource))
    if record is None:
        return NOBODY
    lease = store.get((INSTANCE, record[0]))
    return record[0] if lease is not None and lease[0] == record[1] else NOBODY


# --- Between numbers and the engine's names ------------------------------------------------------


def node_name(node: int) -> str:
    """The instance id of a node."""
    return "abcdef"[node]


def resource_id(resource: int) -> str:
    """The id of a resource."""
    return f"r{resource}"


def lease_tag(node: int, incarnation: int) -> str:
    """The tag of a node's lease."""
    return f"{node_name(node)}{incarnation}"


def node_of(instance_id: str) -> int:
    """The node with that instance id."""
    return "abcdef".index(instance_id)


def real_key(key: Key) -> names.Key:
    """The key as the engine names it."""
    if key[0] == INSTANCE:
        return names.InstanceKey(SERVICE, node_name(key[1]))
    if key[0] == OWNER:
        return names.TargetKey(resource_id(key[1]))
    return names.StandbyKey(resource_id(key[1]), node_name(key[2]))


def record_of(key: Key, value: Value) -> Record:
    """The record that *value* stands for."""
    if key[0] == INSTANCE:
        return ServiceInstance(
            service_name=SERVICE,
            instance_id=node_name(key[1]),
            lease=lease_tag(key[1], value[0]),
            endpoints=("memory:",),
            adopts=True,
            registered_at=AT,
            last_heartbeat=AT,
            revision=value[1],
        )
    if key[0] == OWNER:
        node, incarnation, moved, epoch, revision = value
        return Ownership(
            target=resource_id(key[1]),
            service_name=SERVICE,
            instance_id=node_name(node),
            lease=lease_tag(node, incarnation),
            epoch=epoch,
            registered_at=AT,
            reason="transferred" if moved else "claimed",
            revision=revision,
        )
    incarnation, joined, revision = value
    return Standby(
        target=resource_id(key[1]),
        service_name=SERVICE,
        instance_id=node_name(key[2]),
        lease=lease_tag(key[2], incarnation),
        joined=joined,
        revision=revision,
    )


def operations_of(decision: Decision[object]) -> tuple[Operation, ...]:
    """The writes of *decision* in numbers. Audit records are left out: nothing depends on them."""
    found: list[Operation] = []
    for write in decision.writes:
        record = write.record
        match names.parse_key(write.key):
            case names.InstanceKey(_, instance):
                key: Key = (INSTANCE, node_of(instance))
            case names.TargetKey(target):
                key = (OWNER, int(target[1:]))
            case names.StandbyKey(target, instance):
                key = (PLACE, int(target[1:]), node_of(instance))
            case _:
                continue
        value: Value | None = None
        if isinstance(record, ServiceInstance):
            value = (int(record.lease[1:]), 0)
        elif isinstance(record, Ownership):
            moved = int(record.reason == "transferred")
            value = (node_of(record.instance_id), int(record.lease[1:]), moved, record.epoch, 0)
        elif isinstance(record, Standby):
            value = (int(record.lease[1:]), record.joined, 0)
        found.append((key, value, write.expect))
    return tuple(found)


def value_at(key: Key, value: Value, revision: int) -> Value:
    """*value* as it stands after it was written at *revision*."""
    if key[0] == INSTANCE:
        return (value[0], revision)
    if key[0] == OWNER:
        return (*value[:3], value[3] or revision, revision)
    return (value[0], value[1] or revision, revision)

"""Who claims what in a test's cluster: what the registry says, and what the instances themselves believe."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import attrs

from aegis_core.engine.snapshot import Snapshot
from aegis_core.names import is_role
from aegis_pytest.faults import FaultPlane
from aegis_pytest.life import Life

__all__ = ["Holder", "read_holders", "tell_differences", "tell_unknown"]


@attrs.frozen
class Holder:
    """One instance that has to do with a resource.

    Args:
        instance_id: Which one.
        node: Its node, "" for none of the cluster's.
        epoch: Of its claim.
        registered: Whether the registry says that it owns the resource.
        believes: Whether it holds a claim, and is not giving it away.
    """

    instance_id: str
    node: str
    epoch: int
    registered: bool
    believes: bool

    def __str__(self) -> str:
        where = f" on node {self.node}" if self.node else ""
        doubt = ""
        if not self.believes:
            doubt = ", which does not hold it"
        elif not self.registered:
            doubt = ", of which the registry does not know"
        return f"{self.instance_id}{where} (epoch {self.epoch}{doubt})"

    def is_called(self, name: str) -> bool:
        """Whether *name* is the instance's, or its node's."""
        return name in (self.instance_id, self.node)


def read_holders(lives: Mapping[str, Life], plane: FaultPlane) -> dict[str, list[Holder]]:
    """Who has to do with each resource, by its id.

    Args:
        lives: The latest life of each node.
        plane: Which knows the instances of each, the dead ones too.
    """
    found: dict[str, dict[str, Holder]] = {}
    places = _places(lives, plane)
    registry = _newest_view(lives.values())
    revision = 0
    if registry is not None:
        revision = registry.revision
        for record in (it for service in registry.services() for it in registry.live(service)):
            for target, ownership in registry.held_by(record.lease).items():
                if not is_role(target):
                    found.setdefault(target, {})[record.instance_id] = Holder(
                        record.instance_id,
                        places.get(record.instance_id, ""),
                        ownership.epoch,
                        registered=True,
                        believes=False,
                    )
    for name, life in lives.items():
        for instance in life.instances:
            for target, claim in instance.claims.items():
                if claim.held and not claim.leaving:
                    holders = found.setdefault(target, {})
                    known = holders.get(instance.instance_id)
                    # What is newer than the view was acknowledged by the store, and the view will have it in a moment.
                    registered = claim.epoch > revision or (known is not None and known.epoch == claim.epoch)
                    holders[instance.instance_id] = Holder(
                        instance.instance_id, name, claim.epoch, registered=registered, believes=True
                    )
    return {target: list(holders.values()) for target, holders in sorted(found.items())}


def tell_differences(holders: Mapping[str, list[Holder]], expected: Mapping[str, Collection[str]]) -> list[str]:
    """Where *holders* are not as *expected*, line by line; nothing if they are.

    Args:
        holders: As `read_holders` found them.
        expected: By name of a node, or instance id: exactly what it claims.
    """
    lines: list[str] = []
    for name, resource_ids in expected.items():
        for resource_id in resource_ids:
            found = holders.get(resource_id, [])
            settled = len(found) == 1 and found[0].is_called(name) and found[0].registered and found[0].believes
            if not settled:
                who = " and ".join(map(str, found)) or "nobody"
                lines.append(f"  {resource_id} should be claimed by {name}; it is claimed by {who}")
        for resource_id, found in holders.items():
            lines += (
                f"  {resource_id} should not be claimed by {name}; it is claimed by {holder}"
                for holder in found
                if holder.is_called(name) and resource_id not in resource_ids
            )
    return lines


def tell_unknown(lives: Mapping[str, Life], instance_ids: Collection[str], names: Iterable[str]) -> list[str]:
    """The *names* that are neither of a node nor of an instance, now or before, a line for each.

    Args:
        lives: The latest life of each node.
        instance_ids: Of all instances that they ever had.
        names: To be looked for, among what else is registered, too.
    """
    registry = _newest_view(lives.values())
    known = {*lives, *instance_ids}
    if registry is not None:
        known.update(it.instance_id for service in registry.services() for it in registry.live(service))
    return [f"  there is neither a node nor an instance named {name!r}" for name in names if name not in known]


def _newest_view(lives: Iterable[Life]) -> Snapshot | None:
    views = [life.node.runtime.directory.snapshot for life in lives if life.node is not None]
    return max(views, key=lambda view: view.revision, default=None)


def _places(lives: Iterable[str], plane: FaultPlane) -> dict[str, str]:
    """The node of every instance by instance id."""
    members = {name: plane.member(name) for name in lives}
    return {it: name for name, member in members.items() if member is not None for it in member.instances}

"""What a trouble of a scenario does to its cluster while it lasts."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from aegis_pytest.faults import FaultPlane, Faults
from aegis_pytest.faults.kinds import STORE, Doubling, Fault, Jitter, Lag, LostLease, Relapse
from aegis_pytest.simulation.scenario import Scenario, Trouble

__all__ = ["spoil"]


def spoil(trouble: Trouble, scenario: Scenario, plane: FaultPlane) -> AbstractContextManager[None]:
    """While the block runs, what *trouble*, of *scenario*, says is wrong; it neither ends a node nor is a jump of its clock.

    Raises:
        pytest.UsageError: On entering the block: the node that it hits does not live.
        ValueError: There is no such trouble.
    """
    faults, names, size = Faults(plane), trouble.names, trouble.size
    match trouble.kind:
        case "partition":
            others = [name for name in (*scenario.nodes, STORE) if name not in names]
            fault = faults.partition(names, others)
        case "store_down" | "cut_off":
            fault = faults.partition(*((name,) for name in names))
        case "pause":
            fault = faults.pause(names[0])
        case "drift":
            fault = faults.drift(names[0], size)
        case "slow":
            fault = faults.slow((names[0], names[1]), size)
        case "jitter":
            chance = random.Random(f"{scenario.seed} {trouble}")
            fault = _in_force(plane, Jitter(frozenset(names), size, chance))
        case "drop":
            fault = faults.drop((names[0], names[1]))
        case "duplicate":
            fault = _in_force(plane, Doubling(names[0], names[1], after=size))
        case "lag":
            fault = _in_force(plane, Lag(names[0], size))
        case "late_expiry":
            fault = _in_force(plane, Relapse(names[0], size))
        case "lose_lease":
            # It cannot be renewed. That it was erased at once would be a breach of the store's word.
            member = plane.member(names[0])
            fault = _in_force(plane, LostLease(frozenset(() if member is None else member.instances.values())))
        case "doubt_applied":
            fault = faults.indeterminate(names[0], applied=True, times=None)
        case "doubt_lost":
            fault = faults.indeterminate(names[0], applied=False, times=None)
        case "doubt_later":
            fault = faults.indeterminate(names[0], applied="later", after=size, times=None)
        case _:
            raise ValueError(f"there is no trouble {trouble.kind!r}")
    return fault


@contextmanager
def _in_force(plane: FaultPlane, fault: Fault) -> Iterator[None]:
    plane.begin(fault)
    try:
        yield
    finally:
        plane.end(fault)

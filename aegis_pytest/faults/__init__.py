"""Faults for tests: between nodes, with one of them, and on the way to the store.

`FaultPlane` is what a cluster keeps: `FaultPlane.attach` puts faulty ports between a node and any backend. `Faults` is what a
test uses: one method for each thing that can go wrong.
"""

from __future__ import annotations

from aegis_pytest.faults.clock import NodeClock
from aegis_pytest.faults.injection import Faults
from aegis_pytest.faults.plane import FaultPlane
from aegis_pytest.faults.store import FaultyStore
from aegis_pytest.faults.transport import FaultyTransport

__all__ = ["FaultPlane", "Faults", "FaultyStore", "FaultyTransport", "NodeClock"]

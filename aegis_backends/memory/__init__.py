"""The memory backend, ``memory://name``: the reference of the ports, and the embedded default.

Nodes of one Trio run that open the same name form a cluster, which lives as long as one of them has it open.
"""

from __future__ import annotations

from aegis_backends.memory.bus import MemoryBus
from aegis_backends.memory.cluster import MemoryCluster, open_memory
from aegis_backends.memory.store import MemoryStore
from aegis_backends.memory.transport import MemoryTransport
from aegis_core.hookspecs import BackendRegistrar as _BackendRegistrar
from aegis_core.hookspecs import hookimpl as _hookimpl

__all__ = [
    "MemoryBus",
    "MemoryCluster",
    "MemoryStore",
    "MemoryTransport",
    "aegis_register_backends",
    "open_memory",
]


@_hookimpl
def aegis_register_backends(register: _BackendRegistrar) -> None:
    """Offer ``memory://``."""
    register("memory", open_memory)

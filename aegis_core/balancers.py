"""The built-in plug-in that offers the engine's balancers, through the same hook as everybody's."""

from __future__ import annotations

from aegis_core.engine.balancing import ConsistentHash, LeastPending, RoundRobin, Weighted
from aegis_core.hookspecs import BalancerRegistrar, hookimpl

__all__ = ["aegis_register_balancers"]


@hookimpl
def aegis_register_balancers(register: BalancerRegistrar) -> None:
    """Offer ``round-robin`` (the default), ``least-pending``, ``weighted`` and ``consistent-hash``."""
    register("round-robin", RoundRobin)
    register("least-pending", LeastPending)
    register("weighted", Weighted)
    register("consistent-hash", ConsistentHash)

"""The metrics of a node by name: what each counts, and by which labels.

What a node *did* is counted by that node alone, so that the sum over all nodes is the whole. What a node *saw* in the
store, each node counts alike: of that, look at one node, e.g. a router. The documentation of those says "(seen)".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from aegis_core.observe.series import Counts, Distribution

__all__ = ["Families"]

_BYTES: Final = (64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0)


class Families:
    """What is counted as it happens.

    Args:
        with_resource_ids: Conflicts are counted by resource, too.
    """

    def __init__(self, *, with_resource_ids: bool = False) -> None:
        self.resource_registrations = Counts(
            "ipc_resource_registrations_total",
            "Resources that were asked for, by how that ended.",
            "service_name",
            "status",
        )
        self.resource_releases = Counts(
            "ipc_resource_releases_total", "Resources that lost their owner (seen).", "service_name", "reason"
        )
        self.resource_conflicts = Counts(
            "ipc_resource_conflicts_total",
            "Resources that were asked for while others held them.",
            *(("service_name", "resource_id") if with_resource_ids else ("service_name",)),
        )
        self.resource_lookups = Counts(
            "ipc_resource_lookups_total", "Owners looked up, for calls and by programs.", "service_name", "found"
        )
        self.operation_seconds = Distribution(
            "ipc_resource_operation_duration_seconds", "How long operations of the registry took.", "operation"
        )
        self.bulk_operations = Counts(
            "ipc_resource_bulk_operations_total", "Bulk operations, by how they ended.", "operation", "status"
        )
        self.resource_transfers = Counts(
            "ipc_resource_transfers_total",
            "Resources whose transfer was asked for, by how that ended.",
            "from_service",
            "to_service",
            "status",
        )
        self.metadata_bytes = Distribution(
            "ipc_resource_metadata_size_bytes",
            "Size of the metadata of resources that were claimed.",
            "service_name",
            bounds=_BYTES,
        )
        self.registrations = Counts(
            "ipc_registrations_total", "Registrations of instances, by how they ended.", "service_name", "status"
        )
        self.heartbeats = Counts(
            "ipc_heartbeats_total", "Renewals of leases, by how they ended.", "service_name", "status"
        )
        self.heartbeat_seconds = Distribution("ipc_heartbeat_latency_seconds", "How long renewals of leases took.")
        self.leases_lost = Counts(
            "ipc_leases_lost_total",
            "Leases that expired (seen), or were erased under an instance of this node.",
            "service_name",
            "reason",
        )
        self.role_transitions = Counts(
            "ipc_role_transitions_total", "Changes of roles (seen).", "service_name", "from_role", "to_role", "reason"
        )
        self.failover_seconds = Distribution(
            "ipc_failover_duration_seconds", "From the end of an active's lease to the next active (seen)."
        )
        self.calls = Counts(
            "ipc_calls_total", "Calls of this node, by how they ended.", "service_name", "method", "outcome"
        )
        self.call_seconds = Distribution("ipc_call_duration_seconds", "How long calls took.", "service_name")
        self.misdirected = Counts(
            "ipc_misdirected_total", "Attempts of calls that came to somebody who is not the owner.", "service_name"
        )
        self.retries = Counts("ipc_retries_total", "Calls and commits tried again, by what had failed.", "reason")
        self.store_commits = Counts(
            "ipc_store_commits_total", "Commits asked of the store, by how they ended.", "status"
        )
        self.commit_seconds = Distribution("ipc_store_commit_duration_seconds", "How long commits took.")
        self.clients_cut = Counts(
            "ipc_http_clients_cut_total", "Clients of a router over HTTP that were cut off or refused.", "reason"
        )

    def __iter__(self) -> Iterator[Counts | Distribution]:
        """All of them."""
        return iter(vars(self).values())

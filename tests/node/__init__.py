"""Tests of the node: leases, claims, ownership scopes, registry operations, calls."""

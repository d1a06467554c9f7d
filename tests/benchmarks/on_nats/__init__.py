"""How fast it is on NATS: each client and each server in a process of its own, beside peers that use the same NATS server."""

from __future__ import annotations

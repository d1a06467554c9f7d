"""The NATS backend: our own client on Trio, the bucket that is the store, and the transport."""

from __future__ import annotations

__all__: list[str] = []

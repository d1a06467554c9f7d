"""The NATS backend, against the real server."""

from __future__ import annotations

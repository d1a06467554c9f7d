"""Fixtures, faults and conformance suites for applications and backends of AegisIPC."""

from __future__ import annotations

__all__: list[str] = []

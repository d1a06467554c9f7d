"""The router: a node that also offers its registry to clients elsewhere."""

from __future__ import annotations

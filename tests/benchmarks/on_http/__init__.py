"""How fast it is over HTTP: each client and each server in a process of its own, beside peers that do the same."""

from __future__ import annotations

"""The node: what runs on Trio. It decides with the engine, commits to a store, and keeps what it believes true."""

from __future__ import annotations

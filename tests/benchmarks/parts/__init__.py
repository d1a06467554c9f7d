"""Benchmarks that are played in several processes: who starts them, what they are told, and how they tell what it took."""

from __future__ import annotations

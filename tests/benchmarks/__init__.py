"""How fast it is, beside floors that are measured in the same run; ``python tests/benchmarks/run.py``."""

from __future__ import annotations

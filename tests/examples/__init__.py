"""The programs in docs/examples."""

from __future__ import annotations

"""The tests that may be skipped, each with the reason why that is right."""

from __future__ import annotations

ALLOWED_SKIPS: dict[str, str] = {}
"""Pattern of test ids (as `fnmatch` reads it, from the checkout on) to the reason."""

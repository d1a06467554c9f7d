"""Property tests judge results, not the speed of a machine that does other work beside."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("aegis", deadline=None)
settings.load_profile("aegis")

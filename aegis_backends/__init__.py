"""The backends that come with AegisIPC: each a store, a transport, or both, behind the ports of `aegis_core.backend`.

They are loaded like anybody's, through the hook ``aegis_register_backends``; nothing here is imported by name.
"""

from __future__ import annotations

__all__: list[str] = []

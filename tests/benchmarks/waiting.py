"""How long this thread could have run and did not, because other programs had the processors.

Linux counts that. Taken off what was measured, it leaves what the thread did and what it waited for by itself. Elsewhere
nothing is taken off.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Final

__all__ = ["SCHEDULE", "kept_waiting"]

SCHEDULE: Final = "/proc/thread-self/schedstat"

_known: Final = threading.local()


def kept_waiting() -> float:
    """Seconds for which the current thread has been kept waiting for a processor since it began."""
    opened: int | None = getattr(_known, "opened", None)
    if opened is None:
        # Kept open until the program ends: there are few threads.
        opened = _known.opened = os.open(SCHEDULE, os.O_RDONLY) if Path(SCHEDULE).exists() else -1
    return int(os.pread(opened, 100, 0).split()[1]) / 1e9 if opened >= 0 else 0.0

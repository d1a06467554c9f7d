"""The file: its tables, and each thing that is done to them as one plain function, called in a worker thread.

**One row for each key**, also for one that is gone: its value is NULL then, and the row stays for `SETTLE_FOR` seconds, by
which a repeated transaction is recognised, and a reader that comes back is told of the deletion. Then it is dropped, and the
counter ``forgotten`` says up to which revision: a reader that is further behind needs a new snapshot.

**Revisions** are a counter in the file, and never less than the microseconds since 1970: a file that is made anew, or brought
back from a backup, does not give out again what somebody may remember.

**Time** is the machine's monotonic clock, the same for all processes. It begins anew when the machine does, and the file
outlives that. A row that would end later than its TTL from now was written before; it gets its whole TTL again, when the file
is opened. No TTL is cut short by that: since a row was written at least as much time has passed as the clock shows.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from aegis_core.errors import ConfigError
from aegis_sqlite.reading import Reader, Watcher
from aegis_sqlite.writing import Writer

__all__ = ["open_file"]

_BY_EFFECTIVE_IDS: Final = os.access in os.supports_effective_ids


def open_file(path: Path, max_pages: int) -> tuple[Writer, Reader, Watcher]:
    """Open, and if need be make, the file at *path*.

    Args:
        path: Of the file, in a folder that exists.
        max_pages: The most pages of 4 KiB that it may come to have.

    Raises:
        ConfigError: It is no such file, or cannot be one.
        Locked: Another connection is at it.
        StoreUnavailable: It is damaged, or cannot be written.
    """
    path = path.absolute()
    if not path.parent.is_dir():
        raise ConfigError(source="backend URL", key="backend", problem=f"there is no folder {path.parent}")
    if path.exists() and not (path.is_file() and os.access(path, os.W_OK, effective_ids=_BY_EFFECTIVE_IDS)):
        raise ConfigError(source="backend URL", key="backend", problem=f"{path}: this program may not write it")
    with ExitStack() as opened:
        writer = Writer(path, max_pages)
        opened.callback(writer.close)
        writer.prepare()
        reader = Reader(path, max_pages)
        opened.callback(reader.close)
        reader.prepare()
        watcher = Watcher(path, max_pages)
        opened.callback(watcher.close)
        watcher.prepare()
        opened.pop_all()
    return writer, reader, watcher

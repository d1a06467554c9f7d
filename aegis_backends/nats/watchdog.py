"""What a process leaves behind that is killed: nothing, if a watchdog was told to clear it away.

Nobody can act on his own SIGKILL, and servers in sessions of their own hear no signal that their group gets. So a
watchdog is a process, which waits at the end of a pipe whose other end is ours alone: when the pipe closes without a
word, we are dead, however that came.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

__all__ = ["Watchdog", "temporary_directory"]

_KILL: Final = 'kill -9 "$0"'
# A server that is being killed at the same time may still make a file in between.
_REMOVE: Final = 'rm -rf -- "$0"; sleep 1; rm -rf -- "$0"'


class Watchdog:
    """Acts when this process ends without having dismissed it. One that is forgotten, without a reference, acts at once.

    A child that this process forked, without executing a program, holds the pipe as well: then both must have ended.

    Args:
        action: Shell commands, to which *subject* is ``$0``.
        subject: Whom or what they are about.
    """

    def __init__(self, action: str, subject: str) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own commands
            ["/bin/sh", "-c", f"read -r dismissed || {{ {action}; }}", subject],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # What ends our group must not end it first; and it stands in nobody's folder.
            start_new_session=True,
            cwd="/",
        )

    @classmethod
    def over_process(cls, pid: int) -> Watchdog:
        """One that kills process *pid*, whether it runs or is stopped. Dismiss it once that process has ended."""
        return cls(_KILL, str(pid))

    @classmethod
    def over_directory(cls, directory: Path) -> Watchdog:
        """One that removes *directory*, with what is in it."""
        return cls(_REMOVE, str(directory.absolute()))

    def dismiss(self) -> None:
        """End it without its having acted. May be repeated."""
        if self._process.returncode is None:
            self._process.communicate(b"dismissed\n")


@contextmanager
def temporary_directory(prefix: str = "aegis-nats-", parent: Path | None = None) -> Iterator[Path]:
    """A new directory, which is removed with the block, and also when this process is killed within it.

    Args:
        prefix: How its name begins.
        parent: Where it is made; by default where the system has temporary files.
    """
    made = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    watchdog = Watchdog.over_directory(made)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        watchdog.dismiss()

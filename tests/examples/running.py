"""``aegis demo`` as a user starts it: a process of its own, real time, real signals."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from exchange.orders import write_orders
from generate_orders import generate

AEGIS = Path(sys.executable).with_name("aegis")
ORDERS = tuple(generate(1200, seed=4))
_PATIENCE = 500.0
"""Seconds for a whole run, on a machine that has much else to do."""
EQUAL = "Equal to a sequential run, order by order"


class Demo:
    """Runs ``aegis demo`` in processes whose temporary files are in a folder of their own.

    Args:
        folder: For the few orders, the journals and the temporary files.
    """

    def __init__(self, folder: Path) -> None:
        self.orders = folder / "orders.csv.gz"
        self.journals = folder / "journals"
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        self.journals.mkdir()
        write_orders(self.orders, ORDERS)

    def start(self, *options: str | Path, **environment: str) -> subprocess.Popen[str]:
        """Start it with *options*; its process is the only one of a new group."""
        return subprocess.Popen(
            [AEGIS, "demo", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "TMPDIR": str(self.temporary), "COLUMNS": "200", **environment},
        )

    def run(self, *options: str | Path) -> tuple[int, str]:
        """Run it to its end; return its exit status and what it printed."""
        with self.start(*options) as process:
            try:
                printed, errors = process.communicate(timeout=_PATIENCE)
            finally:
                process.kill()  # after its end, without effect
        assert errors == ""
        return process.returncode, printed

    def run_few(self, *options: str | Path) -> tuple[int, str]:
        """Run it with few orders and with journals that are kept."""
        return self.run("--orders", self.orders, "--journal", self.journals, *options)


def assert_nothing_left(demo: Demo, process: subprocess.Popen[str]) -> None:
    """No process of its group, and no temporary file."""
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert list(demo.temporary.iterdir()) == []

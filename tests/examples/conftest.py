"""The order book example is a program beside the packages: its folder is put on the path, as running it does."""

from __future__ import annotations

import sys
from pathlib import Path

from aegis_core.cli.demo import examples_folder

# What the installed program runs comes first; the generator is in the checkout alone.
CHECKOUT = Path(__file__).parents[2] / "docs" / "examples"
sys.path[:0] = dict.fromkeys([str(examples_folder()), str(CHECKOUT)])

"""One process of a benchmark: plays a part, and does there what it is told. Run by path, with the part's name.

``python program.py parts.echoes:call --profile NAME '{"url": ...}'``: the part is a function of a module of the benchmarks. Commands
come as JSON lines on standard input and are answered in turn on standard output; with the end of the commands it ends.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

# At the end, so that what is measured is the installed library wherever there is one.
sys.path.append(str(Path(__file__).resolve().parents[3]))

from tests.benchmarks.parts.commands import Commands


def main() -> None:
    """Play the part that the command line names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("part")
    parser.add_argument("settings", type=json.loads)
    parser.add_argument("--profile", default="")
    asked = parser.parse_args()
    module, _, part = asked.part.partition(":")
    commands = Commands(asked.profile)
    play = getattr(importlib.import_module(f"tests.benchmarks.{module}"), part)
    play(commands, **asked.settings)
    commands.show_profile(asked.part)


if __name__ == "__main__":
    main()

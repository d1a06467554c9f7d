"""Schemathesis as a program of its own, which knows what a resource id is. Not imported: run by path."""

from __future__ import annotations

import schemathesis
from hypothesis import strategies
from schemathesis.cli import schemathesis as run

# Its own reading of the pattern also makes characters that no version of Unicode has.
CHARACTERS = strategies.characters(exclude_categories=("C", "Z"), exclude_characters='*><?"|\\{}$%&`')
schemathesis.openapi.format("resource-id", strategies.text(CHARACTERS, min_size=1, max_size=255))
run()

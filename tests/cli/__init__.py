"""The ``aegis`` command line."""

from __future__ import annotations

"""The parts of the order book example that know nothing of AegisIPC.

``orders`` are what comes in, ``matching`` is the book of one symbol, ``journal`` keeps it on disk,
``ledger`` joins the two, ``audit`` compares a finished run with a sequential one.
"""

from __future__ import annotations

"""Histories: what processes did and believed, recorded while they run, and checked afterwards.

Processes note what they ask of the registry and what is answered, who believes to hold what, which handlers ran, and
what a fencing storage took (`Recorder`). `History.check` then looks for a breach of the `Rule` s, whatever faults there
were. It is used on histories of simulated clusters and of real processes alike.
"""

from __future__ import annotations

from aegis_pytest.history.belief import BeliefProbe, watch_beliefs
from aegis_pytest.history.history import History
from aegis_pytest.history.linearizability import DEFAULT_LIMIT, TooManyConfigurations
from aegis_pytest.history.recorder import Recorder, record_to
from aegis_pytest.history.records import (
    Answer,
    BeliefBegan,
    BeliefEnded,
    Died,
    Handled,
    Invoked,
    Kind,
    Record,
    Returned,
    Wrote,
    from_line,
    to_line,
)
from aegis_pytest.history.timeline import Bar
from aegis_pytest.history.violation import Rule, Violation

__all__ = [
    "DEFAULT_LIMIT",
    "Answer",
    "Bar",
    "BeliefBegan",
    "BeliefEnded",
    "BeliefProbe",
    "Died",
    "Handled",
    "History",
    "Invoked",
    "Kind",
    "Record",
    "Recorder",
    "Returned",
    "Rule",
    "TooManyConfigurations",
    "Violation",
    "Wrote",
    "from_line",
    "record_to",
    "to_line",
    "watch_beliefs",
]

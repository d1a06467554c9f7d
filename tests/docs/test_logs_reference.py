"""The reference of logs says which fields a line may have, and at which level each event is told."""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from aegis_core import events
from aegis_core.models import Health
from aegis_core.observe.logs import FIELDS, EventLog

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "logs.md"
AT = datetime(2026, 1, 31, tzinfo=UTC)


def rows(header: str) -> dict[str, str]:
    """The rows of the table with that header: first cell and second."""
    table = PAGE.read_text(encoding="utf-8").partition(header)[2].partition("\n\n")[0]
    return dict(re.findall(r"(?m)^\| `([\w.]+)` \| (.*?) \|(?: .*\|)?$", table))


def test_page_lists_the_fields() -> None:
    """All of them, in the order in which they are written."""
    assert tuple(rows("| Field |")) == FIELDS


def test_page_tells_the_level_of_each_event(caplog: pytest.LogCaptureFixture) -> None:
    """As the built-in observer logs it, the first level for what is bad news."""
    listed = rows("| Event |")
    kinds = [getattr(events, name) for name in events.__all__ if name != "Event"]
    assert sorted(listed) == sorted(kind.__name__ for kind in kinds)
    with caplog.at_level(logging.DEBUG, logger="aegis"):
        for kind in kinds:
            more = {"old": Health.ONLINE, "new": Health.UNHEALTHY} if kind is events.InstanceHealthChanged else {}
            caplog.clear()
            EventLog().on_event(kind(at=AT, **more))
            (record,) = caplog.records
            assert listed[kind.__name__].partition(",")[0] == record.levelname, kind

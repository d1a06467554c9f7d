"""The reference of metrics says what the code counts, no more and no less."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aegis_core import open_node
from aegis_core.observe.metrics import Metrics

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"
_ROW = re.compile(r"(?m)^\| `(ipc_\w+)` \| (\w+) \| (.*?) \| (.*?) \|$")


@pytest.mark.parametrize("told_apart", [0, 1])
async def test_page_lists_the_metrics_of_a_node(told_apart: int) -> None:
    """Name, kind, labels and meaning of each, in their order; the one label that is a setting's is marked."""
    config = {"metrics": {"enabled": True, "conflict_resource_ids": told_apart}}
    async with open_node("memory://", config=config) as node:
        assert node.runtime.instruments is not None
        (metrics,) = node.runtime.instruments.all
        assert isinstance(metrics, Metrics)
        counted = [(one.name, one.kind, one.labels, one.documentation) for one in metrics.families]
    listed = []
    for name, kind, labels, meaning in _ROW.findall(PAGE.read_text(encoding="utf-8")):
        if not told_apart:
            labels = labels.replace(" (`resource_id`)", "")  # noqa: PLW2901 - as it is without the setting
        listed.append((name, kind, tuple(re.findall(r"`(\w+)`", labels)), meaning))
    assert listed == counted

"""``aegis bench``: a short load, bounded, and a table of how it went."""

from __future__ import annotations

import json

import pytest

from aegis_core import InvalidRequest, open_node
from aegis_core.cli.bench import LOADS, Measured
from tests.cli.running import BACKEND, run_command

BRIEF = ("--seconds", "0.05", "--concurrency", "3")


async def test_every_load_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """And nothing of it stays."""
    async with open_node(BACKEND) as node:
        assert await run_command("bench", *BRIEF, "--json") == 0
        document = json.loads(capsys.readouterr().out)
        assert (document["seconds"], document["concurrency"]) == (0.05, 3)
        assert [one["load"] for one in document["loads"]] == list(LOADS)
        for one in document["loads"]:
            assert one["operations"] > 0
            assert (one["errors"], one["first_error"]) == (0, "")
            assert 0 < one["p50_ms"] <= one["p95_ms"] <= one["p99_ms"]
            assert one["per_second"] > 0
        assert await node.registry.list_services() == ()
        assert (await node.registry.query_resources()).total_count == 0


async def test_loads_are_chosen_and_shown_to_people(capsys: pytest.CaptureFixture[str]) -> None:
    """In the order in which they were asked for, each once."""
    assert await run_command("bench", "read", "call", "read", *BRIEF) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["load", lines[1], "read", "call"]
    with pytest.raises(InvalidRequest, match="no load 'write', only call"):
        await run_command("bench", "write")


async def test_failures_are_counted_and_the_first_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And are the exit status."""
    monkeypatch.setenv("AEGIS_MAX_RESOURCES_PER_INSTANCE", "1")
    assert await run_command("bench", "claim", *BRIEF) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[2].split()[:5] == ["claim", "0", "-", "-", "-"]
    assert "max_resources_per_instance" in err


def test_percentiles_are_of_what_was_measured() -> None:
    """The largest of few; none of none."""
    measured = Measured("x", seconds=1, durations=[n / 1000 for n in range(100, 0, -1)])
    assert [measured.percentile(share) for share in (0.5, 0.95, 0.99)] == [51, 96, 100]
    assert Measured("x", seconds=1, durations=[0.5]).percentile(0.99) == 500
    assert Measured("x", seconds=1).percentile(0.5) is None

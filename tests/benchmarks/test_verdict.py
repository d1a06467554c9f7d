"""What the exit status of the benchmarks says."""

from __future__ import annotations

import json

import pytest

from tests.benchmarks import run
from tests.benchmarks.measuring import Arena, Check, Line, at_least, at_most


@pytest.mark.parametrize(
    ("checks", "status"),
    [
        pytest.param([], 0, id="nothing-asked"),
        pytest.param([at_most(1.0, 1.0, "{} s", ceiling=True), at_least(2.0, 1.0, "{}/s", ceiling=True)], 0, id="kept"),
        pytest.param([at_most(2.0, 1.0, "{} s")], 0, id="goal-missed"),
        pytest.param([at_most(2.0, 1.0, "{} s", ceiling=True)], 1, id="ceiling-missed"),
        pytest.param([at_least(0.5, 1.0, "{}/s", ceiling=True)], 1, id="rate-missed"),
    ],
)
def test_missed_ceiling_is_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checks: list[Check], status: int
) -> None:
    """A ceiling decides; a goal beside it is told in the table."""

    async def measure(arena: Arena) -> None:
        arena.line("a thing", None, *checks)

    monkeypatch.setattr(run, "SCENARIOS", {"things": run.Scenario(measure, ())})
    assert run.main(["--json", "--only", "things"]) == status
    (line,) = json.loads(capsys.readouterr().out)["things"]
    assert [check["met"] for check in line["checks"]] == [check.met for check in checks]


@pytest.mark.parametrize("options", [[], ["--advisory"]], ids=["deciding", "advisory"])
@pytest.mark.parametrize("failing", [True, False], ids=["failing", "slow"])
def test_scenario_that_fails_decides_even_where_ceilings_do_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], *, failing: bool
) -> None:
    """The others are measured, and it is named."""
    slow = Line("a thing", None, None, None, (at_most(2.0, 1.0, "{} s", ceiling=True),))
    measured: list[str] = []

    def elsewhere(name: str, *, quick: bool) -> list[Line]:
        assert not quick
        measured.append(name)
        return [] if failing and name == "claims" else [slow]

    monkeypatch.setattr(run, "_elsewhere", elsewhere)
    status = run.main([*options, "--only", "claims", "--only", "calls"])
    assert measured == ["claims", "calls"]
    assert status == (1 if failing or not options else 0)
    assert ("  failed   claims: its error is above\n" in capsys.readouterr().out) == failing


def test_scenario_that_fails_is_tried_again(capfd: pytest.CaptureFixture[str]) -> None:
    """In a process of its own each time; then it has no lines."""
    assert run._elsewhere("no-such-scenario", quick=True) == []
    assert capfd.readouterr().err.count("the scenario no-such-scenario failed with exit status 2\n") == 2


@pytest.mark.parametrize(
    ("only", "first", "left_out"),
    [
        pytest.param([], "calls", {"nats-view-million"}, id="everything"),
        pytest.param(
            ["memory"], "calls", {name for name in run.SCENARIOS if name.startswith(("http-", "nats-"))}, id="memory"
        ),
        pytest.param(
            ["http"], "http-calls", {name for name in run.SCENARIOS if not name.startswith("http-")}, id="http"
        ),
        pytest.param(
            ["nats", "nats-claims"],
            "nats-calls",
            {name for name in run.SCENARIOS if not name.startswith("nats-")} | {"nats-view-million"},
            id="nats",
        ),
        pytest.param(["nats-view-million"], "nats-view-million", set(run.SCENARIOS) - {"nats-view-million"}, id="slow"),
    ],
)
def test_slow_scenario_runs_only_by_its_name(only: list[str], first: str, left_out: set[str]) -> None:
    """A group is all of its scenarios but the slow ones, each once."""
    chosen = run.chosen_by(only)
    assert chosen[0] == first
    assert sorted(chosen) == sorted(set(run.SCENARIOS) - left_out)

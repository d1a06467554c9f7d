"""``aegis doctor``: every check, what it says when something is wrong, and the exit status."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from trio.testing import MockClock

from aegis_core import ServiceInstance, codec, names, open_node
from aegis_core.backend import ANY, Put, Transaction
from aegis_core.cli.doctor import CHECKS
from tests.cli.running import BACKEND, run_command, town


async def checked(
    capsys: pytest.CaptureFixture[str], *, backend: str | None, status: int
) -> dict[str, dict[str, object]]:
    """What each check found."""
    assert await run_command("doctor", "--json", backend=backend) == status
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is (status == 0)
    assert [one["check"] for one in document["checks"]] == list(CHECKS)
    for one in document["checks"]:
        assert set(one) == {"check", "verdict", "detail", "remedy", "seconds"}
        assert bool(one["remedy"]) == (one["verdict"] in {"warning", "failed"})
    return {one["check"]: one for one in document["checks"]}


def verdicts(checks: dict[str, dict[str, object]], verdict: str) -> Sequence[str]:
    """The checks that came out so."""
    return [name for name, one in checks.items() if one["verdict"] == verdict]


async def test_all_is_well_where_it_is(autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]) -> None:
    """Memory forgets, which is a warning and no failure; nothing of the doctor's stays."""
    async with town() as t:
        checks = await checked(capsys, backend=BACKEND, status=0)
        assert verdicts(checks, "warning") == ["capabilities"]
        assert verdicts(checks, "ok") == [name for name in CHECKS if name != "capabilities"]
        steps = str(checks["registry"]["detail"]).split(", ")
        assert [step.split()[0] for step in steps] == ["register", "claim", "renew", "release", "deregister"]
        assert "as 2 instances have it" in str(checks["clock"]["detail"])
        assert [view.service_name for view in await t.node.registry.list_services()] == ["rooms"]


async def test_people_get_a_line_for_each_check_with_its_remedy(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """The remedy stands below."""
    assert await run_command("doctor") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[9:].split()[0] for line in lines if not line.startswith(" ")] == list(CHECKS)
    at = next(number for number, line in enumerate(lines) if line.startswith("warning"))
    assert lines[at + 1].strip() == "-> for production keep it on disk, a router's registry on NATS"


async def test_without_configuration_nothing_else_is_checked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All else is skipped."""
    monkeypatch.delenv("AEGIS_BACKEND", raising=False)
    checks = await checked(capsys, backend=None, status=1)
    assert verdicts(checks, "failed") == ["configuration"]
    assert verdicts(checks, "skipped") == list(CHECKS[1:])


async def test_a_plug_in_that_cannot_be_loaded_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a server is asked for."""
    monkeypatch.setenv("AEGIS_PLUGINS_ENABLED", "no_such_plugin")
    checks = await checked(capsys, backend=BACKEND, status=1)
    assert verdicts(checks, "failed") == ["plug-ins"]
    assert "no_such_plugin" in str(checks["plug-ins"]["detail"])


async def test_a_server_that_is_not_there_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """With what to start; a password in the URL is shown to nobody."""
    checks = await checked(capsys, backend="nats://me:secret@127.0.0.1:1", status=1)
    assert verdicts(checks, "failed") == ["server"]
    assert verdicts(checks, "ok") == ["configuration", "plug-ins"]
    assert "nats-server -js" in str(checks["server"]["remedy"])
    assert "secret" not in str(checks)


async def test_why_a_backend_gives_up_is_said(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a program would learn it: the doctor waits for longer than a backend tries."""
    monkeypatch.setenv("AEGIS_PLUGINS_ENABLED", "tests.cli.frail:late")
    checks = await checked(capsys, backend="late://there", status=1)
    assert verdicts(checks, "failed") == ["server"]
    assert "it is not enabled there" in str(checks["server"]["detail"])


async def test_leases_too_short_for_the_store_are_warned_of(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And fail where an instance is served."""
    monkeypatch.setenv("AEGIS_PLUGINS_ENABLED", "tests.cli.frail:frugal")
    checks = await checked(capsys, backend="faulty://frugal", status=1)
    assert checks["capabilities"]["remedy"] == "set ttl to 60 or more"
    assert verdicts(checks, "failed") == ["calls"]
    monkeypatch.setenv("AEGIS_TTL", "90")
    checks = await checked(capsys, backend="faulty://frugal", status=0)
    assert verdicts(checks, "ok") == list(CHECKS)


async def test_who_may_not_register_learns_it(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both checks that need it fail, each by itself."""
    monkeypatch.setenv("AEGIS_PLUGINS_ENABLED", "tests.cli.frail:shut")
    checks = await checked(capsys, backend=BACKEND, status=1)
    assert verdicts(checks, "failed") == ["registry", "calls"]
    assert "it is shut" in str(checks["registry"]["detail"])


async def test_what_was_registered_goes_when_a_later_step_fails(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And that step's error is what is told."""
    monkeypatch.setenv("AEGIS_PLUGINS_ENABLED", "tests.cli.frail:narrow")
    async with open_node("memory://narrow") as node:
        checks = await checked(capsys, backend="faulty://narrow", status=1)
        assert verdicts(checks, "failed") == ["registry"]
        assert "read only" in str(checks["registry"]["detail"])
        assert await node.registry.list_services() == ()


async def test_clocks_that_differ_are_warned_of(autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]) -> None:
    """A renewal that lies ahead shows it."""
    ahead = datetime.now(UTC) + timedelta(seconds=90)
    record = ServiceInstance(
        service_name="svc", instance_id="early", lease="tag", registered_at=ahead, last_heartbeat=ahead
    )
    async with open_node(BACKEND) as node:
        write = Put(names.instance_key("svc", "early"), codec.encode_record(record), ANY, ttl=30)
        await node.runtime.store.commit(Transaction(id="early", operations=(write,)))
        checks = await checked(capsys, backend=BACKEND, status=0)
    assert checks["clock"]["verdict"] == "warning"
    assert "NTP" in str(checks["clock"]["remedy"])


async def test_a_slow_store_is_warned_of(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slow in proportion to the lease."""
    monkeypatch.setenv("AEGIS_TTL", "1")
    monkeypatch.setenv("AEGIS_PLUGINS_ENABLED", "tests.cli.frail:slow")
    checks = await checked(capsys, backend="faulty://slow", status=0)
    assert checks["latency"]["verdict"] == "warning"
    assert "long for a TTL of 1 s" in str(checks["latency"]["detail"])

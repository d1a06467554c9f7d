"""The same commands through a router and on NATS, as processes; what they say when nobody is there."""

from __future__ import annotations

import json
import subprocess

import pytest
import trio

from aegis_backends.nats.server import NatsServers
from tests.cli.running import PATIENCE, PROGRAM, run_program, town
from tests.conformance.test_nats import one_server
from tests.router.processes import open_router

__all__ = ["one_server"]


async def test_commands_work_through_a_router_and_on_nats(one_server: NatsServers) -> None:
    """What is served on NATS is seen and explained there and through a router of it; calls go to where instances listen."""
    direct = f"{one_server.url}?bucket=cli"
    async with open_router("--backend", direct, "--http", "127.0.0.1:0") as router, town(direct):
        for url in (direct, router.url):
            env = {"AEGIS_BACKEND": url}
            done = await run_program("services", "--json", env=env)
            assert (done.returncode, done.stderr) == (0, b"")
            router_itself, service = json.loads(done.stdout)["services"]
            assert router_itself["service_name"] == "aegis-router"
            assert [(one["instance_id"], one["resources"]) for one in service["instances"]] == [("a", 2), ("b", 0)]
            done = await run_program("explain", "room:2", env=env)
            assert b"rooms/a" in done.stdout
        line = ("call", "rooms", "paint", "colour=red", "--resource", "room:2", "--json", "--backend", direct)
        assert json.loads((await run_program(*line)).stdout) == {
            "by": "a",
            "room": "room:2",
            "colour": "red",
            "coats": 1,
        }


async def test_where_nobody_answers_one_line_says_so() -> None:
    """No traceback, and the exit status for it."""
    done = await run_program("services", "--backend", "nats://127.0.0.1:1", "--timeout", "2")
    assert (done.returncode, done.stdout) == (3, b"")
    assert done.stderr.startswith(b"aegis: the store is unavailable (NOT_SENT): ")
    assert done.stderr.endswith(b"('aegis doctor' looks for the reason)\n")
    assert done.stderr.count(b"\n") == 1


async def test_a_server_that_never_answers_is_given_up() -> None:
    """After --timeout, which is sooner than the backend itself would."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        port = listener.socket.getsockname()[1]
        done = await run_program("services", "--backend", f"nats://127.0.0.1:{port}", "--timeout", "0.5")
    assert done.returncode == 3
    assert b"no connection within 0.5 s" in done.stderr


async def test_who_reads_no_more_ends_the_command_quietly() -> None:
    """As of ``aegis services | head -0``."""
    process = await trio.lowlevel.open_process(
        [*PROGRAM, "services", "--backend", "memory://"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    await process.stdout.aclose()
    with trio.fail_after(PATIENCE):
        assert await process.wait() == 141
        assert await process.stderr.receive_some() == b""


@pytest.mark.parametrize("command", ["services", "watch"])
async def test_nothing_configured_is_said(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is a wrong configuration: exit status 2."""
    monkeypatch.delenv("AEGIS_BACKEND", raising=False)
    done = await run_program(command)
    assert done.returncode == 2
    assert b"AEGIS_BACKEND or --backend" in done.stderr

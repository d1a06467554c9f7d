"""Servers of one's own: they start, answer, die, come back, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from aegis_backends.nats.server import NatsServer, NatsServers, find_program, open_servers
from aegis_backends.nats.watchdog import Watchdog, temporary_directory
from aegis_core.errors import ConfigError, StoreUnavailable


def is_there(pid: int) -> bool:
    """Whether a process has this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def greeting(server: NatsServer) -> bytes:
    """What the server says first to a client."""
    async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
        return await stream.receive_some()


async def test_server_answers_while_its_block_runs() -> None:
    """It is there as soon as the block begins, and gone with its data when that ends."""
    async with open_servers() as servers:
        (server,) = servers.servers
        assert servers.url == server.url == f"nats://127.0.0.1:{server.port}"
        assert (await greeting(server)).startswith(b"INFO {")
        assert server.running
        pid, directory = server.pid, server.directory
        assert repr(server) == f"<NatsServer 'n1' at {server.url}, running as process {pid}>"
        assert repr(servers) == f"<NatsServers: {server!r}>"
    assert not is_there(pid)
    assert not directory.exists()


async def test_cluster_names_all_of_its_servers(tmp_path: Path) -> None:
    """Three servers know each other; their addresses make one URL."""
    async with open_servers(3, directory=tmp_path) as servers:
        assert servers.location == ",".join(f"127.0.0.1:{server.port}" for server in servers.servers)
        for server in servers.servers:
            assert b'"cluster":"aegis"' in await greeting(server)
    assert not any(server.running for server in servers.servers)


async def test_server_that_is_killed_starts_again_where_it_was(tmp_path: Path) -> None:
    """On the same port, from the same data, as another process."""
    async with open_servers(directory=tmp_path) as servers:
        (server,) = servers.servers
        port, pid = server.port, server.pid
        await server.kill()
        assert not server.running
        assert repr(server).endswith("not running>")
        with pytest.raises(OSError, match=r"\S"):
            await greeting(server)
        await server.start()
        assert server.port == port
        assert server.pid != pid
        assert (await greeting(server)).startswith(b"INFO {")
    assert server.log


async def test_server_that_hangs_is_ended_all_the_same() -> None:
    """A stopped process is no reason to wait for ever."""
    async with open_servers() as servers:
        (server,) = servers.servers
        server.signal(signal.SIGSTOP)
    assert not is_there(server.pid)


async def test_cancellation_ends_the_servers() -> None:
    """At whatever moment: no process is left."""
    pids: list[int] = []
    for seconds in (0.0, 0.02, 5.0):
        with trio.move_on_after(seconds):
            async with open_servers() as servers:
                pids.append(servers.servers[0].pid)
                if seconds == 5.0:
                    with trio.CancelScope() as scope:
                        scope.cancel()
                        await servers.servers[0].stop()
                    assert scope.cancelled_caught
                    break
                await trio.sleep_forever()
    assert pids
    assert not any(map(is_there, pids))


async def test_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    """With the end of its log; nothing is left running."""
    servers = NatsServers(1, tmp_path, settings="authorization { no_such_setting: 1 }")
    with pytest.raises(StoreUnavailable, match=r"ended; it logged last: .*no_such_setting"):
        await servers.start()
    assert not servers.servers[0].running
    with pytest.raises(StoreUnavailable, match="no_such_setting"):
        await servers.servers[0].start()


async def test_program_that_cannot_be_run_is_told(tmp_path: Path) -> None:
    """By its path; and none of several servers is left running."""
    (tmp_path / "nats-server").touch(0o644)
    servers = NatsServers(1, tmp_path, program=tmp_path / "nats-server")
    with pytest.raises(StoreUnavailable, match=r"cannot be started: .*nats-server: Permission denied"):
        await servers.start()
    several = NatsServers(2, tmp_path)
    several.servers[1]._program = tmp_path / "nats-server"
    with pytest.raises(StoreUnavailable, match="'n2' cannot be started"):
        await several.start()
    assert not is_there(several.servers[0].pid)


async def test_server_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    """A server without JetStream for whom nobody is logged in never becomes ready."""
    servers = NatsServers(1, tmp_path, settings='authorization { token: "secret" }')
    with pytest.raises(StoreUnavailable, match=r"did not answer within 0\.3 s"):
        await servers.start(timeout=0.3)
    assert not is_there(servers.servers[0].pid)


def test_missing_package_is_named() -> None:
    """With the command that installs it."""
    with pytest.raises(ConfigError, match="pip install no-such-package"):
        find_program("no-such-package")
    with pytest.raises(ConfigError, match="pip install pytest"):
        find_program("pytest")


HOST = """
import os, sys, trio
from pathlib import Path
from aegis_backends.nats.server import open_servers
from aegis_pytest.nats import running_servers
sys.path.append(sys.argv[3])  # the last place: the packages under test are the installed ones
from tests.backends.nats.processes import running

def tell(port, folder):
    print(port, folder, flush=True)
    os.read(0, 1)

async def in_a_block():
    async with open_servers() as servers:
        tell(servers.servers[0].port, servers.servers[0].directory.parent)

def in_a_session():
    with running_servers() as servers:
        tell(servers.servers[0].port, servers.servers[0].directory.parent)

def as_a_process():
    with running(Path(sys.argv[2])) as server:
        tell(server.port, "-")

def that_hangs():
    with running_servers() as servers:
        servers.servers[0].signal(19)
        tell(servers.servers[0].port, servers.servers[0].directory.parent)

trio.run(in_a_block) if sys.argv[1] == "in_a_block" else globals()[sys.argv[1]]()
"""


def is_listening(port: int) -> bool:
    """Whether a server has the port, whether it answers or not."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


async def wait_until(is_so: Callable[[], bool]) -> None:
    """Look until it is, for half a minute at most."""
    with trio.fail_after(60):
        while not is_so():  # noqa: ASYNC110 - no event tells of it
            await trio.sleep(0.01)


def start_and_kill(way: str, number: signal.Signals, folder: Path) -> tuple[int, Path]:
    """The port and the folder of a server whose host was killed."""
    command = [sys.executable, "-c", HOST, way, str(folder), str(Path(__file__).parents[3])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout is not None
        port, used = host.stdout.readline().split()
        assert is_listening(int(port))
        host.send_signal(number)
        assert host.wait() == -number
    return int(port), Path(used)


@pytest.mark.parametrize(
    ("way", "number"),
    [
        pytest.param("in_a_block", signal.SIGKILL, id="a block, SIGKILL"),
        pytest.param("in_a_block", signal.SIGTERM, id="a block, SIGTERM"),
        pytest.param("in_a_session", signal.SIGKILL, id="a session, SIGKILL"),
        pytest.param("that_hangs", signal.SIGKILL, id="a server that hangs, SIGKILL"),
        pytest.param("as_a_process", signal.SIGKILL, id="a server of these tests, SIGKILL"),
    ],
)
async def test_server_does_not_outlive_who_started_it(way: str, number: signal.Signals, tmp_path: Path) -> None:
    """Whoever is killed has no time to end it; its port is free again all the same, and its temporary folder gone."""
    port, folder = start_and_kill(way, number, tmp_path / "server")
    await wait_until(lambda: not is_listening(port))
    await wait_until(lambda: not folder.exists())


async def test_server_that_runs_is_not_started_twice() -> None:
    """Nobody would be left who could end the first."""
    async with open_servers() as servers:
        with pytest.raises(RuntimeError, match="runs already"):
            servers.servers[0].spawn()


def test_dismissed_watchdog_does_nothing() -> None:
    """And is gone; to dismiss it again is no mistake."""
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as guarded:
        watchdog = Watchdog.over_process(guarded.pid)
        watchdog.dismiss()
        watchdog.dismiss()
        del watchdog
        assert guarded.communicate(b"") == (None, None)
    assert guarded.returncode == 0


def test_temporary_directory_goes_with_its_block() -> None:
    """With what is in it."""
    with temporary_directory() as made:
        (made / "file").touch()
    assert not made.exists()

"""The page that takes the tutorial's programs to NATS: followed to the letter, in several processes, on a real server."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import trio

from aegis_backends.nats.server import NatsServers, find_program
from aegis_backends.nats.watchdog import Watchdog
from aegis_core import Service, open_node
from tests.backends.nats.polling import until
from tests.docs.test_pages import DOCS, RUN_ON_NATS, programs

_SERVER = "127.0.0.1:4222"
_CONSOLE = re.compile(r"(?ms)^```console\n(.*?)^```$(?:\n\n^```text\n(.*?)^```$)?")
_COMMAND = re.compile(r"((?:AEGIS_\w+=\S+ )+)\.venv/bin/python (.+)")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The programs of the tutorial and of the page, saved under their names."""
    for program in (*programs(DOCS / "tutorial.md"), *programs(RUN_ON_NATS)):
        (tmp_path / program.name).write_text(program.source, encoding="utf-8")
    return tmp_path


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServers]:
    """A server, on a port of its own."""
    servers = NatsServers(1, tmp_path_factory.mktemp("nats"))
    trio.run(servers.start)
    yield servers
    trio.run(servers.stop)


def steps() -> dict[str, str]:
    """What the page types into a terminal, and what is printed then."""
    shown: dict[str, str] = {}
    for block, output in _CONSOLE.findall(RUN_ON_NATS.read_text(encoding="utf-8")):
        *others, last = block.splitlines()
        shown.update(dict.fromkeys(others, ""))
        shown[last] = output
    return shown


@contextmanager
def typed(command: str, folder: Path, server: NatsServers) -> Iterator[subprocess.Popen[str]]:
    """The process that a line of the page starts; only the server's address is another one."""
    found = _COMMAND.fullmatch(command.replace(_SERVER, server.location))
    assert found is not None, command
    settings = dict(pair.split("=", 1) for pair in found.group(1).split())
    process = subprocess.Popen(
        [sys.executable, *found.group(2).split()],
        cwd=folder,
        env={**os.environ, **settings, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def first_line(process: subprocess.Popen[str]) -> str:
    """What it prints first."""
    assert process.stdout is not None
    return process.stdout.readline()


def test_page_shows_what_to_type() -> None:
    """A server; an owner and two callers; an active and a standby, and how to kill the first."""
    names = [re.sub(r".*/(python )?", "", line) for line in steps()]
    assert [name.split()[0] for name in names] == [
        *("nats-server", "branch.py", "teller.py", "teller.py", "machine.py", "machine.py", "kill"),
    ]


def test_callers_find_the_owner_in_another_process(folder: Path, server: NatsServers) -> None:
    """The owner keeps what two callers paid in; a second owner is refused; after Ctrl-C there is none."""
    lines = [line for line in steps() if "branch.py" in line or "teller.py" in line]
    owner, *callers = lines
    with typed(owner, folder, server) as branch:
        assert first_line(branch) == steps()[owner]
        paid = ""
        for caller in callers:
            with typed(caller, folder, server) as teller:
                printed, errors = teller.communicate(timeout=60)
                assert errors == ""
                paid += printed
        assert paid == steps()[callers[-1]]
        with typed(owner, folder, server) as second:
            _, errors = second.communicate(timeout=60)
            assert re.search(r"ResourceConflict: .*'account:42' is held by instance 'account-service-\w+'", errors)
        branch.send_signal(signal.SIGINT)
        assert branch.communicate(timeout=60) == ("", "")
        assert branch.returncode == 0
    with typed(callers[0], folder, server) as teller:
        assert "ResourceNotFound" in teller.communicate(timeout=60)[1]


def test_standby_takes_over_from_the_process_that_is_killed(folder: Path, server: NatsServers) -> None:
    """With kill -9, as the page has it; while the first lives, nobody else gets its name."""
    active, waiting = (line for line in steps() if "machine.py" in line and "AEGIS" in line)
    (taken_over,) = re.findall(r"(?ms)^```text\n(second .*?)^```$", RUN_ON_NATS.read_text(encoding="utf-8"))
    with ExitStack() as stack:
        first = stack.enter_context(typed(active, folder, server))
        assert first_line(first) == steps()[active]
        second = stack.enter_context(typed(waiting, folder, server))
        with typed(active, folder, server) as namesake:
            assert "InstanceConflict" in namesake.communicate(timeout=60)[1]
        first.send_signal(signal.SIGKILL)
        assert first_line(second) == taken_over


def test_page_begins_with_the_command_that_starts_a_server(folder: Path) -> None:
    """It is the first thing on the page, and an owner can open the server that it starts."""
    text = RUN_ON_NATS.read_text(encoding="utf-8")
    command = next(iter(steps()))
    assert text.index(command) < text.index("\n## ")
    arguments = command.partition(" && ")[2].split()
    assert arguments[0] == ".venv/bin/nats-server"
    ports = folder / "ports"
    ports.mkdir()
    server = subprocess.Popen(
        [find_program(), *arguments[1:], "-p", "-1", "--ports_file_dir", str(ports), "-l", str(folder / "log")],
        cwd=folder,
    )
    watchdog = Watchdog.over_process(server.pid)
    try:
        found = ports / f"nats-server_{server.pid}.ports"
        trio.run(until, lambda: found.exists() and found.read_text())
        (url,) = json.loads(found.read_text())["nats"]
        trio.run(open_once, url)
        assert (folder / "nats-data").is_dir()
    finally:
        server.kill()
        watchdog.dismiss()
        server.wait()


async def open_once(url: str) -> None:
    """Open a node there, and claim something."""
    async with open_node(url) as node, node.serve(Service("account-service")) as instance:
        await instance.claim("account:42")


def test_what_is_told_of_production_stands_on_one_page() -> None:
    """The other one only leads there, so that the two cannot tell different things."""
    last = RUN_ON_NATS.read_text(encoding="utf-8").rpartition("\n## ")[2]
    assert last.startswith("In production\n")
    assert "(nats-in-production.md)" in last
    assert "```" not in last
    assert re.findall(r"\d+ s\b|\d+ seconds|authorization", last) == []

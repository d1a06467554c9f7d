"""The page that takes the tutorial's programs to NATS: followed to the letter, in several processes, on a real server."""

from __future__ import annotations

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

from aegis_backends.nats import remove_bucket
from aegis_backends.nats.server import NatsServers
from aegis_core import Call, Claim, ConfigError, Role, Service, open_node
from aegis_core.config import parse_backend
from tests.backends.nats.processes import running
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


async def test_permissions_on_the_page_are_enough_and_no_more(tmp_path: Path) -> None:
    """Two nodes claim, call, transfer and wait in line without a violation; the bucket is not theirs to remove."""
    (permissions,) = re.findall(r"(?ms)^```text\n(authorization .*?)^```$", RUN_ON_NATS.read_text(encoding="utf-8"))
    service = Service("account-service")

    @service.on_acquire
    async def load(claim: Claim) -> None:
        """Nothing to load."""

    @service.method
    async def who(call: Call) -> str:
        assert call.instance is not None
        return call.instance.instance_id

    settings = f'jetstream {{ store_dir: "{tmp_path}" }}\n{permissions}'
    with running(tmp_path, settings) as process:
        url = f"{process.url.replace('//', '//accounts:change-me@')}?storage=memory"
        async with (
            open_node(url) as node,
            open_node(url) as other,
            node.serve(service, instance_id="one") as one,
            other.serve(service, instance_id="two") as two,
        ):
            await one.bulk_claim([f"account:{number}" for number in range(100)])
            await one.transfer("account:1", "account:2", to="two")
            for number, owner in ((0, "one"), (1, "two")):
                assert await other.call("account-service", "who", resource_id=f"account:{number}") == owner
            async with two.own("engine", role=Role.STANDBY):
                assert (await node.registry.get_owner("engine")).owner_instance_id == "two"
                assert (await other.registry.query_resources(service_name="account-service")).total_count == 101
        with pytest.raises(ConfigError, match=r"STREAM\.DELETE"):
            await remove_bucket(parse_backend(url))
    violations = re.findall(r"\w+ Violation.*", (tmp_path / "log").read_text(encoding="utf-8"))
    assert len(violations) == 1
    assert "STREAM.DELETE" in violations[0]

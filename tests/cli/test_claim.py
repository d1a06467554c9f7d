"""``aegis claim``: a command runs while a resource is held, and no longer.

It is one long file because whichever way a claim ends, the same worker tells what became of the command.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from aegis_backends.nats.server import NatsServers
from aegis_core import InvalidRequest, ResourceConflict, Role, open_node
from aegis_core.cli.guard import DONE, OPEN, guard, notice, pass_gate
from aegis_core.config import load_settings
from tests.cli.running import BACKEND, PATIENCE, PROGRAM, rooms, run_command
from tests.conformance.test_nats import one_server
from tests.router.processes import open_router

__all__ = ["one_server"]

# A lease that a busy machine has time to renew, and that a test can wait for.
BRIEF = ("--ttl", "5", "--grace", "0.2")
# The shell and what it starts hold the pipe "alive" open: when it ends, all of them have.
WORKER = """
exec 3>"$1"
trap 'echo asked >&3; exit 5' TERM
trap 'echo used >&3; exit 9' USR1
echo "up $AEGIS_RESOURCE_ID $AEGIS_EPOCH" >&3
while :; do sleep 1000 & wait $!; done
"""
DEAF = WORKER.replace("trap 'echo asked >&3; exit 5' TERM", "trap '' TERM")


class Worker:
    """What a worker's pipe tells."""

    def __init__(self, folder: Path, script: str = WORKER) -> None:
        self._pipe = folder / "alive"
        os.mkfifo(self._pipe)
        self.command = ("sh", "-c", script, "sh", str(self._pipe))
        self._stream: trio.lowlevel.FdStream | None = None

    async def wait_up(self) -> list[str]:
        """Wait until it runs; what it knows of its claim."""
        opened = await trio.to_thread.run_sync(os.open, self._pipe, os.O_RDONLY, abandon_on_cancel=True)
        self._stream = trio.lowlevel.FdStream(opened)
        return (await self._stream.receive_some()).decode().split()

    def is_dead(self) -> bool:
        """Whether it, and all that it started, are dead now, and said nothing that has not been read."""
        assert self._stream is not None
        try:
            return os.read(self._stream.fileno(), 1) == b""
        except BlockingIOError:
            return False

    async def wait_dead(self) -> str:
        """Wait until it and all that it started are dead; what it said before."""
        assert self._stream is not None
        said = b""
        async with self._stream as stream:
            async for part in stream:
                said += part
        return said.decode()


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    """A command that runs until it is told not to."""
    return Worker(tmp_path)


async def claim(*line: str, ttl: float = 30) -> int:
    """Run ``aegis claim`` here."""
    return await run_command("claim", "--ttl", str(ttl), *line)


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137)])
async def test_the_command_s_exit_status_is_passed_on(script: str, status: int) -> None:
    """128 + the signal's number, if it died of one."""
    assert await claim("shard:7", "--", "sh", "-c", script) == status


async def test_the_command_knows_what_it_works_under(worker: Worker) -> None:
    """Resource and epoch are in its environment; the library takes the variables for no settings of its own."""
    async with open_node(BACKEND) as node, trio.open_nursery() as nursery:
        nursery.start_soon(claim, "shard:7", "--", *worker.command)
        with trio.fail_after(PATIENCE):
            told = await worker.wait_up()
            owned = node.owner_of("shard:7")
            assert owned is not None
            assert owned.service_name == "aegis-claim"
            assert told == ["up", "shard:7", str(owned.epoch)]
            signal.raise_signal(signal.SIGTERM)
            assert await worker.wait_dead() == "asked\n"


def test_the_environment_of_a_command_is_none_of_the_library_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command may well use the library itself."""
    for name in ("AEGIS_RESOURCE_ID", "AEGIS_EPOCH", "AEGIS_INSTANCE_ID"):
        monkeypatch.setenv(name, "x")
    assert load_settings(BACKEND).backend == BACKEND


@pytest.mark.parametrize(("number", "status"), [(signal.SIGUSR1, 9), (signal.SIGTERM, 5), (signal.SIGINT, 130)])
async def test_signals_are_passed_on(worker: Worker, number: signal.Signals, status: int) -> None:
    """The command decides what becomes of it."""
    result: list[int] = []

    async def run() -> None:
        result.append(await claim("shard:7", "--", *worker.command))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        with trio.fail_after(PATIENCE):
            await worker.wait_up()
            signal.raise_signal(number)
            await worker.wait_dead()
    assert result == [status]


async def test_what_the_command_left_running_ends_with_it(worker: Worker, tmp_path: Path) -> None:
    """Nobody works on a resource that is free."""
    end = tmp_path / "end"
    os.mkfifo(end)
    script = '"$@" & read line <"$0"'
    async with trio.open_nursery() as nursery:
        nursery.start_soon(claim, "shard:7", "--", "sh", "-c", script, str(end), *worker.command)
        with trio.fail_after(PATIENCE):
            await worker.wait_up()
            await trio.Path(end).write_text("now\n")
            await worker.wait_dead()


async def test_what_is_held_is_refused_or_waited_for(worker: Worker, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --wait at once, with a limit then; else until it is free."""
    async with open_node(BACKEND) as node, node.serve(rooms, instance_id="a") as a:
        await a.claim("shard:7")
        for line in ([], ["--wait-at-most", "0.1"]):
            with pytest.raises(ResourceConflict):
                await claim(*line, "shard:7", "--", *worker.command)
        assert "shard:7 is owned by rooms/a; standing by" in capsys.readouterr().err
        async with trio.open_nursery() as nursery:
            nursery.start_soon(claim, "--wait", "shard:7", "--", "true")
            await trio.sleep(0.2)
            assert node.owner_of("shard:7") is not None
            await a.release("shard:7")
    assert "aegis: shard:7 is ours at epoch " in capsys.readouterr().err


@asynccontextmanager
async def working(worker: Worker, *options: str) -> AsyncIterator[None]:
    """The worker runs under a claim, is to be ended within the block, and the command says so."""
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def run() -> None:
            assert await claim(*options, "shard:7", "--", *worker.command) == 75

        with trio.fail_after(PATIENCE):
            await worker.wait_up()
            yield


async def test_a_hand_over_asks_the_command_to_end_first(worker: Worker, capsys: pytest.CaptureFixture[str]) -> None:
    """The next owner begins when it has."""
    async with (
        open_node(BACKEND) as node,
        node.serve(rooms, instance_id="next") as following,
        working(worker, "--instance", "first", "--service", "rooms"),
        trio.open_nursery() as nursery,
    ):

        @nursery.start_soon
        async def follow() -> None:
            async with following.own("shard:7", role=Role.STANDBY):
                assert await worker.wait_dead() == "asked\n"

        while not (await node.explain("shard:7")).standbys:  # noqa: ASYNC110 - standing in line is no event
            await trio.sleep(0.02)
        reply = await node.registry.transfer("rooms", ["shard:7"], "first", "next")
        assert reply.transferred == ("shard:7",)
    assert "aegis: shard:7 is lost: it is handed over\n" in capsys.readouterr().err


async def test_one_who_does_not_listen_is_killed_after_the_grace(tmp_path: Path) -> None:
    """A hand-over does not wait for ever."""
    worker = Worker(tmp_path, DEAF)
    async with open_node(BACKEND) as node, working(worker, "--instance", "first", "--grace", "0.2"):
        await node.registry.release("aegis-claim", "first", "shard:7")
        assert await worker.wait_dead() == ""


async def test_one_whose_resource_may_be_another_s_already_is_killed_at_once(
    worker: Worker, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not asked first: there is no time."""
    async with open_node(BACKEND) as node, working(worker, "--instance", "first"):
        await node.registry.disconnect("aegis-claim", "first")
        assert "asked" not in await worker.wait_dead()


async def test_a_lease_that_cannot_be_renewed_ends_the_command_before_it_ends(worker: Worker) -> None:
    """While the store is away nobody can say who owns the resource."""
    async with open_router("--backend", "memory://", "--http", "127.0.0.1:0") as router:
        process = await trio.lowlevel.open_process(
            [*PROGRAM, "claim", "--backend", router.url, *BRIEF, "shard:7", "--", *worker.command],
            stderr=subprocess.PIPE,
        )
        with trio.fail_after(PATIENCE):
            await worker.wait_up()
            await router.kill()
            await worker.wait_dead()
            assert await process.wait() == 75
            assert process.stderr is not None
            assert b"aegis: shard:7 is lost: " in await process.stderr.receive_some()


async def test_the_next_in_line_begins_when_the_command_of_one_that_was_killed_is_dead(
    one_server: NatsServers, tmp_path: Path
) -> None:
    """On NATS, with two programs: the lease of the one runs out after its command has been killed."""
    url = f"{one_server.url}?bucket=cli-claim&storage=memory"
    workers, programs = [], []
    try:
        with trio.fail_after(PATIENCE):
            for name in ("one", "two"):
                (tmp_path / name).mkdir()
                worker = Worker(tmp_path / name)
                line = ("claim", "--backend", url, *BRIEF, "--wait", "shard:7", "--", *worker.command)
                programs.append(await trio.lowlevel.open_process([*PROGRAM, *line], stderr=subprocess.DEVNULL))
                workers.append(worker)
                if name == "one":
                    await worker.wait_up()
            programs[0].kill()
            resource, epoch = (await workers[1].wait_up())[1:]
            assert (resource, int(epoch) > 0) == ("shard:7", True)
            assert workers[0].is_dead()
            programs[1].terminate()
            assert await workers[1].wait_dead() == "asked\n"
            assert await programs[1].wait() == 5
    finally:
        with trio.CancelScope(shield=True):
            for program in programs:
                program.kill()
                await program.wait()


@pytest.mark.parametrize(
    ("number", "lease"), [(signal.SIGKILL, ()), (signal.SIGSTOP, BRIEF)], ids=["killed", "stopped"]
)
async def test_when_the_program_can_do_nothing_any_more_its_guard_does(
    worker: Worker, number: signal.Signals, lease: tuple[str, ...]
) -> None:
    """Killed, at once; stopped, when its lease ends: it is stopped still when the command is dead."""
    process = await trio.lowlevel.open_process(
        [*PROGRAM, "claim", "--backend", "memory://", *lease, "shard:7", "--", *worker.command]
    )
    try:
        with trio.fail_after(PATIENCE):
            await worker.wait_up()
            process.send_signal(number)
            assert "asked" not in await worker.wait_dead()
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=["TERM", "HUP", "INT"])
async def test_a_guard_stays_when_all_are_asked_to_end(worker: Worker, number: signal.Signals) -> None:
    """A signal to each process of a service is for the command; what it guards is guarded still."""
    process = await trio.lowlevel.open_process([*PROGRAM, "claim", "--backend", BACKEND, "x", "--", *worker.command])
    try:
        with trio.fail_after(PATIENCE):
            await worker.wait_up()
            (guarding,) = guards(process.pid)
            process.send_signal(signal.SIGSTOP)  # so that it cannot end what lost its guard
            os.kill(guarding, number)
            process.kill()
            assert await worker.wait_dead() == ""
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


def guards(starter: int | str = "self") -> list[int]:
    """The guards that a process has started: this one, or that of an id."""
    by_thread = Path(f"/proc/{starter}/task").glob("*/children")
    children = [int(pid) for thread in by_thread for pid in thread.read_text().split()]
    return [pid for pid in children if b"guard.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]


async def test_a_guard_that_is_killed_ends_the_command_too(worker: Worker, tmp_path: Path) -> None:
    """Nothing runs unguarded."""
    async with working(worker):
        for pid in guards():
            os.kill(pid, signal.SIGKILL)
        assert await worker.wait_dead() == "asked\n"


async def test_what_cannot_be_started_has_a_shell_s_exit_status(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Known before anything is claimed, or as the system refuses it."""
    plain, broken = tmp_path / "plain", tmp_path / "broken"
    plain.write_text("x")
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)
    for command, status in (("no-such-command", 127), (plain, 126), (broken, 127)):
        assert await claim("shard:7", "--", str(command)) == status
        assert f"aegis: {command} cannot be started: " in capfd.readouterr().err


async def test_what_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """No command; a grace that the lease has no room for."""
    with pytest.raises(InvalidRequest, match="say what to run"):
        await claim("shard:7")
    with pytest.raises(InvalidRequest, match="more than a third"):
        await claim("--grace", "11", "shard:7", "--", "true")


def passed(monkeypatch: pytest.MonkeyPatch, *, opened: bytes, refusal: OSError | None = None) -> tuple[int, list[str]]:
    """How a gate ends, and what was executed behind it."""
    executed: list[str] = []

    def execute(_program: str, command: list[str]) -> None:
        executed.extend(command)
        raise refusal or SystemExit(0)

    monkeypatch.setattr(os, "execvp", execute)
    before = {number: signal.getsignal(number) for number in (signal.SIGPIPE, signal.SIGXFSZ)}
    reading, writing = os.pipe()
    os.write(writing, opened)
    os.close(writing)
    try:
        return pass_gate(reading, ["x", "y"]), executed
    except SystemExit:
        assert signal.getsignal(signal.SIGPIPE) is signal.SIG_DFL
        return 0, executed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_nothing_runs_before_its_guard_has_been_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A gate that closes again, because nobody is left to open it, ends the process; one that opens makes it the command."""
    assert passed(monkeypatch, opened=b"") == (1, [])
    assert passed(monkeypatch, opened=OPEN) == (0, ["x", "y"])
    assert passed(monkeypatch, opened=OPEN, refusal=FileNotFoundError(2, "gone"))[0] == 127
    assert passed(monkeypatch, opened=OPEN, refusal=PermissionError(13, "closed"))[0] == 126
    assert capsys.readouterr().err == "aegis: x cannot be started: gone\naegis: x cannot be started: closed\n"


def guarded(*notices: bytes, until: str) -> int:
    """What a sleeping process ends with, that a guard has heard *notices* of; *until*: they end, or stay unanswered."""
    sleeping = subprocess.Popen(["sleep", "1000"], process_group=0)
    reading, writing = os.pipe()
    try:
        os.write(writing, b"".join(notices).replace(b"GROUP", str(sleeping.pid).encode()))
        if until == "end":
            os.close(writing)
        guard(reading)
        if until == "dismissal":
            assert sleeping.poll() is None
            sleeping.kill()
            return 0
        return sleeping.wait(PATIENCE)
    finally:
        os.close(reading)
        if until != "end":
            os.close(writing)
        sleeping.kill()
        sleeping.wait()


def test_a_guard_kills_when_its_time_has_come_or_nobody_is_left() -> None:
    """The last word counts."""
    far, past = (notice(0, seconds).replace(b"0 ", b"GROUP ", 1) for seconds in (1000, -1))
    assert guarded(far, until="end") == -signal.SIGKILL
    assert guarded(far, past, until="deadline") == -signal.SIGKILL
    assert guarded(far, far + DONE, until="dismissal") == 0
    assert guarded(DONE, until="dismissal") == 0


def test_a_guard_whose_group_has_gone_has_nothing_to_do() -> None:
    """Nor has one that never heard of any."""
    ended = subprocess.Popen(["true"], process_group=0)
    ended.wait()
    for told in (b"", notice(ended.pid, 1000)):
        reading, writing = os.pipe()
        os.write(writing, told)
        os.close(writing)
        guard(reading)
        os.close(reading)
    assert sys.platform != "win32"

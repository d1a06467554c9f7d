"""Ending a program politely: what the first signal does, and the second."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from types import FrameType

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from aegis_core.errors import InvalidRequest, TransportUnavailable
from aegis_core.node import signals
from aegis_core.node.instance import Instance
from aegis_core.node.node import open_node
from tests.node.working import make_service

PROGRAM = """
    import signal
    import sys
    import trio
    from aegis_core.node.node import open_node
    from aegis_core.node.service import Service

    service = Service("svc", version="1.0.0")

    @service.method
    async def work(call, seconds: float) -> str:
        await trio.sleep(seconds)
        return "worked"

    async def main():
        async with open_node("memory://a") as node, open_node("memory://a") as other, trio.open_nursery() as nursery:
            async def call(seconds):
                try:
                    print(await other.call("svc", "work", {"seconds": seconds}, timeout=100), flush=True)
                except Exception as exc:
                    print(type(exc).__name__, flush=True)

            async def tell():
                while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
                    await trio.sleep(0)
                print("ready", flush=True)

            async with node.serve(service) as instance:
                nursery.start_soon(call, float(sys.argv[1]))
                nursery.start_soon(tell)
                await instance.run_until_signal()
                print("leaving", flush=True)
            print("left", flush=True)

    trio.run(main)
"""


def run_program(seconds: float, signals: int) -> tuple[int, list[str]]:
    """Run the program above, with a call of *seconds* under way, and send it SIGTERM so many times."""
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        lines = [process.stdout.readline().strip()]
        for _ in range(signals):
            os.kill(process.pid, signal.SIGTERM)
            lines.append(process.stdout.readline().strip())
        lines += process.stdout.read().split()
        errors = process.stderr.read()
        assert "Traceback" not in errors
        return process.wait(), lines


def test_the_first_signal_lets_the_block_end_in_peace() -> None:
    """What runs finishes."""
    assert run_program(0.5, 1) == (0, ["ready", "leaving", "worked", "left"])


def test_the_second_signal_cuts_that_short() -> None:
    """What runs is interrupted."""
    status, lines = run_program(60, 2)
    assert status == 0
    assert lines[:2] == ["ready", "leaving"]
    assert sorted(lines[2:]) == ["TransportUnavailable", "left"]


async def test_waiting_for_signals_leaves_no_handler_behind(autojump_clock: MockClock) -> None:
    """When the wait is given up, a signal means again what it meant before."""
    before = signal.getsignal(signal.SIGUSR1)

    async def wait(instance: Instance) -> None:
        await instance.run_until_signal(signal.SIGUSR1)

    async with open_node("memory://a") as node, node.serve(make_service()) as instance:
        with trio.move_on_after(1):
            await wait(instance)
        await trio.sleep(0.1)
        assert signal.getsignal(signal.SIGUSR1) is before


async def test_the_second_signal_hurries_every_instance_of_the_node(autojump_clock: MockClock) -> None:
    """Also one whose block is left before that of the one which waited for the signal."""
    seen: list[str] = []
    async with open_node("memory://a") as node, open_node("memory://a") as other, trio.open_nursery() as nursery:

        async def call() -> None:
            with pytest.raises(TransportUnavailable):
                await other.call("svc", "work", {"seconds": 1000}, instance_id="inner", timeout=2000)

        async with node.serve(make_service(), instance_id="outer") as outer:
            async with node.serve(make_service(seen), instance_id="inner"):
                nursery.start_soon(call)
                await trio.sleep(1)
                async with trio.open_nursery() as waits:
                    waits.start_soon(outer.run_until_signal, signal.SIGUSR1)
                    await trio.testing.wait_all_tasks_blocked()
                    os.kill(os.getpid(), signal.SIGUSR1)
                    await trio.testing.wait_all_tasks_blocked()
                os.kill(os.getpid(), signal.SIGUSR1)
                await trio.testing.wait_all_tasks_blocked()
        assert seen == ["cut off"]
        assert trio.current_time() < 4
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


async def test_everybody_who_waits_hears_it(autojump_clock: MockClock) -> None:
    """One signal asks all instances of a program, also those of other nodes; who gave up waiting takes it from nobody."""
    before = signal.getsignal(signal.SIGUSR1)
    heard: list[str] = []
    async with open_node("memory://a") as node, open_node("memory://a") as other, trio.open_nursery() as waits:
        patience = [trio.CancelScope() for _ in range(3)]

        async def wait(instance: Instance, scope: trio.CancelScope) -> None:
            with scope:
                await instance.run_until_signal(signal.SIGUSR1)
                heard.append(instance.instance_id)

        async with node.serve(make_service(), instance_id="one") as one:
            async with node.serve(make_service(), instance_id="two") as two:
                async with other.serve(make_service(), instance_id="three") as three:
                    for instance, scope in zip((one, two, three), patience, strict=True):
                        waits.start_soon(wait, instance, scope)
                        await trio.testing.wait_all_tasks_blocked()
                    patience[0].cancel()
                    await trio.testing.wait_all_tasks_blocked()
                    assert heard == []
                    os.kill(os.getpid(), signal.SIGUSR1)
                    await trio.testing.wait_all_tasks_blocked()
                    assert sorted(heard) == ["three", "two"]
    assert signal.getsignal(signal.SIGUSR1) is before


async def test_signal_that_finds_nobody_any_more_is_handed_on(autojump_clock: MockClock) -> None:
    """It was caught for somebody who has stopped waiting since: it means what it meant before."""
    handed_on: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _frame: handed_on.append(number))
    try:
        listener = signals._Listener(lambda: None)
        signals._listen(listener, (signal.SIGUSR1,))
        signal.raise_signal(signal.SIGUSR1)
        signals._leave(listener, (signal.SIGUSR1,))
        assert handed_on == []
        await trio.testing.wait_all_tasks_blocked()
        assert handed_on == [signal.SIGUSR1]
        assert not listener.asked.is_set()
    finally:
        signal.signal(signal.SIGUSR1, before)


async def test_signal_that_cannot_be_caught_is_refused(autojump_clock: MockClock) -> None:
    """And takes no other along: those named with it mean what they meant before."""
    before = signal.getsignal(signal.SIGUSR1)
    async with open_node("memory://a") as node, node.serve(make_service()) as instance:
        with pytest.raises(InvalidRequest, match="SIGKILL cannot be caught"):
            await instance.run_until_signal(signal.SIGUSR1, signal.SIGKILL, signal.SIGUSR2)
        assert signal.getsignal(signal.SIGUSR1) is before
        assert not signals._ears


async def test_handler_that_python_did_not_set_gives_way_to_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not known cannot be put back; the signal is not left to a handler that nobody listens to."""
    before = signal.getsignal(signal.SIGUSR1)
    set_handler = signal.signal
    listener = signals._Listener(lambda: None)

    def forget(number: int, action: Callable[[int, FrameType | None], object]) -> None:
        set_handler(number, action)

    try:
        with monkeypatch.context() as patch:
            patch.setattr(signal, "signal", forget)
            signals._listen(listener, (signal.SIGUSR1,))
        signals._leave(listener, (signal.SIGUSR1,))
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGUSR1, before)

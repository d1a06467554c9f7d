"""Tests of tests: a file is written, run by pytest in this process, and its result looked at."""

from __future__ import annotations

from collections.abc import Callable

import pytest

# Every inner run forgets what it was the first to import: these are imported here, once.
import aegis_pytest.cluster
import aegis_pytest.examples  # noqa: F401 - see above

RunTests = Callable[..., pytest.RunResult]

PREAMBLE = """
from functools import partial

import pytest
import trio
from aegis_core import Call, Role, Service, open_node

rooms = Service("rooms")

@rooms.method
async def enter(call: Call, seconds: float = 0.0) -> str:
    await trio.sleep(seconds)
    return call.instance.instance_id

async def hold(instance, resource_id="room", role=Role.STANDBY):
    async with instance.own(resource_id, role=role):
        await trio.sleep_forever()

"""
"""What every inner test file begins with."""


@pytest.fixture
def run_tests(pytester: pytest.Pytester) -> RunTests:
    """Write a test file and run it with *options*; ``ini`` are lines for the configuration file.

    What breaks Trio down is run ``apart``, in a process of its own: pytester keeps what it saw of runs in this one, and with it
    remains that would be collected in some later test.
    """

    def run(source: str, *options: str, ini: str = "", apart: bool = False) -> pytest.RunResult:
        pytester.makeini(f"[pytest]\nfilterwarnings = error\n{ini}")
        pytester.makepyfile(PREAMBLE + source)
        run_pytest = pytester.runpytest_subprocess if apart else pytester.runpytest_inprocess
        return run_pytest("-p", "no:randomly", "-p", "no:cacheprovider", *options)

    return run

"""``aegis doctor``: goes the whole way that a program would go, and says where it ends and what to do."""

from __future__ import annotations

import enum
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager, suppress
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final

import attrs
import trio
from rich.text import Text

from aegis_core.cli.exit_statuses import ExitStatus
from aegis_core.cli.options import AsJson, BackendUrl, Timeout
from aegis_core.cli.output import print_json, print_rich, safe
from aegis_core.cli.session import connect, shown_backend
from aegis_core.config import Settings, load_settings
from aegis_core.errors import AegisError
from aegis_core.node.call import Call
from aegis_core.node.node import Node
from aegis_core.node.service import Service
from aegis_core.plugins import load_plugins

__all__ = ["CHECKS", "Finding", "Verdict", "doctor", "examine"]

CHECKS: Final = ("configuration", "plug-ins", "server", "capabilities", "clock", "latency", "registry", "calls")
"""What is checked, in this order. Without one of the first three there are no others."""

_REMEDIES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "configuration": "say --backend URL, set AEGIS_BACKEND, or mend what is named",
        "plug-ins": "install or mend what is named, or leave it out (plugins.disabled)",
        "server": "start one, or mend the URL: host, port, credentials. NATS: 'nats-server -js'; a router: 'aegis serve'",
        "clock": "look at the server",
        "latency": "look at the network and at the load of the server",
        "registry": "the credentials lack a permission, usually: see what the server logs",
        "calls": "instances must reach each other: firewalls, permissions; with a router, the parameter listen of the URL",
    }
)
_SERVICE: Final = "aegis-doctor"
_LOOKS: Final = 5
_CLOCKS_APART: Final = 1.0
_SLOW: Final = 1 / 20
_BRIEF_TTL: Final = 5.0
# As long as a backend itself tries, and a little longer: only it can say what is wrong. On NATS that is three rounds of
# two seconds to connect, and five for JetStream.
_PATIENCE: Final = 15.0


class Verdict(enum.Enum):
    """What came of a check."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


_STYLES: Final[Mapping[Verdict, str]] = MappingProxyType(
    {
        Verdict.OK: "green",
        Verdict.WARNING: "yellow",
        Verdict.FAILED: "bold red",
        Verdict.SKIPPED: "dim",
    }
)


@attrs.define(kw_only=True)
class Finding:
    """What one check found.

    Args:
        check: One of `CHECKS`.
        verdict: What came of it.
        detail: In words.
        remedy: What to do, or "".
        seconds: How long it took.
    """

    check: str
    verdict: Verdict = Verdict.OK
    detail: str = ""
    remedy: str = ""
    seconds: float = 0.0

    def warn(self, detail: str, remedy: str) -> None:
        """It works, but should be seen to."""
        self.verdict, self.detail, self.remedy = Verdict.WARNING, detail, remedy


class _GivenUpError(Exception):
    """Nothing else can be checked."""


async def doctor(*, backend: BackendUrl = None, timeout: Timeout = _PATIENCE, as_json: AsJson = False) -> int:
    """Check configuration, server, capabilities, clock and latency, and whether one can register, claim, renew and call.

    For a moment it registers instances of a service of its own, aegis-doctor. Exit status 1 if a check failed; a warning
    is no failure.
    """
    findings: list[Finding] = []

    def report(finding: Finding) -> None:
        findings.append(finding)
        if not as_json:
            print_rich(_line(finding))

    await examine(backend, timeout, report)
    failed = any(finding.verdict is Verdict.FAILED for finding in findings)
    if as_json:
        checks = [{**attrs.asdict(finding), "verdict": finding.verdict.value} for finding in findings]
        print_json({"ok": not failed, "checks": checks})
    return ExitStatus.FAILED if failed else ExitStatus.DONE


async def examine(backend: str | None, timeout: float, report: Callable[[Finding], None]) -> None:
    """Make all checks; each is reported as soon as it is made."""
    made: list[str] = []

    @contextmanager
    def check(name: str, *, needed: bool = False) -> Iterator[Finding]:
        finding, start = Finding(check=name), trio.current_time()
        try:
            yield finding
        except AegisError as exc:
            finding.verdict, finding.detail, finding.remedy = Verdict.FAILED, str(exc), _REMEDIES[name]
        finding.seconds = trio.current_time() - start
        made.append(name)
        report(finding)
        if needed and finding.verdict is Verdict.FAILED:
            raise _GivenUpError

    with suppress(_GivenUpError):
        async with AsyncExitStack() as stack:
            with check("configuration", needed=True) as finding:
                settings = load_settings(backend)
                given = "--backend" if backend else settings.sources.get("backend", "a test")
                finding.detail = f"{shown_backend(settings.backend)} by {given}; TTL {settings.ttl:g} s"
            with check("plug-ins", needed=True) as finding:
                plugins = load_plugins(settings)
                finding.detail = f"{len(plugins.names)} loaded; backends: {', '.join(plugins.schemes)}"
            with check("server", needed=True) as finding:
                start = trio.current_time()
                node = await stack.enter_async_context(connect(backend, timeout))
                finding.detail = f"connected in {_since(start)}"
            with check("capabilities") as finding:
                _check_capabilities(node, settings, finding)
            with check("clock") as finding:
                await _check_clock(node, finding)
            with check("latency") as finding:
                await _check_latency(node, settings, finding)
            with check("registry") as finding:
                await _check_registry(node, finding)
            with check("calls") as finding:
                await _check_calls(node, timeout, finding)
    for name in CHECKS[len(made) :]:
        report(Finding(check=name, verdict=Verdict.SKIPPED, detail=f"not without {made[-1]}"))


def _check_capabilities(node: Node, settings: Settings, finding: Finding) -> None:
    store = node.runtime.store.capabilities
    judge = "a router judges changes" if store.guarded else "who connects may change everything"
    finding.detail = f"TTL {store.min_ttl:g} s or more, {store.max_transaction} keys a transaction; {judge}"
    if settings.ttl < store.min_ttl:
        detail = f"the setting ttl is {settings.ttl:g} s, and the store keeps nothing for less than {store.min_ttl:g} s"
        finding.warn(detail, f"set ttl to {store.min_ttl:g} or more")
    elif not store.durable:
        finding.warn(
            f"{finding.detail}; a restart of the server forgets everything",
            "for production keep it on disk, a router's registry on NATS",
        )


async def _check_clock(node: Node, finding: Finding) -> None:
    instances = [one for view in await node.registry.list_services() for one in view.instances]
    now = datetime.now(UTC)
    ahead = max(((one.last_heartbeat - now).total_seconds() for one in instances), default=0.0)
    finding.detail = f"{now:%H:%M:%S} UTC; "
    finding.detail += f"as {len(instances)} instances have it" if instances else "nobody to compare with"
    if ahead > _CLOCKS_APART:
        detail = f"an instance renewed its lease {ahead:.1f} s from now, as it says"
        finding.warn(detail, "synchronise the machines' clocks (NTP): leases do without, people who read times do not")


async def _check_latency(node: Node, settings: Settings, finding: Finding) -> None:
    times = []
    for _ in range(_LOOKS):
        start = trio.current_time()
        await node.registry.list_services()
        times.append(trio.current_time() - start)
    finding.detail = f"{1000 * statistics.median(times):.1f} ms for a read, at worst {1000 * max(times):.1f} ms"
    if max(times) > settings.ttl * _SLOW:
        finding.warn(
            f"{finding.detail}: long for a TTL of {settings.ttl:g} s", f"{_REMEDIES['latency']}, or set a longer ttl"
        )


async def _check_registry(node: Node, finding: Finding) -> None:
    """Register, claim, renew, release and deregister."""
    registry, tag = node.registry, node.runtime.new_id(4)
    instance_id, resource_id = f"{_SERVICE}-{tag}", f"{_SERVICE}:{tag}"
    ttl = max(_BRIEF_TTL, node.runtime.store.capabilities.min_ttl)
    took: list[str] = []

    @contextmanager
    def step(name: str) -> Iterator[None]:
        start = trio.current_time()
        yield
        took.append(f"{name} {_since(start)}")

    # Interrupted, or should even the deregistration fail: the lease ends soon by itself.
    with step("register"):
        lease_id = (await registry.register(_SERVICE, instance_id, ttl=ttl)).lease_id
    failed: AegisError | None = None
    try:
        with step("claim"):
            await registry.claim(_SERVICE, instance_id, resource_id)
        with step("renew"):
            await registry.heartbeat(_SERVICE, instance_id, lease_id=lease_id)
        with step("release"):
            await registry.release(_SERVICE, instance_id, resource_id)
    except AegisError as exc:
        failed = exc
    try:
        with step("deregister"):
            await registry.deregister(_SERVICE, instance_id, lease_id=lease_id)
    except AegisError as exc:
        failed = failed or exc
    if failed is not None:
        raise failed
    finding.detail = ", ".join(took)


async def _check_calls(node: Node, timeout: float, finding: Finding) -> None:
    """Serve, and call what is served."""
    service = Service(_SERVICE)

    @service.method
    async def greet(call: Call, name: str) -> str:
        await trio.lowlevel.checkpoint()
        return f"{name} called {call.method}"

    async with node.serve(service) as instance:
        start = trio.current_time()
        await node.call(_SERVICE, "greet", {"name": "doctor"}, instance_id=instance.instance_id, timeout=timeout)
        finding.detail = f"answered in {_since(start)}"


def _since(start: float) -> str:
    return f"{1000 * (trio.current_time() - start):.0f} ms"


def _line(finding: Finding) -> Text:
    """A finding for people."""
    line = Text().append(f"{finding.verdict.value:8}", style=_STYLES[finding.verdict])
    line.append(f" {finding.check:14}", style="bold").append(f" {safe(finding.detail)}")
    if finding.remedy:
        line.append(f"\n{'':24}-> {safe(finding.remedy)}", style="italic")
    return line

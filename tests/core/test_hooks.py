"""Each hook: that it is called, with what, and what comes of it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import attrs
import pytest
import trio

from aegis_core.backend import Backend, BackendAddress
from aegis_core.config import Settings, parse_backend
from aegis_core.engine.snapshot import Snapshot
from aegis_core.engine.view import View
from aegis_core.errors import ConfigError, Forbidden, ServiceNotFound
from aegis_core.events import Event, InstanceRegistered, Resync
from aegis_core.hookspecs import (
    BackendRegistrar,
    BalancerRegistrar,
    CallInfo,
    CommandRegistrar,
    MiddlewareRegistrar,
    ObserverRegistrar,
    Principal,
    Target,
    hookimpl,
)
from aegis_core.models import ServiceInstance, Standby
from aegis_core.plugins import Plugins, load_plugins

AT = datetime(2026, 1, 31, tzinfo=UTC)


def loaded(*given: object) -> Plugins:
    """The plug-ins of a node that was given these; the last one is asked first."""
    return load_plugins(Settings(), given)


# --- At the start of a node ---------------------------------------------------------------------


async def test_hook_register_backends_serves_a_scheme() -> None:
    """The opener gets the parsed URL, and what it yields is the backend."""
    opened: list[BackendAddress] = []

    class Plugin:
        @hookimpl
        def aegis_register_backends(self, register: BackendRegistrar) -> None:
            register("void", self.open_void)

        @asynccontextmanager
        async def open_void(self, address: BackendAddress) -> AsyncIterator[Backend]:
            opened.append(address)
            yield Backend(store=None, transports=())

    found = loaded(Plugin())
    assert found.schemes == ("http", "https", "memory", "nats", "void")
    address = parse_backend("void://x?a=1")
    async with found.open_backend(address) as backend:
        assert backend.transports == ()
    assert opened == [address]


def test_hook_register_balancers_offers_one_by_name() -> None:
    """Each node that uses it has one of its own."""

    class First:
        def choose(self, candidates: Sequence[ServiceInstance], **_: object) -> ServiceInstance:
            return candidates[0]

    class Plugin:
        @hookimpl
        def aegis_register_balancers(self, register: BalancerRegistrar) -> None:
            register("first", First)

    found = loaded(Plugin())
    assert isinstance(found.balancer("first"), First)
    assert found.balancer("first") is not found.balancer("first")
    for name in ("round-robin", "least-pending", "weighted", "consistent-hash"):
        assert callable(found.balancer(name).choose)


class Recorder:
    """An observer that remembers, and fails where it is told to."""

    def __init__(self, failing: type[Event] | None = None) -> None:
        self.seen: list[Event] = []
        self.failing = failing

    def on_event(self, event: Event) -> None:
        """Remember, then fail perhaps."""
        self.seen.append(event)
        if self.failing is not None and isinstance(event, self.failing):
            raise RuntimeError("no ink")

    @hookimpl
    def aegis_register_observers(self, register: ObserverRegistrar) -> None:
        """Offer itself."""
        register(self)


def test_hook_register_observers_tells_events() -> None:
    """Every observer sees every event, in order."""
    one, two = Recorder(), Recorder()
    found = loaded(one, two)
    events = [Resync(at=AT), InstanceRegistered(service_name="s", instance_id="i", at=AT)]
    for event in events:
        found.notify(event)
    assert one.seen == two.seen == events


def test_failing_observer_stops_nobody_and_is_logged_once_per_kind(caplog: pytest.LogCaptureFixture) -> None:
    """Neither the other observers nor what is observed; and the log stays readable."""
    good, bad = Recorder(), Recorder(failing=Event)
    found = loaded(good, bad)
    with caplog.at_level(logging.ERROR, "aegis.observe"):
        for _ in range(3):
            found.notify(Resync(at=AT))
        found.notify(InstanceRegistered(at=AT))
    assert len(good.seen) == len(bad.seen) == 4
    assert [record.message for record in caplog.records] == [
        "observer Recorder failed on resync; told once, it is still called",
        "observer Recorder failed on instance_registered; told once, it is still called",
    ]
    assert all(record.exc_info for record in caplog.records)
    assert "Recorder" in repr(found.observers)


class Layer:
    """Middleware that notes when it is entered and left."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self.log = log

    @hookimpl
    def aegis_register_middleware(self, register: MiddlewareRegistrar) -> None:
        """Offer itself."""
        register(self.enter)

    @asynccontextmanager
    async def enter(self, info: CallInfo) -> AsyncIterator[None]:
        """Around one call."""
        self.log.append(f"{self.name} in {info.side} {info.method}")
        await trio.lowlevel.checkpoint()
        try:
            yield
        except ServiceNotFound:
            self.log.append(f"{self.name} saw it")
            raise
        finally:
            self.log.append(f"{self.name} out")


INFO = CallInfo(side="handled", service_name="s", method="m", instance_id="i")


async def test_hook_register_middleware_goes_around_calls() -> None:
    """In order, out in the opposite one, seeing the error that the call ended in."""
    log: list[str] = []
    found = loaded(Layer("outer", log), Layer("inner", log))
    assert len(found.middleware) == 2

    async def call() -> None:
        async with found.around(INFO):
            log.append("call")
            raise ServiceNotFound(service_name="s")

    with pytest.raises(ServiceNotFound):
        await call()
    inner_first = ["inner in handled m", "outer in handled m", "call"]
    assert log == [*inner_first, "outer saw it", "outer out", "inner saw it", "inner out"]


async def test_middleware_can_refuse_a_call() -> None:
    """What it raises on entry is what the caller gets, and the call does not run."""

    class Bouncer:
        @hookimpl
        def aegis_register_middleware(self, register: MiddlewareRegistrar) -> None:
            register(self.enter)

        @asynccontextmanager
        async def enter(self, info: CallInfo) -> AsyncIterator[None]:
            raise Forbidden(operation=info.method)
            yield  # type: ignore[unreachable]

    ran = False
    with pytest.raises(Forbidden):
        async with loaded(Bouncer()).around(INFO):
            ran = True
    assert not ran


def test_node_without_middleware_has_none() -> None:
    """So that a call spends nothing on it."""
    assert loaded().middleware == ()


def test_hook_register_cli_adds_commands() -> None:
    """Asked for by the command line alone."""

    def audit(*, since: str) -> None:
        """A command."""

    class Plugin:
        @hookimpl
        def aegis_register_cli(self, register: CommandRegistrar) -> None:
            register("audit", audit)

    assert loaded(Plugin()).commands() == {"audit": audit}
    with pytest.raises(ConfigError, match="'audit' is taken"):
        loaded(Plugin(), Plugin()).commands()


# --- While a node runs --------------------------------------------------------------------------

RECORD = ServiceInstance(service_name="s", instance_id="s-1", registered_at=AT, last_heartbeat=AT)


@attrs.frozen
class Gate:
    """Refuses registrations with an error."""

    error: Exception | None

    @hookimpl
    def aegis_check_registration(self, instance: ServiceInstance) -> None:
        """Look at it."""
        assert instance is RECORD
        if self.error is not None:
            raise self.error


def test_hook_check_registration_refuses() -> None:
    """In its own words, when they are errors of the library."""
    loaded(Gate(None)).check_registration(RECORD)
    loaded().check_registration(RECORD)
    with pytest.raises(ServiceNotFound):
        loaded(Gate(None), Gate(ServiceNotFound(service_name="s"))).check_registration(RECORD)


def test_failing_check_refuses_the_registration() -> None:
    """What was not checked is not let in."""
    with pytest.raises(Forbidden, match=r"register s-1 is not allowed: plug-in .*Gate' failed: KeyError: 'zone'"):
        loaded(Gate(KeyError("zone"))).check_registration(RECORD)


@attrs.frozen(eq=False)
class Policy:
    """Answers what it is made with."""

    verdict: bool | Exception | None
    asked: list[tuple[Principal, str, Target]] = attrs.field(factory=list)

    @hookimpl
    def aegis_authorize(self, principal: Principal, operation: str, target: Target) -> bool | None:
        """Remember the question, answer."""
        self.asked.append((principal, operation, target))
        if isinstance(self.verdict, Exception):
            raise self.verdict
        return self.verdict


STRANGER = Principal("token", "t")
ADMIN = Principal("token", "root", is_admin=True)
OTHERS = Target(service_name="s", instance_id="s-1", resource_ids=("r",))


def test_hook_authorize_decides() -> None:
    """The first answer counts, over the default policy, in both directions."""
    asked = Policy(verdict=None)
    found = loaded(Policy(verdict=True), asked)
    found.authorize(STRANGER, "force", OTHERS)
    assert asked.asked == [(STRANGER, "force", OTHERS)]
    with pytest.raises(Forbidden, match=r"plug-in .*Policy' refuses it to token:root"):
        loaded(Policy(verdict=False)).authorize(ADMIN, "force", OTHERS)
    first = Policy(verdict=True)
    loaded(Policy(verdict=False), first).authorize(STRANGER, "drain", OTHERS)


def test_policy_without_an_opinion_leaves_it_to_the_default() -> None:
    """None is no answer."""
    with pytest.raises(Forbidden, match="token:t may only act for itself"):
        loaded(Policy(verdict=None)).authorize(STRANGER, "drain", OTHERS)
    loaded(Policy(verdict=None)).authorize(ADMIN, "drain", OTHERS)


def test_policy_may_refuse_what_is_ones_own() -> None:
    """Who showed the lease may, unless it says no."""
    loaded(Policy(verdict=None)).authorize(STRANGER, "claim", OTHERS, own=True)
    with pytest.raises(Forbidden, match="refuses it to token:t"):
        loaded(Policy(verdict=False)).authorize(STRANGER, "claim", OTHERS, own=True)


def test_failing_policy_refuses() -> None:
    """A broken lock is locked, for admins, too."""
    with pytest.raises(Forbidden, match="ZeroDivisionError"):
        loaded(Policy(verdict=ZeroDivisionError("x"))).authorize(ADMIN, "drain", OTHERS)


LINE = tuple(Standby(target="r", service_name="s", instance_id=f"s-{n}", lease=f"l{n}") for n in range(3))


@attrs.frozen(eq=False)
class Ranking:
    """Ranks as it is made with."""

    answer: object

    @hookimpl
    def aegis_promote(self, target: str, standbys: Sequence[Standby]) -> Sequence[str] | None:
        """Answer, or fail."""
        assert (target, standbys) == ("r", LINE)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("answer", "ranking"),
    [
        (None, ("s-0", "s-1", "s-2")),
        (("s-2", "s-1", "s-0"), ("s-2", "s-1", "s-0")),
        (["s-2"], ("s-2", "s-0", "s-1")),
        (["x", "s-1", "s-1"], ("s-1", "s-0", "s-2")),
        ((), ("s-0", "s-1", "s-2")),
    ],
)
def test_hook_promote_ranks_the_line(answer: object, ranking: tuple[str, ...]) -> None:
    """Who is left out comes last; strangers and repetitions are ignored."""
    assert loaded(Ranking(answer)).promote("r", LINE) == ranking
    assert loaded().promote("r", LINE) == ("s-0", "s-1", "s-2")


@pytest.mark.parametrize("answer", [RuntimeError("x"), "s-2", 5])
def test_failing_ranking_delays_no_promotion(answer: object, caplog: pytest.LogCaptureFixture) -> None:
    """The line's own order holds, and the failure is logged."""
    with caplog.at_level(logging.ERROR, "aegis.plugins"):
        assert loaded(Ranking(answer)).promote("r", LINE) == ("s-0", "s-1", "s-2")
    assert "failed to rank r; the line's order holds" in caplog.text


@attrs.frozen(eq=False)
class Planner:
    """Plans as it is made with."""

    answer: object

    @hookimpl
    def aegis_plan_rebalance(self, view: View, service_name: str, max_moves: int) -> Mapping[str, str] | None:
        """Answer, or fail."""
        assert isinstance(view, View)
        assert (service_name, max_moves) == ("s", 2)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer  # type: ignore[return-value]


def test_hook_plan_rebalance_plans() -> None:
    """At most so many moves, the first ones."""
    view = Snapshot()
    plan = {"r1": "s-1", "r2": "s-2", "r3": "s-3"}
    assert loaded(Planner(plan)).plan_rebalance(view, "s", 2) == {"r1": "s-1", "r2": "s-2"}
    assert loaded(Planner({}), Planner(None)).plan_rebalance(view, "s", 2) == {}
    assert loaded(Planner(None)).plan_rebalance(view, "s", 2) is None
    assert loaded().plan_rebalance(view, "s", 2) is None


def test_failing_plan_moves_nothing() -> None:
    """The refusal names the plug-in; an error of the library is passed on."""
    view = Snapshot()
    for answer in (ValueError("x"), ["r1"]):
        with pytest.raises(Forbidden, match=r"rebalance s is not allowed: plug-in .*Planner' failed"):
            loaded(Planner(answer)).plan_rebalance(view, "s", 2)
    with pytest.raises(ServiceNotFound):
        loaded(Planner(ServiceNotFound(service_name="s"))).plan_rebalance(view, "s", 2)

"""Bugs for simulations to find: each a change of a few words in the library, made in memory only.

They are what somebody might really write: a check that is left out, a time measured at the wrong end, an answer believed too
early. A change names the words that it replaces, so that it cannot silently come to change nothing.

Most are looked for in scenarios in which anything may happen. Some need several things to meet that hardly ever do; those are
looked for in one of the `FOCUSES`, in which little else happens. A soak draws all of these.
"""

from __future__ import annotations

import importlib
import inspect
import textwrap
from types import FunctionType
from typing import Final

import attrs
import pytest

from aegis_pytest.simulation import FOCUSES, Scenario, draw_scenario

__all__ = ["PLANTED", "Change", "Planted"]


@attrs.frozen
class Change:
    """Words of one function, and what stands there instead.

    Args:
        where: Module and function, ``package.module:Class.method``.
        old: Words that stand in it exactly once.
        new: What replaces them.
    """

    where: str
    old: str
    new: str

    def make(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make the change until *monkeypatch* is undone."""
        module_name, _, path = self.where.partition(":")
        module = importlib.import_module(module_name)
        *classes, name = path.split(".")
        owner: object = module
        for each in classes:
            owner = getattr(owner, each)
        found = inspect.getattr_static(owner, name)
        function = found.fget if isinstance(found, property) else found
        # What is decorated (a context manager) is what was written, inside.
        function = inspect.unwrap(function) if callable(function) else function
        assert isinstance(function, FunctionType), self.where
        source = textwrap.dedent(inspect.getsource(function))
        assert source.count(self.old) == 1, f"{self.old!r} stands {source.count(self.old)} times in {self.where}"
        made: dict[str, object] = {}
        code = compile(f"from __future__ import annotations\n{source.replace(self.old, self.new)}", self.where, "exec")
        exec(code, module.__dict__, made)
        # The code alone, so that whoever has imported the function by its name runs it, too.
        changed = made[name]
        assert isinstance(changed, FunctionType)
        monkeypatch.setattr(function, "__code__", changed.__code__)


@attrs.frozen
class Planted:
    """A bug.

    Args:
        name: What is wrong, in a few words.
        changes: Make it.
        focus: The scenarios in which it is looked for, of `FOCUSES`; "" for those in which anything may happen.
    """

    name: str
    changes: tuple[Change, ...]
    focus: str

    def draw(self, seed: str) -> Scenario:
        """The scenario of *seed* in which it is looked for."""
        return FOCUSES[self.focus](seed) if self.focus else draw_scenario(seed)


def _bug(name: str, where: str, old: str, new: str, *more: Change, focus: str = "") -> Planted:
    return Planted(name, (Change(where, old, new), *more), focus)


_LEASE: Final = "aegis_core.node.lease:Lease"
_STORE: Final = "aegis_backends.memory.store:StoreState"
_COMMIT: Final = "aegis_core.node.commit:Committer"
_RESOURCES: Final = "aegis_core.engine.resources"

PLANTED: Final = (
    _bug("compare-and-set is dropped", f"{_STORE}.commit", "op.expect not in (actual, ANY)", "False"),
    _bug(
        "the store expires keys early",
        f"{_STORE}._keep",
        "now + ttl, change.revision",
        "now + ttl / 2, change.revision",
    ),
    _bug("an expiry is never told", f"{_STORE}.expire_due", "self._publish(changes)", "self.revision += len(changes)"),
    _bug(
        "the store expires keys late", f"{_STORE}._keep", "now + ttl, change.revision", "now + ttl + 5, change.revision"
    ),
    _bug(
        "a feed loses all but the first change of a transaction",
        "aegis_backends.memory.store:MemoryFeed.offer",
        "for change in changes:",
        "for change in changes[:1]:",
    ),
    _bug(
        "a feed tells deletions no more",
        "aegis_backends.memory.store:MemoryFeed.offer",
        "for change in changes:",
        "for change in (it for it in changes if it.value is not None):",
    ),
    _bug(
        "the local deadline is ignored",
        f"{_LEASE}.believed_at",
        "now < self.deadline",
        "True",
        Change(f"{_LEASE}._watch_time", "now >= self.deadline", "False"),
    ),
    _bug(
        "belief is counted from the acknowledgement",
        f"{_LEASE}._renew",
        "sent + self.record.ttl - margin(self.record.ttl)",
        "clock.now() + self.record.ttl",
    ),
    _bug(
        "no margin is kept for clocks that drift",
        f"{_LEASE}._renew",
        "- margin(self.record.ttl)",
        "+ 0.05",
        Change(f"{_LEASE}.__init__", "- margin(record.ttl)", "+ 0.05"),
    ),
    _bug(
        "a late acknowledged renewal is believed",
        f"{_LEASE}._renew",
        "clock.now() >= self.deadline",
        "False",
        Change(f"{_LEASE}._watch_time", "now >= self.deadline", "now >= self.deadline and self._due < now"),
        Change(
            f"{_LEASE}.believed_at", "now < self.deadline", "(now < self.deadline or self._due > now + self.record.ttl)"
        ),
    ),
    _bug(
        "a lease is judged dead from a view older than the record",
        "aegis_core.engine.view:View.holder",
        "if instance is None and not (self._synced and record.revision <= self._revision)",
        "if False",
        focus="watches that lag, and crashes",
    ),
    _bug(
        "a read does not wait for the view",
        "aegis_core.node.directory:Directory.sync",
        "await self._wait(await self._store.sync(), recounts)",
        "await self._store.sync()",
    ),
    _bug("reads have no barrier", f"{_COMMIT}.decide", "await self.sync(attempt)", "await trio.lowlevel.checkpoint()"),
    _bug(
        "a refusal from a stale view is told",
        f"{_COMMIT}._decide",
        "if fresh and isinstance(refusal, AegisError)",
        "if isinstance(refusal, AegisError)",
    ),
    _bug(
        "a commit of unknown fate is told as refused",
        f"{_COMMIT}.decide",
        "outcome = Outcome.MAYBE_EXECUTED if attempt.in_doubt else Outcome.NOT_SENT",
        "outcome = Outcome.NOT_SENT",
        focus="commits without an answer",
    ),
    _bug("a claim takes what others hold", f"{_RESOURCES}:acquire", "holder is not None and not force", "False"),
    _bug(
        "a promotion takes what others hold",
        "aegis_core.engine.roles:promote",
        "if record is not None and holder is not None:",
        "if record is not None and holder is not None and holder.lease == lease:",
    ),
    _bug(
        "a promotion does without compare-and-set",
        "aegis_core.engine.roles:promote",
        "Write.owner(fresh, expect)",
        "Write.owner(fresh, -1)",
    ),
    _bug(
        "a release deletes whatever is there",
        f"{_RESOURCES}:give_up",
        "r.revision) for",
        "-1) for",
        focus="commits that come late",
    ),
    _bug(
        "who stands in line is never promoted",
        "aegis_core.node.line:wait_turn",
        "rank = 0 if mine else",
        "rank = 0 if mine else 1_000_000 +",
    ),
    _bug(
        "a transfer keeps the old epoch",
        "aegis_core.engine.transfers:_move",
        "as_role=record.as_role,",
        "as_role=record.as_role, epoch=record.epoch,",
    ),
    _bug(
        "a transfer takes what others hold",
        "aegis_core.engine.transfers:_movable",
        "(holder.instance_id, holder.service_name) != (source, service_name)",
        "False",
        # Nor does the owner look into its own table first.
        Change(
            "aegis_core.node.moves:Moves._move",
            "able: list[str] = []",
            "able = [target for target in wanted if target not in holdings.table]",
        ),
    ),
    _bug(
        "a transfer is committed before the old owner has stopped",
        "aegis_core.node.moves:Moves._move",
        "await holdings.wind_down(moving, until=until, reason=EndReason.TRANSFERRED)",
        "pass",
    ),
    _bug(
        "a handler starts under a claim that is being handed over",
        "aegis_core.node.claims:Claim.serves",
        "and not self._is_leaving\n        and not self._relinquished",
        "",
    ),
    _bug(
        "the epoch is not checked",
        "aegis_core.node.claims:Claim.serves",
        "(not epoch or epoch == self._record.epoch)",
        "True",
        focus="calls that come late",
    ),
    _bug(
        "an answer is good although the claim has ended",
        "aegis_core.node.server:Server.conclude",
        "if job.claim is not None and not job.claim.exit(scope)",
        "if job.claim is not None and not job.claim.exit(scope) and False",
    ),
    _bug(
        "the cache of answers is too small",
        "aegis_core.node.idempotency:AnswerCache._evict",
        "len(ended) > self._most_answers",
        "True",
        focus="calls that come twice",
    ),
    _bug(
        "a hand-off whose answer is lost is taken for one that failed",
        "aegis_core.node.moves:Moves._move",
        "holdings.finish(claim, reason)",
        "holdings.finish(claim, reason) if claim.resource_id in moved else claim.stay()",
        Change("aegis_core.node.holdings:Holdings.release_records", "self.touched(target)", "pass"),
        focus="moves without an answer",
    ),
    _bug(
        "an orphan is swept while its owner is only silent",
        "aegis_core.engine.view:View._alive",
        "entry is not None and entry.names(record)",
        "entry is not None and entry.names(record) and not (entry.instance and self._is_silent(entry, self._heard_at))",
    ),
    _bug(
        "a lease is renewed after it was lost",
        "aegis_core.engine.instances:renew",
        "record.revision, record.ttl",
        "-1, record.ttl",
        Change(f"{_LEASE}._renew", "clock.now() >= self.deadline", "False"),
        Change(f"{_LEASE}._watch_time", "now >= self.deadline", "False"),
        focus="owners that come back",
    ),
    _bug(
        "a read joins a barrier that is under way",
        "aegis_core.node.directory:Directory.sync",
        "await self._wait(await self._store.sync(), recounts)",
        textwrap.indent(
            """if getattr(self, "fence", None) is None:
    self.fence, self.reached = trio.Event(), 0
    try:
        self.reached = await self._store.sync()
    finally:
        self.fence.set()
        self.fence = None
else:
    await self.fence.wait()
await self._wait(self.reached, recounts)""",
            "    ",
        ).lstrip(),
        focus="reads from afar",
    ),
    _bug(
        "an abandoned claim is kept",
        "aegis_core.node.holdings:Holdings.touched",
        "self._suspects[target] = None",
        "pass",
    ),
    _bug(
        "a call that may have run is sent again, although it may not be repeated",
        "aegis_core.node.retry:Retry._doubt",
        "order.end(exc)",
        "return",
        focus="calls under leases that end",
    ),
    _bug(
        "a handler runs before the resource was taken over",
        "aegis_core.node.server:Server.begin",
        "not claim.is_ready or ",
        "",
        Change("aegis_core.node.admission:Admission.admit", "if claim.is_ready:", "if True:"),
    ),
    _bug(
        "who gives a resource up believes until that is acknowledged",
        "aegis_core.node.holdings:Holdings.wind_down",
        "claim.relinquish(reason)",
        "pass",
    ),
    _bug(
        "the last in line comes first",
        "aegis_core.engine.view:View.line",
        "-p.priority, p.joined",
        "-p.priority, -p.joined",
        focus="lines",
    ),
    _bug(
        "what was lost with a lease is not claimed again",
        "aegis_core.node.incarnation:Incarnation.kept",
        "return self._wanted | {claim.resource_id: claim.metadata for claim in self._kept}",
        "return {}",
        focus="claims that are lost",
    ),
    _bug("renewals come too late", f"{_LEASE}._next_renewal", "(0.9 + 0.1", "(2.75 + 0.1", focus="nothing wrong"),
    _bug("what runs is not cancelled before its lease ends", f"{_LEASE}._watch_time", "self._suspend()", "pass"),
    _bug(
        "who stands in line looks every eight seconds",
        "aegis_core.node.line:wait_turn",
        "if owned is not None and owned[0].lease != lease.tag:\n            await changed.wait()",
        "if owned is not None and owned[0].lease != lease.tag:\n            await trio.sleep(8.0)",
        focus="nothing wrong",
    ),
    _bug(
        "a call whose answer is lost waits for it for ever",
        "aegis_core.node.client:Client._call",
        "peer.send(codec.encode_request_map(request), timeout)",
        "peer.send(codec.encode_request_map(request), math.inf)",
    ),
    _bug(
        "what the store does not answer is asked for ever",
        f"{_COMMIT}.decide",
        "trio.CancelScope(deadline=clock.trio_time(clock.now() + timeout))",
        "trio.CancelScope()",
    ),
    _bug(
        "an interrupted call with a key may run again",
        "aegis_core.node.server:Server._respond",
        "if job.started and not (repeatable and isinstance(answer, Unavailable)):",
        "if job.started and isinstance(answer, bytes):",
        focus="calls under leases that end",
    ),
    _bug(
        "a lost race for a record is told as a store that does not answer",
        f"{_COMMIT}._decide",
        "fresh = contended = True\n            continue",
        "raise _circuit_is_open() from exc",
        focus="nothing wrong",
    ),
    _bug(
        "an answer reaches whoever has waited longest for that instance",
        "aegis_backends.memory.transport:_Exchange.respond",
        "self.answer = bytes(payload)\n        self.finish()",
        "first = next(it for it in self.under_way.values() if it.listener is self.listener)\n"
        "        first.answer = bytes(payload)\n        first.finish()",
    ),
)
"""All of them."""

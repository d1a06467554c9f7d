"""What nodes write when they claim again, undo, hand over and promote: a router lets it through, epochs and all."""

from __future__ import annotations

from datetime import UTC
from typing import TypeVar

import pytest

from aegis_core import codec
from aegis_core.backend import Delete, Operation, Put, Transaction
from aegis_core.engine import bulk, resources, roles, transfers
from aegis_core.engine.bulk import BulkItem
from aegis_core.engine.decision import Audit, Decision
from aegis_core.models import ResourceMetadata
from aegis_core.names import lease_tag
from aegis_core.router.guard import judge
from tests.engine.driver import AT, Driver

A = TypeVar("A")


@pytest.fixture
def driver() -> Driver:
    """a holds x; a and b live, each by the secret of its name."""
    made = Driver()
    for name in ("a", "b"):
        made.register(name, lease=lease_tag(f"secret of {name}"), adopts=True)
    claim(made, "x")
    return made


def run(driver: Driver, decision: Decision[A], *, who: str = "a") -> A:
    """Commit *decision* as the router does, which lets it through on the lease id of *who* alone."""
    if not decision.writes:
        return driver.run(decision)
    operations: list[Operation] = []
    for write in decision.writes:
        if write.record is None:
            operations.append(Delete(write.key, write.expect))
        else:
            operations.append(Put(write.key, codec.encode_record(write.record, UTC), write.expect, write.ttl))
    transaction = Transaction("t", tuple(operations), (f"secret of {who}",))
    assert judge(driver.view, transaction).demands == ()
    return driver.run(decision)


def claim(driver: Driver, *ids: str, priority: int = 0) -> None:
    """a claims them, once more if it holds them."""
    said = ResourceMetadata(version=1, priority=priority)
    run(driver, resources.claim(driver.view, "svc", "a", ids, metadata=said, now=driver.now, at=AT))


def epoch(driver: Driver, resource_id: str) -> tuple[str, int]:
    """Who has it, and under which epoch."""
    record = driver.view.held(resource_id)
    assert record is not None
    return record.instance_id, record.epoch


def test_an_undone_bulk_claim_puts_back_what_was_held_before(driver: Driver) -> None:
    """Under the epoch that it has; the rest is free."""
    before = driver.view.held("x")
    assert before is not None
    wanted = [BulkItem(resource_id=i, metadata=ResourceMetadata(version=1, priority=7)) for i in ("x", "y")]
    plan = run(driver, bulk.plan_bulk_claim(driver.view, "svc", "a", wanted, now=driver.now))
    outcome = run(driver, bulk.claim_batch(driver.view, plan, plan.batches[0], now=driver.now, at=AT))
    changed = driver.view.held("x")
    assert changed is not None
    assert changed.metadata.priority == 7
    assert run(driver, bulk.undo(driver.view, outcome)) == ("x", "y")
    after = driver.view.held("x")
    assert after is not None
    assert (after.epoch, after.metadata.priority) == (before.epoch, 0)
    assert driver.view.held("y") is None


def test_an_undone_bulk_release_gives_back_what_was_released(driver: Driver) -> None:
    """Under a new epoch."""
    before = epoch(driver, "x")
    plan = run(driver, bulk.plan_bulk_release(driver.view, "svc", "a", ["x"]))
    outcome = run(driver, bulk.release_batch(driver.view, plan, plan.batches[0]))
    assert driver.view.held("x") is None
    assert run(driver, bulk.undo(driver.view, outcome)) == ("x",)
    assert epoch(driver, "x") == ("a", driver.revision)
    assert epoch(driver, "x") > before


def test_a_transfer_there_and_back_gives_new_epochs(driver: Driver) -> None:
    """Each owner's is later than the one before."""
    epochs = [epoch(driver, "x")]
    for source, to in (("a", "b"), ("b", "a")):
        audit = Audit(transfer_id=f"to_{to}", reason="", requested_by="node:test")
        move = transfers.transfer(driver.view, ["x"], service_name="svc", source=source, to=to, audit=audit, at=AT)
        run(driver, move, who=source)
        epochs.append(epoch(driver, "x"))
    assert [owner for owner, _ in epochs] == ["a", "b", "a"]
    assert [number for _, number in epochs] == sorted({number for _, number in epochs})


def test_claiming_and_promoting_again_keep_the_epoch(driver: Driver) -> None:
    """As the owner whose answer was lost does; after its end the next in line has a new one."""
    before = epoch(driver, "x")
    claim(driver, "x", priority=3)
    run(driver, roles.promote(driver.view, "x", lease=lease_tag("secret of a"), at=AT))
    assert epoch(driver, "x") == before
    driver.expire("a")
    run(driver, roles.promote(driver.view, "x", lease=lease_tag("secret of b"), at=AT), who="b")
    assert epoch(driver, "x") == ("b", driver.revision)

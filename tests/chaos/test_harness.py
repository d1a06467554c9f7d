"""The harness itself, with a worker that is alone on the memory backend."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from aegis_pytest.history import Answer, BeliefBegan, BeliefEnded, Died, Handled, Kind, Returned, Wrote
from tests.chaos.process import Refused
from tests.chaos.scene import open_scene


async def test_worker_obeys_and_records(tmp_path: Path) -> None:
    """Claims, calls, reads, releases; its records break no rule."""
    async with open_scene("memory://", tmp_path) as scene:
        worker = await scene.start()
        claimed = await worker.ask("claim", key="a")
        assert isinstance(claimed, dict)
        called = await worker.ask("call", key="a")
        assert called == {"instance": "p1", "epoch": claimed["epoch"], "accepted": True}
        assert await worker.ask("get_owner", key="a") == {"answer": "done", "owner": "p1", "epoch": claimed["epoch"]}
        await worker.ask("release", key="a")
        with pytest.raises(Refused, match="RESOURCE_NOT_FOUND"):
            await worker.ask("release", key="a")
        history = await scene.close(worker, ["a"])
        assert await worker.wait_ended() == 0
        answers = [it.answer for it in history if isinstance(it, Returned)]
        assert answers == [Answer.DONE] * 4 + [Answer.FREE] * 2
        kinds = {type(it) for it in history}
        assert {BeliefBegan, BeliefEnded, Handled, Wrote} <= kinds


async def test_worker_churns(tmp_path: Path) -> None:
    """Two hundred changes at random, in four tasks, under the eyes of the checker."""
    async with open_scene("memory://", tmp_path) as scene:
        worker = await scene.start()
        keys = ["a", "b", "c", "d", "e"]
        churn = await worker.begin("churn", keys=keys, peers=["nobody"], seed=1)
        await worker.ask("reach", count=200, further=False)
        await worker.ask("enough")
        done = await worker.result(churn)
        assert isinstance(done, int)
        assert done >= 200
        history = await scene.close(worker, keys)
        assert {it.kind for it in history if hasattr(it, "kind")} == set(Kind)


async def test_killed_worker_is_gone_and_noted(tmp_path: Path) -> None:
    """Its last whole lines are there, with its death."""
    async with open_scene("memory://", tmp_path) as scene:
        worker = await scene.start()
        await worker.ask("own", key="a")
        await worker.expect("owns", key="a")
        worker.kill()
        assert await worker.wait_ended() == -9
        history = await scene.check()
        assert [it.process for it in history if isinstance(it, Died)] == ["p1"]
        assert any(isinstance(it, BeliefBegan) for it in history)


async def test_stopped_worker_is_ended_too(tmp_path: Path) -> None:
    """Nothing that the harness started outlives its block."""
    async with open_scene("memory://", tmp_path) as scene:
        worker = await scene.start()
        worker.stop()
        pid = worker.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_stopped_worker_keeps_no_lock(tmp_path: Path) -> None:
    """However often it is stopped while it writes to the storage, the others can write."""
    async with open_scene("memory://", tmp_path) as scene:
        worker = await scene.start()
        await worker.ask("claim", key="a")
        for _ in range(50):
            called = [await worker.begin("call", key="a") for _ in range(4)]
            with worker.stopped(), (scene.storage / "lock").open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for number in called:
                await worker.result(number)

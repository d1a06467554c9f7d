"""Several processes on one file: they see each other's changes, and the death of one neither loses anything nor stops the rest."""

from __future__ import annotations

from pathlib import Path

import trio
from aegis_sqlite import open_sqlite
from processes import PATIENCE, WORKER, Program, eventually, open_programs

from aegis_core import open_node
from aegis_core.config import parse_backend
from aegis_pytest.conformance.steps import open_mirror

DEATHS = 6
MORE = 20


async def wait_more(program: Program) -> None:
    """Wait until it has counted on."""
    wanted = len(program.saying("counted")) + MORE
    await eventually(lambda: len(program.saying("counted")) >= wanted)


async def test_killed_writers_lose_nothing_and_block_nobody(tmp_path: Path) -> None:
    """Counting by compare-and-set goes on, whoever dies, and each acknowledged number is in the file, by its own writer."""
    url = f"sqlite://{tmp_path / 'registry.db'}"
    acknowledged: dict[int, str] = {}
    async with open_programs() as start:
        programs = {name: start(*WORKER, "count", url, name) for name in ("a", "b")}
        for number in range(DEATHS):
            programs[str(number)] = doomed = start(*WORKER, "count", url, str(number))
            await wait_more(doomed)
            await doomed.kill()
        await wait_more(programs["a"])
        await wait_more(programs["b"])
    for name, program in programs.items():
        for text in program.saying("counted"):
            assert acknowledged.setdefault(int(text), name) == name, f"{text} was acknowledged twice"
    async with open_sqlite(parse_backend(url)) as backend:
        assert backend.store is not None
        async with open_mirror(backend.store) as mirror:
            values = dict(mirror.values)
    counter = int(values.pop("counter"))
    assert len(acknowledged) > DEATHS * MORE
    assert values == {f"log.{n}": values[f"log.{n}"] for n in range(1, counter + 1)}
    assert {n: values[f"log.{n}"].decode() for n in acknowledged} == acknowledged


async def test_standby_in_another_process_takes_over(tmp_path: Path) -> None:
    """The owner is killed; who waits in line owns with a higher epoch, and is called by a third process."""
    url = f"sqlite://{tmp_path / 'registry.db'}?ttl=2"
    async with open_programs() as start, open_node(url) as node:
        first = start(*WORKER, "own", url, "first")
        epoch = int(await first.said("owns"))
        assert await node.call("rooms", "who", resource_id="room:7", timeout=PATIENCE) == "first"
        second = start(*WORKER, "own", url, "second")
        await second.said("waiting")
        await first.kill()
        assert int(await second.said("owns")) > epoch
        assert await node.call("rooms", "who", resource_id="room:7", timeout=PATIENCE) == "second"


async def test_changes_of_another_process_are_told(tmp_path: Path) -> None:
    """Without anything being asked for: a watch hears of them by itself."""
    url = f"sqlite://{tmp_path / 'registry.db'}"
    async with open_sqlite(parse_backend(url)) as backend, open_programs() as start:
        assert backend.store is not None
        async with open_mirror(backend.store) as mirror:
            start(*WORKER, "count", url, "other")
            with trio.fail_after(PATIENCE):
                await mirror.wait_for(lambda m: int(m.values.get("counter", b"0")) >= MORE)
            assert mirror.values[f"log.{MORE}"] == b"other"

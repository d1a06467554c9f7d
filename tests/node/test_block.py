"""The library's ``async with`` blocks, used as they are not meant to be."""

from __future__ import annotations

import copy
import pickle
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import trio

from aegis_core.node.block import Block, block
from aegis_core.node.node import open_node
from aegis_core.node.service import Service


@block
@asynccontextmanager
async def room(name: str) -> AsyncIterator[str]:
    """A block for the tests."""
    await trio.lowlevel.checkpoint()
    yield name


async def test_block_gives_what_the_function_yields() -> None:
    """Entered as it should be, nothing is said."""
    opened = room("blue")
    assert repr(opened) == "<block of room(), not entered>"
    async with opened as name:
        assert name == "blue"
        assert repr(opened) == "<block of room(), entered>"


async def test_function_keeps_its_name_and_its_words() -> None:
    """So that the documentation of a block is that of its function."""
    assert (room.__name__, room.__doc__) == ("room", "A block for the tests.")
    async with room("green"):
        await trio.lowlevel.checkpoint()


async def await_it(opened: Block[str]) -> None:
    """Await in the place of ``async with``."""
    await opened  # type: ignore[misc]


async def enter_it_synchronously(opened: Block[str]) -> None:
    """Forget the ``async``."""
    with opened:  # type: ignore[attr-defined]
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("misuse", [await_it, enter_it_synchronously])
async def test_wrong_way_in_is_told_the_right_one(misuse: Callable[[Block[str]], object]) -> None:
    """Awaiting the block, or entering it by a plain ``with``, is a TypeError that says how to write it."""
    opened = room("red")
    with pytest.raises(TypeError, match=r"write 'async with room\(\.\.\.\)'"):
        await misuse(opened)  # type: ignore[misc]


async def test_attribute_of_what_the_block_would_give_is_explained() -> None:
    """Who took the block for its value learns what is missing."""
    opened = open_node("memory://")
    with pytest.raises(AttributeError, match=r"no attribute 'serve' before .*: write 'async with open_node\(\.\.\.\)'"):
        opened.serve  # type: ignore[attr-defined] # noqa: B018
    async with opened as node:
        served = node.serve(Service("a"))
        with pytest.raises(AttributeError, match=r"write 'async with serve\(\.\.\.\)'"):
            served.claim  # type: ignore[attr-defined] # noqa: B018
        async with served as instance:
            owned = instance.own("r")
            with pytest.raises(AttributeError, match=r"write 'async with own\(\.\.\.\)'"):
                owned.epoch  # type: ignore[attr-defined] # noqa: B018
            async with owned as claim:
                assert claim.held


async def test_block_that_is_never_entered_is_warned_of() -> None:
    """As Python does with a coroutine that is never awaited."""
    await trio.lowlevel.checkpoint()
    with pytest.warns(RuntimeWarning, match=r"never entered: write 'async with room\(\.\.\.\)'") as told:
        room("lost")
    assert [warning.filename for warning in told] == [__file__], "the line that forgot it is named"


async def test_block_is_entered_once() -> None:
    """Neither again afterwards nor while it runs; each call makes another one."""
    opened = room("white")
    async with opened:
        with pytest.raises(RuntimeError, match=r"entered once, .*: write 'async with room\(\.\.\.\)'"):
            async with opened:
                pytest.fail("entered twice at once")
    with pytest.raises(RuntimeError, match="entered once"):
        async with opened:
            pytest.fail("entered again")


async def test_copy_of_a_block_is_no_second_one() -> None:
    """It stands for the same, and has been entered with it; a deep copy there is none, as Python says of what it wraps."""
    opened = room("black")
    with pytest.raises(TypeError, match="generator"):
        copy.deepcopy(opened)
    with pytest.raises(TypeError, match="generator"):
        pickle.dumps(opened)
    with pytest.raises(AttributeError, match="no attribute '_name'"):
        Block.__new__(Block)._name  # noqa: B018
    async with opened as name:
        twin = copy.copy(opened)
        assert (name, repr(twin)) == ("black", repr(opened))
        with pytest.raises(RuntimeError, match="entered once"):
            async with twin:
                pytest.fail("entered by its copy")


async def test_block_can_be_kept_by_type() -> None:
    """It is a context manager like any other."""
    opened: AbstractAsyncContextManager[str] = room("grey")
    async with opened as name:
        assert name == "grey"


def test_program_without_trio_is_told_to_run_on_it() -> None:
    """So the first thing that goes wrong under another event loop says what is wrong."""
    with pytest.raises(RuntimeError, match=r"start the program with trio\.run\(main\)"):
        open_node("memory://").__aenter__().send(None)

"""``aegis demo``: finds the order book example and runs it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Annotated, Protocol, cast

from cyclopts import Parameter

__all__ = ["demo", "examples_folder"]


class _RunDemo(Protocol):
    """``run_demo`` of the example, which lies beside the packages and not in one of them."""

    async def __call__(
        self,
        *,
        orders: Path | None,
        seed: int,
        backend: str,
        journal: Path | None,
        plain: bool,
        save_svg: Path | None,
    ) -> int: ...


def examples_folder() -> Path:
    """Return the folder that holds ``order_book.py``: in the installed package, or in the checkout.

    Raises:
        FileNotFoundError: The installation is not whole.
    """
    here = Path(__file__).parent
    folders = (here / "_examples", here.parents[1] / "docs" / "examples")
    for folder in folders:
        if (folder / "order_book.py").is_file():
            return folder
    raise FileNotFoundError(f"order_book.py is in none of {', '.join(map(str, folders))}")


async def demo(
    *,
    orders: Path | None = None,
    seed: int = 1,
    backend: str = "memory",
    journal: Path | None = None,
    plain: Annotated[bool, Parameter(negative=())] = False,
    save_svg: Path | None = None,
) -> int:
    """Keep order books on several instances, break things, and prove that nothing was lost.

    24,000 orders for 12 symbols go each to the instance that owns its symbol. Meanwhile symbols are transferred, an
    instance is killed without warning, and another one starts. In the end every order is compared with a sequential
    run of the same file.

    Exit status 0: equal, order by order. 1: something differs, and it says what. 130: interrupted by Ctrl-C.

    Args:
        orders: A file of orders (CSV, may be compressed with gzip) instead of the one that comes along.
        seed: Decides which symbols move and when, and who dies.
        backend: Where the instances meet: memory, as tasks of this process; nats, a process each and a server that is
            started for them; or nats://host:port, a process each and a server that runs.
        journal: Keep the journals in this folder; without it they are removed in the end.
        plain: Print lines instead of a live table, as is done when the output is not a terminal.
        save_svg: Draw what the screen shows in the end to this file.
    """
    folder = str(examples_folder())
    if folder not in sys.path:  # As running the example by its path does.
        sys.path.insert(0, folder)
    run_demo = cast(_RunDemo, importlib.import_module("order_book").run_demo)
    return await run_demo(orders=orders, seed=seed, backend=backend, journal=journal, plain=plain, save_svg=save_svg)

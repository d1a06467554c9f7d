"""The chronicle: turns the registry's events into what people see of the run."""

from __future__ import annotations

import trio

from aegis_core import Node, Role
from aegis_core.events import (
    Event,
    InstanceDeregistered,
    InstanceLost,
    InstanceRegistered,
    ResourceRegistered,
    ResourceReleased,
    ResourceTransferred,
    RoleChanged,
)
from exchange.owner import SERVICE, symbol_of
from exchange.progress import Progress, Row


class Chronicle:
    """Keeps the rows of a `Progress` and writes its notes.

    Args:
        progress: Is kept up to date.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._known: set[str] = set()
        self._orphans: set[str] = set()
        self._heirs: dict[str, list[str]] = {}
        self._lost_at = 0.0

    async def follow(self, node: Node, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow the events that *node* sees, until cancelled."""
        async with node.events(service=SERVICE) as events:
            task_status.started()
            async for event in events:
                self.tell(event)

    def tell(self, event: Event) -> None:
        """Take one event."""
        progress, name = self._progress, event.instance_id
        symbol = symbol_of(event.resource_id)
        match event:
            case InstanceRegistered():
                progress.row(name).health = "ONLINE"
                progress.note(f"{name} registered")
            case InstanceDeregistered():
                progress.row(name).health = "LEFT"
            case InstanceLost():
                self._lose(progress.row(name), {*map(symbol_of, event.released)})
            case ResourceTransferred(reason="transferred"):
                self._move(symbol, name)
                progress.transfers += 1
            case ResourceRegistered() | ResourceTransferred():  # The latter: its release and this came in one look.
                self._move(symbol, name)
                if symbol in self._orphans:
                    self._take_over(symbol, name)
                elif symbol in self._known:
                    progress.hand_overs += 1
                self._known.add(symbol)
            case ResourceReleased():
                for row in progress.rows.values():
                    row.owned.discard(symbol)
            case RoleChanged() if event.resource_id:
                waiting = progress.row(name).waiting
                if event.new is Role.STANDBY:
                    waiting.add(symbol)
                else:
                    waiting.discard(symbol)
            case _:
                pass  # The rest is no news to people.

    def _lose(self, row: Row, released: set[str]) -> None:
        orphans = released | row.owned
        row.health = "LOST"
        row.owned.clear()
        row.waiting.clear()
        self._orphans |= orphans
        self._lost_at = self._progress.elapsed
        self._progress.note(
            f"{row.name} is lost: its lease ended, {', '.join(sorted(orphans)) or 'nothing'} became free"
        )

    def _take_over(self, symbol: str, name: str) -> None:
        progress = self._progress
        self._orphans.discard(symbol)
        self._heirs.setdefault(name, []).append(symbol)
        progress.fail_overs += 1
        progress.row(name).fail_overs += 1
        if not self._orphans:
            took = "; ".join(f"{heir} took {', '.join(sorted(self._heirs[heir]))}" for heir in sorted(self._heirs))
            progress.note(f"all have an owner again after {progress.elapsed - self._lost_at:.1f} s: {took}")
            self._heirs.clear()

    def _move(self, symbol: str, name: str) -> None:
        for row in self._progress.rows.values():
            row.owned.discard(symbol)
        self._progress.row(name).owned.add(symbol)
